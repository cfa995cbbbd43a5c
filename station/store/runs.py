"""The tables of the reconciliation: watermarks of ECs, the ledger of runs, and the receipts that are missing.

Nothing here commits. IUVs are unique per owning EC: a copy for a secondary beneficiary bears the owner's IUV, which the
beneficiary may have given to a payment of its own as well. So a copy never counts as the EC's own receipt. Nor does a
provisional one, which BizEvents told of: its document is still to be fetched where the API has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, Connection, Row, String, case, delete, func, literal, select, update

from station.receipt import Source
from station.store.gauges import CLOCK_TOLERANCE
from station.store.limits import among
from station.store.paging import Cursor
from station.store.rows import insert
from station.store.tables import UtcDateTime, receipt, reconcile_ec, reconcile_item, reconcile_run

# --- receipts that are here -------------------------------------------------------------------------------------------


def known_iuvs(connection: Connection, id_pa: str, iuvs: Sequence[str]) -> set[str]:
    """Return those of the IUVs whose receipt the EC has. One query: pass some hundreds at most."""
    if not iuvs:
        return set()
    if connection.dialect.name == "sqlite":
        query = select(receipt.c.iuv).filter_by(id_pa=id_pa, fiscal_code=id_pa).where(receipt.c.iuv.in_(iuvs))
        query = query.where(receipt.c.source != Source.BIZEVENTS)
    else:
        # One probe of the index for each IUV. For a plain IN a planner without fresh statistics reads all of the EC's
        # receipts instead: 130 ms a page with 40,000 of them.
        asked = func.unnest(literal(list(iuvs), ARRAY(String))).table_valued("iuv").render_derived()
        query = select(asked.c.iuv).where(_has_receipt(asked.c.iuv, literal(id_pa)))
    return set(connection.execute(query).scalars())


def _has_receipt(iuv: Any, id_pa: Any) -> Any:
    """Return the condition that the EC has the receipt of its own payment with this IUV.

    A subquery with a limit is never made a join, so it costs one probe of the index on IUVs.
    """
    c = receipt.c
    own = (c.iuv == iuv, c.id_pa == id_pa, c.fiscal_code == id_pa, c.source != Source.BIZEVENTS)
    return select(literal(1)).where(*own).limit(1).scalar_subquery().is_not(None)


# --- watermarks -------------------------------------------------------------------------------------------------------


def watermark(connection: Connection, id_pa: str) -> Row[Any] | None:
    """Return `watermark`, `walked_at`, `swept_at` and `window_hours` of an EC; `None` if it was never walked."""
    return connection.execute(select(reconcile_ec).filter_by(id_pa=id_pa)).one_or_none()


def watermarks(connection: Connection) -> dict[str, Row[Any]]:
    """Return the same of all ECs that were ever walked."""
    return {row.id_pa: row for row in connection.execute(select(reconcile_ec))}


def set_watermark(connection: Connection, id_pa: str, moment: datetime, *, walked_at: datetime) -> None:
    """Note that the EC was walked up to `moment`; a watermark never goes back, unless it lies in the future."""
    mark = reconcile_ec.c.watermark
    statement = insert(connection, reconcile_ec).values(id_pa=id_pa, watermark=moment, walked_at=walked_at)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["id_pa"], set_={"walked_at": walked_at, "watermark": moment},
            where=(mark <= moment) | (mark > walked_at),
        )
    )  # fmt: skip


def set_swept(connection: Connection, id_pa: str, moment: datetime) -> None:
    """Note that the EC's wide sweep was complete at `moment`."""
    connection.execute(update(reconcile_ec).filter_by(id_pa=id_pa).values(swept_at=moment))


def set_window_hours(connection: Connection, id_pa: str, hours: int | None) -> None:
    """Note how many hours one call may cover, `None`: as many as configured. No effect on an EC never walked."""
    connection.execute(update(reconcile_ec).filter_by(id_pa=id_pa).values(window_hours=hours))


# --- the ledger of runs -----------------------------------------------------------------------------------------------


def write_run(connection: Connection, row: Mapping[str, Any]) -> None:
    """Insert or update the row of one run and EC."""
    statement = insert(connection, reconcile_run).values(**row)
    changed = {name: statement.excluded[name] for name in row if name not in ("id_pa", "run_id")}
    connection.execute(statement.on_conflict_do_update(index_elements=["id_pa", "run_id"], set_=changed))


def abort_runs(connection: Connection) -> int:
    """Mark rows that still say running, and return how many: the caller holds the lock, so those runs were killed."""
    statement = update(reconcile_run).where(reconcile_run.c.outcome == "running").values(outcome="aborted")
    return connection.execute(statement).rowcount


def correct_runs(connection: Connection, now: datetime) -> int:
    """Date runs that a wrong clock dated in the future to now, or they would be the latest ones until then.

    They count as failed: nothing follows from them. Return how many.
    """
    table = reconcile_run
    query = select(table.c.id_pa, table.c.run_id, table.c.started_at)
    ahead = connection.execute(query.where(table.c.started_at > now + CLOCK_TOLERANCE)).all()
    for id_pa, run_id, started_at in ahead:
        error = f"its clock was ahead, showing {started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        changed = {"started_at": now, "finished_at": now, "outcome": "failed", "error": error}
        connection.execute(update(table).filter_by(id_pa=id_pa, run_id=run_id).values(**changed))
    return len(ahead)


def last_whole_walk(connection: Connection, id_pa: str, now: datetime) -> datetime | None:
    """Return when the EC's latest run started that walked its whole window, by a clock that was not ahead.

    A window of one day comes from a watermark in the future: such a run looked at no earlier day.
    """
    run = reconcile_run.c
    query = select(run.started_at).filter_by(id_pa=id_pa, outcome="done").where(
        run.kind.in_(("window", "sweep")), run.window_from < run.window_to, run.started_at <= now
    )  # fmt: skip
    return connection.execute(query.order_by(run.started_at.desc()).limit(1)).scalar()


def forget_runs(connection: Connection, before: datetime) -> int:
    """Delete the rows of runs that started before a moment, and return how many."""
    return connection.execute(delete(reconcile_run).where(reconcile_run.c.started_at < before)).rowcount


def latest_runs(connection: Connection, id_pa: str, *, limit: int = 1) -> list[Row[Any]]:
    """Return the rows of one EC's latest runs, the latest first."""
    query = select(reconcile_run).filter_by(id_pa=id_pa).order_by(reconcile_run.c.started_at.desc())
    return list(connection.execute(query.limit(limit)))


# Reasons of items: a flow has the payment, and no receipt is here. Of some payments there may never be one: they are
# asked for as well, and are no alarm.
IN_FDR, NOT_EXPECTED = "in_fdr", "not_expected"
OF_FLOWS = (IN_FDR, NOT_EXPECTED)

# --- missing receipts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReconcileItem:
    """A receipt that is known to exist and is not here. `reason` is a slug; `amount` in euro.

    `state`: open (it is requested again), refused (kept as a refused request), given_up (requested long enough).
    """

    id_pa: str
    iuv: str
    state: str
    reason: str
    notice_number: str | None
    amount: Decimal | None
    attempts: int
    first_at: datetime
    last_at: datetime
    next_attempt_at: datetime
    last_error: str
    request_id: str | None


def _items(connection: Connection, query: Any) -> list[ReconcileItem]:
    return [ReconcileItem(**row._mapping) for row in connection.execute(query)]


def items(connection: Connection, id_pa: str, iuvs: Sequence[str]) -> dict[str, ReconcileItem]:
    """Return the items among the IUVs of one EC. One query: pass some hundreds at most."""
    query = select(reconcile_item).filter_by(id_pa=id_pa).where(reconcile_item.c.iuv.in_(iuvs))
    return {item.iuv: item for item in _items(connection, query)} if iuvs else {}


def due_items(
    connection: Connection, id_pa: str, moment: datetime, *, after: str = "", limit: int = 100
) -> list[ReconcileItem]:
    """Return the EC's open items whose next attempt is due, a page in the order of IUVs from behind `after`."""
    item = reconcile_item.c
    query = select(reconcile_item).filter_by(id_pa=id_pa, state="open")
    query = query.where(item.next_attempt_at <= moment, item.iuv > after).order_by(item.iuv).limit(limit)
    return _items(connection, query)


def write_item(connection: Connection, item: ReconcileItem) -> None:
    """Insert or update an item. Its first time and the data of its payment stay."""
    columns = {name: getattr(item, name) for name in ReconcileItem.__slots__}
    statement = insert(connection, reconcile_item).values(**columns)
    changed = {name: statement.excluded[name] for name in columns if name not in ("id_pa", "iuv", "first_at")}
    for name in ("notice_number", "amount"):
        changed[name] = func.coalesce(statement.excluded[name], reconcile_item.c[name])
    connection.execute(statement.on_conflict_do_update(index_elements=["id_pa", "iuv"], set_=changed))


def correct_items(connection: Connection, id_pa: str, now: datetime) -> int:
    """Make items due that a run with a clock ahead wrote: their next try is far away, or they were given up early.

    Return how many.
    """
    item = reconcile_item.c
    statement = (
        update(reconcile_item)
        .where(item.id_pa == id_pa, item.last_at > now + CLOCK_TOLERANCE)
        .values(
            state=case((item.state == "given_up", "open"), else_=item.state),
            first_at=case((item.first_at > now, literal(now, UtcDateTime())), else_=item.first_at),
            last_at=now,
            next_attempt_at=now,
        )
    )
    return connection.execute(statement).rowcount


def close_item(connection: Connection, id_pa: str, iuv: str) -> None:
    """Delete an item: its receipt is here."""
    connection.execute(delete(reconcile_item).filter_by(id_pa=id_pa, iuv=iuv))


def close_arrived(connection: Connection, id_pa: str) -> int:
    """Delete the EC's items whose receipts have come by another way, and return how many."""
    arrived = delete(reconcile_item).where(reconcile_item.c.id_pa == id_pa, _arrived())
    return connection.execute(arrived).rowcount


def _arrived() -> Any:
    """Return the condition that an item's receipt is here.

    An IUV may have been paid twice: what a flow proves missing is here when the payment was matched, see `credited`.
    """
    return reconcile_item.c.reason.not_in(OF_FLOWS) & _has_receipt(reconcile_item.c.iuv, reconcile_item.c.id_pa)


_EXPECTED = reconcile_item.c.reason != NOT_EXPECTED


def count_items(connection: Connection, id_pas: Sequence[str] | None) -> list[Row[Any]]:
    """Return `id_pa`, `state`, `reason` and `number` of missing receipts, of these ECs or (`None`) of all."""
    columns = (reconcile_item.c.id_pa, reconcile_item.c.state, reconcile_item.c.reason)
    query = (
        select(*columns, func.count().label("number"))
        .where(~_arrived(), _EXPECTED, *among(reconcile_item.c.id_pa, id_pas))
        .group_by(*columns)
        .order_by(*columns)
    )
    return list(connection.execute(query))


def list_items(
    connection: Connection,
    id_pas: Sequence[str] | None,
    *,
    after: Cursor | None = None,
    of_flows: bool = True,
    limit: int,
) -> list[ReconcileItem]:
    """Return missing receipts, of these ECs or (`None`) of all, the longest missing first.

    `after` is a place in the order of `first_at`, its key an IUV. `of_flows`: also those that a flow has.
    """
    item = reconcile_item.c
    order = (item.first_at, item.id_pa, item.iuv)
    query = select(reconcile_item).where(~_arrived(), _EXPECTED, *among(item.id_pa, id_pas))
    if not of_flows:
        query = query.where(item.reason.not_in(OF_FLOWS))
    if after is not None:
        query = query.where(after.behind(order))
    return _items(connection, query.order_by(*order).limit(limit))
