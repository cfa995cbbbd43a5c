"""The event journal in the database: write a row, list them. What a row may hold is decided in `station.journal`.

Nothing here commits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, select, text, tuple_, union

from station.journal import Exchange
from station.store import tables
from station.store.limits import among
from station.store.paging import Cursor, in_order
from station.store.rows import insert_rows


def write_exchange(connection: Connection, exchange: Exchange) -> None:
    """Write one row. A row that is there already, from a transaction that was retried, stays as it is.

    The row of a receipt that is stored is written with the receipt (see `receipts`).
    """
    insert_rows(connection, tables.journal, [exchange._asdict()], if_new=True)


@dataclass(frozen=True, slots=True)
class ExchangeFilter:
    """Which exchanges: every condition that is given must hold. Times are aware, `at_to` is not included.

    `id_pas`: the ECs whose exchanges the reader may see, `None` all, also those without an EC.
    """

    id_pa: str | None = None
    id_pas: tuple[str, ...] | None = None
    iuv: str | None = None
    notice_number: str | None = None
    receipt_id: str | None = None
    outcome: str | None = None
    fault_code: str | None = None
    operation: str | None = None
    direction: str | None = None
    source: str | None = None
    at_from: datetime | None = None
    at_to: datetime | None = None


def list_exchanges(
    connection: Connection,
    filter_: ExchangeFilter,
    *,
    after: Cursor | None = None,
    newest_first: bool = False,
    limit: int = 50,
) -> Sequence[Row[Any]]:
    """Return a page of exchanges in order of time, with all columns."""
    table = tables.journal
    conditions = list(_conditions(filter_))
    if alternatives := _alternatives(filter_):
        # A union is made before it is sorted: no planner walks all of the journal in order in the hope to meet these.
        found = union(*(select(table).where(condition, *conditions) for condition in alternatives)).subquery("found")
        columns: Any = found.c
        query = select(found)
    else:
        columns = table.c
        query = select(table).where(*conditions)
        if index := _walked(filter_):
            query = query.with_hint(table, f"INDEXED BY {index}", "sqlite")
    order = (columns.at, columns.id_pa, columns.event_id)
    if after is not None:
        query = query.where(
            after.behind(order, newest_first=newest_first),
            # Implied, but what an index of another order can start from.
            columns.at <= after.at if newest_first else columns.at >= after.at,
        )
    query = query.order_by(*in_order(order, newest_first=newest_first)).limit(limit)
    return connection.execute(query).all()


def _conditions(filter_: ExchangeFilter) -> Iterable[ColumnElement[bool]]:
    table = tables.journal
    yield from among(table.c.id_pa, filter_.id_pas)
    for name in ("id_pa", "iuv", "notice_number", "receipt_id", "outcome", "fault_code", "operation", "direction",
                 "source"):  # fmt: skip
        if (value := getattr(filter_, name)) is not None:
            yield table.c[name] == value
    if filter_.at_from is not None:
        yield table.c.at >= filter_.at_from
    if filter_.at_to is not None:
        yield table.c.at < filter_.at_to
    # Word by word as the partial indexes have them: a condition with parameters would not be known for the same.
    if filter_.fault_code is not None:
        yield text("fault_code IS NOT NULL")  # type: ignore[misc]
    if filter_.outcome not in (None, "stored"):
        yield text("outcome <> 'stored'")  # type: ignore[misc]
    if filter_.source not in (None, "push"):
        yield text("source <> 'push'")  # type: ignore[misc]


def _alternatives(filter_: ExchangeFilter) -> list[ColumnElement[bool]]:
    """Return conditions on the identifier asked for, one of which must hold and which few exchanges fulfil.

    A push that was stored is found by its receipt and its time of arrival, everything else by indexes of its own.
    Empty where the filter has no identifier.
    """
    journal, receipt = tables.journal.c, tables.receipt.c
    for name in ("receipt_id", "iuv", "notice_number"):
        if (value := getattr(filter_, name)) is None:
            continue
        theirs = receipt[name] == value
        pushed = tuple_(journal.id_pa, journal.at).in_(select(receipt.id_pa, receipt.received_at).where(theirs))
        others = text("(outcome <> 'stored' OR source <> 'push')")
        if name == "receipt_id":
            return [pushed, (journal.receipt_id == value) & others]
        again = journal.receipt_id.in_(select(receipt.receipt_id).where(theirs)) & others
        return [pushed, again, (journal[name] == value) & text("fault_code IS NOT NULL")]
    return []


def _walked(filter_: ExchangeFilter) -> str | None:
    """Return the index that SQLite walks in order: it keeps no statistics to choose by."""
    if filter_.fault_code is not None:
        return "ix_journal_fault_code"
    if filter_.outcome not in (None, "stored"):
        return "ix_journal_outcome"
    if filter_.source not in (None, "push"):
        return "ix_journal_source"
    one_ec = filter_.id_pa is not None or (filter_.id_pas is not None and len(filter_.id_pas) == 1)
    return None if one_ec else "ix_journal_at"
