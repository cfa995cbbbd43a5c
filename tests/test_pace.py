"""Threads compute one at a time, and wait for the database together."""

import threading
import time
from contextlib import suppress

from station import pace, store


def in_threads(work, count=4):
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(10)
    assert not any(one.is_alive() for one in threads)


def test_one_at_a_time():
    """While one thread computes the others wait for their turn, also where a block ends with an error."""
    inside, most = [], []

    def work():
        with suppress(RuntimeError), pace.computing():
            inside.append(1)
            time.sleep(0.02)
            most.append(len(inside))
            inside.pop()
            raise RuntimeError

    in_threads(work)
    assert most == [1, 1, 1, 1]


def test_waiting_lets_the_next_one_begin():
    """Who waits is no longer in its turn, and does not take it from another thread at the end of its block."""
    all_wait = threading.Barrier(4, timeout=10)

    def work():
        with pace.computing():
            pace.waiting()
            all_wait.wait()
        pace.waiting()

    in_threads(work)
    with pace.computing():
        pass


def test_the_database_is_waited_for(database_url):
    """Whoever asks the database is waiting: another thread computes meanwhile."""
    engine = store.connect(database_url)
    computed = threading.Event()

    def compute():
        with pace.computing():
            computed.set()

    for readonly in (True, False):
        computed.clear()
        with pace.computing(), store.transaction(engine, readonly=readonly):
            threading.Thread(target=compute, daemon=True).start()
            assert computed.wait(10)
    engine.dispose()
