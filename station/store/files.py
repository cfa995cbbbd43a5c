"""The files of folders in the database: planned, written, done. Times are aware UTC. Nothing here commits."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, select, update

from station.store import tables
from station.store.deliveries import change
from station.store.rows import insert_rows

PLANNED, WRITTEN, DONE, FAILED = "planned", "written", "done", "failed"

_file, _destination = tables.delivery_file.c, tables.destination.c


def destination_of(connection: Connection, name: str) -> Row[Any] | None:
    """Return the row of a destination."""
    return connection.execute(select(tables.destination).filter_by(name=name)).one_or_none()


def open_files(connection: Connection, name: str, *, limit: int = 100) -> Sequence[Row[Any]]:
    """Return the files of a destination that are not done, the oldest first."""
    query = select(tables.delivery_file).where(_file.destination == name, tables.NOT_SETTLED)
    return connection.execute(query.order_by(_file.planned_at).limit(limit)).all()


def next_file(connection: Connection, name: str, state: str) -> Row[Any] | None:
    """Return the oldest file of a destination in one of the states that are not done."""
    query = select(tables.delivery_file).where(_file.destination == name, tables.NOT_SETTLED, _file.state == state)
    return connection.execute(query.order_by(_file.planned_at).limit(1)).one_or_none()


def free_time(connection: Connection, name: str, at: datetime) -> datetime:
    """Return `at`, or some microseconds later where the destination has files of that time: it is their key."""
    near = (_file.planned_at >= at, _file.planned_at < at + timedelta(seconds=1))
    query = select(_file.planned_at).where(_file.destination == name, *near).order_by(_file.planned_at.desc()).limit(1)
    last: datetime | None = connection.execute(query).scalar()
    return at if last is None else last + timedelta(microseconds=1)


def plan(
    connection: Connection, destination: Row[Any], name: str, *, to: int, at: datetime, next_at: datetime | None
) -> bool:
    """Plan the file `name` with the numbers behind the position of a destination up to `to`, and move the position.

    `next_at`: when the next one is due. Return False, with nothing done, where the destination does not stand as this
    row says any more: another deliverer was quicker.
    """
    stands = (
        _destination.position == destination.position,
        _destination.next_attempt_at == destination.next_attempt_at,
    )
    moved = update(tables.destination).where(_destination.name == destination.name, *stands)
    if not connection.execute(moved.values(position=to, next_attempt_at=next_at)).rowcount:
        return False
    add(connection, destination.name, name, first=destination.position + 1, last=to, at=at)
    return True


def add(connection: Connection, destination: str, name: str, *, first: int, last: int, at: datetime) -> None:
    """Add a planned file with these numbers; `at` must be of no other file (`free_time`)."""
    row = {"destination": destination, "planned_at": at, "name": name, "number_from": first, "number_to": last}
    insert_rows(connection, tables.delivery_file, [row | {"state": PLANNED, "attempts": 0, "next_attempt_at": at}])


def set_file(
    connection: Connection, file: Row[Any], values: Mapping[str, Any], *, of_destination: Mapping[str, Any]
) -> bool:
    """Set columns of a file, and of its destination. Return False where its state changed since it was read."""
    key = (_file.destination == file.destination, _file.planned_at == file.planned_at)
    changed = update(tables.delivery_file).where(*key, _file.state == file.state).values(**values)
    if not connection.execute(changed).rowcount:
        return False
    change(connection, file.destination, of_destination)
    return True


def skip(connection: Connection, file: Row[Any], reason: str, *, at: datetime) -> bool:
    """Give up a file that is not done, so that those behind it go on. Its numbers can be planned again."""
    return set_file(
        connection, file, {"state": FAILED, "error": reason, "settled_at": at}, of_destination={"failures": 0}
    )
