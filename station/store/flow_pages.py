"""Flows for people: a page of them, one with its sums, and the one that a bank transfer names. Nothing here commits."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, and_, case, func, literal, or_, select, text, tuple_

from station.store.credited import ARRIVED, FLOW, MISSING, PAYMENT, STATUS_NO_RPT
from station.store.limits import among
from station.store.paging import RowPlace
from station.store.tables import Euro, fdr_flow

_KEY = ("id_pa", "fdr", "psp_id", "revision")
_p, _f = PAYMENT, FLOW
_ITS_PAYMENTS = and_(*(_p.c[name] == _f.c[name] for name in _KEY))
ORDER = ("published", *_KEY)
_IS_UNREAD = _f.c.fetched_at.is_(None)
_DIFFERS = or_(
    _f.c.sum_payments != _f.c.credited,
    _f.c.computed_sum_payments != _f.c.sum_payments,
    _f.c.computed_tot_payments != _f.c.tot_payments,
)


def page_of_flows(
    connection: Connection,
    id_pas: Sequence[str] | None,
    *,
    published_from: datetime | None = None,
    published_to: datetime | None = None,
    psp: str | None = None,
    only_problems: bool = False,
    dated: bool = True,
    after: RowPlace | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Return flows in their latest revision, the latest published first, each with the number of `missing` receipts.

    Of these ECs or (`None`) of all; `psp`: id or a part of the name. `only_problems`: those that could not be read,
    lack receipts, or whose sums differ. `dated=False`: those without a time of publication, which have no order.
    `after`: behind the place (`ORDER`).
    """
    place = [_f.c[name] for name in ORDER]
    query = select(*_f.c).where(text("NOT f.superseded"), *among(_f.c.id_pa, id_pas))
    query = query.where(_f.c.published.is_not(None) if dated else _f.c.published.is_(None))
    if published_from is not None:
        query = query.where(_f.c.published >= published_from)
    if published_to is not None:
        query = query.where(_f.c.published < published_to)
    if psp is not None:
        named = func.lower(_f.c.psp_name).contains(psp.lower(), autoescape=True)
        query = query.where(or_(func.lower(_f.c.psp_id) == psp.lower(), named))
    if only_problems:
        lacks = select(literal(1)).select_from(_p).where(_ITS_PAYMENTS, MISSING).correlate(_f).exists()
        query = query.where(or_(_IS_UNREAD, _DIFFERS, lacks))
    if after is not None:
        query = query.where(tuple_(*place) < tuple_(*after.literals()))
    query = query.order_by(*(column.desc() for column in place)).limit(limit)
    found = [dict(row) for row in connection.execute(query).mappings()]
    keys = [tuple(flow[name] for name in _KEY) for flow in found]
    mine = [_p.c[name] for name in _KEY]
    count = select(*mine, func.count()).where(tuple_(*mine).in_(keys), MISSING).group_by(*mine)
    missing = {tuple(row[:4]): row[4] for row in connection.execute(count)} if keys else {}
    return [flow | {"missing": missing.get(key, 0)} for flow, key in zip(found, keys, strict=True)]


def find_flow(
    connection: Connection, id_pa: str, fdr: str, psp_id: str, revision: int | None = None
) -> Row[Any] | None:
    """Return a flow with all its columns, in the latest revision or in this one."""
    query = select(fdr_flow).filter_by(id_pa=id_pa, fdr=fdr, psp_id=psp_id)
    if revision is not None:
        query = query.filter_by(revision=revision)
    return connection.execute(query.order_by(fdr_flow.c.revision.desc()).limit(1)).one_or_none()


def revisions_of(connection: Connection, flow: Row[Any], *, limit: int = 50) -> list[Row[Any]]:
    """Return the revisions of a flow, the latest first: `revision`, `published`, `fetched_at`, `superseded`."""
    columns = (fdr_flow.c[name] for name in ("revision", "published", "fetched_at", "superseded"))
    query = select(*columns).filter_by(id_pa=flow.id_pa, fdr=flow.fdr, psp_id=flow.psp_id)
    return list(connection.execute(query.order_by(fdr_flow.c.revision.desc()).limit(limit)))


class FlowSums(NamedTuple):
    """The payments of a flow as they are here, in number and euro; those without a receipt apart."""

    number: int
    amount: Decimal
    missing: int
    missing_amount: Decimal
    not_expected: int
    not_expected_amount: Decimal


def sums_of_flow(connection: Connection, flow: Row[Any]) -> FlowSums:
    """Add up the payments of a flow."""
    without = and_(_p.c.matched_by.is_(None), ARRIVED.is_(None))
    kind = case(
        (~without, literal(0)), (_p.c.pay_status.in_(STATUS_NO_RPT), literal(2)), else_=literal(1)
    ).label("kind")  # fmt: skip
    one = select(kind, _p.c.amount).where(*(_p.c[name] == getattr(flow, name) for name in _KEY)).subquery()
    query = select(one.c.kind, func.count(), func.sum(one.c.amount, type_=Euro())).group_by(one.c.kind)
    zero = (0, Decimal("0.00"))
    by_kind = {row[0]: (row[1], row[2]) for row in connection.execute(query)}
    number = sum(count for count, _ in by_kind.values())
    amount = sum((euro for _, euro in by_kind.values()), Decimal("0.00"))
    return FlowSums(number, amount, *by_kind.get(1, zero), *by_kind.get(2, zero))


def flows_with_trn(connection: Connection, trn: str, id_pas: Sequence[str] | None, *, limit: int) -> list[Row[Any]]:
    """Return the flows of the bank transfer with this TRN, in their latest revision. No index has it: all are read."""
    query = select(*_f.c).where(text("NOT f.superseded"), _f.c.regulation == trn, *among(_f.c.id_pa, id_pas))
    return list(connection.execute(query.order_by(_f.c.id_pa, _f.c.fdr, _f.c.psp_id).limit(limit)))


def unread_named(connection: Connection, name: str, id_pas: Sequence[str] | None, *, limit: int) -> list[Row[Any]]:
    """Return the flows with exactly this name that are listed and could not be read so far."""
    query = select(*_f.c).where(text("NOT f.superseded"), _IS_UNREAD, _f.c.fdr == name, *among(_f.c.id_pa, id_pas))
    return list(connection.execute(query.order_by(_f.c.id_pa, _f.c.psp_id).limit(limit)))
