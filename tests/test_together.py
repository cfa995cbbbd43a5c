"""Statements that share a transaction: each is told what became of its own, and none waits long for another."""

import threading
import time

import psycopg
import pytest
from build import a_request, an_envelope
from loops import in_a_loop
from sqlalchemy import text

from station import config, contract, loop, store
from station.errors import StoreError, StoreRejectedError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import postgres, statements
from station.store.together import run_alone

NOW = "SELECT txid_current() || ':' || %(n)s::text"


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def engine(request, postgres_url):
    engine = store.connect(postgres_url, pool_size=8, prepare=request.param)
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE written (n int PRIMARY KEY)"))
    yield engine
    with store.transaction(engine) as connection:
        connection.execute(text("DROP TABLE written"))
    engine.dispose()


def statement(engine, sql, *, until=8.0, key=("a",), **parameters):
    return lambda: run_alone(engine, sql, parameters, key=key, until=time.monotonic() + until)


def write(engine, n, until=8.0):
    key = ("written", str(n))
    return statement(engine, "INSERT INTO written VALUES (%(n)s) RETURNING n::text", n=n, key=key, until=until)


def written(engine):
    with store.transaction(engine, readonly=True) as connection:
        return list(connection.execute(text("SELECT n FROM written ORDER BY n")).scalars())


def test_one_transaction(engine):
    """They are one transaction, and each gets the value of its own statement."""
    values = in_a_loop(*(statement(engine, NOW, n=n) for n in range(6)))
    assert [one.split(":")[1] for one in values] == list("012345")
    assert len({one.split(":")[0] for one in values}) == 1


def test_in_the_order_of_their_keys(engine, monkeypatch):
    """Whoever comes first: two transactions that write the same rows do not wait for each other in a circle."""
    ran = []
    run = statements.run
    monkeypatch.setattr(
        statements, "run", lambda connection, given, until: ran.append(given) or run(connection, given, until)
    )
    in_a_loop(*(write(engine, n) for n in (3, 1, 2)))
    assert [[parameters["n"] for _, parameters in given] for given in ran] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "bad", ["SELECT (1 / %(n)s)::text", "SELECT none_such(%(n)s)", "SELECT %(n)s || %(nul)s::text"]
)
def test_one_that_fails_fails_alone(engine, bad):
    """Whether the server turns it away while it runs or before, or the driver does."""
    works = [write(engine, 1), statement(engine, bad, n=0, nul="\0", key=("written", "15")), write(engine, 2)]
    first, failed, second = in_a_loop(*works)
    assert (first, second) == ("1", "2")
    assert isinstance(failed, StoreRejectedError)
    assert written(engine) == [1, 2]


def test_what_comes_after_one_that_failed(engine):
    """No connection is left in the middle of something."""
    for _ in range(3):
        in_a_loop(write(engine, 1), statement(engine, "SELECT (1 / %(n)s)::text", n=0, key=("written", "0")))
        assert statement(engine, "SELECT %(a)s::text", a="x")() == "x"
        with store.transaction(engine) as connection:
            assert connection.execute(text("DELETE FROM written")).rowcount == 1


def test_the_server_forgot_the_statements(engine):
    """It is told them again, and all go together as before."""
    for forget in (False, True):
        if forget:
            with store.transaction(engine) as connection:
                connection.execute(text("DEALLOCATE ALL"))
        values = in_a_loop(*(statement(engine, NOW, n=n) for n in range(3)))
        assert len({one.split(":")[0] for one in values}) == 1


def test_the_connection_is_lost(engine):
    """All are told that it may help to try again; whether it was committed nobody knows."""
    end = statement(engine, "SELECT pg_terminate_backend(pg_backend_pid())::text", key=("z",))
    results = in_a_loop(write(engine, 1), write(engine, 2), end)
    assert [type(one) for one in results] == [StoreError] * 3
    assert all(one.retry for one in results)
    assert written(engine) == []


def test_the_commit_fails(engine):
    """Where the transaction fails in the end nobody is told that his is stored; each goes alone."""
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE late (n int REFERENCES written DEFERRABLE INITIALLY DEFERRED)"))
    try:
        refer = statement(engine, "INSERT INTO late VALUES (%(n)s) RETURNING n::text", n=7, key=("late",))
        value, failed = in_a_loop(write(engine, 1), refer)
        assert value == "1"
        assert isinstance(failed, StoreRejectedError)
        assert written(engine) == [1]
    finally:
        with store.transaction(engine) as connection:
            connection.execute(text("DROP TABLE late"))


def test_no_answer_in_time(engine, monkeypatch):
    """The transaction ends for all when it must end for the first of them."""
    monkeypatch.setattr(loop, "_LEAST_S", 0.0)
    # The server itself ends the first one later, after 5 s, and then the second one would have gone alone.
    results = in_a_loop(statement(engine, "SELECT pg_sleep(600)::text", until=2.0), write(engine, 1, until=3600))
    assert [type(one) for one in results] == [StoreError] * 2
    assert written(engine) == []


def test_a_slow_one_keeps_nobody_waiting(engine):
    """What comes while another transaction is under way for long goes by itself."""
    done = []

    def slow():
        # Without the station's own limit for locks, which the other one may miss on a busy machine.
        lock = "SELECT set_config('lock_timeout', '0', true) || pg_advisory_xact_lock(1)"
        done.append(type(statement(engine, lock)()))

    def quick():
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while looking.execute(waiting).fetchone() == (0,):
            loop.pause(0.01)
        done.append(write(engine, 1)())
        holding.rollback()

    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as holding, psycopg.connect(url, autocommit=True) as looking:
        holding.execute("SELECT pg_advisory_xact_lock(1)")
        in_a_loop(slow, quick)
    assert done == ["1", str]


def test_connecting_keeps_nobody_waiting(engine, monkeypatch):
    """A connection that was lost is made again while others compute."""
    assert isinstance(
        in_a_loop(statement(engine, "SELECT pg_terminate_backend(pg_backend_pid())::text"))[0], StoreError
    )
    assert engine.pool.checkedin() > 0
    connect = postgres._Connection.connect
    others_are_done = threading.Event()

    def slowly(*arguments, **named):
        assert others_are_done.wait(60)
        return connect(*arguments, **named)

    monkeypatch.setattr(postgres._Connection, "connect", slowly)
    done = []

    def other():
        for _ in range(10):
            loop.pause(0.01)
        done.append("other")
        others_are_done.set()

    in_a_loop(lambda: done.append(write(engine, 1)()), other)
    assert done == ["other", "1"]


def test_too_late_to_begin(engine, monkeypatch):
    """What waited until it has hardly any time left is not begun, and takes nobody along; it may be tried again."""
    monkeypatch.setattr(loop, "_LEAST_S", 5.0)
    late, value = in_a_loop(
        statement(engine, "INSERT INTO written VALUES (2) RETURNING n::text", until=4), write(engine, 1)
    )
    assert value == "1"
    assert isinstance(late, StoreError)
    assert late.retry
    assert written(engine) == [1]


def test_memory_ends_while_they_go(engine, monkeypatch):
    """All are told that nothing is known, and may try again."""

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(statements, "run", no_memory)
        results = in_a_loop(write(engine, 1), write(engine, 2))
    assert [type(one) for one in results] == [StoreError] * 2
    assert all(one.retry for one in results)
    assert in_a_loop(write(engine, 3)) == ["3"]


def test_a_defect_before_anything_is_sent(engine):
    """A value that cannot be sent keeps nobody else from being stored."""
    defect = statement(engine, "SELECT %(odd)s::text", odd=object(), key=("z",))
    failed, value = in_a_loop(defect, write(engine, 1))
    assert not isinstance(failed, StoreError)
    assert value == "1"


def test_the_same_receipt_twice(engine):
    """Two copies in one transaction: one is stored, the other counted as sent again."""
    intake = Intake(engine, config.Settings())
    envelope = an_envelope(a_request())

    def take():
        document = contract.parse(envelope)
        return intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH)).result

    assert sorted(in_a_loop(take, take, take)) == [Result.DUPLICATE, Result.DUPLICATE, Result.STORED]
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(False)) as connection:
        assert connection.execute("SELECT resends FROM receipt").fetchall() == [(2,)]
        outcomes = connection.execute("SELECT outcome, count(*) FROM journal GROUP BY 1 ORDER BY 1").fetchall()
        assert outcomes == [("duplicate", 2), ("stored", 1)]
