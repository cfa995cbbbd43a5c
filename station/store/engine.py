"""The engine, transactions, and SQLAlchemy's errors made ours. The same promises on PostgreSQL and SQLite."""

import gc
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url, text

from station import log, loop
from station.errors import (
    ConfigError,
    DatabaseUnfitError,
    MissingDatabaseError,
    MissingRightsError,
    StoreError,
    StoreRejectedError,
)
from station.text import printable

if TYPE_CHECKING:  # PostgreSQL's driver is loaded by `connect`: SQLite is spared the time
    from station.store import postgres, statements
    from station.store.statements import Statement

_log = log.get(__name__)

# The Nodo waits 15 s for an answer. Whatever the database does, ours must leave before: connect, wait for a lock and
# run a statement each have their limit, and a transaction that is given an end has one for all of them together.
LOCK_TIMEOUT_MS = 3000
POOL_TIMEOUT_S = 3
_GLANCE_S = 0.0003  # how often whoever wants to write to SQLite looks whether it may: a transaction takes some ms

# A database that cannot be reached is tried again for so long: it restarts or fails over, and a receipt that is
# answered 503 comes again an hour later. An outage that lasts is answered at once, while one caller at a time tries.
BLIP_S = 4.0

# Serialization failure, deadlock: the loser's transaction is gone and may succeed at once when tried again.
_RETRY_SQLSTATES = ("40001", "40P01")
_TOLD_MAX = 400  # characters of what the driver says of a connection


def parse_url(url: str) -> URL:
    """A database URL with the driver that the station ships. Raises `ConfigError` on one that it does not serve."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise ConfigError("not a database URL (expected postgresql://user@host/database or sqlite:///file)") from None
    match parsed.get_backend_name():
        case "postgresql" | "postgres":
            if "@" in (parsed.host or ""):  # the rest of a password, which would be shown as the host
                raise ConfigError("the database URL has an @ in its user or password: write it as %40")
            return parsed.set(drivername="postgresql+psycopg")
        case "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise ConfigError("SQLite needs a file (sqlite:///file): one in memory loses every receipt")
            return parsed.set(drivername="sqlite")
    raise ConfigError(
        f"databases of the kind {parsed.get_backend_name()!r} are not supported (PostgreSQL and SQLite are)"
    )


def shown_url(url: str) -> str:
    """A database URL for messages: without passwords, and with the absolute path of an SQLite file."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(str(parsed.database)).absolute()}"
    parsed = parsed.set(drivername="postgresql")
    parsed = parsed.update_query_dict({name: "masked" for name in parsed.query if "password" in name})
    return parsed.render_as_string(hide_password=True)


def connect(url: str, *, pool_size: int = 8, prepare: bool = True) -> Engine:
    """An engine with at most `pool_size` connections, none of them made yet. Raises `ConfigError` on a wrong URL.

    `prepare`: PostgreSQL keeps the plans of statements that come often. A pooler that gives each transaction another
    connection must know of that, or it must not be done.
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 0,
        "pool_timeout": POOL_TIMEOUT_S,
        "pool_use_lifo": True,  # the connection used last has what the next one needs in its caches
        "hide_parameters": True,  # parameters hold citizens' data and would stand in every error message
    }
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(
            parsed, connect_args={"timeout": LOCK_TIMEOUT_MS / 1000, "isolation_level": None}, **options
        )
        event.listen(engine, "do_connect", _sqlite_existing_file)
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
        event.listen(engine, "handle_error", _leave_a_read_only_file)
    else:
        global postgres, statements
        from station.store import postgres, statements

        engine = create_engine(
            parsed,
            isolation_level="READ COMMITTED",  # whatever the server's default is: insert-first relies on it
            connect_args=postgres.arguments(parsed.normalized_query.get("options", ()), prepare=prepare),
            **options,
        )
        event.listen(engine, "do_connect", postgres.connect)
        event.listen(engine, "handle_error", _leave_a_standby)
    # Connections are no two processes' at once: gunicorn forks its workers, with --preload after the first connection.
    weak = weakref.ref(engine)
    os.register_at_fork(after_in_child=lambda: _forget(weak()))
    return engine


def _forget(engine: Engine | None) -> None:
    if engine is not None:
        engine.dispose(close=False)


def make_file(engine: Engine) -> None:
    """Make the empty file of an SQLite database that is not there yet: only migrating does. Raises `StoreError`."""
    if engine.dialect.name == "sqlite" and "uri" not in engine.url.query:
        try:
            Path(str(engine.url.database)).touch()
        except OSError as error:
            raise StoreError(f"the database file cannot be created: {error.strerror}", reason="cannot open") from error


def _sqlite_existing_file(_dialect: object, _record: object, arguments: list[Any], named: dict[str, Any]) -> None:
    # SQLite makes a file that is missing. A command in the wrong folder, or a server whose disk was not mounted, would
    # then work on an empty database, and find none of the receipts that are stored in the right one.
    if named.get("uri"):
        return  # its own mode says what is made
    file = arguments[0]
    if not os.access(file, os.R_OK):  # never open it: closing it again would give up this process's locks on it
        with suppress(PermissionError):
            if not Path(file).exists():
                raise MissingDatabaseError(
                    f"there is no database file {file}: name the right configuration with --config, or run "
                    "`station migrate` to create a new database",
                    reason="no database file",
                )
        raise StoreError(
            f"the database file {file} cannot be read: run the command as the station's user", reason="cannot open"
        )
    arguments[0], named["uri"] = f"file:{quote(file)}?mode=rw", True


def _sqlite_pragmas(connection: sqlite3.Connection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # a commit is on the disk when it returns
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    # The driver's own BEGIN is late and deferred: a transaction that reads first and then writes fails with "locked"
    # at once, without waiting. Readers take no lock and never wait.
    options = connection.get_execution_options()
    if options.get("station_readonly", False):
        connection.exec_driver_sql("BEGIN")
        return
    until = time.monotonic() + LOCK_TIMEOUT_MS / 1000
    if (end := options.get("station_until")) is not None:
        until = min(until, end)
    raw: Any = connection.connection.dbapi_connection
    # SQLite itself would look again after ever longer pauses, of 100 ms in the end, and keep a loop waiting in them.
    raw.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                raw.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() >= until:
                    break
            else:
                return
            loop.pause(_GLANCE_S)
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # for its error, as SQLAlchemy has it
    finally:
        with suppress(sqlite3.ProgrammingError):  # it was closed: see `_leave_a_read_only_file`
            raw.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")


def _leave_a_standby(context: Any) -> None:
    # What was the primary is a standby now, and takes connections as before: only a new connection finds the new one.
    if getattr(context.original_exception, "sqlstate", None) == postgres.READ_ONLY:
        context.is_disconnect = True


def _leave_a_read_only_file(context: Any) -> None:
    # A connection that was made while the file could not be written never writes. Nor does a new one beside it, since
    # those of a process share what they found: all must go.
    if str(getattr(context.original_exception, "sqlite_errorname", "")).startswith("SQLITE_READONLY"):
        if context.execution_context is not None:
            context.execution_context.cursor.close()  # a connection stays open as long as a statement of it
        context.is_disconnect = True
        context.engine.dispose()


class _Reach:
    """Whether a database can be reached, as this process last found."""

    def __init__(self) -> None:
        self.away_since: float | None = None
        self.was_reached = False
        self.trying = threading.Lock()
        self.memory_ended = False  # in the middle of something

    @property
    def outage(self) -> bool:
        """Away for so long that nobody should wait for it."""
        since = self.away_since
        return since is not None and time.monotonic() - since > BLIP_S

    def lost(self, error: StoreError) -> None:
        if self.away_since is None:
            self.away_since = time.monotonic()
            if self.was_reached:  # else the start fails, or tells it
                _log.warning("database_lost", reason=str(error))

    def reached(self) -> None:
        self.was_reached = True
        if self.away_since is not None:
            _log.info("database_reached", away_s=round(time.monotonic() - self.away_since, 1))
            self.away_since = None


_reach: weakref.WeakKeyDictionary[Engine, _Reach] = weakref.WeakKeyDictionary()


@contextmanager
def transaction(engine: Engine, *, readonly: bool = False, until: float | None = None) -> Iterator[Connection]:
    """One transaction: commits at the end, rolls back on any error. Raises `StoreError` for what the database does.

    Only the use cases open transactions; the functions of `store` never commit. On PostgreSQL the transaction has
    failed at `until` (of `time.monotonic()`), whatever the server does or does not; without it, each statement must
    be answered in a time that ends after the server's own limit.
    """
    with _reaching(engine) as reached, _connected(engine, readonly, until) as connection:
        reached()
        with connection.begin():
            yield connection


def run_statements(engine: Engine, given: "Sequence[Statement]", *, until: float | None) -> list[str | None]:
    """Runs statements that are a transaction, on PostgreSQL. The first value of the first row of each, or `None`.

    One round trip where `transaction` needs three. The pool gives the connection, and SQLAlchemy does nothing more.
    `until` and errors as in `transaction`; `UndoneError` where one of several failed.
    """
    with _reaching(engine) as reached:
        pooled = None
        try:
            with postgres.connecting(until):
                pooled = engine.raw_connection()
            reached()
            return statements.run(pooled.dbapi_connection, given, until)
        except postgres.Error as error:
            lost = False
            if pooled is not None and postgres.is_lost(error, pooled.dbapi_connection):
                lost = True  # and as SQLAlchemy has it: connections that are as old are not used again, either
                engine.pool._invalidate(pooled, error)
            raise exc.DBAPIError.instance(
                None, None, error, postgres.Error, hide_parameters=True, connection_invalidated=lost,
                dialect=engine.dialect,
            ) from error  # fmt: skip
        finally:
            if pooled is not None:
                pooled.close()


def has_free_connection(engine: Engine) -> bool:
    """Whether a connection is free: making one keeps whoever makes it waiting."""
    checkedin: int = engine.pool.checkedin()  # type: ignore[attr-defined]  # of `QueuePool`
    return checkedin > 0


@contextmanager
def _reaching(engine: Engine) -> Iterator[Callable[[], None]]:
    """Makes SQLAlchemy's errors ours and remembers whether the database is there. Yields what to call when it is.

    Raises `StoreError` at once where it is away for long and somebody else is trying to reach it.
    """
    reach = _reach.get(engine) or _reach.setdefault(engine, _Reach())
    if reach.memory_ended:
        # Connections that could not be given back are in nobody's hands, and a transaction on one keeps SQLite locked.
        gc.collect()
        engine.dispose()
        reach.memory_ended = False
    trying = reach.outage
    if trying and not reach.trying.acquire(blocking=False):
        raise StoreError(f"{database_name(engine.url)} cannot be reached", reason="outage")

    def reached() -> None:
        nonlocal trying
        reach.reached()
        if trying:
            trying = False
            reach.trying.release()

    try:
        yield reached
    except exc.SQLAlchemyError as error:
        mine = ours(error, engine)
        if unreachable(error):
            reach.lost(mine)
            mine.retry = mine.retry and not reach.outage
        raise mine from error
    except MemoryError:
        reach.memory_ended = True
        raise
    finally:
        if trying:
            reach.trying.release()


@contextmanager
def _connected(engine: Engine, readonly: bool, until: float | None) -> Iterator[Connection]:
    on_postgresql = engine.dialect.name == "postgresql"
    with postgres.connecting(until) if on_postgresql else nullcontext():
        connecting = engine.connect()
    with connecting.execution_options(station_readonly=readonly, station_until=until) as connection:
        if on_postgresql:
            postgres.limit(connection.connection.dbapi_connection, until)
        yield connection


def allow_long(connection: Connection, statement_timeout: str = "0") -> None:
    """Lets this transaction's statements run for long; `0`: without end. For what nobody waits 15 s for."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SET LOCAL statement_timeout = '{statement_timeout}'"))
        postgres.limit(connection.connection.dbapi_connection, None, silence=None)


def unreachable(error: exc.SQLAlchemyError) -> bool:
    """Whether no connection stands, or it was lost: the database is away, or its way is."""
    if not isinstance(error, exc.DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated:
        return True
    # Whatever goes wrong while connecting comes without an SQLSTATE: refused, starting up, too many clients.
    return isinstance(error.orig, postgres.OperationalError) and error.orig.sqlstate is None


def ours(error: exc.SQLAlchemyError, engine: Engine) -> StoreError:
    """Names the database, and what happened by class and code: a driver's message may quote the row.

    Where no connection was made the message quotes nothing of ours, and says why: a password, a name, a certificate.
    """
    database = database_name(engine.url)
    if isinstance(error, exc.TimeoutError):
        return StoreError(f"no connection to {database} became available in time", reason="pool timeout")
    if not isinstance(error, exc.DBAPIError):
        reason = type(error).__name__
        return StoreRejectedError(
            f"{database} rejected the statement: this is a defect of the station ({reason})", reason=reason
        )
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "sqlite_errorname", None)
    reason = f"{type(error.orig).__name__}{f' {code}' if code else ''}"
    if engine.dialect.name == "postgresql":
        match error.orig:
            case postgres.UnfitError():
                return DatabaseUnfitError(f"{database} {error.orig}", reason=reason)
            case postgres.ConnectError():
                told = printable(" ".join(str(error.orig).split()))[:_TOLD_MAX]
                retry = not isinstance(error.orig, postgres.CrowdedError)
                return StoreError(f"{database} cannot be reached: {told}", reason=reason, retry=retry)
            case postgres.UnconfirmedError():
                message = f"{database} committed, but no standby has confirmed it ({error.orig})"
                _log.error("commit_unconfirmed", reason=message)
                return StoreError(message, reason="unconfirmed")
        if code == postgres.READ_ONLY:
            message = f"{database} accepts no writes: it is a standby, or default_transaction_read_only is on"
            return StoreError(message, reason=reason, retry=True)
        if code == postgres.NO_RIGHT:
            denied = getattr(getattr(error.orig, "diag", None), "message_primary", None) or "permission denied"
            return MissingRightsError(engine.url.username, denied, reason=reason)
    if unreachable(error):
        return StoreError(f"the connection to {database} was lost ({reason})", reason=reason, retry=True)
    if isinstance(error, exc.OperationalError | exc.InterfaceError | exc.InternalError):
        message = f"{database} cannot store or return the data at the moment ({reason})"
        return StoreError(message, reason=reason, retry=code in _RETRY_SQLSTATES)
    message = f"{database} rejected the data or the statement: this is a defect, not an outage ({reason})"
    return StoreRejectedError(message, reason=reason)


def database_name(url: URL) -> str:
    """The database for people: its name and where it is, without user and password."""
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database}"
    host = f"[{url.host}]" if url.host and ":" in url.host else url.host
    hosts = [f"{host}:{url.port or 5432}"] if host else [*url.normalized_query.get("host", ["this machine"])]
    return f"the database {url.database or url.username} at {', '.join(hosts)}"
