"""The tables of flows: what FdR lists for each EC, the payments of each flow, and the ledger of `station fdr`.

Nothing here commits. A flow is written when it is listed, and completed together with its payments.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, select, tuple_, update

from station.store.gauges import CLOCK_TOLERANCE
from station.store.limits import among
from station.store.rows import insert
from station.store.tables import fdr_ec, fdr_flow, fdr_payment, fdr_run

_KEY = ("id_pa", "fdr", "psp_id", "revision")
NEVER = datetime(9999, 1, 1, tzinfo=UTC)  # the next try of a flow that was given up

# --- progress of ECs --------------------------------------------------------------------------------------------------


def progress(connection: Connection, id_pa: str) -> Row[Any] | None:
    """Return an EC's row of `fdr_ec`; `None` if its flows were never listed."""
    return connection.execute(select(fdr_ec).filter_by(id_pa=id_pa)).one_or_none()


def all_progress(connection: Connection) -> dict[str, Row[Any]]:
    """Return the rows of all ECs."""
    return {row.id_pa: row for row in connection.execute(select(fdr_ec))}


def _set_progress(connection: Connection, id_pa: str, **values: Any) -> None:
    statement = insert(connection, fdr_ec).values(id_pa=id_pa, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["id_pa"], set_=values))


def set_watermark(connection: Connection, id_pa: str, moment: datetime) -> None:
    """Note that the EC's flows were listed up to `moment`."""
    _set_progress(connection, id_pa, watermark=moment)


def set_walked(connection: Connection, id_pa: str, moment: datetime) -> None:
    """Note that a walk of the EC was complete at `moment`."""
    _set_progress(connection, id_pa, walked_at=moment)


def note_gap(connection: Connection, id_pa: str, start: datetime, end: datetime) -> None:
    """Note a time whose flows cannot be listed any more, together with a gap that was not acknowledged yet."""
    row = progress(connection, id_pa)
    if row is not None and row.gap_from is not None and row.gap_acknowledged_at is None:
        start, end = min(start, row.gap_from), max(end, row.gap_to)
    values = {"gap_from": start, "gap_to": end, "gap_acknowledged_at": None, "gap_acknowledged_by": None}
    _set_progress(connection, id_pa, **values)


def open_gaps(connection: Connection, id_pas: Sequence[str] | None) -> list[Row[Any]]:
    """Return the rows of ECs, of these or (`None`) of all, with a gap that was not acknowledged."""
    query = select(fdr_ec).where(fdr_ec.c.gap_from.is_not(None), fdr_ec.c.gap_acknowledged_at.is_(None))
    return list(connection.execute(query.where(*among(fdr_ec.c.id_pa, id_pas)).order_by(fdr_ec.c.id_pa)))


def acknowledge_gap(connection: Connection, id_pa: str, now: datetime, operator: str) -> None:
    """Note that an operator knows of the EC's gap."""
    # There is a row, since there is a gap. The console's role may change it, and add none.
    changed = update(fdr_ec).filter_by(id_pa=id_pa).values(gap_acknowledged_at=now, gap_acknowledged_by=operator)
    connection.execute(changed)


def set_biz_pause(connection: Connection, id_pa: str, until: datetime) -> None:
    """Note that BizEvents refuses calls with the EC's key until a moment."""
    _set_progress(connection, id_pa, biz_paused_until=until)


def biz_paused_until(connection: Connection, id_pas: Sequence[str]) -> datetime | None:
    """Return the latest end of a pause of ECs that share a key."""
    query = select(func.max(fdr_ec.c.biz_paused_until)).where(fdr_ec.c.id_pa.in_(id_pas))
    return connection.execute(query).scalar()


# --- the ledger of runs -----------------------------------------------------------------------------------------------


def write_run(connection: Connection, row: Mapping[str, Any]) -> None:
    """Insert or update the row of one run and EC."""
    statement = insert(connection, fdr_run).values(**row)
    changed = {name: statement.excluded[name] for name in row if name not in ("id_pa", "run_id")}
    connection.execute(statement.on_conflict_do_update(index_elements=["id_pa", "run_id"], set_=changed))


def abort_runs(connection: Connection) -> int:
    """Mark rows that still say running, and return how many: the caller holds the lock, so those runs were killed."""
    return connection.execute(update(fdr_run).where(fdr_run.c.outcome == "running").values(outcome="aborted")).rowcount


def forget_runs(connection: Connection, before: datetime) -> int:
    """Delete the rows of runs that started before a moment, and return how many."""
    return connection.execute(delete(fdr_run).where(fdr_run.c.started_at < before)).rowcount


def latest_runs(connection: Connection, id_pa: str, *, limit: int = 1) -> list[Row[Any]]:
    """Return the rows of one EC's latest runs, the latest first."""
    query = select(fdr_run).filter_by(id_pa=id_pa).order_by(fdr_run.c.started_at.desc())
    return list(connection.execute(query.limit(limit)))


# --- flows ------------------------------------------------------------------------------------------------------------


def known_flows(connection: Connection, id_pa: str, keys: Sequence[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    """Return which of the flows (name, PSP, revision) were listed before. One query: pass some hundreds at most."""
    columns = (fdr_flow.c.fdr, fdr_flow.c.psp_id, fdr_flow.c.revision)
    query = select(*columns).where(fdr_flow.c.id_pa == id_pa, tuple_(*columns).in_(keys))
    return {(row.fdr, row.psp_id, row.revision) for row in connection.execute(query)} if keys else set()


def any_listed(connection: Connection, id_pa: str) -> bool:
    """Return whether a flow of the EC was ever listed."""
    return connection.execute(select(fdr_flow.c.fdr).filter_by(id_pa=id_pa).limit(1)).scalar() is not None


def list_new(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write flows that are listed (the key, `published`, `flow_date`, `listed_at`); those known before stay as is."""
    if rows:
        values = [{**row, "attempts": 0, "next_attempt_at": row["listed_at"]} for row in rows]
        connection.execute(insert(connection, fdr_flow).on_conflict_do_nothing(), values)


def _is_unread(id_pa: str | None = None) -> list[ColumnElement[bool]]:
    """Return the condition of flows that are still to be read: one that was replaced before is not."""
    own = [] if id_pa is None else [fdr_flow.c.id_pa == id_pa]
    return [*own, fdr_flow.c.fetched_at.is_(None), ~fdr_flow.c.superseded]


FIRST_PLACE = (0, "", "", 0)


def due_flows(
    connection: Connection,
    id_pa: str,
    moment: datetime,
    *,
    after: tuple[int, str, str, int] = FIRST_PLACE,
    limit: int = 100,
) -> list[Row[Any]]:
    """Return the EC's flows that are due to be read, a page from behind the place `after`.

    In the order of the tries that each took so far, then of their keys: those that fail again and again come last.
    """  # fmt: skip
    flow = fdr_flow.c
    place = (flow.attempts, flow.fdr, flow.psp_id, flow.revision)
    query = select(fdr_flow).where(*_is_unread(id_pa), flow.next_attempt_at <= moment, tuple_(*place) > after)
    return list(connection.execute(query.order_by(*place).limit(limit)))


def count_due(connection: Connection, id_pa: str, moment: datetime) -> int:
    """Count the EC's flows that are due to be read."""
    flow = fdr_flow.c
    query = select(func.count()).where(*_is_unread(id_pa), flow.next_attempt_at <= moment)
    return connection.execute(query).scalar() or 0


def count_unread(connection: Connection) -> dict[str, int]:
    """Count each EC's flows that are listed and could not be read so far."""
    flow = fdr_flow.c
    query = select(flow.id_pa, func.count().label("number")).where(*_is_unread()).group_by(flow.id_pa)
    return {row.id_pa: row.number for row in connection.execute(query)}


def unread_flows(connection: Connection, id_pas: Sequence[str] | None, *, limit: int) -> list[Row[Any]]:
    """Return flows that are listed and could not be read so far, of these ECs or (`None`) of all, the oldest first."""
    flow = fdr_flow.c
    query = select(fdr_flow).where(*_is_unread(), *among(flow.id_pa, id_pas))
    query = query.order_by(flow.listed_at, flow.id_pa, flow.fdr, flow.psp_id, flow.revision).limit(limit)
    return list(connection.execute(query))


def is_expected(connection: Connection, id_pa: str, published_after: datetime, dated_after: datetime) -> bool:
    """Return whether a list from `published_after` must have a flow: one is here that was published since."""
    flow = fdr_flow.c
    query = select(flow.fdr).where(
        flow.id_pa == id_pa, flow.published > published_after, flow.flow_date > dated_after, ~flow.superseded
    )
    return connection.execute(query.limit(1)).scalar() is not None


def fail_flow(
    connection: Connection, key: Mapping[str, Any], error: str, *, attempts: int, next_attempt_at: datetime
) -> None:
    """Note that a flow could not be read."""
    statement = update(fdr_flow).filter_by(**key).where(fdr_flow.c.fetched_at.is_(None))
    connection.execute(statement.values(error=error, attempts=attempts, next_attempt_at=next_attempt_at))


def store_flow(
    connection: Connection, key: Mapping[str, Any], flow: Mapping[str, Any], payments: Sequence[Mapping[str, Any]]
) -> bool | None:
    """Complete a listed flow with what was read of it; its earlier revisions are superseded from now on.

    `flow` and `payments` are rows without the key. Return whether an earlier revision was here, `None` where the flow
    was complete already: nothing is changed then.
    """
    revisions = select(fdr_flow.c.revision).filter_by(**{name: key[name] for name in _KEY[:3]})
    later = fdr_flow.c.revision > key["revision"], fdr_flow.c.fetched_at.is_not(None)
    superseded = connection.execute(revisions.where(*later).limit(1)).scalar() is not None
    statement = update(fdr_flow).filter_by(**key).where(fdr_flow.c.fetched_at.is_(None))
    if connection.execute(statement.values(**flow, superseded=superseded, error=None)).rowcount == 0:
        return None
    if payments:
        connection.execute(fdr_payment.insert(), [{**key, "superseded": superseded, **payment} for payment in payments])
    earlier = 0
    for table in (fdr_payment, fdr_flow):
        statement = update(table).filter_by(**{name: key[name] for name in _KEY[:3]})
        statement = statement.where(table.c.revision < key["revision"], ~table.c.superseded)
        earlier = connection.execute(statement.values(superseded=True)).rowcount
    return earlier > 0


def correct_times(connection: Connection, id_pa: str, now: datetime) -> bool:
    """Forget a watermark in the future, written by a clock that was ahead. Return whether there was one."""
    row = progress(connection, id_pa)
    limit = now + CLOCK_TOLERANCE
    if row is None or not any(at is not None and at > limit for at in (row.watermark, row.walked_at)):
        return False
    _set_progress(connection, id_pa, watermark=None, walked_at=None)
    ahead = update(fdr_flow).where(fdr_flow.c.id_pa == id_pa, fdr_flow.c.fetched_at.is_(None))
    connection.execute(ahead.values(next_attempt_at=now))
    return True
