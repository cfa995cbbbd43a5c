"""The use case: what is older than the configured retention is purged, batch by batch beside the running server.

Each batch is a transaction of its own: a run that was stopped is simply run again.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from station import log, store
from station.config import Retention
from station.errors import ConfigError
from station.patience import patiently
from station.store import Part

_log = log.get(__name__)


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
    engine: store.Engine, retention: Retention, *, dry_run: bool = False, batch: int = 500, operator: str | None = None
) -> Iterator[Purged]:
    """Purges what `retention` has an age for; one `Purged` for each batch, and for each part at least one.

    Raises `ConfigError` where it has none, and `StoreError`: run it again then.
    """
    now = datetime.now(UTC)
    ages = {part: getattr(retention, f"{part}_months") for part in Part}
    if not any(ages.values()):
        raise ConfigError("nothing is to be purged: set raw_months, personal_months, refused_months or journal_months")
    for part, months in ages.items():
        if months is None:
            continue
        before = months_before(now, months)
        if dry_run:
            count = patiently(partial(_count, engine, part, before))
            yield Purged(part, before, count, _kept_open(engine, part, before))
            continue
        total, more = 0, True
        while more:
            count, more = patiently(partial(_batch, engine, part, before, now, batch))
            total += count
            yield Purged(part, before, count, 0 if more else _kept_open(engine, part, before))
        _log.info("purged", part=part, before=before.isoformat(), rows=total, operator=operator)


def months_before(moment: datetime, months: int) -> datetime:
    """The same time of day `months` calendar months earlier; on the month's last day where it has no such day."""
    year, month = divmod(moment.year * 12 + moment.month - 1 - months, 12)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, calendar.monthrange(year, month + 1)[1]))


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
