"""Who looked up whom in the console: write it down, list it. `station purge` forgets it. Nothing here commits."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, String, func, insert, literal, literal_column, select, tuple_

from station.store.limits import among
from station.store.paging import Cursor, in_order
from station.store.tables import ALIKE, UtcDateTime, console_access

_PLACE = (console_access.c.at, console_access.c.access_id)


def write_accesses(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write down look-ups: `at`, `username`, `address`, `action`, `id_pa`, `receipt_id`, `subject`, `found`."""
    if numbered := [{**row, "access_id": secrets.randbits(63)} for row in rows]:
        connection.execute(insert(console_access), numbered)


@dataclass(frozen=True, slots=True)
class AccessFilter:
    """Which look-ups: every condition that is given must hold. Times are aware, `at_to` is not included.

    `id_pas`: the ECs of which the reader may know, `None` all, and only then also look-ups without an EC. `subject` is
    found however it is written.
    """

    id_pas: tuple[str, ...] | None = None
    username: str | None = None
    subject: str | None = None
    at_from: datetime | None = None
    at_to: datetime | None = None


def list_accesses(
    connection: Connection, wanted: AccessFilter, *, after: Cursor | None = None, limit: int = 50
) -> Sequence[Row[Any]]:
    """Return a page of look-ups with all columns, newest first, behind a place of `place_of`."""
    query = select(console_access).where(*_conditions(wanted))
    if after is not None:
        query = query.where(tuple_(*_PLACE) < tuple_(literal(after.at, UtcDateTime()), literal(after.key)))
    return connection.execute(query.order_by(*in_order(_PLACE, newest_first=True)).limit(limit)).all()


def place_of(row: Row[Any]) -> Cursor:
    """Return the place of a look-up in the list, of order `at` and a whole number as key."""
    return Cursor("at", row.at, "", row.access_id)


def _conditions(wanted: AccessFilter) -> Iterable[ColumnElement[bool]]:
    table = console_access.c
    yield from among(table.id_pa, wanted.id_pas)
    if wanted.username is not None:
        yield table.username == wanted.username
    if wanted.subject is not None:
        alike = literal_column(ALIKE.format("subject"), String())
        yield alike == func.upper(func.replace(wanted.subject, " ", ""))
    if wanted.at_from is not None:
        yield table.at >= wanted.at_from
    if wanted.at_to is not None:
        yield table.at < wanted.at_to
