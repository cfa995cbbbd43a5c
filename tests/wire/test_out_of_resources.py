"""The machine runs out of something while the station serves: nothing is refused for it."""

import http.client
import resource
import subprocess
from contextlib import ExitStack, closing

import pytest
from build import a_request, an_envelope
from wire.conftest import query

UNKNOWN = ("<transferList>", "<novelty>1</novelty><transferList>")
LONG = 70_000  # bytes; beyond 64 KiB a document is computed by a thread


def long(raw):
    """The same request in more bytes, which a thread computes."""
    return raw + b" " * LONG


def changed(raw, old, new):
    return raw.replace(old.encode(), new.encode(), 1)


def pushes():
    """Requests that each need something else, by name: what is sent, the status and a word of the answer."""
    for name, make in (("short", bytes), ("long", long)):
        yield f"{name} valid", make(an_envelope(a_request())), b"<outcome>OK</outcome>"
        yield f"{name} invalid", make(changed(an_envelope(a_request()), "<outcome>OK</outcome>", "")), b"EXTRAXSD"
        yield f"{name} with an unknown element", make(changed(an_envelope(a_request()), *UNKNOWN)), b"OK</outcome>"
        other = an_envelope(a_request())
        yield f"{name} with an odd character", make(changed(other, "<receiptId>", "<receiptId>\u202e")), b"OK</outcome>"


@pytest.fixture
def station(database_url, serve):
    options = ("--workers", "1")
    return serve(database_url, options=options, config="[server]\nthreads = 2\n", fork=False)  # nothing is loaded yet


def worker_of(server):
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    (pid,) = map(int, children.stdout.split())
    return pid


def test_no_file_descriptors(database_url, station):
    """A request opens nothing: what it needs was loaded at the start. Where it must, the answer is 503."""
    cases = list(pushes())
    with ExitStack() as stack:
        connections = [
            stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", station.port, timeout=30)))
            for _ in range(len(cases) + 1)
        ]
        answers = without_file_descriptors(station, connections, cases)
    assert set(answers.values()) == {(200, True)}, answers
    assert query(database_url, "SELECT count(*) AS n FROM receipt")[0]["n"] == 7
    codes = [row["fault_code"] for row in query(database_url, "SELECT fault_code FROM refused")]
    assert "PAA_SYSTEM_ERROR" not in codes
    assert "unexpected_error" not in station.log


def without_file_descriptors(station, connections, cases):
    """Sends the requests on connections that stand already. Their answers by name."""

    def send(connection, raw, method="POST", path="/paForNode"):
        connection.request(method, path, raw, {"Content-Type": "text/xml; charset=utf-8"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    for connection in connections:
        connection.connect()
        assert send(connection, b"", "GET", "/elsewhere")[0] == 404
    status, body = send(connections[0], an_envelope(a_request()))  # there is a connection to the database
    assert (status, b"OK</outcome>" in body) == (200, True)
    worker = worker_of(station)
    _, most = before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (1, most))  # it has that one: poll() asks for as many
    answers = {}
    try:
        status, body = send(connections[-1], b"", "GET", "/paForNode?wsdl")
        assert (status, b"definitions" in body) == (200, True)
        for connection, (name, raw, word) in zip(connections[:-1], cases, strict=True):
            status, body = send(connection, raw)
            answers[name] = (status, word in body)
    finally:
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
    return answers
