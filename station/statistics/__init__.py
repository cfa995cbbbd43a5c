"""The numbers of an installation: receipts and refusals per day and EC, doors, delays, and which ECs are silent.

Counted for days of Italian civil time: those on which receipts arrived, and those on which they were paid. The page
with the charts is in `page`.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from station import store
from station.clock import ROME
from station.config import Settings
from station.receipt import Source
from station.store import statistics as counted

SOURCES = tuple(source.value for source in Source)


@dataclass(slots=True)
class Tally:
    """Receipts by door, their amount in euro, and refusals."""

    by_source: Counter[str] = field(default_factory=Counter)
    amount: Decimal = Decimal(0)
    refused: int = 0
    refused_open: int = 0

    @property
    def receipts(self) -> int:
        """All doors together."""
        return self.by_source.total()

    def share(self, source: str) -> float | None:
        """The part that came by this door, 0 to 1; `None` where nothing came."""
        return self.by_source[source] / self.receipts if self.receipts else None

    def __bool__(self) -> bool:
        return bool(self.receipts or self.refused)

    def add(self, other: "Tally") -> None:
        """Adds another one's numbers."""
        self.by_source += other.by_source
        self.amount += other.amount
        self.refused += other.refused
        self.refused_open += other.refused_open

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        shares = {source: self.share(source) for source in SOURCES}
        return {
            "receipts": self.receipts,
            "by_source": {source: self.by_source[source] for source in SOURCES},
            "share": {source: share and round(share, 4) for source, share in shares.items()},
            "amount": self.amount,
            "refused": self.refused,
            "refused_open": self.refused_open,
        }


@dataclass(slots=True)
class Delay:
    """How long receipts took from payment to arrival, in seconds. Nearest rank, so each is one that occurred."""

    steps: Counter[int] = field(default_factory=Counter)
    worst: int | None = None

    def add(self, seconds: int, worst: int, count: int) -> None:
        """Adds receipts that took about as long."""
        self.steps[seconds] += count
        self.worst = worst if self.worst is None else max(self.worst, worst)

    def percentile(self, part: float) -> int | None:
        """The delay that this part of the receipts did not exceed."""
        rank, reached = part * self.steps.total(), 0
        for seconds in sorted(self.steps):
            reached += self.steps[seconds]
            if reached >= rank:
                return seconds
        return None

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "receipts": self.steps.total(),
            "median_seconds": self.percentile(0.5),
            "percentile_95_seconds": self.percentile(0.95),
            "worst_seconds": self.worst,
        }


@dataclass(slots=True)
class Ec:
    """One EC: its numbers, and since when it is silent. `seen`: a receipt is stored for it.

    One that is neither configured nor seen only occurs in refused requests; its id is empty where they had none.
    """

    id_pa: str
    name: str = ""
    configured: bool = False
    seen: bool = False
    tally: Tally = field(default_factory=Tally)
    delay: Delay = field(default_factory=Delay)
    last_push: datetime | None = None
    last_refused_push: datetime | None = None


@dataclass(slots=True)
class Statistics:
    """The numbers between two times. `days` has every day, `cells` the days and ECs where something came.

    `paid`, `paid_cells` and `paid_total` count the receipts that were paid between these times, by the day of payment.
    """

    start: datetime
    end: datetime
    made_at: datetime
    silent_after: timedelta
    days: list[date]
    cells: dict[tuple[date, str], Tally]
    by_day: dict[date, Tally]
    paid_cells: dict[tuple[date, str], Tally]
    paid: dict[date, Tally]
    paid_total: Tally
    by_source: dict[str, Delay]
    ecs: list[Ec]
    total: Tally
    delay: Delay

    def silent(self, ec: Ec) -> bool:
        """Whether an EC of ours had no push for too long."""
        ours = ec.configured or ec.seen
        return ours and (ec.last_push is None or self.made_at - ec.last_push > self.silent_after)

    @property
    def silences(self) -> list[Ec]:
        """The silent ECs, the longest silent first."""
        never = datetime.min.replace(tzinfo=UTC)
        return sorted(filter(self.silent, self.ecs), key=lambda ec: (ec.last_push or never, ec.id_pa))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "from": self.start,
            "to": self.end,
            "made_at": self.made_at,
            "total": self.total.as_dict() | {"delay": self.delay.as_dict()},
            "delay_by_source": {source: delay.as_dict() for source, delay in self.by_source.items()},
            "ecs": [
                {"id_pa": ec.id_pa, "name": ec.name, "configured": ec.configured}
                | ec.tally.as_dict()
                | {
                    "delay": ec.delay.as_dict(),
                    "last_push": ec.last_push,
                    "last_refused_push": ec.last_refused_push,
                    "silent": self.silent(ec),
                }
                for ec in self.ecs
            ],
            "days": [{"day": day} | self.by_day[day].as_dict() for day in self.days],
            "paid": _paid(self.paid_total),
            "payment_days": [{"day": day} | _paid(self.paid[day]) for day in self.days],
            "payment_days_and_ecs": [
                {"day": day, "id_pa": id_pa} | _paid(tally) for (day, id_pa), tally in sorted(self.paid_cells.items())
            ],
            "days_and_ecs": [
                {"day": day, "id_pa": id_pa} | tally.as_dict() for (day, id_pa), tally in sorted(self.cells.items())
            ],
        }


def _paid(tally: Tally) -> dict[str, Any]:
    return {name: value for name, value in tally.as_dict().items() if name in ("receipts", "by_source", "amount")}


def collect(
    engine: store.Engine,
    settings: Settings,
    start: datetime,
    end: datetime,
    *,
    id_pa: str | None = None,
    silent_after: timedelta = timedelta(days=3),
    now: datetime | None = None,
) -> Statistics:
    """Count what arrived, and what was paid, from `start` (included) to `end` (not included), for all ECs or one."""
    now = now or datetime.now(UTC)
    ecs: dict[str, Ec] = {ec.id: Ec(ec.id, ec.name, configured=True) for ec in settings.ec if id_pa in (None, ec.id)}
    cells: dict[tuple[date, str], Tally] = {}
    paid_cells: dict[tuple[date, str], Tally] = {}
    by_source = {source: Delay() for source in SOURCES}
    delay = Delay()
    with store.transaction(engine, readonly=True) as connection:
        store.be_patient(connection)
        for its, time in ((cells, "received_at"), (paid_cells, "payment_date_time")):
            for hour in counted.by_hour(connection, start, end, id_pa, time=time):
                cell = its.setdefault((_day(hour.hour), hour.id_pa), Tally())
                cell.by_source[hour.source] += hour.count
                cell.amount += hour.amount
        for refused in counted.refusals(connection, start, end, id_pa):
            cell = cells.setdefault((_day(refused.hour), refused.id_pa), Tally())
            cell.refused += refused.count
            cell.refused_open += refused.open
        for one in counted.seen_ecs(connection):
            if id_pa in (None, one):
                ecs.setdefault(one, Ec(one)).seen = True
        for _, one in cells:
            ecs.setdefault(one, Ec(one))
        for took in counted.delays(connection, start, end, id_pa):
            for each in (ecs[took.id_pa].delay, by_source[took.source], delay):
                each.add(took.seconds, took.worst, took.count)
        refused_pushes = counted.last_refused_pushes(connection)
        for ec in ecs.values():
            ec.last_push = counted.last_push(connection, ec.id_pa, now) if ec.seen else None
            ec.last_refused_push = refused_pushes.get(ec.id_pa)
    return _summed(start, end, now, silent_after, cells, paid_cells, by_source, ecs, delay)


def _summed(
    start: datetime,
    end: datetime,
    now: datetime,
    silent_after: timedelta,
    cells: dict[tuple[date, str], Tally],
    paid_cells: dict[tuple[date, str], Tally],
    by_source: dict[str, Delay],
    ecs: Mapping[str, Ec],
    delay: Delay,
) -> Statistics:
    first, last = _day(start), _day(end - timedelta(microseconds=1))
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    by_day, paid = {day: Tally() for day in days}, {day: Tally() for day in days}
    total, paid_total = Tally(), Tally()
    for (day, id_pa), tally in cells.items():
        by_day[day].add(tally)
        ecs[id_pa].tally.add(tally)
        total.add(tally)
    for (day, _), tally in paid_cells.items():
        paid[day].add(tally)
        paid_total.add(tally)
    busiest_first = sorted(ecs.values(), key=lambda ec: (-ec.tally.receipts, ec.id_pa))
    return Statistics(
        start=start, end=end, made_at=now, silent_after=silent_after, days=days, cells=cells, by_day=by_day,
        paid_cells=paid_cells, paid=paid, paid_total=paid_total, by_source=by_source, ecs=busiest_first,
        total=total, delay=delay,
    )  # fmt: skip


def _day(moment: datetime) -> date:
    return moment.astimezone(ROME).date()
