"""Transactions that share a commit: on SQLite, which has one writer, those that come while it is busy go together.

A commit waits for the disk, for longer than a receipt takes otherwise. Their work is done one after the other in one
transaction, and each of them is answered when that is on the disk. A loop does it itself, since the disk takes less
time than to change places with a thread twice for each statement; where the disk is slow a thread does.
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from station import loop
from station.errors import StoreError
from station.store.engine import has_free_connection, transaction

T = TypeVar("T")

# As many as there are: another process computes meanwhile, and after each transaction of another process a connection
# must read the file anew. With four, 0.85 of the rate.
_ENOUGH = 16
_MOST = 64
# Longer than this no loop is to be kept from its clients, but for the once in which it shows.
_SLOW_S = 0.1


def commit(engine: Engine, work: Callable[[Connection], T], *, until: float) -> T:
    """Does `work` in a transaction and returns what it returned, once that is committed.

    `work` may be called again where the work of somebody else failed beside it. Raises what `work` raises, and
    `StoreError`; `until` as in `transaction`.
    """
    if engine.dialect.name == "sqlite":
        one = _Work(engine, work, until)
        (_of_engine.get(engine) or _of_engine.setdefault(engine, _Turn())).do(one)
        returned: T = one.result()
        return returned

    def alone() -> T:
        with transaction(engine, until=until) as connection:
            return work(connection)

    return loop.elsewhere(alone)


class _Work:
    """What somebody waits for."""

    def __init__(self, engine: Engine, work: Callable[[Connection], Any], until: float) -> None:
        self.engine = engine
        self.work = work
        self.until = until
        self.returned: Any = None
        self.error: Exception = StoreError("the transaction was given up", reason="given up")
        self.done = False

    def result(self) -> Any:
        if not self.done:
            raise self.error
        return self.returned


class _Turn(loop.Together[_Work]):
    """What is done together in one database."""

    def __init__(self) -> None:
        super().__init__(self._do, enough=_ENOUGH, most=_MOST, at_once=1, in_loop=self._quick)
        self._took = 0.0  # the last transaction, from when it might write

    def _quick(self, one: _Work) -> bool:
        return self._took < _SLOW_S and has_free_connection(one.engine)

    def _do(self, together: list[_Work]) -> None:
        """Does the work of all, in one transaction where all of it succeeds."""
        if not self._try(together) and len(together) > 1:
            for one in together:  # somebody's work failed, and took the others' with it
                if time.monotonic() < one.until:
                    self._try([one])

    def _try(self, together: list[_Work]) -> bool:
        """Whether it is worth no other try: it is committed, or the database itself failed, for all of them."""
        own = False
        since = None
        try:
            with transaction(together[0].engine, until=min(one.until for one in together)) as connection:
                since = time.monotonic()
                for one in together:
                    own = True
                    one.returned = one.work(connection)
                    own = False
        except Exception as error:
            for one in together:
                one.error = error
            return not own
        finally:
            if since is not None:
                self._took = time.monotonic() - since
        for one in together:
            one.done = True
        return True


_of_engine: weakref.WeakKeyDictionary[Engine, _Turn] = weakref.WeakKeyDictionary()
