"""PostgreSQL's connections, with an end to every wait for the server.

`statement_timeout` and `lock_timeout` are the server's: one that is stopped, or behind a network that swallows what is
sent, never applies them. Then the client must give up by itself, or its thread waits for ever.
"""

import _thread
import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Error, OperationalError

from station import loop

__all__ = [
    "CONNECT_TIMEOUT_S",
    "READ_ONLY",
    "Error",
    "OperationalError",
    "connect",
    "connecting",
    "is_lost",
    "limit",
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
        self.names = itertools.count()  # none twice: the server may keep what is no longer in `named`

    def wait(self, gen: Any, interval: float = _WAKE_S, timeout: float | None = None) -> Any:
        ends = [end for end in (self.until, self.silence and time.monotonic() + self.silence) if end is not None]
        if not ends:
            return super().wait(gen, interval, timeout)
        end = min(ends)
        left = max(0.0, end - time.monotonic())
        left = left if timeout is None else min(timeout, left)
        try:
            if loop.in_loop():
                return self._finish(gen, left)
            return super().wait(gen, interval, left)
        except OperationalError as error:
            if error.sqlstate is None and time.monotonic() >= end:
                self.pgconn.finish()
                raise OperationalError("the server did not answer in time") from error
            raise

    def _finish(self, gen: Any, seconds: float) -> Any:
        try:
            return loop.finish(gen, self.pgconn.socket, time.monotonic() + seconds)
        except TimeoutError as error:
            raise OperationalError("the server did not answer in time") from error


def limit(connection: Any, until: float | None, *, silence: float | None = SILENCE_S) -> None:
    """Sets until when (of `time.monotonic()`) a connection may be waited for at all, and for how long at once."""
    if isinstance(connection, _Connection):
        connection.until = until
        connection.silence = silence


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
        loop.wait(self._done, seconds)
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
