"""Clients that mean harm, against a running station: it serves the others, stays small, and keeps nothing of theirs."""

import http.client
import json
import re
import shutil
import socket
import sqlite3
import ssl
import struct
import subprocess
import time
from collections import deque
from contextlib import ExitStack, chdir

import httpx
import pytest
from build import a_request, an_envelope
from process import STATION, environment, free_port, running_server
from smuggling import SMUGGLED, SMUGGLING

XML = {"Content-Type": "text/xml"}
# A request that is to arrive in time must do so on a busy machine too, and one that never does is waited for.
SMALL = "[server]\nworkers = 2\nthreads = 2\nread_timeout = 5\nmax_body = 1000000\n"
PATIENT = SMALL.replace("read_timeout = 5", "read_timeout = 600")
HEAD = b"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\n"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, sqlite_migrated):
    """A station with two threads and room for 200 connections."""
    folder = tmp_path_factory.mktemp("attacked")
    shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    url = f"sqlite:///{folder / 'station.sqlite3'}"
    with running_server(folder, url, config=SMALL, options=("--worker-connections", "200"), fork=True) as server:
        server.database = folder / "station.sqlite3"
        while server.log.count("Booting worker") < 2:  # the first one answers before the second one starts
            time.sleep(0.01)
        yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory, sqlite_migrated):
    """The same, but that it waits for requests as long as no test takes."""
    folder = tmp_path_factory.mktemp("patient")
    shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    url = f"sqlite:///{folder / 'station.sqlite3'}"
    with running_server(folder, url, config=PATIENT, fork=True) as server:
        yield server


@pytest.fixture
def connect():
    """Opens connections to a server, closed at the end."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))


@pytest.fixture(autouse=True)
def unharmed(request):
    """After each attack: the same worker serves, and there is nothing in the database but receipts that were sent."""
    if "attacked" not in request.fixturenames:
        yield
        return
    server = request.getfixturevalue("attacked")
    workers = server.log.count("Booting worker")
    before = stored(server)
    yield
    push(server)
    assert server.log.count("Booting worker") == workers
    assert stored(server) == before + request.node.user_properties.count(("pushed", 1)) + 1
    for word in ("Traceback", "unexpected_error", "SIGKILL", "CRITICAL"):
        assert word not in server.log


@pytest.fixture
def pushed(request, attacked):
    """Pushes a receipt that must get through, whatever goes on."""

    def once():
        push(attacked)
        request.node.user_properties.append(("pushed", 1))

    return once


def push(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/paForNode", an_envelope(a_request()), XML)
    answer = connection.getresponse()
    assert (answer.status, b"<outcome>OK</outcome>" in answer.read()) == (200, True)
    connection.close()


def stored(server):
    with sqlite3.connect(server.database) as connection:
        count = connection.execute("SELECT count(*) FROM receipt").fetchone()[0]
        assert connection.execute("SELECT count(*) FROM refused").fetchone()[0] == 0
    connection.close()
    return count


def worker_memory(server):
    """Resident memory of the worker in MiB."""
    children = subprocess.run(
        ["ps", "-o", "rss=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return sum(map(int, children.stdout.split())) / 1024


def read_all(connection):
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def statuses(data):
    return [int(one) for one in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


# --- slow clients -----------------------------------------------------------------------------------------------------


UNFINISHED = {
    "request line": b"P",
    "header": HEAD,
    "body": HEAD + b"Content-Length: 1000\r\n\r\n<a>",
    "chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    "trailer": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n",
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_slow_clients(patient, connect, sent):
    """Fifty clients stop in the middle of a request: the others are served."""
    slow = [connect(patient) for _ in range(50)]
    for connection in slow:
        connection.sendall(sent)
    push(patient)
    for connection in slow:
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody was served because a slow one was ended
            connection.recv(1)


def test_slow_clients_are_ended(attacked, connect):
    """A client that stops in the middle of a request is told that it is late."""
    slow = [connect(attacked) for _ in UNFINISHED]
    for connection, sent in zip(slow, UNFINISHED.values(), strict=True):
        connection.sendall(sent)
    assert [statuses(read_all(connection)) for connection in slow] == [[408]] * len(slow)


def test_byte_by_byte(attacked, connect, pushed):
    """A client that sends a byte now and then does not get more time by it."""
    connection = connect(attacked)
    data = iter(HEAD + b"X: " + b"y" * 100_000)
    connection.settimeout(0.05)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection.sendall(bytes([next(data)]))
        try:
            answer = connection.recv(65536)
        except TimeoutError:
            continue
        assert statuses(answer) == [408]
        break
    else:
        raise AssertionError("it was never told")
    pushed()


def test_slow_but_in_time(patient, connect):
    """A request that arrives in many small parts within its time is served."""
    raw = HEAD + b"Content-Length: 3\r\n\r\n<a>"
    connection = connect(patient)
    for at in range(len(raw)):
        connection.sendall(raw[at : at + 1])
    assert statuses(connection.recv(65536)) == [400]


def test_idle_connections(attacked, connect, pushed):
    """Far more idle connections than there is room for: the oldest give way, and requests are served."""
    idle = []
    for _ in range(600):
        idle.append(connect(attacked))
    pushed()
    del idle


def test_connections_without_end(attacked, connect, pushed):
    """Somebody opens connections as fast as they can: a push that comes behind them is served all the same."""
    opened = deque()
    for _ in range(1_500):
        opened.append(connect(attacked))
        if len(opened) > 300:  # more files than a test may have open
            opened.popleft().close()
    pushed()


def test_idle_connections_that_had_a_request(attacked, connect, pushed):
    """Clients that keep their connection after an answer give way too, once there is no other room."""
    for _ in range(250):
        connection = connect(attacked)
        connection.sendall(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n")
        assert statuses(connection.recv(65536)) == [404]
    pushed()


def test_resets(attacked, pushed):
    """Connections that are torn down in every state leave nothing behind."""
    for sent in (
        b"",
        b"PO",
        HEAD,
        HEAD + b"Content-Length: 10\r\n\r\nabc",
        b"GET /paForNode?wsdl HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", attacked.port), timeout=20)
            connection.sendall(sent)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
    pushed()


def test_clients_that_do_not_read(attacked, connect, pushed):
    """Clients that ask for much and read nothing hold no thread."""
    ask = b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n"
    for _ in range(8):
        connection = connect(attacked)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        try:
            while True:
                connection.send(ask * 500)
        except BlockingIOError:
            pass
    pushed()


def test_memory_of_large_bodies(attacked, connect, pushed):
    """Two hundred bodies of almost a megabyte that do not end are not all held in memory."""
    before = worker_memory(attacked)
    for _ in range(199):
        connection = connect(attacked)
        connection.setblocking(False)
        data = HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000
        try:
            while data:
                data = data[connection.send(data) :]
        except OSError:
            pass
    pushed()
    assert worker_memory(attacked) - before < 160


# --- odd requests -----------------------------------------------------------------------------------------------------


def test_pipelining(attacked, connect):
    """Requests behind each other on one connection are answered one after the other, in their order."""
    connection = connect(attacked)
    asked = [b"GET /none", b"PUT /paForNode", b"POST /none"] * 5
    connection.sendall(
        b"".join(one + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" for one in asked)
        + b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    assert statuses(read_all(connection)) == [404, 405, 404] * 5 + [404]


def test_contract_is_not_pipelined(attacked, connect):
    """The contract is a hundred times as long as the request for it, so its answer ends the connection."""
    for query, part in ((b"wsdl", b"</wsdl:definitions>"), (b"xsd=paForNode.xsd", b"</xs:schema>")):
        connection = connect(attacked)
        connection.sendall(b"GET /paForNode?%b HTTP/1.1\r\nHost: a\r\n\r\n" % query * 1_000)
        answer = read_all(connection)
        assert statuses(answer) == [200]
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.rstrip().endswith(part)


def test_pipelined_receipts(attacked, connect, request):
    """Receipts that are sent without waiting for answers are all stored."""
    connection = connect(attacked)
    for _ in range(10):
        raw = an_envelope(a_request())
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(raw) + raw)
        request.node.user_properties.append(("pushed", 1))
    connection.sendall(b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert statuses(read_all(connection)) == [200] * 10 + [404]


def test_smuggling(attacked, connect):
    """A request that two servers may read differently is refused and ends the connection: what hides is not served."""
    hidden = an_envelope(a_request())
    hidden = HEAD + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden
    for name, data in SMUGGLING.items():
        connection = connect(attacked)
        connection.sendall(data.replace(b"POST /", b"POST /paForNode", 1) + hidden + SMUGGLED)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_all(connection)) in ([400], [501], []), name


def test_wrong_length(attacked, connect):
    """What stands behind a body that is longer than it says is no request, and not in the log."""
    raw = an_envelope(a_request(description="SECRETWORD"))
    connection = connect(attacked)
    connection.sendall(HEAD + b"Content-Length: 300\r\n\r\n" + raw)
    connection.shutdown(socket.SHUT_WR)
    answers = read_all(connection)
    assert statuses(answers) == [400, 400]
    assert b"SECRETWORD" not in answers
    assert "SECRETWORD" not in attacked.log


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 200_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000, 431),
        (b"x" * 200_000, 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\r\n\r\n\x00\r\nQUIT\n!\x11\x0c\x00\x01\x02\x03\x04\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x02", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: a\r\n\r\n", 404),
        (b"TRACE /paForNode HTTP/1.1\r\nHost: a\r\nCookie: SECRETWORD\r\n\r\n", 405),
        (b"POST http://evil.example/paForNode HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n<", 400),
        (b"POST /paForNode/../paForNode HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /../../etc/passwd HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        (b"POST /paForNode%00 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 404),
        (HEAD + b"Expect: a miracle\r\nContent-Length: 0\r\n\r\n", 417),
        (HEAD + b"Content-Length: " + b"0" * 5_000 + b"1\r\n\r\n<", 400),
        (HEAD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n<", 400),
        (
            b"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Type: text/xml; charset*"
            + b"9" * 5_000
            + b"=a\r\n\r\n<",
            400,
        ),
    ],
)
def test_odd_heads(attacked, connect, sent, status):
    """Heads that are too large or no HTTP at all get a short answer, which echoes nothing."""
    connection = connect(attacked)
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        pass
    answer = read_all(connection)
    assert statuses(answer) == [status]
    assert b"SECRETWORD" not in answer
    assert len(answer) < 700


@pytest.mark.parametrize(
    "part",
    [b"10000\r\n" + b" " * 65536 + b"\r\n", b"1\r\n \r\n" * 5_000, b"0\r\n", b"1;" + b"x" * 900 + b"\r\n \r\n"],
    ids=["large", "tiny", "trailers", "extensions"],
)
def test_endless_chunks(attacked, connect, pushed, part):
    """A body whose chunks never end is answered and ended, and costs no memory."""
    before = worker_memory(attacked)
    connection = connect(attacked)
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    sent = 0
    try:
        while sent < 64 * 1024 * 1024:
            connection.sendall(part)
            sent += len(part)
            if part == b"0\r\n":
                part = b"X: y\r\n" * 1_000
    except OSError:
        pass
    assert sent < 64 * 1024 * 1024, "it was never ended"
    assert worker_memory(attacked) - before < 60
    pushed()


def test_continue(attacked, request):
    """A client that asks before it sends its body is told to go on; for a body that is too large it is not."""
    raw = an_envelope(a_request())
    connection = http.client.HTTPConnection("127.0.0.1", attacked.port, timeout=20)
    connection.connect()
    connection.sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(raw))
    assert connection.sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sock.sendall(raw)
    assert statuses(connection.sock.recv(65536)) == [200]
    request.node.user_properties.append(("pushed", 1))
    connection.sock.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 1000001\r\n\r\n")
    assert statuses(read_all(connection.sock)) == [413]
    connection.close()


@pytest.mark.parametrize(
    ("ask", "headers", "status", "asked"),
    [
        ("POST /paForNode%3Fwsdl", {"Content-Type": "text/xml; charset=utf-8", "X-Host-Path": "/paForNode?wsdl"}, 404,
         {"path": "/paForNode%3Fwsdl", "host_path": "/paForNode?wsdl", "media_type": "text/xml"}),
        ("POST /paForNode", {"Content-Type": 'Multipart/Related; type="text/xml"'}, 415,
         {"path": "/paForNode", "media_type": "multipart/related"}),
        ("PUT /paForNode", {}, 405, {"path": "/paForNode"}),
        ("POST /paForNode", {"Content-Type": "text/xml", "Content-Length": "2000000", "Expect": "100-continue"}, 413,
         {"path": "/paForNode", "media_type": "text/xml"}),
        ("POST /a%1B%5B2J%E2%80%AE/RSSMRA80A01H501U",
         {"X-Host-Path": "/b\x9b2J", "Content-Type": "c\x9b2J/RSSMRA80A01H501U"}, 404,
         {"path": "/a%1B%5B2J%E2%80%AE/***", "host_path": "/b\\x9b2J", "media_type": "c\\x9b2j/***"}),
        ("POST /" + "a" * 4_000, {"X-Host-Path": "b" * 30_000, "Content-Type": "c" * 30_000}, 404,
         {"path": "/" + "a" * 499 + "...", "host_path": "b" * 500 + "...", "media_type": "c" * 500 + "..."}),
    ],
    ids=["404", "415", "405", "413", "hostile", "long"],
)  # fmt: skip
def test_log_says_what_was_asked(attacked, connect, ask, headers, status, asked):
    """A request that is rejected names path, the forwarder's own path and media type, escaped, masked and cut."""
    name = f"asked-{time.monotonic_ns()}"
    connection = connect(attacked)
    fields = {"Host": "a", "X-Request-Id": name, "Connection": "close"} | headers
    head = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
    connection.sendall(f"{ask} HTTP/1.1\r\n{head}\r\n".encode("latin-1"))
    read_all(connection)
    (line,) = [json.loads(one) for one in attacked.log.splitlines() if name in one]
    assert {field: line[field] for field in ("path", "host_path", "media_type") if field in line} == asked
    assert line["status"] == status


def test_another_protocol_is_offered(attacked, connect, request):
    """A client that offers HTTP/2 with each request, as Java's `HttpClient` does, has its receipts stored."""
    connection = connect(attacked)
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    for _ in range(3):
        raw = an_envelope(a_request())
        connection.sendall(HEAD + offer + b"Content-Length: %d\r\n\r\n" % len(raw))
        connection.sendall(raw)
        answer = connection.recv(65536)
        assert statuses(answer) == [200]
        assert b"<outcome>OK</outcome>" in answer
        request.node.user_properties.append(("pushed", 1))


def test_nothing_is_obeyed_in_the_log(attacked, connect, request):
    """Line ends and terminal escapes of any kind are written out in the log."""
    hostile = "a\u009b31m\u2028\u202e\u0085b"
    raw = an_envelope(a_request(receiptId=hostile))
    connection = connect(attacked)
    lines = HEAD + b"X-Request-Id: \x1b[31mx\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(raw)
    connection.sendall(lines + raw)
    assert statuses(read_all(connection)) == [400]
    answer = httpx.post(attacked.url, content=raw, headers=XML | {"X-Request-Id": "a%0d%0ab"}, timeout=20)
    assert answer.status_code == 200
    request.node.user_properties.append(("pushed", 1))
    httpx.post(attacked.url + "/%0d%0ainjected%1b%5b31m", content=b"x", headers=XML, timeout=20)
    for line in attacked.log.splitlines():
        assert json.loads(line)["event"] != "injected"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", attacked.log)


# --- too much at once -------------------------------------------------------------------------------------------------


def test_overload(sqlite_url, serve):
    """Over the load that is configured: 503 with Retry-After at once, nothing is stored twice, and it recovers."""
    health = free_port()
    server = serve(
        sqlite_url,
        config="[server]\nworkers = 1\nthreads = 1\nmax_waiting = 3\n",
        STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}",
    )
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # the database is slow: whoever writes waits
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)) for _ in range(12)
        ]
        raw = an_envelope(a_request())
        for client in clients:
            client.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(raw) + raw)
        # Those that were turned away have their answer although nobody was served yet.
        turned_away = []
        while len(turned_away) < 8:
            for client in list(clients):
                client.settimeout(0.01)
                try:
                    answer = client.recv(65536)
                except TimeoutError:
                    continue
                clients.remove(client)
                assert statuses(answer) == [503]
                assert b"\r\nRetry-After: 60\r\n" in answer
                assert b"<faultcode>soap:Server</faultcode>" in answer
                turned_away.append(client)
        assert httpx.get(f"http://127.0.0.1:{health}/live", timeout=20).text == "alive\n"
        other.execute("ROLLBACK")
        other.close()
        for client in clients:
            client.settimeout(30)
            assert set(statuses(read_all(client))) <= {200, 503}
    answer = httpx.post(server.url, content=raw, headers=XML, timeout=20)
    assert b"<outcome>OK</outcome>" in answer.content
    deadline = time.monotonic() + 60
    while "requests_turned_away" not in server.log:
        assert time.monotonic() < deadline


def test_slow_handshakes(tmp_path, sqlite_url, serve):
    """Clients that begin a TLS handshake and stop, or say nothing, hold no thread, and are ended."""
    import trustme

    ca = trustme.CA()
    ours = ca.issue_cert("127.0.0.1")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = ca.issue_cert("client.example")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    server = serve(
        sqlite_url,
        config=SMALL + f'[tls]\ncertificate = "{tmp_path}/server.pem"\nclient_ca = "{tmp_path}/ca.pem"\n'
        '[trust]\ncertificates = ["client.example"]\n',
    )
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "client.pem")
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30)) for _ in range(60)
        ]
        for number, connection in enumerate(slow):
            connection.sendall((b"", b"\x16\x03\x01\x02\x00\x01", b"\x16")[number % 3])
        with httpx.Client(verify=context, timeout=20) as http_client:
            url = server.url.replace("http:", "https:")
            answer = http_client.post(url, content=an_envelope(a_request()), headers=XML)
        assert b"<outcome>OK</outcome>" in answer.content
        assert [read_all(connection) for connection in slow[:3]] == [b"", b"", b""]


# --- doors ------------------------------------------------------------------------------------------------------------


def run(tmp_path, url, *arguments, config="", **env):
    file = tmp_path / "station.toml"
    file.write_text(config)
    return subprocess.run(
        [STATION, "-c", file, *arguments], env=environment(url, **env), cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "config", "env"),
    [
        (("--bind", "127.0.0.1:0", "-b", "[::]:0"), "", {}),
        ((), '[server]\nlisten = ":8080"', {}),
        ((), "", {"GUNICORN_CMD_ARGS": "--bind 0.0.0.0:0"}),
    ],
)
def test_no_public_door_without_a_word(tmp_path, sqlite_url, arguments, config, env):
    """Without a word on who may send the station does not listen to others, however it is asked to, and says why."""
    ended = run(tmp_path, sqlite_url, "serve", *arguments, config=config, **env)
    assert ended.returncode == 2
    assert "no senders are configured" in ended.stderr
    assert "trust.anyone_may_send = true" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_proxy_protocol_is_refused(tmp_path, sqlite_url):
    """gunicorn's PROXY protocol would let a client choose its address: the station does not start with it."""
    ended = run(tmp_path, sqlite_url, "serve", "--bind", "127.0.0.1:0", "--proxy-protocol", "auto")
    assert (ended.returncode, "--proxy-protocol" in ended.stderr) == (2, True)


def test_ambiguous_headers_are_refused(tmp_path, sqlite_url):
    """gunicorn can be told to take Client_Cert for Client-Cert, and proxies pass it on: the station does not start."""
    ended = run(tmp_path, sqlite_url, "serve", "--bind", "127.0.0.1:0", "--header-map", "dangerous")
    assert (ended.returncode, "--header-map" in ended.stderr) == (2, True)


@pytest.mark.parametrize(
    ("worker", "names"),
    [
        ("station.http.worker.Worker", ("10.0.0.5", "127.0.0.1", "nothing", b"\x0010.0.0.5", b"\0\xff")),
        ("gthread", ("10.0.0.5", "127.0.0.1", "nothing", b"\x0010.0.0.5")),
    ],
)
def test_unix_socket(tmp_path, sqlite_url, serve, worker, names):
    """A client's end of a Unix socket can be called like a proxy's address: it is no address, and no error of ours."""
    config = """[trust]
nodo = "production"
proxies = ["10.0.0.5"]
proxy_certificate = "rfc9440"
"""
    path = tmp_path / "station.sock"
    options = ("--bind", f"unix:{path}", "--worker-class", worker)
    server = serve(sqlite_url, config=config, options=options)
    assert path.stat().st_mode & 0o007 == 0  # not everybody on this machine is the proxy
    raw = an_envelope(a_request())
    head = HEAD + b"Connection: close\r\nClient-Cert: :AAAA:\r\nContent-Length: %d\r\n\r\n" % len(raw)
    for name in names:
        with socket.socket(socket.AF_UNIX) as client, chdir(tmp_path):
            client.bind(name)
            client.connect(str(path))
            client.sendall(head + raw)
            assert statuses(read_all(client)) == [403], name
    assert server.log.count("the header client-cert came from an address that is not a configured proxy") == len(names)
    assert "unexpected_error" not in server.log


def test_tls_that_does_not_fit(tmp_path, sqlite_url):
    """A certificate that cannot be read ends the start with a sentence."""
    config = '[tls]\ncertificate = "none.pem"\n[trust]\nanyone_may_send = true\n'
    for command in ("serve", "check"):
        ended = run(tmp_path, sqlite_url, command, config=config)
        assert ended.returncode == {"serve": 2, "check": 1}[command]
        assert "none.pem" in ended.stderr + ended.stdout


def test_anyone_may_send(sqlite_url, serve):
    """The operator's word opens the door."""
    port = free_port()
    server = serve(
        sqlite_url, config="[trust]\nanyone_may_send = true\n", options=("--bind", f"0.0.0.0:{port}")
    )  # fmt: skip
    answer = httpx.post(f"http://127.0.0.2:{port}/paForNode", content=an_envelope(a_request()), headers=XML)
    assert b"<outcome>OK</outcome>" in answer.content
    assert server.process.poll() is None


def test_address_that_is_not_listed(sqlite_url, serve):
    """An address that is not on the list is answered 403 at every path, and the reason is in the log only."""
    server = serve(sqlite_url, config='[trust]\naddresses = ["127.0.0.3", "2001:db8::/32"]\n')
    for path in ("/paForNode", "/paForNode?wsdl", "/", "/live", "/metrics"):
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}", headers={"X-Forwarded-For": "127.0.0.3"})
        assert (answer.status_code, answer.text) == (403, "Sender not allowed.\n")
    assert "the address is not in trust.addresses" in server.log
    with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3")) as client:
        answer = client.post(server.url, content=an_envelope(a_request()), headers=XML)
    assert b"<outcome>OK</outcome>" in answer.content


def test_closed_contract(sqlite_url, serve):
    """The contract is not served where `server.wsdl` is false."""
    server = serve(sqlite_url, config="[server]\nwsdl = false\n")
    for query in ("?wsdl", "?WSDL", "?xsd=paForNode.xsd"):
        assert httpx.get(server.url + query).status_code == 405


def test_health_door(tmp_path, sqlite_url, serve):
    """Health is answered on its own door only, whatever Host says, and receipts are not taken there."""
    health = free_port()
    server = serve(sqlite_url, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    base = f"http://127.0.0.1:{health}"
    assert (httpx.get(f"{base}/live").status_code, httpx.get(f"{base}/ready").text) == (200, "ready\n")
    assert httpx.post(f"{base}/paForNode", content=an_envelope(a_request()), headers=XML).status_code == 404
    for path in ("/live", "/ready", "/metrics"):
        answer = httpx.get(f"http://127.0.0.1:{server.port}{path}", headers={"Host": f"127.0.0.1:{health}"})
        assert answer.status_code == 404
    for file in tmp_path.glob("station.sqlite3*"):
        file.write_bytes(b"rubbish" * 4096)
    deadline = time.monotonic() + 60
    while httpx.get(f"{base}/ready").status_code != 503:
        assert time.monotonic() < deadline
    assert httpx.get(f"{base}/live").status_code == 200


def test_readiness_while_stopping(sqlite_url, serve):
    """A server that was told to stop says on a connection that stands that it is not ready any more."""
    health = free_port()
    server = serve(sqlite_url, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    with httpx.Client(base_url=f"http://127.0.0.1:{health}") as client:
        assert client.get("/ready").status_code == 200
        server.process.terminate()
        deadline = time.monotonic() + 60
        while (answer := client.get("/ready")).status_code == 200:
            assert time.monotonic() < deadline
        assert (answer.status_code, answer.text) == (503, "stopping\n")
    assert server.process.wait(20) == 0


def test_health_port_is_taken(tmp_path, sqlite_url, serve):
    """Where the health port is taken, the station starts without it, unless the configuration asks for that port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, sqlite_url, "serve", "--bind", "127.0.0.1:0",
                    STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{port}")  # fmt: skip
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
