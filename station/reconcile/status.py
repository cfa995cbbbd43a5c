"""How far each EC was walked, what its last runs did, and what is still missing: for people and for monitoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from station import config, store
from station.store.runs import ReconcileItem


@dataclass(frozen=True, slots=True)
class EcStatus:
    """One EC. `late`: it is to be walked and was not walked completely for longer than `gpd.late_hours`, or ever.

    `in_future`: one of these times lies in the future, written by a clock that was ahead: it counts as late, and the
    next run corrects it. `walked_at`: the end of the last complete walk, `watermark` its start; `swept_at`: the end of
    the last complete wide sweep. `runs`: rows of the ledger, the latest first. The items are missing receipts: open
    ones are requested again, refused ones are kept as refused requests, given-up ones were requested long enough.
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
    """All ECs, and the longest missing receipts (`items`) of all that are missing (`items_total`)."""

    ecs: Sequence[EcStatus]
    items: Sequence[ReconcileItem]
    items_total: int

    @property
    def late(self) -> bool:
        return any(ec.late for ec in self.ecs)


def status(
    settings: config.Settings,
    engine: store.Engine,
    id_pas: Sequence[str] | None = None,
    *,
    runs: int = 1,
    items: int = 50,
) -> Status:
    """Return the status of the ECs named, or (`None`) of those configured and those that were walked once.

    `runs` and `items`: how many rows of the ledger for each EC, and how many items, at most. Raise `StoreError`.
    """
    now = datetime.now(UTC)
    with store.transaction(engine, readonly=True) as connection:
        marks = store.runs.watermarks(connection)
        counts: dict[tuple[str, str], int] = {}
        for row in store.runs.count_items(connection, id_pas):
            counts[row.id_pa, row.state] = counts.get((row.id_pa, row.state), 0) + row.number
        ecs = []
        for id_pa in dict.fromkeys(id_pas if id_pas is not None else [*(ec.id for ec in settings.ec), *sorted(marks)]):
            mark = marks.get(id_pa)
            watermark, walked_at, swept_at = (mark.watermark, mark.walked_at, mark.swept_at) if mark else (None,) * 3
            in_future = _in_future(mark, now)
            ecs.append(
                EcStatus(
                    id_pa=id_pa,
                    late=is_late(settings, id_pa, mark, now=now),
                    in_future=in_future,
                    watermark=watermark,
                    walked_at=walked_at,
                    swept_at=swept_at,
                    runs=[dict(row._mapping) for row in store.runs.latest_runs(connection, id_pa, limit=runs)],
                    open_items=counts.get((id_pa, "open"), 0),
                    refused_items=counts.get((id_pa, "refused"), 0),
                    given_up_items=counts.get((id_pa, "given_up"), 0),
                )
            )
        listed = store.runs.list_items(connection, id_pas, limit=items)
    return Status(ecs, listed, sum(counts.values()))


def is_late(settings: config.Settings, id_pa: str, mark: Any, *, now: datetime) -> bool:
    """Return whether an EC is late (see `EcStatus`). `mark` is its row of `store.runs.watermarks`, `None` without."""
    ec = settings.ecs.get(id_pa)
    if not (ec.reconcile if ec else not settings.ec):
        return False
    overdue = mark is None or mark.walked_at is None or now - mark.walked_at > timedelta(hours=settings.gpd.late_hours)
    return overdue or _in_future(mark, now)


def _in_future(mark: Any, now: datetime) -> bool:
    times = (mark.watermark, mark.walked_at, mark.swept_at) if mark else ()
    return any(at and at > now + store.CLOCK_TOLERANCE for at in times)
