"""Threads for what waits."""

import os
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

from station import log

_log = log.get(__name__)


class Threads:
    """So many threads, which do in turn what they are given. They end with the process, and it with any of them: work
    raises nothing. Each calls `begin` first.
    """

    def __init__(self, count: int, name: str, begin: Callable[[], None] = lambda: None) -> None:
        self.count = count
        self._begin = begin
        self._given: SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = SimpleQueue()
        for number in range(count):
            Thread(target=self._run, name=f"{name}-{number}", daemon=True).start()

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        """Has `work` done, after all that was given before."""
        self._given.put((work, arguments))

    def _run(self) -> None:
        try:
            self._begin()
            while True:
                work, arguments = self._given.get()
                work(*arguments)
                del work, arguments  # with the documents of many requests, and it may be long until there is more to do
        except BaseException as error:
            # The thread is lost and with it what it was to give back, most likely for want of memory. Another process
            # is ready in a second, and what is not answered is sent again.
            with suppress(Exception):
                _log.error("thread_lost", exc_info=error)
            os._exit(1)
