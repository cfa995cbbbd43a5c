"""Receipts in the database: find one, list a page, read many with all that belongs to them. Nothing here commits.

How a filter becomes a query stands in `search`; what is written lives in `receipts`.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, Connection, FromClause, Row, Text, func, literal, select, union

from station.store import search, tables
from station.store.conditions import ORDERS, Filter
from station.store.engine import allow_long

# A list is for looking at, an export for everything but the raw document, which has a command of its own.
LISTED = (
    "received_at", "id_pa", "receipt_id", "id_broker_pa", "id_station", "notice_number", "fiscal_code", "iuv",
    "outcome", "amount", "debtor_id", "debtor_name", "payer_id", "payer_name", "payment_date_time", "id_psp",
    "psp_company_name", "source", "version", "resends",
)  # fmt: skip
EXPORTED = tuple(column.name for column in tables.receipt.c if column.name not in ("raw", "charset", "notice_ordinal"))


@dataclass(frozen=True, slots=True)
class Position:
    """A place among the receipts in order of arrival."""

    received_at: datetime
    id_pa: str
    receipt_id: str


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the next one starts behind it. `order` is the column the receipts are in order of."""

    order: str
    at: datetime
    id_pa: str
    receipt_id: str

    @classmethod
    def of(cls, order: str, row: Any) -> "Cursor":
        """The place of one receipt in a list in that order."""
        return cls(order, getattr(row, order), row.id_pa, row.receipt_id)

    def encode(self) -> str:
        """As one word for a command line."""
        parts = json.dumps([self.order, self.at.isoformat(), self.id_pa, self.receipt_id], separators=(",", ":"))
        return base64.urlsafe_b64encode(parts.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, word: str) -> "Cursor":
        """The position in a word that `encode` made. Raises `ValueError` on any other."""
        try:
            parts = json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))
            order, at, id_pa, receipt_id = parts
            moment = datetime.fromisoformat(at)
            moment.astimezone(UTC)
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
            raise ValueError("not a cursor from a list of receipts") from None
        if order not in ORDERS or moment.tzinfo is None or not (type(id_pa) is type(receipt_id) is str):
            raise ValueError("not a cursor from a list of receipts")
        return cls(order, moment, id_pa, receipt_id)


def be_patient(connection: Connection) -> None:
    """Lets this transaction's statements run for long: an operator can wait and interrupt, the Nodo cannot."""
    allow_long(connection, "30min")


def list_receipts(
    connection: Connection, wanted: Filter, *, after: Cursor | None = None, limit: int = 50
) -> Sequence[Row[Any]]:
    """One page of receipts, newest first, with the columns `LISTED`. Keyset paging: page 1,000 costs as page 1.

    In order of payment where the filter has payment dates, of arrival otherwise.
    """
    return page(connection, search.plan(connection, wanted), LISTED, after=after, limit=limit)


def page(
    connection: Connection,
    planned: search.Plan,
    columns: Iterable[str],
    *,
    after: Cursor | None = None,
    limit: int,
    newest_first: bool = True,
) -> Sequence[Row[Any]]:
    """The next `limit` receipts of a planned search, with these columns."""
    if not planned.parts:
        return []
    behind = (after.at, after.id_pa, after.receipt_id) if after else None
    first = _keys(planned, behind=behind, limit=limit, newest_first=newest_first)
    place = [first.c[name] for name in (planned.order, "id_pa", "receipt_id")]
    keys = select(*place).order_by(*search.in_order(place, newest_first)).limit(limit).subquery("page")
    receipt = tables.receipt
    joined = keys.join(receipt, (receipt.c.id_pa == keys.c.id_pa) & (receipt.c.receipt_id == keys.c.receipt_id))
    query = select(*(receipt.c[name] for name in columns)).select_from(joined)
    return connection.execute(query.order_by(*search.in_order(keys.c, newest_first))).all()


def total(connection: Connection, wanted: Filter) -> tuple[int, Decimal] | None:
    """How many receipts fit, and the sum of their amounts in euro; `None` where many would be read for it."""
    planned = search.plan(connection, wanted, count=True)
    if any(part.count is None for part in planned.parts):
        return None
    if not planned.parts:
        return 0, Decimal("0.00")
    keys, receipt = _keys(planned, behind=None, limit=None, newest_first=True), tables.receipt
    joined = keys.join(receipt, (receipt.c.id_pa == keys.c.id_pa) & (receipt.c.receipt_id == keys.c.receipt_id))
    count, amount = connection.execute(select(func.count(), func.sum(receipt.c.amount)).select_from(joined)).one()
    return count, amount or Decimal("0.00")


def _keys(
    planned: search.Plan, *, behind: tuple[datetime, str, str] | None, limit: int | None, newest_first: bool
) -> FromClause:
    """The places of the next receipts of a plan that has parts.

    Each part brings its own first rows, in order, by its own index; one that several parts bring is one.
    """
    parts = [
        search.keys(planned, part, behind=behind, limit=limit, newest_first=newest_first) for part in planned.parts
    ]
    return union(*(select(part.subquery()) for part in parts)).subquery() if len(parts) > 1 else parts[0].subquery()


def with_parts(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Receipts of a page as dictionaries with their `flags`, `transfers` and `routes`, one query for each of these."""
    found = {(row.id_pa, row.receipt_id): dict(row._mapping, flags=[], transfers=[], routes=[]) for row in rows}
    transfer, route = tables.transfer, tables.receipt_route
    for key, flags in flags_of(connection, list(found)).items():
        found[key]["flags"] = flags
    for name, table, order in (("transfers", transfer, transfer.c.position), ("routes", route, route.c.first_at)):
        for row in _of(connection, table, list(found), order):
            found[(row.id_pa, row.receipt_id)][name].append(_without_key(row._mapping))
    return list(found.values())


def find(connection: Connection, id_pa: str, receipt_id: str) -> dict[str, Any] | None:
    """One receipt with all its columns, `transfers`, `flags` and `routes` (the other stations it came by)."""
    row = connection.execute(select(tables.receipt).filter_by(id_pa=id_pa, receipt_id=receipt_id)).one_or_none()
    return None if row is None else with_parts(connection, [row])[0]


def same_notice(connection: Connection, found: dict[str, Any]) -> list[dict[str, Any]]:
    """The other receipts of a receipt's notice, which are other payments of it: the oldest first."""
    receipt = tables.receipt.c
    query = select(receipt.receipt_id, receipt.payment_date_time, receipt.received_at, receipt.amount).where(
        *(receipt[name] == found[name] for name in ("id_pa", "notice_number", "fiscal_code")),
        receipt.receipt_id != found["receipt_id"],
    )
    return [dict(row._mapping) for row in connection.execute(query.order_by(receipt.received_at))]


def flags_of(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """The flags of several receipts, by (id_pa, receipt_id)."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in _of(connection, tables.receipt_flag, keys, tables.receipt_flag.c.flag):
        found.setdefault((row.id_pa, row.receipt_id), []).append(row.flag)
    return found


def _of(connection: Connection, table: Any, keys: Sequence[tuple[str, str]], order: Any) -> Iterable[Row[Any]]:
    """The rows of a table that belong to these receipts."""
    if not keys:
        return []
    wanted = _as_table(connection, keys)
    joined = wanted.join(table, (table.c.id_pa == wanted.c.id_pa) & (table.c.receipt_id == wanted.c.receipt_id))
    return connection.execute(select(table).select_from(joined).order_by(table.c.id_pa, table.c.receipt_id, order))


def _as_table(connection: Connection, keys: Sequence[tuple[str, str]]) -> FromClause:
    """Keys as a table to join with: a list of a thousand pairs behind IN is a thousand searches to plan."""
    if connection.dialect.name == "postgresql":
        columns = [literal([key[part] for key in keys], ARRAY(Text)) for part in (0, 1)]
        return func.unnest(*columns).table_valued("id_pa", "receipt_id", name="wanted").render_derived()
    each = func.json_each(json.dumps(keys)).table_valued("value")
    parts = (func.json_extract(each.c.value, f"$[{part}]") for part in (0, 1))
    return select(*(part.label(name) for part, name in zip(parts, ("id_pa", "receipt_id"), strict=True))).subquery()


def _without_key(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("id_pa", "receipt_id", "received_at")}
