"""WSGI (PEP 3333) between worker and application: a request as its variables, and the head of an answer as bytes."""

import re
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

from station.http.request import Request

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

    `gunicorn.socket` is the name that gunicorn's own workers give the connection.
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
        "gunicorn.socket": connection,
    }  # fmt: skip


class Answer(NamedTuple):
    """A short answer of ours: status line, text, its kind, and more header fields."""

    status: str
    text: str
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()

    def send(self, start: Callable[..., Any]) -> list[bytes]:
        """Start the response, as a WSGI application does, and return its body."""
        body = f"{self.text}\n".encode()
        start(self.status, [("Content-Type", self.content_type), ("Content-Length", str(len(body))), *self.fields])
        return [body]


def call(application: Callable[..., Any], environ: dict[str, Any]) -> tuple[str, list[tuple[str, str]], bytes]:
    """Call a WSGI application. Return status, header fields and body; its answers have one part each, and a length."""
    started: list[Any] = []
    body = b"".join(application(environ, lambda *line: started.append(line)))
    status, fields = started[-1][:2]
    return status, fields, body


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
