"""How far each destination is, and what is wrong with it: for people and for `station check`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from station import config, store
from station.clock import shown
from station.store import deliveries, delivery_list, outgoing
from station.text import counted

# The alert rules in deploy/prometheus have the same bounds.
OUTBOX_MAX_AGE = timedelta(minutes=5)
WEBHOOK_MAX_AGE = timedelta(hours=1)
FEED_MAX_AGE = timedelta(hours=36)  # a reader that comes once a day
_FILE_GRACE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """One destination. `state`: active, paused, `never served`, or `not configured` any more.

    `position` is the last number that was looked at, `waiting` how many numbers are behind it, whether or not it
    chooses them. `open` and `failed` (given up) count deliveries by webhook. `oldest_at`: since when something is
    open or waits, or a folder's file is not done; `file_at`: when a folder's latest file was planned. `problem` says in
    words why it needs attention, `causes` in slugs: never_served, never_asked, other_kind, paused, given_up, file_late,
    no_file, late.
    """

    name: str
    kind: str
    state: str
    reason: str | None = None
    position: int | None = None
    waiting: int | None = None
    open: int = 0
    failed: int = 0
    oldest_at: datetime | None = None
    failures: int = 0
    first_at: datetime | None = None
    last_attempt_at: datetime | None = None
    last_success_at: datetime | None = None
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    file_at: datetime | None = None
    attempts: dict[str, int] | None = None
    problem: str | None = None
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """All destinations; the highest number; the outbox, whose rows have no number yet, and since when the oldest waits.

    `problem`: that the deliverer seems not to run.
    """

    destinations: tuple[DestinationStatus, ...]
    last_number: int
    outbox: int
    outbox_at: datetime | None
    problem: str | None

    @property
    def problems(self) -> Iterator[str]:
        """All problems, a line each."""
        if self.problem:
            yield self.problem
        for one in self.destinations:
            if one.problem:
                yield f"destination {one.name}: {one.problem}"


def status(
    settings: config.Settings,
    engine: store.Engine,
    *,
    now: datetime | None = None,
    id_pas: Sequence[str] | None = None,
) -> DeliveryStatus:
    """Return the status of each destination that is configured or was served once. Raise `StoreError`.

    `id_pas`: counting receipts of these ECs only, but for the outbox and attempts.
    """
    now = now or datetime.now(UTC)
    with store.transaction(engine, readonly=True) as connection:
        last = outgoing.last_number(connection)
        rows = delivery_list.figures(connection, id_pas)
        attempts = deliveries.counts(connection)
        outbox, outbox_at = outgoing.waiting(connection)
    found = []
    for name in dict.fromkeys([*settings.destinations, *rows]):
        if name not in rows:
            found.append(_never_served(settings.destinations[name]))
            continue
        results = {result: count for (of, result), count in attempts.items() if of == name}
        found.append(_served(settings.destinations.get(name), rows[name], last, results, now))
    problem = None
    if settings.destination and outbox_at and now - outbox_at > OUTBOX_MAX_AGE:
        problem = (
            f"`station deliver` does not run: {counted(outbox, 'receipt')} wait for a number, the oldest since "
            f"{shown(outbox_at)} (Italy)"
        )
    return DeliveryStatus(tuple(found), last, outbox, outbox_at, problem)


def _never_served(configured: config.Destination) -> DestinationStatus:
    cause, problem = "never_served", "it is configured and was never served: is `station deliver` running?"
    if configured.kind == "feed":
        cause, problem = "never_asked", "it is configured, and its reader never asked"
    return DestinationStatus(configured.name, configured.kind, "never served", problem=problem, causes=(cause,))


def _served(
    configured: config.Destination | None, row: Any, last: int, attempts: dict[str, int], now: datetime
) -> DestinationStatus:
    # What is behind a folder's position waits for its time.
    waiting_at = row.file_open_at if row.kind == "folder" else row.behind_at
    oldest = [at for at in (row.open_at, waiting_at) if at is not None]
    oldest_at = min(oldest, default=None)
    problems = list(_problems(configured, row, oldest_at, now)) if configured else []
    return DestinationStatus(
        name=row.name,
        kind=row.kind,
        state=row.state if configured else "not configured",
        reason=row.reason,
        position=row.position,
        waiting=max(0, last - row.position) if row.behind is None else row.behind,
        open=row.open,
        failed=row.failed,
        oldest_at=oldest_at,
        failures=row.failures,
        first_at=row.first_at,
        last_attempt_at=row.last_attempt_at,
        last_success_at=row.last_success_at,
        next_attempt_at=row.next_attempt_at,
        last_error=row.last_error,
        file_at=row.file_at,
        attempts=attempts,
        problem="; ".join(problem for _, problem in problems) or None,
        causes=tuple(cause for cause, _ in problems),
    )


def _problems(
    configured: config.Destination, row: Any, oldest_at: datetime | None, now: datetime
) -> Iterator[tuple[str, str]]:
    if configured.kind != row.kind:
        problem = (
            f"it was a {row.kind} before, and is not served as a {configured.kind}: give it another name (its place in "
            f"the order is kept under {row.name})"
        )
        yield "other_kind", problem
        return
    if row.state == "paused":
        yield (
            "paused",
            f"it is paused{f' ({row.reason})' if row.reason else ''}: `station deliveries resume {row.name}`",
        )
    if row.failed:
        yield (
            "given_up",
            (
                f"{counted(row.failed, 'delivery', 'deliveries')} given up: send them again or skip them "
                f"(`station deliveries list {row.name} --state failed`)"
            ),
        )
    if configured.kind == "folder":
        # A day of 25 hours, or the time between two files; and an hour for a retry.
        every = timedelta(hours=25) if configured.every_minutes is None else timedelta(minutes=configured.every_minutes)
        done = row.file_done_at or row.first_at
        if oldest_at and now - oldest_at > _FILE_GRACE:
            yield "file_late", f"a file waits to be completed since {shown(oldest_at)} (Italy){_error(row)}"
        elif now - done > every + _FILE_GRACE:
            yield "no_file", f"no file was completed since {shown(done)} (Italy){_error(row)}"
    elif oldest_at and now - oldest_at > (FEED_MAX_AGE if configured.kind == "feed" else WEBHOOK_MAX_AGE):
        what = "the reader has not asked for receipts" if configured.kind == "feed" else "receipts wait"
        yield "late", f"{what} since {shown(oldest_at)} (Italy){_error(row)}"


def _error(row: Any) -> str:
    return f": {row.last_error}" if row.last_error else ""
