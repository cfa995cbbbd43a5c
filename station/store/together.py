"""Statements that share a transaction: on PostgreSQL, those that come at about the same time go together.

A commit waits for the disk, and each time that the machine goes to the disk or from one process to another costs
processor time: one transaction for several receipts is one commit, one round trip and two changes of processes for all
of them. Each is still told what became of its own: where one fails, nothing was done, and each goes alone.
"""

import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from station import pace
from station.errors import StoreError
from station.store.engine import run_statements
from station.store.statements import UndoneError

_MOST = 8
# How long the first one waits: for those that are about to come, for those that may come where the last ones came
# together, and for those that are under way, which take longer only where the database is slow.
_COMING_S = 0.008
_PERHAPS_S = 0.002
_UNDER_WAY_S = 0.01


def run_alone(
    engine: Engine, statement: str, parameters: Mapping[str, Any], *, key: tuple[str, ...], until: float
) -> str | None:
    """Runs one statement that succeeds or fails for itself, on PostgreSQL. The first value of its first row, or `None`.

    `key`: of the row that it writes, table first. All take their locks in the order of their keys. Raises `StoreError`,
    after which it may have been committed; `until` as in `transaction`.
    """
    pace.waiting()
    one = _Coming(statement, parameters, key, until)
    gathering = _gatherings.get(engine) or _gatherings.setdefault(engine, _Gathering())
    try:
        gathering.come(one)
        if one.going:
            _run(engine, one.going)
        else:
            gathering.wait(one)
    finally:
        gathering.leave(one)
    if one.alone:
        return run_statements(engine, [(statement, parameters)], until=until)[0]
    if not one.done:
        raise one.error or StoreError("the transaction was given up", reason="given up", retry=True)
    return one.value


class _Coming:
    """A statement on its way."""

    def __init__(self, statement: str, parameters: Mapping[str, Any], key: tuple[str, ...], until: float) -> None:
        self.statement = statement, parameters
        self.key = key
        self.until = until
        self.called = threading.Event()  # it is decided, or the first of those that go now
        self.going: list[_Coming] = []  # those that it goes with, where it is the one who goes for all
        self.decided = False
        self.done = False
        self.alone = False
        self.value: str | None = None
        self.error: StoreError | None = None


class _Gathering:
    """Those that come to one database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._here: list[_Coming] = []
        self._under_way = 0
        self._together = 1  # so many went last

    def come(self, one: _Coming) -> None:
        """Returns when `one` goes for all that are here, or was taken along by another."""
        with self._lock:
            self._here.append(one)
            if self._under_way:
                wait = _UNDER_WAY_S
            elif len(self._here) >= _MOST:
                wait = 0.0
            elif pace.others_compute():
                wait = _COMING_S
            else:
                wait = _PERHAPS_S if self._together > 1 else 0.0
            if not wait:
                self._go(one)
                return
        one.called.wait(wait)
        with self._lock:
            if one in self._here:
                self._go(one)

    def _go(self, one: _Coming) -> None:
        one.going, self._here = self._here, []
        self._under_way += 1

    def wait(self, one: _Coming) -> None:
        """Waits until `one` is decided by another."""
        with self._lock:
            if not one.decided:
                one.called.clear()
        one.called.wait(max(0.0, one.until - time.monotonic()))

    def leave(self, one: _Coming) -> None:
        """Whatever happened, all that it went for are decided, and nobody is to begin with it now."""
        with self._lock:
            if one in self._here:
                self._here.remove(one)
            if one.going:
                self._under_way -= 1
                self._together = len(one.going)
                for other in one.going:
                    other.decided = True
                    other.called.set()
                if self._here and not self._under_way and not pace.others_compute():
                    self._here[0].called.set()


_gatherings: weakref.WeakKeyDictionary[Engine, _Gathering] = weakref.WeakKeyDictionary()


def _run(engine: Engine, going: list[_Coming]) -> None:
    going.sort(key=lambda one: one.key)
    try:
        until = min(one.until for one in going)
        values = run_statements(engine, [one.statement for one in going], until=until)
    except UndoneError:
        for one in going:
            one.alone = True
    except StoreError as error:
        for one in going:
            one.error = error
    else:
        for one, value in zip(going, values, strict=True):
            one.value = value
            one.done = True
