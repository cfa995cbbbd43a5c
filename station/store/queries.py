"""Receipts in the database: find and list them. What is written lives in `receipts`. Nothing here commits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, literal, select, tuple_

from station.store import tables


@dataclass(frozen=True, slots=True)
class Filter:
    """Which receipts: every condition that is given must hold. Times are aware; `flag` must be one of the receipt's."""

    id_pa: str | None = None
    receipt_id: str | None = None
    notice_number: str | None = None
    iuv: str | None = None
    id_station: str | None = None
    flag: str | None = None
    source: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: the next one starts behind it."""

    received_at: datetime
    id_pa: str
    receipt_id: str


LISTED = (
    "received_at", "id_pa", "receipt_id", "id_broker_pa", "id_station", "notice_number", "fiscal_code", "iuv",
    "outcome", "amount", "payment_date_time", "id_psp", "source", "version", "resends",
)  # fmt: skip


def list_receipts(
    connection: Connection, wanted: Filter, *, after: Position | None = None, limit: int = 50
) -> Sequence[Row[Any]]:
    """One page of receipts, newest first, with the columns `LISTED`. Keyset paging: page 1,000 costs as page 1."""
    table = tables.receipt
    query = select(*(table.c[name] for name in LISTED)).where(*_conditions(wanted))
    if after is not None:
        query = query.where(
            tuple_(table.c.received_at, table.c.id_pa, table.c.receipt_id)
            < tuple_(literal(after.received_at, tables.UtcDateTime()), literal(after.id_pa), literal(after.receipt_id))
        )
    query = query.order_by(table.c.received_at.desc(), table.c.id_pa.desc(), table.c.receipt_id.desc()).limit(limit)
    return connection.execute(query).all()


def _conditions(wanted: Filter) -> Iterable[Any]:
    table, flags, routes = tables.receipt, tables.receipt_flag, tables.receipt_route
    for name in ("id_pa", "receipt_id", "notice_number", "iuv", "source"):
        if (value := getattr(wanted, name)) is not None:
            yield table.c[name] == value
    if wanted.id_station is not None:
        came_again_by = select(routes.c.id_pa).where(
            routes.c.id_pa == table.c.id_pa,
            routes.c.receipt_id == table.c.receipt_id,
            routes.c.id_station == wanted.id_station,
        )
        yield (table.c.id_station == wanted.id_station) | came_again_by.exists()
    if wanted.flag is not None:
        yield (
            select(flags.c.id_pa)
            .where(
                flags.c.id_pa == table.c.id_pa,
                flags.c.receipt_id == table.c.receipt_id,
                flags.c.flag == wanted.flag,
            )
            .exists()
        )
    if wanted.received_from is not None:
        yield table.c.received_at >= wanted.received_from
    if wanted.received_to is not None:
        yield table.c.received_at < wanted.received_to


def find(connection: Connection, id_pa: str, receipt_id: str) -> dict[str, Any] | None:
    """One receipt with all its columns, `transfers`, `flags` and `routes` (the other stations it came by)."""
    key = {"id_pa": id_pa, "receipt_id": receipt_id}
    row = connection.execute(select(tables.receipt).filter_by(**key)).mappings().one_or_none()
    if row is None:
        return None
    transfers = select(tables.transfer).filter_by(**key).order_by(tables.transfer.c.position)
    flags = select(tables.receipt_flag.c.flag).filter_by(**key).order_by(tables.receipt_flag.c.flag)
    routes = select(tables.receipt_route).filter_by(**key).order_by(tables.receipt_route.c.first_at)
    return {
        **row,
        "transfers": [_without_key(one) for one in connection.execute(transfers).mappings()],
        "flags": list(connection.execute(flags).scalars()),
        "routes": [_without_key(one) for one in connection.execute(routes).mappings()],
    }


def _without_key(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("id_pa", "receipt_id")}


def flags_of(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """The flags of several receipts, by (id_pa, receipt_id)."""
    table = tables.receipt_flag
    found: dict[tuple[str, str], list[str]] = {}
    if keys:
        query = select(table).where(tuple_(table.c.id_pa, table.c.receipt_id).in_(keys)).order_by(table.c.flag)
        for row in connection.execute(query):
            found.setdefault((row.id_pa, row.receipt_id), []).append(row.flag)
    return found
