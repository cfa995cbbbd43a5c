"""A filter over receipts as conditions, and which index finds the rows of each.

How they become queries stands in `search`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import product
from typing import Any
from unicodedata import combining, normalize

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    String,
    and_,
    column,
    false,
    func,
    literal_column,
    or_,
    select,
    table,
    text,
)

from station.store import tables

ORDERS = ("received_at", "payment_date_time")

# The receipts that a limited transaction (see `limits`) may see. Under row-level security PostgreSQL uses an index only
# for comparisons that are leakproof, which those of fiscal codes however written and of amounts are not. The view
# belongs to the tables' owner, for whom it is off, and has the condition itself: see migration 0013.
console_receipt = table(
    "console_receipt",
    column("id_pa", String()),
    column("receipt_id", String()),
    column("received_at", tables.UtcDateTime()),
    column("amount", tables.Euro()),
    column("debtor_id", String()),
    column("payer_id", String()),
)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which receipts: every condition that is given must hold.

    Times are aware; `..._from` is included, `..._to` is not. Amounts are euro, both ends included. `person_id` is
    debtor or payer; fiscal codes of people are found however they are written. `name`: words, all in the debtor's name
    or all in the payer's, capitals and accents apart; no index finds them. `id_station` and `id_broker_pa` are of the
    first or any later way it came; `flag` is one of the receipt's; `digital_stamp`: one of its transfers is a
    digital stamp. `id_pas`: the ECs whose receipts the reader may see, `None` all, none of them nothing.
    """

    id_pa: str | None = None
    id_pas: tuple[str, ...] | None = None
    receipt_id: str | None = None
    notice_number: str | None = None
    iuv: str | None = None
    debtor_id: str | None = None
    payer_id: str | None = None
    person_id: str | None = None
    name: str | None = None
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
    def ecs(self) -> tuple[str, ...] | None:
        """The ECs whose receipts are looked for, once each; `None`: all."""
        if self.id_pa is None:
            return None if self.id_pas is None else tuple(dict.fromkeys(self.id_pas))
        return (self.id_pa,) if self.id_pas is None or self.id_pa in self.id_pas else ()

    @property
    def order(self) -> str:
        """The column that receipts are listed in order of: by payment where payment dates are asked for."""
        return "payment_date_time" if self.paid_from or self.paid_to else "received_at"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition on `table`. Where it is `indexed`, an index finds its rows, `in_order` of a column or of none.

    Of a range on a column of the receipt, `limits` holds the column's name and the ends. `ecs`: those that it is
    on, where it is on several. `plain`: the same on the receipt itself, where `table` is `console_receipt`.
    """

    clause: ColumnElement[bool]
    indexed: bool = True
    in_order: str | None = None
    table: FromClause = tables.receipt
    limits: tuple[str, Any, Any] | None = None
    ecs: tuple[str, ...] = ()
    plain: ColumnElement[bool] | None = None


def plain(filter_: Filter, *, limited: bool = False) -> Iterator[Condition]:
    """Yield the conditions without alternatives, those that promise fewest receipts first.

    `limited`: for a transaction that is limited to ECs.
    """
    receipt, flags = tables.receipt.c, tables.receipt_flag.c
    for name in ("receipt_id", "iuv", "notice_number"):
        if (value := getattr(filter_, name)) is not None:
            yield Condition(receipt[name] == value)
    if filter_.flag is not None:
        yield Condition(flags.flag == filter_.flag, in_order="received_at", table=tables.receipt_flag)
    if filter_.digital_stamp:
        # As the index has it, word by word: a condition with parameters would not be known for the same.
        yield Condition(text("receipt.digital_stamp"), in_order="received_at")  # type: ignore[arg-type]
    if filter_.amount_from is not None and filter_.amount_from == filter_.amount_to:
        yield _sought(lambda t: t.c.amount == filter_.amount_from, limited=limited, in_order="received_at")
    elif filter_.amount_from is not None or filter_.amount_to is not None:
        limits = ("amount", filter_.amount_from, filter_.amount_to)
        yield _sought(lambda t: and_(*within(t.c.amount, limits)), limited=limited)
    yield from _range(receipt.payment_date_time, filter_.paid_from, filter_.paid_to)
    if filter_.source is not None:
        if filter_.source == "push":  # nearly all
            yield Condition(receipt.source == filter_.source, indexed=False)
        else:
            yield Condition(and_(receipt.source == filter_.source, text("source <> 'push'")), in_order="received_at")
    if filter_.id_psp is not None:
        yield Condition(receipt.id_psp == filter_.id_psp, in_order="received_at")
    if (ecs := filter_.ecs) is not None:
        if len(ecs) == 1:
            yield from each_ec(filter_)
        else:  # in no order: see `search.plan`
            yield Condition(receipt.id_pa.in_(ecs), ecs=ecs)
    yield from _range(receipt.received_at, filter_.received_from, filter_.received_to)
    if filter_.name is not None:
        yield Condition(_named(filter_.name), indexed=False)


def _sought(clause: Callable[[Any], ColumnElement[bool]], *, limited: bool, in_order: str | None = None) -> Condition:
    """Return a condition on receipts, which a limited transaction looks for in `console_receipt`."""
    own = clause(tables.receipt)
    if not limited:
        return Condition(own, in_order=in_order)
    return Condition(clause(console_receipt), in_order=in_order, table=console_receipt, plain=own)


def each_ec(filter_: Filter) -> list[Condition]:
    """Return a condition for each of the ECs that are looked for; none where these are all."""
    return [Condition(tables.receipt.c.id_pa == ec, in_order="received_at") for ec in filter_.ecs or ()]


def _range(column: Any, start: Any, end: Any) -> Iterator[Condition]:
    limits = (column.name, start, end)
    if clauses := within(column, limits):
        in_order = column.name if column.name in ORDERS else None
        yield Condition(and_(*clauses), in_order=in_order, limits=limits)


def within(column: Any, limits: tuple[str, Any, Any]) -> list[ColumnElement[bool]]:
    """Return the clauses of a range: amounts include its end, times do not, so that days follow one another."""
    name, start, end = limits
    clauses = [] if start is None else [column >= start]
    if end is not None:
        clauses.append(column <= end if name == "amount" else column < end)
    return clauses


def persons(filter_: Filter, *, limited: bool = False) -> Iterator[tuple[Condition, ...]]:
    """Yield debtor and payer, as choices. A person who pays for themselves is in the debtors' index only."""
    receipt = tables.receipt.c

    def debtor(id_: str) -> Condition:
        return _sought(lambda t: _alike(t, "debtor_id", id_), limited=limited, in_order="received_at")

    def payer(id_: str) -> Condition:
        def is_payer(t: Any) -> ColumnElement[bool]:
            return and_(_alike(t, "payer_id", id_), text(f"{t.name}.payer_id <> {t.name}.debtor_id"))

        return _sought(is_payer, limited=limited, in_order="received_at")

    given: list[list[tuple[Condition, ...]]] = []
    if (id_ := filter_.debtor_id) is not None:
        given.append([(debtor(id_),)])
    if (id_ := filter_.payer_id) is not None:
        # In a function: of two columns PostgreSQL believes that one row in 200 has them equal, and it would sort them.
        himself = Condition(func.coalesce(receipt.payer_id == receipt.debtor_id, false()), indexed=False)
        given.append([(debtor(id_), himself), (payer(id_),)])
    if (id_ := filter_.person_id) is not None:
        given.append([(debtor(id_),), (payer(id_),)])
    for choices in product(*given):
        yield tuple(condition for choice in choices for condition in choice)


def _alike(of: Any, name: str, id_: str) -> ColumnElement[bool]:
    """Compare a column with a fiscal code, however either is written. The index has the expression word by word."""
    return literal_column(tables.ALIKE.format(f"{of.name}.{name}"), String()) == func.upper(func.replace(id_, " ", ""))


def _named(name: str) -> ColumnElement[bool]:
    """Look for all words in the debtor's name, or all in the payer's, whatever their capitals and accents."""
    patterns = ["".join(map(_pattern, _plain(word))) for word in name.split()]
    columns = (tables.receipt.c.debtor_name, tables.receipt.c.payer_name)
    return or_(*(and_(*(column.regexp_match(pattern) for pattern in patterns)) for column in columns))


def _plain(text: str) -> str:
    """Return text in small letters without accents."""
    return "".join(_BASE.get(char, char) for char in normalize("NFD", text.lower()) if not combining(char))


def _pattern(char: str) -> str:
    """Return the regular expression for a plain character and its variants, in PostgreSQL as in Python."""
    if char in _SAME or char.isalpha():
        return f"[{_SAME.get(char) or char + char.upper()}][\u0300-\u036f]*"
    return f"\\{char}" if char.isascii() and not char.isdigit() else char


_BASE = {"ø": "o", "đ": "d", "ł": "l", "ı": "i", "’": "'", "‘": "'", "`": "'"}
_SAME = {"'": "'’‘`"}
for _char in map(chr, (*range(0xC0, 0x180), *range(0x218, 0x21C))):
    _base = _plain(_char)
    if len(_base) == 1 and _base.isascii() and _base.isalpha():
        _SAME[_base] = _SAME.get(_base, _base + _base.upper()) + _char


def routes(connection: Connection, filter_: Filter) -> Iterator[tuple[Condition, ...]]:
    """Yield broker and station, of a receipt's first arrival and of later ones. It may be in several choices."""
    if filter_.id_broker_pa is None and filter_.id_station is None:
        yield ()
        return
    route = tables.receipt_route
    for id_broker_pa, id_station in _pairs(connection, filter_):
        first = and_(tables.receipt.c.id_broker_pa == id_broker_pa, tables.receipt.c.id_station == id_station)
        yield (Condition(first, in_order="received_at"),)
    given = [
        route.c[name] == value
        for name in ("id_broker_pa", "id_station")
        if (value := getattr(filter_, name)) is not None
    ]
    yield (Condition(and_(*given), in_order="received_at", table=route),)


def _pairs(connection: Connection, filter_: Filter) -> list[tuple[str, str]]:
    """Return the pairs of broker and station that receipts first came by and that the filter asks for."""
    receipt = tables.receipt.c
    brokers = [filter_.id_broker_pa] if filter_.id_broker_pa else distinct(connection, receipt.id_broker_pa)
    if filter_.id_station is not None:
        return [(broker, filter_.id_station) for broker in brokers]
    return [
        (broker, station)
        for broker in brokers
        for station in distinct(connection, receipt.id_station, receipt.id_broker_pa == broker)
    ]


def distinct(connection: Connection, column: Any, *conditions: Any) -> Iterator[str]:
    """Yield the few values of a column that an index starts with: one look-up for each, however many rows there are."""
    last = ""
    while True:
        query = select(func.min(column)).where(column > last, *conditions)
        value = connection.execute(query).scalar_one()
        if value is None:
            return
        yield value
        last = value
