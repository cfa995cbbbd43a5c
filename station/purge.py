"""The use case: what is older than the configured retention is purged, batch by batch beside the running server.

Each batch is a transaction of its own: a run that was stopped is simply run again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from station import log, store
from station.clock import months_before
from station.config import Retention
from station.errors import ClockError, ConfigError
from station.retry import retrying
from station.store import Part

_log = log.get(__name__)


_QUIET = timedelta(days=31)


@dataclass(frozen=True, slots=True)
class Purged:
    """Rows of one part that were purged, or would be: those that came before `before`.

    `kept_open` counts refused requests that are as old and nobody decided about.
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
    """Purges what `retention` has an age for; one `Purged` for each batch, and for each part at least one.

    Raises `ConfigError` where it has none, `ClockError` where this machine's clock seems to be ahead (`trust_clock`
    says that it is right), and `StoreError`: run it again then.
    """
    now = datetime.now(UTC)
    ages = {part: getattr(retention, f"{part}_months") for part in Part}
    if not any(ages.values()):
        raise ConfigError("nothing to purge: set raw_months, personal_months, refused_months or journal_months")
    retrying(partial(_check_clock, engine, now, trust=trust_clock))
    for part, months in ages.items():
        if months is None:
            continue
        before = months_before(now, months)
        if dry_run:
            count = retrying(partial(_count, engine, part, before))
            yield Purged(part, before, count, _kept_open(engine, part, before))
            continue
        total, more = 0, True
        while more:
            count, more = retrying(partial(_batch, engine, part, before, now, batch))
            total += count
            yield Purged(part, before, count, 0 if more else _kept_open(engine, part, before))
        _log.info("purged", part=part, before=before.isoformat(), rows=total, operator=operator)


def _check_clock(engine: store.Engine, now: datetime, *, trust: bool) -> None:
    """Raises `ClockError` where the clock seems to be ahead: what is purged too early is lost."""
    with store.transaction(engine, readonly=True) as connection:
        why, latest = store.clock_problem(connection, now), store.newest_entry(connection)
        newest = store.newest_entry(connection, until=now + store.CLOCK_TOLERANCE)
    if latest is not None and latest != newest:
        _log.warning("entries_in_future", latest=latest.isoformat())  # kept for longer than configured
    if trust:
        return
    if why is None and newest is not None and now - newest > _QUIET:
        why = (
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, and the newest entry in the database dates from "
            f"{newest:%Y-%m-%d %H:%M}"
        )
    if why:
        raise ClockError(
            f"nothing was purged: {why}. A clock that is ahead "
            "would purge too early: correct it, or add --trust-clock if it is right"
        )


def _batch(engine: store.Engine, part: Part, before: datetime, now: datetime, limit: int) -> tuple[int, bool]:
    with store.transaction(engine) as connection:
        return store.purge_batch(connection, part, before=before, at=now, limit=limit)


def _count(engine: store.Engine, part: Part, before: datetime) -> int:
    with store.transaction(engine, readonly=True) as connection:
        return store.count_older(connection, part, before=before)


def _kept_open(engine: store.Engine, part: Part, before: datetime) -> int:
    if part is not Part.REFUSED:
        return 0
    with store.transaction(engine, readonly=True) as connection:
        return store.open_refused(connection, before=before)
