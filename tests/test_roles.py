"""The runtime role of the database: it can do what the station does, and nothing else."""

import json
import subprocess

import forked
import httpx
import psycopg
import pytest
from build import ABSENT, a_request, an_envelope
from gpd_simulator import GpdSimulator
from process import environment

from station import store
from station.store import rights, tables

ROLE = "station_app"
PURGER = "station_purge"


@pytest.fixture(scope="module")
def roles(postgres_migrated, tmp_path_factory):
    """Two roles that may log in, with the rights that the command prints."""
    for role, options in ((ROLE, []), (PURGER, ["--purge"])):
        with psycopg.connect(postgres_migrated, autocommit=True) as owner:
            owner.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
            printed = forked.station(
                ["grants", role, *options], environment(postgres_migrated), tmp_path_factory.getbasetemp()
            )
            out, err = printed.communicate(timeout=60)
            assert printed.returncode == 0, err
            owner.execute(out)
    yield
    with psycopg.connect(postgres_migrated, autocommit=True) as owner:
        for role in (ROLE, PURGER):
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def url_of(postgres_url, role):
    return store.parse_url(postgres_url).set(drivername="postgresql", username=role).render_as_string(False)


def run(url, folder, *arguments, config="", expect=0):
    (folder / "station.toml").write_text(config)
    process = forked.station(["--config", str(folder / "station.toml"), *arguments], environment(url), folder)
    out, err = process.communicate(timeout=120)
    assert process.returncode == expect, f"{arguments}\n{out}\n{err}"
    return out


def test_every_table_has_its_rights():
    """A table that a migration adds must be thought of."""
    granted = {statement.split(" ON ")[1].split(" TO ")[0] for statement in rights.grants(ROLE) if " TO " in statement}
    assert {table.name for table in tables.metadata.sorted_tables} <= granted


def test_the_role_runs_the_station(roles, postgres_url, serve, tmp_path):
    """Serving, reconciling, replaying, discarding, listing and checking work with the runtime role."""
    url = url_of(postgres_url, ROLE)
    server = serve(url)
    request = a_request()
    conflict = request.but(description="another")
    same_notice = {name: request[name] for name in ("noticeNumber", "creditorReferenceId")}
    sent = [request, request, request.but(idStation="15376371009_02"), conflict, a_request(debtor=ABSENT)]
    outcomes = []
    for one in (*sent, a_request(**same_notice)):
        answer = httpx.post(server.url, content=an_envelope(one), headers={"Content-Type": "text/xml"})
        outcomes.append(answer.text.partition("<outcome>")[2][:2])
    assert outcomes == ["OK", "OK", "OK", "KO", "KO", "OK"]
    server.stop()
    run(url, tmp_path, "check")
    listed = [json.loads(line) for line in run(url, tmp_path, "refused", "list", "--json").splitlines()]
    by_code = {one["fault_code"]: one for one in listed}
    assert len(by_code) == 2
    run(url, tmp_path, "replay", "--refused", "--dry-run", expect=1)
    run(url, tmp_path, "replay", "--refused", expect=1)
    conflicting = next(one for code, one in by_code.items() if code == "PAA_RECEIPT_DUPLICATA")
    run(url, tmp_path, "replay", "--refused", "--id", _id(conflicting), "--replace")
    run(url, tmp_path, "replay", "--stored")
    other = next(one for code, one in by_code.items() if code != "PAA_RECEIPT_DUPLICATA")
    run(url, tmp_path, "refused", "discard", _id(other), "--reason", "test")
    (tmp_path / "one.xml").write_bytes(an_envelope(a_request()))
    run(url, tmp_path, "replay", "--file", str(tmp_path / "one.xml"))
    run(url, tmp_path, "receipts", "list")
    with GpdSimulator.start(tmp_path) as gpd:
        gpd.load(generate={"org": "77777777777", "count": 3, "from": "2026-10-01", "to": "2026-10-20"})
        config = f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "receipts-key"\nrate = 10000\nstart = "2026-10-01"\n'
        for _ in range(2):
            run(url, tmp_path, "reconcile", config=config + '[[ec]]\nid = "77777777777"\n')
        run(url, tmp_path, "reconcile", "--status", config=config + '[[ec]]\nid = "77777777777"\n')
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM receipt").fetchone() == (6,)


def _id(listed):
    return str(listed.get("id") or listed["refused_id"])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM receipt",
        "DELETE FROM refused",
        "DELETE FROM journal",
        "DELETE FROM receipt_route",
        "DELETE FROM refused_history",
        "UPDATE journal SET id_pa = 'x'",
        "UPDATE refused_history SET operator = 'x'",
        "UPDATE alembic_version SET version_num = '0000'",
        "TRUNCATE receipt CASCADE",
        "DROP TABLE receipt",
        "ALTER TABLE receipt DROP COLUMN raw",
        "ALTER TABLE receipt DISABLE TRIGGER ALL",
        "CREATE TABLE mine (x int)",
        "CREATE INDEX mine ON receipt (iuv)",
        "ALTER TABLE receipt OWNER TO station_app",
        "CREATE ROLE mine",
        "COPY receipt TO PROGRAM 'cat'",
    ],
)
def test_the_role_can_nothing_else(roles, postgres_url, statement):
    """What the station does not do, its role may not do."""
    with psycopg.connect(url_of(postgres_url, ROLE)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


def test_migrating_needs_the_owner(roles, postgres_url, tmp_path):
    """With the runtime role a migration that has something to do fails, and says so without a traceback."""
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("UPDATE alembic_version SET version_num = '0004'")
        try:
            process = forked.station(["migrate"], environment(url_of(postgres_url, ROLE)), tmp_path)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "Traceback" not in err
            assert "the role that owns the tables" in err
        finally:
            owner.execute("UPDATE alembic_version SET version_num = (SELECT %s)", (_head(postgres_url),))


def test_migrate_grants(roles, postgres_url, tmp_path):
    """Migrating gives the rights that are missing, again and again; `check` names them, and the server answers 503."""
    url = url_of(postgres_url, ROLE)
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"REVOKE INSERT ON journal FROM {ROLE}")
        owner.execute(f"REVOKE UPDATE ON reconcile_ec FROM {ROLE}")
    told = run(url, tmp_path, "check", expect=1)
    assert "the role lacks INSERT on journal, UPDATE on reconcile_ec" in told
    for _ in range(2):
        run(postgres_url, tmp_path, "migrate", "--grant", ROLE)
    run(url, tmp_path, "check")


def test_missing_right(roles, postgres_url, serve, tmp_path):
    """A missing right is the operator's: a push is answered 503, keeps nothing, and its line says what helps."""
    url = url_of(postgres_url, ROLE)
    server = serve(url)
    request = an_envelope(a_request())
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute(f"REVOKE INSERT ON receipt FROM {ROLE}")
        answer = httpx.post(server.url, content=request, headers={"Content-Type": "text/xml"})
        assert answer.status_code == 503
        assert owner.execute("SELECT count(*) FROM refused").fetchone() == (0,)
        (tmp_path / "one.xml").write_bytes(request)
        process = forked.station(["replay", "--file", str(tmp_path / "one.xml")], environment(url), tmp_path)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "permission denied for table receipt" in err
        assert f"station migrate --grant {ROLE}" in err
        assert f"database: postgresql://{ROLE}:***@" in err
        assert owner.execute("SELECT count(*) FROM refused").fetchone() == (0,)
    assert f"station migrate --grant {ROLE}" in server.log
    assert "defect" not in server.log + err
    run(postgres_url, tmp_path, "migrate", "--grant", ROLE)
    answer = httpx.post(server.url, content=request, headers={"Content-Type": "text/xml"})
    assert answer.status_code == 200


def test_purging_needs_more(roles, postgres_url, tmp_path):
    """Purging with the role that runs the station says which role it needs."""
    process = forked.station(["purge", "--journal-months", "24"], environment(url_of(postgres_url, ROLE)), tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "`purge` must run as the role that owns the tables" in err


def test_granting_to_nobody(postgres_url, tmp_path):
    """A role that is not there is no traceback, and nothing of the migration stays undone."""
    process = forked.station(["migrate", "--grant", "nobody_here"], environment(postgres_url), tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "there is no database role nobody_here" in err


def test_granting_on_sqlite(sqlite_url, tmp_path):
    """SQLite has no roles: the units' command works there, too."""
    run(sqlite_url, tmp_path, "migrate", "--grant", ROLE)


def _head(url):
    engine = store.connect(url)
    _, head = store.revisions(engine)
    engine.dispose()
    return head


def test_the_purging_role(roles, postgres_url, tmp_path):
    """Purging needs rights of its own, and works with them."""
    months = {"raw": 1, "personal": 1, "refused": 1, "journal": 24}
    arguments = ["purge", *(word for part, count in months.items() for word in (f"--{part}-months", str(count)))]
    run(url_of(postgres_url, PURGER), tmp_path, *arguments)
    with psycopg.connect(url_of(postgres_url, PURGER)) as connection:  # noqa: SIM117
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM receipt")


def test_role_name_is_quoted():
    """A role's name is a name, whatever it looks like."""
    assert 'TO "x; DROP TABLE receipt";' in rights.grants("x; DROP TABLE receipt")[1]


def test_grants_help(tmp_path):
    """The command explains itself with an example."""
    process = forked.station(["grants", "--help"], environment("sqlite:///x"), tmp_path)
    out, _ = process.communicate(timeout=60)
    assert "Example:" in out
    assert subprocess.list2cmdline(["station", "grants"]) in out
