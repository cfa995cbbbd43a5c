"""The threads that answer requests."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from build import a_request, an_envelope

from station import contract
from station.errors import InvalidReceiptError
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


def test_breaches_of_two_threads_do_not_mix():
    """A schema object keeps the breaches of its last use, and validates without Python's lock."""
    elements = ("outcome", "noticeNumber", "fiscalCode", "description")

    def broken(name):
        raw = re.sub(rb"<%b>.*?</%b>" % (name.encode(), name.encode()), b"", an_envelope(a_request()), count=1)
        return contract.request_element(contract.parse(raw).root)

    def rules(name):
        found = set()
        for _ in range(50):
            with pytest.raises(InvalidReceiptError) as error:
                contract.read(broken(name))
            found.add(re.search(r"Expected is (?:one of )?\( (\w+)", error.value.rule)[1])
        return found

    with ThreadPoolExecutor(len(elements)) as pool:
        assert list(pool.map(rules, elements)) == [{name} for name in elements]
