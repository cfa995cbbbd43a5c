"""What a database session must be like, whatever the machine, the role, the database and the URL say."""

import json
import sqlite3

import forked
import httpx
import psycopg
import pytest
from build import a_request, an_envelope
from process import environment, free_port
from psycopg import sql
from sqlalchemy import text

from station import config, contract, store
from station.errors import DatabaseUnfitError, StoreError
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.store import postgres
from station.store.engine import run_statements

ROLE = "awkward"
# Each of these has damaged what is stored or read, lost it, or stopped the station.
AWKWARD = {
    "client_encoding": "LATIN1",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "America/Caracas",
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "synchronous_commit": "off",
    "client_min_messages": "error",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "jit_above_cost": "0",
}
WANTED = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
    "client_min_messages": "warning",
    "statement_timeout": "5000",
    "lock_timeout": "3000",
    "idle_session_timeout": "0",
    "transaction_isolation": "read committed",
}


@pytest.fixture
def execute(postgres_url):
    """Runs statements as the owner of everything."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection.execute


@pytest.fixture
def role(execute):
    """Sets settings of a role and returns its name."""
    execute(f"CREATE ROLE {ROLE} LOGIN SUPERUSER")

    def set_(**settings):
        for name, value in settings.items():
            execute(sql.SQL("ALTER ROLE {} SET {} = {}").format(*map(sql.Identifier, (ROLE, name)), sql.Literal(value)))
        return ROLE

    yield set_
    execute(f"DROP OWNED BY {ROLE}")
    execute(f"DROP ROLE {ROLE}")


def url_of(url, *, role=None, database=None, **query):
    changed = store.parse_url(url).set(drivername="postgresql").update_query_dict(query)
    if role:
        changed = changed.set(username=role)
    return (changed.set(database=database) if database else changed).render_as_string(hide_password=False)


@pytest.fixture
def connect():
    """Engines that end with the test."""
    engines = []

    def connect_(url, **how):
        engines.append(store.connect(url, **how))
        return engines[-1]

    yield connect_
    for engine in engines:
        engine.dispose()


def push(engine, raw, source=Source.PUSH):
    document = contract.parse(raw, None)
    return Intake(engine, config.Settings()).accept(document, contract.request_element(document.root), Origin(source))


# --- encoding ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["LATIN1", "SQL_ASCII"])
def unfit_url(request, postgres_url, execute):
    """URL of a database that cannot hold what arrives."""
    execute(f"CREATE DATABASE unfit ENCODING {request.param} LOCALE 'C' TEMPLATE template0")
    yield url_of(postgres_url, database="unfit")
    execute("DROP DATABASE unfit WITH (FORCE)")


def test_unfit_encoding(unfit_url, tmp_path):
    """No command works on a database whose encoding cannot hold every name, and each says what to do."""
    commands = ["migrate", "check", f"serve --bind 127.0.0.1:{free_port()}", "receipts list", "replay --stored"]
    for command in [*commands, "reconcile --status"]:
        done = forked.run(command.split(), environment(unfit_url), tmp_path)
        assert done.returncode == (1 if command == "check" else 2), command
        said = done.stdout + done.stderr
        assert "the database unfit at " in said
        assert "ENCODING 'UTF8' TEMPLATE template0" in said
        assert "Traceback" not in said


def test_unfit_while_serving(postgres_url, execute, connect):
    """A database that is found to be unfit later, after a failover, takes nothing: 503, and no try is lost on it."""
    execute("CREATE DATABASE unfit ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreError) as error:
            push(connect(url_of(postgres_url, database="unfit")), an_envelope(a_request()))
        assert isinstance(error.value, DatabaseUnfitError)
    finally:
        execute("DROP DATABASE unfit WITH (FORCE)")


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings(postgres_url, role, connect, monkeypatch):
    """Neither role nor environment nor URL decides how the station's sessions work, whichever way statements go."""
    for name, value in {
        "PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "SQL, DMY", "PGTZ": "Asia/Tokyo",
        "PGOPTIONS": "-c statement_timeout=7",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    url = url_of(postgres_url, role=role(**AWKWARD), options="-c lock_timeout=9", client_encoding="LATIN1")
    engine = connect(url)
    with store.transaction(engine) as connection:
        for name, wanted in WANTED.items():
            found = connection.execute(text("SELECT setting FROM pg_settings WHERE name = :name"), {"name": name})
            assert (name, found.scalar_one()) == (name, wanted)
    statements = [("SELECT current_setting(%(name)s)", {"name": name}) for name in WANTED]
    raw = dict(zip(WANTED, run_statements(engine, statements, until=None), strict=True))
    assert raw == WANTED | {"statement_timeout": "5s", "lock_timeout": "3s"}


def test_nothing_is_damaged(postgres_url, role, serve, tmp_path):
    """With the most awkward role and environment a receipt is stored, found and told from its copies as it was sent."""
    awkward = {"PGCLIENTENCODING": "LATIN1", "PGDATESTYLE": "German", "PGTZ": "Asia/Tokyo"}
    url = url_of(postgres_url, role=role(**AWKWARD))
    request = a_request(receiptId="Nicolò-€-😀", description=r"Città d'Àngelo \ '€' 😀")
    raw = an_envelope(request)
    (tmp_path / "one.xml").write_bytes(raw)
    server = serve(url, **awkward)

    def post(body):
        answer = httpx.post(server.url, content=body, headers={"Content-Type": "text/xml; charset=utf-8"})
        return answer.text.partition("<outcome>")[2][:2]

    def run(*arguments, expect=0):
        done = forked.run(arguments, environment(url, **awkward), tmp_path)
        assert (done.returncode, "Traceback" in done.stderr) == (expect, False), done.stderr
        return done.stdout

    assert [post(raw), post(raw), post(an_envelope(request.but(description="ò")))] == ["OK", "OK", "KO"]
    assert run("migrate").endswith("already\n")
    run("check")
    run("replay", "--file", "one.xml")
    run("replay", "--stored")
    [listed] = [json.loads(line) for line in run("receipts", "list", "--json").splitlines()]
    assert listed["receipt_id"] == "Nicolò-€-😀"
    assert len(run("journal", "list", "--json").splitlines()) == 4
    assert run("refused", "list", "--json").count("\n") == 1
    run("stats")
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT receipt_id, description, resends, raw FROM receipt")
        assert found.fetchall() == [("Nicolò-€-😀", r"Città d'Àngelo \ '€' 😀", 1, raw)]


@pytest.mark.parametrize(
    ("level", "kept"),
    [("off", "on"), ("local", "on"), ("remote_write", "remote_write"), ("on", "on"), ("remote_apply", "remote_apply")],
)
@pytest.mark.parametrize("of", ["ROLE", "DATABASE"])
def test_synchronous_commit(postgres_url, role, execute, connect, level, kept, of):
    """A commit that is acknowledged is on the disk, and with a standby on both machines; the session keeps to it."""
    execute(f"ALTER {of} {role() if of == 'ROLE' else 'postgres'} SET synchronous_commit = {level}")
    try:
        with store.transaction(connect(url_of(postgres_url, role=ROLE))) as connection:
            asked = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"
            assert connection.execute(text(asked)).one() == (kept, "session")
    finally:
        execute("ALTER DATABASE postgres RESET synchronous_commit")


@pytest.mark.parametrize(("name", "value"), [("synchronous_commit", "local"), ("client_min_messages", "error")])
def test_behind_a_pooler(postgres_url, role, connect, monkeypatch, name, value):
    """A pooler drops our options, and a session is not ours to change: what the role says must do, or nothing works."""
    monkeypatch.setattr(postgres, "_OPTIONS", {})
    with store.transaction(connect(url_of(postgres_url, role=role()), prepare=False)) as connection:
        left = "SELECT count(*) FROM pg_settings WHERE source = 'session' AND name <> 'transaction_isolation'"
        assert connection.execute(text(left)).scalar_one() == 0
    engine = connect(url_of(postgres_url, role=role(**{name: value})), prepare=False)
    with pytest.raises(DatabaseUnfitError, match=f"ALTER ROLE ... SET {name} = "), store.transaction(engine):
        pass


@pytest.mark.parametrize("by", ["role", "url"])
def test_search_path(postgres_url, role, execute, connect, by):
    """The tables may be in a schema of their own, which the role or the URL names."""
    execute("CREATE SCHEMA own")
    try:
        if by == "role":
            url = url_of(postgres_url, role=role(search_path="own"))
        else:
            url = url_of(postgres_url, role=role(), options="-c search_path=own")
        engine = connect(url)
        assert store.revisions(engine)[0] is None
        store.migrate(engine)
        assert push(engine, an_envelope(a_request())).result is Result.STORED
        counts = "SELECT (SELECT count(*) FROM own.receipt), (SELECT count(*) FROM public.receipt)"
        assert execute(counts).fetchone() == (1, 0)
    finally:
        execute("DROP SCHEMA own CASCADE")


def test_read_only_role(postgres_url, role, connect):
    """A role or database that is frozen stays so: nothing is taken in, and it is said why."""
    engine = connect(url_of(postgres_url, role=role(default_transaction_read_only="on")))
    with pytest.raises(StoreError, match="default_transaction_read_only"), store.transaction(engine) as connection:
        connection.execute(text("UPDATE receipt SET resends = 0"))


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_sqlite_of_utf_16(tmp_path, connect, encoding):
    """A file that was made as UTF-16 holds everything as well, and tells copies from other receipts."""
    file = tmp_path / "wide.sqlite3"
    with sqlite3.connect(file) as made:
        made.execute(f"PRAGMA encoding = '{encoding}'")
        made.execute("CREATE TABLE first (n)")
    engine = connect(f"sqlite:///{file}")
    store.migrate(engine)
    raw = an_envelope(a_request(receiptId="Nicolò-€-😀"))
    results = [push(engine, raw).result, push(engine, raw).result, push(engine, raw, Source.REPLAY).result]
    assert results == [Result.STORED, Result.DUPLICATE, Result.DUPLICATE]
    refused_id = push(engine, an_envelope(a_request(paymentAmount="1,5"))).refused_id
    with store.transaction(engine, readonly=True) as connection:
        assert connection.execute(text("PRAGMA encoding")).scalar_one() == encoding
        assert store.refused_ids(connection, refused_id[:6]) == [refused_id]
        assert [row.receipt_id for row in store.list_receipts(connection, store.Filter())] == ["Nicolò-€-😀"]


def test_sqlite_connections(sqlite_url, connect):
    """Each connection syncs its commits and holds to the foreign keys, not only the first one."""
    engine = connect(sqlite_url)
    with store.transaction(engine, readonly=True) as one, store.transaction(engine, readonly=True) as other:
        for connection in (one, other):
            pragmas = [connection.execute(text(f"PRAGMA {name}")).scalar_one() for name in PRAGMAS]
            assert dict(zip(PRAGMAS, pragmas, strict=True)) == PRAGMAS


PRAGMAS = {"synchronous": 2, "foreign_keys": 1, "journal_mode": "wal"}
