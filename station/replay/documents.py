"""Refused requests and documents in files, through the same `accept` as the push."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import IO

from station import contract, log, store
from station.errors import DocumentError, ReceiptConflictError, StoreError, StoreRejectedError
from station.intake import Intake, Origin, Outcome, Result
from station.masking import Difference
from station.receipt import Flag, Identifiers, Source
from station.replay.conflict import differences_from_stored
from station.replay.sources import documents
from station.replay.unpack import UnpackLimits
from station.retry import read, retrying, write
from station.text import printable

_log = log.get(__name__)

_PAGE = 100
_SEEN_MAX = 32 * 1024 * 1024  # bytes of documents that a dry run remembers, compressed: of some 25,000 receipts


class Verdict(StrEnum):
    """The outcome for a document, or the expected one in a dry run."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"  # it conflicted, and the operator decided for it
    REFUSED = "refused"
    FAILED = "failed"  # it is no receipt request, or the station failed


@dataclass(frozen=True, slots=True)
class ReplayItem:
    """The outcome for one document. `name` is a refused request's id or the place in a file; `reason` is in words.

    `differences` says where a conflict differs from the stored receipt; `None` if it is no conflict, or if they cannot
    be compared.
    """

    name: str
    verdict: Verdict
    identifiers: Identifiers | None = None
    flags: frozenset[Flag] = frozenset()
    fault_code: str | None = None
    reason: str | None = None
    refused_id: str | None = None
    differences: list[Difference] | None = None


class _Seen:
    """The documents that a dry run would have stored by now; past a bound each is judged alone."""

    def __init__(self) -> None:
        self._compressed: dict[tuple[str, str], list[tuple[bytes, str | None]]] = {}
        self._size = 0

    def of(self, key: tuple[str, str]) -> list[tuple[bytes, str | None]]:
        """Return bytes and character set of the documents of a receipt."""
        return [(zlib.decompress(raw), charset) for raw, charset in self._compressed.get(key, ())]

    def add(self, key: tuple[str, str], document: contract.Document) -> None:
        """Remember a document, unless it is remembered or the bound is reached."""
        compressed = zlib.compress(document.raw), document.charset
        known = self._compressed.setdefault(key, [])
        if compressed not in known and self._size + len(compressed[0]) <= _SEEN_MAX:
            known.append(compressed)
            self._size += len(compressed[0])


@dataclass(frozen=True, slots=True)
class Replay:
    """Sends documents through `accept` in the name of `operator`; with `dry_run` only says what would happen.

    With `replace` a refused request that conflicts with the stored receipt takes its place.
    """

    intake: Intake
    operator: str
    dry_run: bool = False
    reveal: bool = False
    replace: bool = False
    _seen: _Seen = field(default_factory=_Seen, init=False)

    def refused(self, condition: store.RefusedFilter) -> Iterator[ReplayItem]:
        """Replay the refused requests that meet `condition`, the oldest first. Raise `StoreError`: run it again then.

        Requests that arrive meanwhile are left for the next time, or a replay might not end.
        """
        engine = self.intake.engine
        until = read(engine, store.bound, "refused", datetime.now(UTC))
        condition = replace(condition, received_to=min(condition.received_to or until, until))
        after: store.Cursor | None = None
        while True:
            page = read(engine, store.list_refused, condition, after=after, limit=_PAGE)
            for row in page:
                kept = read(engine, store.document_of, row.id_pa, row.raw_hash)
                if kept is not None:  # otherwise it was settled and purged meanwhile
                    yield self.document(row.refused_id, *kept)
            if len(page) < _PAGE:
                return
            after = store.Cursor.of("received_at", page[-1], "raw_hash")

    def files(self, paths: Iterable[str], limits: UnpackLimits, stdin: IO[bytes]) -> Iterator[ReplayItem]:
        """Replay the documents in `paths` (see `sources`). Raise `StoreError`: run it again then."""
        for document in documents(paths, limits, stdin):
            if document.error is not None:
                yield ReplayItem(document.name, Verdict.FAILED, reason=document.error)
            else:
                yield self.document(document.name, document.raw, None)

    def document(self, name: str, raw: bytes, charset: str | None) -> ReplayItem:
        """Replay one document: `name` is a refused request's id or the place in a file. Raise `StoreError`.

        If it is killed between the two transactions, the next replay settles the duplicate.
        """
        replaced = False
        differences = None
        try:
            outcome = retrying(partial(self._accept, raw, charset))
            if isinstance(outcome.refusal, ReceiptConflictError):
                differences = differences_from_stored(self.intake.engine, raw, charset, reveal=self.reveal)
                if self.replace and differences is not None:
                    replaced = self.dry_run or self._replace_stored(name, raw, charset)
            if outcome.result is not Result.REFUSED and not self.dry_run:
                write(self.intake.engine, self._settle, outcome.identifiers, raw, outcome.result)
        except DocumentError as error:
            return ReplayItem(name, Verdict.FAILED, reason=str(error))
        except StoreRejectedError as error:
            reason = f"the database rejected it ({error.reason}): please report this"
            return ReplayItem(name, Verdict.FAILED, reason=reason)
        except StoreError:
            raise
        except Exception as error:  # one bad document must not stop the rest
            _log.error("replay_failed", item=name, exc_info=error)
            reason = f"unexpected {type(error).__name__}: please report this with the log"
            return ReplayItem(name, Verdict.FAILED, reason=reason)
        refusal = None if replaced else outcome.refusal
        return ReplayItem(
            name,
            Verdict.REPLACED if replaced else Verdict(outcome.result),
            outcome.identifiers,
            flags=outcome.flags,
            fault_code=refusal.fault_code if refusal else None,
            reason=str(refusal) if refusal else None,
            refused_id=outcome.refused_id,
            differences=differences,
        )

    def _accept(self, raw: bytes, charset: str | None) -> Outcome:
        """Pass a document to the intake, or in a dry run foresee its outcome."""
        document = contract.parse(raw, charset)
        request = contract.request_element(document.root)
        operation = contract.identify(request).operation
        if request.tag not in contract.RECEIPT_OPERATIONS:
            raise DocumentError(f"not a receipt: the request is {printable(operation)}")
        if self.dry_run:
            return self._foresee(document, request)
        return self.intake.accept(document, request, Origin(Source.REPLAY, operator=self.operator))

    def _foresee(self, document: contract.Document, request: contract.Element) -> Outcome:
        """Return the outcome after the documents that this dry run saw before."""
        outcome = self.intake.preview(document, request)
        if outcome.receipt is None:
            return outcome
        key = (outcome.receipt.id_pa, outcome.receipt.receipt_id)
        if earlier := self._seen.of(key):
            outcome = self.intake.preview(document, request, earlier)
        if outcome.receipt is not None:
            self._seen.add(key, document)
        return outcome

    def _replace_stored(self, refused_id: str, raw: bytes, charset: str | None) -> bool:
        """Put a refused request in the place of the stored receipt; False if that is there no more."""
        request = contract.request_element(contract.parse(raw, charset).root)
        identifiers = contract.identify(request)
        receipt = contract.read(request)
        now = datetime.now(UTC)

        def replace(connection: store.Connection) -> bool:
            kept = store.replace_stored(
                connection, receipt, raw=raw, charset=charset, by=refused_id, operator=self.operator, at=now
            )
            if kept is not None:
                self._settle(connection, identifiers, raw, Verdict.REPLACED)
            return kept is not None

        return write(self.intake.engine, replace)

    def _settle(
        self, connection: store.Connection, identifiers: Identifiers, raw: bytes, result: Result | Verdict
    ) -> None:
        store.settle(
            connection,
            identifiers,
            raw,
            result=result,
            source=Source.REPLAY,
            operator=self.operator,
            at=datetime.now(UTC),
        )
