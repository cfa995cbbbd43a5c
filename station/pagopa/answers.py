"""What is in an answer: pages, rows, positions, the words of an error. Nothing of it is taken on trust."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from station import log
from station.errors import GpdAddressError, GpdAnswerError, GpdKeyError, GpdRequestError
from station.pagopa.http import Answer
from station.text import printable

# A list that never ends is a defect of the other side; ten million receipts in one window end before.
_PAGES = 100_000
_MESSAGE_LENGTH = 200

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """A receipt that is listed; `paid_at` as the API writes it, for comparing with its own bounds only."""

    iuv: str
    paid_at: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: its rows, how many pages there are, and how many rows say nothing that could be used.

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


def expect_ok(answer: Answer, setting: str, *media_types: str) -> None:
    """Raises unless the answer is a 200 of one of the media types. `setting` holds the address that was called."""
    told: dict[str, Any] = {"request_id": answer.request_id, "status": answer.status}
    match answer.status:
        case 200 if answer.media_type in media_types:
            return
        case 200:
            raise GpdAnswerError(f"200 with content type {printable(answer.media_type, 60) or 'missing'}", **told)
        case 401 | 403:
            raise GpdKeyError(f"{answer.status}{words(answer)}: the key is wrong, or does not cover this EC", **told)
        case 400:
            raise GpdRequestError(f"400{words(answer)}: the API rejects the request", **told)
        case 404:
            raise GpdAddressError(
                f"404{words(answer)} that does not come from the API: it is not at this address, check {setting}",
                **told,
            )
    raise GpdAnswerError(f"{answer.status}{words(answer)}: an undocumented answer", **told)


def nothing_found(answer: Answer) -> bool:
    """Whether it is the service's own 404, JSON with a `title`, which says that nothing was found.

    Any other 404 says that nothing of the service is at the address: the gateway's (JSON with `statusCode`, or HTML),
    the application server's (JSON with `timestamp`, `status`, `error` and `path`, or as RFC 9457 has it, with
    `instance`), an empty one. Taken for "nothing found", a mistyped URL would look like a quiet day, every day.
    """
    if answer.status != 404:
        return False
    with suppress(ValueError, RecursionError):
        body = json.loads(answer.body)
        return isinstance(body, dict) and isinstance(body.get("title"), str) and "instance" not in body
    return False


def words(answer: Answer) -> str:
    """What an error body says in its title or message, short and masked; nothing where it is no JSON."""
    with suppress(ValueError, RecursionError):
        body = json.loads(answer.body)
        if isinstance(body, dict):
            said = body.get("title") or body.get("message")
            if isinstance(said, str) and said.strip():
                return f" '{log.safe(said.strip()[:_MESSAGE_LENGTH])}'"
    return ""


def page_of(answer: Answer, id_pa: str) -> Page:
    """The page in an answer to a list call."""
    body = _json(answer)
    rows = [_row(one, id_pa) for one in _list(body.get("results"), answer)]
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str):
            _log.error("row_unreadable", id_pa=id_pa, row=number, reason=row, request_id=answer.request_id)
    readable = [row for row in rows if isinstance(row, Row)]
    return Page(readable, _pages(body.get("totalPages"), answer), len(rows) - len(readable), answer.took_s)


def positions_of(answer: Answer) -> PositionsPage:
    """The page in an answer of GPD-Core."""
    body = _json(answer)
    info = body.get("page_info")
    paid = [
        option for position in _list(body.get("payment_position_list"), answer) for option in _paid_options(position)
    ]
    return PositionsPage(paid, _pages(info.get("total_pages") if isinstance(info, dict) else None, answer))


def _json(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        raise GpdAnswerError("200 with a body that is not JSON", request_id=answer.request_id, status=200) from None
    if not isinstance(body, dict):
        raise GpdAnswerError("200 with JSON that is not an object", request_id=answer.request_id, status=200)
    return body


def _list(value: Any, answer: Answer) -> list[Any]:
    if not isinstance(value, list):
        raise GpdAnswerError("200 without a list of results", request_id=answer.request_id, status=200)
    return value


def _pages(value: Any, answer: Answer) -> int:
    if type(value) is not int or not 0 <= value <= _PAGES:
        raise GpdAnswerError("200 without a usable number of pages", request_id=answer.request_id, status=200)
    return value


# Any text the schema admits as IUV, but what a URL would read as a path.
_IUV = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f-\xa0]{1,35}")


def usable_iuv(text: Any) -> TypeGuard[str]:
    """Whether `text` can be an IUV and be asked for."""
    return _printable(text) and bool(_IUV.fullmatch(text))


def _row(one: Any, id_pa: str) -> Row | str:
    """A listed row, or what is wrong with it: the row is told, and the others of its page are read."""
    if not isinstance(one, dict):
        return "it is not an object"
    iuv, organization = one.get("iuv"), one.get("organizationFiscalCode")
    if not usable_iuv(iuv):
        return f"its iuv is not a valid IUV: {iuv[:40]!r}" if isinstance(iuv, str) else "it has no iuv"
    if organization not in (None, id_pa):
        return "it belongs to another EC"
    paid_at = one.get("paymentDateTime")
    return Row(iuv, paid_at if _printable(paid_at) else "")


def _printable(text: Any) -> TypeGuard[str]:
    """Whether `text` is one without control characters and lone surrogates, which no database and no log would take."""
    return isinstance(text, str) and text.isprintable()


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
                notice_number[:35] if _printable(notice_number) else None,
                Decimal(cents).scaleb(-2) if type(cents) is int and 0 <= cents < 10**12 else None,
            )
        )
    return paid
