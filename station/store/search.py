"""How a filter over receipts becomes queries that an index answers, on PostgreSQL and SQLite alike.

A filter is planned once. Conditions that mean "this or that" (debtor or payer, the first station or a later one) make
several parts, since no index answers an OR in order; each part is one query, and their pages are merged.

Within a part one condition leads. Where one has few receipts, they are all read by its index, the other conditions are
tried on each, and they are sorted. Where every condition has many, the receipts are walked in order, by the index of
one condition that holds them in order, until the page is full. How many is asked of the indexes themselves, up to
`FEW`: a planner that guesses (SQLite keeps no statistics, and PostgreSQL takes what is asked for to be spread evenly
over the years) would walk the whole table now and then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    exists,
    false,
    func,
    literal,
    select,
    text,
    true,
    tuple_,
)

from station.store import tables

ORDERS = ("received_at", "payment_date_time")

# Up to here all receipts of a condition are read and sorted: 5,000 look-ups take some 30 ms.
FEW = 5000


@dataclass(frozen=True, slots=True)
class Filter:
    """Which receipts: every condition that is given must hold.

    Times are aware; `..._from` is included, `..._to` is not. Amounts are euro, both ends included. `person_id` is
    debtor or payer; `id_station` and `id_broker_pa` are of the first or any later way it came; `flag` is one of the
    receipt's; `digital_stamp`: one of its transfers is a digital stamp.
    """

    id_pa: str | None = None
    receipt_id: str | None = None
    notice_number: str | None = None
    iuv: str | None = None
    debtor_id: str | None = None
    payer_id: str | None = None
    person_id: str | None = None
    id_psp: str | None = None
    id_broker_pa: str | None = None
    id_station: str | None = None
    flag: str | None = None
    source: str | None = None
    digital_stamp: bool = False
    amount_from: Decimal | None = None
    amount_to: Decimal | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    paid_from: datetime | None = None
    paid_to: datetime | None = None

    @property
    def order(self) -> str:
        """The column that receipts are listed in order of: by payment where payment dates are asked for."""
        return "payment_date_time" if self.paid_from or self.paid_to else "received_at"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on `table`. Where it is `indexed`, an index finds its rows, `in_order` of a column or of none.

    Of a range on a column of the receipt, `limits` holds the column's name and the ends.
    """

    clause: ColumnElement[bool]
    indexed: bool = True
    in_order: str | None = None
    table: Table = tables.receipt
    limits: tuple[str, Any, Any] | None = None


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


def plan(connection: Connection, wanted: Filter) -> Plan:
    """Turns a filter into parts, and asks the indexes what each part should be led by."""
    common = tuple(_plain(wanted))
    counts: dict[int, int] = {}
    parts = []
    for choices in product(_persons(wanted), _routes(connection, wanted)):
        conditions = tuple(condition for choice in choices for condition in choice) + common
        parts.append(_led(connection, conditions, wanted.order, counts))
    some = tuple(part for part in parts if part.count != 0)
    return Plan(wanted.order, some, commanded=connection.dialect.name == "sqlite")


def _plain(wanted: Filter) -> Iterator[Condition]:
    """The conditions without alternatives, those that promise fewest receipts first."""
    receipt, flags = tables.receipt.c, tables.receipt_flag.c
    for name in ("receipt_id", "iuv", "notice_number"):
        if (value := getattr(wanted, name)) is not None:
            yield Condition(receipt[name] == value)
    if wanted.flag is not None:
        yield Condition(flags.flag == wanted.flag, in_order="received_at", table=tables.receipt_flag)
    if wanted.digital_stamp:
        # As the index has it, word by word: a condition with parameters would not be known for the same.
        yield Condition(text("digital_stamp"), table=tables.transfer)  # type: ignore[arg-type]
    if wanted.amount_from is not None and wanted.amount_from == wanted.amount_to:
        yield Condition(receipt.amount == wanted.amount_from)
    else:
        yield from _range(receipt.amount, wanted.amount_from, wanted.amount_to)
    yield from _range(receipt.payment_date_time, wanted.paid_from, wanted.paid_to)
    if wanted.source is not None:
        if wanted.source == "push":  # nearly all
            yield Condition(receipt.source == wanted.source, indexed=False)
        else:
            yield Condition(and_(receipt.source == wanted.source, text("source <> 'push'")), in_order="received_at")
    for name in ("id_psp", "id_pa"):
        if (value := getattr(wanted, name)) is not None:
            yield Condition(receipt[name] == value, in_order="received_at")
    yield from _range(receipt.received_at, wanted.received_from, wanted.received_to)


def _range(column: Any, start: Any, end: Any) -> Iterator[Condition]:
    limits = (column.name, start, end)
    if clauses := _within(column, limits):
        in_order = column.name if column.name in ORDERS else None
        yield Condition(and_(*clauses), in_order=in_order, limits=limits)


def _within(column: Any, limits: tuple[str, Any, Any]) -> list[ColumnElement[bool]]:
    """From the start on, up to the end: amounts with their end, times without, so that days follow one another."""
    name, start, end = limits
    clauses = [] if start is None else [column >= start]
    if end is not None:
        clauses.append(column <= end if name == "amount" else column < end)
    return clauses


def _persons(wanted: Filter) -> Iterator[tuple[Condition, ...]]:
    """Debtor and payer, as choices. Who pays for themselves is in the debtors' index only."""
    receipt = tables.receipt.c

    def debtor(id_: str) -> Condition:
        return Condition(receipt.debtor_id == id_, in_order="received_at")

    def payer(id_: str) -> Condition:
        clause = and_(receipt.payer_id == id_, text("payer_id <> debtor_id"))
        return Condition(clause, in_order="received_at")

    given: list[list[tuple[Condition, ...]]] = []
    if wanted.debtor_id is not None:
        given.append([(debtor(id_),) for id_ in _as_written(wanted.debtor_id)])
    if wanted.payer_id is not None:
        given.append([])
        for id_ in _as_written(wanted.payer_id):
            himself = Condition(receipt.payer_id == id_, indexed=False)
            given[-1] += [(debtor(id_), himself), (payer(id_),)]
    if wanted.person_id is not None:
        given.append([(one(id_),) for id_ in _as_written(wanted.person_id) for one in (debtor, payer)])
    for choices in product(*given):
        yield tuple(condition for choice in choices for condition in choice)


def _as_written(id_: str) -> list[str]:
    """A fiscal code as it was given and in capitals: people type it in small letters."""
    return list(dict.fromkeys((id_, id_.upper())))


def _routes(connection: Connection, wanted: Filter) -> Iterator[tuple[Condition, ...]]:
    """Broker and station, of the first way a receipt came and of later ones. A receipt may be in several choices."""
    if wanted.id_broker_pa is None and wanted.id_station is None:
        yield ()
        return
    route = tables.receipt_route
    for id_broker_pa, id_station in _pairs(connection, wanted):
        first = and_(tables.receipt.c.id_broker_pa == id_broker_pa, tables.receipt.c.id_station == id_station)
        yield (Condition(first, in_order="received_at"),)
    given = [
        route.c[name] == value
        for name in ("id_broker_pa", "id_station")
        if (value := getattr(wanted, name)) is not None
    ]
    yield (Condition(and_(*given), in_order="received_at", table=route),)


def _pairs(connection: Connection, wanted: Filter) -> list[tuple[str, str]]:
    """The pairs of broker and station that receipts first came by and that are wanted."""
    receipt = tables.receipt.c
    brokers = [wanted.id_broker_pa] if wanted.id_broker_pa else distinct(connection, receipt.id_broker_pa)
    if wanted.id_station is not None:
        return [(broker, wanted.id_station) for broker in brokers]
    theirs = ((broker, receipt.id_broker_pa == broker) for broker in brokers)
    return [(broker, station) for broker, its in theirs for station in distinct(connection, receipt.id_station, its)]


def distinct(connection: Connection, column: Any, *conditions: Any) -> Iterator[str]:
    """The few values of a column that an index starts with, from one to the next: a look-up each, however many rows."""
    last = ""
    while True:
        query = select(func.min(column)).where(column > last, *conditions)
        value = connection.execute(query).scalar_one()
        if value is None:
            return
        yield value
        last = value


def _led(connection: Connection, conditions: tuple[Condition, ...], order: str, counts: dict[int, int]) -> Part:
    """A part and the condition with the fewest rows, if these are few. One that is alone and in order is not asked."""
    best = Part(conditions)
    if len(conditions) == 1 and conditions[0].in_order == order:
        return best
    for condition in conditions:
        if not condition.indexed:
            continue
        count = counts.get(id(condition))
        if count is None:
            some = select(literal(1)).select_from(condition.table).where(condition.clause).limit(FEW + 1).subquery()
            count = counts[id(condition)] = connection.execute(select(func.count()).select_from(some)).scalar_one()
        if count <= FEW and (best.count is None or count < best.count):
            best = Part(conditions, condition, count)
            if count <= FEW // 50:
                break  # so few that it does not pay to look for fewer
    return best


def keys(
    planned: Plan,
    part: Part,
    *,
    behind: tuple[datetime, str, str] | None,
    limit: int,
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
        return _within(place[0], limits)
    if not newest_first and start is not None and start > behind[0]:
        return _within(place[0], limits)
    at = tuple_(literal(behind[0], tables.UtcDateTime()), literal(behind[1]), literal(behind[2]))
    if newest_first:
        return [tuple_(*place) < at, *_within(place[0], (name, start, None))]
    return [tuple_(*place) > at, *_within(place[0], (name, None, end))]


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
