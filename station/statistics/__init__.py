"""The numbers of an installation: receipts and refusals per day and EC, sources, delays, and which ECs are silent.

Counted for days of Italian civil time: those on which receipts arrived, and those on which they were paid. The page
with the charts is in `page`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from station import store
from station.clock import ROME
from station.config import Settings
from station.receipt import Source
from station.store import gauges, queries
from station.store import statistics as stored

SOURCES = tuple(source.value for source in Source)


@dataclass(slots=True)
class Counts:
    """Receipts by source, their amount in euro, and refusals."""

    by_source: Counter[str] = field(default_factory=Counter)
    amount: Decimal = Decimal(0)
    refused: int = 0
    refused_open: int = 0

    @property
    def receipts(self) -> int:
        """The receipts of all sources."""
        return self.by_source.total()

    def share(self, source: str) -> float | None:
        """Return the share of receipts that came by this source, 0 to 1; `None` where there are none."""
        return self.by_source[source] / self.receipts if self.receipts else None

    def __bool__(self) -> bool:
        return bool(self.receipts or self.refused)

    def add(self, other: "Counts") -> None:
        """Add another one's numbers."""
        self.by_source += other.by_source
        self.amount += other.amount
        self.refused += other.refused
        self.refused_open += other.refused_open

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        shares = {source: self.share(source) for source in SOURCES}
        return {
            "receipts": self.receipts,
            "by_source": {source: self.by_source[source] for source in SOURCES},
            "share": {source: share and round(share, 4) for source, share in shares.items()},
            "amount": self.amount,
            "refused": self.refused,
            "refused_open": self.refused_open,
        }

    def paid_dict(self) -> dict[str, Any]:
        """Return the numbers of receipts alone: a day of payment has no refusals."""
        return {name: value for name, value in self.as_dict().items() if name in ("receipts", "by_source", "amount")}


@dataclass(slots=True)
class Delay:
    """How long receipts took from payment to arrival, in seconds. Nearest rank, so each is one that occurred."""

    steps: Counter[int] = field(default_factory=Counter)
    worst: int | None = None

    def add(self, seconds: int, worst: int, count: int) -> None:
        """Add receipts that took about as long."""
        self.steps[seconds] += count
        self.worst = worst if self.worst is None else max(self.worst, worst)

    def percentile(self, part: float) -> int | None:
        """Return the delay that this part of the receipts did not exceed."""
        rank, reached = part * self.steps.total(), 0
        for seconds in sorted(self.steps):
            reached += self.steps[seconds]
            if reached >= rank:
                return seconds
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return the delay for JSON."""
        return {
            "receipts": self.steps.total(),
            "median_seconds": self.percentile(0.5),
            "percentile_95_seconds": self.percentile(0.95),
            "worst_seconds": self.worst,
        }


@dataclass(slots=True)
class EcCounts:
    """One EC's numbers, and when its last push came. `seen`: a receipt is stored for it.

    One that is neither configured nor seen only occurs in refused requests; its id is empty where they had none.
    """

    id_pa: str
    name: str = ""
    configured: bool = False
    seen: bool = False
    counts: Counts = field(default_factory=Counts)
    delay: Delay = field(default_factory=Delay)
    last_push: datetime | None = None
    last_refused_push: datetime | None = None


@dataclass(slots=True)
class Statistics:
    """The numbers between two times. `days` has every day, `cells` the days and ECs where something came.

    `paid`, `paid_cells` and `paid_total` count the receipts that were paid between these times, by the day of payment.
    The ECs are the busiest first.
    """

    start: datetime
    end: datetime
    made_at: datetime
    silent_after: timedelta
    cells: dict[tuple[date, str], Counts]
    paid_cells: dict[tuple[date, str], Counts]
    by_source: dict[str, Delay]
    ecs: list[EcCounts]
    delay: Delay
    days: list[date] = field(init=False)
    by_day: dict[date, Counts] = field(init=False)
    paid: dict[date, Counts] = field(init=False)
    total: Counts = field(init=False)
    paid_total: Counts = field(init=False)

    def __post_init__(self) -> None:
        first, last = _day(self.start), _day(self.end - timedelta(microseconds=1))
        self.days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        self.by_day, self.total = self._summed(self.cells)
        self.paid, self.paid_total = self._summed(self.paid_cells)

    def _summed(self, cells: dict[tuple[date, str], Counts]) -> tuple[dict[date, Counts], Counts]:
        """Return the sums of each day, and of all."""
        by_day, total = {day: Counts() for day in self.days}, Counts()
        for (day, _), counts in cells.items():
            by_day[day].add(counts)
            total.add(counts)
        return by_day, total

    def silent(self, ec: EcCounts) -> bool:
        """Return whether a configured or seen EC had no push for too long."""
        expected = ec.configured or ec.seen
        return expected and (ec.last_push is None or self.made_at - ec.last_push > self.silent_after)

    @property
    def silences(self) -> list[EcCounts]:
        """The silent ECs, the longest silent first."""
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(filter(self.silent, self.ecs), key=lambda ec: (ec.last_push or never, ec.id_pa))

    def as_dict(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        return {
            "from": self.start,
            "to": self.end,
            "made_at": self.made_at,
            "total": self.total.as_dict() | {"delay": self.delay.as_dict()},
            "delay_by_source": {source: delay.as_dict() for source, delay in self.by_source.items()},
            "ecs": [
                {"id_pa": ec.id_pa, "name": ec.name, "configured": ec.configured}
                | ec.counts.as_dict()
                | {
                    "delay": ec.delay.as_dict(),
                    "last_push": ec.last_push,
                    "last_refused_push": ec.last_refused_push,
                    "silent": self.silent(ec),
                }
                for ec in self.ecs
            ],
            "days": [{"day": day} | self.by_day[day].as_dict() for day in self.days],
            "paid": self.paid_total.paid_dict(),
            "payment_days": [{"day": day} | self.paid[day].paid_dict() for day in self.days],
            "payment_days_and_ecs": [
                {"day": day, "id_pa": id_pa} | counts.paid_dict()
                for (day, id_pa), counts in sorted(self.paid_cells.items())
            ],
            "days_and_ecs": [
                {"day": day, "id_pa": id_pa} | counts.as_dict() for (day, id_pa), counts in sorted(self.cells.items())
            ],
        }


def collect(
    engine: store.Engine,
    settings: Settings,
    start: datetime,
    end: datetime,
    *,
    id_pas: Sequence[str] | None = None,
    silent_after: timedelta = timedelta(days=3),
    now: datetime | None = None,
) -> Statistics:
    """Count what arrived, and what was paid, from `start` (included) to `end` (not included).

    For these ECs or (`None`) for all.
    """
    now = now or datetime.now(UTC)
    ecs = {ec.id: EcCounts(ec.id, ec.name, configured=True) for ec in settings.ec if id_pas is None or ec.id in id_pas}
    cells: dict[tuple[date, str], Counts] = {}
    paid_cells: dict[tuple[date, str], Counts] = {}
    by_source, delay = {source: Delay() for source in SOURCES}, Delay()
    with queries.reading(engine) as connection:
        for its_cells, time in ((cells, "received_at"), (paid_cells, "payment_date_time")):
            for hour in stored.by_hour(connection, start, end, id_pas, time=time):
                cell = its_cells.setdefault((_day(hour.hour), hour.id_pa), Counts())
                cell.by_source[hour.source] += hour.number
                cell.amount += hour.amount
        for refused in stored.refusals(connection, start, end, id_pas):
            cell = cells.setdefault((_day(refused.hour), refused.id_pa), Counts())
            cell.refused += refused.number
            cell.refused_open += refused.open
        for ec_seen in stored.seen_ecs(connection, id_pas):
            ecs.setdefault(ec_seen, EcCounts(ec_seen)).seen = True
        for (_, ec_counted), counts in cells.items():
            ecs.setdefault(ec_counted, EcCounts(ec_counted)).counts.add(counts)
        for took in stored.delays(connection, start, end, id_pas):
            for its_delay in (ecs[took.id_pa].delay, by_source[took.source], delay):
                its_delay.add(took.seconds, took.worst, took.number)
        refused_pushes = stored.last_refused_pushes(connection, id_pas)
        seen = [ec.id_pa for ec in ecs.values() if ec.seen]
        pushes = gauges.last_pushes(connection, seen, now)
        for ec in ecs.values():
            ec.last_push, ec.last_refused_push = pushes.get(ec.id_pa), refused_pushes.get(ec.id_pa)
    busiest_first = sorted(ecs.values(), key=lambda ec: (-ec.counts.receipts, ec.id_pa))
    return Statistics(start, end, now, silent_after, cells, paid_cells, by_source, busiest_first, delay)


def _day(moment: datetime) -> date:
    return moment.astimezone(ROME).date()
