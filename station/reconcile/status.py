"""How far each EC was walked, what its last runs did, and what is still missing: for people and for monitoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from station import config, store
from station.store.runs import Item


@dataclass(frozen=True, slots=True)
class EcStatus:
    """One EC. `late`: it is to be walked and was not walked completely for longer than `gpd.late_hours`, or ever.

    `in_future`: one of these times lies in the future, written by a clock that was ahead: it counts as late, and the
    next run mends it. `walked_at`: the end of the last complete walk, `watermark` its start; `swept_at`: the end of the
    last complete wide sweep. `runs`: the latest rows of the ledger, the latest first. Items are receipts that are
    missing: open ones are asked for again, refused ones are kept as refused requests, given-up ones were asked for long
    enough.
    """

    id_pa: str
    late: bool
    in_future: bool
    watermark: datetime | None
    walked_at: datetime | None
    swept_at: datetime | None
    runs: Sequence[dict[str, Any]]
    open_items: int
    refused_items: int
    given_up_items: int


@dataclass(frozen=True, slots=True)
class Status:
    """All ECs, and the receipts that have been missing longest (`items`) of all that are (`items_total`)."""

    ecs: Sequence[EcStatus]
    items: Sequence[Item]
    items_total: int

    @property
    def late(self) -> bool:
        return any(ec.late for ec in self.ecs)


def status(
    settings: config.Settings, engine: store.Engine, id_pas: Sequence[str] = (), *, runs: int = 1, items: int = 50
) -> Status:
    """The configured ECs, and those that were walked once and are not configured any more; or those named.

    `runs` and `items`: how many rows of the ledger for each EC, and how many open items, at most. Raises `StoreError`.
    """
    now = datetime.now(UTC)
    with store.transaction(engine, readonly=True) as connection:
        marks = store.runs.watermarks(connection)
        names = list(dict.fromkeys(id_pas or [*(ec.id for ec in settings.ec), *sorted(marks)]))
        counts: dict[tuple[str, str], int] = {}
        for row in store.runs.count_items(connection, id_pas):
            counts[row.id_pa, row.state] = counts.get((row.id_pa, row.state), 0) + row.number
        ecs = []
        for id_pa in names:
            mark = marks.get(id_pa)
            ec = settings.ecs.get(id_pa)
            wanted = ec.reconcile if ec else not settings.ec
            since = timedelta(hours=settings.gpd.late_hours)
            times = (mark.watermark, mark.walked_at, mark.swept_at) if mark else ()
            in_future = any(at is not None and at > now + store.CLOCK_TOLERANCE for at in times)
            ecs.append(
                EcStatus(
                    id_pa=id_pa,
                    late=wanted and (mark is None or in_future or now - mark.walked_at > since),
                    in_future=in_future,
                    watermark=mark.watermark if mark else None,
                    walked_at=mark.walked_at if mark else None,
                    swept_at=mark.swept_at if mark else None,
                    runs=[dict(row._mapping) for row in store.runs.latest_runs(connection, id_pa, limit=runs)],
                    open_items=counts.get((id_pa, "open"), 0),
                    refused_items=counts.get((id_pa, "refused"), 0),
                    given_up_items=counts.get((id_pa, "given_up"), 0),
                )
            )
        listed = store.runs.list_items(connection, id_pas, limit=items)
    return Status(ecs, listed, sum(counts.values()))
