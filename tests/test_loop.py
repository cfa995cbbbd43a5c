"""Tasks compute one after the other, and wait without keeping each other waiting."""

import os
import threading
import time
import weakref
from selectors import EVENT_READ, DefaultSelector
from types import SimpleNamespace

import pytest
from loops import in_a_loop

from station import loop
from station.threads import Threads


def note(notes, word, then=lambda: None):
    notes.append(word)
    then()
    notes.append(word.upper())
    return word


def test_the_next_one_computes_while_one_waits():
    """In a thread, for a time, or for what another thread says."""
    notes = []
    said = threading.Event()
    waits = (
        lambda: loop.elsewhere(lambda: said.wait(10)),
        lambda: loop.pause(0.02),
        lambda: loop.wait(said, 10),
        said.set,
    )
    words = list("abcd")
    assert words == in_a_loop(
        *(lambda word=word, wait=wait: note(notes, word, wait) for word, wait in zip(words, waits, strict=True))
    )
    assert notes[:5] == ["a", "b", "c", "d", "D"]
    assert sorted(notes[5:]) == ["A", "B", "C"]


def test_tasks_are_used_again():
    """Unless their work failed, which the loop raises; and what they worked on last is free."""
    tasks = loop.Loop(DefaultSelector(), Threads(1, "test"), lambda: None)
    did = []

    class Document:
        pass

    def work(_document):
        did.append(loop.getcurrent())

    def fail():
        did.append(loop.getcurrent())
        raise RuntimeError("a defect")

    document = Document()
    alive = weakref.ref(document)
    tasks.begin(work, document)
    del document
    assert alive() is None
    tasks.begin(work, None)
    with pytest.raises(RuntimeError):
        tasks.begin(fail)
    tasks.begin(work, None)
    assert did[0] is did[1] is did[2]
    assert did[3] is not did[2]


def test_outside_of_a_loop(monkeypatch):
    """Whoever calls waits there."""
    caller = threading.get_ident()
    assert loop.elsewhere(threading.get_ident) == caller
    waited = []
    monkeypatch.setattr(loop, "time", SimpleNamespace(sleep=waited.append))
    loop.pause(5)
    loop.wait(SimpleNamespace(wait=waited.append), 6)
    assert waited == [5, 6]
    assert not loop.in_loop()
    ran = []
    loop.Together(ran.append, enough=1, most=2, at_once=1, in_loop=lambda _: True).do(1)
    assert ran == [[1]]


def test_elsewhere():
    """In a thread, which returns or raises to whom it worked for."""

    def fail():
        raise RuntimeError("a defect")

    here = threading.get_ident()
    there, failed = in_a_loop(lambda: loop.elsewhere(threading.get_ident), lambda: loop.elsewhere(fail))
    assert there != here
    assert str(failed) == "a defect"


def test_no_more_at_once_than_there_are_threads():
    """Together with what the loop itself has under way: each has a connection."""
    lock = threading.Lock()
    busy, most = [], []
    two = threading.Event()

    def work():
        with lock:
            busy.append(1)
            most.append(len(busy))
            if len(busy) == 2:
                two.set()
        assert two.wait(30)
        with lock:
            busy.pop()

    def run(_):
        busy.append(1)
        most.append(len(busy))
        loop.pause(0.02)
        busy.pop()

    together = loop.Together(run, enough=1, most=1, at_once=9, in_loop=lambda _: True)
    works = [lambda: loop.elsewhere(work)] * 6 + [lambda: together.do(SimpleNamespace(until=time.monotonic() + 60))] * 3
    assert in_a_loop(*works, threads=2) == [None] * 9
    assert max(most) == 2
    assert len(most) == 9


def one(number=0, seconds=60.0):
    return SimpleNamespace(number=number, until=time.monotonic() + seconds, thread=None)


@pytest.mark.parametrize("in_loop", [True, False])
def test_together(in_loop):
    """As many as may, and all that came meanwhile when the first ones are done: in the loop, or in a thread."""
    ran = []

    def run(several):
        ran.append([one.number for one in several])
        for each in several:
            each.thread = threading.get_ident()
        loop.pause(0.02)

    together = loop.Together(run, enough=3, most=3, at_once=1, in_loop=lambda _: in_loop)
    all_of_them = [one(number) for number in range(8)]
    in_a_loop(*(lambda each=each: together.do(each) for each in all_of_them))
    assert ran == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert ({each.thread for each in all_of_them} == {threading.get_ident()}) == in_loop


def test_enough_do_not_wait_for_more():
    """They go while others are still to be computed; fewer go when nothing is."""
    ran = []
    together = loop.Together(
        lambda several: ran.append(len(several)), enough=2, most=8, at_once=1, in_loop=lambda _: True
    )
    tasks = loop.Loop(DefaultSelector(), Threads(1, "test"), lambda: None)
    tasks.begin(together.do, one())
    tasks.turn(False)
    assert ran == []
    tasks.begin(together.do, one())
    tasks.turn(False)
    assert ran == [2]
    tasks.begin(together.do, one())
    tasks.turn(True)
    assert ran == [2, 1]


def test_nobody_waits_long_for_company(monkeypatch):
    """Where the loop always has something else to compute."""
    ran = []
    together = loop.Together(
        lambda several: ran.append(len(several)), enough=9, most=9, at_once=1, in_loop=lambda _: True
    )
    tasks = loop.Loop(DefaultSelector(), Threads(1, "test"), lambda: None)
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    tasks.begin(together.do, one())
    tasks.turn(False)
    clock.now += loop._PATIENCE_S / 2
    tasks.turn(False)
    assert ran == []
    clock.now += loop._PATIENCE_S
    tasks.turn(False)
    assert ran == [1]


@pytest.mark.parametrize(("at_once", "order"), [(1, ["slow", "next"]), (2, ["next", "slow"])])
def test_beside_a_slow_one(at_once, order):
    """What comes later waits for the slow one only where there may be one at once."""
    begun, asked, done = [], [], []

    def run(several):
        begun.append(several[0].number)
        if several[0].number:
            done.append("next")
            return
        while not asked or (at_once == 2 and not done):
            loop.pause(0.001)
        loop.pause(2 * loop._PATIENCE_S)  # in which the next one would go, if it might
        done.append("slow")

    def later():
        while not begun:
            loop.pause(0.001)
        asked.append(1)
        together.do(one(1))

    together = loop.Together(run, enough=8, most=8, at_once=at_once, in_loop=lambda _: True)
    in_a_loop(lambda: together.do(one(0)), later)
    assert done == order


def test_given_up(monkeypatch):
    """What waited until its time is nearly over is not begun."""
    ran = []
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def run(several):
        ran.extend(one.number for one in several)
        clock.now += 10

    together = loop.Together(run, enough=1, most=1, at_once=1, in_loop=lambda _: False)
    in_a_loop(lambda: together.do(one(1)), lambda: together.do(one(2, seconds=12)), lambda: together.do(one(3)))
    assert ran == [1, 3]


def test_finish():
    """Steps go on when the file is ready, and end when it is not in time."""
    receiving, sending = os.pipe()

    def steps():
        assert (yield EVENT_READ) == EVENT_READ
        return os.read(receiving, 10)

    def finish(seconds):
        return lambda: loop.finish(steps(), receiving, time.monotonic() + seconds)

    late, _ = in_a_loop(finish(0.05), lambda: loop.pause(0.1))
    assert isinstance(late, TimeoutError)
    read, _ = in_a_loop(finish(30), lambda: os.write(sending, b"here"))
    assert read == b"here"
    os.close(receiving)
    os.close(sending)


def test_what_a_task_raises_ends_the_loop():
    """A worker that cannot go on is replaced."""

    def defect():
        raise RuntimeError("a defect")

    with pytest.raises(RuntimeError):
        loop.Loop(None, SimpleNamespace(count=1), None).begin(defect)
