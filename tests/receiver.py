"""A receiver of webhooks, as an EC would write one: it verifies with the libraries that its authors would take.

Imports nothing of the station.

    with Receiver() as receiver:              # http://127.0.0.1:port/hook
        receiver.answer = lambda got: 503     # a status, (status, headers), or a function that gets the handler
        receiver.ids                          # of what it took (2xx), in order
"""

import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks import Webhook

SECRET = "whsec_c3RhdGlvbi10ZXN0LXNlY3JldC0wMDAwMDAwMQ=="


@dataclass
class Received:
    """One request."""

    headers: dict[str, str]
    body: bytes
    path: str = "/"
    event: Any = None
    status: int | None = None
    at: float = field(default_factory=time.monotonic)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def data(self) -> dict[str, Any]:
        return self.event.get_data()

    @property
    def number(self) -> int:
        return self.data["number"]


class Receiver:
    """An HTTP server in threads. `at_any_time`: times of a test's clock are not compared with the clock."""

    def __init__(
        self, *, secret: str = SECRET, tls: ssl.SSLContext | None = None, at_any_time: bool = False, port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:  # fmt: skip
        self.secret = secret
        self.at_any_time = at_any_time
        self.answer: Callable[[Received], Any] = lambda _received: 204
        self.all: list[Received] = []
        self.problems: list[str] = []
        self.at_once = self.most_at_once = self.connections = 0
        self._lock = threading.Lock()
        self._server = _Server((host, port), _Handler)
        self._server.receiver = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}/hook"

    def __enter__(self) -> "Receiver":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        assert self.problems == []

    @property
    def taken(self) -> list[Received]:
        return [one for one in list(self.all) if one.status is not None and one.status < 300]

    @property
    def ids(self) -> list[str]:
        return [one.id for one in self.taken]

    @property
    def numbers(self) -> list[int]:
        return [one.number for one in self.taken]

    def take(self, headers: dict[str, str], body: bytes, path: str) -> Received:
        """Verify a request and keep it."""
        received = Received(headers, body, path)
        try:
            self._verify(received)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")
        with self._lock:
            self.all.append(received)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        return received

    def done(self) -> None:
        with self._lock:
            self.at_once -= 1

    def _verify(self, received: Received) -> None:
        headers = received.headers
        webhook = Webhook(self.secret)
        if self.at_any_time:
            at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
            signed = webhook.sign(headers["webhook-id"], at, received.body.decode())
            assert signed in headers["webhook-signature"].split(" ")
        else:
            webhook.verify(received.body, headers)
        received.event = from_structured_event(HTTPMessage(headers, received.body))
        assert received.event.get_id() == received.id
        assert headers["content-type"].startswith("application/cloudevents+json")
        assert len(received.body) == int(headers["content-length"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    receiver: Receiver

    def handle_error(self, *_: Any) -> None:
        """Say nothing of connections that end."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.receiver.connections += 1

    def do_POST(self) -> None:
        receiver = self.server.receiver
        size = int(self.headers["Content-Length"])
        if len(body := self.rfile.read(size)) < size:
            return  # the sender was killed
        received = receiver.take({name.lower(): value for name, value in self.headers.items()}, body, self.path)
        try:
            answer = receiver.answer(received)
            if callable(answer):
                answer(self)
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            received.status = status
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
        finally:
            receiver.done()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def reset(handler: Any) -> None:
    """Break the connection off."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    os.close(handler.connection.detach())  # closing it would leave it to the files that were made of it


def endless(head: bytes, part: bytes, pause: float) -> Callable[[Any], None]:
    """Send `part` for ever, after `head`."""

    def send(handler: Any) -> None:
        handler.close_connection = True
        handler.wfile.write(head)
        while True:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)

    return send


def main() -> None:
    """Run `receiver.py PORT FILE`: append a line for each request to the file, before it is answered.

    Whatever its time: the sender's clock may be wrong.
    """
    file = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    receiver = Receiver(port=int(sys.argv[1]), at_any_time=True)

    def keep(received: Received) -> int:
        if received.event is None:
            os.write(file, f"- {receiver.problems[-1]}\n".encode())
            return 400
        os.write(file, f"{received.number} {received.id} {received.event.get_subject()}\n".encode())
        return 204

    receiver.answer = keep
    with receiver:
        threading.Event().wait()


if __name__ == "__main__":
    main()
