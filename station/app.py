"""Composition: configuration -> log -> engine -> SOAP application, and what HTTP asks for around it.

Which requests reach Spyne at all is decided here: path, method, media type, size. One log line for each request.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from hashlib import sha256
from io import BytesIO
from typing import Any
from urllib.parse import quote

from lxml import etree

from station import config, log, media_type, soap, store
from station.errors import DatabaseUnfitError, StoreError, UntrustedError, out_of_resource
from station.folder import folder
from station.http import certificate, trust
from station.http.gateway import Answer
from station.http.health import Health, is_health_listener
from station.http.metrics import Metrics
from station.http.request import content_length
from station.intake import Intake

_log = log.get("station")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_XML = "text/xml; charset=utf-8"
_MEDIA_TYPES = ("text/xml", "application/xml", "")
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_WSDL = "paForNode.wsdl"
_SCHEMAS = ("paForNode.xsd", "sac-common-types-1.0.xsd")

# Environment key: since when the request has waited for us, of `time.monotonic()`.
ARRIVED = "station.arrived"
# Environment key: the connection ends with the answer.
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
        notes: dict[str, Any] = {}
        request_id = _request_id(environ)
        environ[soap.NOTES] = notes
        environ[soap.REQUEST_ID] = request_id
        environ[soap.PEER] = environ.get("REMOTE_ADDR") or None
        environ[soap.PEER_SUBJECT] = None
        status = "500"

        def start(line: str, headers: list[tuple[str, str]], *args: Any) -> Any:
            nonlocal status
            status = line
            return start_response(line, [*headers, ("X-Request-Id", request_id)], *args)

        try:
            return self._answer(environ, start)
        except _RejectedError as rejected:
            notes.update(result="rejected", reason=rejected.answer.text)
            return rejected.answer.send(start)
        except UntrustedError as error:
            notes.update(result="rejected", reason=str(error), peer=environ.get("REMOTE_ADDR") or "unix")
            return _NOT_ALLOWED.send(start)
        except Exception as error:
            if lacking := out_of_resource(error):
                _log.error("out_of_resource", request_id=request_id, lacking=lacking, exc_info=error)
                notes.update(result="store_error", reason=lacking)
                failed, text = "503 Service Unavailable", soap.AGAIN
            else:
                _log.error("unexpected_error", request_id=request_id, exc_info=error)
                notes.update(result="unexpected_error")
                failed, text = "500 Internal Server Error", "Internal error: send the request again."
            body = soap.fault_document(text)
            headers = [("Content-Type", _XML), ("Content-Length", str(len(body))), ("Retry-After", soap.RETRY_AFTER_S)]
            start(failed, headers)
            return [body]
        finally:
            seconds = time.monotonic() - begun
            if notes.get("result") == "rejected":
                notes.update(_asked(environ))
            if notes.get("result") == "health":
                line = _log.debug
            else:
                line = _log.info
                self.metrics.answered(notes, int(status[:3]), seconds)
            line(
                "request_answered",
                request_id=request_id,
                method=environ["REQUEST_METHOD"],
                status=int(status[:3]),
                duration_ms=round(seconds * 1000, 1),
                **notes,
            )

    def _answer(self, environ: Environ, start: StartResponse) -> Iterable[bytes]:
        connection = environ.get("gunicorn.socket")
        local = connection.getsockname() if connection else None
        if isinstance(local, str | bytes):
            environ["REMOTE_ADDR"] = ""  # a client calls its end of a Unix socket what it likes: 10.0.0.5
        if is_health_listener(self.settings, local):
            environ[soap.NOTES].update(result="health")
            return self.health.answer(environ.get("PATH_INFO", "")).send(start)
        self._admit(environ, connection)
        if environ.get("PATH_INFO", "").rstrip("/") != self.settings.server.path.rstrip("/"):
            raise _RejectedError("404 Not Found", "Not found.")
        match environ["REQUEST_METHOD"]:
            case "POST":
                body = _read_body(environ, self.settings.server.max_body)
                environ["wsgi.input"] = BytesIO(body)
                environ["CONTENT_LENGTH"] = str(len(body))
                answer = list(self._soap(environ, start))
                if environ[soap.NOTES].get("result") == "rejected":
                    environ[soap.NOTES]["sha256"] = sha256(body).hexdigest()  # not stored: this is what is left of it
                return answer
            case "GET" if document := self._contract_document(environ):
                environ[soap.NOTES].update(result="contract")
                environ[LAST] = True  # it is many times as long as the request: none follows on this connection
                start("200 OK", [("Content-Type", _XML), ("Content-Length", str(len(document)))])
                return [document]
        raise _RejectedError(
            "405 Method Not Allowed", "The endpoint accepts POST (and GET ?wsdl).", ("Allow", "GET, POST")
        )

    def _admit(self, environ: Environ, connection: Any) -> None:
        """Note the sender for the log and the journal. Raises `UntrustedError` unless it may send."""
        get_certificate = getattr(connection, "getpeercert", None)  # a plain socket has none
        sender = self._sender(
            environ.get("REMOTE_ADDR", ""),
            tuple(map(environ.get, _VARIABLES)),
            get_certificate(True) if get_certificate else None,
        )
        environ[soap.PEER] = sender.address
        environ[soap.PEER_SUBJECT] = sender.subject
        if sender.subject is not None:
            environ[soap.NOTES].update(certificate=sender.subject)

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


def _request_id(environ: Environ) -> str:
    given = environ.get("HTTP_X_REQUEST_ID", "")
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _read_body(environ: Environ, limit: int) -> bytes:
    """Return the body of a SOAP request. Raises `_RejectedError`."""
    if media_type.read(environ.get("CONTENT_TYPE", "")).name not in _MEDIA_TYPES:
        raise _RejectedError("415 Unsupported Media Type", "Send SOAP 1.1 as text/xml.", ("Accept", "text/xml"))
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("", "identity"):
        raise _RejectedError(
            "415 Unsupported Media Type", "Content-Encoding is not supported.", ("Accept-Encoding", "identity")
        )
    # The worker's reader has held the body to its length and to little more than the limit.
    body: bytes = environ["wsgi.input"].read(limit + 1)
    environ[soap.NOTES]["size"] = size = content_length(environ.get("CONTENT_LENGTH")) or len(body)
    if max(size, len(body)) > limit:
        raise _RejectedError("413 Content Too Large", f"The body is larger than {limit} bytes.")
    return body


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
