"""Keyset pagination: a page starts behind the last row of the one before, so page 10,000 costs as much as page 1."""

import base64
import binascii
import json
from collections.abc import Iterable
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
        return base64.urlsafe_b64encode(as_json(self).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, word: str, orders: Iterable[str], key_type: type[str] | type[int]) -> "Cursor":
        """Return the cursor in a word that `encode` made for a list in one of `orders`. Raises `ValueError`."""
        try:
            order, at, id_pa, key = json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))
            cursor = cls(order, datetime.fromisoformat(at), id_pa, key)
            cursor.at.astimezone(UTC)
            text = f"{id_pa}{key}".encode()  # no half of a surrogate pair, which no driver takes
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
            raise ValueError("not a cursor") from None
        fitting = order in orders and cursor.at.tzinfo and type(id_pa) is str and type(key) is key_type
        if not fitting or b"\0" in text or (isinstance(key, int) and not 0 <= key < 2**63):
            raise ValueError("not a cursor")
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
        return base64.urlsafe_b64encode(as_json(self.values).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, word: str, *kinds: type) -> "RowPlace":
        """Return the place in a word that `encode` made of values of these kinds. Raises `ValueError`."""
        try:
            given = json.loads(base64.urlsafe_b64decode(word + "=" * (-len(word) % 4)))
            text = "".join(one for one in given if type(one) is str).encode()  # no half of a surrogate pair
            values = [datetime.fromisoformat(one) if kind is datetime else one for one, kind in
                      zip(given, kinds, strict=True)]  # fmt: skip
            for value in values:
                if isinstance(value, datetime):
                    value.astimezone(UTC)
        except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
            raise ValueError("not a place") from None
        fitting = all(type(value) is kind for value, kind in zip(values, kinds, strict=True))
        if not fitting or b"\0" in text or any(
            value.tzinfo is None if isinstance(value, datetime) else type(value) is int and not 0 <= value < 2**31
            for value in values
        ):  # fmt: skip
            raise ValueError("not a place")
        return cls(tuple(values))

    def literals(self) -> list[Any]:
        """Return the values for a comparison in SQL."""
        return [literal(value, UtcDateTime()) if isinstance(value, datetime) else literal(value)
                for value in self.values]  # fmt: skip


def in_order(columns: Iterable[Any], *, newest_first: bool = False) -> list[Any]:
    """Return columns to sort by."""
    return [column.desc() if newest_first else column for column in columns]
