"""What was credited, for people and for monitoring: a flow with who paid what, what is missing, and sums in euro.

A credited payment without a receipt is missing, unless it is of a kind that may never have one. A receipt that came
since the last matching counts. Nothing here commits, and nothing is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    Select,
    String,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
)

from station.store import tables
from station.store.flows import NEVER
from station.store.limits import among
from station.store.matching import HAS_RECEIPT
from station.store.paging import RowPlace
from station.store.runs import IN_FDR, NOT_EXPECTED, OF_FLOWS
from station.store.tables import Euro, UtcDateTime

STATUS_NO_RPT = (8, 9)  # STAND_IN_NO_RPT and NO_RPT: they may never have a receipt

_p, _f, _i = tables.fdr_payment.alias("p"), tables.fdr_flow.alias("f"), tables.reconcile_item.alias("i")
_receipt, _transfer, _awaited = tables.receipt.alias("o"), tables.transfer.alias("u"), tables.fdr_awaited.alias("a")
_FLOW_KEY = ("id_pa", "fdr", "psp_id", "revision")
_ITS_FLOW = and_(*(_p.c[name] == _f.c[name] for name in _FLOW_KEY))
# The condition of the partial index, word by word.
_OPEN = text("p.matched_by IS NULL AND NOT p.superseded")
_ARRIVED: Any = literal_column(HAS_RECEIPT.format("p.id_pa"), String())
_MISSING = and_(_OPEN, _p.c.pay_status.not_in(STATUS_NO_RPT), _ARRIVED.is_(None))
PAYMENT, FLOW, MISSING, ARRIVED = _p, _f, _MISSING, _ARRIVED  # for `flow_pages`
_ZERO = literal(Decimal(0), Euro())


def _sum(column: Any) -> Any:
    return func.coalesce(func.sum(column), _ZERO, type_=Euro())


# --- missing: credited, and no receipt --------------------------------------------------------------------------------


def missing_payments(
    connection: Connection, id_pas: Sequence[str] | None, *, after: RowPlace | None = None, limit: int
) -> list[Row[Any]]:
    """Return credited payments without a receipt, of these ECs or (`None`) of all, those paid first coming first.

    With the flow's PSP, TRN and days, how often the receipt was asked for, and `since`, when it was paid at the latest.
    `after`: behind the place (`since`, EC, flow, PSP, revision, position).
    """
    since = func.coalesce(_p.c.pay_date, _f.c.flow_date, _f.c.published, _f.c.listed_at, type_=UtcDateTime())
    place = (since, *(_p.c[name] for name in (*_FLOW_KEY, "position")))
    behind = [] if after is None else [tuple_(*place) > tuple_(*after.literals())]
    query = (
        select(
            *(_p.c[name] for name in (*_FLOW_KEY, "position", "iuv", "iur", "id_transfer", "amount", "pay_status",
                                      "pay_date")),
            _f.c.psp_name, _f.c.regulation, _f.c.regulation_date, _f.c.flow_date,
            _i.c.state, _i.c.attempts, _i.c.first_at, _i.c.last_at, _i.c.last_error, since.label("since"),
        )
        .select_from(_p.join(_f, _ITS_FLOW).outerjoin(_i, (_i.c.id_pa == _p.c.id_pa) & (_i.c.iuv == _p.c.iuv)))
        .where(_MISSING, *among(_p.c.id_pa, id_pas), *behind)
        .order_by(*place)
        .limit(limit)
    )  # fmt: skip
    return list(connection.execute(query))


def missing_to_ask(
    connection: Connection, id_pa: str, started: datetime, *, after: tuple[str, str] = ("", ""), limit: int
) -> list[Row[Any]]:
    """Return the receipts to be asked for of an EC's payments that have none, a page behind the place `after`.

    `iuv`, `iur`, `amount`, and `reason` (`in_fdr`, or `not_expected` where there may never be one). To be asked for is
    what no item tells of, an open one whose time has come, one that was written since the run `started`, and one that
    `reconcile` opened: that a flow has the payment is news.
    """
    its_time = or_(_i.c.next_attempt_at <= started, _i.c.last_at >= started)
    due = or_(_i.c.iuv.is_(None), and_(_i.c.state == "open", or_(its_time, _i.c.reason.not_in(OF_FLOWS))))
    expected = func.max(case((_p.c.pay_status.in_(STATUS_NO_RPT), 0), else_=1))
    reason = case((expected == 1, IN_FDR), else_=NOT_EXPECTED).label("reason")
    query = select(_p.c.iuv, _p.c.iur, func.min(_p.c.amount, type_=Euro()).label("amount"), reason).where(
        _p.c.id_pa == id_pa,
        _OPEN,
        _ARRIVED.is_(None),
        due,
        tuple_(_p.c.iuv, _p.c.iur) > tuple_(literal(after[0]), literal(after[1])),
    )
    query = query.select_from(_p.outerjoin(_i, (_i.c.id_pa == _p.c.id_pa) & (_i.c.iuv == _p.c.iuv)))
    return list(connection.execute(query.group_by(_p.c.iuv, _p.c.iur).order_by(_p.c.iuv, _p.c.iur).limit(limit)))


def close_credited(connection: Connection, id_pa: str) -> int:
    """Delete the EC's items of flows of which every payment has its receipt by now, and return how many."""
    item = tables.reconcile_item
    still = (
        select(literal(1))
        .select_from(_p)
        .where(_p.c.id_pa == item.c.id_pa, _p.c.iuv == item.c.iuv, _OPEN, _ARRIVED.is_(None))
    )
    done = item.delete().where(item.c.id_pa == id_pa, item.c.reason.in_(OF_FLOWS), ~still.correlate(item).exists())
    return connection.execute(done).rowcount


class MissingTotal(NamedTuple):
    """The missing receipts of an EC, in number and euro, and when the oldest was paid."""

    id_pa: str
    number: int
    amount: Decimal
    oldest: datetime | None


def missing_totals(connection: Connection, id_pas: Sequence[str] | None = None) -> list[MissingTotal]:
    """Return the missing receipts of each EC, of these or of all, that has some."""
    oldest = func.min(func.coalesce(_p.c.pay_date, _f.c.flow_date), type_=UtcDateTime())
    query = select(_p.c.id_pa, func.count(), _sum(_p.c.amount), oldest).select_from(_p.join(_f, _ITS_FLOW))
    query = query.where(_MISSING, *among(_p.c.id_pa, id_pas))
    return [MissingTotal(*row) for row in connection.execute(query.group_by(_p.c.id_pa))]


# --- not credited: a receipt, and no flow -----------------------------------------------------------------------------


def uncredited(
    connection: Connection,
    id_pa: str,
    *,
    paid_to: datetime,
    paid_from: datetime | None = None,
    after: RowPlace | None = None,
    limit: int,
) -> list[Row[Any]]:
    """Return transfers to the EC that were paid before `paid_to` and that no flow has, in that order.

    `after`: behind the place (`paid_at`, receiptId, position).
    """
    place = (_awaited.c.paid_at, _awaited.c.receipt_id, _awaited.c.position)
    query = (
        select(
            _awaited.c.id_pa, _awaited.c.receipt_id, _awaited.c.position, _awaited.c.id_transfer, _awaited.c.amount,
            _awaited.c.paid_at,
            *(_receipt.c[name] for name in ("notice_number", "iuv", "fiscal_code", "debtor_id", "debtor_name", "id_psp",
                                            "psp_company_name", "payment_method")),
            *(_transfer.c[name] for name in ("remittance_information", "transfer_category", "iban")),
        )
        .select_from(
            _awaited.join(
                _receipt,
                (_receipt.c.id_pa == _awaited.c.id_pa) & (_receipt.c.receipt_id == _awaited.c.receipt_id),
            ).outerjoin(
                _transfer,
                (_transfer.c.id_pa == _awaited.c.id_pa) & (_transfer.c.receipt_id == _awaited.c.receipt_id)
                & (_transfer.c.position == _awaited.c.position),
            )
        )
        .where(_awaited.c.id_pa == id_pa, _awaited.c.paid_at < paid_to)
        .order_by(*place)
        .limit(limit)
    )  # fmt: skip
    if after is not None:
        query = query.where(tuple_(*place) > tuple_(*after.literals()))
    return list(connection.execute(query if paid_from is None else query.where(_awaited.c.paid_at >= paid_from)))


# --- sums -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Balance:
    """An EC's euro, of the flows that were matched: `credited` is the sum of the next three.

    `not_expected`: credited by payments that may never have a receipt. `not_yet`: told of by receipts, in no flow, and
    not due; `uncredited`: likewise, and due.
    """

    credited: Decimal
    with_receipt: Decimal
    missing: Decimal
    not_expected: Decimal
    not_yet: Decimal
    uncredited: Decimal
    payments_missing: int
    transfers_uncredited: int


def balance(connection: Connection, id_pa: str, *, paid_to: datetime | None) -> Balance:
    """Return an EC's sums. What was paid before `paid_to` is due in a flow; `None`: nothing is."""
    flow = _f.c
    counted = (flow.id_pa == id_pa, flow.credited.is_not(None), text("NOT f.superseded"))
    credited = connection.execute(select(_sum(flow.credited)).where(*counted)).scalar_one()
    without = select(_sum(_p.c.amount), func.count()).select_from(_p.join(_f, _ITS_FLOW)).where(*counted, _OPEN)
    missing, number = connection.execute(without.where(_MISSING)).one()
    is_not_expected = and_(_p.c.pay_status.in_(STATUS_NO_RPT), _ARRIVED.is_(None))
    not_expected, _ = connection.execute(without.where(is_not_expected)).one()
    awaited = select(_sum(_awaited.c.amount), func.count()).where(_awaited.c.id_pa == id_pa)
    in_all, _ = connection.execute(awaited).one()
    overdue, late = Decimal(0), 0
    if paid_to is not None:
        overdue, late = connection.execute(awaited.where(_awaited.c.paid_at < paid_to)).one()
    with_receipt = credited - missing - not_expected
    return Balance(credited, with_receipt, missing, not_expected, in_all - overdue, overdue, number, late)


# --- flows ------------------------------------------------------------------------------------------------------------

_FLOW = (
    *_FLOW_KEY, "published", "flow_date", "regulation", "regulation_date", "psp_name", "receiver_id", "receiver_name",
    "tot_payments", "sum_payments", "credited", "fetched_at", "error",
)  # fmt: skip


def flows_named(
    connection: Connection, name: str, id_pas: Sequence[str] | None, *, amount: Decimal | None = None, limit: int
) -> list[Row[Any]]:
    """Return the flows whose name is `name`, or where there is none begins with it, in their latest revision.

    Of these ECs or (`None`) of all. With `amount` those of which the payments, or the PSP's sum, are so many euro.
    """
    table = tables.fdr_flow.c
    query = select(*(table[column] for column in _FLOW)).where(~table.superseded, table.fetched_at.is_not(None))
    query = query.where(*among(table.id_pa, id_pas)).order_by(table.fdr, table.id_pa, table.psp_id).limit(limit)
    if amount is not None:
        query = query.where(or_(table.credited == amount, table.sum_payments == amount))
    found = list(connection.execute(query.where(table.fdr == name)))
    if not found:
        # A range that an index finds by any collation; the last condition makes it exact.
        query = query.where(
            table.fdr >= name, table.fdr <= name + "z" * 35, func.substr(table.fdr, 1, len(name)) == name
        )
        found = list(connection.execute(query))
    return found


def list_flows(
    connection: Connection,
    id_pas: Sequence[str] | None,
    *,
    published_from: datetime | None = None,
    published_to: datetime | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Return flows in their latest revision, the latest published first, with the number of payments without a receipt.

    Of these ECs or (`None`) of all; with `published_to` those published before it.
    """
    query: Select[Any] = select(*(_f.c[name] for name in _FLOW)).where(text("NOT f.superseded"))
    query = query.where(*among(_f.c.id_pa, id_pas))
    if published_from is not None:
        query = query.where(_f.c.published >= published_from)
    if published_to is not None:
        query = query.where(_f.c.published < published_to)
    order = (_f.c.published.desc(), _f.c.id_pa, _f.c.fdr)
    found = [dict(row) for row in connection.execute(query.order_by(*order).limit(limit)).mappings()]
    # All at once: for each flow by itself a planner without statistics reads all that is missing, 2,000 times.
    key = [_p.c[name] for name in _FLOW_KEY]
    count = select(*key, func.count()).where(_MISSING, _p.c.id_pa.in_({flow["id_pa"] for flow in found}))
    missing = {tuple(row[:4]): row[4] for row in connection.execute(count.group_by(*key))}
    return [flow | {"missing": missing.get(tuple(flow[name] for name in _FLOW_KEY), 0)} for flow in found]


_WHO = ("notice_number", "debtor_id", "debtor_name", "payer_name", "description", "source")
_WHAT = ("remittance_information", "transfer_category", "iban")


def payments_of(
    connection: Connection,
    flow: Row[Any],
    id_pas: Sequence[str] | None = None,
    *,
    after: int = -1,
    limit: int | None = None,
) -> list[Row[Any]]:
    """Return the payments of a flow in their order, each with its receipt and the transfer, as far as they are here.

    Those behind the position `after`, at most `limit`.

    A receipt may be that of another EC of ours, the flow's receiver: with `id_pas` only receipts of these ECs are told
    of. `receipt_id` is null without a receipt; `matched_by` is null of one that came since the last matching.
    """
    of = func.coalesce(_p.c.receipt_id_pa, _ARRIVED)
    key = (_receipt.c.id_pa == of, _receipt.c.receipt_id == func.coalesce(_p.c.receipt_id, _p.c.iur))
    found = and_(*key, *among(_receipt.c.id_pa, id_pas))
    columns = ("position", "iuv", "iur", "id_transfer", "amount", "pay_status", "pay_date", "matched_by")
    query = (
        select(
            *(_p.c[name] for name in columns), _receipt.c.id_pa.label("receipt_id_pa"), _receipt.c.receipt_id,
            *(_receipt.c[name] for name in _WHO), *(_transfer.c[name] for name in _WHAT),
        )
        .select_from(_p.outerjoin(_receipt, found).outerjoin(_transfer, _its_transfer(_p)))
        .where(*(_p.c[name] == getattr(flow, name) for name in _FLOW_KEY), _p.c.position > after)
        .order_by(_p.c.position)
        .limit(limit)
    )  # fmt: skip
    return list(connection.execute(query))


def flows_of(connection: Connection, id_pa: str, receipt_id: str, id_pas: Sequence[str] | None) -> list[Row[Any]]:
    """Return the payments of flows that were matched with a receipt, each with its flow: by transfer and day.

    The flow may be that of another EC, which the payment was credited to: only flows of these ECs or (`None`) of all.
    """
    query = (
        select(
            *(_p.c[name] for name in (*_FLOW_KEY, "id_transfer", "amount", "pay_status", "pay_date", "matched_by")),
            *(_f.c[name] for name in ("flow_date", "regulation", "regulation_date", "psp_name")),
        )
        .select_from(_p.join(_f, _ITS_FLOW))
        # As the partial index has it: what is equal to a receiptId is not null.
        .where(_p.c.receipt_id == receipt_id, _p.c.receipt_id_pa == id_pa, ~_p.c.superseded, *among(_p.c.id_pa, id_pas))
        .order_by(_p.c.id_transfer, _f.c.flow_date, _p.c.fdr)
    )
    return list(connection.execute(query))


def _its_transfer(payment: Any) -> Any:
    """Return the condition for the transfer that a payment names, or where it names none for one of its amount."""
    t = tables.transfer.alias("w")
    first = select(func.min(t.c.position)).where(
        t.c.id_pa == _receipt.c.id_pa, t.c.receipt_id == _receipt.c.receipt_id, t.c.fiscal_code_pa == t.c.id_pa
    )
    first = first.correlate(_receipt, payment)
    place = func.coalesce(
        first.where(t.c.id_transfer == payment.c.id_transfer).scalar_subquery(),
        first.where(t.c.amount == payment.c.amount).scalar_subquery(),
    )
    key = (_transfer.c.id_pa == _receipt.c.id_pa, _transfer.c.receipt_id == _receipt.c.receipt_id)
    return and_(*key, _transfer.c.position == place)


def paid_with_iuv(connection: Connection, iuv: str, id_pas: Sequence[str] | None, *, limit: int) -> list[Row[Any]]:
    """Return the transfers to an EC that receipts with an IUV tell of: a bank line of its own names it.

    Of these ECs or (`None`) of all.
    """
    query = (
        select(
            _receipt.c.id_pa, _receipt.c.iuv, _receipt.c.receipt_id, _receipt.c.payment_date_time,
            _receipt.c.psp_company_name, *(_receipt.c[name] for name in _WHO),
            _transfer.c.id_transfer, _transfer.c.amount, *(_transfer.c[name] for name in _WHAT),
        )
        .select_from(
            _receipt.join(
                _transfer,
                (_transfer.c.id_pa == _receipt.c.id_pa) & (_transfer.c.receipt_id == _receipt.c.receipt_id)
                & (_transfer.c.fiscal_code_pa == _receipt.c.id_pa),
            )
        )
        .where(_receipt.c.iuv == iuv, *among(_receipt.c.id_pa, id_pas))
        .order_by(_receipt.c.received_at, _receipt.c.receipt_id, _transfer.c.position)
        .limit(limit)
    )  # fmt: skip
    return list(connection.execute(query))


def due_before(connection: Connection, id_pa: str, due_days: int) -> datetime | None:
    """Return up to when what was paid must be in a flow by now: so many days before the last complete walk, and before
    the oldest flow that is listed, is still tried and could not be read, which may have it.

    `None`: the EC was never walked completely, so nothing can be said.
    """
    walked = select(tables.fdr_ec.c.watermark).where(
        tables.fdr_ec.c.id_pa == id_pa, tables.fdr_ec.c.walked_at.is_not(None)
    )
    watermark: datetime | None = connection.execute(walked).scalar()
    if watermark is None:
        return None
    flow = tables.fdr_flow.c
    of_flow = func.coalesce(flow.flow_date, flow.published, flow.listed_at)
    unread = select(func.min(of_flow)).where(
        flow.id_pa == id_pa, flow.fetched_at.is_(None), ~flow.superseded, flow.next_attempt_at < NEVER
    )
    oldest: datetime = connection.execute(unread).scalar() or watermark
    return min(watermark, oldest) - timedelta(days=due_days)
