"""The whole way of a request in this process: bytes of a connection -> request -> application -> database -> bytes of
the answer; and what must hold of it whatever the bytes are."""

import io
import json
import re
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from lxml import etree
from sqlalchemy import event, text

with warnings.catch_warnings():
    # Spyne imports what is deprecated, its own copy of six and cgi among them.
    warnings.simplefilter("ignore")
    from station import config, log, store
    from station.app import LAST, Station
    from station.http.request import Incoming, Limits, head, variables

MAX_BODY = 200_000
PEER = ("127.0.0.1", 4)
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
PAF = "{http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd}"
# Every status that the README's table and HTTP itself know. 500 only as SOAP Fault Client, see below.
STATUSES = {200, 400, 403, 404, 405, 413, 415, 500}


class _Connection:
    """The addresses of a connection's ends."""

    def __init__(self) -> None:
        self.peer = PEER
        self.local = ("127.0.0.1", 8080)


class RequestPath:
    """A station in this process, its log in memory."""

    def __init__(self, url: str) -> None:
        settings = config.Settings.model_validate({"database": {"url": url}, "server": {"max_body": MAX_BODY}})
        self.engine = store.connect(url)
        # Thousands of commits: whether they reach the disk is not what is tried here.
        event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self.application = Station(settings, self.engine)
        self.stream = io.StringIO()
        with redirect_stderr(self.stream):
            log.configure("json", "info")

    def send(self, data: bytes) -> list[tuple[int, bytes, bytes]]:
        """Status, header and body of each answer to what came on one connection, but for the worker's own answers."""
        incoming = Incoming(Limits(MAX_BODY))
        incoming.feed(data)
        answers, last = [], False
        while not last and (request := incoming.take()) is not None:
            last = request.last
            if request.refusal is None:
                environ = variables(request, _Connection(), "http")
                started: list[Any] = []
                body = b"".join(self.application(environ, lambda *line: started.append(line)))  # noqa: B023
                [(status, fields)] = started
                last = last or LAST in environ
                answers.append(
                    (int(status[:3]), head(status, fields, last=last), b"" if request.method == "HEAD" else body)
                )
        incoming.close()
        return answers

    def count(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(text("SELECT count(*) FROM receipt")).scalar_one())

    def check(self, data: bytes) -> list[int]:
        """Sends `data` and holds what must hold of every request. Returns the statuses."""
        self.stream.seek(0)
        self.stream.truncate()
        before = self.count()
        answers = self.send(data)
        accepted = 0
        for status, head, body in answers:
            assert status in STATUSES, status
            assert b"Traceback" not in body
            assert b"SELECT" not in body
            assert b"/work" not in body
            if b"text/xml" in head and b"Envelope" in body[:200]:
                accepted += _soap_answer(status, body)
        stored = self.count() - before
        assert 0 <= stored <= accepted, "something was stored that was not acknowledged as a receipt"
        for line in self.stream.getvalue().splitlines():
            entry = json.loads(line)
            assert entry["level"] not in ("error", "critical"), entry
            assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u202e]", line), line
        return [status for status, _, _ in answers]


def _soap_answer(status: int, body: bytes) -> int:
    """Whether a receipt was acknowledged by this answer, which must be a valid one."""
    root = etree.fromstring(body)
    entry = root.find(f"{SOAP}Body")[0]
    if entry.tag == f"{SOAP}Fault":
        assert status in (400, 500)
        assert entry.findtext("faultcode").endswith(":Client"), body
        assert entry.findtext("faultstring")
        return 0
    assert status == 200
    assert entry.tag.startswith(PAF)
    outcome = entry.findtext("outcome")
    fault = entry.find("fault")
    assert outcome in ("OK", "KO")
    assert (fault is None) == (outcome == "OK")
    if fault is not None:
        assert all(fault.findtext(name) for name in ("faultCode", "faultString", "id"))
    return int(outcome == "OK")


def post(body: bytes, *lines: bytes) -> bytes:
    """A request with this body."""
    head = [b"POST /paForNode HTTP/1.1", b"Host: a", *lines]
    if not any(line.lower().startswith(b"content-type") for line in lines):
        head.append(b"Content-Type: text/xml; charset=utf-8")
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"", b""]) + body


def in_memory(folder: Path) -> RequestPath:
    """A station on a database of its own in `folder`."""
    url = f"sqlite:///{folder / 'fuzz.sqlite3'}"
    engine = store.connect(url)
    store.migrate(engine)
    engine.dispose()
    return RequestPath(url)
