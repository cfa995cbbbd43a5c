"""The order of delivery: numbers for what is committed, and pages of it. Nothing here commits.

A time of arrival or a sequence is no cursor: a receipt whose commit comes late would lie behind a reader that has
passed its place already. So a receipt leaves a row in the outbox, in its own transaction, and one planner gives the
next number to each row that it sees: a number is higher than all that were readable before it, and none is left out.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, literal, select, text, tuple_, union_all

from station.store import tables
from station.store.paging import Cursor
from station.store.queries import by_key, rows_of
from station.store.rows import insert

_PLANNER_LOCK = 0x5741_706C  # of PostgreSQL's advisory locks; SQLite has one writer anyway
# How far before its end a check begins again: a receipt of an older version may be committed later than a newer one.
_CHECK_OVERLAP = timedelta(hours=2)
# A reader of more ECs than this looks through a span of all numbers, instead of each EC's index.
_ECS_BY_INDEX = 50
_SPAN = 20_000

_outbox, _outgoing, _receipt = tables.outbox.c, tables.outgoing.c, tables.receipt.c
_KEY = ("id_pa", "receipt_id", "revision")


def last_number(connection: Connection) -> int:
    """Return the highest number that was given; 0 if there is none."""
    return connection.execute(select(func.max(_outgoing.number))).scalar() or 0


def number_outbox(connection: Connection, *, at: datetime, limit: int) -> int:
    """Give numbers to what is in the outbox, the oldest first, `limit` at most. Return how many it gave."""
    last = _begin(connection)
    numbered = select(literal(1)).where(*(_outgoing[name] == _outbox[name] for name in _KEY))
    order = [_outbox.at, *(_outbox[name] for name in _KEY)]
    # A row that has a number already would stop all behind it; no known way leads there.
    rows = connection.execute(select(*order).where(~numbered.exists()).order_by(*order).limit(limit)).all()
    if rows:
        _give_numbers(connection, rows, last, at)
        # The place, so that a long outbox is not read for each batch. A row that was committed meanwhile may lie before
        # it, and stays.
        place = tuple_(*(literal(value, column.type) for value, column in zip(rows[-1], order, strict=True)))
        given = numbered.where(_outgoing.number > last)
        connection.execute(delete(tables.outbox).where(tuple_(*order) <= place, given.exists()))
    return len(rows)


def number_unnumbered(connection: Connection, *, at: datetime, limit: int, restart: bool) -> tuple[int, int]:
    """Look through the next `limit` receipts in order of arrival for those that never had a row in the outbox.

    They were stored before there was one, or by an older version of the station at an upgrade. Return how many were
    looked at (0 at the end) and how many got a number. `restart`: begin anew, some hours before where the last check
    ended.
    """
    last = _begin(connection)
    table = tables.outgoing_check
    place = connection.execute(select(table).filter_by(part="receipts")).one_or_none()
    columns = [_receipt.received_at, _receipt.id_pa, _receipt.receipt_id]
    query = select(*columns, _receipt.revision).order_by(*columns).limit(limit)
    if place is not None and restart:
        query = query.where(_receipt.received_at > min(place.received_at, at) - _CHECK_OVERLAP)
    elif place is not None:
        query = query.where(Cursor.of("received_at", place).behind(columns))
    page = query.subquery()
    key = (page.c.id_pa, page.c.receipt_id)
    has_number = select(literal(1)).where(_outgoing.id_pa == key[0], _outgoing.receipt_id == key[1]).exists()
    in_outbox = select(literal(1)).where(
        _outbox.at == page.c.received_at, _outbox.id_pa == key[0], _outbox.receipt_id == key[1]
    )
    # Of a later revision there is a row in the outbox, at another time, or it has a number.
    known = has_number | in_outbox.exists() | (page.c.revision > 1)
    found = select(page, known.label("known")).order_by(*list(page.c)[:3])
    rows = connection.execute(found).all()
    new = [row for row in rows if not row.known]
    if new:
        _give_numbers(connection, new, last, at)
    if rows:
        checked = insert(connection, table).values(
            part="receipts", received_at=rows[-1].received_at, id_pa=rows[-1].id_pa, receipt_id=rows[-1].receipt_id
        )
        moved = {column.name: checked.excluded[column.name] for column in columns}
        connection.execute(checked.on_conflict_do_update(index_elements=["part"], set_=moved))
    return len(rows), len(new)


def _give_numbers(connection: Connection, rows: Sequence[Any], last: int, at: datetime) -> None:
    given = [
        {"number": number, "numbered_at": at} | {name: getattr(row, name) for name in _KEY}
        for number, row in enumerate(rows, start=last + 1)
    ]
    connection.execute(tables.outgoing.insert(), given)


def waiting(connection: Connection, *, limit: int = 100_000) -> tuple[int, datetime | None]:
    """Return how many rows are in the outbox, counted up to `limit`, and when the oldest came."""
    some = select(_outbox.at).limit(limit).subquery()
    count = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count, connection.execute(select(func.min(_outbox.at))).scalar()


class Choice(NamedTuple):
    """The receipts that a destination gets: of these ECs (none: all), and with a transfer whose category begins with
    one of `categories` (none: with any); `copies`: also those of payments that another EC owns."""

    ecs: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    copies: bool = True

    def has(self, receipt: dict[str, Any]) -> bool:
        """Return whether a receipt, with its transfers, is chosen."""
        return (
            (not self.ecs or receipt["id_pa"] in self.ecs)
            and (self.copies or receipt["fiscal_code"] == receipt["id_pa"])
            and (
                not self.categories
                or any(one["transfer_category"].startswith(self.categories) for one in receipt["transfers"])
            )
        )


class Numbered(NamedTuple):
    """One revision of a receipt in the order of delivery. `receipt` is what it is now, as `queries.by_key` has it."""

    number: int
    revision: int
    numbered_at: datetime
    receipt: dict[str, Any]


class OutgoingPage(NamedTuple):
    """Some of what a destination gets, in order; `next` is the number to go on behind, and `more` says that there may
    be more behind it now."""

    items: list[Numbered]
    next: int
    more: bool


def outgoing_page(
    connection: Connection, choice: Choice, *, after: int, limit: int, last: int | None = None, raw: bool = False
) -> OutgoingPage:
    """Return what is chosen of the numbers behind `after`, up to `last`, at most `limit`; `raw`: with the documents.

    The time it takes is bounded: it may return fewer, or none, and there is more all the same.
    """
    highest = last_number(connection)
    last = highest if last is None else min(last, highest)
    rows, reached = _candidates(connection, choice.ecs, after, last, limit)
    items = [item for item in _with_receipts(connection, rows, raw=raw) if choice.has(item.receipt)]
    return OutgoingPage(items, max(after, reached), reached < last)


def by_number(connection: Connection, numbers: Sequence[int], *, raw: bool = False) -> list[Numbered]:
    """Return what has these numbers, in order; what is not stored any more is left out."""
    query = select(tables.outgoing).where(_outgoing.number.in_(numbers)).order_by(_outgoing.number)
    return _with_receipts(connection, connection.execute(query).all(), raw=raw)


def _with_receipts(connection: Connection, rows: Sequence[Any], *, raw: bool) -> list[Numbered]:
    keys = list({(row.id_pa, row.receipt_id) for row in rows})
    receipts = {(one["id_pa"], one["receipt_id"]): one for one in by_key(connection, keys, raw=raw)}
    return [
        Numbered(row.number, row.revision, row.numbered_at, receipts[row.id_pa, row.receipt_id])
        for row in rows
        if (row.id_pa, row.receipt_id) in receipts
    ]


def _candidates(
    connection: Connection, ecs: Sequence[str], after: int, last: int, limit: int
) -> tuple[Sequence[Any], int]:
    """Return rows of `outgoing` of these ECs, and the number up to which there are no others."""
    query = select(tables.outgoing).where(_outgoing.number > after, _outgoing.number <= last)
    end = last
    if 0 < len(ecs) <= _ECS_BY_INDEX:
        # For several ECs behind IN the database reads all numbers, or sorts all of theirs.
        parts = [
            select(query.where(_outgoing.id_pa == id_pa).order_by(_outgoing.number).limit(limit).subquery())
            for id_pa in ecs
        ]
        of_each = union_all(*parts).subquery()
        query = select(of_each).order_by(of_each.c.number)
    else:
        if ecs:
            end = min(last, after + _SPAN)
            query = query.where(_outgoing.id_pa.in_(ecs), _outgoing.number <= end)
        query = query.order_by(_outgoing.number)
    rows = connection.execute(query.limit(limit)).all()
    return rows, (rows[-1].number if len(rows) == limit else end)


def numbers_of(connection: Connection, id_pa: str, receipt_id: str) -> list[Any]:
    """Return the rows of `outgoing` of a receipt, by revision."""
    query = select(tables.outgoing).filter_by(id_pa=id_pa, receipt_id=receipt_id)
    return list(connection.execute(query.order_by(_outgoing.revision)))


def numbers_by_key(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[int]]:
    """Return the numbers of several receipts, by (id_pa, receipt_id), in order."""
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows_of(connection, tables.outgoing, keys, _outgoing.number):
        found.setdefault((row.id_pa, row.receipt_id), []).append(row.number)
    return found


def range_end(connection: Connection, ecs: Sequence[str], *, after: int, limit: int) -> int:
    """Return the number at which a range behind `after` ends that has at most `limit` revisions of these ECs, or of all
    without any; the last number where there are no more."""
    query = select(_outgoing.number).where(_outgoing.number > after).order_by(_outgoing.number)
    if ecs:
        query = query.where(_outgoing.id_pa.in_(ecs))
    end = connection.execute(query.offset(limit - 1).limit(1)).scalar()
    return last_number(connection) if end is None else end


def number_before(connection: Connection, moment: datetime) -> int:
    """Return the number before the first receipt that arrived from `moment` on: where a destination begins that starts
    then."""
    of_receipt = (_receipt.id_pa == _outgoing.id_pa) & (_receipt.receipt_id == _outgoing.receipt_id)
    query = select(func.min(_outgoing.number)).select_from(tables.outgoing.join(tables.receipt, of_receipt))
    first = connection.execute(query.where(_receipt.received_at >= moment)).scalar()
    return last_number(connection) if first is None else first - 1


def _begin(connection: Connection) -> int:
    """Lock the order against another planner, and return the last number."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PLANNER_LOCK})
    return last_number(connection)
