"""The HTTP side: one thread for each connection, kept alive, and the faults that happen on the wire.

Here: reading calls, writing answers, slowness, breaks and oversize. Not here: what is answered (see `service`).
"""

import email.utils
import json
import os
import socket
import struct
import sys
import time
import traceback
import uuid
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .faults import Fault
from .service import CONTROL_BASE, Answer, Simulator, phrase

_PIECE = 65_536
_TRICKLES = 20


class Server(ThreadingHTTPServer):
    """Listens on the loopback address alone."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, simulator: Simulator, port: int = 0) -> None:
        self.simulator = simulator
        super().__init__(("127.0.0.1", port), Conversation)

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), ConnectionError):
            return
        self.simulator.stats.errors.append(traceback.format_exc())


class Conversation(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    first_call = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith(CONTROL_BASE):
            self._control(path.removeprefix(CONTROL_BASE), body)
        else:
            self._serve(path, query)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def _serve(self, path: str, query: str) -> None:
        simulator = self.server.simulator
        request_id = self.headers.get("X-Request-Id")
        key = self.headers.get("Ocp-Apim-Subscription-Key", "")
        call = simulator.read(self.command, path, query, key, request_id, self.headers.get("Accept") or "*/*")
        answer, fault = simulator.answer(call, self.first_call)
        self.first_call = False
        if silence := simulator.settings.latency + answer.silence + (fault.delay if fault else 0):
            time.sleep(silence)
        # Counted before it is sent: whoever has the answer finds it in the statistics.
        simulator.answered(call, "dropped" if fault and fault.drop else str(answer.status), fault)
        answer.headers = {"X-Request-Id": request_id or str(uuid.uuid4())} | answer.headers
        try:
            self._carry_out(answer, fault)
        except ConnectionError:
            self.close_connection = True
            simulator.left_alone()

    def _control(self, what: str, body: bytes) -> None:
        simulator = self.server.simulator
        try:
            order = json.loads(body) if body else {}
            with simulator.lock:
                result = simulator.control(self.command, what, order)
                content = json.dumps(result).encode()
            answer = Answer(200, content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            answer = Answer(400, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        self._write(answer, [answer.body], len(answer.body))

    def _carry_out(self, answer: Answer, fault: Fault | None) -> None:
        """Writes the answer as the fault wants it."""
        pieces: Iterable[bytes] = [answer.body]
        length: int | None = len(answer.body)
        if fault is None:
            self._write(answer, pieces, length)
            return
        if fault.drop in ("before", "reset"):
            self._break_off(reset=fault.drop == "reset")
            return
        if fault.huge:
            pieces, length = _huge(fault.huge, answer.content_type), fault.huge
        if fault.gzip:
            answer.headers["Content-Encoding"] = "gzip"
            pieces = _zipped(pieces)
            if fault.huge:
                length = None
            else:
                pieces = [b"".join(pieces)]
                length = len(pieces[0])
        if fault.chunked:
            length = None
        stop = None
        if fault.drop:
            stop = 0 if fault.drop == "headers" else (length or len(answer.body)) // 2
        if fault.trickle and not fault.huge:
            pieces = _slowly(b"".join(pieces), fault.trickle)
        self._write(answer, pieces, length, stop)
        if fault.drop:
            self._break_off()

    def _write(self, answer: Answer, pieces: Iterable[bytes], length: int | None, stop: int | None = None) -> None:
        """Without a length the body goes out in chunks; after `stop` bytes of the body nothing more goes out."""
        head = [
            f"HTTP/1.1 {answer.status} {phrase(answer.status)}",
            f"Date: {_date(int(time.time()))}",
            f"Content-Type: {answer.content_type}",
            "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}",
            *(f"{name}: {value}" for name, value in answer.headers.items()),
        ]
        if length == 0:
            del head[2]
        pending = "\r\n".join([*head, "\r\n"]).encode("latin-1")
        sent = 0
        for piece in pieces:
            if stop is not None and sent + len(piece) > stop:
                piece = piece[: stop - sent]
            sent += len(piece)
            if length is None and piece:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self.wfile.write(pending + piece)
            pending = b""
            if stop is not None and sent >= stop:
                return
        if length is None:
            pending += b"0\r\n\r\n"
        if pending:
            self.wfile.write(pending)

    def _break_off(self, reset: bool = False) -> None:
        self.close_connection = True
        if reset:  # lingering for no time at all sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: Any) -> None:
        pass


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def _huge(size: int, content_type: str) -> Iterator[bytes]:
    """A well-formed body of so many bytes, most of them one long text."""
    if "xml" in content_type:
        head = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><PaSendRTV2Request><idPA>'
        tail = b"</idPA></PaSendRTV2Request>"
    else:
        head = b'{"currentPageNumber": 0, "length": 1, "totalPages": 1, "results": [{"iuv": "'
        tail = b'"}]}'
    filler = bytes(48 for _ in range(_PIECE))
    left = max(0, size - len(head) - len(tail))
    yield head
    while left > 0:
        yield filler[:left]
        left -= _PIECE
    yield tail


def _zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(wbits=31)
    for piece in pieces:
        if packed := packer.compress(piece):
            yield packed
    yield packer.flush()


def _slowly(body: bytes, seconds: float) -> Iterator[bytes]:
    step = -(-len(body) // _TRICKLES) or 1
    for at in range(0, len(body), step):
        time.sleep(seconds / _TRICKLES)
        yield body[at : at + step]
