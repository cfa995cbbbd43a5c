"""The gunicorn worker: one loop that talks to all clients and computes all requests, and never waits for any.

gunicorn's own threads read from the network: a client that sends a byte now and then keeps a thread for as long as it
likes, and as many clients as there are threads keep everybody out. Here a request is begun when all of it is in memory,
and its answer is written into memory; the loop does the rest without ever blocking. How a request waits is for
`station.loop`. Each request has a time in which it must have arrived, connections and bytes in memory have their
limits, and where more requests wait than are configured the answer is 503 at once.

What the bytes of a request mean is for `station.http.request`; gunicorn's arbiter runs the workers.
"""

import os
import selectors
import ssl
import time
from collections import deque
from contextlib import suppress
from functools import partial

from gunicorn import sock as gunicorn_sock
from gunicorn.workers import base

from station import contract, log, soap
from station.app import ARRIVED, LAST
from station.errors import out_of_resource
from station.http import gateway
from station.http.connection import Connection, State
from station.http.health import is_health_door
from station.http.request import DRAIN, MAX_HEAD, Incoming, Limits, Refusal, Request
from station.loop import Loop, Task, elsewhere
from station.threads import Threads

_log = log.get(__name__)

# Who has connections already waits so long for each of them, at most so long, before taking another: connections are
# kept alive, and a worker that takes all of a burst works alone from then on, on one core.
_COURTESY_S = 0.0003
_MOST_COURTESY_S = 0.002
# And no more than so much of each second: whoever opens connections without end would keep the others waiting for
# seconds to be accepted.
_COURTESY_A_SECOND_S = 0.2
# Whether the process lives is not to wait for what a slow database says of itself.
_HEALTH_THREADS = 3
_FAREWELL_S = 2.0
_STOP_LINGER_S = 2.0  # for requests that clients are already sending when the worker is told to stop
# What waited longer is answered 503 instead of late: the Nodo waits 15 s, and a database that is slow takes its time.
_MAX_WAIT_S = 5.0
_MAX_HELD = 64 * 1024 * 1024  # bytes of requests in memory; beyond it those of more than ordinary size are turned away
_ORDINARY = 64 * 1024
# Requests begun and not answered: what has begun holds its document's tree.
_MOST_AT_WORK = 32
# So many are begun before the loop looks again at what waits no more. What is alike and done in a row costs less: with
# eight, which then go to PostgreSQL together, 1.13 times the rate of two and four.
_MOST_AT_ONCE = 8


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


class Worker(base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """One process: a loop, `threads` threads for what requests wait for, and some for questions about health."""

    alive: bool

    def init_process(self) -> None:
        """Runs the worker until it is told to stop."""
        # gunicorn looks each of its settings up by a function, each time.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self._poller = selectors.DefaultSelector()
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._ready: deque[tuple[Connection, Request, float]] = deque()  # requests to be begun, and when they came
        self._at_work = 0  # requests that are begun
        self._health_ready: deque[tuple[Connection, Request, float]] = deque()
        self._held = 0
        self._turned_away = 0
        self._checked = 0.0
        self._courteous_until: float | None = None  # while other workers may take what waits to be accepted
        self._courtesy_left = _COURTESY_A_SECOND_S
        super().init_process()

    def load_wsgi(self) -> None:
        """The application, and from it the settings."""
        super().load_wsgi()
        self.settings = self.wsgi.settings
        self._metrics = self.wsgi.metrics
        self._limits = Limits(
            self.settings.server.max_body,
            self.cfg.limit_request_line or MAX_HEAD,
            self.cfg.limit_request_fields or MAX_HEAD,
            self.cfg.limit_request_field_size or MAX_HEAD,
            refuse_underscores=self.cfg.header_map == "refuse",
        )
        # Each of what waits has a connection to the database, and a question about health has one.
        threads = min(self.cfg.threads, max(1, self.settings.connections - 1))
        contract.load_schema()
        self._loop = Loop(self._poller, Threads(threads, "request", contract.load_schema), self._wake)
        self._health_loop = Loop(self._poller, Threads(_HEALTH_THREADS, "health"), self._wake)

    def run(self) -> None:
        """The loop."""
        self._poller.register(self.PIPE[0], selectors.EVENT_READ)
        for listener in self.sockets:
            listener.setblocking(False)
        self._listen(True)
        while self.alive and self.ppid == os.getppid():
            self._turn()
        self.alive = False
        self.wsgi.health.draining = True
        if self._courteous_until is None:
            self._listen(False)
        self._courteous_until = None
        for listener in self.sockets:
            listener.close()
        stop = time.monotonic() + self.cfg.graceful_timeout
        linger = time.monotonic() + _STOP_LINGER_S
        while self._connections and time.monotonic() < stop:
            for connection in self._connections:
                if connection.state is State.REQUEST:
                    connection.deadline = min(connection.deadline, linger)
            self._turn(0.1)
        for connection in list(self._connections):
            self._close(connection)

    def _turn(self, timeout: float = 1.0) -> None:
        for key, events in self._poller.select(self._patience(timeout)):
            if isinstance(key.data, Connection):
                if not key.data.closed:
                    self._guarded(key.data)
            elif isinstance(key.data, Task):
                key.data.switch(events)
            elif key.data is not None:
                self._somebody_knocks()
            else:
                self._drain_pipe()
        while self._health_ready:
            self._health_loop.begin(self._serve, *self._health_ready.popleft())
        for _ in range(_MOST_AT_ONCE):
            if self._may_begin():
                self._at_work += 1
                self._loop.begin(self._serve, *self._ready.popleft())
        now = time.monotonic()
        if self._courteous_until is not None and now >= self._courteous_until:
            self._courteous_until = None
            self._listen(True)
            self._accept()
        if now - self._checked >= min(1.0, timeout):
            self._checked = now
            self.notify()
            self._courtesy_left = _COURTESY_A_SECOND_S
            self._expire(now)

    def _patience(self, timeout: float) -> float:
        """For how long there is nothing to do but what the poller says."""
        waits = [timeout]
        for loop in (self._loop, self._health_loop):
            if (due := loop.turn(not self._may_begin())) is not None:
                waits.append(due)
        if self._may_begin() or self._health_ready:
            return 0.0
        if self._courteous_until is not None:
            waits.append(max(0.0, self._courteous_until - time.monotonic()))
        return min(waits)

    def _may_begin(self) -> bool:
        return bool(self._ready) and self._at_work < _MOST_AT_WORK

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full of wake-ups
            os.write(self.PIPE[1], b".")

    def _drain_pipe(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    # --- clients come and go ------------------------------------------------------------------------------------------

    def _listen(self, listen: bool) -> None:
        for listener in self.sockets:
            if listen:
                self._poller.register(listener, selectors.EVENT_READ, listener)
            else:
                self._poller.unregister(listener)

    def _somebody_knocks(self) -> None:
        if self.cfg.workers == 1 or not self._connections or self._courtesy_left <= 0:
            self._accept()
        elif self._courteous_until is None:
            wait = min(_MOST_COURTESY_S, len(self._connections) * _COURTESY_S)
            self._courtesy_left -= wait
            self._courteous_until = time.monotonic() + wait
            self._listen(False)

    def _accept(self) -> None:
        """Takes one connection from each door, if another worker has not been faster."""
        for listener in self.sockets:
            try:
                client, peer = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError as error:  # out of file descriptors
                if not self._make_room():
                    _log.error("connection_not_accepted", reason=error.strerror)
                    time.sleep(0.05)  # every one of them is at work
                return
            if len(self._connections) >= self.cfg.worker_connections:
                self._make_room()
            try:
                health = is_health_door(self.settings, client.getsockname())
                context = gunicorn_sock.ssl_context(self.cfg) if self.cfg.is_ssl and not health else None
                # What a client calls its end of a Unix socket is its own choice, and no address.
                peer = peer if isinstance(peer, tuple) else ""
                connection = Connection(client, peer, Incoming(self._limits), context)
            except OSError:  # it is gone already
                client.close()
                continue
            connection.health = health
            connection.deadline = time.monotonic() + self.settings.server.read_timeout
            self._connections[connection] = None
            self._watch(connection, selectors.EVENT_READ)

    def _make_room(self) -> bool:
        """Ends the oldest connection that has not sent a request, or else the oldest one between two requests."""
        idle = [one for one in self._connections if one.state is not State.ANSWER]
        for connection in idle:
            if not connection.served or connection.state is State.FAREWELL:
                self._close(connection)
                return True
        if idle:
            self._close(idle[0])
        return bool(idle)

    def _watch(self, connection: Connection, events: int) -> None:
        if events == connection.watched:
            return
        if not events:
            self._poller.unregister(connection.socket)
        elif connection.watched:
            self._poller.modify(connection.socket, events, connection)
        else:
            self._poller.register(connection.socket, events, connection)
        connection.watched = events

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._connections.pop(connection, None)
        self._held -= connection.held
        connection.held = 0
        connection.close()

    def _expire(self, now: float) -> None:
        for connection in [one for one in self._connections if one.state is not State.ANSWER and one.deadline < now]:
            if connection.state is State.REQUEST and connection.incoming.begun:
                _log.info("request_late", peer=_address(connection), read=connection.held)
                self._say_last(connection, _LATE)
            else:
                self._close(connection)
        self._metrics.sample(self._pending)
        if self._turned_away:
            self._metrics.turned_away(self._turned_away)
            _log.warning("requests_turned_away", count=self._turned_away, pending=self._pending, held=self._held)
            self._turned_away = 0

    # --- a connection goes on -----------------------------------------------------------------------------------------

    def _guarded(self, connection: Connection) -> None:
        try:
            self._go_on(connection)
        except ssl.SSLError as error:
            if connection.state is State.HANDSHAKE:
                _log.info("tls_handshake_failed", peer=_address(connection), reason=error.reason)
                self._end(connection)
                self._watch(connection, selectors.EVENT_READ)
            else:
                self._close(connection)
        except OSError:
            self._close(connection)
        except Exception as error:  # of memory, or one of ours: the other connections go on
            with suppress(MemoryError):
                _log.error("unexpected_error", exc_info=error)
            self._close(connection)

    def _go_on(self, connection: Connection) -> None:
        if connection.state is State.HANDSHAKE:
            if not connection.shake_hands():
                self._watch(connection, connection.wants)
                return
            connection.state = State.REQUEST
        if connection.state is State.SENDING and (not self._sent(connection) or self._waits(connection)):
            return
        if connection.state is State.REQUEST:
            self._receive(connection)
        elif connection.state is State.FAREWELL:
            self._see_off(connection)
        elif connection.state is State.ANSWER:  # something came before the answer: it is looked at afterwards
            self._watch(connection, 0)

    def _sent(self, connection: Connection) -> bool:
        """Whether the answer is out."""
        if not connection.flush():
            self._watch(connection, connection.wants)
            return False
        connection.served += 1
        if connection.last:
            self._end(connection)
        else:
            connection.state = State.REQUEST
            idle = self.cfg.keepalive if self.alive else _STOP_LINGER_S
            connection.deadline = time.monotonic() + idle
        return True

    def _waits(self, connection: Connection) -> bool:
        """Whether it is watched for its next request already, as nearly all are: it need not be tried."""
        return (
            connection.state is State.REQUEST
            and connection.watched == selectors.EVENT_READ
            and not connection.incoming.ready
            and not connection.has_more()
        )

    def _end(self, connection: Connection) -> None:
        connection.end_sending()
        connection.state = State.FAREWELL
        connection.deadline = time.monotonic() + _FAREWELL_S

    def _receive(self, connection: Connection) -> None:
        incoming = connection.incoming
        request = self._take(connection)
        while request is None:
            begun = incoming.begun
            data = connection.read()
            if data is None:
                self._watch(connection, connection.wants)
                return
            if not data:  # whoever sends no more before the request is whole gets no answer
                self._close(connection)
                return
            incoming.feed(data)
            if not begun:
                connection.deadline = time.monotonic() + self.settings.server.read_timeout
            request = self._take(connection)
            if request is None and self._too_much(connection):
                self._say_last(connection, self._busy())
                return
            if request is None and not connection.has_more():
                self._watch(connection, selectors.EVENT_READ)
                return
        # Nearly always nothing comes before the answer, and then it is watched for the next request already.
        if connection.watched != selectors.EVENT_READ:
            self._watch(connection, 0)
        if not connection.health and self._pending >= self.cfg.threads + self.settings.server.max_waiting:
            self._say_last(connection, self._busy())
            return
        connection.state = State.ANSWER
        connection.last = request.last
        (self._health_ready if connection.health else self._ready).append((connection, request, time.monotonic()))

    @property
    def _pending(self) -> int:
        """Requests that are worked on or wait for that."""
        return len(self._ready) + self._at_work

    def _take(self, connection: Connection) -> Request | None:
        incoming = connection.incoming
        request = incoming.take()
        if request is None and incoming.expects_continue:
            incoming.expects_continue = False
            connection.out += _CONTINUE
            connection.flush()
        held = len(incoming) + (request.size if request else 0)
        self._held += held - connection.held
        connection.held = held
        return request

    def _too_much(self, connection: Connection) -> bool:
        return self._held > _MAX_HELD and connection.held > _ORDINARY

    def _busy(self) -> bytes:
        self._turned_away += 1
        return _BUSY

    def _say_last(self, connection: Connection, answer: bytes) -> None:
        """Answers without a thread; the connection ends with it."""
        self._held -= connection.held
        connection.held = 0
        connection.incoming.close()
        connection.out += answer
        connection.last = True
        connection.state = State.SENDING
        connection.deadline = time.monotonic() + _FAREWELL_S
        self._guarded(connection)

    def _see_off(self, connection: Connection) -> None:
        while data := connection.read():
            connection.seen_off += len(data)
            if connection.seen_off > DRAIN:
                break
        else:
            if data is None:
                self._watch(connection, connection.wants)
                return
        self._close(connection)

    # --- in a task of its own -----------------------------------------------------------------------------------------

    def _serve(self, connection: Connection, request: Request, arrived: float) -> None:
        try:
            if time.monotonic() - arrived > _MAX_WAIT_S and not connection.health:
                connection.last = True
                connection.out += self._busy()
            elif request.size > _ORDINARY:  # a long one must not keep the others waiting
                elsewhere(partial(self._answer, connection, request, arrived))
            else:
                self._answer(connection, request, arrived)
        except Exception as error:
            with suppress(MemoryError):
                _log.error("unexpected_error", exc_info=error)
            connection.last = True
            if not connection.out:
                connection.out += _BUSY if out_of_resource(error) else _FAILED
        self._at_work -= not connection.health
        held = len(connection.incoming)
        self._held += held - connection.held
        connection.held = held
        connection.state = State.SENDING
        connection.deadline = time.monotonic() + self.settings.server.read_timeout
        self._guarded(connection)

    def _answer(self, connection: Connection, request: Request, arrived: float) -> None:
        if request.refusal is not None:
            path = request.target.partition(b"?")[0][:500].decode("latin-1")  # a query is not ours to log
            _log.warning("request_unreadable", peer=_address(connection), reason=request.refusal.value, path=path)
            connection.out += _REFUSALS[request.refusal]
            return
        environ = gateway.variables(request, connection, "https" if self.cfg.is_ssl else "http")
        environ[ARRIVED] = arrived
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        was_alive = self.alive
        if not was_alive:
            self.wsgi.health.draining = True
        answer = gateway.Answer()
        body = b"".join(self.wsgi(environ, answer.start))
        # Whoever was told "ready" while the stop came is told otherwise on the same connection: no new one is taken.
        alive = was_alive if connection.health else self.alive
        connection.last = connection.last or LAST in environ or not alive or not self.cfg.keepalive
        connection.out += answer.head(last=connection.last)
        if request.method != "HEAD":
            connection.out += body


def _address(connection: Connection) -> str:
    return str(connection.peer[0]) if connection.peer else "unix"
