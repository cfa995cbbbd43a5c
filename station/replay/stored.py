"""Stored receipts are read again from their documents, and columns that a better parser reads differently rebuilt."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from station import contract, log, store
from station.errors import DocumentError, RefusalError, StoreRejectedError
from station.masking import Difference, column
from station.receipt import Source
from station.retry import read, write

_log = log.get(__name__)

_PAGE = 50


class Reading(StrEnum):
    """The outcome for a stored receipt, or the expected one in a dry run."""

    UNCHANGED = "unchanged"
    REBUILT = "rebuilt"
    PURGED = "purged"  # the retention took its document
    FAILED = "failed"  # it stays as it was


@dataclass(frozen=True, slots=True)
class StoredItem:
    """The outcome for one stored receipt, and where its document reads differently from its columns."""

    id_pa: str
    receipt_id: str
    reading: Reading
    differences: tuple[Difference, ...] = ()
    reason: str | None = None


# A receipt as its documents read today, and its changes from the stored columns.
_Changed = tuple[contract.United, list[store.Change]]


@dataclass(frozen=True, slots=True)
class Reread:
    """Reads stored receipts again; with `dry_run` only says what would change."""

    engine: store.Engine
    dry_run: bool = False
    reveal: bool = False

    def run(
        self, *, id_pa: str | None = None, receipt_id: str | None = None, received_from: datetime | None = None
    ) -> Iterator[StoredItem]:
        """Read the receipts that meet all conditions, the oldest first. Raise `StoreError`: run it again then.

        Receipts that arrive meanwhile are left out: today's parser reads them anyway.
        """
        until = read(self.engine, store.bound, "receipt", datetime.now(UTC))
        after: store.Cursor | None = None
        while True:
            page = read(
                self.engine,
                store.stored_page,
                id_pa=id_pa,
                receipt_id=receipt_id,
                received_from=received_from,
                received_to=until,
                after=after,
                limit=_PAGE,
            )
            yield from self._rebuild(page)
            if len(page) < _PAGE:
                return
            last = page[-1]
            after = store.Cursor("received_at", last["received_at"], last["id_pa"], last["receipt_id"])

    def _rebuild(self, page: list[dict[str, Any]]) -> Iterator[StoredItem]:
        results = [self._read(stored) for stored in page]
        changed = [result for result in results if not isinstance(result, StoredItem) and result[1]]
        rejected: dict[tuple[str, str], str] = {}
        if changed and not self.dry_run:
            try:
                write(self.engine, _rebuild, changed)
            except StoreRejectedError:
                # One of them breaks a constraint, and the transaction of all was rolled back: each by itself.
                for united, changes in changed:
                    try:
                        write(self.engine, _rebuild, [(united, changes)])
                    except StoreRejectedError as error:
                        reason = f"the database rejected it ({error.reason}): please report this"
                        rejected[united.receipt.id_pa, united.receipt.receipt_id] = reason
        for result in results:
            if isinstance(result, StoredItem):
                yield result
                continue
            united, changes = result
            key = (united.receipt.id_pa, united.receipt.receipt_id)
            differences = tuple(self._difference(change) for change in changes)
            reading = Reading.FAILED if key in rejected else Reading.REBUILT if changes else Reading.UNCHANGED
            yield StoredItem(*key, reading, differences, rejected.get(key))

    def _read(self, stored: dict[str, Any]) -> _Changed | StoredItem:
        key = (stored["id_pa"], stored["receipt_id"])
        if not stored["raw"]:
            return StoredItem(*key, Reading.PURGED)
        try:
            if stored["source"] == Source.BIZEVENTS:
                receipt = contract.read_provisional(stored["raw"], stored["id_pa"])
                united: contract.United | None = contract.United(receipt, (receipt.content_hash,), 0)
            else:
                united = contract.unite([contract.read_copy(*document) for document in stored["documents"]])
        except (DocumentError, RefusalError) as error:
            return StoredItem(*key, Reading.FAILED, reason=f"no longer readable: {error}")
        except Exception as error:  # one bad document must not stop the rest
            _log.error("reread_failed", id_pa=key[0], receipt_id=key[1], exc_info=error)
            return StoredItem(*key, Reading.FAILED, reason=f"unexpected {type(error).__name__}: please report this")
        if united is None:
            return StoredItem(*key, Reading.FAILED, reason="its documents contradict each other: please report this")
        if (united.receipt.id_pa, united.receipt.receipt_id) != key:
            return StoredItem(*key, Reading.FAILED, reason="its document now yields another key: please report this")
        return united, store.changes(stored, united.receipt)

    def _difference(self, change: store.Change) -> Difference:
        if change.table == "flag":
            return Difference("flag", change.old, change.new)
        name = f"transfer {change.position} {change.name}" if change.position else change.name
        old, new = (column(change.name, value, reveal=self.reveal) for value in (change.old, change.new))
        return Difference(name, old, new)


def _rebuild(connection: store.Connection, changed: list[_Changed]) -> None:
    for united, _ in changed:
        store.rebuild(connection, united)
