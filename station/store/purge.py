"""The retention's half of the database: remove old data, batch by batch. Nothing here commits.

A receipt is never deleted. Its document becomes empty, or its personal columns do; key, hash (a receipt that comes
again is still told from a new one), amounts and dates stay. Both walk the receipts by arrival from where the last batch
ended, so that a run costs as much as there is to purge, however much was purged before.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, literal, select, tuple_, update

from station.store import tables
from station.store.paging import Cursor
from station.store.refused import RefusedState
from station.store.rows import insert

REMOVED = "***"  # where a column must hold something


class Part(StrEnum):
    """What can be purged, each by its own age."""

    RAW = "raw"
    PERSONAL = "personal"
    REFUSED = "refused"
    JOURNAL = "journal"
    DELIVERY = "delivery"
    FLOWS = "flows"
    ACCESS = "access"


_RECEIPT = tables.receipt
_PLACE = (_RECEIPT.c.received_at, _RECEIPT.c.id_pa, _RECEIPT.c.receipt_id)


def purge_batch(connection: Connection, part: Part, *, before: datetime, at: datetime, limit: int) -> tuple[int, bool]:
    """Purge at most `limit` rows that are older than `before`. Return how many, and whether there may be more."""
    if connection.dialect.name == "sqlite":
        # Otherwise deleted data could be read in the file's free pages.
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    if part in (Part.RAW, Part.PERSONAL):
        return _purge_receipts(connection, part, before, at, limit)
    table, old = _older(part, before)
    key = list(table.primary_key.columns)
    # The condition twice: a row that is changed while this transaction waits for it is looked at again.
    some = select(*key).where(old).limit(limit)
    count = connection.execute(delete(table).where(tuple_(*key).in_(some), old)).rowcount
    return count, count == limit


def count_older(connection: Connection, part: Part, *, before: datetime) -> int:
    """Count the rows that `purge_batch` would purge until there are no more."""
    if part in (Part.RAW, Part.PERSONAL):
        conditions = [_not_yet(part), *_behind(connection, part, before, lock=False)]
        return _count(connection, _RECEIPT, *conditions)
    return _count(connection, *_older(part, before))


def open_refused(connection: Connection, *, before: datetime) -> int:
    """Count the refused requests that came before then and are still open: they are not purged."""
    refused = tables.refused
    return _count(connection, refused, refused.c.state == RefusedState.OPEN, refused.c.received_at < before)


def _count(connection: Connection, table: Table, *conditions: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(*conditions)).scalar_one())


def _older(part: Part, before: datetime) -> tuple[Table, ColumnElement[bool]]:
    """Return the table whose rows are deleted, and the condition that they are old."""
    if part is Part.REFUSED:
        table = tables.refused
        return table, (table.c.state != RefusedState.OPEN) & (table.c.settled_at < before)
    if part is Part.DELIVERY:
        return tables.delivery, tables.delivery.c.settled_at < before
    if part is Part.FLOWS:
        return tables.fdr_flow, tables.fdr_flow.c.published < before  # their payments go with them
    if part is Part.ACCESS:
        return tables.console_access, tables.console_access.c.at < before
    return tables.journal, tables.journal.c.at < before


def _purge_receipts(connection: Connection, part: Part, before: datetime, at: datetime, limit: int) -> tuple[int, bool]:
    query = select(*_PLACE).where(*_behind(connection, part, before, lock=True)).order_by(*_PLACE).limit(limit)
    page = connection.execute(query).all()
    if not page:
        return 0, False
    keys = [(row.id_pa, row.receipt_id) for row in page]
    in_page = tuple_(_RECEIPT.c.id_pa, _RECEIPT.c.receipt_id).in_(keys)
    # The receipt before its transfers: a rebuild beside this one locks in the same order.
    count = connection.execute(update(_RECEIPT).where(in_page, _not_yet(part)).values(_emptied(part, at))).rowcount
    document = tables.receipt_document
    in_page = tuple_(document.c.id_pa, document.c.receipt_id).in_(keys)
    connection.execute(update(document).where(in_page).values(raw=b""))
    if part is Part.PERSONAL:
        transfer = tables.transfer
        connection.execute(
            update(transfer)
            .where(tuple_(transfer.c.id_pa, transfer.c.receipt_id).in_(keys))
            .values({"iban": None, "remittance_information": REMOVED, "metadata": None})
        )
    progress = insert(connection, tables.purge_progress).values(part=part, **page[-1]._mapping)
    connection.execute(
        progress.on_conflict_do_update(
            index_elements=["part"], set_={column.name: progress.excluded[column.name] for column in _PLACE}
        )
    )
    return count, len(page) == limit


def _emptied(part: Part, at: datetime) -> dict[str, Any]:
    raw = {"raw": b"", "raw_purged_at": func.coalesce(_RECEIPT.c.raw_purged_at, literal(at, tables.UtcDateTime()))}
    if part is Part.RAW:
        return raw
    return raw | {
        "anonymised_at": at,
        "description": REMOVED,
        "debtor_id": REMOVED,
        "debtor_name": REMOVED,
        "payer_id": None,
        "payer_name": None,
        "payment_note": None,
        "metadata": None,
    }


def _not_yet(part: Part) -> ColumnElement[bool]:
    return (_RECEIPT.c.raw_purged_at if part is Part.RAW else _RECEIPT.c.anonymised_at).is_(None)


def _behind(connection: Connection, part: Part, before: datetime, *, lock: bool) -> list[ColumnElement[bool]]:
    """Return the condition for old receipts behind where the last batch ended; with `lock` two purges take turns."""
    conditions: list[ColumnElement[bool]] = [_RECEIPT.c.received_at < before]
    query = select(tables.purge_progress).where(tables.purge_progress.c.part == part)
    place = connection.execute(query.with_for_update() if lock else query).one_or_none()
    # A place behind `before` comes from a purge by a clock that was ahead: receipts before it are looked at again.
    if place is not None and place.received_at < before:
        conditions.append(Cursor.of("received_at", place).behind(_PLACE))
    return conditions
