"""What an application answers to a request."""

from typing import NamedTuple


class Answer(NamedTuple):
    """An answer of the application: status line, body (a `str` is a line of text), its kind, more header fields."""

    status: str
    body: bytes | str
    content_type: str = "text/plain; charset=utf-8"
    fields: tuple[tuple[str, str], ...] = ()
