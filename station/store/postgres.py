"""PostgreSQL's connections: the session's settings, an end to every wait for the server, and unconfirmed commits.

`statement_timeout` and `lock_timeout` are the server's: one that is stopped, or behind a network that swallows what is
sent, never applies them. Then the client must give up by itself, or it waits for ever.
"""

import itertools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import psycopg
from psycopg import Error, OperationalError

from station.store import waiting
from station.store.engine import LOCK_TIMEOUT_MS, STATEMENT_TIMEOUT_S

__all__ = [
    "NO_RIGHT",
    "READ_ONLY",
    "ConnectError",
    "CrowdedError",
    "Error",
    "OperationalError",
    "UnconfirmedError",
    "UnfitError",
    "arguments",
    "connect",
    "connecting",
    "is_lost",
    "set_deadline",
]


class ConnectError(OperationalError):
    """No connection stands. The message is the driver's or the server's, from before anything was asked."""


class UnfitError(ConnectError):
    """A database or session in which receipts would be damaged or lost. The message goes on after its name."""


class CrowdedError(ConnectError):
    """Too many commits wait for a standby."""


class UnconfirmedError(OperationalError):
    """The server ended a commit with a warning: it is on the server's disk, and no standby has confirmed it."""

    sqlstate = "01000"


READ_ONLY = "25006"  # a standby's refusal to write
NO_RIGHT = "42501"  # the role may not do this: permission denied, must be owner

CONNECT_TIMEOUT_S = 3  # for each host of the URL
# For all of them together and for the names to be resolved, which nothing else limits.
_CONNECT_ALL_S = 2 * CONNECT_TIMEOUT_S + 1.0
_WAKE_S = 0.1  # how often psycopg looks whether it was interrupted while it waits
_STATEMENT_TIMEOUT_MS = 1000 * STATEMENT_TIMEOUT_S
# For one wait for the server, where nothing else is said: longer than the server's own limit, which is the better one.
SILENCE_S = 8.0
_LONGEST_WAIT_S = 366 * 86400.0  # where there is no limit

# --- the session's settings -------------------------------------------------------------------------------------------

# How times are read: the driver knows no other format with a zone, and in another zone the first and the last day that
# Python knows are beyond it. libpq takes these two from the environment alone; poolers keep to them, too.
_ENVIRONMENT = {"PGDATESTYLE": "ISO", "PGTZ": "UTC"}

# Sent when a session begins, these override what role, database and postgresql.conf say. `search_path` is left to the
# operator, who may keep the tables in a schema of their own: with a wrong one the station finds no schema and does not
# start. So is `default_transaction_read_only`, which freezes a database: what is refused then is answered 503.
_OPTIONS = {
    "lock_timeout": LOCK_TIMEOUT_MS,
    "statement_timeout": _STATEMENT_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": 2 * _STATEMENT_TIMEOUT_MS,
    "idle_session_timeout": 0,  # the session that holds the lock of `reconcile` is idle
    # Where the network loses us in the midst of several statements, none of the server's other limits ends their
    # transaction, and the rows that it locks would be locked for hours.
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "default_transaction_isolation": r"read\ committed",  # insert-first relies on it
    "standard_conforming_strings": "on",
    "client_min_messages": "warning",  # or nothing would tell of a commit that is not confirmed
}

# A commit that is given up keeps its server process for as long as no standby confirms it, and each one more needs a
# new connection: so new ones are refused while a quarter of `max_connections` is kept so. The server's own view counts
# for all processes and machines, costs nothing while connections stand, and falls by itself when the standby returns.
# Cancelling these commits instead would free their processes, but also show receipts that are on one machine only; and
# cancel requests are lost where networks or processes hang.
_CROWD = 4
_GIVEN_UP_S = SILENCE_S  # no push waits longer for its commit

# Asked once for each connection. `synchronous_commit` is raised where a crash would lose what was acknowledged ("off"),
# or a standby is not waited for ("local"), and then stays in this session whatever the server's configuration becomes.
# The other levels ("remote_write", "on", "remote_apply") are the operator's choice: both machines have the receipt.
# Behind a pooler, which drops our options, a session is not ours to change.
_SESSION = """
WITH given AS (
    SELECT current_setting('synchronous_commit') AS level, (
        SELECT source = 'client' FROM pg_catalog.pg_settings WHERE name = 'client_min_messages'
    ) AS own_session
)
SELECT
    CASE WHEN NOT own_session THEN level
        WHEN level IN ('off', 'local') THEN set_config('synchronous_commit', 'on', false)
        ELSE set_config('synchronous_commit', level, false) END,
    current_setting('client_min_messages'),
    current_setting('max_connections')::int, (
        SELECT count(*) FROM pg_catalog.pg_stat_activity
        WHERE wait_event = 'SyncRep' AND usename = session_user
        AND clock_timestamp() - query_start > %s * interval '1 s'
    )
FROM given"""


def arguments(options: Sequence[str], *, prepare: bool) -> dict[str, Any]:
    """Return the arguments of each connection. `options` are those of the URL; ours win."""
    os.environ.update(_ENVIRONMENT)
    ours = (f"-c {name}={value}" for name, value in _OPTIONS.items())
    return {
        "client_encoding": "UTF8",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "station",
        "tcp_user_timeout": _STATEMENT_TIMEOUT_MS,
        "keepalives_idle": 30,
        "options": " ".join((*options, *ours)),
    } | ({} if prepare else {"prepare_threshold": None})


def _check_encoding(connection: psycopg.Connection[Any]) -> None:
    """Raise `UnfitError` unless the database takes UTF-8 and holds all of it. The server tells so without a query."""
    encoding = _told(connection, b"server_encoding")
    if encoding not in (None, "UTF8"):
        raise UnfitError(
            f"has the encoding {encoding}, which cannot hold every name that arrives: create it again with "
            "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0 (see docs/operations.md)"
        )
    for name, wanted in ((b"client_encoding", "UTF8"), (b"DateStyle", "ISO")):
        value = _told(connection, name)
        if value is not None and value.partition(",")[0] != wanted:
            raise _unfit_session(name.decode(), value, wanted)


def _told(connection: psycopg.Connection[Any], name: bytes) -> str | None:
    value = connection.pgconn.parameter_status(name)
    return None if value is None else value.decode()


def _unfit_session(name: str, value: str, wanted: str) -> UnfitError:
    return UnfitError(
        f"opens sessions with {name} = {value}, and a pooler keeps the station from changing it: "
        f"ALTER ROLE ... SET {name} = '{wanted}'"
    )


def _check_session(connection: psycopg.Connection[Any]) -> None:
    """Set what only the session itself can. Raises `UnfitError`, and `CrowdedError`."""
    connection.autocommit = True
    level, messages, most, waiting = connection.execute(_SESSION, (_GIVEN_UP_S,)).fetchall()[0]
    connection.autocommit = False
    if level in ("off", "local"):
        raise _unfit_session("synchronous_commit", level, "on")
    if messages == "error":
        raise _unfit_session("client_min_messages", messages, "warning")
    if waiting >= max(1, most // _CROWD):
        raise CrowdedError(
            f"{waiting} abandoned commits still wait for a standby, out of {most} connections in all: none is "
            "added until it returns (synchronous_standby_names)"
        )


# --- waiting ----------------------------------------------------------------------------------------------------------


class _Connection(psycopg.Connection[Any]):
    """psycopg's connection, which is closed where the server's answer takes too long."""

    until: float | None = None
    silence: float | None = SILENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.named: dict[bytes, bytes] = {}  # statements that the server keeps, and their names there
        self.names = itertools.count()  # none twice: the server may keep what is no longer in `named`
        self.warnings: list[str] = []  # since a transaction's end began
        self.add_notice_handler(partial(_notice, self.warnings))  # not a method: the connection would hold itself

    def commit(self) -> None:
        """Commit. Raises `UnconfirmedError` where the server commits with a warning."""
        self.warnings.clear()
        super().commit()
        self.confirm()

    def confirm(self) -> None:
        """Raise `UnconfirmedError` where a warning came since `warnings` was cleared, as the transaction ended."""
        if self.warnings:
            raise UnconfirmedError(", ".join(self.warnings))

    def wait(self, gen: Any, interval: float = _WAKE_S, timeout: float | None = None) -> Any:
        """Wait for the server until the deadline, cooperatively where a greenlet calls."""
        ends = [end for end in (self.until, self.silence and time.monotonic() + self.silence) if end is not None]
        end = min(ends, default=time.monotonic() + _LONGEST_WAIT_S)
        left = max(0.0, end - time.monotonic())
        left = left if timeout is None else min(timeout, left)
        try:
            if waiting.in_greenlet():
                return waiting.drive(gen, self.pgconn.socket, left)
            return super().wait(gen, interval, left)
        except (OperationalError, TimeoutError) as error:
            if isinstance(error, TimeoutError) or (error.sqlstate is None and time.monotonic() >= end):
                self.pgconn.finish()
                raise OperationalError("the server did not answer in time") from error
            raise


# Warnings of the statement and not of its commit, which come in one go where the two are one message: from a trigger,
# and from the counters that must be vacuumed some day, at each statement for weeks before anything fails.
_OF_STATEMENTS = ("varsup.c", "multixact.c")


def _notice(warnings: list[str], notice: psycopg.errors.Diagnostic) -> None:
    """Remembers a warning by what is not translated and quotes no data."""
    if notice.severity_nonlocalized == "WARNING" and not notice.context and notice.source_file not in _OF_STATEMENTS:
        warnings.append(f"{notice.sqlstate} {notice.source_function}")


def set_deadline(connection: Any, until: float | None, *, silence: float | None = SILENCE_S) -> None:
    """Set how long a connection may be waited for: until then (of `time.monotonic()`), `silence` seconds at once."""
    if isinstance(connection, _Connection):
        connection.until = until
        connection.silence = silence


def is_lost(error: Error, connection: Any) -> bool:
    """Return whether a connection is of no use any more after `error`."""
    return bool(connection.closed) or error.sqlstate == READ_ONLY


# The deadline of the transaction that connects in this greenlet or thread: SQLAlchemy's pool cannot be told it.
_connecting: ContextVar[float | None] = ContextVar("connecting", default=None)


@contextmanager
def connecting(until: float | None) -> Iterator[None]:
    """Give connections that are made inside a deadline (of `time.monotonic()`)."""
    token = _connecting.set(until)
    try:
        yield
    finally:
        _connecting.reset(token)


def connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> _Connection:
    """Connect, for SQLAlchemy, in a thread that can be left alone: libpq resolves names without a limit.

    Raises `ConnectError`.
    """
    until = _connecting.get()
    seconds = _CONNECT_ALL_S if until is None else max(0.0, min(_CONNECT_ALL_S, until - time.monotonic()))
    made: list[_Connection] = []
    late = False

    def attempt() -> None:
        connection = _Connection.connect(*arguments, **named)
        try:
            _check_encoding(connection)
            _check_session(connection)
        except BaseException:
            connection.close()
            raise
        made.append(connection)
        if late:
            with suppress(IndexError):  # it stands after all, and is used
                made.pop().close()

    try:
        waiting.run_in_thread(attempt, seconds)
    except TimeoutError:
        pass
    except ConnectError:
        raise
    except (Error, OSError, ValueError) as error:  # the latter two of a name that is none
        raise ConnectError(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        raise ConnectError("no thread could be started") from error
    late = True
    try:
        connection = made.pop()
    except IndexError:
        raise ConnectError("no connection was established in time") from None
    connection.until = until
    return connection
