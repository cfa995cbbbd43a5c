"""Destinations and deliveries in the database: where each destination stands, what is to be sent, how it went.

Times are aware UTC, `at` and `now` are given by the caller. Nothing here commits.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, case, or_, select, update

from station.journal import Exchange
from station.store import tables
from station.store.rows import insert, insert_rows

# A later time of a next attempt than any that is given was written while a clock was wrong: it does not count.
LATEST_ATTEMPT = timedelta(hours=27)

_destination, _delivery = tables.destination.c, tables.delivery.c


def destinations(connection: Connection) -> dict[str, Row[Any]]:
    """Return the destinations that were served at least once, by name, with the columns of `tables.destination`."""
    return {row.name: row for row in connection.execute(select(tables.destination).order_by(_destination.name))}


def register(connection: Connection, name: str, kind: str, *, position: int, at: datetime) -> bool:
    """Add a destination that gets what lies behind `position`. Return False where it is known: it stays as it is."""
    row = {"name": name, "kind": kind, "position": position, "state": "active", "failures": 0, "first_at": at}
    return insert_rows(connection, tables.destination, [row], if_new=True)


def change(connection: Connection, name: str, values: Mapping[str, Any]) -> bool:
    """Set columns of a destination. Return False where there is none of this name."""
    query = update(tables.destination).where(_destination.name == name)
    return connection.execute(query.values(**values)).rowcount > 0


def pause(connection: Connection, name: str, reason: str) -> bool:
    """Send a destination nothing more until `resume`. Return False where there is no such destination."""
    return change(connection, name, {"state": "paused", "reason": reason})


def resume(connection: Connection, name: str) -> bool:
    """Serve a paused destination again, or one that is away at once, its failures forgotten.

    The files of a folder that wait for another try are due. When its next one is planned stays.
    """
    waiting = update(tables.delivery_file).where(tables.delivery_file.c.destination == name, tables.NOT_SETTLED)
    connection.execute(waiting.values(next_attempt_at=tables.delivery_file.c.planned_at))
    planned = case((_destination.kind == "folder", _destination.next_attempt_at))
    values = {"state": "active", "reason": None, "failures": 0, "next_attempt_at": planned}
    return change(connection, name, values)


def claim(
    connection: Connection, claims: Mapping[str, Sequence[int]], *, position: int, to: int, at: datetime
) -> set[str]:
    """Make numbers due for webhooks that stand at `position`, by their names, and move these on `to` a later one.

    Return the names of those that stood there: for any other one nothing was done, since an operator or another
    deliverer was quicker.
    """
    query = update(tables.destination).where(_destination.name.in_(claims), _destination.position == position)
    claimed = set(connection.execute(query.values(position=to).returning(_destination.name)).scalars())
    columns = {"state": "open", "attempts": 0, "next_attempt_at": at}
    rows = [columns | {"destination": name, "number": number} for name in sorted(claimed) for number in claims[name]]
    if rows:
        # An operator may have asked for some of them before it came here.
        connection.execute(insert(connection, tables.delivery).on_conflict_do_nothing(), rows)
    return claimed


def due(
    connection: Connection, name: str, *, now: datetime, limit: int, untried_first: bool = False, in_turn: bool = False
) -> Sequence[Row[Any]]:
    """Return the open deliveries of a destination whose time has come, in order of their numbers.

    One that was never tried is due whatever its time: the clock may have been set back since. With `untried_first`
    those come before the others, with `in_turn` also those that were sent longest ago before those sent since.
    """
    query = select(tables.delivery).where(
        _delivery.destination == name,
        tables.IS_OPEN,
        or_(
            _delivery.attempts == 0,
            _delivery.next_attempt_at <= now,
            _delivery.next_attempt_at > now + LATEST_ATTEMPT,
        ),
    )
    first = [_delivery.attempts] if untried_first else []
    turn = [_delivery.last_at.asc().nulls_first()] if in_turn else []
    return connection.execute(query.order_by(*first, *turn, _delivery.number).limit(limit)).all()


def names_due(connection: Connection, *, now: datetime) -> set[str]:
    """Return the destinations with open deliveries whose time has come."""
    query = select(_delivery.destination).where(tables.IS_OPEN, _delivery.next_attempt_at <= now).distinct()
    return set(connection.execute(query).scalars())


def has_open(connection: Connection, name: str) -> bool:
    """Return whether a destination has open deliveries."""
    query = select(_delivery.number).where(_delivery.destination == name, tables.IS_OPEN)
    return connection.execute(query.limit(1)).scalar() is not None


class Attempt(NamedTuple):
    """One attempt to deliver a number, with the row as it is to be afterwards.

    `result` is counted: delivered, refused (of this receipt), unreachable (of the destination). `exchange`: its row of
    the event journal. `attempts` are those that count for the schedule of this receipt.
    """

    destination: str
    number: int
    result: str
    state: str
    attempts: int
    next_attempt_at: datetime
    first_at: datetime | None
    last_at: datetime
    status: int | None
    error: str | None
    settled_at: datetime | None
    exchange: Exchange | None = None


_WRITTEN = ("state", "attempts", "next_attempt_at", "first_at", "last_at", "status", "error", "settled_at")
_IS_THE_ROW = (_delivery.destination == bindparam("of_destination")) & (_delivery.number == bindparam("of_number"))


def write_results(connection: Connection, attempts: Sequence[Attempt], health: Mapping[str, Mapping[str, Any]]) -> None:
    """Write attempts, of one or more destinations, with all that follows; `health`: columns of these destinations.

    A delivery that is not open any more (skipped meanwhile) stays as it is.
    """
    if attempts:
        query = update(tables.delivery).where(_IS_THE_ROW, tables.IS_OPEN)
        rows = [
            {name: getattr(attempt, name) for name in _WRITTEN}
            | {"of_destination": attempt.destination, "of_number": attempt.number}
            for attempt in attempts
        ]
        connection.execute(query, rows)
    for (name, result), times in sorted(Counter((one.destination, one.result) for one in attempts).items()):
        count(connection, name, result, times)
    for name, values in sorted(health.items()):
        change(connection, name, values)
    insert_rows(connection, tables.journal, [one.exchange._asdict() for one in attempts if one.exchange])


def count(connection: Connection, name: str, result: str, times: int = 1) -> None:
    """Count attempts of a destination with this result."""
    table = tables.delivery_count
    added = insert(connection, table).values(destination=name, result=result, count=times)
    connection.execute(
        added.on_conflict_do_update(
            index_elements=["destination", "result"], set_={"count": table.c.count + added.excluded["count"]}
        )
    )


def counts(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of attempts by destination and result."""
    table = tables.delivery_count.c
    rows = connection.execute(select(table.destination, table.result, table.count))
    return {(name, result): times for name, result, times in rows}


def settle_missing(connection: Connection, name: str, numbers: Iterable[int], *, at: datetime) -> None:
    """Skip open deliveries of receipts that are not stored any more."""
    values = {"state": "skipped", "settled_at": at, "error": "the receipt is not stored any more"}
    query = update(tables.delivery).where(_IS_THE_ROW, tables.IS_OPEN).values(**values)
    if rows := [{"of_destination": name, "of_number": number} for number in numbers]:
        connection.execute(query, rows)
