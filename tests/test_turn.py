"""Commits that are shared: whoever waits for the turn to write is served with the others, and fails alone."""

import sqlite3
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from loops import in_a_loop
from sqlalchemy import event, text

from station import loop, store
from station.errors import StoreError
from station.store import turn
from station.store.whole import run_on_sqlite


@pytest.fixture
def engine(sqlite_url):
    engine = store.connect(sqlite_url, pool_size=16)
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE written (number INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def numbers(engine):
    with store.transaction(engine, readonly=True) as connection:
        return list(connection.execute(text("SELECT number FROM written ORDER BY number")).scalars())


@contextmanager
def locked(url):
    """Another process writes."""
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def insert(number):
    def work(connection):
        connection.execute(text("INSERT INTO written VALUES (:number)"), {"number": number})
        return number

    return work


def together(engine, works, until=60):
    """What becomes of works that come at the same time: results and errors."""

    def commit(work):
        return lambda: store.commit(engine, work, until=time.monotonic() + until)

    return in_a_loop(*map(commit, works))


def test_one_commit_for_many(engine):
    """Twelve that wait for their turn are on the disk with one commit, and each gets what its own work returned."""
    commits = []
    event.listen(engine, "commit", commits.append)
    assert together(engine, [insert(number) for number in range(12)]) == list(range(12))
    assert len(commits) == 1
    assert numbers(engine) == list(range(12))


def test_fails_alone(engine):
    """Work that fails, by the database or by a defect, takes nothing of the others with it."""

    def defect(_connection):
        raise RuntimeError("a defect")

    results = together(engine, [insert(1), insert(2), insert(1), defect, insert(3)])
    assert sorted(one for one in results if isinstance(one, int)) == [1, 2, 3]
    assert {type(one).__name__ for one in results if not isinstance(one, int)} == {"RuntimeError", "StoreRejectedError"}
    assert numbers(engine) == [1, 2, 3]


def test_commit_that_fails(engine):
    """Where the commit itself fails everybody is told so, and nothing is there."""

    def full(_connection):
        raise OSError("no space")

    event.listen(engine, "commit", full)
    results = together(engine, [insert(number) for number in range(5)])
    event.remove(engine, "commit", full)
    assert [type(one) for one in results] == [OSError] * 5
    assert numbers(engine) == []


def test_given_up(engine, sqlite_url):
    """Whose turn does not come in time is told so, and its work is not done later."""
    with locked(sqlite_url), pytest.raises(StoreError):
        store.commit(engine, insert(1), until=time.monotonic() + 0.1)
    assert store.commit(engine, insert(2), until=time.monotonic() + 60) == 2
    assert numbers(engine) == [2]


def test_locked_by_another_process(engine, sqlite_url, monkeypatch):
    """Where another process holds the file all are told at once, not one after the other."""
    tries = []
    transaction = turn.transaction
    monkeypatch.setattr(turn, "transaction", lambda *given, **how: tries.append(1) or transaction(*given, **how))
    with locked(sqlite_url):
        results = together(engine, [insert(number) for number in range(4)])
    assert {type(one) for one in results} == {StoreError}
    assert len(tries) == 1
    assert numbers(engine) == []


def test_loop_goes_on_while_another_process_writes(engine, sqlite_url):
    """Whoever waits for the file keeps nobody else waiting, and goes on within some milliseconds when it is free."""
    order = []

    def compute():
        with locked(sqlite_url):
            for _ in range(10):
                loop.pause(0.001)
        order.append("computed")

    def write():
        store.commit(engine, insert(1), until=time.monotonic() + 60)
        order.append("written")

    assert store.commit(engine, insert(0), until=time.monotonic() + 60) == 0  # a connection is free
    in_a_loop(compute, write)
    assert order == ["computed", "written"]
    assert numbers(engine) == [0, 1]


def test_a_slow_disk_is_for_a_thread(engine, monkeypatch):
    """The loop commits itself; after a commit that took long a thread does, until one is quick again."""
    threads = []
    clock = SimpleNamespace(now=time.monotonic())
    monkeypatch.setattr(turn, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def work(seconds):
        def slow(_connection):
            threads.append(threading.current_thread() is threading.main_thread())
            clock.now += seconds

        return slow

    store.commit(engine, insert(0), until=time.monotonic() + 60)  # a connection is free
    for seconds in (0, 0.2, 0.2, 0, 0):
        together(engine, [work(seconds)])
    assert threads == [True, True, False, False, True]


def test_all_undone_by_sqlite(engine):
    """Where SQLite itself undoes the transaction, as on a full disk, nothing that came in it is written by itself."""
    with store.transaction(engine) as connection:
        connection.execute(
            text(
                "CREATE TRIGGER undo BEFORE INSERT ON written WHEN (SELECT count(*) FROM written) = 1 "
                "BEGIN SELECT RAISE(ROLLBACK, 'undone'); END"
            )
        )

    def write_two():
        with store.transaction(engine) as connection:
            for number in (1, 2):  # without the first one, the second could be written now
                run_on_sqlite(connection, "INSERT INTO written VALUES (?)", (number,))

    with pytest.raises(StoreError):
        write_two()
    assert numbers(engine) == []
