"""The lock that keeps two runs of the reconciliation apart."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, exc, text

from station.store.engine import translate_error

_LOCK_KEY = 0x5741_7270  # of PostgreSQL's advisory locks in this database; `schema.migrate` takes another one


@contextmanager
def only_run(engine: Engine) -> Iterator[bool]:
    """Hold the lock, and give whether it was free. It ends with the process, however that ends.

    PostgreSQL: an advisory lock of a session of its own, which the server gives up when the connection breaks. SQLite:
    a lock on a file beside the database, which the kernel gives up. Raise `StoreError`.
    """
    sqlite = engine.dialect.name == "sqlite"
    with _file_lock(f"{engine.url.database}.reconcile-lock") if sqlite else _advisory_lock(engine) as free:
        yield free


@contextmanager
def _file_lock(path: str) -> Iterator[bool]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        yield free
    finally:
        os.close(file)


@contextmanager
def _advisory_lock(engine: Engine) -> Iterator[bool]:
    connection = None
    try:
        try:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # The server learns from its keepalives alone that a machine vanished: after two minutes instead of hours.
            for name, value in (("idle", 60), ("interval", 15), ("count", 4)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            free = bool(connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEY}).scalar())
        except exc.SQLAlchemyError as error:
            raise translate_error(error, engine) from error
        yield free
    finally:
        if connection is not None:
            connection.invalidate()  # the pool would keep the session, and the session the lock
            connection.close()
