"""The calls for one EC, retried where that may help."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from datetime import time as clock
from typing import TypeVar
from urllib.parse import quote

import httpx

from station import log
from station.config import Gpd
from station.errors import (
    GpdAnswerError,
    GpdError,
    GpdForbiddenError,
    GpdRequestError,
    GpdTimeoutError,
    GpdUnavailableError,
    StoppedError,
)
from station.pagopa.answers import (
    Page,
    PositionsPage,
    error_text,
    expect_ok,
    nothing_found,
    read_page,
    read_positions,
)
from station.pagopa.http import ApiClient, ApiResponse

T = TypeVar("T")

_log = log.get(__name__)

PAGE_SIZE = 100  # the most that the API gives
POSITIONS_PAGE_SIZE = 50
_BACKOFF_MAX_S = 30.0
_MESSAGE_LENGTH = 200

_PROBED_DAY = date(2015, 1, 1)  # before the API existed: the list is empty
_CHECK_TIMEOUT_S = 10.0


def check_access(settings: Gpd, id_pa: str, key: str) -> None:
    """Make one call for an EC, without retries and with a short timeout. Raise `GpdError`."""
    short = settings.model_copy(update={"retries": 0, "timeout": min(settings.timeout, _CHECK_TIMEOUT_S)})
    with ApiClient(short, threading.Event()) as client:
        EcClient(client, id_pa, key).probe()


class EcClient:
    """The calls for one EC, counted in `calls`; threads share it. Each raises `GpdError`."""

    def __init__(self, client: ApiClient, id_pa: str, key: str, positions_key: str | None = None) -> None:
        self.id_pa = id_pa
        self.calls = 0
        self._client = client
        self._key = key
        self._positions_key = positions_key
        self._lock = threading.Lock()
        organization = quote(id_pa, safe="")
        settings = client.settings
        self._receipts_url = f"{settings.url.rstrip('/')}/payments/{organization}/receipts"
        self._positions_url = f"{settings.positions_url.rstrip('/')}/organizations/{organization}/debtpositions"

    def page(self, first: datetime, last: datetime, number: int, *, retries: int | None = None) -> Page | None:
        """Return page `number`, from 0, of the receipts with a payment time from `first` to `last`, both included.

        `None`: there is no such page (nothing found, or the list has become shorter). `retries`: retries after an
        error of the service, with none after a timeout; without it as configured.
        """

        def read(response: ApiResponse) -> Page | None:
            if nothing_found(response) or (response.status == 400 and number > 0):
                return None
            expect_ok(response, "gpd.url", "application/json")
            return read_page(response, self.id_pa)

        bounds = [first.isoformat(), last.isoformat()]
        if first.time() == clock() and last.time() == clock(23, 59, 59):
            bounds = [str(first.date()), str(last.date())]
        params = {"pageNum": str(number), "pageSize": str(PAGE_SIZE), "from": bounds[0], "to": bounds[1]}
        return self._call(self._receipts_url, params, self._key, read, retries=retries)

    def probe(self) -> None:
        """Find out if the API answers at all: ask for a day without payments."""
        self.page(datetime.combine(_PROBED_DAY, clock()), datetime.combine(_PROBED_DAY, clock(23, 59, 59)), 0)

    def receipt(self, iuv: str) -> ApiResponse:
        """Return the document of one receipt as it came, or an answer of status 404 (not there) or 422 (not paid)."""

        def read(response: ApiResponse) -> ApiResponse:
            if response.status == 403:
                raise GpdForbiddenError(
                    f"403{error_text(response)}: the key covers this EC but not this receipt, check its segregation "
                    "codes",
                    request_id=response.request_id,
                    status=403,
                )
            if response.status != 422 and not nothing_found(response):
                expect_ok(response, "gpd.url", "application/xml", "text/xml")
            return response

        url = f"{self._receipts_url}/{quote(iuv, safe='')}"
        return self._call(url, {}, self._key, read, accept="application/xml, application/json", read_retries=0)

    def positions(self, status: str, first: date, last: date, number: int) -> PositionsPage | None:
        """Return page `number`, from 0, of GPD-Core's positions of a status paid from `first` to `last`, both included.

        The oldest first, so that positions added meanwhile come at the end. `None`: there is no such page.
        """

        def read(response: ApiResponse) -> PositionsPage | None:
            if nothing_found(response):
                return None
            expect_ok(response, "gpd.positions_url", "application/json")
            return read_positions(response)

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
        return self._call(self._positions_url, params, self._positions_key, read)

    def _call(
        self,
        url: str,
        params: dict[str, str],
        key: str,
        read: Callable[[ApiResponse], T],
        *,
        accept: str = "application/json",
        read_retries: int = 1,
        retries: int | None = None,
    ) -> T:
        """Return what `read` makes of the answer; retry with backoff after no answer, 429 and 5xx.

        Also retried, `read_retries` times: an answer that `read` finds unreadable. `retries` bounds the retries after
        no answer and 5xx, and forbids those after a timeout. Raise `GpdError`, and `StoppedError` instead of waiting
        once the client is stopped.
        """
        settings, stop = self._client.settings, self._client.stop
        began = time.monotonic()
        tries = 0
        while True:
            self._client.bucket(key).wait(stop)
            with self._lock:
                self.calls += 1
            tries += 1
            backoff = random.uniform(0.5, 1) * min(settings.retry_pause * 2 ** (tries - 1), _BACKOFF_MAX_S)  # noqa: S311
            request_id = str(uuid.uuid4())
            error: GpdError
            try:
                response = self._client.get(url, params, key, accept, request_id)
                if response.status != 429 and response.status < 500:
                    self._client.record(failed=False)
                    return read(response)
                # 504: the gateway gave up waiting.
                kind = GpdTimeoutError if response.status == 504 else GpdUnavailableError
                error = kind(f"{response.status}{error_text(response)}", request_id=request_id, status=response.status)
                backoff = max(backoff, response.retry_after or 0)
                if response.status == 429:
                    self._client.bucket(key).hold(backoff)
            except httpx.HTTPError as failure:
                kind = GpdTimeoutError if isinstance(failure, httpx.ReadTimeout) else GpdUnavailableError
                message = log.safe(str(failure))[:_MESSAGE_LENGTH]
                error = kind(f"{type(failure).__name__}: {message}", request_id=request_id)
            except GpdAnswerError as failure:
                if read_retries <= 0:
                    raise
                read_retries -= 1
                error = failure
            allowed = self._client.retries
            if retries is not None and error.status != 429:
                allowed = 0 if isinstance(error, GpdTimeoutError) else min(allowed, retries)
            if tries > allowed or time.monotonic() - began + backoff > settings.retry_within:
                self._client.record(failed=isinstance(error, GpdUnavailableError))
                raise error
            _log.warning("gpd_call_retried", id_pa=self.id_pa, tries=tries, pause_s=round(backoff, 2),
                         error=error.code, reason=str(error))  # fmt: skip
            if stop.wait(backoff):
                raise StoppedError
