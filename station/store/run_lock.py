"""The locks that keep two runs of a job apart."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from sqlalchemy import Engine, exc, text

from station.store.engine import translate_error

Job = Literal["reconcile", "deliver", "fdr"]
# Of PostgreSQL's advisory locks in this database; `schema.migrate` takes another one.
_LOCK_KEYS: dict[Job, int] = {"reconcile": 0x5741_7270, "deliver": 0x5741_6465, "fdr": 0x5741_6664}


@contextmanager
def only_run(engine: Engine, job: Job) -> Iterator[Callable[[], bool] | None]:
    """Hold the lock of a job. Give `None` where another run holds it, else a function that tells whether it still does.

    It ends with the process, however that ends. PostgreSQL: an advisory lock of a session of its own, which the server
    gives up when the connection breaks: another run may begin then, so a long one has to ask. SQLite: a lock on a file
    beside the database, which the kernel gives up. Raise `StoreError`.
    """
    sqlite = engine.dialect.name == "sqlite"
    with _file_lock(f"{engine.url.database}.{job}-lock") if sqlite else _advisory_lock(engine, job) as held:
        yield held


@contextmanager
def _file_lock(path: str) -> Iterator[Callable[[], bool] | None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            free = False
        yield (lambda: True) if free else None
    finally:
        os.close(file)


@contextmanager
def _advisory_lock(engine: Engine, job: Job) -> Iterator[Callable[[], bool] | None]:
    connection = None

    def held() -> bool:
        try:
            return connection is not None and connection.execute(text("SELECT true")).scalar_one()
        except exc.SQLAlchemyError:
            return False

    try:
        try:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            # The server learns from its keepalives alone that a machine vanished: after two minutes instead of hours.
            for name, value in (("idle", 60), ("interval", 15), ("count", 4)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            locked = connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _LOCK_KEYS[job]}).scalar()
        except exc.SQLAlchemyError as error:
            raise translate_error(error, engine) from error
        yield held if locked else None
        # The server notices a closed connection some time after it: the next run would find the lock held.
        with suppress(exc.SQLAlchemyError):
            connection.execute(text("SELECT pg_advisory_unlock_all()"))
    finally:
        if connection is not None:
            connection.invalidate()  # the pool would keep the session, and the session the lock
            connection.close()
