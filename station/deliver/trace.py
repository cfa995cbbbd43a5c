"""Where one receipt went: for each of its numbers and each destination, what became of it."""

from datetime import datetime
from typing import Any, NamedTuple

from station import config, store
from station.deliver.content import choice
from station.store import delivery_list, outgoing, queries


class Trace(NamedTuple):
    """One number of a receipt at one destination.

    `state`: of a delivery by webhook open, delivered, failed or skipped; of a file planned, written, done or failed;
    `read` by a feed's reader; `waiting` until the destination comes to it; `not chosen` by its configuration; `unknown`
    where nothing is kept of it: it lies before the destination's start, or was purged. `at`: of the last attempt.
    """

    number: int
    revision: int
    destination: str
    kind: str
    state: str
    attempts: int | None = None
    at: datetime | None = None
    status: int | None = None
    next_attempt_at: datetime | None = None
    file: str | None = None
    error: str | None = None


def trace(settings: config.Settings, engine: store.Engine, id_pa: str, receipt_id: str) -> list[Trace]:
    """Return where a receipt went; empty while it has no number. Raise `StoreError`."""
    with store.transaction(engine, readonly=True) as connection:
        numbers = outgoing.numbers_of(connection, id_pa, receipt_id)
        receipts = queries.by_key(connection, [(id_pa, receipt_id)])
        destinations = delivery_list.figures(connection)
        delivered = {
            (row.destination, row.number): row
            for row in delivery_list.deliveries_of(connection, [row.number for row in numbers])
        }
        found = []
        for name in dict.fromkeys([*settings.destinations, *destinations]):
            configured, row = settings.destinations.get(name), destinations.get(name)
            kind = row.kind if row else settings.destinations[name].kind
            chosen = configured is None or all(choice(configured).has(receipt) for receipt in receipts)
            for one in numbers:
                delivery = delivered.get((name, one.number))
                file = delivery_list.file_of(connection, name, one.number) if kind == "folder" else None
                told: dict[str, Any] = {"state": "unknown"}
                if delivery is not None:
                    told = {name: getattr(delivery, name) for name in ("state", "attempts", "status", "error")}
                    told |= {"at": delivery.last_at}
                    told |= {"next_attempt_at": delivery.next_attempt_at if delivery.state == "open" else None}
                elif not chosen:
                    told = {"state": "not chosen"}
                elif row is None or one.number > row.position:
                    told = {"state": "waiting"}
                elif file is not None:
                    told = {"state": file.state, "at": file.last_at, "file": file.name, "error": file.error}
                elif kind == "feed":
                    told = {"state": "read"}
                found.append(Trace(one.number, one.revision, name, kind, **told))
    return sorted(found)
