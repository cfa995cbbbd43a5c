"""The whole way of a request in this process: bytes of a connection -> request -> application -> database -> bytes of
the answer; and what must hold of it whatever the bytes are."""

import io
import json
import logging
import re
import time
import warnings
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from gunicorn.config import Config
from lxml import etree
from sqlalchemy import event, text

with warnings.catch_warnings():
    # Spyne imports what is deprecated, its own copy of six and cgi among them.
    warnings.simplefilter("ignore")
    from station import config, log, store
    from station.app import Station
    from station.http.request import Incoming, Limits
    from station.http.worker import Worker

MAX_BODY = 200_000
PEER = ("127.0.0.1", 4)
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
PAF = "{http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd}"
# Every status that the README's table and HTTP itself know. 500 only as SOAP Fault Client, see below.
STATUSES = {200, 400, 403, 404, 405, 413, 414, 415, 417, 431, 500, 501}
_ANSWER = re.compile(rb"HTTP/1\.\d (\d{3}) [^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)


class _Connection:
    """What the worker needs of a connection."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.last = False
        self.health = False
        self.peer = PEER
        self.local = ("127.0.0.1", 8080)

    def getsockname(self) -> Any:
        return self.local


class RequestPath:
    """A station in this process, its log in memory."""

    def __init__(self, url: str) -> None:
        settings = config.Settings.model_validate({"database": {"url": url}, "server": {"max_body": MAX_BODY}})
        self.engine = store.connect(url)
        # Thousands of commits: whether they reach the disk is not what is tried here.
        event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self.worker = object.__new__(Worker)  # the part of it that answers, without its loop
        self.worker.cfg = Config()
        self.worker.log = logging.getLogger("gunicorn.error")
        self.worker.alive, self.worker.nr, self.worker.max_requests = True, 0, 2**62
        self.worker.wsgi = Station(settings, self.engine)
        self.stream = io.StringIO()
        with redirect_stderr(self.stream):
            log.configure("json", "info")

    def send(self, data: bytes) -> list[tuple[int, bytes, bytes]]:
        """Status, header and body of each answer to what came on one connection."""
        incoming = Incoming(Limits(MAX_BODY))
        incoming.feed(data)
        connection = _Connection()
        while not connection.last and (request := incoming.take()) is not None:
            connection.last = request.last
            self.worker._answer(connection, request, time.monotonic())
        incoming.close()
        answers = []
        out = bytes(connection.out)
        while out:
            head = _ANSWER.match(out)
            assert head is not None, out[:200]
            length = re.search(rb"(?i)content-length: (\d+)", head[2])
            assert length is not None, head[0]
            end = head.end() + int(length[1])
            answers.append((int(head[1]), head[2], out[head.end() : end]))
            out = out[end:]
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
