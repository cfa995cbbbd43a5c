"""How the conditions of a filter become queries that an index answers, on PostgreSQL and SQLite alike.

A filter is planned once. Conditions that mean "this or that" (debtor or payer, the first station or a later one) make
several branches, since no index answers an OR in order; each branch is one query, and their pages are merged.

Within a branch one condition leads. Where one has few receipts, they are all read by its index, the other conditions
are tried on each, and they are sorted. Where every condition has many, the receipts are walked in order, by the index
of one condition that holds them in order, until the page is full. Of several ECs, where nothing else holds them in
order, each makes a branch. How many there are is asked of the indexes
themselves, up to `FEW`: a planner that guesses (SQLite keeps no statistics, and PostgreSQL assumes that matching rows
are spread evenly over the years) would walk the whole table now and then.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    exists,
    false,
    func,
    literal,
    select,
    true,
    union,
)

from station.store import conditions, tables
from station.store.conditions import Condition, Filter, within
from station.store.limits import is_limited
from station.store.paging import Cursor, in_order

# Up to here all receipts of a condition are read and sorted: 5,000 look-ups take some 30 ms.
FEW = 5000
# Of more ECs than this, the receipts of all are walked in order: a branch for each would take too long to plan.
_ECS_BY_BRANCH = 50


@dataclass(frozen=True, slots=True)
class Branch:
    """Conditions that must all hold. `lead` is the one with few rows, if there is one, and `count` its rows."""

    conditions: tuple[Condition, ...]
    lead: Condition | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A filter made ready: branches whose receipts together are the matching ones, and the column they are sorted by.

    `commanded`: the database is to take the index of the leading condition and no other.
    """

    order: str
    branches: tuple[Branch, ...]
    commanded: bool


def plan(connection: Connection, filter_: Filter, *, count: bool = False) -> Plan:
    """Turn a filter into branches, and ask the indexes which condition should lead each.

    With `count`, ask also where the answer would not change how the branch is read.
    """
    limited = is_limited(connection)
    common = tuple(conditions.plain(filter_, limited=limited))
    each_ec = [] if count or len(filter_.ecs or ()) > _ECS_BY_BRANCH else conditions.each_ec(filter_)
    counts: dict[int, int] = {}
    branches = []
    for choices in product(conditions.persons(filter_, limited=limited), conditions.routes(connection, filter_)):
        together = tuple(condition for choice in choices for condition in choice) + common
        branch = _led(connection, together, None if count else filter_.order, counts)
        if branch.lead is None and len(each_ec) > 1 and _is_walked_by_time(branch, filter_.order):
            for ec in each_ec:
                of_ec = tuple(ec if condition.ecs else condition for condition in together)
                branches.append(_led(connection, of_ec, filter_.order, counts))
        else:
            branches.append(branch)
    return Plan(
        filter_.order,
        tuple(branch for branch in branches if branch.count != 0),
        # For a limited transaction PostgreSQL has no statistics of what is not leakproof, and believes in no row.
        commanded=limited or connection.dialect.name == "sqlite",
    )


def _led(connection: Connection, together: tuple[Condition, ...], order: str | None, counts: dict[int, int]) -> Branch:
    """Return a branch led by the condition with the fewest rows, if these are few.

    A condition that stands alone and is in order needs no count. `counts` are the rows of the conditions asked before.
    """
    best = Branch(together)
    if order is not None and len(together) == 1 and together[0].in_order == order:
        return best
    for condition in together:
        if not condition.indexed or (condition.ecs and best.lead):
            continue
        count = counts.get(id(condition))
        if count is None:
            some = select(literal(1)).select_from(condition.table).where(condition.clause).limit(FEW + 1).subquery()
            count = counts[id(condition)] = connection.execute(select(func.count()).select_from(some)).scalar_one()
        if count <= FEW and (best.count is None or count < best.count):
            best = Branch(together, condition, count)
            if count <= FEW // 50:
                break  # so few that it does not pay to look for fewer
    return best


def places(planned: Plan, *, after: Cursor | None, limit: int | None, newest_first: bool) -> FromClause:
    """Return the places (time, EC, receiptId) of the next receipts of a plan that has branches.

    Each branch brings its own first rows, in order, by its own index; UNION keeps one of a receipt that several bring.
    """
    queries = [_places(planned, branch, after, limit, newest_first) for branch in planned.branches]
    if len(queries) == 1:
        return queries[0].subquery()
    return union(*(select(query.subquery()) for query in queries)).subquery()


def _places(planned: Plan, branch: Branch, after: Cursor | None, limit: int | None, newest_first: bool) -> Select[Any]:
    receipt, order = tables.receipt, planned.order
    names = (order, "id_pa", "receipt_id")
    if branch.lead is not None and branch.count is not None:
        led = branch.lead
        few = select(led.table.c.id_pa, led.table.c.receipt_id).where(led.clause)
        few = few.where(*(led.table.c.id_pa.in_(one.ecs) for one in branch.conditions if one.ecs and one is not led))
        if led.table is not receipt and led.plain is None:
            few = few.distinct()  # two stamps, two routes: one receipt
        # There may be some more by now. The limit is for PostgreSQL's planner: it would go by its own estimate, and may
        # read the whole table.
        lead = few.limit(2 * branch.count + 1000).subquery("lead")
        place: list[Any] = [receipt.c[name] for name in names]
        query = select(*place).select_from(lead.join(receipt, _same(lead.c, receipt.c)))
    else:
        led = _walked(branch, order)
        place = [led.table.c[name] for name in names]
        query = select(*place)
        if not _is_on(led, order):
            query = query.where(led.clause)
        if led.table is not receipt and led.plain is None:
            query = query.distinct().select_from(led.table.join(receipt, _same(led.table.c, receipt.c)))
    limits: tuple[str, Any, Any] = (order, None, None)
    tried: list[ColumnElement[bool]] = []
    for condition in branch.conditions:
        if _is_on(condition, order):
            limits = condition.limits or limits
        elif condition is not led and not (condition.ecs and branch.lead):  # those are in the leading part
            clause = condition.clause if condition.plain is None else condition.plain
            if condition.plain is None and condition.table is not receipt:
                clause = exists().where(_same(condition.table.c, receipt.c), clause)
            tried.append(func.coalesce(clause, false()) if planned.commanded else clause)
    if tried and led.plain is not None and not branch.lead:
        # A subquery that gives a value is no join: PostgreSQL would make one table of the view and the receipts, with
        # the policies of these, and find nothing by the index.
        same = select(true()).select_from(receipt).where(_same(led.table.c, receipt.c), *tried)
        tried = [same.scalar_subquery()]
    query = query.where(*tried)
    query = query.where(*_between(place, limits, after, newest_first))
    return query.order_by(*in_order(place, newest_first=newest_first)).limit(limit)


def _walked(branch: Branch, order: str) -> Condition:
    """Return the condition by whose index a branch is walked in order; without one, every receipt is."""
    fitting = (condition for condition in branch.conditions if condition.indexed and condition.in_order == order)
    return next(fitting, Condition(true(), in_order=order))


def _is_walked_by_time(branch: Branch, order: str) -> bool:
    """Return whether a branch is walked in order of arrival, through receipts of all ECs."""
    return order == "received_at" and all(
        _is_on(condition, order) or condition.in_order != order for condition in branch.conditions
    )


def _is_on(condition: Condition, order: str) -> bool:
    """Return whether the condition is a range on the column that the receipts are sorted by."""
    return condition.limits is not None and condition.limits[0] == order


def _between(
    place: list[Any], limits: tuple[str, Any, Any], after: Cursor | None, newest_first: bool
) -> list[ColumnElement[bool]]:
    """Return the range from one end, or from where the last page ended, to the other end.

    Only one of the two, whichever is further: SQLite searches by one bound on each side, and may choose the wrong one.
    """
    name, start, end = limits
    if after is None or (newest_first and end is not None and end <= after.at):
        return within(place[0], limits)
    if not newest_first and start is not None and start > after.at:
        return within(place[0], limits)
    rest = (name, start, None) if newest_first else (name, None, end)
    return [after.behind(place, newest_first=newest_first), *within(place[0], rest)]


def _same(one: Any, other: Any) -> ColumnElement[bool]:
    return and_(one.id_pa == other.id_pa, one.receipt_id == other.receipt_id)
