"""The gunicorn worker: gevent's, with the station's own HTTP reader, deadlines, and bounds on load.

Each connection is a greenlet that reads a request, answers it and reads the next one, so that a slow client costs a
greenlet and no thread. Processing starts when the whole request is in memory; it has a deadline to arrive. Connections,
bytes in memory and requests in progress have their bounds, beyond which the answer is 503 at once (load shedding): the
Nodo sends again.
"""

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socket import SHUT_WR, SOCK_STREAM
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.socket import socket as gevent_socket
from gevent.socket import wait_read
from gevent.ssl import SSLSocket
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.ggevent import GeventWorker

from station import contract, log, soap
from station.app import ARRIVED, CERTIFICATE, HEALTH, LAST
from station.errors import out_of_resource
from station.http.health import is_health_listener
from station.http.request import DRAIN, MAX_HEAD, Incoming, Limits, Refusal, Request, head, variables

_log = log.get(__name__)

MAX_RUNNING = 32  # requests in progress: each holds its document's tree
QUEUE_TIMEOUT_S = 5.0  # a request that waited longer is answered 503: the Nodo gives up after 15 s
MAX_HELD = 64 * 1024 * 1024  # bytes of requests in memory; beyond it those of more than ordinary size get 503
ORDINARY = 64 * 1024  # bytes: a connection that holds no more than this is read on even above MAX_HELD
# Parsing a document of this many bytes may block the event loop for 60 ms: one at a time, and the network is looked at
# in between.
LONG = 16 * 1024
LINGER_S = 2.0  # for the client to read the last answer; and at a stop, for requests that are on their way already
# Accept throttling: delay accept() by this much for each open connection, so that a less loaded worker wins.
# Connections are kept alive: a worker that takes all of a burst works alone from then on, on one core.
ACCEPT_DELAY_S = 0.0003
ACCEPT_DELAY_MAX_S = 0.002
ACCEPT_DELAYS_MAX_S = 0.1  # all delays of a second: a stream of new connections must not add up to more
# Connections that are accepted at once where no other worker could take them, or this one is late: a worker that is
# busy with long documents would otherwise accept one for each of them.
ACCEPT_MAX = 16
SWEEP_S = 0.25  # how often deadlines are looked at
SWEEP_MAX = 16  # connections at a time
TURN_S = 0.005  # how long connections may run before the event loop looks at the network again
ACCEPT_LATE_S = 0.05


def _canned(status: str, content_type: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Type: {content_type}; charset=utf-8",
             f"Content-Length: {len(body)}", *headers]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode() + body


_BUSY = _canned(
    "503 Service Unavailable", "text/xml", soap.fault_document("Too many requests at once: send the request again."),
    f"Retry-After: {soap.RETRY_AFTER_S}",
)  # fmt: skip
_FAILED = _canned(
    "500 Internal Server Error", "text/xml", soap.fault_document("Internal error: send the request again.")
)
_LATE = _canned("408 Request Timeout", "text/plain", b"The request did not arrive in time.\n")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_REFUSALS = {
    Refusal.UNREADABLE: _canned("400 Bad Request", "text/plain", b"Malformed HTTP/1.1 request.\n"),
    Refusal.LINE_TOO_LONG: _canned("414 URI Too Long", "text/plain", b"The request line is too long.\n"),
    Refusal.UNKNOWN_EXPECTATION: _canned("417 Expectation Failed", "text/plain", b"Unsupported Expect header.\n"),
    Refusal.HEAD_TOO_LARGE: _canned(
        "431 Request Header Fields Too Large", "text/plain", b"The request header is too large.\n"
    ),
    Refusal.UNKNOWN_CODING: _canned(
        "501 Not Implemented", "text/plain", b"Unsupported Transfer-Encoding: use chunked or Content-Length.\n"
    ),
}


class _ExpiredError(Exception):
    """A deadline passed, or the connection gives way to another one."""


class Client:
    """A client's connection."""

    def __init__(self, socket: Any, peer: Any, limits: Limits, *, health: bool) -> None:
        self.socket = socket
        # The name that a client gives its end of a Unix socket is its own choice, and no address.
        self.peer: tuple[str, int] | str = peer if isinstance(peer, tuple) else ""
        self.local: tuple[str, int] | str = socket.getsockname()
        self.incoming = Incoming(limits)
        self.greenlet = gevent.getcurrent()
        self.deadline: float | None = None  # of the wait for the network, of `time.monotonic()`
        self.evicted = False  # it gives way to another connection
        self.health = health  # it came by the health listener
        self.certificate: bytes | None = None  # that the client showed, as DER
        self.last = False  # the connection ends with the next answer
        self.served = 0  # requests
        self.held = 0  # bytes in memory

    def __str__(self) -> str:
        return str(self.peer[0]) if self.peer else "unix"

    def end_sending(self) -> None:
        """Tell the client that nothing more comes."""
        if isinstance(self.socket, SSLSocket):
            self.socket.settimeout(0)  # the client's own close_notify is not waited for
            with suppress(OSError, ValueError):
                self.socket.unwrap()
            self.socket.settimeout(None)
        self.socket.shutdown(SHUT_WR)


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """One process; its connections are greenlets."""

    alive: bool

    def patch(self) -> None:
        """Make what blocks in this process cooperative. `tls` makes contexts of gevent's kind itself."""
        monkey.patch_all(ssl=False)
        self._stop = Event()  # SIGTERM may come before the application is loaded
        self.sockets: list[Any] = [
            gevent_socket(one.FAMILY, SOCK_STREAM, fileno=one.sock.detach()) for one in self.sockets
        ]

    def load_wsgi(self) -> None:
        """Load the application, and from it the settings."""
        super().load_wsgi()
        self._station = self.wsgi  # which a hook may wrap
        contract.load_schema()
        cfg, server = self.cfg, self._station.settings.server
        self._read_timeout = server.read_timeout
        self._keepalive, self._scheme = cfg.keepalive, "https" if cfg.is_ssl else "http"
        self._limits = Limits(
            server.max_body,
            cfg.limit_request_line or MAX_HEAD,
            cfg.limit_request_fields or MAX_HEAD,
            cfg.limit_request_field_size or MAX_HEAD,
            refuse_underscores=cfg.header_map == "refuse",
        )
        self._pending_max = server.threads + server.max_waiting
        self._pending = 0  # requests in progress, and those that wait for that
        self._running = BoundedSemaphore(MAX_RUNNING)
        self._long = BoundedSemaphore(1)
        self._clients: set[Client] = set()
        self._waiting: dict[Client, bool] = {}  # for the network, the longest first; whether for a request
        self._held = 0
        self._turned_away = 0
        self._delays_left = ACCEPT_DELAYS_MAX_S

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop gracefully (SIGTERM)."""
        super().handle_exit(sig, frame)
        self._stop.set()

    def run(self) -> None:
        """Serve until told to stop, then answer requests that are in progress or on their way."""
        # When the event loop last looked at the network: a request has waited since then at least.
        self._polled = time.monotonic()
        polled = gevent.get_hub().loop.check()
        polled.start(self._note_poll)
        gevent.spawn(self._sweep)
        accepting = []
        for listener in self.sockets:
            listener.setblocking(False)
            accepting.append(gevent.spawn(self._accept, listener))
        # An accepting greenlet ends for want of memory: then the process does, and gunicorn starts another one.
        while self.alive and self.ppid == os.getppid() and not any(one.dead for one in accepting):
            self.tmp.notify()
            self._report()
            self._stop.wait(1.0)
        self.alive = False
        self._station.health.draining = True
        gevent.killall(accepting)
        # What was accepted just now has no client yet: its greenlet is still to start, and does so before this returns.
        gevent.sleep(0)
        for listener in self.sockets:
            listener.close()
        stop = time.monotonic() + self.cfg.graceful_timeout
        linger = time.monotonic() + LINGER_S
        while self._clients and time.monotonic() < stop:
            if time.monotonic() >= linger:
                for client in [client for client, for_request in self._waiting.items() if for_request]:
                    client.deadline = 0.0
            self.tmp.notify()
            gevent.sleep(0.05)

    def _note_poll(self) -> None:
        self._polled = time.monotonic()

    def _sweep(self) -> None:
        """End waits whose deadlines have passed, for ever. A timer for each wait would cost a tenth of the rate."""
        while True:
            gevent.sleep(SWEEP_S)
            for number, client in enumerate([*self._waiting]):
                gevent.get_hub().loop.run_callback(self._expire, client)
                if number % SWEEP_MAX == SWEEP_MAX - 1:
                    gevent.sleep(0.001)  # the network has its turn: hundreds may be late at the same moment

    def _expire(self, client: Client) -> None:
        """Raise `_ExpiredError` in a connection's greenlet, if its deadline has passed. Called by the event loop."""
        if client.deadline is not None and client.deadline <= time.monotonic():
            client.greenlet.throw(_ExpiredError)

    def _report(self) -> None:
        """Tell the metrics, once a second, how many requests wait and how many were turned away."""
        self._delays_left = ACCEPT_DELAYS_MAX_S
        self._station.metrics.sample(self._pending)
        if self._turned_away:
            self._station.metrics.turned_away(self._turned_away)
            _log.warning("requests_turned_away", count=self._turned_away, pending=self._pending, held=self._held)
            self._turned_away = 0

    # --- connections --------------------------------------------------------------------------------------------------

    def _accept(self, listener: Any) -> None:
        """Accept connections for ever, each a greenlet."""
        health = is_health_listener(self._station.settings, listener.getsockname())
        while True:
            wait_read(listener.fileno())
            connections = ACCEPT_MAX
            if self.cfg.workers > 1 and self._delays_left > 0:
                delay = min(ACCEPT_DELAY_MAX_S, len(self._clients) * ACCEPT_DELAY_S)
                self._delays_left -= delay
                end = time.monotonic() + delay + ACCEPT_LATE_S
                gevent.sleep(delay)
                if time.monotonic() < end:
                    connections = 1
            try:
                for _ in range(connections):
                    client, peer = listener.accept()
                    if len(self._clients) >= self.cfg.worker_connections:
                        self._make_room()
                    gevent.spawn(self._serve, client, peer, health)
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:  # out of file descriptors
                if self._make_room():
                    gevent.sleep(0)
                else:
                    _log.error("connection_not_accepted", reason=error.strerror)
                    gevent.sleep(0.05)  # all are at work

    def _make_room(self) -> bool:
        """Close the oldest connection that waits for its first request, or else the one that waits for longest.

        A client that does not read its answer gives way last: its request is done.
        """
        if not self._waiting:
            return False
        # The first of those that are least: the dictionary has them in the order in which they began to wait.
        client = min(self._waiting, key=lambda client: (not self._waiting[client], client.served > 0))
        del self._waiting[client]  # at once, or the next call would choose it again
        client.evicted = True
        client.deadline = 0.0
        gevent.get_hub().loop.run_callback(self._expire, client)
        return True

    def _serve(self, socket: Any, peer: Any, health: bool) -> None:
        """Serve one connection: read a request, answer it, read the next one."""
        client = None
        try:
            client = Client(socket, peer, self._limits, health=health)
            self._clients.add(client)
            if self._scheme == "https" and not client.health:
                self._handshake(client)
            while not client.last and (request := self._read(client)):
                self._send(client, self._respond(client, request), self._read_timeout)
                client.served += 1
                if client.evicted:  # while it was sent the last bytes
                    return
                # A client that always has a next request ready must not keep the others waiting.
                if time.monotonic() - self._polled > TURN_S:
                    gevent.sleep(0)
            if client.last:
                self._linger(client)
        except (OSError, _ExpiredError):
            pass  # the client is gone, or gives way
        except Exception as error:  # of memory, or a defect: the other connections go on
            with suppress(MemoryError):
                _log.error("unexpected_error", exc_info=error)
        finally:
            if client is not None:
                self._clients.discard(client)
                self._hold(client, 0)
                client.incoming.close()
            socket = client.socket if client is not None else socket
            socket.close()

    @contextmanager
    def _until(self, client: Client, seconds: float, *, for_request: bool = False) -> Iterator[None]:
        """Wait for the network until a deadline. Meanwhile the connection may give way to others."""
        self._waiting[client] = for_request
        client.deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            client.deadline = None
            self._waiting.pop(client, None)

    def _handshake(self, client: Client) -> None:
        """Do the TLS handshake. Raises `OSError` where it fails, and `_ExpiredError`."""
        context = gunicorn_sock.ssl_context(self.cfg)
        client.socket = context.wrap_socket(client.socket, server_side=True, do_handshake_on_connect=False)
        try:
            with self._until(client, self._read_timeout, for_request=True):  # which may come after it
                client.socket.do_handshake()
            client.certificate = client.socket.getpeercert(True)
        except ssl.SSLError as error:
            _log.info("tls_handshake_failed", peer=str(client), reason=error.reason)
            self._linger(client)
            raise

    def _read(self, client: Client) -> Request | None:
        """Return the next request, or `None` where the client sends no more, or not in time."""
        incoming = client.incoming
        if request := incoming.take():
            return request
        begun = incoming.begun
        idle_s = self._read_timeout if begun or not client.served else self._keepalive if self.alive else LINGER_S
        try:
            with self._until(client, idle_s, for_request=True):
                while (request := incoming.take()) is None:
                    data = client.socket.recv(65536)
                    if not data or client.evicted:
                        return None
                    if not begun:  # with its first byte, whatever that is
                        begun = True
                        client.deadline = time.monotonic() + self._read_timeout
                    incoming.feed(data)
                    if incoming.expects_continue:
                        incoming.expects_continue = False
                        client.socket.sendall(_CONTINUE)
                    self._hold(client, len(incoming))
                    if self._held > MAX_HELD and client.held > ORDINARY and not incoming.ready:
                        break
        except _ExpiredError:
            if incoming.begun and not client.evicted:
                _log.info("request_late", peer=str(client), read=client.held)
                self._reply_and_close(client, _LATE)
            return None
        if request is None:
            self._reply_and_close(client, self._busy(client))
        return request

    def _send(self, client: Client, answer: bytes, seconds: float) -> None:
        with self._until(client, seconds):
            if (sent := client.socket.send(answer)) < len(answer):
                client.socket.sendall(answer[sent:])

    def _reply_and_close(self, client: Client, answer: bytes) -> None:
        client.last = True
        self._hold(client, 0)
        client.incoming.close()
        self._send(client, answer, LINGER_S)

    def _linger(self, client: Client) -> None:
        """End sending, and read what still comes: the client must read the answer before a reset (RFC 9112, 9.6)."""
        with suppress(OSError, ValueError, _ExpiredError), self._until(client, LINGER_S):
            client.end_sending()
            left = DRAIN
            while left > 0 and (data := client.socket.recv(65536)):
                left -= len(data)

    def _hold(self, client: Client, held: int) -> None:
        self._held += held - client.held
        client.held = held

    def _busy(self, client: Client) -> bytes:
        self._turned_away += 1
        client.last = True
        return _BUSY

    # --- requests -----------------------------------------------------------------------------------------------------

    def _respond(self, client: Client, request: Request) -> bytes:
        """Return the answer. 503 where too many requests are pending, or it waited for too long."""
        arrived = self._polled
        client.last = request.last
        if client.health:
            return self._run(client, request, arrived)
        if self._pending >= self._pending_max:
            return self._busy(client)
        self._pending += 1
        try:
            end = arrived + QUEUE_TIMEOUT_S
            long = request.size > LONG
            if long and not self._long.acquire(timeout=max(0.0, end - time.monotonic())):
                return self._busy(client)
            try:
                running = self._running.acquire(timeout=max(0.0, end - time.monotonic()))
            finally:
                if long:
                    self._release_long()
            if not running:
                return self._busy(client)
            try:
                return self._run(client, request, arrived)
            finally:
                self._running.release()
        finally:
            self._pending -= 1
            self._hold(client, client.held - request.size)

    def _release_long(self) -> None:
        """Let the next long document begin when this one is parsed and the other connections had their turn."""
        try:
            gevent.spawn_later(0.001, self._long.release)
        except MemoryError:
            self._long.release()
            raise

    def _run(self, client: Client, request: Request, arrived: float) -> bytes:
        """Let the application answer."""
        if request.refusal is not None:
            path = request.target.partition(b"?")[0][:500].decode("latin-1")  # a query is not ours to log
            _log.warning("request_unreadable", peer=str(client), reason=request.refusal.value, path=path)
            return _REFUSALS[request.refusal]
        environ = variables(request, client, self._scheme)
        environ |= {ARRIVED: arrived, HEALTH: client.health, CERTIFICATE: client.certificate}
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
            self._stop.set()
        was_alive = self.alive
        if not was_alive:
            self._station.health.draining = True
        try:
            started: list[Any] = []
            body = b"".join(self.wsgi(environ, lambda *line: started.append(line)))
        except Exception as error:
            with suppress(MemoryError):
                _log.error("unexpected_error", exc_info=error)
            client.last = True
            return _BUSY if out_of_resource(error) else _FAILED
        # Keep a health connection open if the stop came during its request: no new connection is accepted, and its next
        # request must be answered "stopping".
        alive = was_alive if client.health else self.alive
        client.last = client.last or LAST in environ or not alive or not self._keepalive
        status, fields = started[-1][:2]
        return head(status, fields, last=client.last) + (b"" if request.method == "HEAD" else body)
