"""A database that is silent, away, demoted or slow to be found: every wait ends, and nobody waits longer than helps."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from build import a_request, an_envelope
from sqlalchemy import delete, select, text

from station import config, contract, store
from station.errors import StoreError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import engine as engine_module
from station.store import postgres, tables, waiting


@pytest.fixture
def own(own_postgres):
    """An engine on a PostgreSQL that may be hurt."""
    engine = store.connect(own_postgres.get_uri())
    ask(engine)
    yield engine
    engine.dispose()


def ask(engine, **how):
    with store.transaction(engine, **how) as connection:
        return connection.execute(text("SELECT 1")).scalar_one()


@contextmanager
def frozen(server):
    process = psutil.Process(server.get_pid())
    processes = [process, *process.children()]
    for one in processes:
        one.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for one in processes:
            one.send_signal(signal.SIGCONT)


def test_silent_server(own, own_postgres, monkeypatch):
    """A server that is stopped applies no timeout of its own: the transaction ends when it was told to, and no later
    one gets its connection."""
    monkeypatch.setattr(postgres.set_deadline, "__kwdefaults__", {"silence": None})  # nothing else ends it
    with frozen(own_postgres):
        with pytest.raises(StoreError) as silent:
            ask(own, until=time.monotonic() + 0.5)
        with pytest.raises(StoreError) as unconnected:  # a new connection has the same end
            ask(own, until=time.monotonic() + 0.5)
    assert "did not answer in time" in str(silent.value.__cause__)
    assert "no connection was established in time" in str(unconnected.value.__cause__)
    assert ask(own) == 1


def test_silent_at_commit(own, own_postgres):
    """A commit that is not answered has failed, as far as anybody is told."""
    with ExitStack() as stack:

        def write():
            with store.transaction(own, until=time.monotonic() + 1) as connection:
                connection.execute(text("CREATE TABLE written (n int)"))
                stack.enter_context(frozen(own_postgres))

        with pytest.raises(StoreError):
            write()
    assert ask(own) == 1


def test_long_statements(own, monkeypatch):
    """A statement has its time on our side too, unless it may take long."""

    def sleep(**timeout):
        with store.transaction(own, **timeout) as connection:
            connection.execute(text("SELECT pg_sleep(0.8)"))

    monkeypatch.setattr(postgres, "SILENCE_S", 0.2)
    with pytest.raises(StoreError):
        sleep()
    with pytest.raises(StoreError):
        sleep(timeout=0.5)
    sleep(timeout=30)
    sleep(timeout=None)


def test_outage(own, own_postgres, monkeypatch):
    """Away for a moment, it is worth trying again; away for longer, one caller tries and the others fail at once."""
    own_postgres.stop()
    with pytest.raises(StoreError) as blip:
        ask(own)
    assert blip.value.retry
    monkeypatch.setattr(engine_module, "BLIP_S", 0.0)
    with pytest.raises(StoreError) as outage:
        ask(own)
    assert not outage.value.retry
    held, trying = threading.Event(), threading.Event()

    def slow(*_args, **_named):
        trying.set()
        held.wait(60)
        raise postgres.OperationalError("never connected")

    def ask_in_vain():
        with pytest.raises(StoreError):
            ask(own)

    connect = postgres._Connection.connect
    monkeypatch.setattr(postgres._Connection, "connect", slow)

    thread = threading.Thread(target=ask_in_vain)
    thread.start()
    assert trying.wait(60)
    with pytest.raises(StoreError) as others:
        ask(own)
    assert others.value.reason == "outage"
    held.set()
    thread.join()
    monkeypatch.setattr(postgres._Connection, "connect", connect)
    own_postgres.ensure_postgres_running()
    assert ask(own) == 1
    assert ask(own) == 1


def test_demoted(own, own_postgres):
    """A primary that became a standby keeps its connections and takes no writes: they are left, to find the new one."""
    with store.transaction(own) as connection:
        connection.execute(text("CREATE TABLE written (n int)"))
        first = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

    def write():
        with store.transaction(own) as connection:
            connection.execute(text("SET TRANSACTION READ ONLY"))
            connection.execute(text("INSERT INTO written VALUES (1)"))

    with pytest.raises(StoreError) as demoted:
        write()
    assert demoted.value.retry
    with store.transaction(own) as connection:
        assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != first


def test_name_not_found(monkeypatch):
    """Nothing else limits the time in which a name is looked up."""
    released, ended = threading.Event(), threading.Event()

    def lookup(*_args, **_named):
        released.wait(60)
        ended.set()
        raise socket.gaierror(socket.EAI_AGAIN, "no name server answers")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    engine = store.connect("postgresql://postgres@database.invalid/station")
    with pytest.raises(StoreError):
        ask(engine, until=time.monotonic() + 0.5)
    assert not ended.is_set()  # it is still looked up
    released.set()


@pytest.mark.parametrize("start", [lambda *_: 0, lambda *_: (_ for _ in ()).throw(RuntimeError)], ids=["dead", "none"])
def test_no_thread(own, monkeypatch, start):
    """A thread that is not started, or dies at birth, is not waited for without end."""
    own.dispose()
    monkeypatch.setattr(waiting._thread, "start_new_thread", start)
    with pytest.raises(StoreError) as failed:
        ask(own, until=time.monotonic() + 0.5)
    assert failed.value.retry
    monkeypatch.undo()
    assert ask(own) == 1


def test_forked(database_url, connect):
    """A process that is forked has no part in the connections of the one it came from."""
    engine = connect(database_url)
    ask(engine)
    assert engine.pool.checkedin() == 1
    child = os.fork()
    if child == 0:
        fresh = engine.pool.checkedin() == 0 and ask(engine) == 1
        os._exit(0 if fresh else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert ask(engine) == 1


def test_committed_between_two_looks(postgres_url, connect):
    """A copy turned away by another receipt of its notice, while the same receipt is just being stored by another copy,
    is counted, and the station it came by is kept."""
    engine = connect(postgres_url)
    intake = Intake(engine, config.Settings())
    first = a_request()
    other, request = (a_request(creditorReferenceId=first["creditorReferenceId"]) for _ in range(2))
    for one in (first, other, request):
        assert push(intake, one) is Result.STORED
    both = tables.receipt.c.receipt_id.in_([other["receiptId"], request["receiptId"]])
    with store.transaction(engine) as connection:  # to store them again, in one transaction
        rows = [dict(row) for row in connection.execute(select(tables.receipt).where(both)).mappings()]
        connection.execute(delete(tables.receipt).where(both))
    with ThreadPoolExecutor(1) as pool:
        with store.transaction(engine) as connection:
            connection.execute(tables.receipt.insert(), rows)
            copy = pool.submit(push, intake, request.but(idStation="99999999990_09"))
            while not connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar():
                assert not copy.done()
        assert copy.result() is Result.DUPLICATE
    with store.transaction(engine, readonly=True) as connection:
        of = {"id": request["receiptId"]}
        resends = connection.execute(text("SELECT resends FROM receipt WHERE receipt_id = :id"), of).scalar_one()
        routes = connection.execute(text("SELECT id_station FROM receipt_route WHERE receipt_id = :id"), of).scalars()
        assert (resends, list(routes)) == (1, ["99999999990_09"])


def push(intake, request):
    document = contract.parse(an_envelope(request), None)
    return intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH)).result


def test_sqlite_can_be_written_again(sqlite_url, connect):
    """Connections that were made while SQLite's file was read-only are all closed: they would be so for ever."""
    engine = connect(sqlite_url)
    with ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(store.transaction(engine, readonly=True))
            connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(StoreError) as error, store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE one (n)"))
    assert (error.value.reason, error.value.retry) == ("OperationalError SQLITE_READONLY", False)
    # Its own file: other tests of this process may have theirs open still.
    assert [one.path for one in psutil.Process().open_files() if one.path.startswith(engine.url.database)] == []
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE one (n)"))
