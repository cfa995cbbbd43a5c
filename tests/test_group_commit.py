"""Group commit: callers that wait share the next transaction; each is told its own outcome, and fails alone."""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from build import a_request, an_envelope
from sqlalchemy import event, text

from station import config, contract, store
from station.errors import StoreError, StoreRejectedError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import group_commit, postgres, statements
from station.store.group_commit import of_engine, run_alone

NOW = "SELECT txid_current() || ':' || %(n)s::text"


@pytest.fixture
def engine(database_url, monkeypatch):
    monkeypatch.setattr(group_commit, "BLOCKED_S", 60.0)  # one leader, whatever else this machine does
    engine = store.connect(database_url, pool_size=16)
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE written (n INTEGER PRIMARY KEY)"))
    yield engine
    with store.transaction(engine) as connection:
        connection.execute(text("DROP TABLE written"))
    engine.dispose()


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def on_postgres(request, postgres_url, monkeypatch):
    monkeypatch.setattr(group_commit, "BLOCKED_S", 60.0)  # one leader, whatever else this machine does
    engine = store.connect(postgres_url, pool_size=8, prepare=request.param)
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE written (n int PRIMARY KEY)"))
    yield engine
    with store.transaction(engine) as connection:
        connection.execute(text("DROP TABLE written"))
    engine.dispose()


@contextmanager
def busy(engine):
    """Hold the lead: entries that come meanwhile are one batch, once as many wait as `until_waiting` was told."""
    held, go = threading.Event(), threading.Event()
    group = of_engine(engine)
    run = group._run

    def wait(_engine, _deadline, take):
        group._run = run
        batch = take()
        held.set()
        assert go.wait(60)
        return [None] * len(batch)

    group._run = wait
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(group.execute, engine, None, deadline=time.monotonic() + 3600)
        assert held.wait(60)

        def until_waiting(count):
            end = time.monotonic() + 60
            while len(group._pending) < count and time.monotonic() < end:
                time.sleep(0.001)

        try:
            yield until_waiting
        finally:
            go.set()
            leader.result()


def outcome(work):
    try:
        return work()
    except Exception as error:
        return error


def together(engine, *works):
    """What works return or raise that come while a batch is written."""
    with ThreadPoolExecutor(len(works)) as pool, busy(engine) as until_waiting:
        submitted = []
        for work in works:
            submitted.append(pool.submit(outcome, work))
            until_waiting(len(submitted))  # in this order
    return [one.result() for one in submitted]


def rows(engine):
    with store.transaction(engine, readonly=True) as connection:
        return list(connection.execute(text("SELECT n FROM written ORDER BY n")).scalars())


# --- SQLite: works in one transaction ---------------------------------------------------------------------------------


@pytest.fixture
def on_sqlite(sqlite_url):
    engine = store.connect(sqlite_url, pool_size=16)
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE written (n INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def insert(engine, n, until=60.0):
    def work(connection):
        connection.execute(text("INSERT INTO written VALUES (:n)"), {"n": n})
        return n

    return lambda: store.commit(engine, work, until=time.monotonic() + until)


@contextmanager
def locked(engine):
    """Another process writes."""
    other = sqlite3.connect(engine.url.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def test_one_commit_for_many(on_sqlite):
    """Twelve works that wait are on the disk with one commit, and each gets its own result; the metrics are told."""
    commits, sizes = [], []
    event.listen(on_sqlite, "commit", commits.append)
    store.on_batch(on_sqlite, sizes.append)
    assert together(on_sqlite, *(insert(on_sqlite, n) for n in range(12))) == list(range(12))
    assert (len(commits), sizes) == (1, [1, 12])
    assert rows(on_sqlite) == list(range(12))


def test_fails_alone(on_sqlite):
    """A work that fails, by the database or by a defect, takes nothing of the others with it."""

    def defect(_connection):
        raise RuntimeError("a defect")

    works = [insert(on_sqlite, n) for n in (1, 2, 1, 3)]
    works.append(lambda: store.commit(on_sqlite, defect, until=time.monotonic() + 60))
    results = together(on_sqlite, *works)
    assert sorted(one for one in results if isinstance(one, int)) == [1, 2, 3]
    assert sorted(type(one).__name__ for one in results if not isinstance(one, int)) == [
        "RuntimeError",
        "StoreRejectedError",
    ]
    assert rows(on_sqlite) == [1, 2, 3]


def test_commit_that_fails(on_sqlite):
    """Where the commit itself fails all are told so, and nothing is there."""

    def full(_connection):
        raise OSError("no space")

    works = [insert(on_sqlite, n) for n in range(5)]
    event.listen(on_sqlite, "commit", full)
    results = together(on_sqlite, *works)
    event.remove(on_sqlite, "commit", full)
    assert [(type(one), one.retry) for one in results] == [(StoreError, True)] * 5
    assert rows(on_sqlite) == []


def test_deadline_behind_another_process(on_sqlite):
    """A work that cannot begin in time is not done later."""
    with locked(on_sqlite), pytest.raises(StoreError):
        insert(on_sqlite, 1, until=0.1)()
    assert insert(on_sqlite, 2)() == 2
    assert rows(on_sqlite) == [2]


def test_locked_by_another_process(on_sqlite, monkeypatch):
    """Where another process holds the file all of a batch are told at once, not one after the other."""
    begun, transaction = [], group_commit.transaction
    monkeypatch.setattr(
        group_commit, "transaction", lambda *given, **how: begun.append(1) or transaction(*given, **how)
    )
    with locked(on_sqlite):
        results = together(on_sqlite, *(insert(on_sqlite, n) for n in range(4)))
    assert {type(one) for one in results} == {StoreError}
    assert len(begun) == 1
    assert rows(on_sqlite) == []


# --- PostgreSQL: statements in one pipelined transaction --------------------------------------------------------------


def statement(engine, sql, *, until=60.0, key=("a",), **parameters):
    return lambda: run_alone(engine, sql, parameters, key=key, until=time.monotonic() + until)


def write(engine, n, until=60.0):
    key = ("written", str(n))
    return statement(engine, "INSERT INTO written VALUES (%(n)s) RETURNING n::text", n=n, key=key, until=until)


def test_one_transaction(on_postgres):
    """They are one transaction, and each gets the value of its own statement."""
    values = together(on_postgres, *(statement(on_postgres, NOW, n=n) for n in range(6)))
    assert [one.split(":")[1] for one in values] == list("012345")
    assert len({one.split(":")[0] for one in values}) == 1


def test_in_the_order_of_their_keys(on_postgres, monkeypatch):
    """Two transactions that write the same rows do not wait for each other in a circle, whatever comes first."""
    ran = []
    run = statements.run
    monkeypatch.setattr(
        statements, "run", lambda connection, given, until: ran.append(given) or run(connection, given, until)
    )
    together(on_postgres, *(write(on_postgres, n) for n in (3, 1, 2)))
    assert [[parameters["n"] for _, parameters in given] for given in ran] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "bad", ["SELECT (1 / %(n)s)::text", "SELECT none_such(%(n)s)", "SELECT %(n)s || %(nul)s::text"]
)
def test_one_that_fails_fails_alone(on_postgres, bad):
    """Whether the server turns it away while it runs or before, or the driver does; the connection stays usable."""
    for _ in range(2):
        failing = statement(on_postgres, bad, n=0, nul="\0", key=("written", "15"))
        first, failed, second = together(on_postgres, write(on_postgres, 1), failing, write(on_postgres, 2))
        assert (first, second) == ("1", "2")
        assert isinstance(failed, StoreRejectedError)
        with store.transaction(on_postgres) as connection:
            assert connection.execute(text("DELETE FROM written")).rowcount == 2


def test_a_defect_before_anything_is_sent(on_postgres):
    """A value that cannot be sent keeps no other entry from being stored."""
    defect = statement(on_postgres, "SELECT %(odd)s::text", odd=object(), key=("z",))
    failed, value = together(on_postgres, defect, write(on_postgres, 1))
    assert not isinstance(failed, StoreError)
    assert value == "1"


def test_the_server_forgot_the_statements(on_postgres):
    """It is told them again, and all go together as before."""
    for forget in (False, True):
        if forget:
            with store.transaction(on_postgres) as connection:
                connection.execute(text("DEALLOCATE ALL"))
        values = together(on_postgres, *(statement(on_postgres, NOW, n=n) for n in range(3)))
        assert len({one.split(":")[0] for one in values}) == 1


def test_the_connection_is_lost(on_postgres):
    """All are told to try again: whether the transaction was committed is unknown."""
    end = statement(on_postgres, "SELECT pg_terminate_backend(pg_backend_pid())::text", key=("z",))
    results = together(on_postgres, write(on_postgres, 1), write(on_postgres, 2), end)
    assert [(type(one), one.retry) for one in results] == [(StoreError, True)] * 3
    assert rows(on_postgres) == []


def test_the_commit_fails(on_postgres):
    """Where the transaction fails in the end none is told that it is stored; each goes alone."""
    with store.transaction(on_postgres) as connection:
        connection.execute(text("CREATE TABLE late (n int REFERENCES written DEFERRABLE INITIALLY DEFERRED)"))
    try:
        refer = statement(on_postgres, "INSERT INTO late VALUES (%(n)s) RETURNING n::text", n=7, key=("late",))
        value, failed = together(on_postgres, write(on_postgres, 1), refer)
        assert value == "1"
        assert isinstance(failed, StoreRejectedError)
        assert rows(on_postgres) == [1]
    finally:
        with store.transaction(on_postgres) as connection:
            connection.execute(text("DROP TABLE late"))


def test_no_answer_in_time(on_postgres, monkeypatch):
    """The transaction ends for all at the earliest of their deadlines."""
    monkeypatch.setattr(group_commit, "TIME_LEFT_MIN_S", 0.0)
    # The server itself ends the first one later, after 5 s, and then the second one would have gone alone.
    sleep = statement(on_postgres, "SELECT pg_sleep(600)::text", until=2.0)
    results = together(on_postgres, sleep, write(on_postgres, 1, until=3600))
    assert [type(one) for one in results] == [StoreError] * 2
    assert rows(on_postgres) == []


def test_too_late_to_begin(on_postgres, monkeypatch):
    """An entry with hardly any time left is dropped and cuts no other one short; it may be tried again."""
    monkeypatch.setattr(group_commit, "TIME_LEFT_MIN_S", 30.0)
    with busy(on_postgres):
        late = outcome(write(on_postgres, 2, until=25))
    assert isinstance(late, StoreError)
    assert late.retry
    assert write(on_postgres, 1, until=25)() == "1"  # alone it shortens none
    assert rows(on_postgres) == [1]


def test_a_blocked_batch_delays_no_other(on_postgres, monkeypatch):
    """Entries that come while a batch waits for a lock go in another one."""
    monkeypatch.setattr(group_commit, "BLOCKED_S", 0.01)
    url = on_postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    # Without the station's own limit for locks, which the other one may miss on a busy machine.
    lock = "SELECT set_config('lock_timeout', '0', true) || pg_advisory_xact_lock(1)"
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with (
        psycopg.connect(url) as holding,
        psycopg.connect(url, autocommit=True) as looking,
        ThreadPoolExecutor(1) as pool,
    ):
        holding.execute("SELECT pg_advisory_xact_lock(1)")
        slow = pool.submit(outcome, statement(on_postgres, lock))
        while looking.execute(waiting).fetchone() == (0,):
            time.sleep(0.01)
        assert write(on_postgres, 1)() == "1"
        assert not slow.done()
        holding.rollback()
        slow.result()


def test_memory_ends_while_they_go(on_postgres, monkeypatch):
    """All are told to try again, and the next one goes through."""

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(statements, "run", no_memory)
        results = together(on_postgres, write(on_postgres, 1), write(on_postgres, 2))
    assert [(type(one), one.retry) for one in results] == [(StoreError, True)] * 2
    assert write(on_postgres, 3)() == "3"


def test_one_connection_is_left(on_postgres):
    """However many works wait for locks: a question about health still gets a connection."""
    url = on_postgres.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as holding, ThreadPoolExecutor(12) as pool:
        holding.execute("SELECT pg_advisory_xact_lock(1)")

        def work(connection):
            connection.execute(text("SELECT pg_advisory_xact_lock(1)"))

        works = [
            pool.submit(outcome, lambda: store.commit(on_postgres, work, until=time.monotonic() + 60))
            for _ in range(12)
        ]
        with store.transaction(on_postgres, readonly=True) as connection:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
        holding.rollback()
        assert len([one.result() for one in works]) == 12


def test_the_same_receipt_at_once(engine):
    """Copies of a receipt in one batch: one is stored, the others are counted as sent again."""
    intake = Intake(engine, config.Settings())
    envelope = an_envelope(a_request())

    def take():
        document = contract.parse(envelope)
        return intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH)).result

    assert sorted(together(engine, take, take, take)) == [Result.DUPLICATE, Result.DUPLICATE, Result.STORED]
    with store.transaction(engine, readonly=True) as connection:
        assert list(connection.execute(text("SELECT resends FROM receipt")).scalars()) == [2]
        outcomes = connection.execute(text("SELECT outcome, count(*) FROM journal GROUP BY 1 ORDER BY 1")).all()
        assert [tuple(one) for one in outcomes] == [("duplicate", 2), ("stored", 1)]


def test_connecting_is_left_alone_when_it_is_late(on_postgres, monkeypatch):
    """A connection that stands too late is closed, and the caller was told in time."""
    on_postgres.dispose()
    connect, go, closed = postgres._Connection.connect, threading.Event(), threading.Event()

    def slowly(*arguments, **named):
        assert go.wait(60)
        connection = connect(*arguments, **named)
        close = connection.close
        connection.close = lambda: (close(), closed.set())
        return connection

    with monkeypatch.context() as patched:
        patched.setattr(postgres._Connection, "connect", slowly)
        with pytest.raises(StoreError):
            write(on_postgres, 1, until=0.2)()
        go.set()
        assert closed.wait(60)
    assert write(on_postgres, 2)() == "2"
