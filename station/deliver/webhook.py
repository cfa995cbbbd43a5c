"""The webhook: one receipt as a CloudEvents 1.0 body, signed by Standard Webhooks 1.0.0, sent by one POST."""

import base64
import hashlib
import hmac
import ssl
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpcore

from station import __version__, config, retry_after
from station.deliver import address
from station.deliver.content import event_id, event_type, item
from station.receipt import Flag
from station.store.outgoing import Numbered
from station.text import as_json, printable

_ANSWER_MAX = 64 * 1024
_RETRY_AFTER_MAX_S = 86_400.0
# A receiver may close a connection that it finds idle just as the next request leaves. Receivers wait 2 s at least.
_KEEPALIVE_S = 1.0
# Statuses of the destination, or of a proxy before it, and not of the receipt that was sent.
_OF_DESTINATION = (429, 502, 503, 504)
_NOT_CONNECTED = (httpcore.ConnectError, httpcore.ConnectTimeout, httpcore.PoolTimeout)
_ON_THE_WIRE = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)


def utc_now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class WebhookAnswer(NamedTuple):
    """The end of one attempt.

    `reason` is why it failed: `http_` and the status, or timeout, no_connection, unknown_host, address_forbidden, tls,
    protocol, defect; `None` where the receiver took the receipt. `error` says the same to people. `began` is a time of
    `time.monotonic`, `size` the bytes of the body that was sent. Where it was `connected` what was sent may be why it
    failed: a proxy that closes the connection for a word in it, a program that takes too long for it.
    """

    status: int | None
    reason: str | None
    error: str | None
    retry_after: float | None
    at: datetime
    began: float
    took_s: float
    size: int
    connected: bool = True

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return self.reason is None

    @property
    def gone(self) -> bool:
        """Whether the receiver asks to be sent nothing any more."""
        return self.status == 410

    @property
    def unreachable(self) -> bool:
        """Whether it failed for a reason that other receipts would meet, too."""
        return self.reason not in (None, "defect") and (self.status is None or self.status in _OF_DESTINATION)


def event(numbered: Numbered, destination: config.Webhook, source: str) -> bytes:
    """Return the body for one revision of a receipt, which needs its `raw` where the destination wants the document.

    Source: CloudEvents 1.0, JSON format, structured mode; `data` is what the feed gives.
    """
    receipt = numbered.receipt
    data = item(numbered, thin=destination.content == "thin")
    if destination.document:
        raw = None if Flag.PROVISIONAL in receipt["flags"] else receipt["raw"]
        data["document"] = base64.b64encode(raw).decode() if raw else None
    return _cloud_event(
        event_id(numbered), event_type(numbered), source, numbered.numbered_at, data,
        subject=f"{receipt['id_pa']}/{receipt['receipt_id']}",
    )  # fmt: skip


def source_of(settings: config.Settings) -> str:
    """Return the `source` of all events: this station, as a URI."""
    return f"urn:pagopa-receipt-station:{quote(settings.own_id, safe='')}"


def _cloud_event(id_: str, type_: str, source: str, at: datetime, data: dict[str, Any], **more: str) -> bytes:
    attributes = {"specversion": "1.0", "id": id_, "source": source, "type": type_, "time": at, **more}
    return as_json(attributes | {"datacontenttype": "application/json", "data": data}).encode()


def signature(secrets: list[str], id_: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature for each secret (`whsec_` and base64)."""
    content = b"%s.%d.%s" % (id_.encode(), timestamp, body)
    keys = (base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets)
    return " ".join("v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)


class WebhookClient:
    """The connections to one destination, kept and shared by threads.

    `now` and `resolve` stand in for the clock and the DNS in tests.
    """

    def __init__(
        self,
        destination: config.Webhook,
        *,
        now: Callable[[], datetime] = utc_now,
        resolve: address.Resolve = address.resolve,
    ) -> None:
        self._destination = destination
        self._now = now
        secrets = (destination.secret, destination.previous_secret)
        self._secrets = [secret.get_secret_value() for secret in secrets if secret]
        parts = urlsplit(destination.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._url = httpcore.URL(
            scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target.encode()
        )
        self._headers: list[tuple[bytes | str, bytes | str]] = [
            ("Host", parts.netloc),
            ("Content-Type", "application/cloudevents+json; charset=utf-8"),
            ("Accept-Encoding", "identity"),
            ("User-Agent", f"pagopa-receipt-station/{__version__}"),
        ]
        self._network = address.GuardedNetwork(
            destination.private_addresses, loopback=parts.scheme == "http", resolve=resolve
        )
        self._pool = httpcore.ConnectionPool(
            ssl_context=_context(destination) if parts.scheme == "https" else None,
            max_connections=destination.in_flight,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=self._network,
        )
        self._timeouts = {
            "connect": destination.connect_timeout,
            **dict.fromkeys(("read", "write", "pool"), destination.timeout),
        }

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pool.close()

    def send(self, id_: str, body: bytes) -> WebhookAnswer:
        """Send one event; `id_` must be the same at each attempt."""
        at, began = self._now(), time.monotonic()
        self._network.set_deadline(began + self._destination.connect_timeout + self._destination.timeout)
        timestamp = int(at.timestamp())
        headers = [
            *self._headers,
            ("webhook-id", id_),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", signature(self._secrets, id_, timestamp, body)),
        ]
        status, reason, error, wait, connected = None, None, None, None, True
        try:
            with self._pool.stream(
                "POST", self._url, headers=headers, content=body, extensions={"timeout": self._timeouts}
            ) as response:
                status = response.status
                if not 200 <= status <= 299:
                    reason, error = f"http_{status}", f"it answered HTTP {status}"
                    given = {name.lower(): value for name, value in response.headers}
                    wait = retry_after.seconds(given.get(b"retry-after", b"").decode("latin-1"), _RETRY_AFTER_MAX_S)
                # The status decides: an answer that breaks off, or comes too slowly, does not take it back.
                with suppress(*_ON_THE_WIRE):
                    _discard(response)
        except _ON_THE_WIRE as failure:
            reason, error = self._reason(failure)
            connected = not isinstance(failure, _NOT_CONNECTED)
        return WebhookAnswer(status, reason, error, wait, at, began, time.monotonic() - began, len(body), connected)

    def _reason(self, failure: Exception) -> tuple[str, str]:
        """Return why no answer came, as a word and for people."""
        told = printable(" ".join(str(failure).split()), 200)
        match failure:
            case address.ForbiddenAddressError():
                return "address_forbidden", f"{told} is no public address, and not in private_addresses"
            case address.UnknownHostError():
                return "unknown_host", f"the host {told} has no address in the DNS"
            case httpcore.TimeoutException():
                limit = self._destination.connect_timeout + self._destination.timeout
                return "timeout", f"no answer in time (connect_timeout and timeout: {limit:g} s)"
            case address.TlsError():
                return "tls", f"TLS failed: {told}"
            case httpcore.NetworkError():
                return "no_connection", f"no connection: {told or type(failure).__name__}"
            case _ if told.startswith("Server disconnected"):
                return "no_connection", "the connection was closed without an answer"
            case _:  # its text would quote the answer, which may repeat what was sent
                return "protocol", "the answer is not HTTP"


def _context(destination: config.Webhook) -> ssl.SSLContext:
    if destination.ca_file is None:
        return httpcore.default_ssl_context()
    return ssl.create_default_context(cafile=str(destination.ca_file))


def _discard(response: httpcore.Response) -> None:
    """Read an answer, so that the connection can be used again; a long one is left, which closes the connection."""
    size = 0
    for part in response.iter_stream():
        size += len(part)
        if size > _ANSWER_MAX:
            return


def send_test(
    settings: config.Settings, destination: config.Webhook, *, resolve: address.Resolve = address.resolve
) -> WebhookAnswer:
    """Send an event `station.test`, which has no receipt, and return the answer."""
    now = utc_now()
    id_ = f"evt_test_{uuid.uuid4().hex}"
    data = {"destination": destination.name, "message": "A test: no receipt is behind it."}
    body = _cloud_event(id_, "station.test", source_of(settings), now, data)
    client = WebhookClient(destination, resolve=resolve)
    try:
        return client.send(id_, body)
    finally:
        client.close()
