"""The use case: purge what is older than the configured retention, batch by batch beside the running server.

Each batch is a transaction of its own: a run that was stopped is simply run again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from station import log, store
from station.clock import months_before, shown
from station.config import Retention
from station.errors import ClockError, ConfigError
from station.retry import read, write
from station.store import gauges
from station.store import purge as stored
from station.store.purge import Part

_log = log.get(__name__)

_QUIET_MAX = timedelta(days=31)  # with no new entry for longer, this machine's clock seems to be ahead


@dataclass(frozen=True, slots=True)
class Purged:
    """Rows of one part that were purged, or would be: those that came before `before`.

    `kept_open` counts refused requests that are as old, but still open.
    """

    part: Part
    before: datetime
    count: int
    kept_open: int = 0


def purge(
    engine: store.Engine,
    retention: Retention,
    *,
    dry_run: bool = False,
    batch: int = 500,
    operator: str | None = None,
    trust_clock: bool = False,
) -> Iterator[Purged]:
    """Purge what `retention` has an age for; yield a `Purged` for each batch, and for each part at least one.

    Raises `ConfigError` where it has none, `ClockError` where this machine's clock seems to be ahead (`trust_clock`
    says that it is right), and `StoreError`: run it again then.
    """
    now = datetime.now(UTC)
    ages = {part: getattr(retention, f"{part}_months") for part in Part}
    if not any(ages.values()):
        raise ConfigError(
            "nothing to purge: set raw_months, personal_months, refused_months, journal_months, delivery_months, "
            "flows_months or access_months"
        )
    read(engine, _check_clock, now, trust=trust_clock)
    for part, months in ages.items():
        if months is None:
            continue
        before = months_before(now, months)
        kept_open = read(engine, stored.open_refused, before=before) if part is Part.REFUSED else 0
        if dry_run:
            yield Purged(part, before, read(engine, stored.count_older, part, before=before), kept_open)
            continue
        total, more = 0, True
        while more:
            count, more = write(engine, stored.purge_batch, part, before=before, at=now, limit=batch)
            total += count
            yield Purged(part, before, count, 0 if more else kept_open)
        _log.info("purged", part=part, before=before.isoformat(), rows=total, operator=operator)


def _check_clock(connection: store.Connection, now: datetime, *, trust: bool) -> None:
    """Raise `ClockError` where this machine's clock seems to be ahead: data that is purged too early is lost."""
    latest, newest = (
        gauges.newest_entry(connection),
        gauges.newest_entry(connection, until=now + gauges.CLOCK_TOLERANCE),
    )
    if latest is not None and latest != newest:
        _log.warning("entries_in_future", latest=latest.isoformat())  # kept for longer than configured
    if trust:
        return
    problem = gauges.clock_problem(connection, now)
    if problem is None and newest is not None and now - newest > _QUIET_MAX:
        problem = (
            f"this machine's clock says {shown(now)} (Italy), and the newest entry in the database dates from "
            f"{shown(newest)}"
        )
    if problem:
        raise ClockError(
            f"nothing was purged: {problem}. A clock that is ahead would purge too early: correct it, or add "
            "--trust-clock if it is right"
        )
