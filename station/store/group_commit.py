"""Group commit: callers that arrive while a transaction is being written share the next one.

A commit waits for the disk, which takes longer than all else a receipt needs. On PostgreSQL the statements of a batch
go in one pipelined transaction, in one round trip; on SQLite, which has one writer, their work is done one after the
other in one transaction. Each caller is told the outcome of its own entry once that is on the disk: where one entry
fails, the transaction is rolled back, and each entry runs in a transaction of its own.
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine

from station import log
from station.errors import StoreError
from station.store import limits, waiting
from station.store.engine import UndoneError, run_statements, transaction

T = TypeVar("T")

_log = log.get(__name__)

BATCH_MAX = 16
# A leader waits for company no longer once as many entries wait: the database works on these while the next ones are
# computed. With PostgreSQL at 32 connections 16 gave 0.7 of the rate.
BATCH_ENOUGH = 8
# How long an entry waits behind a batch that is blocked, as by a row lock, before it leads another one.
BLOCKED_S = 0.01
# Batches at once on PostgreSQL: a further one starts if the last was taken BLOCKED_S ago and is not done, or if enough
# entries wait. More would exhaust max_connections when the server hangs, since each that is given up keeps its server
# process.
LEADERS_MAX = 3
# Drop entries whose deadline is closer than this: a batch runs under its earliest deadline and would cut the others
# short.
TIME_LEFT_MIN_S = 3.0


_BY_KEY = attrgetter("key")


def _given_up() -> StoreError:
    return StoreError("the transaction was given up", reason="given up", retry=True)


class Entry:
    """One caller's part of a batch and its outcome. `deadline` is of `time.monotonic()`."""

    def __init__(self, work: Any, deadline: float, key: tuple[str, ...]) -> None:
        self.work = work
        self.deadline = deadline
        self.key = key
        self.ready = threading.Event()  # wakes its caller: the entry is done, or may be led
        self.done = False
        self.alone = False  # its batch was rolled back: run it by itself
        self.committed = False
        self.result: Any = None
        self.error: Exception | None = None  # none without `committed`: dropped for lack of time, and may be retried


Take: TypeAlias = Callable[[], list[Entry]]


class GroupCommit:
    """Collects entries into batches for one database.

    There is no background thread: one of the waiting callers, the leader, runs the batch for all of them, and hands the
    lead to the next caller when its own entry is done. `run` opens a transaction that ends at a deadline, takes the
    batch once it may write, and returns the results; it raises `UndoneError` where one of several entries failed.
    """

    def __init__(self, run: Callable[[Engine, float, Take], Sequence[Any]], *, leaders_max: int, slots: int) -> None:
        self._run = run
        self._leaders_max = leaders_max
        self._leaders = 0
        self._led_at = 0.0
        self._filling = False  # a leader waits (10 ms at most) for more entries
        self._pending: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(slots)  # transactions at once
        self.observe: Callable[[int], None] = lambda _size: None  # is told each batch's size

    def execute(self, engine: Engine, work: Any, *, deadline: float, key: tuple[str, ...] = ()) -> Any:
        """Return the work's result, once it is committed. Raises its error, and `StoreError`."""
        entry = Entry(work, deadline, key)
        leads = False
        try:
            with self._lock:
                self._pending.append(entry)
                if self._filling and len(self._pending) >= BATCH_ENOUGH and self._leaders < self._leaders_max:
                    self._filling = False  # the leader waits for company: lead at once instead of it
                    self._leaders += 1
                    leads = True
            while not entry.done:
                if not (leads or (leads := self._take_lead(entry))):
                    self._wait(entry)
                elif not self._lead(engine, entry):  # another leader has taken the entry
                    with self._lock:
                        self._leaders -= 1
                        leads = False
        finally:
            while True:
                try:
                    with self._lock:
                        if entry in self._pending:
                            self._pending.remove(entry)
                        self._leaders -= leads
                        leads = False
                        if self._pending:
                            self._pending[0].ready.set()
                    break
                except MemoryError:  # the lead would stay taken, and no entry be written any more
                    continue
        if entry.committed:
            return entry.result
        if entry.alone:
            with self.slot(deadline):
                return self._run(engine, deadline, lambda: [entry])[0]
        raise entry.error or _given_up()

    @contextmanager
    def slot(self, deadline: float) -> Iterator[None]:
        """Wait until a transaction may begin. One connection is left over: health must not wait behind receipts."""
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise _given_up()
        try:
            yield
        finally:
            self._slots.release()

    def _take_lead(self, entry: Entry) -> bool:
        """Return whether the entry's caller leads from now on: it is the first that waits, and the lead is free."""
        with self._lock:
            now = time.monotonic()
            free = self._leaders == 0 or (self._leaders < self._leaders_max and now - self._led_at >= BLOCKED_S)
            if not (free and self._pending and self._pending[0] is entry):
                return False
            self._led_at = now
            self._leaders += 1
            return True

    def _lead(self, engine: Engine, own: Entry) -> bool:
        """Run the next batch. Return False where another leader has taken the own entry."""
        if len(self._pending) < BATCH_ENOUGH:
            self._filling = True
            waiting.let_others_run()
            self._filling = False
        if own not in self._pending:
            return False
        batch: list[Entry] = []
        take = partial(self._take, batch)
        try:
            with self.slot(own.deadline):
                results = self._run(engine, own.deadline, take)
        except UndoneError:
            for entry in batch:
                entry.alone = True
        except Exception as error:
            self._fail(batch or take(), error)
        else:
            for entry, result in zip(batch, results, strict=True):
                entry.result = result
                entry.committed = True
            if batch:
                self.observe(len(batch))
        finally:
            for entry in batch:
                entry.done = True
                entry.ready.set()
        return True

    def _take(self, batch: list[Entry]) -> list[Entry]:
        """Move the entries that wait into a batch, in the order of their keys, but for those with too little time."""
        with self._lock:
            self._led_at = time.monotonic()
            batch.extend(islice(self._pending, BATCH_MAX))
            for _ in batch:
                self._pending.popleft()
            if self._pending:
                self._pending[0].ready.set()
        if len(batch) > 1:
            batch.sort(key=_BY_KEY)
            for entry in [entry for entry in batch if entry.deadline < self._led_at + TIME_LEFT_MIN_S]:
                batch.remove(entry)
                entry.done = True
                entry.ready.set()
        return batch

    def _fail(self, batch: list[Entry], error: Exception) -> None:
        if len(batch) > 1 and not isinstance(error, StoreError):
            # A defect, or no memory. The error does not tell which entry caused it, nor whether the commit happened:
            # all callers retry.
            _log.error("transaction_given_up", exc_info=error)
            error = _given_up()
        for entry in batch:
            entry.error = error

    def _wait(self, entry: Entry) -> None:
        """Wait until the entry is done, or its caller should look whether it may lead. Drop it if that is too late."""
        with self._lock:
            entry.ready.clear()
            if entry.done:
                return
            seconds: float | None = None  # its batch is running, and ends
            if entry in self._pending:
                seconds = entry.deadline - TIME_LEFT_MIN_S - time.monotonic()
                if seconds <= 0:
                    entry.done = True
                    return
                if self._pending[0] is entry:
                    seconds = min(seconds, BLOCKED_S)
        entry.ready.wait(seconds)


_of_engine: weakref.WeakKeyDictionary[Engine, GroupCommit] = weakref.WeakKeyDictionary()


def of_engine(engine: Engine) -> GroupCommit:
    """Return the group commit of a database."""
    if group := _of_engine.get(engine):
        return group
    if engine.dialect.name == "sqlite":
        group = GroupCommit(_run_works, leaders_max=1, slots=1)
    else:
        size: int = engine.pool.size()  # type: ignore[attr-defined]  # of `QueuePool`
        group = GroupCommit(_run_statements, leaders_max=LEADERS_MAX, slots=max(1, size - 1))
    return _of_engine.setdefault(engine, group)


def on_batch(engine: Engine, observe: Callable[[int], None]) -> None:
    """Have `observe` told the number of entries of each batch that is written. It must not raise."""
    of_engine(engine).observe = observe


def run_alone(
    engine: Engine, statement: str, parameters: Mapping[str, Any], *, key: tuple[str, ...], until: float
) -> str | None:
    """Run one statement that succeeds or fails for itself, on PostgreSQL. Return the first value of its first row.

    `key`: of the row that it writes, table first. All take their locks in the order of their keys. Raises `StoreError`,
    after which it may have been committed; `until` as in `transaction`.
    """
    if limits.current() is not None:  # statements of other callers in the same transaction would be limited, too
        with of_engine(engine).slot(until), transaction(engine, until=until) as connection:
            alone: str | None = connection.exec_driver_sql(statement, dict(parameters)).scalar()
            return alone
    value: str | None = of_engine(engine).execute(engine, (statement, parameters), deadline=until, key=key)
    return value


def commit(engine: Engine, work: Callable[[Connection], T], *, until: float) -> T:
    """Do `work` in a transaction and return its result, once that is committed.

    `work` may be called again where other work failed beside it. Raises what `work` raises, and `StoreError`; `until`
    as in `transaction`.
    """
    group = of_engine(engine)
    if engine.dialect.name == "sqlite":
        result: T = group.execute(engine, work, deadline=until)
        return result
    with group.slot(until), transaction(engine, until=until) as connection:
        return work(connection)


def _run_statements(engine: Engine, _deadline: float, take: Take) -> list[str | None]:
    batch = take()
    if not batch:
        return []
    return run_statements(engine, [entry.work for entry in batch], min([entry.deadline for entry in batch]))


def _run_works(engine: Engine, deadline: float, take: Take) -> list[Any]:
    # The batch is taken when another process has ended its transaction: entries that came meanwhile are part of it.
    with transaction(engine, until=deadline) as connection:
        batch = take()
        try:
            return [entry.work(connection) for entry in batch]
        except Exception as error:
            if len(batch) > 1:
                raise UndoneError from error
            raise
