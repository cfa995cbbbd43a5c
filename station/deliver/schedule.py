"""When a delivery that failed is tried again, and whose failure it was: the destination's, or the receipt's alone.

Nothing here waits or reads the clock.
"""

import random
import time
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from station.deliver.webhook import WebhookAnswer
from station.store.deliveries import LATEST_ATTEMPT
from station.store.outgoing import Numbered

# The pauses after the first failure, the second and so on; the last one again and again. Source: Standard Webhooks 1.0.
_PAUSES = tuple(
    timedelta(**pause)
    for pause in ({"seconds": 5}, {"minutes": 5}, {"minutes": 30}, {"hours": 2}, {"hours": 5}, {"hours": 10},
                  {"hours": 14}, {"hours": 20}, {"hours": 24})
)  # fmt: skip
_JITTER = 0.1
_REFUSED_UNTIL_AWAY = 10  # different receipts in a row: a wrong key or path, which the others would meet, too


def delay(failures: int, retry_after: float | None = None) -> timedelta:
    """Return the pause after that many failures in a row, with jitter; or what the receiver asked for, in seconds."""
    if retry_after is not None:
        return timedelta(seconds=max(retry_after, 1.0))
    return _PAUSES[min(failures, len(_PAUSES)) - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311


def is_past(moment: datetime | None, now: datetime) -> bool:
    """Return whether the time of a next attempt has come; one that no schedule gives does not count."""
    return moment is None or moment <= now or moment > now + LATEST_ATTEMPT


class Task(NamedTuple):
    """One number to deliver, with what its row says of it."""

    numbered: Numbered
    attempts: int = 0
    next_attempt_at: datetime | None = None
    first_at: datetime | None = None

    @property
    def number(self) -> int:
        """Its place in the order."""
        return self.numbered.number


class DestinationHealth:
    """What is known of a destination: a circuit breaker that is closed, open, or half-open for one probe.

    Not thread-safe.
    """

    def __init__(self, in_flight: int, give_up: timedelta) -> None:
        self._in_flight = in_flight
        self._give_up = give_up
        self.paused = False
        self.reason: str | None = None
        self.failures = 0
        self.next_attempt_at: datetime | None = None
        self.last_attempt_at: datetime | None = None
        self.last_success_at: datetime | None = None
        self.last_error: str | None = None
        self._refused: set[int] = set()  # since the last success
        # The receipts with which the destination was unreachable since the last success; and those with which it was
        # before others passed: once more, and it is they that fail.
        self._unreachable: set[int] = set()
        self._suspected: set[int] = set()
        self._connected = False
        self._succeeded = self._stepped = float("-inf")  # when, by `time.monotonic`

    def load(self, row: Any) -> None:
        """Take over what the database says: at the start, and where an operator changed it."""
        self.paused, self.reason = row.state == "paused", row.reason
        self.failures, self.next_attempt_at = row.failures, row.next_attempt_at
        self.last_attempt_at, self.last_success_at = row.last_attempt_at, row.last_success_at
        self.last_error = row.last_error
        self._refused.clear()

    def values(self) -> dict[str, Any]:
        """Return the columns of `destination` to write."""
        names = ("failures", "next_attempt_at", "last_attempt_at", "last_success_at", "last_error")
        return {name: getattr(self, name) for name in names} | (
            {"state": "paused", "reason": self.reason} if self.paused else {}
        )

    @property
    def refuses_all(self) -> bool:
        """Whether so many receipts were refused in a row that it is the destination that is not in order."""
        return len(self._refused) >= _REFUSED_UNTIL_AWAY

    @property
    def probes_in_turn(self) -> bool:
        """Whether the receipt that was sent may be why the destination seems unreachable: the next probe is another."""
        return self.refuses_all or (self.failures > 1 and self._connected)

    def limit(self, now: datetime) -> int:
        """Return how many requests may be on their way at once: one probe at a time while it is away."""
        if self.paused:
            return 0
        if not self.failures:
            return self._in_flight
        return 1 if is_past(self.next_attempt_at, now) else 0

    def judge(self, task: Task, answer: WebhookAnswer, now: datetime) -> dict[str, Any]:
        """Take note of an answer and return the columns of its `delivery` row, with the `result` to count."""
        self.last_attempt_at = now
        self.last_error = answer.error or self.last_error
        row = {
            "attempts": task.attempts,
            "next_attempt_at": task.next_attempt_at or now,
            "first_at": task.first_at,
            "last_at": now,
            "status": answer.status,
            "error": answer.error,
            "state": "open",
            "settled_at": None,
            "result": "delivered" if answer.delivered else "unreachable" if answer.unreachable else "refused",
        }
        if answer.delivered:
            self.last_success_at = now
            self._succeeded = time.monotonic()
            self._suspected = (self._suspected | self._unreachable) - {task.number}
            self._unreachable.clear()
            if answer.began >= self._stepped:
                self.failures, self.next_attempt_at = 0, None
                self._refused.clear()
            tried = {"attempts": task.attempts + 1, "first_at": task.first_at or now}
            return row | tried | {"state": "delivered", "settled_at": now}
        if answer.gone:
            self.paused, self.reason = True, "the receiver answered 410 (gone): it wants nothing any more"
            return row
        # While others pass, a connection that breaks or a proxy's 502 says nothing of the destination as a whole.
        alone = self._succeeded >= answer.began or (answer.connected and task.number in self._suspected)
        if answer.unreachable and (answer.retry_after is not None or not alone):
            self._refused.clear()
            self._unreachable.add(task.number)
            self._connected = answer.connected and answer.retry_after is None
            self._step(answer, now)
            return row
        if self.refuses_all:
            self._step(answer, now)
            return row
        if not answer.unreachable:
            self._refused.add(task.number)
            if self.refuses_all:
                self._step(answer, now)
        attempts, first_at = task.attempts + 1, task.first_at or now
        row |= {"attempts": attempts, "first_at": first_at}
        if now - first_at >= self._give_up:
            return row | {"state": "failed", "settled_at": now}
        return row | {"next_attempt_at": now + delay(attempts, answer.retry_after)}

    def _step(self, answer: WebhookAnswer, now: datetime) -> None:
        """Wait longer. Of several requests that were on their way together, the first failure counts."""
        if answer.began >= self._stepped:
            self.failures += 1
            self.next_attempt_at = now + delay(self.failures, answer.retry_after)
            self._stepped = time.monotonic()
