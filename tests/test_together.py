"""Statements that share a transaction: each is told what became of its own, and none waits long for another."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from build import a_request, an_envelope
from sqlalchemy import text

from station import config, contract, pace, store
from station.errors import StoreError, StoreRejectedError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import statements, together

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


@pytest.fixture
def at_once(engine, monkeypatch):
    """Runs works, each in a thread of its own, whose statements are all there before the first of them goes: what each
    returned or raised, in the order of the works."""
    monkeypatch.setattr(together, "_UNDER_WAY_S", 30)

    def run(*works):
        gathering = together._gatherings.setdefault(engine, together._Gathering())
        gathering._under_way += 1  # so that they wait

        def result(work):
            try:
                return work()
            except Exception as error:
                return error

        with ThreadPoolExecutor(len(works)) as pool:
            running = [pool.submit(result, work) for work in works]
            deadline = time.monotonic() + 10
            while len(gathering._here) < len(works) and time.monotonic() < deadline:
                time.sleep(0.005)
            gathering._under_way -= 1
            gathering._here[0].called.set()
            return [one.result() for one in running]

    return run


def statement(engine, sql, *, until=8.0, key=("a",), **parameters):
    return lambda: together.run_alone(engine, sql, parameters, key=key, until=time.monotonic() + until)


def write(engine, n):
    return statement(engine, "INSERT INTO written VALUES (%(n)s) RETURNING n::text", n=n, key=("written", str(n)))


def written(engine):
    with store.transaction(engine, readonly=True) as connection:
        return list(connection.execute(text("SELECT n FROM written ORDER BY n")).scalars())


def test_one_transaction(engine, at_once):
    """They are one transaction, and each gets the value of its own statement."""
    values = at_once(*(statement(engine, NOW, n=n) for n in range(6)))
    assert [one.split(":")[1] for one in values] == list("012345")
    assert len({one.split(":")[0] for one in values}) == 1


def test_in_the_order_of_their_keys(engine, at_once, monkeypatch):
    """Whoever comes first: two transactions that write the same rows do not wait for each other in a circle."""
    ran = []
    run = statements.run
    monkeypatch.setattr(
        statements, "run", lambda connection, given, until: ran.append(given) or run(connection, given, until)
    )
    at_once(*(write(engine, n) for n in (3, 1, 2)))
    assert [[parameters["n"] for _, parameters in given] for given in ran] == [[1, 2, 3]]


@pytest.mark.parametrize(
    "bad", ["SELECT (1 / %(n)s)::text", "SELECT nothing FROM nowhere WHERE %(n)s", "SELECT %(n)s || %(nul)s::text"]
)
def test_one_that_fails_fails_alone(engine, at_once, bad):
    """Whether the server turns it away while it runs or before, or the driver does."""
    works = [write(engine, 1), statement(engine, bad, n=0, nul="\0", key=("written", "15")), write(engine, 2)]
    first, failed, second = at_once(*works)
    assert (first, second) == ("1", "2")
    assert isinstance(failed, StoreRejectedError)
    assert written(engine) == [1, 2]


def test_what_comes_after_one_that_failed(engine, at_once):
    """No connection is left in the middle of something."""
    for _ in range(3):
        at_once(write(engine, 1), statement(engine, "SELECT (1 / %(n)s)::text", n=0, key=("written", "0")))
        assert statement(engine, "SELECT %(a)s::text", a="x")() == "x"
        with store.transaction(engine) as connection:
            assert connection.execute(text("DELETE FROM written")).rowcount == 1


def test_the_connection_is_lost(engine, at_once):
    """All are told that it may help to try again; whether it was committed nobody knows."""
    end = statement(engine, "SELECT pg_terminate_backend(pg_backend_pid())::text", key=("z",))
    results = at_once(write(engine, 1), write(engine, 2), end)
    assert [type(one) for one in results] == [StoreError] * 3
    assert all(one.retry for one in results)
    assert written(engine) == []


def test_the_commit_fails(engine, at_once):
    """Where the transaction fails in the end nobody is told that his is stored; each goes alone."""
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE late (n int REFERENCES written DEFERRABLE INITIALLY DEFERRED)"))
    try:
        refer = statement(engine, "INSERT INTO late VALUES (%(n)s) RETURNING n::text", n=7, key=("late",))
        value, failed = at_once(write(engine, 1), refer)
        assert value == "1"
        assert isinstance(failed, StoreRejectedError)
        assert written(engine) == [1]
    finally:
        with store.transaction(engine) as connection:
            connection.execute(text("DROP TABLE late"))


def test_no_answer_in_time(engine, at_once):
    """The transaction ends for all when it must end for the first of them."""
    begun = time.monotonic()
    results = at_once(statement(engine, "SELECT pg_sleep(4)::text", until=0.5), write(engine, 1))
    assert [type(one) for one in results] == [StoreError] * 2
    assert time.monotonic() - begun < 3


def test_a_slow_one_keeps_nobody_waiting(engine):
    """What comes while another transaction is under way for long goes by itself."""
    with store.transaction(engine) as holding, ThreadPoolExecutor(1) as pool:
        holding.execute(text("SELECT pg_advisory_xact_lock(1)"))
        slow = pool.submit(statement(engine, "SELECT pg_advisory_xact_lock(1)::text"))
        time.sleep(0.2)
        assert write(engine, 1)() == "1"
        assert not slow.done()
        holding.execute(text("ROLLBACK"))
        slow.result()


def test_who_never_comes_is_not_waited_for(engine):
    """Another thread computes, and does not come to the database."""
    computing, done = threading.Event(), threading.Event()

    def compute():
        with pace.computing():
            computing.set()
            done.wait(10)

    thread = threading.Thread(target=compute)
    thread.start()
    computing.wait(10)
    begun = time.monotonic()
    assert write(engine, 1)() == "1"
    assert time.monotonic() - begun < 1
    assert thread.is_alive()
    done.set()
    thread.join()


def test_memory_ends_under_the_one_who_goes(engine, at_once, monkeypatch):
    """The others are told that nothing is known, and may try again."""

    def no_memory(*_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(statements, "run", no_memory)
        results = at_once(write(engine, 1), write(engine, 2))
    assert sorted(type(one).__name__ for one in results) == ["MemoryError", "StoreError"]
    assert next(one for one in results if isinstance(one, StoreError)).retry
    assert together._gatherings[engine]._under_way == 0
    assert write(engine, 3)() == "3"


def test_the_same_receipt_twice(engine, at_once):
    """Two copies in one transaction: one is stored, the other counted as sent again."""
    intake = Intake(engine, config.Settings())
    envelope = an_envelope(a_request())

    def take():
        document = contract.parse(envelope)
        return intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH)).result

    assert sorted(at_once(take, take, take)) == [Result.DUPLICATE, Result.DUPLICATE, Result.STORED]
    with psycopg.connect(engine.url.set(drivername="postgresql").render_as_string(False)) as connection:
        assert connection.execute("SELECT resends FROM receipt").fetchall() == [(2,)]
        outcomes = connection.execute("SELECT outcome, count(*) FROM journal GROUP BY 1 ORDER BY 1").fetchall()
        assert outcomes == [("duplicate", 2), ("stored", 1)]
