"""Refused requests and documents in files, through the same `accept` as the push."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import IO, Any

from station import contract, log, store
from station.errors import DocumentError, ReceiptConflictError, StoreError, StoreRejectedError
from station.intake import Intake, Origin, Outcome, Result
from station.masking import Difference
from station.receipt import Flag, Identifiers, Source
from station.replay.conflict import differences_from_stored
from station.replay.sources import Limits, documents
from station.retry import retrying
from station.text import printable

_log = log.get(__name__)

_PAGE = 100
_SEEN = 100_000  # receipts that a dry run remembers: some 30 MB


class Verdict(StrEnum):
    """What became of a document, or would become of it."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REPLACED = "replaced"  # it conflicted, and the operator decided for it
    REFUSED = "refused"
    FAILED = "failed"  # nothing could be judged, or the station failed


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one document. `name` is a refused request's id or the place in a file; `reason` is in words.

    `differences` tells where a conflict differs from what is stored; `None` where there is no conflict or that
    cannot be told.
    """

    name: str
    verdict: Verdict
    identifiers: Identifiers | None = None
    flags: frozenset[Flag] = frozenset()
    fault_code: str | None = None
    reason: str | None = None
    refused_id: str | None = None
    differences: list[Difference] | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """Sends documents through `accept` in the name of `operator`; with `dry_run` only tells what would happen.

    With `replace` a refused one that conflicts with the stored one takes its place.
    """

    intake: Intake
    operator: str
    dry_run: bool = False
    reveal: bool = False
    replace: bool = False
    # What a dry run would have stored by now: one that comes twice is stored once.
    _seen: dict[tuple[str, str], bytes] = field(default_factory=dict, init=False)

    def refused(self, wanted: store.RefusedFilter) -> Iterator[Item]:
        """The refused requests that `wanted` selects, the oldest first. Raises `StoreError`: run it again then."""
        # What comes in meanwhile is for the next time: a replay ends.
        until = retrying(self._until)
        wanted = replace(wanted, received_to=min(wanted.received_to or until, until))
        after: store.RefusedPosition | None = None
        while True:
            page = retrying(partial(self._page, wanted, after))
            for row in page:
                kept = retrying(partial(self._kept, row.id_pa, row.raw_hash))
                if kept is not None:  # settled and purged meanwhile
                    yield self._one(row.refused_id, *kept)
            if len(page) < _PAGE:
                return
            after = store.RefusedPosition(page[-1].received_at, page[-1].id_pa, page[-1].raw_hash)

    def files(self, paths: Iterable[str], limits: Limits, stdin: IO[bytes]) -> Iterator[Item]:
        """The documents in `paths` (see `sources`). Raises `StoreError`: run it again then."""
        for found in documents(paths, limits, stdin):
            if found.error is not None:
                yield Item(found.name, Verdict.FAILED, reason=found.error)
            else:
                yield self._one(found.name, found.raw, None)

    def _until(self) -> datetime:
        with store.transaction(self.intake.engine, readonly=True) as connection:
            return store.bound(connection, "refused", datetime.now(UTC))

    def _page(self, wanted: store.RefusedFilter, after: store.RefusedPosition | None) -> Sequence[Any]:
        with store.transaction(self.intake.engine, readonly=True) as connection:
            return store.list_refused(connection, wanted, after=after, limit=_PAGE)

    def _kept(self, id_pa: str, raw_hash: bytes) -> tuple[bytes, str | None] | None:
        with store.transaction(self.intake.engine, readonly=True) as connection:
            return store.document_of(connection, id_pa, raw_hash)

    def _one(self, name: str, raw: bytes, charset: str | None) -> Item:
        """One document. Killed between the two transactions, the next replay finds a duplicate and settles it."""
        replaced = False
        differences = None
        try:
            outcome = retrying(partial(self._take, raw, charset))
            if isinstance(outcome.refusal, ReceiptConflictError):
                differences = differences_from_stored(self.intake.engine, raw, charset, reveal=self.reveal)
                if self.replace and differences is not None:
                    replaced = self.dry_run or retrying(partial(self._replace, name, raw, charset))
            if outcome.result is not Result.REFUSED and not self.dry_run:
                retrying(partial(self._settle, raw, outcome))
        except DocumentError as error:
            return Item(name, Verdict.FAILED, reason=str(error))
        except StoreError as error:
            if not isinstance(error, StoreRejectedError):
                raise
            return Item(name, Verdict.FAILED, reason=f"the database rejected it ({error.reason}): please report this")
        except Exception as error:  # one bad document must not stop the rest
            _log.error("replay_failed", item=name, exc_info=error)
            return Item(
                name, Verdict.FAILED, reason=f"unexpected {type(error).__name__}: please report this with the log"
            )
        refusal = None if replaced else outcome.refusal
        return Item(
            name,
            Verdict.REPLACED if replaced else Verdict(outcome.result),
            outcome.identifiers,
            flags=outcome.flags,
            fault_code=refusal.fault_code if refusal else None,
            reason=str(refusal) if refusal else None,
            refused_id=outcome.refused_id,
            differences=differences,
        )

    def _take(self, raw: bytes, charset: str | None) -> Outcome:
        """Parses anew at each try: reading takes elements out of the tree that the schema does not know."""
        document = contract.parse(raw, charset)
        request = contract.request_element(document.root)
        operation = contract.identify(request).operation
        if request.tag not in contract.RECEIPT_OPERATIONS:
            raise DocumentError(f"not a receipt: the request is {printable(operation)}")
        if self.dry_run:
            return self._foresee(self.intake.preview(request))
        return self.intake.accept(document, request, Origin(Source.REPLAY, operator=self.operator))

    def _replace(self, refused_id: str, raw: bytes, charset: str | None) -> bool:
        request = contract.request_element(contract.parse(raw, charset).root)
        identifiers = contract.identify(request)
        receipt = contract.read(request)
        now = datetime.now(UTC)
        with store.transaction(self.intake.engine) as connection:
            kept = store.replace_stored(
                connection, receipt, raw=raw, charset=charset, by=refused_id, operator=self.operator, at=now
            )
            if kept is not None:
                store.settle(
                    connection,
                    identifiers,
                    raw,
                    result=Verdict.REPLACED,
                    source=Source.REPLAY,
                    operator=self.operator,
                    at=now,
                )
        return kept is not None

    def _foresee(self, outcome: Outcome) -> Outcome:
        """What becomes of it after those that the dry run saw before it; beyond a bound each is judged by itself."""
        receipt = outcome.receipt
        if outcome.result is not Result.STORED or receipt is None:
            return outcome
        key = (receipt.id_pa, receipt.receipt_id)
        seen = self._seen.get(key)
        if seen is None:
            if len(self._seen) < _SEEN:
                self._seen[key] = receipt.content_hash
            return outcome
        if seen == receipt.content_hash:
            return Outcome(Result.DUPLICATE, outcome.identifiers, receipt=receipt)
        return Outcome(Result.REFUSED, outcome.identifiers, refusal=ReceiptConflictError())

    def _settle(self, raw: bytes, outcome: Outcome) -> None:
        with store.transaction(self.intake.engine) as connection:
            store.settle(
                connection,
                outcome.identifiers,
                raw,
                result=outcome.result,
                source=Source.REPLAY,
                operator=self.operator,
                at=datetime.now(UTC),
            )
