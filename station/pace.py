"""Threads compute one at a time, and wait for the database together.

Python runs one thread at once anyway. But a thread that has something to compute and somebody to compete with loses its
turn at every write to a socket or a log, and each change of threads costs time and warm caches: with eight threads at
work a receipt took four tenths more of the processor than with one. So a thread that is given a request computes until
it comes to the database, and only then does the next one begin.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

# It is for speed only: who has the turn for longer than this does not keep the others waiting.
_PATIENCE_S = 1.0

_turn = threading.RLock()  # which knows whose it is, and needs no memory for that: there may be none
_coming: set[int] = set()  # the threads that compute, or wait for their turn


@contextmanager
def computing() -> Iterator[None]:
    """Waits for this thread's turn; it ends with the block, or before, where `waiting` is called inside."""
    _coming.add(get_ident())
    _turn.acquire(timeout=_PATIENCE_S)
    try:
        yield
    finally:
        waiting()


def waiting() -> None:
    """What this thread does from here on is mostly waiting: the next one may begin."""
    _coming.discard(get_ident())
    try:  # noqa: SIM105  (`suppress` needs memory)
        _turn.release()
    except RuntimeError:  # it is not in its turn
        pass


def others_compute() -> bool:
    """Whether threads that compute, or wait for their turn, may soon be where this one is."""
    return bool(_coming)
