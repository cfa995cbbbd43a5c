"""The WSGI application of the feed: who asks, for what, and the answer. Plain WSGI, as the push server's: it has five
routes, and every error has to be a problem of RFC 9457, so that a framework would add more than it saves.

    GET /api/v1/receipts?after=N&limit=1000&wait=25      what is chosen for the reader behind number N
    GET /api/v1/receipts/{id_pa}/{receipt_id}            one receipt; with .xml behind it the exact document,
                                                         with .pdf its printed copy
    GET /api/v1/openapi.json  /live  /ready              for all
"""

import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qsl

from station import config, log, store
from station.api.problem import ProblemError, problem
from station.api.receipts import document, page, printed_copy, receipt
from station.api.watcher import TooManyWaitingError, Watcher
from station.errors import SchemaBehindError, StoreError, StoreRejectedError, out_of_resource
from station.http.answer import Answer
from station.text import printable

_log = log.get(__name__)

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

JSON = "application/json"
LIMIT_MAX = 1000
WAIT_MAX_S = 60
SENDING_MAX = 64 * 1024 * 1024  # bytes of answers that are being sent: readers may be slow
RUNNING_OF_READER = 16  # requests of one reader in a process, those that wait too
_READY_FOR_S = 1.0  # how long an answer of the database to /ready is used again
_SLOT_TIMEOUT_S = 10.0  # a request that gets no connection to the database within this time is answered 503
_LOOK_S = 1.0  # how long one request looks through numbers of which none is the reader's
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_EC = re.compile(r"[0-9]{11}", re.ASCII)
_CHARSET = re.compile(r"[\w.:-]{1,40}", re.ASCII)
_HEADERS = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))
_RETRY_AFTER = ("Retry-After", "5")


class _Body(list[bytes]):
    """The body of an answer, and what is given back once it is sent."""

    held: ExitStack

    def close(self) -> None:
        """Give it back: the server calls this whatever becomes of the connection."""
        self.held.close()


class FeedApp:
    """The WSGI application of one process."""

    headers_once: frozenset[str] = frozenset()

    def __init__(self, settings: config.Settings, engine: store.Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._readers = settings.readers
        self.watcher = Watcher(engine, max_waiting=settings.api.max_waiting)
        self._openapi = files("station.api").joinpath("openapi.json").read_bytes()
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(settings.api.threads)
        self._sending = 0
        self._of_reader: Counter[str] = Counter()
        self._ready_at = -_READY_FOR_S
        self._ready: Answer | None = None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request. Whatever happens, the answer holds no stack trace, SQL or path."""
        begun = time.monotonic()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)
        notes: dict[str, Any] = {}
        held = ExitStack()  # until the answer is sent, or the reader is gone
        try:
            answer = self._answer(environ, notes, held)
        except Exception as error:
            found = error if isinstance(error, ProblemError) else _failure(error, request_id)
            answer = found.answer
            notes["code"] = found.code
        line = _log.debug if notes.get("route") == "health" else _log.info
        line(
            "feed_answered",
            request_id=request_id,
            method=environ["REQUEST_METHOD"],
            status=int(answer.status[:3]),
            duration_ms=round((time.monotonic() - begun) * 1000, 1),
            **notes,
        )
        body = answer.body if isinstance(answer.body, bytes) else answer.body.encode()
        length = () if answer.status.startswith("304") else (("Content-Length", str(len(body))),)
        fields = [("Content-Type", answer.content_type), *length, *answer.fields, *_HEADERS]
        start_response(answer.status, [*fields, ("X-Request-Id", request_id)])
        sent = _Body([] if environ["REQUEST_METHOD"] == "HEAD" else [body])
        sent.held = held
        with self._lock:
            self._sending += len(body)
        held.callback(self._sent, len(body))
        return sent

    def stop(self) -> None:
        """Answer readers that wait: the process is about to end."""
        self.watcher.stop()

    def problem(self, status: int, code: str, detail: str) -> Answer:
        """Return the answer to what is no request."""
        return problem(status, code, detail)

    def _sent(self, size: int) -> None:
        with self._lock:
            self._sending -= size

    def _answer(self, environ: Environ, notes: dict[str, Any], held: ExitStack) -> Answer:
        """Return the answer to a request. Raise `ProblemError`, `StoreError`."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            allow = ("Allow", "GET, HEAD")
            raise ProblemError(405, "method_not_allowed", "The feed is read only: use GET or HEAD.", allow)
        if environ.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ:
            raise ProblemError(400, "body_not_allowed", "A GET request has no body here.")
        try:
            # WSGI has the bytes of a path as Latin-1. No identifier holds a NUL, and no database takes one.
            parts = environ.get("PATH_INFO", "").encode("latin-1").decode().split("/")
        except UnicodeError:
            parts = []
        match parts:
            case ["", "live" | "ready"]:
                notes["route"] = "health"
                _parameters(environ)
                return Answer("200 OK", "alive\n") if parts[1] == "live" else self._readiness()
            case ["", "api", "v1", "openapi.json"]:
                notes["route"] = "openapi"
                _parameters(environ)
                return _with_etag(environ, self._openapi, JSON)
            case ["", "api", "v1", "receipts"]:
                notes["route"] = "receipts"
                return self._receipts(held.enter_context(self._turn(environ, notes)), environ, notes)
            case ["", "api", "v1", "receipts", id_pa, *rest] if rest:
                notes["route"] = "receipt"
                reader = held.enter_context(self._turn(environ, notes))
                with self._slot():
                    return self._receipt(reader, id_pa, "/".join(rest), environ, notes)
        raise ProblemError(404, "not_found", "There is nothing here: see /api/v1/openapi.json.")

    # --- who asks -----------------------------------------------------------------------------------------------------

    def _reader(self, environ: Environ) -> config.Feed:
        """Return the reader whose key came with the request. Raise `ProblemError`."""
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        challenge = 'Bearer realm="station"'
        if scheme.lower() != "bearer" or not key.strip():
            detail = "Send your key in the header Authorization: Bearer KEY."
            raise ProblemError(401, "key_missing", detail, ("WWW-Authenticate", challenge))
        given = f"sha256:{sha256(key.strip().encode('latin-1', 'replace')).hexdigest()}"
        found = None
        for reader in self._readers:  # all of them: the time tells nothing
            for known in reader.keys:
                if secrets.compare_digest(given, known):
                    found = reader
        if found is None:
            invalid = f'{challenge}, error="invalid_token"'
            raise ProblemError(401, "key_unknown", "This key is not a reader's.", ("WWW-Authenticate", invalid))
        return found

    @contextmanager
    def _turn(self, environ: Environ, notes: dict[str, Any]) -> Iterator[config.Feed]:
        """Give the reader that asks, and count its requests. Raise `ProblemError`."""
        reader = self._reader(environ)
        notes["reader"] = reader.name
        with self._lock:
            if self._of_reader[reader.name] >= RUNNING_OF_READER:
                detail = f"At most {RUNNING_OF_READER} requests of a reader at the same time."
                raise ProblemError(429, "too_many_requests", detail, ("Retry-After", "1"))
            self._of_reader[reader.name] += 1
        try:
            yield reader
        finally:
            with self._lock:
                self._of_reader[reader.name] -= 1

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of the slots for the database. Raise `ProblemError` where none is free in time."""
        if self._sending >= SENDING_MAX or not self._slots.acquire(timeout=_SLOT_TIMEOUT_S):
            raise ProblemError(503, "overloaded", "Too many requests at once: try again.", _RETRY_AFTER)
        try:
            yield
        finally:
            self._slots.release()

    # --- what is asked for --------------------------------------------------------------------------------------------

    def _receipts(self, reader: config.Feed, environ: Environ, notes: dict[str, Any]) -> Answer:
        given = _parameters(environ, "after", "limit", "wait")
        after = _number(given, "after", 0, 0, 10**18)
        limit = _number(given, "limit", LIMIT_MAX, 1, LIMIT_MAX)
        wait = _number(given, "wait", 0, 0, WAIT_MAX_S)
        begun = time.monotonic()
        position, waited = after, 0.0
        while True:
            with self._slot():
                found = page(self._engine, reader, after=position, limit=limit)
            position = found.next
            if found.items or (found.more and time.monotonic() - begun - waited > _LOOK_S):
                break
            if found.more:
                continue
            left = wait - (time.monotonic() - begun)
            if left <= 0:
                break
            slept = time.monotonic()
            try:
                reached = self.watcher.wait(reader.ecs, position, left)
            except TooManyWaitingError:
                detail = "Too many readers wait: ask again, or with wait=0."
                raise ProblemError(503, "too_many_waiting", detail, _RETRY_AFTER) from None
            waited += time.monotonic() - slept
            if reached is not None:
                found = found._replace(next=reached)
                break
        self.watcher.note(reader.name, after)
        notes.update(after=after, next=found.next, items=len(found.items), waited_ms=round(waited * 1000, 1))
        return Answer("200 OK", found.body(), JSON)

    def _receipt(
        self, reader: config.Feed, id_pa: str, receipt_id: str, environ: Environ, notes: dict[str, Any]
    ) -> Answer:
        notes["id_pa"] = id_pa if _EC.fullmatch(id_pa) else None
        if receipt_id.endswith(".pdf"):
            _parameters(environ)
            copy = printed_copy(self._engine, self._settings, reader, id_pa, receipt_id.removesuffix(".pdf"))
            return _with_etag(environ, copy, "application/pdf")
        if not receipt_id.endswith(".xml"):
            _parameters(environ)
            body = receipt(self._engine, reader, id_pa, receipt_id)
            return _with_etag(environ, body, JSON)
        given = _parameters(environ, "document")
        number = _number(given, "document", 0, 1, 10**4)
        raw, charset = document(self._engine, reader, id_pa, receipt_id.removesuffix(".xml"), number or None)
        known = charset is not None and _CHARSET.fullmatch(charset)
        return _with_etag(environ, raw, f"application/xml; charset={charset}" if known else "application/xml")

    def _readiness(self) -> Answer:
        if self._ready is None or time.monotonic() - self._ready_at >= _READY_FOR_S:
            try:
                store.check_schema(self._engine)
                self._ready = Answer("200 OK", "ready\n")
            except (SchemaBehindError, StoreError) as error:
                reason = error.reason if isinstance(error, StoreError) else "its schema does not fit"
                detail = f"The database cannot be used ({reason})."
                self._ready = problem(503, "database_unavailable", detail, _RETRY_AFTER)
            self._ready_at = time.monotonic()
        if self.watcher.stopping:
            return problem(503, "stopping", "This process is about to end.", _RETRY_AFTER)
        return self._ready


def _failure(error: Exception, request_id: str) -> ProblemError:
    """Return the problem for an error that is not the reader's, and log it."""
    if isinstance(error, StoreError) and not isinstance(error, StoreRejectedError):
        _log.error("feed_database_unavailable", request_id=request_id, reason=error.reason)
        return ProblemError(503, "database_unavailable", "The database cannot be read now: try again.", _RETRY_AFTER)
    _log.error("unexpected_error", request_id=request_id, exc_info=error)
    if out_of_resource(error):
        return ProblemError(503, "overloaded", "The machine is short of something: try again.", _RETRY_AFTER)
    return ProblemError(500, "internal_error", "This is an error of the station: its log has more.", _RETRY_AFTER)


def _parameters(environ: Environ, *names: str) -> dict[str, str]:
    """Return the query parameters by name. Raise `ProblemError` for one that is unknown, or given twice."""
    try:
        given = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise ProblemError(400, "invalid_parameter", "There are too many query parameters.") from None
    found = Counter(name for name, _ in given)
    if unknown := [name for name in found if name not in names]:
        shown = ", ".join(printable(name, 60) for name in unknown)
        allowed = f"known are {', '.join(names)}" if names else "there are none here"
        raise ProblemError(400, "unknown_parameter", f"Unknown query parameters: {shown} ({allowed}).")
    if twice := [name for name, times in found.items() if times > 1]:
        raise ProblemError(400, "invalid_parameter", f"{', '.join(twice)}: given more than once.")
    return dict(given)


def _number(given: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return a parameter that is a whole number. Raise `ProblemError`."""
    if (text := given.get(name)) is None:
        return default
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise ProblemError(400, "invalid_parameter", f"{name}: expected a whole number from {low} to {high}.")
    return int(text)


def _with_etag(environ: Environ, body: bytes, content_type: str) -> Answer:
    """Return an answer with its ETag, or 304 where the reader has this body."""
    etag = f'"{sha256(body).hexdigest()[:32]}"'
    known = [one.strip().removeprefix("W/") for one in environ.get("HTTP_IF_NONE_MATCH", "").split(",")]
    if etag in known or "*" in known:
        return Answer("304 Not Modified", b"", content_type, (("ETag", etag),))
    return Answer("200 OK", body, content_type, (("ETag", etag),))


def create_app(settings: config.Settings) -> FeedApp:
    """Make the application of a worker process."""
    store.load()
    database = settings.database
    pool_size = database.pool_size or settings.api.threads + 2  # one for the watcher, one for /ready
    engine = store.connect(database.url.get_secret_value(), pool_size=pool_size, prepare=database.prepare)
    return FeedApp(settings, engine)
