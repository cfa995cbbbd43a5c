"""Reading an answer: pages, rows, positions, the text of an error. Nothing in it is trusted."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from station import log
from station.errors import GpdAddressError, GpdAnswerError, GpdKeyError, GpdRequestError
from station.pagopa.http import ApiResponse
from station.text import printable

_PAGES_MAX = 100_000  # ten million receipts in one window; a list that never ends is a defect of the API
_MESSAGE_LENGTH = 200

_log = log.get(__name__)

# Any text that the schema admits as IUV, except `.` and `..`, which are paths in a URL.
_IUV = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f-\xa0]{1,35}")


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


def expect_ok(response: ApiResponse, setting: str, *media_types: str) -> None:
    """Raise `GpdError` unless it is a 200 of one of the media types; `setting` holds the address that was called."""
    context: dict[str, Any] = {"request_id": response.request_id, "status": response.status}
    said = f"{response.status}{error_text(response)}"
    match response.status:
        case 200 if response.media_type in media_types:
            return
        case 200:
            media_type = printable(response.media_type, 60) or "missing"
            raise GpdAnswerError(f"200 with content type {media_type}", **context)
        case 401 | 403:
            raise GpdKeyError(f"{said}: the key is wrong, or does not cover this EC", **context)
        case 400:
            raise GpdRequestError(f"{said}: the API rejects the request", **context)
        case 404:
            raise GpdAddressError(
                f"{said} that does not come from the API: it is not at this address, check {setting}", **context
            )
    raise GpdAnswerError(f"{said}: an undocumented answer", **context)


def nothing_found(response: ApiResponse) -> bool:
    """Return whether it is the service's own 404, JSON with a `title`, which means that nothing was found.

    Any other 404 means that the service is not at the address: the gateway's (JSON with `statusCode`, or HTML), the
    application server's (JSON with `timestamp`, `status`, `error` and `path`, or with `instance` as in RFC 9457), an
    empty one. Taken for "nothing found", a mistyped URL would look like a quiet day, every day.
    """
    body = _json(response) if response.status == 404 else None
    return isinstance(body, dict) and isinstance(body.get("title"), str) and "instance" not in body


def error_text(response: ApiResponse) -> str:
    """Return the title or message in an error's body, quoted, short and masked; empty if there is none."""
    body = _json(response)
    text = (body.get("title") or body.get("message")) if isinstance(body, dict) else None
    return f" '{log.safe(text.strip()[:_MESSAGE_LENGTH])}'" if isinstance(text, str) and text.strip() else ""


def read_page(response: ApiResponse, id_pa: str) -> Page:
    """Return the page in an answer to a list call."""
    body = _object(response)
    listed = _list(body.get("results"), response)
    rows = []
    for number, value in enumerate(listed, start=1):
        row = _row(value, id_pa)
        if isinstance(row, Row):
            rows.append(row)
        else:
            _log.error("row_unreadable", id_pa=id_pa, row=number, reason=row, request_id=response.request_id)
    return Page(rows, _pages(body.get("totalPages"), response), len(listed) - len(rows), response.took_s)


def read_positions(response: ApiResponse) -> PositionsPage:
    """Return the page in an answer of GPD-Core."""
    body = _object(response)
    info = body.get("page_info")
    positions = _list(body.get("payment_position_list"), response)
    paid = [option for position in positions for option in _paid_options(position)]
    return PositionsPage(paid, _pages(info.get("total_pages") if isinstance(info, dict) else None, response))


def usable_iuv(text: Any) -> TypeGuard[str]:
    """Return whether `text` can be an IUV and a part of a URL."""
    return _printable(text) and bool(_IUV.fullmatch(text))


def _json(response: ApiResponse) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(response.body)
    return None


def _object(response: ApiResponse) -> dict[str, Any]:
    body = _json(response)
    if not isinstance(body, dict):
        raise GpdAnswerError("200 with a body that is not a JSON object", request_id=response.request_id, status=200)
    return body


def _list(value: Any, response: ApiResponse) -> list[Any]:
    if not isinstance(value, list):
        raise GpdAnswerError("200 without a list of results", request_id=response.request_id, status=200)
    return value


def _pages(value: Any, response: ApiResponse) -> int:
    if type(value) is not int or not 0 <= value <= _PAGES_MAX:
        raise GpdAnswerError("200 without a usable number of pages", request_id=response.request_id, status=200)
    return value


def _row(value: Any, id_pa: str) -> Row | str:
    """Return a listed row, or in words why it cannot be used; the other rows of its page can be."""
    if not isinstance(value, dict):
        return "it is not an object"
    iuv, paid_at = value.get("iuv"), value.get("paymentDateTime")
    if not usable_iuv(iuv):
        return f"its iuv is not a valid IUV: {iuv[:40]!r}" if isinstance(iuv, str) else "it has no iuv"
    if value.get("organizationFiscalCode") not in (None, id_pa):
        return "it belongs to another EC"
    return Row(iuv, paid_at if _printable(paid_at) else "")


def _printable(text: Any) -> TypeGuard[str]:
    """Return whether `text` is one without control characters and lone surrogates: databases and logs reject those."""
    return isinstance(text, str) and text.isprintable()


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
                notice_number[:35] if _printable(notice_number) else None,
                Decimal(cents).scaleb(-2) if type(cents) is int and 0 <= cents < 10**12 else None,
            )
        )
    return paid
