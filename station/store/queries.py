"""Receipts in the database: find one, list a page, read many with all that belongs to them. Nothing here commits.

How a filter becomes a query stands in `search`; what is written lives in `receipts`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, Connection, Engine, FromClause, Row, Text, func, literal, select

from station.store import search, tables
from station.store.conditions import Filter
from station.store.engine import QUERY_TIMEOUT_S, transaction
from station.store.paging import Cursor, in_order
from station.text import as_json

# A list is for looking at, an export for everything but the raw document, which has a command of its own.
LISTED = (
    "received_at", "id_pa", "receipt_id", "id_broker_pa", "id_station", "notice_number", "fiscal_code", "iuv",
    "outcome", "amount", "debtor_id", "debtor_name", "payer_id", "payer_name", "payment_date_time", "id_psp",
    "psp_company_name", "source", "version", "resends",
)  # fmt: skip
_INTERNAL = ("raw", "charset", "notice_ordinal", "revision")
EXPORTED = tuple(column.name for column in tables.receipt.c if column.name not in _INTERNAL)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a read-only transaction for a command: a statement may take 30 minutes, which an operator can interrupt."""
    with transaction(engine, readonly=True, timeout=QUERY_TIMEOUT_S) as connection:
        yield connection


def list_receipts(
    connection: Connection, filter_: Filter, *, after: Cursor | None = None, limit: int = 50
) -> Sequence[Row[Any]]:
    """Return a page of receipts, newest first, with the columns `LISTED`.

    In order of payment where the filter has payment dates, of arrival otherwise.
    """
    return page(connection, search.plan(connection, filter_), LISTED, after=after, limit=limit)


def page(
    connection: Connection,
    planned: search.Plan,
    columns: Iterable[str],
    *,
    after: Cursor | None = None,
    limit: int,
    newest_first: bool = True,
) -> Sequence[Row[Any]]:
    """Return the next `limit` receipts of a planned search, with these columns."""
    if not planned.branches:
        return []
    first = search.places(planned, after=after, limit=limit, newest_first=newest_first)
    place = [first.c[name] for name in (planned.order, "id_pa", "receipt_id")]
    keys = select(*place).order_by(*in_order(place, newest_first=newest_first)).limit(limit).subquery("page")
    query = select(*(tables.receipt.c[name] for name in columns)).select_from(_joined(keys, tables.receipt))
    return connection.execute(query.order_by(*in_order(keys.c, newest_first=newest_first))).all()


def total(connection: Connection, filter_: Filter) -> tuple[int, Decimal] | None:
    """Return the number of matching receipts and the sum of their amounts in euro; `None` where it takes many reads."""
    planned = search.plan(connection, filter_, count=True)
    if any(branch.count is None for branch in planned.branches):
        return None
    if not planned.branches:
        return 0, Decimal("0.00")
    keys = search.places(planned, after=None, limit=None, newest_first=True)
    query = select(func.count(), func.sum(tables.receipt.c.amount)).select_from(_joined(keys, tables.receipt))
    count, amount = connection.execute(query).one()
    return count, amount or Decimal("0.00")


def with_children(connection: Connection, rows: Sequence[Row[Any]]) -> list[dict[str, Any]]:
    """Return the receipts of a page as dictionaries with their `flags`, `transfers` and `routes`; a query for each."""
    receipts = {(row.id_pa, row.receipt_id): dict(row._mapping, flags=[], transfers=[], routes=[]) for row in rows}
    transfer, route = tables.transfer, tables.receipt_route
    for key, flags in flags_of(connection, list(receipts)).items():
        receipts[key]["flags"] = flags
    for name, table, order in (("transfers", transfer, transfer.c.position), ("routes", route, route.c.first_at)):
        for row in rows_of(connection, table, list(receipts), order):
            child = {column: value for column, value in row._mapping.items() if column not in _INHERITED}
            receipts[(row.id_pa, row.receipt_id)][name].append(child)
    return list(receipts.values())


_INHERITED = ("id_pa", "receipt_id", "received_at")


def find(connection: Connection, id_pa: str, receipt_id: str) -> dict[str, Any] | None:
    """Return a receipt with all its columns, `transfers`, `flags` and `routes` (the other stations it came by)."""
    row = connection.execute(select(tables.receipt).filter_by(id_pa=id_pa, receipt_id=receipt_id)).one_or_none()
    return None if row is None else with_children(connection, [row])[0]


def by_key(connection: Connection, keys: Sequence[tuple[str, str]], *, raw: bool = False) -> list[dict[str, Any]]:
    """Return receipts by (id_pa, receipt_id) with the columns `EXPORTED` and all that belongs to them, in any order.

    With `raw` also `raw`, the document, and `charset`. What is not stored is left out.
    """
    names = (*EXPORTED, *(("raw", "charset") if raw else ()))
    columns = [tables.receipt.c[name] for name in names]
    return with_children(connection, list(rows_of(connection, tables.receipt, keys, columns[0], columns)))


def same_notice(connection: Connection, receipt: dict[str, Any], *, limit: int | None = None) -> list[dict[str, Any]]:
    """Return the other receipts of a receipt's notice, which are other payments of it: the oldest first.

    There may be thousands, of a notice that is paid again and again; `limit` is the most of them to return.
    """
    table = tables.receipt.c
    query = select(table.receipt_id, table.payment_date_time, table.received_at, table.amount).where(
        *(table[name] == receipt[name] for name in ("id_pa", "notice_number", "fiscal_code")),
        table.receipt_id != receipt["receipt_id"],
    )
    return [dict(row._mapping) for row in connection.execute(query.order_by(table.received_at).limit(limit))]


def flags_of(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[str]]:
    """Return the flags of several receipts, by (id_pa, receipt_id)."""
    flags: dict[tuple[str, str], list[str]] = {}
    for row in rows_of(connection, tables.receipt_flag, keys, tables.receipt_flag.c.flag):
        flags.setdefault((row.id_pa, row.receipt_id), []).append(row.flag)
    return flags


def rows_of(
    connection: Connection, table: Any, keys: Sequence[tuple[str, str]], order: Any, columns: Sequence[Any] = ()
) -> Iterable[Row[Any]]:
    """Return the rows of a table that belong to these receipts, by receipt, and of each in this `order`.

    The keys are a table to join with: a list of a thousand pairs behind IN is a thousand searches to plan.
    """
    if not keys:
        return []
    of: FromClause
    if connection.dialect.name == "postgresql":
        parts = [literal([key[place] for key in keys], ARRAY(Text)) for place in (0, 1)]
        of = func.unnest(*parts).table_valued("id_pa", "receipt_id", name="wanted").render_derived()
    else:
        pair = func.json_each(as_json(keys)).table_valued("value").c.value
        of = select(
            func.json_extract(pair, "$[0]").label("id_pa"), func.json_extract(pair, "$[1]").label("receipt_id")
        ).subquery()
    query = select(*(columns or [table])).select_from(_joined(of, table))
    return connection.execute(query.order_by(table.c.id_pa, table.c.receipt_id, order))


def _joined(keys: FromClause, table: Any) -> FromClause:
    return keys.join(table, (table.c.id_pa == keys.c.id_pa) & (table.c.receipt_id == keys.c.receipt_id))
