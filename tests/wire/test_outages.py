"""The store fails in every way, and nobody is told OK or KO for what is not stored."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest
from build import ABSENT, a_request, an_envelope

KILL_BEFORE_ANSWER = """
import os, pathlib
def post_worker_init(worker):
    application = worker.wsgi
    def answer_or_die(environ, start_response):
        parts = list(application(environ, start_response))
        if pathlib.Path("die").exists():
            os.kill(os.getpid(), 9)  # the commit is done, and nothing was sent yet
        return parts
    worker.wsgi = answer_or_die
"""

# No file of the worker's may grow beyond this, as on a full disk, until there is a file "space".
FULL = """
import pathlib, resource
def post_worker_init(worker):
    application = worker.wsgi
    def limited(environ, start_response):
        size = resource.RLIM_INFINITY if pathlib.Path("space").exists() else 600_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        return application(environ, start_response)
    worker.wsgi = limited
"""


def is_fault_server(answer, status=503):
    assert (answer.status, answer.soap_fault) == (status, "Server")
    assert answer.http.headers["retry-after"] == "60"
    assert b"Traceback" not in answer.http.content
    assert b"INSERT" not in answer.http.content
    assert b"/" not in answer.http.content.partition(b"<faultstring>")[2].partition(b"</faultstring>")[0]
    return True


def test_postgresql_stops_and_starts(own_postgres, connect):
    """PostgreSQL stops under the server: 503. It starts again: the resend is OK, without a restart of the station."""
    station = connect(own_postgres.get_uri())
    first, second, broken = an_envelope(a_request()), an_envelope(a_request()), an_envelope(a_request(debtor=ABSENT))
    assert station.push(first).outcome == "OK"
    own_postgres.stop()
    assert is_fault_server(station.push(second))
    assert is_fault_server(station.push(broken))
    own_postgres.ensure_postgres_running()
    assert station.push(second).outcome == "OK"
    assert station.push(first).outcome == "OK"
    assert station.push(broken).outcome == "KO"
    assert station.rows("SELECT count(*) AS n FROM receipt")[0]["n"] == 2


def test_connections_are_cut(own_postgres, connect):
    """Connections that the database closed meanwhile cost nothing: the first push after it is OK."""
    station = connect(own_postgres.get_uri())
    assert station.push(an_envelope(a_request())).outcome == "OK"
    with psycopg.connect(own_postgres.get_uri(), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'station'")
    assert station.push(an_envelope(a_request())).outcome == "OK"


def test_started_before_its_database(own_postgres, connect):
    """A station that starts before its database answers 503 until the database is there."""
    own_postgres.stop()
    station = connect(own_postgres.get_uri())
    raw = an_envelope(a_request())
    assert is_fault_server(station.push(raw))
    own_postgres.ensure_postgres_running()
    assert station.push(raw).outcome == "OK"


def test_locked_table(own_postgres, connect):
    """A lock that is held beyond its time: 503 while it still is, and OK when it is free."""
    station = connect(own_postgres.get_uri())
    raw = an_envelope(a_request())
    with psycopg.connect(own_postgres.get_uri()) as connection:
        connection.execute("LOCK TABLE receipt IN ACCESS EXCLUSIVE MODE")
        assert is_fault_server(station.push(raw))
    assert station.push(raw).outcome == "OK"


def test_a_slow_database_is_asked_three_times_at_once(own_postgres, connect):
    """What comes together goes together. Where that waits, what comes later goes beside it, and no more than twice."""
    station = connect(own_postgres.get_uri(), options=("--workers", "1", "--threads", "5"))
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'station' AND wait_event_type = 'Lock'"

    def attempt():
        with (
            psycopg.connect(own_postgres.get_uri()) as holding,
            psycopg.connect(own_postgres.get_uri(), autocommit=True) as looking,
            ThreadPoolExecutor(5) as pool,
        ):
            holding.execute("LOCK TABLE receipt IN ACCESS EXCLUSIVE MODE")
            pushes = []
            for number in range(1, 6):
                pushes.append(pool.submit(station.push, an_envelope(a_request())))
                while looking.execute(waiting).fetchone() < (min(number, 3),) and not any(p.done() for p in pushes):
                    time.sleep(0.01)
            time.sleep(0.3)  # the other two stay where they are
            (seen,) = looking.execute(waiting).fetchone()
            holding.rollback()
            return [push.result().outcome for push in pushes], seen

    for _ in range(10):  # until it is quicker than the station's own limit for locks, which a busy machine may miss
        outcomes, seen = attempt()
        if outcomes == ["OK"] * 5:
            break
    assert (outcomes, seen) == (["OK"] * 5, 3)


def test_missing_table(own_postgres, connect):
    """A defect of the schema is an error of ours, never a refusal."""
    station = connect(own_postgres.get_uri())
    with psycopg.connect(own_postgres.get_uri()) as connection:
        connection.execute("ALTER TABLE transfer RENAME TO gone")
    raw = an_envelope(a_request())
    assert is_fault_server(station.push(raw))
    assert [row["fault_code"] for row in station.rows("SELECT fault_code FROM refused")] == ["PAA_SYSTEM_ERROR"]
    with psycopg.connect(own_postgres.get_uri()) as connection:
        connection.execute("ALTER TABLE gone RENAME TO transfer")
    assert station.push(raw).outcome == "OK"


def test_sqlite_locked(sqlite_url, connect):
    """SQLite locked by another process beyond its time: 503; free again: OK."""
    station = connect(sqlite_url)
    raw = an_envelope(a_request())
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert is_fault_server(station.push(raw))
    other.execute("ROLLBACK")
    other.close()
    assert station.push(raw).outcome == "OK"


def test_sqlite_full(sqlite_url, connect, tmp_path):
    """A disk that is full: 503 for receipts and for refusals; room again: OK."""
    (tmp_path / "full.py").write_text(FULL)
    station = connect(sqlite_url, options=("--config", str(tmp_path / "full.py")), fork=False)
    acknowledged = push_until_503(station, lambda: a_request())
    kept = push_until_503(station, lambda: a_request(debtor=ABSENT))
    (tmp_path / "space").touch()
    assert station.push(an_envelope(a_request())).outcome == "OK"
    assert station.rows("SELECT count(*) AS n FROM receipt")[0]["n"] == acknowledged + 1
    assert station.rows("SELECT count(*) AS n FROM transfer")[0]["n"] == 2 * (acknowledged + 1)
    assert station.rows("SELECT count(*) AS n FROM refused")[0]["n"] == kept


def push_until_503(station, make):
    """How many were answered with an outcome before."""
    for number in range(200):
        answer = station.push(an_envelope(make()))
        if answer.status != 200:
            assert is_fault_server(answer)
            return number
    raise AssertionError("the disk never was full")


def test_sqlite_gone(sqlite_url, connect):
    """A database file that is replaced by rubbish: 503, never a refusal."""
    station = connect(sqlite_url)
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    for one in file.parent.glob(f"{file.name}*"):
        one.write_bytes(b"rubbish" * 4096)
    assert is_fault_server(station.push(an_envelope(a_request())))
    assert is_fault_server(station.push(an_envelope(a_request(debtor=ABSENT))))


def test_killed_between_commit_and_answer(database_url, connect, tmp_path):
    """A worker killed after the commit and before the answer: the resend is OK and there is one row."""
    (tmp_path / "kill.py").write_text(KILL_BEFORE_ANSWER)
    station = connect(database_url, options=("--config", str(tmp_path / "kill.py")), fork=False)
    request = a_request()
    (tmp_path / "die").touch()
    with pytest.raises(httpx.TransportError):
        station.push(an_envelope(request))
    (tmp_path / "die").unlink()
    assert station.push(an_envelope(request)).outcome == "OK"
    rows = station.rows("SELECT resends FROM receipt WHERE receipt_id = ?", request["receiptId"])
    assert [row["resends"] for row in rows] == [1]
    transfers = station.rows("SELECT position FROM transfer WHERE receipt_id = ?", request["receiptId"])
    assert len(transfers) == 2


def test_killed_as_a_whole(database_url, connect):
    """The whole server killed and started again: what was acknowledged is there."""
    station = connect(database_url)
    requests = [a_request() for _ in range(20)]
    for request in requests:
        assert station.push(an_envelope(request)).outcome == "OK"
    station.server.kill()
    station.server.start()
    for request in requests:
        assert station.push(an_envelope(request)).outcome == "OK"
    assert station.rows("SELECT count(*) AS n FROM receipt")[0]["n"] == 20


def test_graceful_stop(sqlite_url, connect):
    """SIGTERM ends the server with status 0."""
    station = connect(sqlite_url)
    assert station.push(an_envelope(a_request())).outcome == "OK"
    station.client.close()
    station.server.stop()
    assert station.server.process.returncode == 0


def test_readonly_file(sqlite_url, connect):
    """A database that may not be written: 503."""
    file = sqlite_url.removeprefix("sqlite:///")
    station = connect(f"sqlite:///file:{file}?mode=ro&uri=true")
    assert is_fault_server(station.push(an_envelope(a_request())))
    assert station.rows("SELECT 1 FROM receipt") == []
