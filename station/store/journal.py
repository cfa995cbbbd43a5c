"""The event journal in the database: write a row, list them. What a row may hold is decided in `station.journal`.

Nothing here commits.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, literal, select, text, tuple_, union

from station.journal import Exchange
from station.store import tables
from station.store.whole import insert_whole


def write_exchange(connection: Connection, exchange: Exchange) -> None:
    """Writes one row. One that is there already, from a transaction that was tried again, stays as it is.

    The row of a receipt that is stored is written with the receipt (see `receipts`).
    """
    insert_whole(connection, tables.journal, exchange.columns(), {})


@dataclass(frozen=True, slots=True)
class ExchangeFilter:
    """Which exchanges: every condition that is given must hold. Times are aware, `at_to` is not included."""

    id_pa: str | None = None
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


@dataclass(frozen=True, slots=True)
class ExchangePosition:
    """Where a page ended: the next one starts behind it."""

    at: datetime
    id_pa: str
    event_id: int

    @classmethod
    def of(cls, row: Any) -> "ExchangePosition":
        """The place of one exchange."""
        return cls(row.at, row.id_pa, row.event_id)

    def encode(self) -> str:
        """As one word for a command line."""
        return f"{self.at.astimezone(UTC):%Y%m%dT%H%M%S%f}.{self.id_pa}.{self.event_id}"

    @classmethod
    def decode(cls, word: str) -> "ExchangePosition":
        """The place in a word that `encode` made. Raises `ValueError` on any other."""
        if not re.fullmatch(r"[0-9]{8}T[0-9]{12}\.(?:[0-9]{11})?\.[0-9]{1,19}", word, re.ASCII):
            raise ValueError("not a cursor from a list of exchanges")
        at, id_pa, event_id = word.split(".")
        if int(event_id) >= 2**63:
            raise ValueError("not a cursor from a list of exchanges")
        return cls(datetime.strptime(at, "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC), id_pa, int(event_id))


def list_exchanges(
    connection: Connection,
    wanted: ExchangeFilter,
    *,
    after: ExchangePosition | None = None,
    newest_first: bool = False,
    limit: int = 50,
) -> Sequence[Row[Any]]:
    """One page of exchanges in order of time, with all columns. Keyset paging: page 10,000 costs as page 1."""
    table = tables.journal
    conditions = list(_conditions(wanted))
    few = _few(wanted)
    if few:
        # A union is made before it is sorted: no planner walks all of the journal in order in the hope to meet these.
        found = union(*(select(table).where(one, *conditions) for one in few)).subquery("found")
        columns: Any = found.c
        query = select(found)
    else:
        columns = table.c
        query = select(table).where(*conditions)
        if index := _walked(wanted):
            query = query.with_hint(table, f"INDEXED BY {index}", "sqlite")
    order = (columns.at, columns.id_pa, columns.event_id)
    if after is not None:
        place = tuple_(literal(after.at, tables.UtcDateTime()), literal(after.id_pa), literal(after.event_id))
        query = query.where(tuple_(*order) < place if newest_first else tuple_(*order) > place)
        # Implied, but what an index of another order can start from.
        query = query.where(columns.at <= after.at if newest_first else columns.at >= after.at)
    query = query.order_by(*(column.desc() if newest_first else column for column in order)).limit(limit)
    return connection.execute(query).all()


def _conditions(wanted: ExchangeFilter) -> Iterable[ColumnElement[bool]]:
    table = tables.journal
    for name in ("id_pa", "iuv", "notice_number", "receipt_id", "outcome", "fault_code", "operation", "direction",
                 "source"):  # fmt: skip
        if (value := getattr(wanted, name)) is not None:
            yield table.c[name] == value
    if wanted.at_from is not None:
        yield table.c.at >= wanted.at_from
    if wanted.at_to is not None:
        yield table.c.at < wanted.at_to
    # Word by word as the partial indexes have them: a condition with parameters would not be known for the same.
    if wanted.fault_code is not None:
        yield text("fault_code IS NOT NULL")  # type: ignore[misc]
    if wanted.outcome not in (None, "stored"):
        yield text("outcome <> 'stored'")  # type: ignore[misc]
    if wanted.source not in (None, "push"):
        yield text("source <> 'push'")  # type: ignore[misc]


def _few(wanted: ExchangeFilter) -> list[ColumnElement[bool]]:
    """Conditions on an identifier, one of which must hold and that few exchanges fulfil; none where none is asked for.

    A push that was stored is found by its receipt and its time of arrival, everything else by indexes of its own.
    """
    journal, receipt = tables.journal.c, tables.receipt.c
    for name in ("receipt_id", "iuv", "notice_number"):
        if (value := getattr(wanted, name)) is None:
            continue
        theirs = receipt[name] == value
        pushed = tuple_(journal.id_pa, journal.at).in_(select(receipt.id_pa, receipt.received_at).where(theirs))
        others = text("(outcome <> 'stored' OR source <> 'push')")
        if name == "receipt_id":
            return [pushed, (journal.receipt_id == value) & others]
        again = journal.receipt_id.in_(select(receipt.receipt_id).where(theirs)) & others
        return [pushed, again, (journal[name] == value) & text("fault_code IS NOT NULL")]
    return []


def _walked(wanted: ExchangeFilter) -> str | None:
    """The index that SQLite walks in order: it keeps no statistics to choose by."""
    if wanted.fault_code is not None:
        return "ix_journal_fault_code"
    if wanted.outcome not in (None, "stored"):
        return "ix_journal_outcome"
    if wanted.source not in (None, "push"):
        return "ix_journal_source"
    return None if wanted.id_pa is not None else "ix_journal_at"
