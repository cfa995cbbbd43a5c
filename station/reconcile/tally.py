"""What a run counts for one EC."""

import threading
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

COUNTS = ("listed", "here", "fetched", "not_yet", "waiting", "failed")


@dataclass
class Tally:
    """What happened to one EC in one run.

    `listed`: receipts the API listed; `here`: those the station had; `fetched`: stored by this run; `not_yet`: asked
    for and not there yet; `waiting`: not there, and not due for another try; `failed`: asked for in vain, or kept as
    refused. Receipts that an earlier run left open and that are due are asked for whether they are listed or not.
    `missing` is counted by a dry run only, `positions` by a second opinion only. `page` of `pages` is for the eye.
    `error` says what was wrong, also where it was mended.
    """

    id_pa: str
    run_id: str
    started_at: datetime
    kind: str = "window"
    outcome: str = "running"
    window_from: date | None = None
    window_to: date | None = None
    finished_at: datetime | None = None
    listed: int = 0
    here: int = 0
    fetched: int = 0
    not_yet: int = 0
    waiting: int = 0
    failed: int = 0
    missing: int = 0
    positions: int = 0
    requests: int = 0
    error: str | None = None
    page: int = 0
    pages: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, name: str, number: int = 1) -> None:
        """Threads share it."""
        with self._lock:
            setattr(self, name, getattr(self, name) + number)

    def say(self, error: str) -> None:
        """Adds to what was wrong."""
        self.error = f"{self.error}; {error}" if self.error else error

    @property
    def duration_s(self) -> float:
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    def row(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        names = ("id_pa", "run_id", "kind", "outcome", "window_from", "window_to", "started_at", "finished_at",
                 *COUNTS, "requests", "error")  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Missing:
    """What a dry run says of a receipt that is not here."""

    id_pa: str
    iuv: str
    paid_at: str
    notice_number: str | None = None
    amount: Decimal | None = None
