"""One thread for all requests: each computes until it must wait, and then the next one does.

A thread for each request changes places with the others whenever it waits, writes or logs: a receipt took eighteen
changes, and a fifth more of the processor than here. What a request asks of the database goes by a connection that the
loop watches like those of its clients or, where that would keep the loop waiting, by one of a few threads.

What is called here outside of a loop, by a command or in a thread, waits where it is called.
"""

import time
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from selectors import BaseSelector
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

from greenlet import getcurrent, greenlet

from station.threads import Threads

T = TypeVar("T")

# What is done together does not wait for longer than this for company, nor for the last of its kind, which waits for
# somebody's lock.
_PATIENCE_S = 0.01
# What has less time left does not begin: it would end those too early that it goes together with.
_LEAST_S = 3.0
_GLANCE_S = 0.005  # how often a task looks whether some thread has said what it waits for


class Task(greenlet):  # type: ignore[misc]  # greenlet has no types
    """What computes and waits. Its parent is whoever runs the loop: there one goes on while it waits."""

    loop: "Loop"

    def leave(self) -> Any:
        """Goes on with the loop. Returns what the task is switched to with."""
        return self.parent.switch()


class Loop:
    """The tasks of one thread.

    Whoever runs the loop calls `turn` again and again, waits at `poller` for as long as `turn` says, and switches to
    each `Task` that is ready there. `wake` ends that wait, in any thread.
    """

    def __init__(self, poller: BaseSelector, threads: Threads, wake: Callable[[], None]) -> None:
        self._poller = poller
        self._threads = threads
        self._wake = wake
        self._free = threads.count  # so many more may ask the database at once
        self._queue: deque[tuple[Callable[[], None], Callable[[], None]]] = deque()  # what waits until it may
        self._over: deque[Callable[[], None]] = deque()  # what goes on now
        self._resting: list[Task] = []  # tasks that have nothing to do
        self._until: dict[Task, float] = {}  # tasks that go on then in any case
        self._gatherings: dict[Together[Any], _Gathering[Any]] = {}

    def begin(self, work: Callable[..., None], *arguments: Any) -> None:
        """Begins a task, and returns when it waits or is done. What `work` raises is raised by the loop."""
        if not self._resting:
            task = Task(self._go_on)
            task.loop = self
            task.switch()
        self._resting.pop().switch(work, arguments)

    def _go_on(self) -> None:
        """What a task does: one work after the other, since Python maps memory for each new one."""
        task = getcurrent()
        while True:
            self._resting.append(task)
            work, arguments = task.leave()
            work(*arguments)
            del work, arguments

    def turn(self, idle: bool) -> float | None:
        """Goes on with what waits no more. After how many seconds it must be called again, if that is known.

        `idle`: nothing is about to be computed, so that nothing more will be there to be done together.
        """
        while self._over:
            then = self._over.popleft()
            self._free += 1
            self._start()
            then()
        now = time.monotonic()
        for task in [task for task, until in self._until.items() if until <= now]:
            task.switch(0)
        for gathering in list(self._gatherings.values()):
            gathering.look(idle, now)
        if self._over:
            return 0.0
        due = [*self._until.values(), *(one.due for one in self._gatherings.values() if one.due)]
        return max(0.0, min(due) - now) if due else None

    # --- how a task waits ---------------------------------------------------------------------------------------------

    def pause(self, task: Task, until: float) -> int:
        """Until then, or until the poller says that something is ready, and then what."""
        self._until[task] = until
        try:
            ready: int = task.leave()
            return ready
        finally:
            del self._until[task]

    def finish(self, task: Task, steps: Generator[int, int, T], fileno: int, until: float) -> T:
        """See `finish`."""
        try:
            wanted = next(steps)
            while True:
                self._poller.register(fileno, wanted, task)
                try:
                    ready = self.pause(task, until)
                finally:
                    self._poller.unregister(fileno)
                if not ready:
                    raise TimeoutError
                wanted = steps.send(ready)
        except StopIteration as end:
            result: T = end.value
            return result

    def gather(self, task: Task, together: "Together[Any]", one: Any) -> None:
        """Until it is done together with others, or given up."""
        if together not in self._gatherings:
            self._gatherings[together] = _Gathering(self, together)
        self._gatherings[together].here.append((task, one, time.monotonic()))
        task.leave()

    def in_thread(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Has a thread do the work as soon as it may, and then the loop the rest. Neither raises anything."""
        self._queue.append((work, then))
        self._start()

    def may_begin(self) -> bool:
        """Whether somebody more may ask the database at once."""
        return self._free > 0

    def in_task(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        """Does the work in a task of its own, and then the rest."""
        self._free -= 1
        self.begin(self._do, work, then)

    def _start(self) -> None:
        while self._free and self._queue:
            self._free -= 1
            self._threads.do(self._do_in_thread, *self._queue.popleft())

    def _do(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        work()
        self._over.append(then)

    def _do_in_thread(self, work: Callable[[], None], then: Callable[[], None]) -> None:
        self._do(work, then)
        self._wake()


class _Timed(Protocol):
    until: float


Timed = TypeVar("Timed", bound=_Timed)


class Together(Generic[Timed]):
    """What is done for several together where they come to it in a loop.

    `run` is called when `enough` are there, nobody more will come soon or the first has waited for long, with at most
    `most`; while it is under way, which it is `at_once` times at most, it is called again only where that takes long.
    It raises nothing and leaves in each what became of it: one that it was not called with was given up, since it had
    too little time left until its `until` (of `time.monotonic()`). `in_loop` says, of one of them, whether `run` would
    wait by nothing but `finish`; else a thread calls it.
    """

    def __init__(
        self,
        run: Callable[[list[Timed]], None],
        *,
        enough: int,
        most: int,
        at_once: int,
        in_loop: Callable[[Timed], bool],
    ) -> None:
        self.run = run
        self.enough = enough
        self.most = most
        self.at_once = at_once
        self.in_loop = in_loop

    def do(self, one: Timed) -> None:
        """Returns when it is done, or given up."""
        task = getcurrent()
        if isinstance(task, Task):
            task.loop.gather(task, self, one)
        else:
            self.run([one])


class _Gathering(Generic[Timed]):
    """Those in a loop that are to be done together."""

    def __init__(self, loop: Loop, together: Together[Timed]) -> None:
        self._loop = loop
        self._together = together
        self.here: list[tuple[Task, Timed, float]] = []  # and since when
        self.due: float | None = None  # when it must be looked after in any case
        self._under_way = 0
        self._since = 0.0

    def look(self, idle: bool, now: float) -> None:
        """Lets those go that may."""
        self.due = None
        if not self.here:
            return
        self._give_up(now)
        while self.here and (idle or self._enough(now)) and self._loop.may_begin():
            if self._under_way >= self._together.at_once:
                return
            if self._under_way and now < self._since + _PATIENCE_S:
                self.due = self._since + _PATIENCE_S
                return
            self._go(now)

    def _enough(self, now: float) -> bool:
        """Whether they wait for nobody more: requests of another kind may come without end."""
        return len(self.here) >= self._together.enough or self.here[0][2] + _PATIENCE_S <= now

    def _give_up(self, now: float) -> None:
        late = [task for task, one, _ in self.here if one.until < now + _LEAST_S]
        if late:
            self.here = [waiting for waiting in self.here if waiting[0] not in late]
        for task in late:
            task.switch()

    def _go(self, now: float) -> None:
        going, self.here = self.here[: self._together.most], self.here[self._together.most :]
        self._under_way += 1
        self._since = now
        begin = self._loop.in_task if self._together.in_loop(going[0][1]) else self._loop.in_thread
        begin(
            partial(self._together.run, [one for _, one, _ in going]),
            partial(self._over, [task for task, _, _ in going]),
        )

    def _over(self, tasks: list[Task]) -> None:
        self._under_way -= 1
        for task in tasks:
            task.switch()


def elsewhere(work: Callable[[], T]) -> T:
    """Does what may wait for anything, and returns what it returned: a task does not keep its loop waiting."""
    task = getcurrent()
    if not isinstance(task, Task):
        return work()
    returned: list[T] = []
    raised: list[BaseException] = []

    def do() -> None:
        try:
            returned.append(work())
        except Exception as error:
            raised.append(error)

    task.loop.in_thread(do, task.switch)
    task.leave()
    if raised:
        raise raised.pop()
    return returned[0]


def pause(seconds: float) -> None:
    """Waits for so long."""
    task = getcurrent()
    if isinstance(task, Task):
        task.loop.pause(task, time.monotonic() + seconds)
    else:
        time.sleep(seconds)


def wait(event: Event, seconds: float) -> None:
    """Waits for so long at most for what some thread will say."""
    if not in_loop():
        event.wait(seconds)
        return
    until = time.monotonic() + seconds
    while not event.is_set() and time.monotonic() < until:
        pause(_GLANCE_S)


def in_loop() -> bool:
    """Whether a task of a loop calls."""
    return isinstance(getcurrent(), Task)


def finish(steps: Generator[int, int, T], fileno: int, until: float) -> T:
    """Goes through steps that wait for a file, and returns what they return. For a task only.

    They yield which events they wait for and are sent which came (as `selectors` and psycopg have them). Raises
    `TimeoutError` where nothing came until then (of `time.monotonic()`).
    """
    task = getcurrent()
    assert isinstance(task, Task)  # noqa: S101  (for the type checker)
    return task.loop.finish(task, steps, fileno, until)
