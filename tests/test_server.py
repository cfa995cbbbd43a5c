"""What the server promises of its event loop, against a running station: no connection waits for another's trouble."""

import http.client
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import psycopg
import pytest
from build import a_request, an_envelope
from process import free_port

XML = {"Content-Type": "text/xml"}
ONE_WORKER = "[server]\nworkers = 1\n"

# Commits on SQLite block their thread, as a disk does: the first for a moment, all others until there is a file "go".
SLOW_DISK = """
import pathlib, sqlite3
from gevent import monkey
from sqlalchemy import event
sleep = monkey.get_original("time", "sleep")
class Slow(sqlite3.Connection):
    def commit(self):
        if not pathlib.Path("was_slow").exists():
            pathlib.Path("was_slow").touch()
            sleep(0.2)
        else:
            pathlib.Path("committing").touch()
            while not pathlib.Path("go").exists():
                sleep(0.01)
        super().commit()
def post_worker_init(worker):
    engine = worker.wsgi.engine
    event.listen(engine, "do_connect", lambda dialect, record, given, named: named.__setitem__("factory", Slow))
    engine.dispose()
"""

# Requests take until there is a file "go"; the largest number of them at once is kept in a file.
COUNTING = """
import gevent, pathlib
def post_worker_init(worker):
    application, running = worker.wsgi, []
    def counted(environ, start_response):
        if environ["REQUEST_METHOD"] != "POST":
            return application(environ, start_response)
        running.append(1)
        most = max(len(running), int(pathlib.Path("most").read_text()))
        pathlib.Path("most").write_text(str(most))
        while not pathlib.Path("go").exists():
            gevent.sleep(0.01)
        try:
            return application(environ, start_response)
        finally:
            running.pop()
    worker.wsgi = counted
"""

FAILING = """
def post_worker_init(worker):
    application = worker.wsgi
    def fails(environ, start_response):
        if environ["PATH_INFO"] == "/memory":
            raise MemoryError
        if environ["PATH_INFO"] == "/defect":
            raise ValueError("SECRETWORD")
        return application(environ, start_response)
    worker.wsgi = fails
"""


# The functions of ours that run between /begin and /end are kept in a file.
PROFILED = """
import json, pathlib, sys
import station
root = str(pathlib.Path(station.__file__).parent)
seen = set()
def note(frame, kind, _argument):
    code = frame.f_code
    if kind == "call" and code.co_filename.startswith(root):
        name = code.co_qualname
        if not name.endswith(("comp>", "expr>")):  # which are no functions in later versions of Python
            seen.add((code.co_filename[len(root) + 1:], name))
def post_worker_init(worker):
    application = worker.wsgi
    def profiled(environ, start_response):
        if environ["PATH_INFO"] not in ("/begin", "/end"):
            return application(environ, start_response)
        if environ["PATH_INFO"] == "/begin":
            seen.clear()
        else:
            pathlib.Path("seen").write_text(json.dumps(sorted(seen)))
        start_response("200 OK", [("Content-Length", "0")])
        return []
    worker.wsgi = profiled
    sys.setprofile(note)
"""
FILES_MAX = 18  # of ours, that one push runs through
FUNCTIONS_MAX = 90


def push(server):
    return httpx.post(server.url, content=an_envelope(a_request()), headers=XML, timeout=60)


def others_are_served(server, health):
    """A connection that needs no database, and the health listener."""
    assert httpx.get(f"http://127.0.0.1:{server.port}/none", timeout=60).status_code == 404
    assert httpx.get(f"http://127.0.0.1:{health}/live", timeout=60).text == "alive\n"
    return True


@pytest.fixture
def connections():
    """Opens connections to a server, closed at the end: `connections(server, count)`."""
    with ExitStack() as stack:
        yield lambda server, count: [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)))
            for _ in range(count)
        ]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hooked(tmp_path, serve, url, hooks, **env):
    (tmp_path / "hooks.py").write_text(hooks)
    return serve(url, config=ONE_WORKER, options=("--config", str(tmp_path / "hooks.py")), fork=False, **env)


def test_slow_disk(tmp_path, sqlite_url, serve):
    """A commit that waits for the disk delays no other connection, once one has been slow."""
    health = free_port()
    server = hooked(tmp_path, serve, sqlite_url, SLOW_DISK, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    push(server)
    with ThreadPoolExecutor(1) as pool:
        pushed = pool.submit(push, server)
        wait_for((tmp_path / "committing").exists)
        assert others_are_served(server, health)
        assert not pushed.done()
        (tmp_path / "go").touch()
        assert b"<outcome>OK</outcome>" in pushed.result().content


def test_slow_postgresql(postgres_url, serve):
    """Statements that wait for a lock delay no other connection."""
    health = free_port()
    server = serve(postgres_url, config=ONE_WORKER, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'station' AND wait_event_type = 'Lock'"
    with (
        psycopg.connect(postgres_url) as holding,
        psycopg.connect(postgres_url, autocommit=True) as looking,
        ThreadPoolExecutor(1) as pool,
    ):
        holding.execute("LOCK TABLE receipt IN ACCESS EXCLUSIVE MODE")
        pushed = pool.submit(push, server)
        wait_for(lambda: looking.execute(waiting).fetchone() == (1,))
        assert others_are_served(server, health)
        assert httpx.get(f"http://127.0.0.1:{health}/ready", timeout=60).text == "ready\n"
        holding.rollback()
        assert pushed.result().status_code in (200, 503)  # 503: the lock was held for longer than a push waits


def test_requests_at_once_have_a_bound(tmp_path, sqlite_url, serve):
    """However many requests are there: each that begins holds its document's tree."""
    (tmp_path / "most").write_text("0")
    server = hooked(tmp_path, serve, sqlite_url, COUNTING)
    with ThreadPoolExecutor(50) as pool:
        answers = pool.map(lambda _: push(server).status_code, range(50))
        wait_for(lambda: int((tmp_path / "most").read_text() or 0) >= 32)  # it is empty while it is written
        (tmp_path / "go").touch()
        assert set(answers) <= {200, 503}  # 503 where it took more than 5 s
    assert int((tmp_path / "most").read_text()) == 32


def test_length_of_a_push(tmp_path, sqlite_url, serve):
    """A push, from the socket to the commit and back, runs through few files and functions, so that it can be read."""
    server = hooked(tmp_path, serve, sqlite_url, PROFILED)
    base = f"http://127.0.0.1:{server.port}"
    for _ in range(3):  # what is loaded and compiled once is no part of it
        push(server)

    def traced():
        httpx.get(f"{base}/begin")
        assert b"<outcome>OK</outcome>" in push(server).content
        httpx.get(f"{base}/end")
        return [tuple(one) for one in json.loads((tmp_path / "seen").read_text())]

    seen = min((traced() for _ in range(3)), key=len)  # the worker's report of each second is no part of it
    files = {file for file, _ in seen}
    shown = "\n".join(f"{file} {function}" for file, function in seen)
    assert (len(files) <= FILES_MAX, len(seen) <= FUNCTIONS_MAX) == (True, True), f"{len(files)} {len(seen)}\n{shown}"


@pytest.mark.parametrize(("path", "status"), [("/memory", 503), ("/defect", 500)])
def test_an_error_ends_its_own_connection_only(tmp_path, sqlite_url, serve, connections, path, status):
    """Whatever goes wrong with one request: it is answered without details, and the other connections go on."""
    server = hooked(tmp_path, serve, sqlite_url, FAILING)
    other, failing = connections(server, 2)
    for connection, target, expected in ((other, "/none", 404), (failing, path, status), (other, "/none", 404)):
        connection.request("GET", target)
        answer = connection.getresponse()
        assert (answer.status, b"SECRETWORD" in answer.read()) == (expected, False)
    assert server.log.count("Booting worker") == 1


def test_stop_with_connections_that_stay(sqlite_url, serve, connections):
    """Connections that are kept alive are closed at a stop; a request that comes on one before that is answered."""
    server = serve(sqlite_url, config=ONE_WORKER)
    idle, used = connections(server, 2)
    for connection in (idle, used):
        connection.request("GET", "/none")
        connection.getresponse().read()
    server.process.terminate()
    wait_for(lambda: "Handling signal: term" in server.log)
    used.request("GET", "/none")
    answer = used.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (404, "close")
    assert idle.sock.recv(1) == b""
    assert server.process.wait(20) == 0


def test_batches_are_counted(postgres_url, serve, connections):
    """Receipts that come while the database is busy share a transaction, and the metrics say so."""
    health = free_port()
    server = serve(postgres_url, config=ONE_WORKER, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    documents = [[an_envelope(a_request()) for _ in range(4)] for _ in range(16)]
    started = threading.Barrier(16)

    def push_some(connection, some):
        started.wait(60)
        for document in some:
            connection.request("POST", "/paForNode", document, XML)
            answer = connection.getresponse()
            answer.read()
            yield answer.status

    with ThreadPoolExecutor(16) as pool:
        pushed = pool.map(lambda *given: list(push_some(*given)), connections(server, 16), documents)
        assert list(pushed) == [[200] * 4] * 16
    metrics = httpx.get(f"http://127.0.0.1:{health}/metrics").text
    found = {
        name: float(re.search(rf"^station_batch_size_{name} (.*)$", metrics, re.M)[1]) for name in ("sum", "count")
    }
    assert found["sum"] == 64
    assert found["count"] < 64
