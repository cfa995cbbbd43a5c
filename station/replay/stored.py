"""Receipts that are stored already are read again from their documents: what a better parser understands is rebuilt."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

from station import contract, log, store
from station.errors import DocumentError, RefusalError, StoreRejectedError
from station.masking import Difference, column
from station.receipt import Receipt
from station.retry import retrying

_log = log.get(__name__)

_PAGE = 50


@dataclass(frozen=True, slots=True)
class Selection:
    """Which receipts: every condition that is given must hold."""

    id_pa: str | None = None
    receipt_id: str | None = None
    received_from: datetime | None = None


class Reading(StrEnum):
    """What became of a stored receipt, or would become of it."""

    UNCHANGED = "unchanged"
    REBUILT = "rebuilt"
    PURGED = "purged"  # the retention took its document
    FAILED = "failed"  # it stays as it was


@dataclass(frozen=True, slots=True)
class StoredItem:
    """What became of one stored receipt, and where its document now says something else than its columns."""

    id_pa: str
    receipt_id: str
    reading: Reading
    differences: tuple[Difference, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    """A stored receipt beside its document as it is read today."""

    stored: dict[str, Any]
    receipt: Receipt
    changes: list[store.Change]


@dataclass(frozen=True, slots=True)
class Reread:
    """Reads stored receipts again; with `dry_run` only tells what would change."""

    engine: store.Engine
    dry_run: bool = False
    reveal: bool = False

    def run(self, wanted: Selection) -> Iterator[StoredItem]:
        """The receipts that `wanted` selects, the oldest first. Raises `StoreError`: run it again then."""
        until = retrying(self._until)  # those that come meanwhile are read by the parser of today
        after: store.Position | None = None
        while True:
            page = retrying(partial(self._page, wanted, until, after))
            yield from self._rebuild(page)
            if len(page) < _PAGE:
                return
            last = page[-1]
            after = store.Position(last["received_at"], last["id_pa"], last["receipt_id"])

    def _until(self) -> datetime:
        with store.transaction(self.engine, readonly=True) as connection:
            return store.bound(connection, "receipt", datetime.now(UTC))

    def _page(self, wanted: Selection, until: datetime, after: store.Position | None) -> list[dict[str, Any]]:
        with store.transaction(self.engine, readonly=True) as connection:
            return store.stored_page(
                connection,
                id_pa=wanted.id_pa,
                receipt_id=wanted.receipt_id,
                received_from=wanted.received_from,
                received_to=until,
                after=after,
                limit=_PAGE,
            )

    def _rebuild(self, page: list[dict[str, Any]]) -> Iterator[StoredItem]:
        read = [self._read(stored) for stored in page]
        changed = [one for one in read if isinstance(one, _Read) and one.changes]
        rejected: dict[int, str] = {}
        if not self.dry_run and changed:
            try:
                retrying(partial(self._write, changed))
            except StoreRejectedError:
                # One of them breaks a constraint and took the others along: each by itself.
                for alone in changed:
                    try:
                        retrying(partial(self._write, [alone]))
                    except StoreRejectedError as error:
                        rejected[id(alone)] = f"the database rejected it ({error.reason}): please report this"
        for one in read:
            if isinstance(one, StoredItem):
                yield one
            else:
                yield self._item(one, rejected.get(id(one)))

    def _read(self, stored: dict[str, Any]) -> _Read | StoredItem:
        key = (stored["id_pa"], stored["receipt_id"])
        if not stored["raw"]:
            return StoredItem(*key, Reading.PURGED)
        try:
            document = contract.parse(stored["raw"], stored["charset"])
            receipt = contract.read(contract.request_element(document.root))
        except (DocumentError, RefusalError) as error:
            return StoredItem(*key, Reading.FAILED, reason=f"no longer readable: {error}")
        except Exception as error:  # one bad document must not stop the rest
            _log.error("reread_failed", id_pa=key[0], receipt_id=key[1], exc_info=error)
            return StoredItem(*key, Reading.FAILED, reason=f"unexpected {type(error).__name__}: please report this")
        if (receipt.id_pa, receipt.receipt_id) != key:
            return StoredItem(*key, Reading.FAILED, reason="its document now yields another key: please report this")
        return _Read(stored, receipt, store.changes(stored, receipt))

    def _write(self, changed: list[_Read]) -> None:
        with store.transaction(self.engine) as connection:
            for one in changed:
                store.rebuild(connection, one.receipt, one.changes)

    def _item(self, read: _Read, rejected: str | None) -> StoredItem:
        key = (read.receipt.id_pa, read.receipt.receipt_id)
        found = tuple(self._difference(change) for change in read.changes)
        if rejected is not None:
            return StoredItem(*key, Reading.FAILED, found, rejected)
        return StoredItem(*key, Reading.REBUILT if found else Reading.UNCHANGED, found)

    def _difference(self, change: store.Change) -> Difference:
        if change.table == "flag":
            return Difference("flag", change.old, change.new)
        name = f"transfer {change.position} {change.name}" if change.position else change.name
        return Difference(
            name,
            column(change.name, change.old, reveal=self.reveal),
            column(change.name, change.new, reveal=self.reveal),
        )
