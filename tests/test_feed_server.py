"""`station api` as it runs: gunicorn, its worker processes, TLS, and what is no HTTP at all."""

import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import feed
import forked
import httpx
import psutil
import pytest
import schemathesis
import trustme
from build import EC
from feed import KEYS, of
from hypothesis import HealthCheck, Phase, given, settings
from process import environment, free_port

URL = "/api/v1/receipts"


class Api:
    """A running `station api`."""

    def __init__(self, process, port, log_file, scheme="http"):
        self.process, self.port, self.log_file = process, port, log_file
        self.url = f"{scheme}://localhost:{port}"

    @property
    def log(self):
        return self.log_file.read_text()

    def answered(self):
        return [json.loads(line) for line in self.log.splitlines() if "feed_answered" in line]

    def workers(self):
        return [
            int(one) for one in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def await_readers(self, count):
        """Wait until so many connections are accepted, and a moment for what they ask."""

        def accepted():
            return sum(
                one.status == psutil.CONN_ESTABLISHED
                for worker in self.workers()
                for one in psutil.Process(worker).net_connections("tcp")
            )

        deadline = time.monotonic() + 60
        while accepted() < count:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)


@pytest.fixture
def serve_api(tmp_path):
    """Starts `station api` with the readers of `feed`: `serve_api(database_url, workers=1, ...)`."""
    with ExitStack() as stack:

        def serve_api(database_url, *, readers=None, **options):
            port = free_port()
            file, log_file = tmp_path / f"api-{port}.toml", tmp_path / f"api-{port}.log"
            file.write_text(feed.as_toml(listen=f"127.0.0.1:{port}", **{"workers": 1} | options))
            env = environment(database_url)
            process = forked.start(["--config", str(file), "api"], env, tmp_path, log_file, log_file)
            stack.callback(end, process)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert process.poll() is None, log_file.read_text()
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                        connection.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        with suppress(ConnectionResetError):  # it speaks TLS
                            connection.recv(1)
                        return Api(process, port, log_file, "https" if "certificate" in options else "http")
                except OSError:
                    time.sleep(0.05)
            pytest.fail(log_file.read_text())

        yield serve_api


def end(process):
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def talk(port, request):
    """What is answered to these bytes, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_schema(serve_api, sqlite_url, connect):
    """Whatever the OpenAPI document allows, and what it does not, is answered as it says."""
    engine = connect(sqlite_url)
    key = feed.push(engine)
    feed.number(engine)
    api = serve_api(sqlite_url)
    schema = schemathesis.openapi.from_url(f"{api.url}/api/v1/openapi.json")
    asked = ask_for_all(schema, {"Authorization": f"Bearer {KEYS['all']}"})
    assert len(asked) == 6  # all paths but that of the document itself
    assert httpx.get(f"{api.url}{URL}/{'/'.join(key)}", headers=of("all")).status_code == 200
    assert "Traceback" not in api.log
    assert "unexpected_error" not in api.log


def ask_for_all(schema, headers):
    """Ask for what schemathesis makes up, some cases for each operation. Return their paths."""
    paths = set()
    for result in schema.get_all_operations():
        operation = result.ok()
        paths.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(max_examples=8, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def ask(case):
            if "wait" in (case.query or {}):
                case.query["wait"] = 0
            case.call_and_validate(headers=headers)

        ask()
    return paths


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "uri_too_long"),
        (b"GET /live HTTP/1.1\r\nHost: a\r\nA: " + b"x" * 90_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /live HTTP/1.1\r\nHost: a\r\n" + b"A: x\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "malformed_request"),
        (b"nonsense\r\n\r\n", 400, "malformed_request"),
        (b"GET /live HTTP/1.1\r\nHost: a\r\nB@d: x\r\n\r\n", 400, "malformed_request"),
        (b"GET /live HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: what\r\n\r\n", 501, "unknown_coding"),
        (b"GET /live HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 400, "body_not_allowed"),
        (b"POST /live HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "method_not_allowed"),
        (b"GET %s%%ff%%00 HTTP/1.1\r\nHost: a\r\n\r\n" % URL.encode(), 404, "not_found"),
        (b"GET %s?after=%%00 HTTP/1.1\r\nHost: a\r\n\r\n" % URL.encode(), 401, "key_missing"),
        (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed_request"),
    ],
    ids=lambda value: value[:28].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_hostile_requests(hostile, request_, status, code):
    """What is no request, or a strange one, is a problem, and the next connection is served."""
    answer = talk(hostile.port, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert b"Traceback" not in answer
    assert b"200 OK" in talk(hostile.port, b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, sqlite_migrated):
    """One server for all hostile requests."""
    folder = tmp_path_factory.mktemp("hostile")
    port = free_port()
    file, log_file = folder / "api.toml", folder / "api.log"
    file.write_text(feed.as_toml(listen=f"127.0.0.1:{port}", workers=1))
    env = environment(f"sqlite:///{sqlite_migrated}")
    process = forked.start(["--config", str(file), "api"], env, folder, log_file, log_file)
    api = Api(process, port, log_file)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            talk(port, b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            break
        except OSError:
            time.sleep(0.05)
    yield api
    end(process)
    assert "Traceback" not in api.log
    assert '"level": "error"' not in api.log


def test_two_workers(serve_api, database_url, connect):
    """Two workers: readers read at once, each has all, whichever worker answers; waiting readers of both are woken."""
    engine = connect(database_url)
    pushed = [feed.push(engine) for _ in range(20)]
    feed.number(engine)
    api = serve_api(database_url, workers=2)
    assert len(api.workers()) == 2

    def read(_number):
        with httpx.Client(base_url=api.url) as client:
            return feed.read_on(client, "all", limit=3)

    def wait(_number):
        with httpx.Client(base_url=api.url, timeout=90) as client:
            return feed.read_on(client, "ec", 20, wait=60)

    with ThreadPoolExecutor(10) as pool:
        for items, after in pool.map(read, range(4)):
            assert [(one["receipt"]["id_pa"], one["receipt"]["receipt_id"]) for one in items] == pushed
            assert after == 20
        waits = [pool.submit(wait, number) for number in range(6)]
        api.await_readers(6)
        feed.push(engine)
        feed.number(engine)
        for one in waits:
            items, after = one.result(90)
            assert (len(items), after) == (1, 21)
    assert not any(key in api.log for key in KEYS.values())


def test_stop_with_waiting_readers(serve_api, sqlite_url):
    """SIGTERM ends at once: readers that wait are answered, idle connections are closed."""
    api = serve_api(sqlite_url, workers=2)
    with ThreadPoolExecutor(6) as pool, closing(socket.create_connection(("127.0.0.1", api.port))) as idle:
        idle.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        waits = [pool.submit(httpx.get, f"{api.url}{URL}?wait=60", headers=of("all"), timeout=90) for _ in range(6)]
        api.await_readers(7)
        api.process.terminate()
        api.process.wait(45)  # before a reader's own 60 s are over
        answers = [one.result(60) for one in waits]
    assert [answer.json() for answer in answers] == [{"items": [], "next": 0, "more": False}] * 6
    assert api.process.returncode == 0


def test_killed_worker(serve_api, database_url, connect):
    """A worker that is killed loses its readers a request, and another one takes its place."""
    engine = connect(database_url)
    pushed = feed.push(engine)
    feed.number(engine)
    api = serve_api(database_url)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(httpx.get, f"{api.url}{URL}?after=1&wait=60", headers=of("all"), timeout=90)
        api.await_readers(1)
        os.kill(api.workers()[0], signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            wait.result(60)
    deadline = time.monotonic() + 60
    while True:
        try:
            [item] = httpx.get(f"{api.url}{URL}", headers=of("all")).json()["items"]
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert (item["receipt"]["id_pa"], item["receipt"]["receipt_id"]) == pushed


def test_database_goes_and_comes(serve_api, own_postgres, connect):
    """While the database is away readers that wait are answered 503; afterwards they go on where they were."""
    url = own_postgres.get_uri()
    engine = connect(url)
    feed.push(engine)
    feed.number(engine)
    api = serve_api(url)
    assert httpx.get(f"{api.url}/ready").status_code == 200
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(httpx.get, f"{api.url}{URL}?after=1&wait=60", headers=of("all"), timeout=90)
        api.await_readers(1)
        engine.dispose()
        own_postgres.stop()
        answer = wait.result(90)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert answer.headers["retry-after"]
    own_postgres.ensure_postgres_running()
    deadline = time.monotonic() + 60
    while (answer := httpx.get(f"{api.url}{URL}", headers=of("all"))).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert len(answer.json()["items"]) == 1


def test_tls(serve_api, sqlite_url, tmp_path):
    """With a certificate it speaks TLS 1.2 and 1.3, and answers no plain HTTP."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    file = tmp_path / "both.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    api = serve_api(sqlite_url, certificate=str(file))
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    answer = httpx.get(f"{api.url}{URL}", headers=of("all"), verify=context)
    assert answer.json() == {"items": [], "next": 0, "more": False}
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://localhost:{api.port}/live")
    assert "Traceback" not in api.log


def test_reload(serve_api, sqlite_url, tmp_path):
    """SIGHUP takes over other keys without a restart; a wrong configuration is refused."""
    api = serve_api(sqlite_url)
    file = tmp_path / f"api-{api.port}.toml"
    text = file.read_text()

    def until(key, status):
        deadline = time.monotonic() + 60
        headers = {"Authorization": f"Bearer {key}"}
        found = None
        while found != status:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            with suppress(httpx.TransportError):  # a connection that has sent nothing is ended: readers ask again
                found = httpx.get(f"{api.url}{URL}", headers=headers).status_code

    until("rotated", 401)
    file.write_text(text.replace(feed.hash_of(KEYS["ec"]), feed.hash_of("rotated")))
    os.kill(api.process.pid, signal.SIGHUP)
    until("rotated", 200)
    until(KEYS["ec"], 401)
    file.write_text("[api]\nworkers = 0\n")
    os.kill(api.process.pid, signal.SIGHUP)
    deadline = time.monotonic() + 60
    while "reload_refused" not in api.log:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    until("rotated", 200)


def test_start_without_readers(run_station, tmp_path):
    """Without a reader there is nothing to serve: a clear error, status 2."""
    ended = run_station("api")
    assert ended.returncode == 2
    assert "[[destination]]" in ended.stderr
    assert EC not in ended.stderr


def test_reader_of_the_documentation(serve_api, sqlite_url, connect, tmp_path):
    """The reader in docs/delivery-feed.md books each receipt once, over its own crashes and the server's."""
    page = (Path(__file__).parent.parent / "docs" / "delivery-feed.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "reader.py").write_text(program)
    (tmp_path / "key").write_text(KEYS["ec"])
    engine = connect(sqlite_url)
    api = serve_api(sqlite_url)
    command = [sys.executable, tmp_path / "reader.py", api.url, tmp_path / "key", tmp_path / "books"]
    pushed = []
    for _ in range(3):
        reader = subprocess.Popen(command)
        try:
            pushed += [feed.push(engine)[1] for _ in range(4)]
            feed.number(engine)
            deadline = time.monotonic() + 60
            while booked(tmp_path / "books") != pushed:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            reader.kill()
            reader.wait(30)


def booked(file):
    """The receiptIds that a reader has, in order."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(file)) as books:
        rows = books.execute("SELECT receipt FROM booked ORDER BY number").fetchall()
        return [json.loads(receipt)["receipt_id"] for (receipt,) in rows]
    return []
