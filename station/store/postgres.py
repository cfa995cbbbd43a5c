"""PostgreSQL's connections, with an end to every wait for the server.

`statement_timeout` and `lock_timeout` are the server's: one that is stopped, or behind a network that swallows what is
sent, never applies them. Then the client must give up by itself, or its thread waits for ever.
"""

import _thread
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from functools import cache
from typing import Any

import psycopg
from psycopg import DataError, Error, OperationalError, generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus

__all__ = [
    "CONNECT_TIMEOUT_S",
    "READ_ONLY",
    "Error",
    "OperationalError",
    "connect",
    "connecting",
    "is_lost",
    "limit",
    "run_alone",
]

READ_ONLY = "25006"  # a standby's refusal to write

CONNECT_TIMEOUT_S = 3  # for each host of the URL
# For all of them together and for the names to be resolved, which nothing else limits.
_CONNECT_ALL_S = 2 * CONNECT_TIMEOUT_S + 1.0
_WAKE_S = 0.1  # how often psycopg looks whether it was interrupted while it waits
# For one wait for the server, where nothing else is said: longer than the server's own limit, which is the better one.
SILENCE_S = 8.0


class _Connection(psycopg.Connection[Any]):
    """psycopg's connection, which is closed where the server's answer takes too long."""

    until: float | None = None
    silence: float | None = SILENCE_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.named: dict[bytes, bytes] = {}  # statements that the server keeps, and their names there

    def wait(self, gen: Any, interval: float = _WAKE_S, timeout: float | None = None) -> Any:
        ends = [end for end in (self.until, self.silence and time.monotonic() + self.silence) if end is not None]
        if not ends:
            return super().wait(gen, interval, timeout)
        end = min(ends)
        try:
            return super().wait(gen, interval, max(0.0, end - time.monotonic()))
        except OperationalError as error:
            if error.sqlstate is None and time.monotonic() >= end:
                self.pgconn.finish()
                raise OperationalError("the server did not answer in time") from error
            raise


def limit(connection: Any, until: float | None, *, silence: float | None = SILENCE_S) -> None:
    """Sets until when (of `time.monotonic()`) a connection may be waited for at all, and for how long at once."""
    if isinstance(connection, _Connection):
        connection.until = until
        connection.silence = silence


def run_alone(connection: Any, statement: str, parameters: Mapping[str, Any], until: float | None) -> str | None:
    """Runs one statement outside of any transaction; the first value of its first row, or `None`. Raises the driver's
    error.

    By the driver's lower half, which talks libpq: a cursor, and a connection that changes to autocommit and back, took
    three times as long. Parameters go to the server without a type: it takes that from the statement.
    """
    limit(connection, until)
    command, names = _numbered(statement)
    values = [parameters[name] for name in names]
    dumped = [None if value is None else _dump(value.__class__)(value) for value in values]
    formats = [type(value) is bytes for value in values]
    if connection.prepare_threshold is None:
        connection.pgconn.send_query_params(command, dumped, None, formats)
    else:
        if command not in connection.named:
            name = b"station_%d" % len(connection.named)
            connection.pgconn.send_prepare(name, command)
            _answer(connection)
            connection.named[command] = name
        connection.pgconn.send_query_prepared(connection.named[command], dumped, formats)
    value = _answer(connection)
    return None if value is None else value.decode()


def _answer(connection: Any) -> bytes | None:
    """What the server says to what it was sent: the first value of the first row. Raises the driver's error."""
    result = connection.wait(generators.execute(connection.pgconn))[0]
    match result.status:
        case ExecStatus.TUPLES_OK:
            value: bytes | None = result.get_value(0, 0) if result.ntuples else None
            return value
        case ExecStatus.COMMAND_OK:
            return None
    raise error_from_result(result)


@cache
def _numbered(statement: str) -> tuple[bytes, list[str]]:
    """The statement as the server knows it, with numbers for its parameters, and their names in that order."""
    numbers: dict[str, int] = {}
    command = re.sub(r"%\(([^)]+)\)s", lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", statement)
    return command.encode(), list(numbers)


def _dump_text(value: str) -> bytes:
    if "\0" in value:  # libpq takes what is before it for the whole
        raise DataError("PostgreSQL has no NUL in text")
    return value.encode()


@cache
def _dump(kind: Any) -> Callable[[Any], bytes]:
    """What makes of a value what is sent to the server: bytes as they are, all else in PostgreSQL's text."""
    return next(dump for known, dump in _DUMPS if issubclass(kind, known))


_DUMPS: tuple[tuple[type, Callable[[Any], bytes]], ...] = (
    (bytes, bytes),
    (str, _dump_text),
    (bool, lambda value: b"t" if value else b"f"),
    (int, b"%d".__mod__),
    (Decimal, lambda value: str(value).encode()),
    (date, lambda value: value.isoformat().encode()),  # and datetime
)


def is_lost(error: Error, connection: Any) -> bool:
    """Whether a connection is of no use any more after `error`."""
    return bool(connection.closed) or error.sqlstate == READ_ONLY


# Until when the transaction that connects in this thread may wait: SQLAlchemy's pool has no door for it.
_connecting = threading.local()


@contextmanager
def connecting(until: float | None) -> Iterator[None]:
    """Connections that this thread makes inside must stand at `until` (of `time.monotonic()`)."""
    _connecting.until = until
    try:
        yield
    finally:
        _connecting.until = None


class _Attempt:
    """One attempt to connect, in a thread that can be left alone."""

    def __init__(self, arguments: Any, named: Any) -> None:
        self._lock = threading.Lock()
        self._left = False
        self._done = threading.Event()
        self._connection: _Connection | None = None
        self._error: BaseException | None = None
        self._call = arguments, named

    def _run(self) -> None:
        connection = None
        try:
            connection = _Connection.connect(*self._call[0], **self._call[1])
        except BaseException as error:
            self._error = error
        with self._lock:
            if not self._left:
                self._connection = connection
            elif connection is not None:
                connection.close()
        self._done.set()

    def result(self, seconds: float) -> _Connection:
        try:
            # Not threading's Thread: its start() waits for ever for a thread that dies at birth, for want of memory.
            _thread.start_new_thread(self._run, ())
        except (RuntimeError, MemoryError) as error:
            raise OperationalError("no thread could be started") from error
        self._done.wait(seconds)
        with self._lock:
            self._left = True
            if self._connection is not None:
                return self._connection
        if self._error is not None:
            raise self._error
        raise OperationalError("no connection stood in time")


def connect(_dialect: Any, _record: Any, arguments: Any, named: Any) -> _Connection:
    """SQLAlchemy's door to the driver."""
    until: float | None = getattr(_connecting, "until", None)
    seconds = _CONNECT_ALL_S
    if until is not None:
        seconds = max(0.0, min(seconds, until - time.monotonic()))
    connection = _Attempt(arguments, named).result(seconds)
    connection.until = until
    return connection
