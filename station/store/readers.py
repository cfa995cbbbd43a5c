"""The readers of the feed in the database: how far each has come. Nothing here commits."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, case, select

from station.store import tables
from station.store.rows import insert

_outgoing = tables.outgoing.c


class Read(NamedTuple):
    """What a reader asked for last: the number that it has all up to, and when it was answered."""

    position: int
    at: datetime


def ecs_between(connection: Connection, after: int, last: int) -> set[str]:
    """Return the ECs whose receipts have the numbers behind `after`, up to `last`."""
    query = select(_outgoing.id_pa).where(_outgoing.number > after, _outgoing.number <= last)
    return set(connection.execute(query.distinct()).scalars())


def record_reads(connection: Connection, reads: Mapping[str, Read]) -> None:
    """Write how far readers have come, by name. A position only rises: a reader that reads again stays where it was.

    A destination of this name that was a webhook or a folder before keeps its place.
    """
    table = tables.destination
    for name, read in sorted(reads.items()):  # in order: two processes must not wait for each other
        values = {"position": read.position, "last_attempt_at": read.at, "last_success_at": read.at}
        new = {"name": name, "kind": "feed", "state": "active", "failures": 0, "first_at": read.at} | values
        added = insert(connection, table).values(new)
        is_higher = table.c.position > added.excluded.position
        values["position"] = case((is_higher, table.c.position), else_=added.excluded.position)
        is_feed = table.c.kind == "feed"
        connection.execute(added.on_conflict_do_update(index_elements=["name"], set_=values, where=is_feed))
