"""The GPD receipts API and GPD-Core's positions: the calls for one EC, and how their answers are read."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from datetime import time as clock
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from station import log
from station.config import Gpd
from station.errors import ApiError, ApiForbiddenError, ApiRequestError, ApiTimeoutError
from station.pagopa.answers import (
    error_text,
    expect_ok,
    is_printable,
    nothing_found,
    page_count,
    read_list,
    read_object,
    usable_iuv,
)
from station.pagopa.calls import EcCalls
from station.pagopa.http import ApiClient, ApiResponse

_log = log.get(__name__)

PAGE_SIZE = 100  # the most that the API gives
POSITIONS_PAGE_SIZE = 50
_PAGES_MAX = 100_000  # ten million receipts in one window; a list that never ends is a defect of the API

_PROBED_DAY = date(2015, 1, 1)  # before the API existed: the list is empty
_CHECK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt that is listed; `paid_at` as the API writes it, for comparing with the API's own bounds only."""

    iuv: str
    paid_at: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its readable rows, the number of unreadable ones and of the list's pages.

    `took_s`: seconds that the API took for it.
    """

    rows: Sequence[Row]
    pages: int
    unreadable: int
    took_s: float


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


def check_access(settings: Gpd, id_pa: str, key: str) -> None:
    """Make one call for an EC, without retries and with a short timeout. Raise `ApiError`."""
    short = settings.model_copy(update={"retries": 0, "timeout": min(settings.timeout, _CHECK_TIMEOUT_S)})
    with ApiClient(short, threading.Event()) as client:
        EcClient(client, id_pa, key).probe()


class EcClient:
    """The calls for one EC, counted in `calls`; threads share it. Each raises `ApiError`."""

    def __init__(self, client: ApiClient[Gpd], id_pa: str, key: str, positions_key: str | None = None) -> None:
        self.id_pa = id_pa
        self._ec_calls = EcCalls(client, id_pa)
        self._key = key
        self._positions_key = positions_key
        organization = quote(id_pa, safe="")
        settings = client.settings
        self._receipts_url = f"{settings.url.rstrip('/')}/payments/{organization}/receipts"
        self._positions_url = f"{settings.positions_url.rstrip('/')}/organizations/{organization}/debtpositions"

    @property
    def calls(self) -> int:
        """The number of calls so far."""
        return self._ec_calls.number

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

        def retries_after(error: ApiError) -> int | None:
            if retries is None or error.status == 429:
                return None
            return 0 if isinstance(error, ApiTimeoutError) else retries

        bounds = [first.isoformat(), last.isoformat()]
        if first.time() == clock() and last.time() == clock(23, 59, 59):
            bounds = [str(first.date()), str(last.date())]
        params = {"pageNum": str(number), "pageSize": str(PAGE_SIZE), "from": bounds[0], "to": bounds[1]}
        return self._ec_calls.get(self._receipts_url, params, self._key, read, retries=retries_after)

    def probe(self) -> None:
        """Find out if the API answers at all: ask for a day without payments."""
        self.page(datetime.combine(_PROBED_DAY, clock()), datetime.combine(_PROBED_DAY, clock(23, 59, 59)), 0)

    def receipt(self, iuv: str) -> ApiResponse:
        """Return the document of one receipt as it came, or an answer of status 404 (not there) or 422 (not paid)."""

        def read(response: ApiResponse) -> ApiResponse:
            if response.status == 403:
                raise ApiForbiddenError(
                    f"403{error_text(response)}: the key covers this EC but not this receipt, check its segregation "
                    "codes",
                    request_id=response.request_id,
                    status=403,
                )
            if response.status != 422 and not nothing_found(response):
                expect_ok(response, "gpd.url", "application/xml", "text/xml")
            return response

        url = f"{self._receipts_url}/{quote(iuv, safe='')}"
        return self._ec_calls.get(url, {}, self._key, read, accept="application/xml, application/json", read_retries=0)

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
            raise ApiRequestError("no key for GPD-Core's positions is configured")
        params = {
            "status": status,
            "payment_date_from": str(first),
            "payment_date_to": str(last),
            "limit": str(POSITIONS_PAGE_SIZE),
            "page": str(number),
            "orderby": "INSERTED_DATE",
            "ordering": "ASC",
        }
        return self._ec_calls.get(self._positions_url, params, self._positions_key, read)


def read_page(response: ApiResponse, id_pa: str) -> Page:
    """Return the page in an answer to a list call."""
    body = read_object(response)
    listed = read_list(body.get("results"), response)
    rows = []
    for number, value in enumerate(listed, start=1):
        row = _row(value, id_pa)
        if isinstance(row, Row):
            rows.append(row)
        else:
            _log.error("row_unreadable", id_pa=id_pa, row=number, reason=row, request_id=response.request_id)
    return Page(
        rows, page_count(body.get("totalPages"), response, _PAGES_MAX), len(listed) - len(rows), response.took_s
    )


def read_positions(response: ApiResponse) -> PositionsPage:
    """Return the page in an answer of GPD-Core."""
    body = read_object(response)
    info = body.get("page_info")
    positions = read_list(body.get("payment_position_list"), response)
    paid = [option for position in positions for option in _paid_options(position)]
    pages = info.get("total_pages") if isinstance(info, dict) else None
    return PositionsPage(paid, page_count(pages, response, _PAGES_MAX))


def _row(value: Any, id_pa: str) -> Row | str:
    """Return a listed row, or in words why it cannot be used; the other rows of its page can be."""
    if not isinstance(value, dict):
        return "it is not an object"
    iuv, paid_at = value.get("iuv"), value.get("paymentDateTime")
    if not usable_iuv(iuv):
        return f"its iuv is not a valid IUV: {iuv[:40]!r}" if isinstance(iuv, str) else "it has no iuv"
    if value.get("organizationFiscalCode") not in (None, id_pa):
        return "it belongs to another EC"
    return Row(iuv, paid_at if is_printable(paid_at) else "")


def _paid_options(position: Any) -> list[PaidPosition]:
    """Return a position's paid options, leaving out unreadable ones: this list is only a second opinion."""
    options = position.get("paymentOption") if isinstance(position, dict) else None
    paid = []
    for option in options if isinstance(options, list) else ():
        if not isinstance(option, dict) or not usable_iuv(option.get("iuv")) or option.get("status") == "PO_UNPAID":
            continue
        notice_number, cents = option.get("nav"), option.get("amount")
        paid.append(
            PaidPosition(
                option["iuv"],
                notice_number[:35] if is_printable(notice_number) else None,
                Decimal(cents).scaleb(-2) if type(cents) is int and 0 <= cents < 10**12 else None,
            )
        )
    return paid
