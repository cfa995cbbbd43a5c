# ruff: noqa: S608  (statements are put together of constants)
"""Matching, both ways: the payments that flows list with receipts, and the transfers that receipts tell of with flows.

A payment is matched by its IUR, which should be the receiptId; where no receipt has it, by IUV, idTransfer and amount
with a receipt that no other payment was matched with. The receipt may be the flow's EC's or that of a receiver the flow
names. All of it is SQL for both databases, looks at what is new or still open only, and does nothing twice: a run that
was killed is simply run again. Nothing here commits.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, text, update

from station.store import tables
from station.store.rows import insert
from station.store.tables import UtcDateTime

_KEY = ("fdr", "psp_id", "revision", "position")
_OPEN = "p.id_pa = :ec AND p.matched_by IS NULL AND NOT p.superseded"
_ECS = ("p.id_pa", "f.receiver_id", "f.receiver_organization_id")
_PREFERRED = "CASE r.id_pa WHEN p.id_pa THEN 0 WHEN f.receiver_id THEN 1 ELSE 2 END"
_FLOW = "f.id_pa = p.id_pa AND f.fdr = p.fdr AND f.psp_id = p.psp_id AND f.revision = p.revision"

# A subquery that gives a value is never made a join: each open payment costs one probe of a key, whatever the planner
# believes. The receipt of another EC's part of the payment is not the one: a copy for each beneficiary has all parts.
HAS_RECEIPT = """(
        SELECT r.id_pa FROM receipt AS r WHERE r.receipt_id = p.iur AND r.id_pa = {}
        AND NOT EXISTS (SELECT 1 FROM transfer AS t WHERE t.id_pa = r.id_pa AND t.receipt_id = r.receipt_id
            AND t.id_transfer = p.id_transfer AND t.amount = p.amount AND t.fiscal_code_pa <> r.id_pa))"""
# A match by IUV is undone when a payment comes that names the receipt by its IUR, or the receipt that it names itself.
_RELEASABLE = f"""
SELECT q.id_pa, q.fdr, q.psp_id, q.revision, q.position, q.receipt_id_pa, q.receipt_id
FROM fdr_payment AS p JOIN fdr_flow AS f ON {_FLOW}
JOIN fdr_payment AS q ON q.receipt_id = p.iur AND q.matched_by = 'iuv' AND NOT q.superseded
WHERE {_OPEN} AND q.receipt_id_pa = coalesce({", ".join(map(HAS_RECEIPT.format, _ECS))})
UNION
SELECT p.id_pa, p.fdr, p.psp_id, p.revision, p.position, p.receipt_id_pa, p.receipt_id
FROM fdr_payment AS p JOIN fdr_flow AS f ON {_FLOW} WHERE p.id_pa = :ec AND p.matched_by = 'iuv' AND NOT p.superseded
AND coalesce({", ".join(map(HAS_RECEIPT.format, _ECS))}) IS NOT NULL"""
_BY_IUR = f"""
WITH found AS MATERIALIZED (
    SELECT p.fdr, p.psp_id, p.revision, p.position, p.iur,
    coalesce({", ".join(map(HAS_RECEIPT.format, _ECS))}) AS receipt_id_pa
    FROM fdr_payment AS p JOIN fdr_flow AS f ON {_FLOW} WHERE {_OPEN}
)
UPDATE fdr_payment
SET matched_by = 'iur', receipt_id_pa = found.receipt_id_pa, receipt_id = found.iur, matched_at = :now
FROM found WHERE found.receipt_id_pa IS NOT NULL AND fdr_payment.id_pa = :ec AND fdr_payment.fdr = found.fdr
AND fdr_payment.psp_id = found.psp_id AND fdr_payment.revision = found.revision
AND fdr_payment.position = found.position"""

_CANDIDATE = f"""
    SELECT r.id_pa AS receipt_id_pa, r.receipt_id, r.received_at, {_PREFERRED} AS preferred
    FROM receipt AS r WHERE r.iuv = p.iuv AND r.id_pa IN ({", ".join(_ECS)})
    AND EXISTS (SELECT 1 FROM transfer AS t WHERE t.id_pa = r.id_pa AND t.receipt_id = r.receipt_id
        AND t.id_transfer = p.id_transfer AND t.amount = p.amount AND t.fiscal_code_pa = r.id_pa)
    AND NOT EXISTS (SELECT 1 FROM fdr_payment AS q WHERE q.receipt_id = r.receipt_id AND q.receipt_id_pa = r.id_pa
        AND q.id_transfer = p.id_transfer AND NOT q.superseded)
    ORDER BY preferred, r.received_at, r.receipt_id"""
_BY_IUV = {
    "postgresql": f"""
SELECT p.fdr, p.psp_id, p.revision, p.position, p.id_transfer, c.receipt_id_pa, c.receipt_id
FROM fdr_payment AS p JOIN fdr_flow AS f ON {_FLOW} CROSS JOIN LATERAL ({_CANDIDATE} LIMIT 100) AS c
WHERE {_OPEN} ORDER BY f.published, p.fdr, p.psp_id, p.position, c.preferred, c.received_at, c.receipt_id""",
    # CROSS JOIN keeps SQLite's planner from turning the order of the tables around.
    "sqlite": f"""
SELECT p.fdr, p.psp_id, p.revision, p.position, p.id_transfer, r.id_pa AS receipt_id_pa, r.receipt_id
FROM fdr_payment AS p CROSS JOIN fdr_flow AS f ON {_FLOW} CROSS JOIN receipt AS r
WHERE {_OPEN} AND {_CANDIDATE.partition("WHERE ")[2].partition("ORDER BY")[0]}
ORDER BY f.published, p.fdr, p.psp_id, p.position, {_PREFERRED}, r.received_at, r.receipt_id""",
}

# Whether flows have transfer `t` of a receipt: by its number, or where the PSP wrote another one as many payments of
# its amount as the receipt has such transfers to the EC.
_PAID = "FROM fdr_payment AS c WHERE c.receipt_id = t.receipt_id AND c.receipt_id_pa = t.id_pa AND NOT c.superseded"
_CREDITED = f"""((SELECT 1 {_PAID} AND c.id_transfer = t.id_transfer LIMIT 1) IS NOT NULL
    OR (SELECT count(*) {_PAID} AND c.amount = t.amount) >= (
        SELECT count(*) FROM transfer AS u WHERE u.id_pa = t.id_pa AND u.receipt_id = t.receipt_id
        AND u.fiscal_code_pa = u.id_pa AND NOT u.digital_stamp AND u.amount = t.amount))"""
_AWAITED = f"""
INSERT INTO fdr_awaited (id_pa, receipt_id, position, id_transfer, amount, paid_at)
SELECT t.id_pa, t.receipt_id, t.position, t.id_transfer, t.amount, coalesce(r.payment_date_time, r.received_at)
FROM {{source}} JOIN transfer AS t ON t.id_pa = r.id_pa AND t.receipt_id = r.receipt_id
WHERE {{which}} AND coalesce(r.payment_date_time, r.received_at) >= :since
AND t.fiscal_code_pa = t.id_pa AND NOT t.digital_stamp AND t.amount > 0 AND NOT {_CREDITED}
ON CONFLICT DO NOTHING"""
_ARRIVED = _AWAITED.format(
    source="receipt AS r", which="r.id_pa = :ec AND r.received_at >= :start AND r.received_at < :end"
)
# No payment may be left that fits a receipt that was released.
_RELEASED = _AWAITED.format(source="receipt AS r", which="r.id_pa = :ec AND r.receipt_id = :receipt_id")
# A revision may list other payments than the one before: the receipts of that one are awaited again, unless they are
# another EC's of which no flow could have them.
_REVISED = _AWAITED.format(
    source="fdr_flow AS f JOIN fdr_payment AS p ON p.id_pa = f.id_pa AND p.fdr = f.fdr AND p.psp_id = f.psp_id "
    "AND p.revision < f.revision AND p.receipt_id IS NOT NULL "
    "JOIN receipt AS r ON r.id_pa = p.receipt_id_pa AND r.receipt_id = p.receipt_id",
    which="f.id_pa = :ec AND f.credited IS NULL AND f.fetched_at IS NOT NULL "
    "AND EXISTS (SELECT 1 FROM fdr_flow AS w WHERE w.id_pa = r.id_pa AND w.fetched_at IS NOT NULL "
    "AND w.flow_date <= coalesce(r.payment_date_time, r.received_at))",
)
_ADD_UP = """
UPDATE fdr_flow SET credited = (SELECT coalesce(sum(p.amount), 0) FROM fdr_payment AS p WHERE p.id_pa = fdr_flow.id_pa
    AND p.fdr = fdr_flow.fdr AND p.psp_id = fdr_flow.psp_id AND p.revision = fdr_flow.revision)
WHERE id_pa = :ec AND credited IS NULL AND fetched_at IS NOT NULL"""
_CAME = f"DELETE FROM fdr_awaited AS t WHERE t.id_pa = :ec AND {_CREDITED}"

_LISTED_MAX = timedelta(days=62)  # a flow's age when it is listed: a month by the API, and as much for its clock

_TIMES = [bindparam(name, type_=UtcDateTime()) for name in ("now", "since", "start", "end")]


def _run(connection: Connection, statement: str, **given: Any) -> Any:
    times = [one for one in _TIMES if one.key in given]
    return connection.execute(text(statement).bindparams(*times), given)


def match_payments(connection: Connection, id_pa: str, *, now: datetime) -> int:
    """Match the payments of an EC's flows that have no receipt yet. Return how many were matched."""
    _release(connection, id_pa)
    before = _open_payments(connection, id_pa)
    _run(connection, _BY_IUR, ec=id_pa, now=now)
    taken = set()
    found = {}
    for row in _run(connection, _BY_IUV[connection.dialect.name], ec=id_pa):
        payment = tuple(getattr(row, name) for name in _KEY)
        receipt = (row.receipt_id_pa, row.receipt_id, row.id_transfer)
        if payment not in found and receipt not in taken:
            taken.add(receipt)
            found[payment] = receipt
    if found:
        table = tables.fdr_payment
        its = update(table).where(table.c.id_pa == id_pa, *(table.c[name] == bindparam(f"of_{name}") for name in _KEY))
        its = its.values(matched_by="iuv", matched_at=now)
        connection.execute(
            its,
            [
                {f"of_{name}": value for name, value in zip(_KEY, payment, strict=True)}
                | {"receipt_id_pa": receipt[0], "receipt_id": receipt[1]}
                for payment, receipt in found.items()
            ],
        )
    return before - _open_payments(connection, id_pa)


def _release(connection: Connection, id_pa: str) -> None:
    """Undo matches by IUV that a later arrival shows to be wrong; their receipts are awaited again."""
    released = _run(connection, _RELEASABLE, ec=id_pa).all()
    table = tables.fdr_payment
    of = [table.c[name] == bindparam(f"of_{name}") for name in ("id_pa", *_KEY)]
    undone = update(table).where(*of).values(matched_by=None, receipt_id_pa=None, receipt_id=None, matched_at=None)
    if released:
        connection.execute(
            undone, [{f"of_{name}": getattr(row, name) for name in ("id_pa", *_KEY)} for row in released]
        )
    for receipt_id_pa, receipt_id in {(row.receipt_id_pa, row.receipt_id) for row in released}:
        if (since := first_flow(connection, receipt_id_pa)) is not None:
            _run(connection, _RELEASED, ec=receipt_id_pa, receipt_id=receipt_id, since=since)


def _open_payments(connection: Connection, id_pa: str) -> int:
    """Count the payments without a receipt. SQLite tells of no such UPDATE how many rows it changed."""
    count: int = _run(connection, f"SELECT count(*) FROM fdr_payment AS p WHERE {_OPEN}", ec=id_pa).scalar_one()
    return count


def first_flow(connection: Connection, id_pa: str) -> datetime | None:
    """Return the date of the EC's first flow: what was paid before may be in one that was never read.

    A flow that is dated long before it was listed is not believed: the API lists those of a month, and receipts of all
    days since are looked at.
    """
    flow = tables.fdr_flow.c
    query = select(
        func.min(func.coalesce(flow.flow_date, flow.listed_at), type_=UtcDateTime()), func.min(flow.listed_at)
    )
    dated, listed = connection.execute(query.where(flow.id_pa == id_pa, flow.fetched_at.is_not(None))).one()
    return None if dated is None else max(dated, listed - _LISTED_MAX)


def settle_flows(connection: Connection, id_pa: str, *, since: datetime) -> None:
    """Add up the flows that were not looked at, await what a revision dropped, and forget what flows have by now."""
    _run(connection, _REVISED, ec=id_pa, since=since)
    _run(connection, _ADD_UP, ec=id_pa)
    _run(connection, _CAME, ec=id_pa)


def looked_at(connection: Connection, id_pa: str) -> tuple[datetime | None, datetime | None]:
    """Return from when to when receipts had arrived that were looked at by `await_arrived`."""
    table = tables.fdr_ec
    row = connection.execute(select(table.c.awaited_from, table.c.awaited_to).filter_by(id_pa=id_pa)).one_or_none()
    return (None, None) if row is None else (row.awaited_from, row.awaited_to)


def await_arrived(connection: Connection, id_pa: str, *, since: datetime, start: datetime, end: datetime) -> None:
    """Look at receipts paid since a time that arrived from `start` to before `end`: their transfers to the EC that no
    flow has are awaited. A day more is looked at: a commit may come late, and a clock may have been behind."""
    _run(connection, _ARRIVED, ec=id_pa, since=since, start=start - timedelta(days=1), end=end)


def note_looked_at(connection: Connection, id_pa: str, *, start: datetime, end: datetime) -> None:
    """Note from when to when receipts had arrived that were looked at."""
    values = {"awaited_from": start, "awaited_to": end}
    statement = insert(connection, tables.fdr_ec).values(id_pa=id_pa, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["id_pa"], set_=values))
