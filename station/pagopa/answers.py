"""Reading an answer: its status, its JSON, the text of an error. Nothing in it is trusted."""

import json
import re
from contextlib import suppress
from decimal import Decimal
from typing import Any, TypeGuard

from station import log
from station.errors import ApiAddressError, ApiAnswerError, ApiKeyError, ApiRequestError
from station.pagopa.http import ApiResponse
from station.text import printable

_MESSAGE_LENGTH = 200

# Any text that the schema admits as IUV, except `.` and `..`, which are paths in a URL.
_IUV = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f-\xa0]{1,35}")


def expect_ok(response: ApiResponse, setting: str, *media_types: str) -> None:
    """Raise `ApiError` unless it is a 200 of one of the media types; `setting` holds the address that was called."""
    context: dict[str, Any] = {"request_id": response.request_id, "status": response.status}
    said = f"{response.status}{error_text(response)}"
    match response.status:
        case 200 if response.media_type in media_types:
            return
        case 200:
            media_type = printable(response.media_type, 60) or "missing"
            raise ApiAnswerError(f"200 with content type {media_type}", **context)
        case 401 | 403:
            raise ApiKeyError(f"{said}: the key is wrong, or does not cover this EC", **context)
        case 400:
            raise ApiRequestError(f"{said}: the API rejects the request", **context)
        case 404:
            raise ApiAddressError(
                f"{said} that does not come from the API: it is not at this address, check {setting}", **context
            )
    raise ApiAnswerError(f"{said}: an undocumented answer", **context)


def nothing_found(response: ApiResponse) -> bool:
    """Return whether it is the service's own 404, JSON with a `title`, which means that nothing was found.

    Any other 404 means that the service is not at the address: the gateway's (JSON with `statusCode`, or HTML), the
    application server's (JSON with `timestamp`, `status`, `error` and `path`, or with `instance` as in RFC 9457), an
    empty one. Taken for "nothing found", a mistyped URL would look like a quiet day, every day.
    """
    body = read_json(response) if response.status == 404 else None
    return isinstance(body, dict) and isinstance(body.get("title"), str) and "instance" not in body


def error_text(response: ApiResponse) -> str:
    """Return the title or message in an error's body, quoted, short and masked; empty if there is none."""
    body = read_json(response)
    texts = [body.get("title") or body.get("message")] if isinstance(body, dict) else []
    if isinstance(body, dict) and not texts[0]:  # FdR's own form
        errors = body.get("errors")
        first = errors[0] if isinstance(errors, list) and errors else None
        texts = [body.get("appErrorCode"), first.get("message") if isinstance(first, dict) else None]
    text = " ".join(text.strip() for text in texts if isinstance(text, str))
    return f" '{log.safe(text[:_MESSAGE_LENGTH])}'" if text else ""


def usable_iuv(text: Any) -> TypeGuard[str]:
    """Return whether `text` can be an IUV and a part of a URL."""
    return is_printable(text) and bool(_IUV.fullmatch(text))


def read_json(response: ApiResponse) -> Any:
    """Return the body's JSON, its numbers with a fraction as exact Decimals; `None` where it is unreadable."""
    with suppress(ValueError, RecursionError):
        return json.loads(response.body, parse_float=Decimal)
    return None


def read_object(response: ApiResponse) -> dict[str, Any]:
    """Return the JSON object that a body is. Raise `ApiAnswerError`."""
    body = read_json(response)
    if not isinstance(body, dict):
        raise ApiAnswerError("200 with a body that is not a JSON object", request_id=response.request_id, status=200)
    return body


def read_list(value: Any, response: ApiResponse) -> list[Any]:
    """Return `value`, a list in the answer. Raise `ApiAnswerError`."""
    if not isinstance(value, list):
        raise ApiAnswerError("200 without a list of results", request_id=response.request_id, status=200)
    return value


def page_count(value: Any, response: ApiResponse, most: int) -> int:
    """Return `value`, a number of pages up to `most`. Raise `ApiAnswerError`."""
    if type(value) is not int or not 0 <= value <= most:
        raise ApiAnswerError("200 without a usable number of pages", request_id=response.request_id, status=200)
    return value


def is_printable(text: Any) -> TypeGuard[str]:
    """Return whether `text` is one without control characters and lone surrogates: databases and logs reject those."""
    return isinstance(text, str) and text.isprintable()
