"""The client of the GPD receipts API and of GPD-Core's list of positions. The only user of the HTTP client.

What comes out: pages of what is listed, documents as bytes, word of what is not there, and a `GpdError` for everything
else. Retries, the rate limit and all distrust of answers live here; what is done with an answer does not
(see `reconcile`).
"""

import json
import random
import re
import ssl
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from station import log
from station.config import Gpd
from station.errors import (
    GpdAnswerError,
    GpdError,
    GpdForbiddenError,
    GpdKeyError,
    GpdRequestError,
    GpdUnavailableError,
    StoppedError,
)

T = TypeVar("T")

_log = log.get(__name__)

PAGE_SIZE = 100  # the most the API gives
POSITIONS_PAGE_SIZE = 50
# A receipt has 2 to 40 KB and a page of 100 rows about 20 KB: what is larger than this is no answer.
_RECEIPT_BYTES = 4 * 1024 * 1024
_PAGE_BYTES = 4 * 1024 * 1024
_ERROR_BYTES = 64 * 1024
# A list that never ends is a defect of the other side; a million receipts in one window end before.
_PAGES = 100_000

_GATEWAY_PERIOD_S = 10.0
_SPARE_CALLS = 20  # of the gateway's 100: below this the period's rest is left to whoever else uses the key
_BACKOFF_MOST_S = 30.0
_RETRY_AFTER_MOST_S = 300.0
_CALLS_IN_VAIN = 3  # so many in a row, with all their tries: the API is down
_MESSAGE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt that is listed; `paid_at` as the API writes it, for comparing with its own bounds only."""

    iuv: str
    paid_at: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its rows, how many pages there are, and how many rows say nothing that could be used."""

    rows: Sequence[Row]
    pages: int
    unreadable: int


@dataclass(frozen=True, slots=True)
class PaidPosition:
    """A paid payment option of GPD-Core; `amount` in euro."""

    iuv: str
    notice_number: str | None
    amount: Decimal | None


@dataclass(frozen=True, slots=True)
class PositionsPage:
    """One page of positions."""

    paid: Sequence[PaidPosition]
    pages: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call was answered. `charset` as the media type names it."""

    status: int
    media_type: str
    charset: str | None
    body: bytes
    request_id: str
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
        deadline = time.monotonic() + self.settings.connect_timeout + self.settings.timeout
        try:
            with self._http.stream("GET", url, params=params, headers=headers) as response:
                remaining = response.headers.get("x-remaining-calls-per-period", "")
                if remaining.isascii() and remaining.isdecimal():
                    self.pace(key).remaining(int(remaining[:9]))
                most = limit if response.status_code == 200 else _ERROR_BYTES
                content_type = Message()
                content_type["Content-Type"] = response.headers.get("Content-Type", "")
                return Answer(
                    status=response.status_code,
                    media_type=content_type.get_content_type() if "Content-Type" in response.headers else "",
                    charset=content_type.get_content_charset(),
                    body=_body(response, most, deadline, request_id),
                    request_id=request_id,
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
        raise GpdAnswerError("an answer in an encoding nobody asked for", request_id=request_id)
    parts: list[bytes] = []
    size = 0
    # Not httpx's own decoding, where a few hundred bytes can unpack to gigabytes, and not its chunks of one size, for
    # which it waits however long they take.
    for raw in response.iter_raw():
        try:
            part = unpack.decompress(raw, limit + 1 - size) if unpack else raw
        except zlib.error:
            raise GpdAnswerError("an answer that says gzip and is not", request_id=request_id) from None
        size += len(part)
        if size > limit:
            if response.status_code != 200:
                break
            raise GpdAnswerError(f"an answer larger than {limit} bytes", request_id=request_id)
        parts.append(part)
        if time.monotonic() > deadline:
            raise httpx.ReadTimeout("the answer is not complete in time")
    if unpack and not unpack.eof and response.status_code == 200:
        raise GpdAnswerError("a gzip answer that ends too early", request_id=request_id)
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


class EcClient:
    """The calls for one EC, counted in `calls`; threads share it."""

    def __init__(self, client: Client, id_pa: str, key: str, positions_key: str | None = None) -> None:
        self.id_pa = id_pa
        self.calls = 0
        self._client = client
        self._key = key
        self._positions_key = positions_key
        self._lock = threading.Lock()
        organisation = quote(id_pa, safe="")
        settings = client.settings
        self._receipts_url = f"{settings.url.rstrip('/')}/payments/{organisation}/receipts"
        self._positions_url = f"{settings.positions_url.rstrip('/')}/organizations/{organisation}/debtpositions"

    def page(self, first: date, last: date, number: int) -> Page | None:
        """Page `number`, from 0, of the receipts whose payment the API dates from `first` to `last`, both included.

        `None`: there is no such page (nothing found, or the list has become shorter). Raises `GpdError`.
        """
        params = {"pageNum": str(number), "pageSize": str(PAGE_SIZE), "from": str(first), "to": str(last)}

        def read(answer: Answer) -> Page | None:
            if answer.status == 404 and not _from_gateway(answer):
                return None
            if answer.status == 400 and number > 0:
                return None
            _expect_ok(answer, "application/json")
            body = _json(answer)
            rows = [_row(one, self.id_pa) for one in _list_of_dicts(body.get("results"), answer)]
            readable = [row for row in rows if row is not None]
            return Page(readable, _pages(body.get("totalPages"), answer), len(rows) - len(readable))

        return self._call(self._receipts_url, params, self._key, "application/json", _PAGE_BYTES, read)

    def receipt(self, iuv: str) -> Answer:
        """The document of one receipt as it came, or an answer of status 404 (not there) or 422 (not paid yet).

        Raises `GpdError`.
        """

        def read(answer: Answer) -> Answer:
            if answer.status in (404, 422):
                return answer
            if answer.status == 403:
                raise GpdForbiddenError(
                    f"403{words(answer)}: the key opens this EC but not this receipt: check its segregation codes",
                    request_id=answer.request_id,
                    status=403,
                )
            _expect_ok(answer, "application/xml", "text/xml")
            return answer

        url = f"{self._receipts_url}/{quote(iuv, safe='')}"
        return self._call(url, {}, self._key, "application/xml, application/json", _RECEIPT_BYTES, read, retry_read=0)

    def positions(self, status: str, first: date, last: date, number: int) -> PositionsPage | None:
        """Page `number`, from 0, of GPD-Core's positions of a status paid from `first` to `last`, both included.

        The oldest first, so that what is added meanwhile comes at the end. Raises `GpdError`.
        """
        if self._positions_key is None:
            raise GpdRequestError("no key for GPD-Core's positions is configured")
        params = {
            "status": status,
            "payment_date_from": str(first),
            "payment_date_to": str(last),
            "limit": str(POSITIONS_PAGE_SIZE),
            "page": str(number),
            "orderby": "INSERTED_DATE",
            "ordering": "ASC",
        }

        def read(answer: Answer) -> PositionsPage | None:
            if answer.status == 404 and not _from_gateway(answer):
                return None
            _expect_ok(answer, "application/json")
            body = _json(answer)
            info = body.get("page_info")
            paid = [
                option
                for position in _list_of_dicts(body.get("payment_position_list"), answer)
                for option in _paid_options(position)
            ]
            return PositionsPage(paid, _pages(info.get("total_pages") if isinstance(info, dict) else None, answer))

        return self._call(self._positions_url, params, self._positions_key, "application/json", _PAGE_BYTES, read)

    def _call(
        self,
        url: str,
        params: dict[str, str],
        key: str,
        accept: str,
        limit: int,
        read: Callable[[Answer], T],
        *,
        retry_read: int = 1,
    ) -> T:
        """Calls until there is an answer that `read` takes or that no further try will change.

        Tried again, with growing pauses and within bounds: no answer, 429, 5xx, and `retry_read` times an answer that
        cannot be read. Raises `GpdError`, and `StoppedError` instead of waiting once the client was stopped.
        """
        settings, stop = self._client.settings, self._client.stop
        begun = time.monotonic()
        tries = 0
        while True:
            self._client.pace(key).wait(stop)
            with self._lock:
                self.calls += 1
            tries += 1
            backoff = random.uniform(0.5, 1) * min(settings.retry_pause * 2 ** (tries - 1), _BACKOFF_MOST_S)  # noqa: S311
            error: GpdError
            try:
                answer = self._client.try_once(url, params, key, accept, limit)
                if answer.status != 429 and answer.status < 500:
                    self._client.called(in_vain=False)
                    return read(answer)
                error = GpdUnavailableError(
                    f"{answer.status}{words(answer)}", request_id=answer.request_id, status=answer.status
                )
                if answer.retry_after is not None:
                    backoff = max(backoff, answer.retry_after)
                if answer.status == 429:
                    self._client.pace(key).hold(backoff)
            except httpx.HTTPError as failure:
                request_id = failure.__notes__[0]
                what = log.safe(str(failure))[:_MESSAGE_LENGTH]
                error = GpdUnavailableError(f"{type(failure).__name__}: {what}", request_id=request_id)
            except GpdAnswerError as failure:
                if retry_read <= 0:
                    raise
                retry_read -= 1
                error = failure
            too_late = time.monotonic() - begun + backoff > settings.retry_within
            if tries > self._client.retries or too_late:
                self._client.called(in_vain=isinstance(error, GpdUnavailableError))
                raise error
            _log.warning("gpd_call_retried", id_pa=self.id_pa, tries=tries, pause_s=round(backoff, 2),
                         error=error.code, reason=str(error))  # fmt: skip
            if stop.wait(backoff):
                raise StoppedError


# --- reading answers --------------------------------------------------------------------------------------------------


def _expect_ok(answer: Answer, *media_types: str) -> None:
    """Raises unless the answer is a 200 of one of the media types."""
    told: dict[str, Any] = {"request_id": answer.request_id, "status": answer.status}
    match answer.status:
        case 200 if answer.media_type in media_types:
            return
        case 200:
            raise GpdAnswerError(f"200 with content type {answer.media_type[:60] or 'missing'}", **told)
        case 401 | 403:
            raise GpdKeyError(f"{answer.status}{words(answer)}: the key is wrong, or does not open this EC", **told)
        case 400:
            raise GpdRequestError(f"400{words(answer)}: the API rejects the request", **told)
        case 404:
            raise GpdAnswerError(f"404{words(answer)}: the API is not at this address: check its URL", **told)
    raise GpdAnswerError(f"{answer.status}{words(answer)}: an answer that is not documented", **told)


def _from_gateway(answer: Answer) -> bool:
    """Whether an error is the gateway's (JSON with statusCode, or HTML) and not the service's own.

    A 404 of the service says that nothing was found. One of the gateway says that nothing lives at the address: taken
    for "nothing found", a mistyped URL would look like a quiet day, every day.
    """
    if answer.media_type == "text/html":
        return True
    with suppress(ValueError, RecursionError):
        body = json.loads(answer.body)
        return isinstance(body, dict) and "statusCode" in body
    return False


def words(answer: Answer) -> str:
    """What an error body says in its title or message, short and masked; nothing where it is no JSON."""
    with suppress(ValueError, RecursionError):
        body = json.loads(answer.body)
        if isinstance(body, dict):
            said = body.get("title") or body.get("message")
            if isinstance(said, str) and said.strip():
                return f" {log.safe(said.strip()[:_MESSAGE_LENGTH])!r}"
    return ""


def _json(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise GpdAnswerError("200 with a body that is not JSON", request_id=answer.request_id, status=200) from None
    if not isinstance(body, dict):
        raise GpdAnswerError("200 with JSON that is no object", request_id=answer.request_id, status=200)
    return body


def _list_of_dicts(value: Any, answer: Answer) -> list[Any]:
    if not isinstance(value, list):
        raise GpdAnswerError("200 without a list of results", request_id=answer.request_id, status=200)
    return value


def _pages(value: Any, answer: Answer) -> int:
    if type(value) is not int or not 0 <= value <= _PAGES:
        raise GpdAnswerError("200 without a usable number of pages", request_id=answer.request_id, status=200)
    return value


# Any text the schema admits as IUV, but what a URL would read as a path.
_IUV = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f-\xa0]{1,35}")


def usable_iuv(text: Any) -> bool:
    """Whether `text` can be an IUV and be asked for."""
    return isinstance(text, str) and bool(_IUV.fullmatch(text)) and text.isprintable()


def _row(one: Any, id_pa: str) -> Row | None:
    """A listed row; `None` where it has no IUV, or is another EC's."""
    if not isinstance(one, dict) or not usable_iuv(one.get("iuv")):
        return None
    if one.get("organizationFiscalCode") not in (None, id_pa):
        return None
    paid_at = one.get("paymentDateTime")
    return Row(one["iuv"], paid_at if isinstance(paid_at, str) else "")


def _paid_options(position: Any) -> list[PaidPosition]:
    """The paid options of a position, as far as they can be read: this list is a second opinion."""
    options = position.get("paymentOption") if isinstance(position, dict) else None
    paid = []
    for option in options if isinstance(options, list) else ():
        if not isinstance(option, dict) or not usable_iuv(option.get("iuv")) or option.get("status") == "PO_UNPAID":
            continue
        notice_number, cents = option.get("nav"), option.get("amount")
        paid.append(
            PaidPosition(
                option["iuv"],
                notice_number[:35] if isinstance(notice_number, str) else None,
                Decimal(cents).scaleb(-2) if type(cents) is int and 0 <= cents < 10**12 else None,
            )
        )
    return paid
