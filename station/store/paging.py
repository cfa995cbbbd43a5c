"""Keyset pagination: a page starts behind the last row of the one before, so page 10,000 costs as much as page 1."""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, literal, tuple_

from station.store.tables import UtcDateTime
from station.text import as_json


class Cursor(NamedTuple):
    """The place of a row in a list: by time, EC and a `key` that tells rows of one EC and time apart.

    `order` names the column of the time. The key is a receipt's `receipt_id`, an exchange's `event_id` or a refused
    request's `raw_hash`, of which no cursor is printed.
    """

    order: str
    at: datetime
    id_pa: str
    key: str | int | bytes

    @classmethod
    def of(cls, order: str, row: Any, key: str = "receipt_id") -> "Cursor":
        """Return the place of a row, whose attributes `order` and `key` name."""
        return cls(order, getattr(row, order), row.id_pa, getattr(row, key))

    def encode(self) -> str:
        """Return the cursor as one word, for `--after`."""
        return _encoded(self)

    @classmethod
    def decode(cls, word: str, orders: Iterable[str], key_type: type[str] | type[int]) -> "Cursor":
        """Return the cursor in a word that `encode` made for a list in one of `orders`. Raises `ValueError`."""
        cursor = cls(*_decoded(word, str, datetime, str, key_type))
        if cursor.order not in orders:
            raise ValueError("not a cursor of this list")
        return cursor

    def behind(self, columns: Iterable[Any], *, newest_first: bool = False) -> ColumnElement[bool]:
        """Return the condition for the rows behind this one, in a list sorted by `columns`."""
        place = tuple_(literal(self.at, UtcDateTime()), literal(self.id_pa), literal(self.key))
        return tuple_(*columns) < place if newest_first else tuple_(*columns) > place


@dataclass(frozen=True, slots=True)
class RowPlace:
    """The place of a row in a list with an order of its own: the values that it is sorted by."""

    values: tuple[datetime | str | int, ...]

    def encode(self) -> str:
        """Return the place as one word."""
        return _encoded(self.values)

    @classmethod
    def decode(cls, word: str, *kinds: type) -> "RowPlace":
        """Return the place in a word that `encode` made of values of these kinds. Raises `ValueError`."""
        return cls(_decoded(word, *kinds))

    def literals(self) -> list[Any]:
        """Return the values for a comparison in SQL."""
        return [literal(value, UtcDateTime()) if isinstance(value, datetime) else literal(value)
                for value in self.values]  # fmt: skip


def _encoded(values: Sequence[Any]) -> str:
    return base64.urlsafe_b64encode(as_json(values).encode()).decode().rstrip("=")


def _decoded(word: str, *kinds: type) -> tuple[Any, ...]:
    """Return the values in a word of `_encoded`: aware times, and texts and numbers that a driver takes."""
    try:
        given = zip(json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4))), kinds, strict=True)
        values = tuple(datetime.fromisoformat(one) if kind is datetime else one for one, kind in given)
        text = "".join(one for one in values if isinstance(one, str)).encode()  # no half of a surrogate pair
        times = [one for one in values if isinstance(one, datetime) and one.astimezone(UTC)]
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError("not a place in a list") from None
    fitting = tuple(map(type, values)) == kinds and all(one.tzinfo for one in times) and b"\0" not in text
    if not fitting or not all(0 <= one < 2**63 for one in values if isinstance(one, int)):
        raise ValueError("not a place in a list")
    return values


def in_order(columns: Iterable[Any], *, newest_first: bool = False) -> list[Any]:
    """Return columns to sort by."""
    return [column.desc() if newest_first else column for column in columns]
