"""Transactions that share a commit: on SQLite, which has one writer, those that wait for their turn go together.

A commit waits for the disk, for longer than a receipt takes otherwise. Whoever gets the turn to write does the work of
all who wait for it, in one transaction, and each of them is answered when that is on the disk.
"""

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from station.errors import StoreError
from station.store.engine import begun, transaction, writing

T = TypeVar("T")


def commit(engine: Engine, work: Callable[[Connection], T], *, until: float) -> T:
    """Does `work` in a transaction and returns what it returned, once that is committed.

    `work` may be called again where the work of somebody else failed beside it. Raises what `work` raises, and
    `StoreError`; `until` as in `transaction`.
    """
    if engine.dialect.name != "sqlite":
        with transaction(engine, until=until) as connection:
            return work(connection)
    waiting = _waiting.get(engine) or _waiting.setdefault(engine, _Waiting())
    one = _Work(work, until)
    waiting.add(one)
    try:
        with writing(engine, False, until):
            if not one.decided.is_set():
                _do(engine, waiting.take())
    except StoreError:
        if waiting.leave(one):
            raise
        # Somebody has begun with it, and it ends with them: but for want of memory nobody may say so.
        one.decided.wait(max(0.0, until - time.monotonic()))
    finally:
        waiting.leave(one)  # whatever happened, nobody is to begin with it now
    returned: T = one.result()
    return returned


class _Work:
    """What somebody waits for. It is decided when it is committed, or has failed."""

    def __init__(self, work: Callable[[Connection], Any], until: float) -> None:
        self.work = work
        self.until = until
        self.decided = threading.Event()
        self.returned: Any = None
        self.error: Exception = StoreError("the transaction was given up", reason="given up")
        self.done = False

    def result(self) -> Any:
        if not self.done:
            raise self.error
        return self.returned


class _Waiting:
    """Those who wait for the turn to write to one database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._all: list[_Work] = []

    def add(self, one: _Work) -> None:
        with self._lock:
            self._all.append(one)

    def take(self) -> list[_Work]:
        with self._lock:
            taken, self._all = self._all, []
        return taken

    def leave(self, one: _Work) -> bool:
        """Whether it was still waiting."""
        with self._lock:
            if one not in self._all:
                return False
            self._all.remove(one)
            return True


_waiting: weakref.WeakKeyDictionary[Engine, _Waiting] = weakref.WeakKeyDictionary()


def _do(engine: Engine, together: list[_Work]) -> None:
    """Does the work of all, in one transaction where all of it succeeds."""
    try:
        if not _try(engine, together) and len(together) > 1:
            for one in together:  # somebody's work failed, and took the others' with it
                if time.monotonic() < one.until:
                    _try(engine, [one])
    finally:
        for one in together:
            one.decided.set()


def _try(engine: Engine, together: list[_Work]) -> bool:
    """Whether it is worth no other try: it is committed, or the database itself failed, for all of them."""
    own = False
    try:
        with begun(engine, until=together[0].until) as connection:
            for one in together:
                own = True
                one.returned = one.work(connection)
                own = False
    except Exception as error:
        for one in together:
            one.error = error
        return not own
    for one in together:
        one.done = True
    return True
