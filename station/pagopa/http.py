"""HTTP to pagoPA's APIs: connections, the rate of each key, and one request, bounded in size and time."""

import ssl
import threading
import time
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

import httpx

from station import media_type, retry_after
from station.config import RestApi
from station.errors import ApiAnswerError
from station.token_bucket import TokenBucket

S = TypeVar("S", bound=RestApi)

# A receipt has 2 to 40 KB, a page of 100 receipts about 20 KB and one of 1,000 payments 250 KB: none is larger.
_BODY_MAX = 4 * 1024 * 1024
_ERROR_BODY_MAX = 64 * 1024
_GATEWAY_PERIOD_S = 10.0
_SPARE_CALLS = 20  # of the gateway's 100 a period: the last ones are left to other users of the key
_RETRY_AFTER_MAX_S = 300.0
_FAILED_CALLS_UNTIL_OPEN = 3


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """The answer to one request; `charset` as the media type names it, `took_s`: seconds until it was complete."""

    status: int
    media_type: str
    charset: str | None
    body: bytes
    request_id: str
    took_s: float
    retry_after: float | None = None


class ApiClient(Generic[S]):
    """Connections to one API and its rates, for all ECs; threads share it. Use it in a `with` block.

    Setting `stop` ends every wait with a `StoppedError`. The circuit breaker opens after some calls in a row that
    failed with all their retries: the API is down then, and a run over many ECs does not retry for each of them. One
    call that succeeds closes it.
    """

    def __init__(self, settings: S, stop: threading.Event, connections: int = 8) -> None:
        self.settings = settings
        self.stop = stop
        self.paused: dict[str, datetime] = {}  # keys with which no call is to be made until a moment
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self._failed_calls = 0
        self._lock = threading.Lock()
        self._http = httpx.Client(
            verify=ssl.create_default_context(cafile=str(settings.ca_file)) if settings.ca_file else True,
            proxy=settings.proxy.get_secret_value() if settings.proxy else None,
            timeout=httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # a proxy comes from the configuration, not from the environment
            headers={"Accept-Encoding": "identity", "User-Agent": "station-reconcile"},
        )

    def __enter__(self) -> "ApiClient[S]":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def bucket(self, key: str, operation: str = "") -> TokenBucket:
        """Return the rate limit of a key, or of a key and an operation.

        That of an operation starts empty: the rate is low, and a run that was killed may have called just now.
        """
        with self._lock:
            if (key, operation) not in self._buckets:
                self._buckets[key, operation] = bucket = TokenBucket(self.settings.rate)
                if operation:
                    bucket.hold(1 / self.settings.rate)
            return self._buckets[key, operation]

    @property
    def retries(self) -> int:
        """How many times a call may be retried: not at all while the circuit breaker is open."""
        return self.settings.retries if self._failed_calls < _FAILED_CALLS_UNTIL_OPEN else 0

    def record(self, *, failed: bool) -> None:
        """Tell the circuit breaker how a call ended, retries included."""
        with self._lock:
            self._failed_calls = self._failed_calls + 1 if failed else 0

    def get(
        self, url: str, params: dict[str, str], key: str, accept: str, request_id: str, operation: str = ""
    ) -> ApiResponse:
        """Send one request. Raise `httpx.HTTPError`, and `ApiAnswerError` if the body is too large or undecodable."""
        headers = {"Ocp-Apim-Subscription-Key": key, "X-Request-Id": request_id, "Accept": accept}
        began = time.monotonic()
        deadline = began + self.settings.connect_timeout + self.settings.timeout
        with self._http.stream("GET", url, params=params, headers=headers) as response:
            left = response.headers.get("x-remaining-calls-per-period", "")
            if left.isascii() and left.isdecimal() and int(left[:9]) < _SPARE_CALLS:
                self.bucket(key, operation).hold(_GATEWAY_PERIOD_S * (1 - int(left[:9]) / _SPARE_CALLS))
            content_type = media_type.read(response.headers.get("Content-Type", ""))
            return ApiResponse(
                status=response.status_code,
                media_type=content_type.name,
                charset=content_type.charset,
                body=_body(response, deadline, request_id),
                request_id=request_id,
                took_s=time.monotonic() - began,
                retry_after=retry_after.seconds(response.headers.get("Retry-After"), _RETRY_AFTER_MAX_S),
            )


def _body(response: httpx.Response, deadline: float, request_id: str) -> bytes:
    """Return the decoded body, never holding more of it than is allowed, never reading after `deadline`."""
    ok = response.status_code == 200
    limit = _BODY_MAX if ok else _ERROR_BODY_MAX
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    gzip = zlib.decompressobj(wbits=31) if encoding in ("gzip", "x-gzip") else None
    if gzip is None and encoding not in ("", "identity"):
        raise ApiAnswerError("an answer in an encoding that was not requested", request_id=request_id)
    body = bytearray()
    # Not httpx's own decoding, where a few hundred bytes can unpack to gigabytes, and not its chunks of a given size,
    # each of which it waits for without a deadline.
    for raw in response.iter_raw():
        try:
            body += gzip.decompress(raw, limit + 1 - len(body)) if gzip else raw
        except zlib.error:
            raise ApiAnswerError("an answer labelled gzip that is not gzip", request_id=request_id) from None
        if len(body) > limit:
            if ok:
                raise ApiAnswerError(f"an answer larger than {limit} bytes", request_id=request_id)
            break
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer was not complete in time")
    if gzip and not gzip.eof and ok:
        raise ApiAnswerError("a truncated gzip answer", request_id=request_id)
    return bytes(body)
