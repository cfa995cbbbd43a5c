"""The threads that answer requests."""

import threading

from station.threads import Threads


def test_all_at_once_and_then_in_turn():
    """Each thread has one piece of work; what comes while all are busy is done after it, in order."""
    begun, go, order = threading.Semaphore(0), threading.Event(), []

    def work(number):
        order.append(number)
        begun.release()
        go.wait(10)

    threads = Threads(3, "test")
    for number in range(5):
        threads.do(work, number)
    assert all(begun.acquire(timeout=10) for _ in range(3))
    assert not begun.acquire(timeout=0.1)
    go.set()
    assert all(begun.acquire(timeout=10) for _ in range(2))
    assert sorted(order[:3]) == [0, 1, 2]
    assert sorted(order[3:]) == [3, 4]
