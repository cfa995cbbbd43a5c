"""Takings: the transfers that receipts tell of, added up for bookkeeping. Nothing here commits or names a person.

Each EC that has a part in a payment gets a copy of its receipt, and every copy tells of all transfers. So a transfer is
an EC's takings in the copy for its beneficiary, where `fiscal_code_pa` is `id_pa`, and in no other copy: a reader who
sees the copies of several ECs has it counted once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, case, false, func, literal, literal_column, select

from station.receipt import Source
from station.store import tables
from station.store.conditions import ORDERS
from station.store.limits import among
from station.store.paging import Cursor, in_order

GROUPS_MAX = 20_000  # more of them are no bookkeeping, and a page's memory

_r, _t, _copy = tables.receipt.alias("r"), tables.transfer.alias("t"), tables.receipt.alias("c")
_OF_RECEIPT = and_(_t.c.id_pa == _r.c.id_pa, _t.c.receipt_id == _r.c.receipt_id)


class TakingsKind(StrEnum):
    """What a transfer is for the EC of its receipt."""

    OWN = "own"  # its takings
    STAMP = "stamp"  # a digital stamp that it sold: the money goes to the tax office
    OTHER = "other"  # another EC's part of the payment
    FAILED = "failed"  # the receipt's outcome is KO: nothing was paid


_KIND = case(
    (_r.c.outcome != "OK", literal_column(f"'{TakingsKind.FAILED}'")),
    (_t.c.fiscal_code_pa != _r.c.id_pa, literal_column(f"'{TakingsKind.OTHER}'")),
    (_t.c.digital_stamp, literal_column(f"'{TakingsKind.STAMP}'")),
    else_=literal_column(f"'{TakingsKind.OWN}'"),
)
_IBAN = func.coalesce(_t.c.iban, literal_column("''"))


@dataclass(frozen=True, slots=True)
class TakingsRange:
    """Receipts of these ECs (`None`: of all) whose time `by`, one of `ORDERS`, is from `start` on and before `end`."""

    id_pas: Sequence[str] | None
    by: str
    start: datetime
    end: datetime

    def clauses(self, connection: Connection, receipt: Any) -> list[ColumnElement[bool]]:
        """Return the conditions. SQLite, which keeps no statistics, is to take the index of the time in any case."""
        if self.by not in ORDERS:
            raise ValueError(self.by)
        of_ecs = among(receipt.id_pa, self.id_pas)
        if connection.dialect.name == "sqlite":
            of_ecs = [func.coalesce(clause, false()) for clause in of_ecs]
        return [receipt[self.by] >= self.start, receipt[self.by] < self.end, *of_ecs]


class TakingsGroup(NamedTuple):
    """Transfers that are alike: their number, and their sum in euro.

    `id_pa` is the EC of the receipts, `owner` the beneficiary with one of the names that receipts give it. `iban` is
    empty where there is none. `provisional`: of receipts that BizEvents told of. `again`: of another EC's, and among
    its own takings of the same range, as far as the reader sees these.
    """

    id_pa: str
    owner: str
    kind: str
    category: str
    iban: str
    provisional: bool
    again: bool
    number: int
    amount: Decimal
    name: str | None


def add_up(connection: Connection, chosen: TakingsRange, seen: Sequence[str] | None) -> list[TakingsGroup]:
    """Return all transfers of the receipts in a range, in groups; `GROUPS_MAX` and one more, at most.

    `seen`: the ECs that the reader may see, `None` all.
    """
    its_copy = select(literal(1)).where(
        _copy.c.id_pa == _t.c.fiscal_code_pa,
        _copy.c.receipt_id == _r.c.receipt_id,
        _copy.c[chosen.by] >= chosen.start,
        _copy.c[chosen.by] < chosen.end,
        *among(_copy.c.id_pa, seen),
    )
    again = case((_t.c.fiscal_code_pa != _r.c.id_pa, its_copy.correlate(_r, _t).exists()), else_=false())
    one = (
        select(
            _r.c.id_pa, _t.c.fiscal_code_pa.label("owner"), _KIND.label("kind"), _t.c.transfer_category,
            _IBAN.label("iban"), (_r.c.source == Source.BIZEVENTS.value).label("provisional"), again.label("again"),
            _t.c.amount, _t.c.company_name,
        )
        .select_from(_r.join(_t, _OF_RECEIPT))
        .where(*chosen.clauses(connection, _r.c))
        .subquery()
    )  # fmt: skip
    alike = [column for column in one.c if column.name not in ("amount", "company_name")]
    summed = (func.count().label("number"), func.sum(one.c.amount, type_=tables.Euro()).label("amount"))
    query = select(*alike, *summed, func.max(one.c.company_name).label("name")).group_by(*alike)
    # The limit apart: PostgreSQL's planner would sort all transfers, in the hope of the first groups only.
    groups = query.cte("groups").prefix_with("MATERIALIZED", dialect="postgresql")
    found = connection.execute(select(groups).limit(GROUPS_MAX + 1))
    return [TakingsGroup._make(row) for row in found]


def count_undated(connection: Connection, chosen: TakingsRange) -> int:
    """Count the receipts that arrived in the range and have no time of payment: no range of payments has them."""
    by_arrival = TakingsRange(chosen.id_pas, "received_at", chosen.start, chosen.end).clauses(connection, _r.c)
    if connection.dialect.name == "sqlite":
        by_arrival = [func.coalesce(clause, false()) for clause in by_arrival]
    query = select(func.count()).select_from(_r).where(_r.c.payment_date_time.is_(None), *by_arrival)
    return connection.execute(query).scalar_one()


def receipts_behind(
    connection: Connection,
    chosen: TakingsRange,
    *,
    kind: str | None = None,
    owner: str | None = None,
    category: str | None = None,
    iban: str | None = None,
    after: Cursor | None = None,
    limit: int,
) -> list[Row[Any]]:
    """Return a page of the receipts that transfers of a range are of, the oldest first: what a sum is made of.

    With the number of these transfers and their sum. `iban` is empty for transfers without one.
    """
    conditions = [
        column == value
        for column, value in (
            (_KIND, kind), (_t.c.fiscal_code_pa, owner), (_t.c.transfer_category, category), (_IBAN, iban),
        )
        if value is not None
    ]  # fmt: skip
    place = (_r.c[chosen.by], _r.c.id_pa, _r.c.receipt_id)
    keys = select(*place).where(
        *chosen.clauses(connection, _r.c), select(literal(1)).where(_OF_RECEIPT, *conditions).correlate(_r).exists()
    )
    if after is not None:
        keys = keys.where(after.behind(place))
    page = keys.order_by(*in_order(place)).limit(limit).subquery("page")
    names = ("id_pa", "receipt_id", "notice_number", "iuv", "payment_date_time", "received_at", "psp_company_name")
    columns = [*(_r.c[name] for name in names), (_r.c.source == Source.BIZEVENTS.value).label("provisional")]
    query = (
        select(*columns, func.count().label("number"), func.sum(_t.c.amount, type_=tables.Euro()).label("sum"))
        .select_from(
            page.join(_r, and_(_r.c.id_pa == page.c.id_pa, _r.c.receipt_id == page.c.receipt_id)).join(_t, _OF_RECEIPT)
        )
        .where(*conditions)
        .group_by(*columns)
        .order_by(*in_order(place))
    )
    return list(connection.execute(query))
