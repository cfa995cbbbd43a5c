"""Commits that no standby confirms: nobody is told that they are safe, and they do not fill the server."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import databases
import httpx
import psycopg
import pytest
from build import a_request, an_envelope
from databases import DATABASE
from gpd_simulator import GpdSimulator
from process import free_port
from sqlalchemy import text

from station import config, contract, reconcile, replay, retry, store
from station.errors import StoreError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import postgres
from station.store.engine import run_statements

EC = "77777777777"
MAX_CONNECTIONS = 20
HEADERS = {"Content-Type": "text/xml"}


@pytest.fixture(scope="module")
def primary(postgres_template, tmp_path_factory):
    """A migrated server of this module's own, whose commits wait for a standby that nobody has seen."""
    with databases.postgres(postgres_template, tmp_path_factory.mktemp("primary") / "pg") as server:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody_there'")
            connection.execute(f"ALTER SYSTEM SET max_connections = {MAX_CONNECTIONS}")
        server.stop()
        server.ensure_postgres_running()
        yield server


@pytest.fixture
def execute(primary):
    """Runs statements whose own commit waits for nobody."""
    with psycopg.connect(
        primary.get_uri(DATABASE), autocommit=True, options="-c synchronous_commit=local"
    ) as connection:
        yield connection.execute


@pytest.fixture
def url(primary, execute):
    """The server, with empty tables and nobody waiting."""
    execute(f"SELECT pg_terminate_backend(pid) {WAITING}")
    execute("TRUNCATE receipt, refused, journal, reconcile_ec, reconcile_item CASCADE")
    return primary.get_uri(DATABASE)


@pytest.fixture
def engine(url):
    engine = store.connect(url)
    yield engine
    engine.dispose()


WAITING = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"


@contextmanager
def cancelled(primary, how="cancel"):
    """Every wait for the standby is ended, as an administrator or a limit would."""
    over = threading.Event()

    def work():
        with psycopg.connect(primary.get_uri(DATABASE), autocommit=True) as connection:
            while not over.wait(0.02):
                connection.execute(f"SELECT pg_{how}_backend(pid) {WAITING}")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def confirmed(execute):
    """The standby is no longer waited for, as if it had come back."""
    set_names(execute, "''")
    try:
        yield
    finally:
        set_names(execute, "'nobody_there'")


def set_names(execute, names):
    """Returns when commits keep to it: the server reads its configuration by and by."""
    execute(f"ALTER SYSTEM SET synchronous_standby_names = {names}")
    execute("SELECT pg_reload_conf()")
    execute("CHECKPOINT")  # by the process that tells the others


def accept(engine, raw, source=Source.PUSH, **settings):
    document = contract.parse(raw, None)
    intake = Intake(engine, config.Settings(**settings))
    return intake.accept(document, contract.request_element(document.root), Origin(source))


def push(server, raw):
    return httpx.post(server.url, content=raw, headers=HEADERS, timeout=60)


# --- what is told -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [Source.PUSH, Source.REPLAY])
def test_receipt(primary, engine, execute, source):
    """A receipt whose commit is not confirmed is not taken in, nor is its copy, though both find it there."""
    raw = an_envelope(a_request())
    with cancelled(primary):
        for _ in range(2):
            with pytest.raises(StoreError) as error:
                accept(engine, raw, source, journal=config.Journal(enabled=False))
            assert (error.value.reason, error.value.retry) == ("unconfirmed", False)
            assert execute("SELECT count(*) FROM receipt").fetchone() == (1,)
    with confirmed(execute):
        assert accept(engine, raw, source).result is Result.DUPLICATE
    assert execute("SELECT count(*) FROM receipt").fetchone() == (1,)


@pytest.mark.parametrize("over", [{"paymentAmount": "1,5"}, {"description": "another"}], ids=["invalid", "conflict"])
def test_refusal(primary, engine, execute, over):
    """KO is as final as OK: a refusal whose commit is not confirmed is not answered."""
    first = a_request()
    with confirmed(execute):
        accept(engine, an_envelope(first))
    with cancelled(primary):
        for _ in range(2):
            with pytest.raises(StoreError) as error:
                accept(engine, an_envelope(first.but(**over)))
            assert error.value.reason == "unconfirmed"


def test_several_in_one_commit(primary, engine, execute):
    """None of those that share a commit is confirmed."""
    execute("CREATE TABLE IF NOT EXISTS written (n int)")
    statements = [("INSERT INTO written VALUES (%(n)s)", {"n": n}) for n in range(3)]
    with cancelled(primary), pytest.raises(StoreError) as error:
        run_statements(engine, statements, until=None)
    assert error.value.reason == "unconfirmed"
    assert execute("SELECT count(*) FROM written").fetchone() == (3,)
    with store.transaction(engine) as connection:  # the connection is as good as before
        connection.execute(text("SELECT 1"))


def test_terminated(primary, engine, execute):
    """The server process is ended while it waits."""
    execute("CREATE TABLE IF NOT EXISTS ended (n int)")
    with cancelled(primary, "terminate"), pytest.raises(StoreError):
        run_statements(engine, [("INSERT INTO ended VALUES (1)", {})], until=None)
    assert execute("SELECT count(*) FROM ended").fetchone() == (1,)


def test_pushes(primary, url, serve, execute):
    """Many pushes at once, valid or not: all 503, logged and counted; sent again later, each is there once."""
    health = f"127.0.0.1:{free_port()}"
    server = serve(url, STATION_SERVER_HEALTH_LISTEN=health, STATION_SERVER_WORKERS="1")
    documents = [an_envelope(a_request(**({"paymentAmount": "x"} if n % 4 == 0 else {}))) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        with cancelled(primary):
            assert {answer.status_code for answer in pool.map(lambda raw: push(server, raw), documents)} == {503}
        metrics = httpx.get(f"http://{health}/metrics").text
        assert 'station_store_errors_total{reason="unconfirmed"} 24.0' in metrics
        assert "commit_unconfirmed" in server.log
        with confirmed(execute):
            answers = list(pool.map(lambda raw: push(server, raw), documents))
    assert sum("<outcome>OK</outcome>" in answer.text for answer in answers) == 18
    assert sum("<outcome>KO</outcome>" in answer.text for answer in answers) == 6
    assert execute("SELECT (SELECT count(*) FROM receipt), (SELECT count(*) FROM refused)").fetchone() == (18, 6)


def test_replay_and_reconcile(primary, engine, execute, tmp_path, monkeypatch):
    """Neither says that something is done which is not confirmed, however often it tries; the next run does it."""
    monkeypatch.setattr(retry, "_PAUSES_S", (0.0, 0.0))
    (tmp_path / "one.xml").write_bytes(an_envelope(a_request()))

    def replayed(settings):
        documents = replay.Replay(Intake(engine, settings), "anna")
        limits = replay.UnpackLimits()
        return [item.verdict for item in documents.files([str(tmp_path / "one.xml")], limits, io.BytesIO())]

    with GpdSimulator.start(tmp_path) as gpd:
        gpd.load(generate={"org": EC, "count": 2, "from": "2026-10-01", "to": "2026-10-20"})
        api = {"url": gpd.receipts_url, "key": "receipts-key", "rate": 10_000, "start": "2026-10-01"}
        settings = config.Settings.model_validate({"gpd": api, "ec": [{"id": EC}], "journal": {"enabled": False}})
        with cancelled(primary):
            with pytest.raises(StoreError, match="no standby has confirmed it"):
                replayed(settings)
            [ec_run] = reconcile.reconcile(settings, engine, reconcile.Order()).ec_runs
        assert (ec_run.outcome, ec_run.fetched, "no standby has confirmed it" in ec_run.error) == ("failed", 0, True)
        with confirmed(execute):
            assert replayed(settings) == [replay.Verdict.DUPLICATE]
            [ec_run] = reconcile.reconcile(settings, engine, reconcile.Order()).ec_runs
    assert (ec_run.outcome, execute("SELECT count(*) FROM receipt").fetchone()) == ("done", (3,))


def test_other_warnings(engine, execute):
    """A warning that a trigger gives says nothing about the commit."""
    execute(
        "CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE WARNING 'look'; RETURN NULL; END $$"
    )
    execute("CREATE TRIGGER warn AFTER INSERT ON receipt FOR EACH ROW EXECUTE FUNCTION warn()")
    execute(
        "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON transfer DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION warn()"
    )
    try:
        with confirmed(execute):
            for source in (Source.PUSH, Source.REPLAY):
                assert accept(engine, an_envelope(a_request()), source).result is Result.STORED
    finally:
        execute("DROP FUNCTION warn CASCADE")


# --- what waits -------------------------------------------------------------------------------------------------------


def test_bounded(url, execute, monkeypatch, connect):
    """Commits that are given up keep their server processes, but never so many that others find no place; what comes
    then fails at once, until the standby is back."""
    monkeypatch.setattr(postgres, "_GIVEN_UP_S", 0.0)
    execute("CREATE TABLE IF NOT EXISTS tries (n int)")
    engine = connect(url, pool_size=2)

    def attempt(seconds):
        run_statements(engine, [("INSERT INTO tries VALUES (1)", {})], until=time.monotonic() + seconds)

    crowd = MAX_CONNECTIONS // 4
    for _ in range(10 * MAX_CONNECTIONS):  # on a busy machine not every try comes as far as its commit
        with pytest.raises(StoreError) as error:
            attempt(0.3)
        if error.value.reason == "CrowdedError":
            break
    assert (error.value.reason, error.value.retry) == ("CrowdedError", False)
    assert f"{crowd} abandoned commits still wait for a standby" in str(error.value)
    assert execute(f"SELECT count(*) {WAITING}").fetchone() == (crowd,)
    with confirmed(execute):
        deadline = time.monotonic() + 60
        while execute(f"SELECT count(*) {WAITING}").fetchone() != (0,):
            assert time.monotonic() < deadline
        attempt(30)
    assert execute("SELECT count(*) FROM tries").fetchone() == (crowd + 1,)
