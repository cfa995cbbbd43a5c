"""Long polling: readers wait for new numbers, and one thread of the process looks for them.

It asks the database four times a second while a reader waits, whatever their number, and wakes those that a new number
may be for. It also writes how far readers have come. In the worker its thread and its locks are gevent's.
"""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from station import log, store
from station.errors import StoreError
from station.store.outgoing import last_number
from station.store.readers import Read, ecs_between, record_reads

_log = log.get(__name__)

POLL_S = 0.25
_RECORD_S = 5.0  # how often the positions of readers are written
_ECS_MAX = 1000  # beyond so many new numbers at once all readers are woken


class _Waiting:
    """A reader that waits, and the ECs it gets receipts of; none: of all."""

    def __init__(self, ecs: Sequence[str]) -> None:
        self.ecs = frozenset(ecs)
        self.woken = threading.Event()


class TooManyWaitingError(Exception):
    """As many readers wait as this process takes."""


class Watcher:
    """The readers of this process that wait, and what they asked for last."""

    def __init__(self, engine: store.Engine, *, max_waiting: int) -> None:
        self._engine = engine
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._waiting: set[_Waiting] = set()
        self._last = 0  # the number up to which readers that wait were woken
        self._reads: dict[str, Read] = {}
        self._recorded = 0.0
        self._complained = False
        self.stopping = False
        self.thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self.thread.start()

    def wait(self, ecs: Sequence[str], after: int, seconds: float) -> int | None:
        """Wait until there may be a receipt of these ECs behind `after`, up to which the caller has looked.

        Return `None` then, and the number up to which there is none after `seconds`, or when the process is to stop.
        Raise `TooManyWaitingError` where one more reader would be too many.
        """
        one = _Waiting(ecs)
        with self._lock:
            if len(self._waiting) >= self._max_waiting:
                raise TooManyWaitingError
            if not self._waiting:
                self._last = after
            elif self._last > after:
                return None
            self._waiting.add(one)
        try:
            if not self.stopping:
                one.woken.wait(seconds)
        finally:
            with self._lock:
                self._waiting.discard(one)
                last = self._last
        if self.stopping:
            return after
        # Numbers up to `last` are of other ECs, or this reader would have been woken.
        return None if one.woken.is_set() else max(after, last)

    def note(self, reader: str, position: int) -> None:
        """Note what a reader asked for, to be written soon."""
        with self._lock:
            before = self._reads.get(reader)
            position = max(position, before.position) if before else position
            self._reads[reader] = Read(position, datetime.now(UTC))

    def stop(self) -> None:
        """Answer all readers that wait: the process ends."""
        self.stopping = True
        with self._lock:
            self._wake(None)

    def _wake(self, ecs: set[str] | None) -> None:
        """Wake the readers that get receipts of these ECs; `None`: all."""
        for one in self._waiting:
            if ecs is None or not one.ecs or one.ecs & ecs:
                one.woken.set()

    def _watch(self) -> None:
        while not self.stopping:
            time.sleep(POLL_S)
            try:
                if self._waiting:
                    self._look()
                if self._reads and time.monotonic() - self._recorded >= _RECORD_S:
                    self._record()
            except Exception as error:  # the thread must go on, or no reader is woken any more
                _log.error("watcher_failed", exc_info=error)

    def _look(self) -> None:
        before = self._last
        try:
            with store.transaction(self._engine, readonly=True) as connection:
                last = last_number(connection)
                many = last - before > _ECS_MAX
                ecs = None if many or last <= before else ecs_between(connection, before, last)
        except StoreError:
            with self._lock:
                self._wake(None)  # they ask the database themselves, and answer that it is away
            return
        if last > before:
            with self._lock:
                # Otherwise others wait by now, behind another number: what was read is not all that is new to them.
                if self._last == before:
                    self._wake(ecs)
                    self._last = last

    def _record(self) -> None:
        with self._lock:
            reads, self._reads = self._reads, {}
        self._recorded = time.monotonic()
        try:
            with store.transaction(self._engine) as connection:
                record_reads(connection, reads)
            self._complained = False
        except StoreError as error:
            if not self._complained:
                self._complained = True
                _log.warning("readers_not_recorded", reason=error.reason)
