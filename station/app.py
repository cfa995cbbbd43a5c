"""Composition: configuration -> log -> engine -> SOAP application, and what HTTP asks for around it.

Which requests reach Spyne at all is decided here: path, method, media type, size. One log line for each request.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from lxml import etree

from station import config, log, media_type, soap, store
from station.errors import DatabaseUnfitError, StoreError, UntrustedError, out_of_resource
from station.folder import folder
from station.http import certificate, trust
from station.http.answer import Answer
from station.http.health import Health, is_health_listener
from station.http.metrics import Metrics
from station.intake import Intake, Origin
from station.receipt import Source

_log = log.get("station")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_XML = "text/xml; charset=utf-8"
_MEDIA_TYPES = ("text/xml", "application/xml", "")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_WSDL = "paForNode.wsdl"
_SCHEMAS = ("paForNode.xsd", "sac-common-types-1.0.xsd")

# The keys of the environment that are not WSGI's. ARRIVED: since when the request has waited for us, of
# `time.monotonic()`; HEALTH: it came by the health listener; CERTIFICATE: what the client showed, as DER, if it did.
ARRIVED = "station.arrived"
HEALTH = "station.health"
CERTIFICATE = "station.certificate"
# Set by the application: the connection ends with the answer.
LAST = "station.last"

# The reason is for the log: a rejected sender has no right to learn who is allowed.
_NOT_ALLOWED = Answer("403 Forbidden", "Sender not allowed.")


class _RejectedError(Exception):
    """The HTTP request goes no further."""

    def __init__(self, status: str, text: str, *fields: tuple[str, str]) -> None:
        super().__init__(text)
        self.answer = Answer(status, text, fields=fields)


class Station:
    """The WSGI application."""

    def __init__(self, settings: config.Settings, engine: store.Engine) -> None:
        self.settings = settings
        self.engine = engine
        # The same few senders come with every request. Nothing here grows old: a certificate's validity is for TLS or
        # the proxy, at each handshake. Whom we refuse is not remembered, and these are at most 64 heads of 64 KiB.
        self._sender = lru_cache(maxsize=64)(partial(_sender, settings.trust))
        if settings.tls.client_ca or settings.trust.proxy_certificate:
            certificate.load()
        self._soap = soap.create_soap_app(Intake(engine, settings))
        # Read now: there may be no file descriptor left when a client asks for one.
        self._contract = {name: (folder("wsdl") / name).read_bytes() for name in (_WSDL, *_SCHEMAS)}
        self.metrics = Metrics(settings, engine)
        self.health = Health(engine, self.metrics)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request. Whatever happens, an answer leaves that holds no stack trace, SQL or path."""
        begun = environ.get(ARRIVED) or time.monotonic()
        request_id = environ.get("HTTP_X_REQUEST_ID", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_hex(16)
        notes: dict[str, Any] = {}
        environ[soap.NOTES] = notes
        answer = Answer("500 Internal Server Error", "")
        try:
            answer = self._answer(environ, request_id)
        except _RejectedError as rejected:
            notes.update(result="rejected", reason=str(rejected))
            answer = rejected.answer
        except UntrustedError as error:
            notes.update(result="rejected", reason=str(error), peer=environ.get("REMOTE_ADDR") or "unix")
            answer = _NOT_ALLOWED
        except Exception as error:
            status, text = "500 Internal Server Error", "Internal error: send the request again."
            if lacking := out_of_resource(error):
                _log.error("out_of_resource", request_id=request_id, lacking=lacking, exc_info=error)
                notes.update(result="store_error", reason=lacking)
                status, text = "503 Service Unavailable", soap.AGAIN
            else:
                _log.error("unexpected_error", request_id=request_id, exc_info=error)
                notes.update(result="unexpected_error")
            answer = Answer(status, soap.fault_document(text), _XML, (("Retry-After", soap.RETRY_AFTER_S),))
        finally:
            seconds = time.monotonic() - begun
            status_code = int(answer.status[:3])
            if notes.get("result") == "rejected":
                notes.update(_asked(environ))
            if notes.get("result") == "health":
                line = _log.debug
            else:
                line = _log.info
                self.metrics.answered(notes, status_code, seconds)
            line(
                "request_answered",
                request_id=request_id,
                method=environ["REQUEST_METHOD"],
                status=status_code,
                duration_ms=round(seconds * 1000, 1),
                **notes,
            )
        body = answer.body if isinstance(answer.body, bytes) else f"{answer.body}\n".encode()
        fields = [("Content-Type", answer.content_type), ("Content-Length", str(len(body))), *answer.fields]
        start_response(answer.status, [*fields, ("X-Request-Id", request_id)])
        return [body]

    def _answer(self, environ: Environ, request_id: str) -> Answer:
        """Return the answer to a request. Raises `_RejectedError`, `UntrustedError`."""
        notes = environ[soap.NOTES]
        if HEALTH not in environ:
            self._look_at_socket(environ)
        if environ[HEALTH]:
            notes.update(result="health")
            return self.health.answer(environ.get("PATH_INFO", ""))
        # The sender, by all that the decision depends on.
        values = tuple([environ.get(name) for name in _VARIABLES])
        sender = self._sender(environ.get("REMOTE_ADDR", ""), values, environ[CERTIFICATE])
        if sender.subject is not None:
            notes.update(certificate=sender.subject)
        if environ.get("PATH_INFO", "").rstrip("/") != self.settings.server.path.rstrip("/"):
            raise _RejectedError("404 Not Found", "Not found.")
        method = environ["REQUEST_METHOD"]
        if method == "GET" and (document := self._contract_document(environ)):
            notes.update(result="contract")
            environ[LAST] = True  # it is many times as long as the request: none follows on this connection
            return Answer("200 OK", document, _XML)
        if method != "POST":
            allow = ("Allow", "GET, POST")
            raise _RejectedError("405 Method Not Allowed", "The endpoint accepts POST (and GET ?wsdl).", allow)
        if media_type.read(environ.get("CONTENT_TYPE", "")).name not in _MEDIA_TYPES:
            raise _RejectedError("415 Unsupported Media Type", "Send SOAP 1.1 as text/xml.", ("Accept", "text/xml"))
        if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
            accept = ("Accept-Encoding", "identity")
            raise _RejectedError("415 Unsupported Media Type", "Content-Encoding is not supported.", accept)
        # The worker's reader has held the body to its length, a number, and to little more than the limit.
        limit = self.settings.server.max_body
        body: bytes = environ["wsgi.input"].read(limit + 1)
        notes["size"] = size = int(environ.get("CONTENT_LENGTH") or len(body))
        if max(size, len(body)) > limit:
            raise _RejectedError("413 Content Too Large", f"The body is larger than {limit} bytes.")
        environ[soap.ORIGIN] = Origin(
            Source.PUSH, peer=sender.address, request_id=request_id, peer_subject=sender.subject
        )
        status, answer, fields = self._soap.answer(environ, body)
        if notes.get("result") == "rejected":
            notes["sha256"] = sha256(body).hexdigest()  # not stored: this is what is left of it
        return Answer(status, answer, _XML, fields)

    def _look_at_socket(self, environ: Environ) -> None:
        """Set the keys that the station's worker sets, where one of gunicorn's own workers serves."""
        connection = environ.get("gunicorn.socket")
        local = connection.getsockname() if connection else None
        if isinstance(local, str | bytes):
            environ["REMOTE_ADDR"] = ""  # a client calls its end of a Unix socket what it likes: 10.0.0.5
        environ[HEALTH] = is_health_listener(self.settings, local)
        get_certificate = getattr(connection, "getpeercert", None)  # a plain socket has none
        environ[CERTIFICATE] = get_certificate(True) if get_certificate else None

    def _contract_document(self, environ: Environ) -> bytes | None:
        """`?wsdl` and the schemas it imports, with this station's address in them."""
        if not self.settings.server.wsdl:
            return None
        query = environ.get("QUERY_STRING", "")
        base = self.settings.server.public_url or _own_url(environ, self.settings.server.path)
        if query.lower() == "wsdl":
            return _with_addresses(self._contract[_WSDL], base)
        if query.startswith("xsd=") and query[4:] in _SCHEMAS:
            return _with_addresses(self._contract[query[4:]], base)
        return None


_VARIABLES = tuple(f"HTTP_{header.upper().replace('-', '_')}" for header in trust.HEADERS)


def _sender(policy: config.Trust, peer: str, values: tuple[str | None, ...], shown: bytes | None) -> trust.Sender:
    """`trust.admit`, asked by everything that the decision depends on. `values` are those of `trust.HEADERS`."""
    given = dict(zip(trust.HEADERS, values, strict=True))
    return trust.admit(policy, peer, lambda header: given[header] or "", shown)


def _with_addresses(document: bytes, base: str) -> bytes:
    tree = etree.fromstring(document, etree.XMLParser(no_network=True))
    for imported in tree.iter("{http://www.w3.org/2001/XMLSchema}import"):
        if location := imported.get("schemaLocation"):
            imported.set("schemaLocation", f"{base}?xsd={location}")
    for address in tree.iter("{http://schemas.xmlsoap.org/wsdl/soap/}address"):
        address.set("location", base)
    return etree.tostring(tree, xml_declaration=True, encoding="UTF-8")


def _own_url(environ: Environ, path: str) -> str:
    host = environ.get("HTTP_HOST") or f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"
    if not re.fullmatch(r"[\w.:\[\]-]{1,255}", host, re.ASCII):
        raise _RejectedError("400 Bad Request", "Invalid Host header.")
    return f"{environ['wsgi.url_scheme']}://{host}{path}"


def _asked(environ: Environ) -> dict[str, str]:
    """Return fields that help to correct a wrong address, for the log, which escapes and cuts them."""
    asked = {
        "path": quote(environ.get("PATH_INFO", ""), safe="/:@!$&'()*+,;=~", encoding="latin-1", errors="replace"),
        # What pagoPA's forwarder was told to ask for.
        "host_path": environ.get("HTTP_X_HOST_PATH", ""),
        "media_type": media_type.read(environ.get("CONTENT_TYPE", "")).name,
    }
    return {name: text for name, text in asked.items() if text}


def create_app(settings: config.Settings | None = None) -> Station:
    """Make the application from the configuration.

    Raises `ConfigError`, and `SchemaBehindError` or `DatabaseUnfitError` unless schema and database fit.

    A database that does not answer stops nothing: requests are answered 503 until it does.
    """
    settings = settings or config.load()
    log.configure(settings.log.format, settings.log.level)
    database = settings.database
    store.load()
    engine = store.connect(
        database.url.get_secret_value(),
        pool_size=settings.connections,
        prepare=database.prepare,
    )
    if settings.open_registry:
        _log.warning("registry_open", hint="receipts for every idPA are accepted: configure [[broker]] and [[ec]]")
    try:
        store.check_schema(engine)
    except DatabaseUnfitError:
        raise
    except StoreError as error:
        _log.error("database_unreachable", reason=str(error), hint="requests are answered 503 until it responds")
    return Station(settings, engine)
