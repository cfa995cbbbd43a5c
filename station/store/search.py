"""How the conditions of a filter become queries that an index answers, on PostgreSQL and SQLite alike.

A filter is planned once. Conditions that mean "this or that" (debtor or payer, the first station or a later one) make
several parts, since no index answers an OR in order; each part is one query, and their pages are merged.

Within a part one condition leads. Where one has few receipts, they are all read by its index, the other conditions are
tried on each, and they are sorted. Where every condition has many, the receipts are walked in order, by the index of
one condition that holds them in order, until the page is full. How many is asked of the indexes themselves, up to
`FEW`: a planner that guesses (SQLite keeps no statistics, and PostgreSQL takes what is asked for to be spread evenly
over the years) would walk the whole table now and then.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    false,
    func,
    literal,
    select,
    true,
    tuple_,
)

from station.store import conditions, tables
from station.store.conditions import Condition, Filter, within

# Up to here all receipts of a condition are read and sorted: 5,000 look-ups take some 30 ms.
FEW = 5000


@dataclass(frozen=True, slots=True)
class Part:
    """Conditions that must all hold; `lead` is the one with few rows, if there is one, and `count` how many."""

    conditions: tuple[Condition, ...]
    lead: Condition | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A filter made ready: parts whose receipts together are those wanted, and their order.

    `commanded`: the database is to take the index of the leading condition and no other.
    """

    order: str
    parts: tuple[Part, ...]
    commanded: bool


def plan(connection: Connection, wanted: Filter, *, count: bool = False) -> Plan:
    """Turns a filter into parts, and asks the indexes what each part should be led by.

    `count`: ask also where the answer would not change how the part is read.
    """
    common = tuple(conditions.plain(wanted))
    counts: dict[int, int] = {}
    parts = []
    for choices in product(conditions.persons(wanted), conditions.routes(connection, wanted)):
        together = tuple(condition for choice in choices for condition in choice) + common
        parts.append(_led(connection, together, None if count else wanted.order, counts))
    some = tuple(part for part in parts if part.count != 0)
    return Plan(wanted.order, some, commanded=connection.dialect.name == "sqlite")


def _led(connection: Connection, together: tuple[Condition, ...], order: str | None, counts: dict[int, int]) -> Part:
    """A part and the condition with the fewest rows, if these are few. One that is alone and in order is not asked."""
    best = Part(together)
    if order is not None and len(together) == 1 and together[0].in_order == order:
        return best
    for condition in together:
        if not condition.indexed:
            continue
        count = counts.get(id(condition))
        if count is None:
            some = select(literal(1)).select_from(condition.table).where(condition.clause).limit(FEW + 1).subquery()
            count = counts[id(condition)] = connection.execute(select(func.count()).select_from(some)).scalar_one()
        if count <= FEW and (best.count is None or count < best.count):
            best = Part(together, condition, count)
            if count <= FEW // 50:
                break  # so few that it does not pay to look for fewer
    return best


def keys(
    planned: Plan,
    part: Part,
    *,
    behind: tuple[datetime, str, str] | None,
    limit: int | None,
    newest_first: bool,
) -> Select[Any]:
    """The query for the places of a part's next receipts: in order, so many, behind a place."""
    receipt, order = tables.receipt, planned.order
    names = (order, "id_pa", "receipt_id")
    if part.lead is not None and part.count is not None:
        led = part.lead
        few = select(led.table.c.id_pa, led.table.c.receipt_id).where(led.clause)
        if led.table is not receipt:
            few = few.distinct()  # two stamps, two routes: one receipt
        # There may be some more by now. The limit is for PostgreSQL's planner: it would go by its own estimate, and may
        # read the whole table.
        lead = few.limit(2 * part.count + 1000).subquery("lead")
        place = [receipt.c[name] for name in names]
        query = select(*place).select_from(lead.join(receipt, _same(lead.c, receipt.c)))
    else:
        led = _walked(part, order)
        place = [led.table.c[name] for name in names]
        query = select(*place)
        if not _is_on(led, order):
            query = query.where(led.clause)
        if led.table is not receipt:
            query = query.distinct().select_from(led.table.join(receipt, _same(led.table.c, receipt.c)))
    for condition in part.conditions:
        if condition is led or _is_on(condition, order):
            continue
        clause = condition.clause if condition.table is receipt else _has(condition)
        query = query.where(func.coalesce(clause, false()) if planned.commanded else clause)
    limits = next((condition.limits for condition in part.conditions if _is_on(condition, order)), None)
    query = query.where(*_between(place, limits or (order, None, None), behind, newest_first))
    return query.order_by(*in_order(place, newest_first)).limit(limit)


def _is_on(condition: Condition, order: str) -> bool:
    """Whether it is a range on the column that the receipts are in order of."""
    return condition.limits is not None and condition.limits[0] == order


def _between(
    place: list[Any], limits: tuple[str, Any, Any], behind: tuple[datetime, str, str] | None, newest_first: bool
) -> list[ColumnElement[bool]]:
    """From one end of the range, or from where the last page ended, to the other end.

    Only one of the two, whichever is further: SQLite searches by one bound on each side, and may choose the wrong one.
    """
    name, start, end = limits
    if behind is None or (newest_first and end is not None and end <= behind[0]):
        return within(place[0], limits)
    if not newest_first and start is not None and start > behind[0]:
        return within(place[0], limits)
    at = tuple_(literal(behind[0], tables.UtcDateTime()), literal(behind[1]), literal(behind[2]))
    if newest_first:
        return [tuple_(*place) < at, *within(place[0], (name, start, None))]
    return [tuple_(*place) > at, *within(place[0], (name, None, end))]


def in_order(place: Iterable[Any], newest_first: bool) -> list[ColumnElement[Any]]:
    """Columns to sort by."""
    return [column.desc() if newest_first else column for column in place]


def _walked(part: Part, order: str) -> Condition:
    """The condition by whose index a part is walked in order; without one, every receipt is."""
    fitting = (condition for condition in part.conditions if condition.indexed and condition.in_order == order)
    return next(fitting, Condition(true(), in_order=order))


def _has(condition: Condition) -> ColumnElement[bool]:
    """Whether the receipt has such a row in another table."""
    return exists().where(_same(condition.table.c, tables.receipt.c), condition.clause)


def _same(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(one.id_pa == other.id_pa, one.receipt_id == other.receipt_id)
