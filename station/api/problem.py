"""Errors as RFC 9457 has them: `application/problem+json`, with a `code` that programs can tell apart."""

import json
from http import HTTPStatus
from typing import Any

from station.http.answer import Answer

CONTENT_TYPE = "application/problem+json"


def problem(status: int, code: str, detail: str, *fields: tuple[str, str], **members: Any) -> Answer:
    """Return an answer with a problem. `detail` is for people; `members` are added to the body."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail} | members
    return Answer(f"{status} {title}", json.dumps(body), CONTENT_TYPE, fields)


class ProblemError(Exception):
    """The request is answered with a problem."""

    def __init__(self, status: int, code: str, detail: str, *fields: tuple[str, str], **members: Any) -> None:
        super().__init__(code)
        self.code = code
        self.answer = problem(status, code, detail, *fields, **members)
