"""Figures of this moment, for monitoring. Each query is short, however much is stored."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ARRAY, Connection, Engine, QueuePool, func, literal, select, text
from sqlalchemy.types import Text

from station.clock import shown
from station.store import tables
from station.store.limits import among

OPEN_COUNTED = 100_000
# Machines' clocks differ, so a stored time may lie this far in the future. A later one comes from a wrong clock.
CLOCK_TOLERANCE = timedelta(minutes=10)


def open_by_fault(connection: Connection, id_pas: Sequence[str] | None = None) -> dict[str, int]:
    """Count the open refused requests of each fault code, `OPEN_COUNTED` at most, of these ECs or of all."""
    refused = tables.refused.c
    still_open = select(refused.fault_code).where(refused.state == "open", *among(refused.id_pa, id_pas))
    some = still_open.limit(OPEN_COUNTED).subquery()
    query = (
        select(some.c.fault_code, func.count().label("number")).group_by(some.c.fault_code).order_by(some.c.fault_code)
    )
    return {row.fault_code: row.number for row in connection.execute(query)}


def flagged_since(
    connection: Connection, flags: Sequence[str], since: datetime, id_pas: Sequence[str] | None = None
) -> dict[str, int]:
    """Count the receipts with each of these flags that arrived since a time, `OPEN_COUNTED` in all at most.

    Of these ECs or (`None`) of all.
    """
    flag = tables.receipt_flag.c
    wanted = select(flag.flag).where(flag.flag.in_(flags), flag.received_at >= since, *among(flag.id_pa, id_pas))
    some = wanted.limit(OPEN_COUNTED).subquery()
    query = select(some.c.flag, func.count().label("number")).group_by(some.c.flag)
    return {row.flag: row.number for row in connection.execute(query)}


def last_pushes(connection: Connection, id_pas: Sequence[str] | None, now: datetime) -> dict[str, datetime | None]:
    """Return when each EC's last new receipt came by push. `None`: the last of all, under the empty name.

    A receipt that a wrong clock dated in the future would hide a silence until then: it does not count.
    """
    receipt = tables.receipt.c
    last = select(receipt.received_at).where(receipt.source == "push", receipt.received_at <= now + CLOCK_TOLERANCE)
    last = last.order_by(receipt.received_at.desc()).limit(1)
    if id_pas is None:
        return {"": connection.execute(last).scalar()}
    if connection.dialect.name == "postgresql":
        ec = func.unnest(literal(list(id_pas), ARRAY(Text))).table_valued("id_pa", name="ec").render_derived()
        query = select(ec.c.id_pa, last.where(receipt.id_pa == ec.c.id_pa).scalar_subquery().label("at"))
        return {row.id_pa: row.at for row in connection.execute(query)}
    return {id_pa: connection.execute(last.where(receipt.id_pa == id_pa)).scalar() for id_pa in id_pas}


def fetched_between(connection: Connection, start: datetime, end: datetime) -> dict[str, int]:
    """Count the receipts of each EC that `station reconcile` fetched."""
    receipt = tables.receipt.c
    query = select(receipt.id_pa, func.count().label("number")).group_by(receipt.id_pa)
    query = query.where(receipt.source == "reconcile", receipt.received_at >= start, receipt.received_at <= end)
    return {row.id_pa: row.number for row in connection.execute(query)}


def clock(connection: Connection) -> datetime | None:
    """Return the database server's time; `None` on SQLite, which has this machine's."""
    if connection.dialect.name != "postgresql":
        return None
    return connection.execute(select(func.clock_timestamp())).scalar()


def clock_problem(connection: Connection, now: datetime) -> str | None:
    """Return in words how `now`, this machine's time, differs from the database server's; `None` if it does not."""
    database_now = clock(connection)
    if database_now is None or abs(now - database_now) <= CLOCK_TOLERANCE:
        return None
    return f"this machine's clock says {shown(now)} (Italy), and the database's says {shown(database_now)}"


_ENTERED = {
    "receipt": tables.receipt.c.received_at,
    "refused": tables.refused.c.received_at,
    "journal": tables.journal.c.at,
    "reconcile_run": tables.reconcile_run.c.started_at,
}


def newest_entry(connection: Connection, *names: str, until: datetime | None = None) -> datetime | None:
    """Return the latest time of an entry, up to `until`, in these tables or in any.

    The tables are receipt, refused, journal and reconcile_run.
    """
    newest = []
    for name in names or _ENTERED:
        column = _ENTERED[name]
        query = select(column).order_by(column.desc()).limit(1)
        newest.append(connection.execute(query if until is None else query.where(column <= until)).scalar())
    return max((at for at in newest if at is not None), default=None)


def bound(connection: Connection, name: str, now: datetime) -> datetime:
    """Return a time after every entry that a table has now: later than `now` where a clock was ahead."""
    newest = newest_entry(connection, name)
    return now if newest is None else max(now, newest + timedelta(microseconds=1))


class Durability(NamedTuple):
    """How durably PostgreSQL keeps commits, as far as its settings show; they do not show dumps."""

    settings_off: tuple[str, ...]
    archiving: bool
    archive_failing: bool
    standbys: int


def durability(connection: Connection) -> Durability | None:
    """Return how durably the database keeps commits; `None` on SQLite, where no setting shows it."""
    if connection.dialect.name != "postgresql":
        return None
    query = text(
        "SELECT name FROM unnest(ARRAY['fsync', 'full_page_writes', 'synchronous_commit']) AS name "
        "WHERE current_setting(name) = 'off'"
    )
    off = tuple(connection.execute(query).scalars())
    query = text(
        "SELECT current_setting('archive_mode') <> 'off' AS archiving, "
        "last_failed_time IS NOT NULL AND coalesce(last_failed_time > last_archived_time, true) AS failing, "
        "(SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication) AS standbys "
        "FROM pg_stat_archiver"
    )
    seen = connection.execute(query).one()
    return Durability(off, seen.archiving, seen.archiving and seen.failing, seen.standbys)


def pool_use(engine: Engine) -> tuple[int, int]:
    """Return how many connections of this process's pool are in use, and how many it may have."""
    pool = engine.pool
    return (pool.checkedout(), pool.size()) if isinstance(pool, QueuePool) else (0, 0)
