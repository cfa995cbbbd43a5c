"""Commits that are shared: whoever waits for the turn to write is served with the others, and fails alone."""

import threading
import time

import pytest
from loops import in_a_loop
from sqlalchemy import event, text

from station import store
from station.errors import StoreError
from station.store.engine import writing


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


def test_given_up(engine):
    """Whose turn does not come in time is told so, and its work is not done later."""
    with writing(engine, False, None), pytest.raises(StoreError):
        store.commit(engine, insert(1), until=time.monotonic() + 0.1)
    assert store.commit(engine, insert(2), until=time.monotonic() + 60) == 2
    assert numbers(engine) == [2]


def test_locked_by_another_process(engine, sqlite_url):
    """Where another process holds the file all are told at once, not one after the other."""
    other = store.connect(sqlite_url)
    locked, done = threading.Event(), threading.Event()

    def hold():
        with other.connect() as connection, connection.begin():
            locked.set()
            done.wait(30)

    holding = threading.Thread(target=hold)
    holding.start()
    locked.wait(10)
    begun = time.monotonic()
    results = together(engine, [insert(number) for number in range(4)], until=8)
    took = time.monotonic() - begun
    done.set()
    holding.join()
    other.dispose()
    assert {type(one) for one in results} == {StoreError}
    assert took < 8
    assert numbers(engine) == []
