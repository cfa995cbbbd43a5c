"""Connections, the rate limit of each key, and one call: an answer of bounded size in bounded time, or an error."""

import ssl
import threading
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from station import media_type
from station.config import Gpd
from station.errors import GpdAnswerError, StoppedError

_ERROR_BYTES = 64 * 1024
_GATEWAY_PERIOD_S = 10.0
_SPARE_CALLS = 20  # of the gateway's 100: below this the period's rest is left to whoever else uses the key
_RETRY_AFTER_MOST_S = 300.0
_CALLS_IN_VAIN = 3  # so many in a row, with all their tries: the API is down


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call was answered. `charset` as the media type names it; `took_s`: seconds until it was complete."""

    status: int
    media_type: str
    charset: str | None
    body: bytes
    request_id: str
    took_s: float
    retry_after: float | None = None


class Pace:
    """The rate limit of one key, shared by everyone who calls with it."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`rate` in calls a second."""
        self._interval = 1 / rate
        self._clock = clock
        self._lock = threading.Lock()
        self._next = 0.0

    def wait(self, stop: threading.Event) -> None:
        """Returns when the next call may be made. Raises `StoppedError` as soon as `stop` is set."""
        while (pause := self._take()) > 0:
            if stop.wait(pause):
                break
        if stop.is_set():
            raise StoppedError

    def _take(self) -> float:
        """Takes the next slot and returns 0, or the seconds until there may be one."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return self._next - now
            self._next = now + self._interval
            return 0

    def hold(self, seconds: float) -> None:
        """Nobody calls for so long."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def remaining(self, calls: int) -> None:
        """The gateway says how many calls are left in its period: with few left the calls grow rarer."""
        if calls < _SPARE_CALLS:
            self.hold(_GATEWAY_PERIOD_S * (1 - max(calls, 0) / _SPARE_CALLS))


class Client:
    """Connections and rate limits for all ECs; threads share it. Use it in a `with` block.

    `stop` ends every wait: whoever waits gets a `StoppedError`.
    """

    def __init__(self, settings: Gpd, stop: threading.Event) -> None:
        self.settings = settings
        self.stop = stop
        self._paces: dict[str, Pace] = {}
        self._in_vain = 0
        self._lock = threading.Lock()
        connections = 2 * settings.workers
        self._http = httpx.Client(
            verify=ssl.create_default_context(cafile=str(settings.ca_file)) if settings.ca_file else True,
            proxy=settings.proxy.get_secret_value() if settings.proxy else None,
            timeout=httpx.Timeout(settings.timeout, connect=settings.connect_timeout),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,  # what is used is in the configuration, and nowhere else
            headers={"Accept-Encoding": "identity", "User-Agent": "station-reconcile"},
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def pace(self, key: str) -> Pace:
        """The rate limit of a key."""
        with self._lock:
            return self._paces.setdefault(key, Pace(self.settings.rate))

    @property
    def retries(self) -> int:
        """Further tries for a call: none while the API is down, so that a run over many ECs does not wait for each."""
        return self.settings.retries if self._in_vain < _CALLS_IN_VAIN else 0

    def called(self, *, in_vain: bool) -> None:
        """Whether the last try of a call was in vain, too."""
        with self._lock:
            self._in_vain = self._in_vain + 1 if in_vain else 0

    def try_once(self, url: str, params: dict[str, str], key: str, accept: str, limit: int) -> Answer:
        """One call. Raises `httpx.HTTPError`, and `GpdAnswerError` where the body cannot be taken in."""
        request_id = str(uuid.uuid4())
        headers = {"Ocp-Apim-Subscription-Key": key, "X-Request-Id": request_id, "Accept": accept}
        begun = time.monotonic()
        deadline = begun + self.settings.connect_timeout + self.settings.timeout
        try:
            with self._http.stream("GET", url, params=params, headers=headers) as response:
                remaining = response.headers.get("x-remaining-calls-per-period", "")
                if remaining.isascii() and remaining.isdecimal():
                    self.pace(key).remaining(int(remaining[:9]))
                most = limit if response.status_code == 200 else _ERROR_BYTES
                content_type = media_type.read(response.headers.get("Content-Type", ""))
                body = _body(response, most, deadline, request_id)
                return Answer(
                    status=response.status_code,
                    media_type=content_type.name,
                    charset=content_type.charset,
                    body=body,
                    request_id=request_id,
                    took_s=time.monotonic() - begun,
                    retry_after=_retry_after(response.headers.get("Retry-After")),
                )
        except httpx.HTTPError as error:
            error.add_note(request_id)
            raise


def _body(response: httpx.Response, limit: int, deadline: float, request_id: str) -> bytes:
    """The body, decoded, never more than `limit` bytes of it in memory and never later than `deadline`."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    unpack = zlib.decompressobj(wbits=31) if encoding in ("gzip", "x-gzip") else None
    if unpack is None and encoding not in ("", "identity"):
        raise GpdAnswerError("an answer in an encoding that was not requested", request_id=request_id)
    parts: list[bytes] = []
    size = 0
    # Not httpx's own decoding, where a few hundred bytes can unpack to gigabytes, and not its chunks of one size, for
    # which it waits however long they take.
    for raw in response.iter_raw():
        try:
            part = unpack.decompress(raw, limit + 1 - size) if unpack else raw
        except zlib.error:
            raise GpdAnswerError("an answer labelled gzip that is not gzip", request_id=request_id) from None
        size += len(part)
        if size > limit:
            if response.status_code != 200:
                break
            raise GpdAnswerError(f"an answer larger than {limit} bytes", request_id=request_id)
        parts.append(part)
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer was not complete in time")
    if unpack and not unpack.eof and response.status_code == 200:
        raise GpdAnswerError("a truncated gzip answer", request_id=request_id)
    return b"".join(parts)


def _retry_after(header: str | None) -> float | None:
    """Seconds, from either form of Retry-After; `None` where there is none or it says nothing."""
    if not header:
        return None
    header = header.strip()
    if header.isascii() and header.isdecimal():
        seconds = float(header[:9])
    else:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        # A date without a zone is GMT (RFC 9110).
        seconds = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _RETRY_AFTER_MOST_S)
