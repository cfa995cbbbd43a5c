"""What the retention takes out of the database, batch by batch. Nothing here commits.

A receipt is never deleted. Its document becomes empty, or its personal columns do; key, hash (a receipt that comes
again is still told from a new one), amounts and dates stay. Both walk the receipts by arrival from where the last batch
ended, so that a run costs what there is to purge and not what was purged already.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, delete, func, literal, select, tuple_, update

from station.store import tables
from station.store.engine import allow_long
from station.store.refused import RefusedState
from station.store.whole import insert

REMOVED = "***"  # where a column must hold something


class Part(StrEnum):
    """What can be purged, each by its own age."""

    RAW = "raw"
    PERSONAL = "personal"
    REFUSED = "refused"
    JOURNAL = "journal"


def purge_batch(connection: Connection, part: Part, *, before: datetime, at: datetime, limit: int) -> tuple[int, bool]:
    """Purges at most `limit` rows that are older than `before`. Returns how many, and whether there may be more."""
    if connection.dialect.name == "sqlite":
        # Otherwise what was deleted could be read in the file's free pages.
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
    if part in (Part.RAW, Part.PERSONAL):
        return _purge_receipts(connection, part, before, at, limit)
    table, old = _older(part, before)
    key = list(table.primary_key.columns)
    # The condition twice: what is changed by someone else while the row is waited for is looked at again.
    some = select(*key).where(old).limit(limit)
    count = connection.execute(delete(table).where(tuple_(*key).in_(some), old)).rowcount
    return count, count == limit


def count_older(connection: Connection, part: Part, *, before: datetime) -> int:
    """How many rows `purge_batch` would purge until there are no more."""
    allow_long(connection)  # counting may take longer than a push may
    if part in (Part.RAW, Part.PERSONAL):
        table = tables.receipt
        query = (
            select(func.count())
            .select_from(table)
            .where(_not_yet(part), *_behind(connection, part, before, lock=False))
        )
        return int(connection.execute(query).scalar_one())
    table, old = _older(part, before)
    return int(connection.execute(select(func.count()).select_from(table).where(old)).scalar_one())


def open_refused(connection: Connection, *, before: datetime) -> int:
    """How many refused requests that came before then nobody decided about: they are not purged."""
    table = tables.refused
    query = select(func.count()).select_from(table)
    query = query.where(table.c.state == RefusedState.OPEN, table.c.received_at < before)
    return int(connection.execute(query).scalar_one())


def _older(part: Part, before: datetime) -> tuple[Table, ColumnElement[bool]]:
    """The table whose rows are deleted, and the condition that they are old."""
    if part is Part.REFUSED:
        table = tables.refused
        return table, (table.c.state != RefusedState.OPEN) & (table.c.settled_at < before)
    return tables.journal, tables.journal.c.at < before


def _purge_receipts(connection: Connection, part: Part, before: datetime, at: datetime, limit: int) -> tuple[int, bool]:
    table = tables.receipt
    order = (table.c.received_at, table.c.id_pa, table.c.receipt_id)
    query = select(*order).where(*_behind(connection, part, before, lock=True)).order_by(*order).limit(limit)
    page = connection.execute(query).all()
    if not page:
        return 0, False
    keys = [(row.id_pa, row.receipt_id) for row in page]
    theirs = tuple_(table.c.id_pa, table.c.receipt_id).in_(keys)
    # The receipt before its transfers: a rebuild beside this one locks in the same order.
    count = connection.execute(update(table).where(theirs, _not_yet(part)).values(_emptied(part, at))).rowcount
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
            index_elements=["part"],
            set_={name: progress.excluded[name] for name in ("received_at", "id_pa", "receipt_id")},
        )
    )
    return count, len(page) == limit


def _emptied(part: Part, at: datetime) -> dict[str, Any]:
    table = tables.receipt
    raw = {"raw": b"", "raw_purged_at": func.coalesce(table.c.raw_purged_at, literal(at, tables.UtcDateTime()))}
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
    table = tables.receipt
    return (table.c.raw_purged_at if part is Part.RAW else table.c.anonymised_at).is_(None)


def _behind(connection: Connection, part: Part, before: datetime, *, lock: bool) -> list[ColumnElement[bool]]:
    """The old receipts behind the place where the last batch ended; with `lock` two purges take turns."""
    table, progress = tables.receipt, tables.purge_progress
    conditions: list[ColumnElement[bool]] = [table.c.received_at < before]
    query = select(progress).where(progress.c.part == part)
    place = connection.execute(query.with_for_update() if lock else query).one_or_none()
    # A place behind what is old comes from a purge by a clock that was ahead: what came before it is looked at again.
    if place is not None and place.received_at < before:
        conditions.append(
            tuple_(table.c.received_at, table.c.id_pa, table.c.receipt_id)
            > tuple_(literal(place.received_at, tables.UtcDateTime()), literal(place.id_pa), literal(place.receipt_id))
        )
    return conditions
