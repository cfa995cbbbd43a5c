"""The reconciliation in the database: what is here already, watermarks, the ledger of runs, open items.

Nothing here commits, but for the lock that keeps two runs apart, which is no transaction.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import ARRAY, Connection, Engine, Row, String, case, delete, exc, func, literal, select, text, update

from station.store import tables
from station.store.engine import ours
from station.store.gauges import CLOCK_TOLERANCE
from station.store.whole import insert

_RUN_LOCK = 0x5741_7270  # any number that nobody else locks in this database


# --- the lock ---------------------------------------------------------------------------------------------------------


@contextmanager
def only_run(engine: Engine) -> Iterator[bool]:
    """Holds the lock of the only run; gives whether it was free. It ends with the process, however that ends.

    PostgreSQL: an advisory lock of a session of its own, which the server gives up when the connection breaks. SQLite:
    a lock on a file beside the database, which the kernel gives up. Raises `StoreError`.
    """
    if engine.dialect.name == "sqlite":
        file = os.open(f"{engine.url.database}.reconcile-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            free = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                free = False
            yield free
        finally:
            os.close(file)
        return
    try:
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except exc.SQLAlchemyError as error:
        raise ours(error, engine) from error
    try:
        try:
            # Of a machine that vanished the server learns by its keepalives alone: two minutes instead of two hours.
            for name, value in (("idle", 60), ("interval", 15), ("count", 4)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            free = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _RUN_LOCK}).scalar())
        except exc.SQLAlchemyError as error:
            raise ours(error, engine) from error
        yield free
    finally:
        connection.invalidate()  # the pool would keep the session, and the session the lock
        connection.close()


# --- what is here -----------------------------------------------------------------------------------------------------


def known_iuvs(connection: Connection, id_pa: str, iuvs: Sequence[str]) -> set[str]:
    """Those of the IUVs of the EC's own payments that it has a receipt for. One query: pass some hundreds at most.

    IUVs are unique per owning EC. A copy for a secondary beneficiary bears the owner's IUV, which the EC may have given
    to a payment of its own as well: it says nothing of that one.
    """
    if not iuvs:
        return set()
    table = tables.receipt
    if connection.dialect.name == "sqlite":
        own = (table.c.id_pa == id_pa, table.c.fiscal_code == id_pa)
        query = select(table.c.iuv).where(*own, table.c.iuv.in_(iuvs))
    else:
        # One probe of the index for each IUV. For a plain IN a planner without fresh statistics reads all of the EC's
        # receipts instead: 130 ms a page with 40,000 of them.
        wanted = func.unnest(literal(list(iuvs), ARRAY(String))).table_valued("iuv").render_derived()
        query = select(wanted.c.iuv).where(_has_receipt(wanted.c.iuv, literal(id_pa)))
    return set(connection.execute(query).scalars())


def _has_receipt(iuv: Any, id_pa: Any) -> Any:
    """The condition that the EC's own payment has its receipt here (see `known_iuvs`).

    A subquery with a limit is never made a join, so it costs one probe of the index on IUVs.
    """
    table = tables.receipt
    own = (table.c.id_pa == id_pa, table.c.fiscal_code == id_pa)
    return select(literal(1)).where(table.c.iuv == iuv, *own).limit(1).scalar_subquery().is_not(None)


# --- watermarks -------------------------------------------------------------------------------------------------------


def watermark(connection: Connection, id_pa: str) -> Row[Any] | None:
    """`watermark`, `walked_at`, `swept_at` and `window_hours` of an EC; `None` where it was never walked."""
    return connection.execute(select(tables.reconcile_ec).filter_by(id_pa=id_pa)).one_or_none()


def watermarks(connection: Connection) -> dict[str, Row[Any]]:
    """The same of all ECs that were ever walked."""
    return {row.id_pa: row for row in connection.execute(select(tables.reconcile_ec))}


def set_watermark(connection: Connection, id_pa: str, moment: datetime, *, walked_at: datetime) -> None:
    """The EC was walked up to `moment`; a watermark never goes back, unless it lies in the future."""
    table = tables.reconcile_ec
    statement = insert(connection, table).values(id_pa=id_pa, watermark=moment, walked_at=walked_at)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.id_pa], set_={"walked_at": walked_at, "watermark": moment},
            where=(table.c.watermark <= moment) | (table.c.watermark > walked_at),
        )
    )  # fmt: skip


def set_swept(connection: Connection, id_pa: str, moment: datetime) -> None:
    """The EC's wide sweep was walked completely at `moment`."""
    connection.execute(update(tables.reconcile_ec).filter_by(id_pa=id_pa).values(swept_at=moment))


def set_window_hours(connection: Connection, id_pa: str, hours: int | None) -> None:
    """How much one call may cover; `None`: as much as is configured. Says nothing where the EC was never walked."""
    connection.execute(update(tables.reconcile_ec).filter_by(id_pa=id_pa).values(window_hours=hours))


# --- the ledger of runs -----------------------------------------------------------------------------------------------


def write_run(connection: Connection, row: Mapping[str, Any]) -> None:
    """Writes the row of one run and EC, new or again."""
    table = tables.reconcile_run
    statement = insert(connection, table).values(**row)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.id_pa, table.c.run_id],
            set_={name: statement.excluded[name] for name in row if name not in ("id_pa", "run_id")},
        )
    )


def abort_runs(connection: Connection) -> int:
    """Marks what still says running: the caller has the lock, so those runs were killed."""
    table = tables.reconcile_run
    statement = update(table).where(table.c.outcome == "running").values(outcome="aborted")
    return connection.execute(statement).rowcount


def mend_runs(connection: Connection, now: datetime) -> int:
    """Dates runs that a wrong clock dated in the future to now, so that they are not the latest ones until then.

    They count as failed: nothing follows from them. Returns how many.
    """
    table = tables.reconcile_run
    ahead = table.c.started_at > now + CLOCK_TOLERANCE
    found = connection.execute(select(table.c.id_pa, table.c.run_id, table.c.started_at).where(ahead)).all()
    for row in found:
        said = f"{row.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        connection.execute(
            update(table)
            .filter_by(id_pa=row.id_pa, run_id=row.run_id)
            .values(started_at=now, finished_at=now, outcome="failed", error=f"its clock was ahead, showing {said} UTC")
        )
    return len(found)


def last_whole_walk(connection: Connection, id_pa: str, now: datetime) -> datetime | None:
    """When the EC's latest run started that walked its whole window, by a clock that was not ahead.

    A window of one day comes from a watermark in the future: such a run looked at no earlier day.
    """
    table = tables.reconcile_run
    query = select(table.c.started_at).where(
        table.c.id_pa == id_pa,
        table.c.outcome == "done",
        table.c.kind.in_(("window", "sweep")),
        table.c.window_from < table.c.window_to,
        table.c.started_at <= now,
    )
    return connection.execute(query.order_by(table.c.started_at.desc()).limit(1)).scalar()


def forget_runs(connection: Connection, before: datetime) -> int:
    """Removes what the ledger says of runs that started before a moment."""
    table = tables.reconcile_run
    return connection.execute(delete(table).where(table.c.started_at < before)).rowcount


def latest_runs(connection: Connection, id_pa: str, *, limit: int = 1) -> list[Row[Any]]:
    """The latest runs of one EC, the latest first."""
    table = tables.reconcile_run
    return list(
        connection.execute(select(table).filter_by(id_pa=id_pa).order_by(table.c.started_at.desc()).limit(limit))
    )


# --- open items -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """A receipt that is known to exist and is not here. `reason` is a slug; `amount` in euro."""

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


def _items(connection: Connection, query: Any) -> list[Item]:
    return [Item(**row._mapping) for row in connection.execute(query)]


def items(connection: Connection, id_pa: str, iuvs: Sequence[str]) -> dict[str, Item]:
    """The items among the IUVs of one EC. One query, so pass some hundreds at most."""
    table = tables.reconcile_item
    query = select(table).where(table.c.id_pa == id_pa, table.c.iuv.in_(iuvs))
    return {item.iuv: item for item in _items(connection, query)} if iuvs else {}


def due_items(connection: Connection, id_pa: str, moment: datetime, *, after: str = "", limit: int = 100) -> list[Item]:
    """The EC's open items whose next attempt is due, in the order of their IUVs, from behind the IUV `after`."""
    table = tables.reconcile_item
    query = (
        select(table)
        .where(table.c.id_pa == id_pa, table.c.state == "open", table.c.next_attempt_at <= moment, table.c.iuv > after)
        .order_by(table.c.iuv)
        .limit(limit)
    )
    return _items(connection, query)


def write_item(connection: Connection, item: Item) -> None:
    """Writes an item, new or again. When it was first missed, and what is known of its payment, stays."""
    table = tables.reconcile_item
    columns = {name: getattr(item, name) for name in Item.__slots__}
    statement = insert(connection, table).values(**columns)
    kept = ("id_pa", "iuv", "first_at", "notice_number", "amount")
    changed = {name: statement.excluded[name] for name in columns if name not in kept}
    for name in ("notice_number", "amount"):
        changed[name] = func.coalesce(statement.excluded[name], table.c[name])
    connection.execute(
        statement.on_conflict_do_update(index_elements=[table.c.id_pa, table.c.iuv], set_=changed)
    )  # fmt: skip


def mend_items(connection: Connection, id_pa: str, now: datetime) -> int:
    """Makes due what a run with a clock ahead wrote: its next try is far away, or it was given up too early.

    Returns how many.
    """
    table = tables.reconcile_item
    statement = (
        update(table)
        .where(table.c.id_pa == id_pa, table.c.last_at > now + CLOCK_TOLERANCE)
        .values(
            state=case((table.c.state == "given_up", "open"), else_=table.c.state),
            first_at=case((table.c.first_at > now, literal(now, tables.UtcDateTime())), else_=table.c.first_at),
            last_at=now,
            next_attempt_at=now,
        )
    )
    return connection.execute(statement).rowcount


def close_item(connection: Connection, id_pa: str, iuv: str) -> None:
    """The receipt is here."""
    connection.execute(delete(tables.reconcile_item).filter_by(id_pa=id_pa, iuv=iuv))


def close_arrived(connection: Connection, id_pa: str) -> int:
    """Closes the EC's items whose receipts have come by another way; returns how many."""
    table = tables.reconcile_item
    return connection.execute(delete(table).where(table.c.id_pa == id_pa, _arrived())).rowcount


def _arrived() -> Any:
    return _has_receipt(tables.reconcile_item.c.iuv, tables.reconcile_item.c.id_pa)


def count_items(connection: Connection, id_pas: Sequence[str]) -> list[Row[Any]]:
    """`id_pa`, `state`, `reason` and `number` of what is still missing, of these ECs or of all."""
    table = tables.reconcile_item
    columns = (table.c.id_pa, table.c.state, table.c.reason)
    query = select(*columns, func.count().label("number")).where(~_arrived()).group_by(*columns).order_by(*columns)
    return list(connection.execute(query.where(table.c.id_pa.in_(id_pas)) if id_pas else query))


def list_items(connection: Connection, id_pas: Sequence[str], *, limit: int) -> list[Item]:
    """What is still missing, of these ECs or of all, the longest missing first."""
    table = tables.reconcile_item
    query = select(table).where(~_arrived()).order_by(table.c.first_at, table.c.id_pa, table.c.iuv).limit(limit)
    return _items(connection, query.where(table.c.id_pa.in_(id_pas)) if id_pas else query)
