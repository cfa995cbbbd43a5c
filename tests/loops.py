"""Tasks in a loop, as a worker runs it."""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from station.loop import Loop, Task
from station.threads import Threads


def in_a_loop(*works: Callable[[], Any], threads: int = 8, seconds: float = 30) -> list[Any]:
    """What works returned or raised that begin as tasks, one after the other, before the loop goes on with any."""
    poller = DefaultSelector()
    woken, wakes = socket.socketpair()
    woken.setblocking(False)
    poller.register(woken, EVENT_READ)

    def wake() -> None:
        with suppress(OSError):  # the loop has ended already
            wakes.send(b".")

    loop = Loop(poller, Threads(threads, "test"), wake)
    results: dict[int, Any] = {}

    def run(number: int, work: Callable[[], Any]) -> None:
        try:
            results[number] = work()
        except Exception as error:
            results[number] = error

    for number, work in enumerate(works):
        loop.begin(run, number, work)
    end = time.monotonic() + seconds
    while len(results) < len(works) and time.monotonic() < end:
        due = loop.turn(True)
        for key, events in poller.select(0.0 if len(results) == len(works) else 1.0 if due is None else min(due, 1.0)):
            if isinstance(key.data, Task):
                key.data.switch(events)
            else:
                with suppress(BlockingIOError):
                    woken.recv(4096)
    poller.close()
    woken.close()
    wakes.close()
    return [results[number] for number in range(len(works))]
