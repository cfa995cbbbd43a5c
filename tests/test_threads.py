"""Few threads at a time, and more of them where those take long."""

import threading
import time

import pytest

from station.threads import PATIENCE_S, Threads


class Work:
    """Work that lasts until it is let go, and knows how much of it has begun."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()
        self.order = []

    def __call__(self, number):
        self.order.append(number)
        self.begun.release()
        self.go.wait(10)

    def has_begun(self, seconds=10):
        return self.begun.acquire(timeout=seconds)


@pytest.fixture
def work():
    made = Work()
    yield made
    made.go.set()


def give(threads, work, count):
    for number in range(count):
        threads.do(work, number)


def test_further_threads_begin_where_the_first_take_long(work):
    threads = Threads(4, "test", at_once=2)
    give(threads, work, 5)
    assert work.has_begun()
    assert work.has_begun()
    assert threads.help(time.monotonic() - PATIENCE_S)  # both have begun just now
    assert not work.has_begun(0.2)
    later = time.monotonic() + PATIENCE_S
    assert threads.help(later)
    assert work.has_begun()
    assert threads.help(time.monotonic() + PATIENCE_S)
    assert work.has_begun()
    assert threads.help(time.monotonic() + PATIENCE_S)  # all four are at work
    assert not work.has_begun(0.2)
    work.go.set()
    assert work.has_begun()
    assert work.order == [0, 1, 2, 3, 4]


def test_a_call_for_nothing_does_nothing(work):
    threads = Threads(3, "test", at_once=1)
    assert not threads.help(time.monotonic() + PATIENCE_S)
    give(threads, work, 1)
    assert work.has_begun()
    assert not threads.help(time.monotonic() + PATIENCE_S)  # nothing waits
    work.go.set()
    give(threads, work, 1)
    assert work.has_begun()


def test_all_at_once(work):
    threads = Threads(4, "test", at_once=9)
    give(threads, work, 4)
    assert all(work.has_begun() for _ in range(4))
