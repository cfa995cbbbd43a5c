"""The gunicorn worker of feed and console: gevent's, since only there each connection can have its deadlines.

gunicorn's threads were as fast (115 us of a core for an item, 300 waiting readers 1 % of a core, 75 MiB a worker with
either), but a client that stops in the middle of a request would keep its thread for ever. Added to gevent's worker:
slow clients have deadlines, what is no request is answered as the application answers errors, and a stop waits for no
reader. The application has `stop()`, which is called when the worker begins to stop, `problem()`, and `headers_once`:
names of headers, in capitals, that a request may have once only.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from gevent import monkey
from gevent.socket import socket as gevent_socket
from gevent.ssl import SSLSocket
from gunicorn.http import errors
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from station import log

_log = log.get(__name__)

_SOCKET_TIMEOUT_S = 60.0  # for a read, and for the sending of a whole answer: 4 MiB at 70 KB a second
_HANDSHAKE_TIMEOUT_S = 10.0
_LINGER_S = 2.0  # for the client to read what is wrong with its request
_PROBLEMS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (errors.LimitRequestLine, 414, "uri_too_long", "The address is too long."),
    (errors.LimitRequestHeaders, 431, "headers_too_large", "The request's header is too large."),
    (errors.UnsupportedTransferCoding, 501, "unknown_coding", "This Transfer-Encoding is not supported."),
    (errors.ExpectationFailed, 417, "unknown_expectation", "This Expect header is not supported."),
)


class ServiceWorker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """One process; its connections are greenlets."""

    def patch(self) -> None:
        """Make what blocks in this process cooperative. `tls` makes contexts of gevent's kind itself."""
        monkey.patch_all(ssl=False)
        socket.setdefaulttimeout(_SOCKET_TIMEOUT_S)
        self._idle: set[Any] = set()  # greenlets of connections without a whole request
        self.sockets: list[Any] = [
            gevent_socket(one.FAMILY, socket.SOCK_STREAM, fileno=one.sock.detach()) for one in self.sockets
        ]

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection, with the default timeout, which gunicorn would take away."""
        if isinstance(client, SSLSocket):
            try:
                with gevent.Timeout(_HANDSHAKE_TIMEOUT_S, TimeoutError):
                    client.do_handshake()
            except OSError:  # what speaks no TLS, or does not trust us
                return
        AsyncWorker.handle(self, listener, client, addr)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve a request. A header that is given twice would reach the application as one."""
        names = [name for name, _ in req.headers if name in self.wsgi.headers_once]
        if len(names) > len(set(names)):
            raise errors.InvalidHeader(names[0])
        return super().handle_request(listener_name, req, sock, addr)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bound the time for the next request to arrive, whole."""
        greenlet = gevent.getcurrent()
        self._idle.add(greenlet)
        try:
            with gevent.Timeout(self.cfg.keepalive, False):
                yield
        finally:
            self._idle.discard(greenlet)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop (SIGTERM): answer readers that wait, and close connections that ask for nothing."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._release)

    def _release(self) -> None:
        self.wsgi.stop()
        while True:
            gevent.killall(list(self._idle), block=False)
            gevent.sleep(0.05)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what is no request, or failed outside the application."""
        if isinstance(exc, gevent.GreenletExit | ssl.SSLError | TimeoutError):
            return
        found = next(
            ((status, code, detail) for kind, *(status, code, detail) in _PROBLEMS if isinstance(exc, kind)), None
        )
        if found is None and isinstance(exc, errors.ParseException):
            found = (400, "malformed_request", "This is no HTTP/1.1 request.")
        if found is None:
            _log.error("unexpected_error", exc_info=exc)
            found = (500, "internal_error", "This is an error of the station: its log has more.")
        else:
            _log.info("request_malformed", status=found[0], code=found[1])
        answer = self.wsgi.problem(*found)
        body = answer.body if isinstance(answer.body, bytes) else answer.body.encode()
        head = [f"HTTP/1.1 {answer.status}", f"Content-Type: {answer.content_type}", f"Content-Length: {len(body)}",
                "Cache-Control: no-store", "X-Content-Type-Options: nosniff", "Connection: close", "", ""]  # fmt: skip
        with suppress(OSError), gevent.Timeout(_LINGER_S, False):
            client.sendall("\r\n".join(head).encode() + body)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65_536):  # with bytes unread, closing would take the answer back
                pass
