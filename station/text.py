"""Text from outside, made safe for a terminal, a log, a page. And JSON, which escapes by itself.

Documents, answers of APIs, headers, file names and the database can hold colours and cursor movements that a terminal
obeys, line breaks that forge a second line, overrides that turn the direction of writing.
"""

import codecs
import json
from datetime import date, datetime
from decimal import Decimal
from typing import Any

LENGTH = 500

codecs.lookup("unicode_escape")  # loaded now: a line must not fail for want of file descriptors


def printable(value: object, length: int | None = LENGTH) -> str:
    """Return `value` as text on one line, cut to `length` characters, its unprintable characters escaped.

    Control characters, line breaks, overrides of direction, lone surrogates and blanks other than the space become
    Python's escapes (`\\x1b`, `\\n`, `\\u202e`).
    """
    text = str(value)
    if length is not None and len(text) > length:
        text = f"{text[:length]}..."
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, `1 receipt` or `2,760 receipts`; `plural` where it is more than an added s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def as_json(value: Any) -> str:
    """Return one line of JSON in ASCII, where every character that a terminal obeys is escaped."""
    return json.dumps(value, default=plain)


def plain(value: Any) -> Any:
    """Return text for a value that JSON has no type for: times in ISO 8601, amounts exact, hashes in hex."""
    match value:
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return str(value)
        case bytes():
            return value.hex()
    raise TypeError(type(value).__name__)
