"""How far each EC's flows were walked, what the last runs did, and which flows could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from station import config, store
from station.store import credited, flows, queries
from station.store.credited import Balance


@dataclass(frozen=True, slots=True)
class FdrEcStatus:
    """One EC. `late`: it is to be walked and was not walked completely for longer than `fdr.late_hours`, or ever.

    A walk in the future was dated by a clock that was ahead, and counts as late. `gap_from` to `gap_to`: a time whose
    flows were never listed, not acknowledged yet. `unread`: flows that are listed and could not be read so far.
    `balance`: euro of the flows that were matched, and of transfers that no flow has.
    """

    id_pa: str
    late: bool
    watermark: datetime | None
    walked_at: datetime | None
    gap_from: datetime | None
    gap_to: datetime | None
    unread: int
    balance: Balance
    runs: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class FdrStatus:
    """All ECs, and the oldest flows (`flows`, rows of the table) that could not be read so far."""

    ecs: Sequence[FdrEcStatus]
    flows: Sequence[dict[str, Any]]

    @property
    def late(self) -> bool:
        """Whether an EC is late or has a gap."""
        return any(ec.late or ec.gap_from for ec in self.ecs)


def fdr_status(
    settings: config.Settings,
    engine: store.Engine,
    id_pas: Sequence[str] | None = None,
    *,
    runs: int = 1,
    limit: int = 50,
) -> FdrStatus:
    """Return the status of the ECs named, or (`None`) of those configured with a key and those that were walked once.

    `runs` and `limit`: how many rows of the ledger for each EC, and how many flows, at most. Raise `StoreError`.
    """
    now = datetime.now(UTC)
    configured = [ec.id for ec in settings.ec if _is_expected(settings, ec.id)]
    with queries.reading(engine) as connection:
        marks, unread = flows.all_progress(connection), flows.count_unread(connection)
        ecs = []
        for id_pa in dict.fromkeys(id_pas if id_pas is not None else [*configured, *sorted(marks)]):
            mark = marks.get(id_pa)
            walked_at = mark.walked_at if mark else None
            gap = mark is not None and mark.gap_from is not None and mark.gap_acknowledged_at is None
            ecs.append(
                FdrEcStatus(
                    id_pa=id_pa,
                    late=is_fdr_late(settings, id_pa, mark, now=now),
                    watermark=mark.watermark if mark else None,
                    walked_at=walked_at,
                    gap_from=mark.gap_from if mark and gap else None,
                    gap_to=mark.gap_to if mark and gap else None,
                    unread=unread.get(id_pa, 0),
                    balance=credited.balance(
                        connection, id_pa, paid_to=credited.due_before(connection, id_pa, settings.fdr.due_days)
                    ),
                    runs=[dict(row._mapping) for row in flows.latest_runs(connection, id_pa, limit=runs)],
                )
            )
        listed = [dict(row._mapping) for row in flows.unread_flows(connection, id_pas, limit=limit)]
    return FdrStatus(ecs, listed)


def is_fdr_late(settings: config.Settings, id_pa: str, mark: Any, *, now: datetime) -> bool:
    """Return whether an EC is late (see `FdrEcStatus`). `mark` is its row of `flows.all_progress`, `None` without."""
    age = None if mark is None or mark.walked_at is None else now - mark.walked_at
    overdue = age is None or age > timedelta(hours=settings.fdr.late_hours) or age < -store.CLOCK_TOLERANCE
    return overdue and (not settings.ec or _is_expected(settings, id_pa))


def _is_expected(settings: config.Settings, id_pa: str) -> bool:
    """Return whether a configured EC is to be walked: it has a key, and no `fdr = false`."""
    ec = settings.ecs.get(id_pa)
    return ec is not None and ec.fdr and settings.api_key(id_pa, "fdr_key") is not None
