"""The threads that answer requests: few at a time, and more of them where those take long."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from station import log

_log = log.get(__name__)

# Who works for longer than this waits for something, most likely the database, and somebody else may begin.
PATIENCE_S = 0.01


class Threads:
    """So many threads, which do in turn what they are given. They end with the process, and it with any of them: work
    raises nothing.

    Only the first `at_once` take the next piece of work by themselves: two requests keep a processor busy, one in
    Python and one in the database, and more of them would only wait for each other. The others are called by `help`,
    one for each that has begun and takes long.
    """

    def __init__(self, count: int, name: str, *, at_once: int) -> None:
        self._given: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        self._calls: SimpleQueue[None] = SimpleQueue()
        self._begun = [0.0] * count  # when each of them began, of `time.monotonic()`; 0: it does nothing
        self._at_once = min(count, at_once)
        for number in range(count):
            work = self._first if number < self._at_once else self._further
            Thread(target=self._run, args=(work, number), name=f"{name}-{number}", daemon=True).start()

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Has `work` done, after all that was given before."""
        self._given.put((work, arguments))

    def help(self, now: float) -> bool:
        """Calls a further thread where something waits and too few have begun lately. Whether something waits.

        Whoever gave work calls this again within `PATIENCE_S` as long as something waits.
        """
        if self._given.empty():
            return False
        lately = sum(begun > now - PATIENCE_S for begun in self._begun)
        if lately < self._at_once < len(self._begun) and self._calls.empty():
            self._calls.put(None)
        return True

    def _run(self, work: Callable[[int], None], number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            # The thread is lost and with it what it was to give back, most likely for want of memory. Another process
            # is ready in a second, and what is not answered is sent again.
            with suppress(Exception):
                _log.error("thread_lost", exc_info=error)
            os._exit(1)

    def _first(self, number: int) -> None:
        while True:
            self._do(number, *self._given.get())

    def _further(self, number: int) -> None:
        while True:
            self._calls.get()
            with suppress(Empty):
                self._do(number, *self._given.get_nowait())

    def _do(self, number: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self._begun[number] = time.monotonic()
        work(*arguments)
        self._begun[number] = 0.0
