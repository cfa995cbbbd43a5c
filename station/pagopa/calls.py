"""The calls for one EC, tried again where that may help."""

import random
import threading
import time
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
from station.pagopa.answers import Page, PositionsPage, expect_ok, nothing_found, page_of, positions_of, words
from station.pagopa.http import Answer, Client

T = TypeVar("T")

_log = log.get(__name__)

PAGE_SIZE = 100  # the most the API gives
POSITIONS_PAGE_SIZE = 50
# A receipt has 2 to 40 KB and a page of 100 rows about 20 KB: what is larger than this is no answer.
_RECEIPT_BYTES = 4 * 1024 * 1024
_PAGE_BYTES = 4 * 1024 * 1024

_QUIET_DAY = date(2015, 1, 1)  # before there was such an API

_BACKOFF_MOST_S = 30.0
_ONCE_S = 10.0
_MESSAGE_LENGTH = 200


def ask_once(settings: Gpd, id_pa: str, key: str) -> None:
    """Make one call for an EC, without retries, that gives its answer soon. Raises `GpdError`."""
    hasty = settings.model_copy(update={"retries": 0, "timeout": min(settings.timeout, _ONCE_S)})
    with Client(hasty, threading.Event()) as client:
        EcClient(client, id_pa, key).probe()


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

    def page(self, first: datetime, last: datetime, number: int, *, retries: int | None = None) -> Page | None:
        """Page `number`, from 0, of the receipts whose payment the API dates from `first` to `last`, both included.

        `None`: there is no such page (nothing found, or the list has become shorter). `retries`: further tries after an
        error of the service, none after a timeout; without it as configured. Raises `GpdError`.
        """
        bounds = [first.isoformat(), last.isoformat()]
        if first.time() == clock() and last.time() == clock(23, 59, 59):
            bounds = [str(first.date()), str(last.date())]
        params = {"pageNum": str(number), "pageSize": str(PAGE_SIZE), "from": bounds[0], "to": bounds[1]}

        def read(answer: Answer) -> Page | None:
            if nothing_found(answer):
                return None
            if answer.status == 400 and number > 0:
                return None
            expect_ok(answer, "gpd.url", "application/json")
            return page_of(answer, self.id_pa)

        return self._call(self._receipts_url, params, self._key, "application/json", _PAGE_BYTES, read, retries=retries)

    def probe(self) -> None:
        """Ask for a day on which nothing was paid: does the API answer at all? Raises `GpdError`."""
        self.page(datetime.combine(_QUIET_DAY, clock()), datetime.combine(_QUIET_DAY, clock(23, 59, 59)), 0)

    def receipt(self, iuv: str) -> Answer:
        """The document of one receipt as it came, or an answer of status 404 (not there) or 422 (not paid yet).

        Raises `GpdError`.
        """

        def read(answer: Answer) -> Answer:
            if answer.status == 422 or nothing_found(answer):
                return answer
            if answer.status == 403:
                raise GpdForbiddenError(
                    f"403{words(answer)}: the key covers this EC but not this receipt, check its segregation codes",
                    request_id=answer.request_id,
                    status=403,
                )
            expect_ok(answer, "gpd.url", "application/xml", "text/xml")
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
            if nothing_found(answer):
                return None
            expect_ok(answer, "gpd.positions_url", "application/json")
            return positions_of(answer)

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
        retries: int | None = None,
    ) -> T:
        """Calls until there is an answer that `read` takes or that no further try will change.

        Tried again, with growing pauses and within bounds: no answer, 429, 5xx, and `retry_read` times an answer that
        cannot be read. With `retries` no answer and 5xx at most so often, and a timeout not at all. Raises `GpdError`,
        and `StoppedError` instead of waiting once the client was stopped.
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
                # 504: the gateway gave up waiting.
                kind = GpdTimeoutError if answer.status == 504 else GpdUnavailableError
                error = kind(f"{answer.status}{words(answer)}", request_id=answer.request_id, status=answer.status)
                if answer.retry_after is not None:
                    backoff = max(backoff, answer.retry_after)
                if answer.status == 429:
                    self._client.pace(key).hold(backoff)
            except httpx.HTTPError as failure:
                request_id = failure.__notes__[0]
                what = log.safe(str(failure))[:_MESSAGE_LENGTH]
                kind = GpdTimeoutError if isinstance(failure, httpx.ReadTimeout) else GpdUnavailableError
                error = kind(f"{type(failure).__name__}: {what}", request_id=request_id)
            except GpdAnswerError as failure:
                if retry_read <= 0:
                    raise
                retry_read -= 1
                error = failure
            too_late = time.monotonic() - begun + backoff > settings.retry_within
            most = self._client.retries
            if retries is not None and error.status != 429:
                most = 0 if isinstance(error, GpdTimeoutError) else min(most, retries)
            if tries > most or too_late:
                self._client.called(in_vain=isinstance(error, GpdUnavailableError))
                raise error
            _log.warning("gpd_call_retried", id_pa=self.id_pa, tries=tries, pause_s=round(backoff, 2),
                         error=error.code, reason=str(error))  # fmt: skip
            if stop.wait(backoff):
                raise StoppedError
