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

from station import log
from station.errors import (
    ConfigError,
    DatabaseUnfitError,
    MissingDatabaseError,
    MissingRightsError,
    StoreError,
    StoreRejectedError,
)
from station.store import limits, waiting
from station.text import printable

if TYPE_CHECKING:  # PostgreSQL's driver is loaded by `connect`: SQLite is spared the time
    from station.store import postgres, statements
    from station.store.statements import Statement

_log = log.get(__name__)

# The Nodo waits 15 s for an answer, and ours must leave before. Connect, lock and statement timeouts; `until` adds a
# deadline for the whole transaction.
LOCK_TIMEOUT_MS = 3000
_LONG_LOCK_S = 60.0
_SQLITE_STEPS = 10_000  # of its virtual machine: some 0.1 ms
STATEMENT_TIMEOUT_S = 5
QUERY_TIMEOUT_S = 1800  # of a list, a report or an export: an operator can wait and interrupt, the Nodo cannot
POOL_TIMEOUT_S = 3
_BUSY_POLL_S = 0.0003  # how often a writer that waits for SQLite tries again: a transaction takes some ms
_SLOW_COMMIT_S = 0.05  # after one that took longer, a thread waits for the disk
_COMMIT_MAX_S = 60.0

# The circuit breaker opens after a database was away for this long. Until then each caller tries: it restarts or fails
# over, and a receipt that is answered 503 comes again an hour later. Afterwards one caller at a time tries.
BLIP_S = 4.0

# Serialization failure, deadlock: the loser's transaction is gone and may succeed at once when tried again.
_RETRY_SQLSTATES = ("40001", "40P01")
_TOLD_MAX = 400  # characters of what the driver says of a connection


class UndoneError(Exception):
    """One of several statements failed, and nothing of any of them is in the database."""


def parse_url(url: str) -> URL:
    """Return a database URL with the driver that we ship. Raises `ConfigError` on a URL that is not served."""
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
    """Return a database URL for messages: without passwords, and with the absolute path of an SQLite file."""
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(str(parsed.database)).absolute()}"
    parsed = parsed.set(drivername="postgresql")
    parsed = parsed.update_query_dict({name: "masked" for name in parsed.query if "password" in name})
    return parsed.render_as_string(hide_password=True)


def connect(url: str, *, pool_size: int = 8, prepare: bool = True) -> Engine:
    """Return an engine with at most `pool_size` connections, none of them made yet. Raises `ConfigError`.

    `prepare`: PostgreSQL keeps the plans of statements that come often. A pooler that gives each transaction another
    connection must know of that, or it must be false.
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
        engine.dialect.do_commit = _sqlite_commit  # type: ignore[assignment,method-assign]
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
    until = time.monotonic() + options.get("station_lock_s", LOCK_TIMEOUT_MS / 1000)
    if (end := options.get("station_until")) is not None:
        until = min(until, end)
    raw: Any = connection.connection.dbapi_connection
    # SQLite itself would look again after ever longer pauses, of 100 ms in the end, and block the event loop in them.
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
            time.sleep(_BUSY_POLL_S)
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # for its error, as SQLAlchemy has it
    finally:
        with suppress(sqlite3.ProgrammingError):  # it was closed: see `_leave_a_read_only_file`
            raw.execute(f"PRAGMA busy_timeout={LOCK_TIMEOUT_MS}")


_commit_took = 0.0  # the last one of this process, in seconds


def _sqlite_commit(connection: Any) -> None:
    # A commit waits for the disk. Where that takes long, the other connections must not wait, too; where it does not, a
    # thread for each commit would cost a tenth of the rate.
    global _commit_took
    begun = time.monotonic()
    if _commit_took >= _SLOW_COMMIT_S and waiting.in_greenlet():
        waiting.run_in_thread(connection.commit, _COMMIT_MAX_S)
    else:
        connection.commit()
    _commit_took = time.monotonic() - begun


def _leave_a_standby(context: Any) -> None:
    # The old primary is a standby now, and takes connections as before: only a new connection finds the new primary.
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


class CircuitBreaker:
    """Whether a database can be reached, as this process last found."""

    def __init__(self) -> None:
        self.away_since: float | None = None
        self.was_reached = False
        self.trying = threading.Lock()
        self.out_of_memory = False  # in the middle of a transaction

    @property
    def is_open(self) -> bool:
        """Whether the database has been away for so long that callers fail at once."""
        since = self.away_since
        return since is not None and time.monotonic() - since > BLIP_S

    def lost(self, error: StoreError) -> None:
        """Note that no connection stands."""
        if self.away_since is None:
            self.away_since = time.monotonic()
            if self.was_reached:  # else the start fails, or tells it
                _log.warning("database_lost", reason=str(error))


_breakers: weakref.WeakKeyDictionary[Engine, CircuitBreaker] = weakref.WeakKeyDictionary()


@contextmanager
def transaction(
    engine: Engine, *, readonly: bool = False, until: float | None = None, timeout: float | None = STATEMENT_TIMEOUT_S
) -> Iterator[Connection]:
    """Open a transaction: it commits at the end and rolls back on any error. Raises `StoreError`.

    Only the use cases open transactions; the functions of `store` never commit. `until` (of `time.monotonic()`) is a
    deadline: on PostgreSQL for all of it, on SQLite for getting the writer's lock. `timeout` is PostgreSQL's limit for
    each statement, in seconds; `None`: no limit, and a minute for SQLite's lock, as of a migration beside another one.
    """
    on_postgresql = engine.dialect.name == "postgresql"
    with _guarded(engine) as reached:
        lock_s = _LONG_LOCK_S if timeout is None else LOCK_TIMEOUT_MS / 1000
        with postgres.connecting(until) if on_postgresql else nullcontext():
            connecting = engine.connect()
        with connecting.execution_options(
            station_readonly=readonly, station_until=until, station_lock_s=lock_s
        ) as connection:
            if on_postgresql:
                silence = postgres.SILENCE_S if timeout == STATEMENT_TIMEOUT_S else None
                postgres.set_deadline(connection.connection.dbapi_connection, until, silence=silence)
            reached()
            with connection.begin():
                if on_postgresql and timeout != STATEMENT_TIMEOUT_S:
                    connection.execute(text(f"SET LOCAL statement_timeout = '{timeout or 0}s'"))
                if (limit := limits.current()) is not None:
                    limits.set_limit(connection, limit)
                yield connection


@contextmanager
def ended_after(connection: Connection, seconds: float) -> Iterator[None]:
    """End a statement on SQLite that still runs after this time, as `timeout` does on PostgreSQL. Raises `StoreError`.

    Until it ends, the event loop of its process serves no other request.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    raw: Any = connection.connection.dbapi_connection
    end = time.monotonic() + seconds
    raw.set_progress_handler(lambda: time.monotonic() > end, _SQLITE_STEPS)
    try:
        yield
    finally:
        raw.set_progress_handler(None, 0)


def run_statements(engine: Engine, given: "Sequence[Statement]", until: float | None) -> list[str | None]:
    """Run statements as one transaction, on PostgreSQL. Return the first value of the first row of each, or `None`.

    One round trip where `transaction` needs three. The pool gives the connection, and SQLAlchemy does nothing more.
    `until` and errors as in `transaction`; `UndoneError` where one of several failed.
    """
    with _guarded(engine) as reached:
        pooled = None
        try:
            with postgres.connecting(until):
                pooled = engine.raw_connection()
            reached()
            return statements.run(pooled.dbapi_connection, given, until)
        except postgres.Error as error:
            lost = False
            if pooled is not None and postgres.is_lost(error, pooled.dbapi_connection):
                lost = True  # as in SQLAlchemy, connections that are as old are not used again, either
                engine.pool._invalidate(pooled, error)
            raise exc.DBAPIError.instance(
                None, None, error, postgres.Error, hide_parameters=True, connection_invalidated=lost,
                dialect=engine.dialect,
            ) from error  # fmt: skip
        finally:
            if pooled is not None:
                pooled.close()


@contextmanager
def _guarded(engine: Engine) -> Iterator[Callable[[], None]]:
    """Translate SQLAlchemy's errors and keep the circuit breaker. Yields a function to call when a connection stands.

    Raises `StoreError` at once where the circuit is open and another caller is trying already.
    """
    breaker = _breakers.get(engine) or _breakers.setdefault(engine, CircuitBreaker())
    if breaker.out_of_memory:
        # Connections that could not be given back are lost, and a transaction on one keeps SQLite locked.
        gc.collect()
        engine.dispose()
        breaker.out_of_memory = False
    trying = breaker.away_since is not None and breaker.is_open
    if trying and not breaker.trying.acquire(blocking=False):
        raise StoreError(f"{database_name(engine.url)} cannot be reached", reason="outage")

    def reached() -> None:
        nonlocal trying
        breaker.was_reached = True
        if breaker.away_since is not None:
            _log.info("database_reached", away_s=round(time.monotonic() - breaker.away_since, 1))
            breaker.away_since = None
        if trying:
            trying = False
            breaker.trying.release()

    try:
        yield reached
    except exc.SQLAlchemyError as error:
        translated = translate_error(error, engine)
        if unreachable(error):
            breaker.lost(translated)
            translated.retry = translated.retry and not breaker.is_open
        raise translated from error
    except MemoryError:
        breaker.out_of_memory = True
        raise
    finally:
        if trying:
            breaker.trying.release()


def unreachable(error: exc.SQLAlchemyError) -> bool:
    """Return whether no connection stands, or it was lost."""
    if not isinstance(error, exc.DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated:
        return True
    # Errors while connecting come without an SQLSTATE: refused, starting up, too many clients.
    return isinstance(error.orig, postgres.OperationalError) and error.orig.sqlstate is None


def translate_error(error: exc.SQLAlchemyError, engine: Engine) -> StoreError:
    """Return our error, which names the database and the error's class and code: a driver's message may quote the row.

    Where no connection was made, the driver's message quotes no data and is kept: a password, a name, a certificate.
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
    """Return the database's name and place for people, without user and password."""
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database}"
    host = f"[{url.host}]" if url.host and ":" in url.host else url.host
    hosts = [f"{host}:{url.port or 5432}"] if host else [*url.normalized_query.get("host", ["this machine"])]
    return f"the database {url.database or url.username} at {', '.join(hosts)}"
