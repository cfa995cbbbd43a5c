"""The bytes of a connection, read into requests, and a request as the variables of WSGI (PEP 3333). What is odd in the
bytes is refused, and ends the connection.

One reader, httptools (llhttp, which reads for Node.js): a request that two readers take for different ones could hide
another one (request smuggling). It is as strict as it comes. What it leaves open is decided here: the bounds on what
is kept, which transfer codings and versions are served, which fields may come once only.
"""

import re
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple, NoReturn
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

# Room for 100 header fields, a proxy's copy of a client certificate with its chain among them.
MAX_HEAD = 64 * 1024
# Each chunk costs time, however small it is: a body of some MiB in chunks of one byte would take seconds.
_MAX_CHUNKS = 16 * 1024
_MAX_OVERHEAD = 256 * 1024  # the head, the lines of all chunks, and the trailers
# What is beyond the limit of a body is still read up to this much, so that the sender reads our answer before a reset.
DRAIN = 4 * 1024 * 1024
# Requests that came before the first of them was answered. What is read at once holds thousands of the shortest ones.
_MOST_AHEAD = 64

_VERSIONS = ("1.1", "1.0")
# llhttp reads ICE and RTSP as well, whose versions are not told apart.
_OTHER_PROTOCOLS = (
    "SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER",
    "REDIRECT", "RECORD", "FLUSH",
)  # fmt: skip
# RFC 9110 section 5.3: several of them cannot be one list.
_ONCE = ("HTTP_HOST", "CONTENT_TYPE", "CONTENT_LENGTH")


class Refusal(Enum):
    """Why a request is not served. The worker has an answer for each."""

    UNREADABLE = "unreadable"
    LINE_TOO_LONG = "line_too_long"
    HEAD_TOO_LARGE = "head_too_large"
    UNKNOWN_CODING = "unknown_coding"
    UNKNOWN_EXPECTATION = "unknown_expectation"


class Limits(NamedTuple):
    """What a request may have, in bytes where it says nothing else."""

    body: int
    line: int = 4094  # its target
    fields: int = 100  # how many
    field: int = 32 * 1024  # name and value of one
    # Client_Cert stands for Client-Cert where header fields become variables: such a name is left out, or refused.
    refuse_underscores: bool = False


@dataclass(slots=True)
class Request:
    """One request: `variables` are its header fields as WSGI names them. Where `refusal` says why, nothing else counts.

    `last`: the connection ends with it, since it says so or nothing that follows can be understood. `body` holds no
    more than a little over the limit of what a body may have; `size` is of all that is kept.
    """

    method: str = ""
    target: bytes = b""
    version: str = "1.1"
    variables: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    size: int = 0
    last: bool = False
    refusal: Refusal | None = None


class _EndedError(Exception):
    """Ends the parser's work from within."""


class Incoming:
    """The requests of one connection, and what was read of the next one.

    The methods `on_…` are for httptools alone.
    """

    __slots__ = (
        "_body", "_body_size", "_chunks", "_completed", "_ended", "_fed", "_fields", "_in_body", "_limits", "_parser",
        "_request", "_requests", "_room", "_upgrading", "begun", "expects_continue",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser: Any = HttpRequestParser(self)
        self._requests: deque[Request] = deque()
        self._completed = 0  # requests
        self._upgrading = False  # another protocol is offered, and the body comes
        self._ended = False  # nothing is read any more
        self._begin()

    def _begin(self) -> None:
        """Forget the request that was read."""
        self._request = Request()
        self._fed = 0  # bytes since the last request that is whole
        self.begun = False  # whether more than an empty line has come since then (RFC 9112 section 2.2)
        self._fields = 0
        self._in_body = False
        self._body: list[bytes] = []
        self._body_size = 0  # with what is not kept
        self._room = self._limits.body  # less than 0: the body is over its limit, and what follows is not kept
        self._chunks = 0
        self.expects_continue = False

    def feed(self, data: bytes) -> None:
        """Parse bytes that were read."""
        if self._ended:
            return
        completed = self._completed
        left = data
        try:
            while left:
                try:
                    self._parser.feed_data(left)
                    break
                except HttpParserUpgrade as upgrade:
                    left = left[upgrade.args[0] :] if not self._ended else b""
                    if self._upgrading:
                        self._stay()
        except HttpParserError as error:
            if not self._ended:
                if isinstance(error, HttpParserCallbackError):  # an error of ours, as of memory
                    raise (error.__context__ or error) from None
                self._end(Refusal.UNREADABLE)
            return
        if self._ended:
            return
        self._fed = self._fed + len(data) if completed == self._completed else 0
        if self._fed > len(b"\r\n"):
            self.begun = True
        if self._in_body:
            if self._fed - self._body_size > _MAX_OVERHEAD:
                self._give_up()
        elif self._fed > MAX_HEAD:
            self._end(Refusal.HEAD_TOO_LARGE)

    def take(self) -> Request | None:
        """Return the next request, or `None` where more must be read first."""
        return self._requests.popleft() if self._requests else None

    @property
    def ready(self) -> bool:
        """Whether a request is whole."""
        return bool(self._requests)

    def __len__(self) -> int:
        """Bytes in memory."""
        size = self._request.size if self._in_body else self._fed
        return size + sum([request.size for request in self._requests]) if self._requests else size

    def close(self) -> None:
        """Forgets everything. The parser and this refer to each other: only Python's collector would free them."""
        self._ended = True
        self._parser = None
        self._requests.clear()
        self._begin()

    def _stay(self) -> None:
        """We stay with HTTP/1.1, whatever is offered. httptools leaves the body of such a request to the new protocol.

        Java's `HttpClient` offers HTTP/2 with each request.
        """
        length = self._request.variables.get("CONTENT_LENGTH")
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self._upgrading = False
        self._parser = HttpRequestParser(self)
        self._parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())

    def _end(self, refusal: Refusal | None) -> None:
        """End with the request that is being read, whole or not."""
        self._request.refusal = refusal
        self._request.last = True
        self._upgrading = False
        self.on_message_complete()

    def _stop(self, refusal: Refusal | None) -> NoReturn:
        self._end(refusal)
        raise _EndedError

    def _give_up(self) -> None:
        """End without waiting for the body, which is too large or has too many chunks."""
        self._end(None if self._room < 0 else Refusal.UNREADABLE)

    # --- httptools tells ----------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._ended:
            raise _EndedError
        if len(self._requests) >= _MOST_AHEAD:  # these are answered; the client has to send the others again
            self._requests[-1].last = self._ended = True
            raise _EndedError
        self.begun = True

    def on_url(self, part: bytes) -> None:
        if self._in_body:  # `_stay`
            return
        request = self._request
        request.target += part
        request.size += len(part)
        if len(request.target) > self._limits.line:
            self._stop(Refusal.LINE_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self._fields > self._limits.fields or len(name) + len(value) > self._limits.field:
            self._stop(Refusal.HEAD_TOO_LARGE)
        if self._in_body:  # a trailer, which is not used
            return
        request = self._request
        request.size += len(name) + len(value)
        if b"_" in name:
            if self._limits.refuse_underscores:
                self._stop(Refusal.UNREADABLE)
            return
        variable = _variable(name)
        text = value.decode("latin-1").strip(" \t")
        before = request.variables.get(variable)
        if before is not None:
            if variable in _ONCE:
                self._stop(Refusal.UNREADABLE)
            text = f"{before},{text}"
        request.variables[variable] = text

    def on_headers_complete(self) -> None:
        if self._in_body:  # `_stay`
            return
        request = self._request
        request.method = self._parser.get_method().decode()
        request.version = self._parser.get_http_version()
        request.last = request.method == "CONNECT" or not self._parser.should_keep_alive()
        length = request.variables.get("CONTENT_LENGTH")
        coding = request.variables.get("HTTP_TRANSFER_ENCODING")
        if request.version not in _VERSIONS or request.method in _OTHER_PROTOCOLS:
            self._stop(Refusal.UNREADABLE)
        if coding is not None:
            if length is not None or request.version == "1.0":
                self._stop(Refusal.UNREADABLE)
            if coding.lower() != "chunked":
                self._stop(Refusal.UNKNOWN_CODING)
        if length:
            if not _LENGTH.fullmatch(length):
                self._stop(Refusal.UNREADABLE)
            if int(length) > self._limits.body:
                self._room = -1
        expected = request.variables.get("HTTP_EXPECT")
        if expected is not None:
            if expected.lower() != "100-continue":
                self._stop(Refusal.UNKNOWN_EXPECTATION)
            if self._room < 0:  # it asked before sending, and is answered no
                self._stop(None)
            self.expects_continue = request.version == "1.1"
        self._in_body = True
        self._upgrading = self._parser.should_upgrade() and (coding is not None or length not in (None, "0"))

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > _MAX_CHUNKS:
            self._give_up()
            raise _EndedError

    def on_body(self, part: bytes) -> None:
        self._body_size += len(part)
        if self._room >= 0:
            self._room -= len(part)
            self._body.append(part)
            self._request.size += len(part)
        elif self._body_size > DRAIN + self._limits.body:
            self._give_up()
            raise _EndedError

    def on_message_complete(self) -> None:
        if self._upgrading:  # the body comes
            return
        request = self._request
        request.body = b"".join(self._body)
        self._requests.append(request)
        self._ended = request.last
        self._completed += 1
        self._begin()


# 5 with thousands of zeros before it is a number, too, but one that `int` does not read.
_LENGTH = re.compile(r"[0-9]{1,19}")


@lru_cache(maxsize=128)
def _variable(name: bytes) -> str:
    """Return the WSGI variable of a header field."""
    variable = name.decode("ascii").upper().replace("-", "_")
    return variable if variable in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{variable}"


# --- WSGI -------------------------------------------------------------------------------------------------------------

_ALWAYS = {
    "SCRIPT_NAME": "",
    "wsgi.errors": sys.stderr,
    "wsgi.input_terminated": True,
    "wsgi.multiprocess": True,
    "wsgi.multithread": True,
    "wsgi.run_once": False,
    "wsgi.version": (1, 0),
}
# RFC 9112 section 3.2.2: a server takes a whole URL, too.
_AUTHORITY = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")


def variables(request: Request, connection: Any, scheme: str) -> dict[str, Any]:
    """Return the WSGI environment of a request that came by `scheme` ("http" or "https").

    `connection` has the addresses of both ends, `local` and `peer`: no tuples for a Unix socket.
    """
    target = request.target.decode("ascii")
    if not target.startswith("/"):
        target = _AUTHORITY.sub("", target, count=1)
    path, _, query = target.partition("?")
    host, port = connection.local[:2] if isinstance(connection.local, tuple) else ("localhost", "")
    address, peer_port = connection.peer[:2] if isinstance(connection.peer, tuple) else ("", "")
    return _ALWAYS | request.variables | {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": f"HTTP/{request.version}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": address,
        "REMOTE_PORT": str(peer_port),
        "wsgi.url_scheme": scheme,
        "wsgi.input": BytesIO(request.body),
    }  # fmt: skip


def head(status: str, fields: list[tuple[str, str]], *, last: bool) -> bytes:
    """Return the answer up to its body. `last`: the connection ends after it."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    return (
        f"HTTP/1.1 {status}\r\nServer: station\r\nDate: {_date(int(time.time()))}\r\n"
        f"Connection: {'close' if last else 'keep-alive'}\r\n{lines}\r\n"
    ).encode("latin-1")


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    return format_date_time(now)
