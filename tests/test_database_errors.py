"""What is said of a database that cannot be used: which one it is, where, and why; never a password or a row."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import forked
import httpx
import psycopg
import pytest
from process import environment, free_port
from sqlalchemy import text

from station import store
from station.errors import StoreError
from station.text import LENGTH


@pytest.fixture
def said():
    """The error of a database that is asked in vain."""

    def said_(url):
        engine = store.connect(url)
        with pytest.raises(StoreError) as error, store.transaction(engine) as connection:
            connection.execute(text("SELECT 1"))
        engine.dispose()
        assert len(str(error.value)) < LENGTH
        assert str(error.value).isprintable()
        return str(error.value)

    return said_


@contextmanager
def answering(*parts):
    """A server that has nothing of PostgreSQL but what it says to one client after the other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work():
            for part in parts:
                with listener.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(part)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield f"postgresql://station:hunter2@127.0.0.1:{listener.getsockname()[1]}/receipts"


def fatal(words):
    """The server's ErrorResponse."""
    fields = b"".join(code + value + b"\0" for code, value in ((b"S", b"FATAL"), (b"C", b"28P01"), (b"M", words)))
    return b"E" + (len(fields) + 5).to_bytes(4, "big") + fields + b"\0"


def test_refused(said):
    """Nobody listens there."""
    message = said("postgresql://station:hunter2@127.0.0.1:9/receipts")
    assert message.startswith("the database receipts at 127.0.0.1:9 cannot be reached: ")
    assert "Connection refused" in message
    assert "hunter2" not in message


def test_several_hosts(said):
    """Each machine of the URL is named."""
    message = said("postgresql://station@/receipts?host=127.0.0.1:9&host=127.0.0.2:9")
    assert message.startswith("the database receipts at 127.0.0.1:9, 127.0.0.2:9 cannot be reached: ")


def test_no_such_database_or_role(said, postgres_server):
    """The server's own words tell which of the two is missing."""
    url = store.parse_url(postgres_server)
    message = said(url.set(database="none_such").render_as_string(False))
    assert "the database none_such at /" in message
    assert 'database "none_such" does not exist' in message
    assert 'role "nobody_such" does not exist' in said(url.set(username="nobody_such").render_as_string(False))


def test_password(said):
    """The server rejects the password, which is not repeated."""
    with answering(fatal(b'password authentication failed for user "station"')) as url:
        message = said(f"{url}?sslmode=disable")
    assert 'password authentication failed for user "station"' in message
    assert "hunter2" not in message


def test_tls(said):
    """The server has no TLS, and the URL wants it."""
    with answering(b"N") as url:
        assert "SSL" in said(f"{url}?sslmode=require")


def test_words_of_a_stranger(said):
    """What is there says much, on many lines, and to the terminal."""
    with answering(fatal(b"\x1b[2Jone\r\ntwo\n" + b"x" * 5000)) as url:
        message = said(f"{url}?sslmode=disable")
    assert r"\x1b[2Jone two xxx" in message


def test_option(said, postgres_server):
    """An option of the URL that the driver does not know is no defect of ours."""
    url = store.parse_url(postgres_server).update_query_dict({"sslmood": "require"})
    assert "sslmood" in said(url.render_as_string(False))


def test_host_that_is_none(said):
    """A name that cannot be one is told like one that is not found."""
    assert "cannot be reached" in said(f"postgresql://station@{'x' * 70}.invalid/receipts")


def test_statement(postgres_url, connect):
    """Of a statement that fails the driver's words stay away: they may quote the row."""
    engine = connect(postgres_url)
    with pytest.raises(StoreError) as error, store.transaction(engine) as connection:
        connection.execute(text("SELECT CAST('RSSMRA80A01H501U' AS int)"))
    assert str(error.value).startswith("the database postgres at /")
    assert "RSSMRA" not in str(error.value)


def test_commands(postgres_server, tmp_path):
    """Every command says it in one line."""
    url = store.parse_url(postgres_server).set(drivername="postgresql", database="none_such", password="hunter2")
    for command in ("migrate", "check", "receipts list"):
        done = forked.run(command.split(), environment(url.render_as_string(False)), tmp_path)
        assert done.returncode == 1
        said = (done.stdout + done.stderr).splitlines()
        [line] = [line for line in said if "the database none_such" in line]
        assert line.startswith(("station: ", "WRONG  "))
        assert "the database none_such at /" in line
        assert 'database "none_such" does not exist' in line
        assert "hunter2" not in done.stdout + done.stderr


def test_log_of_the_server(postgres_url, serve):
    """A server whose database goes away says once which and why, and when it is back."""
    with psycopg.connect(postgres_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE moody LOGIN SUPERUSER")
        try:
            url = store.parse_url(postgres_url).set(drivername="postgresql", username="moody").render_as_string(False)
            health = f"127.0.0.1:{free_port()}"
            server = serve(url, STATION_SERVER_WORKERS="1", STATION_SERVER_HEALTH_LISTEN=health)
            until_ready(health, 200)
            owner.execute("ALTER ROLE moody NOLOGIN")
            owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'moody'")
            until_ready(health, 503)
            owner.execute("ALTER ROLE moody LOGIN")
            until_ready(health, 200)
            server.stop()
            events = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
            [lost] = [event for event in events if event["event"] == "database_lost"]
            assert lost["reason"].startswith("the ")
            assert "database postgres at /" in lost["reason"]
            assert [event["event"] for event in events].count("database_reached") == 1
        finally:
            owner.execute("DROP OWNED BY moody")
            owner.execute("DROP ROLE moody")


def until_ready(health, status):
    deadline = time.monotonic() + 60
    while httpx.get(f"http://{health}/ready", timeout=60).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.05)
