"""WSGI (PEP 3333) between worker and application: a request as its variables, and the head of an answer as bytes."""

import re
import sys
import time
from functools import lru_cache
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.handlers import format_date_time

from station.http.connection import Connection
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


def variables(request: Request, connection: Connection, scheme: str) -> dict[str, Any]:
    """What the application is told of a request that came by `scheme`.

    `gunicorn.socket` is what gunicorn's own workers call the connection.
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


class Answer:
    """What the application says before the body, which has a `Content-Length`."""

    def __init__(self) -> None:
        self.status = ""
        self.fields: list[tuple[str, str]] = []

    def start(self, status: str, fields: list[tuple[str, str]], _exc_info: object = None) -> None:
        """WSGI's `start_response`. The application's answers have one part each: nobody writes by what this returns."""
        self.status = status
        self.fields = fields

    def head(self, *, last: bool) -> bytes:
        """The answer up to its body. `last`: the connection ends after it."""
        fields = "".join([f"{name}: {value}\r\n" for name, value in self.fields])
        return (
            f"HTTP/1.1 {self.status}\r\nServer: station\r\nDate: {_date(int(time.time()))}\r\n"
            f"Connection: {'close' if last else 'keep-alive'}\r\n{fields}\r\n"
        ).encode("latin-1")


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    return format_date_time(now)
