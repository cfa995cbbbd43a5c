"""The engine, transactions, and SQLAlchemy's errors made ours. The same promises on PostgreSQL and SQLite."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from station.errors import ConfigError, StoreError, StoreRejectedError

# The Nodo waits 15 s for an answer. Whatever the database does, ours must leave before: connect, wait for a lock and
# run a statement each have their limit, and one retry fits in.
CONNECT_TIMEOUT_S = 3
LOCK_TIMEOUT_MS = 3000
STATEMENT_TIMEOUT_MS = 5000
POOL_TIMEOUT_S = 3

# Serialization failure, deadlock: the loser's transaction is gone and may succeed at once when tried again.
_RETRY_SQLSTATES = ("40001", "40P01")


def parse_url(url: str) -> URL:
    """A database URL with the driver that the station ships. Raises `ConfigError` on one that it does not serve."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ConfigError("not a database URL (want postgresql://user@host/database or sqlite:///file)") from None
    match parsed.get_backend_name():
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ConfigError("SQLite needs a file (sqlite:///file): one in memory loses every receipt")
            return parsed.set(drivername="sqlite")
    raise ConfigError(f"databases of the kind {parsed.get_backend_name()!r} are not served (PostgreSQL and SQLite are)")


def connect(url: str, *, pool_size: int = 8) -> Engine:
    """An engine with at most `pool_size` connections, none of them made yet. Raises `ConfigError` on a wrong URL."""
    parsed = parse_url(url)
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "hide_parameters": True,  # parameters hold citizens' data and would stand in every error message
    }
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed, connect_args={"timeout": LOCK_TIMEOUT_MS / 1000, "isolation_level": None}, **options
        )
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    return create_engine(
        parsed,
        isolation_level="READ COMMITTED",  # whatever the server's default is: insert-first relies on it
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "station",
            "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
            "keepalives_idle": 30,
            "options": f"-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} "
            f"-c idle_in_transaction_session_timeout={2 * STATEMENT_TIMEOUT_MS}",
        },
        **options,
    )


def _sqlite_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # The driver's own BEGIN is late and deferred: a transaction that reads first and then writes fails with "locked"
    # at once, without waiting. Readers take no lock and never wait.
    readonly = connection.get_execution_options().get("station_readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")


# SQLite has one writer. Threads of this process queue here, in order, instead of polling the file's lock.
_sqlite_writer = threading.Lock()


@contextmanager
def transaction(engine: Engine, *, readonly: bool = False) -> Iterator[Connection]:
    """One transaction: commits at the end, rolls back on any error. Raises `StoreError` for what the database does.

    Only the use cases open transactions; the functions of `store` never commit.
    """
    writer_lock = _sqlite_writer if engine.dialect.name == "sqlite" and not readonly else None
    if writer_lock is not None and not writer_lock.acquire(timeout=LOCK_TIMEOUT_MS / 1000):
        raise StoreError("the database is locked", reason="writer queue full")
    try:
        with engine.connect().execution_options(station_readonly=readonly) as connection, connection.begin():
            yield connection
    except exc.SQLAlchemyError as error:
        raise ours(error) from error
    finally:
        if writer_lock is not None:
            writer_lock.release()


def ours(error: exc.SQLAlchemyError) -> StoreError:
    """Names what happened by class and code alone: a driver's message may quote the row."""
    if isinstance(error, exc.TimeoutError):
        return StoreError("no database connection became free in time", reason="pool timeout")
    if not isinstance(error, exc.DBAPIError):
        return StoreRejectedError(reason=type(error).__name__)
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    reason = f"{type(error.orig).__name__}{f' {code}' if code else ''}"
    if error.connection_invalidated:
        return StoreError("the connection to the database was lost", reason=reason, retry=True)
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        return StoreError(reason=reason, retry=code in _RETRY_SQLSTATES)
    return StoreRejectedError(reason=reason)
