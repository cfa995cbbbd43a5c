"""Waiting: cooperative in a greenlet of the HTTP server, plain in commands and threads.

Code that both call asks here instead of knowing which of them calls. Commands never load gevent.
"""

import _thread
import sys
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_MAX_S = 0.01


def _gevent() -> Any:
    """Return gevent if one of its greenlets calls, or `None`."""
    gevent = sys.modules.get("gevent")
    return gevent if gevent and isinstance(gevent.getcurrent(), gevent.Greenlet) else None


def in_greenlet() -> bool:
    """Return whether a greenlet calls, which must not block its event loop."""
    return _gevent() is not None


def let_others_run() -> None:
    """Let every runnable greenlet go first, for 10 ms at most."""
    if gevent := _gevent():
        with gevent.Timeout(IDLE_MAX_S, False):
            gevent.idle()


def drive(steps: Generator[int, int, T], fileno: int, seconds: float) -> T:
    """Run a generator that waits for a socket, in a greenlet, and return its result.

    It yields the events that it waits for and is sent the ones that came, as psycopg's generators do (1: readable, 2:
    writable). Raises `TimeoutError`.
    """
    import gevent

    hub = gevent.get_hub()
    with gevent.Timeout(max(0.0, seconds), TimeoutError):
        try:
            events = next(steps)
            while True:
                hub.wait(hub.loop.io(fileno, events))
                events = steps.send(events)
        except StopIteration as end:
            result: T = end.value
            return result


def run_in_thread(call: Callable[[], T], seconds: float) -> T:
    """Run a call that may block in a thread of its own, and return its result.

    Raises what the call raises, `TimeoutError` after `seconds` (the call goes on and its result is lost), and
    `RuntimeError` or `MemoryError` where no thread can be started.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    if gevent := _gevent():
        with gevent.Timeout(seconds, TimeoutError):
            gevent.get_hub().threadpool.apply(run)  # it would print a trace for an error that leaves the call
    else:
        done = threading.Event()

        def run_and_tell() -> None:
            run()
            done.set()

        # Not threading's Thread: its start() waits for ever for a thread that dies at birth, for want of memory.
        _thread.start_new_thread(run_and_tell, ())
        if not done.wait(seconds):
            raise TimeoutError
    if errors:
        raise errors[0]
    return results[0]
