"""One EC's part of a run: what is counted, shown while it runs, and written to the ledger."""

import threading
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

COUNTS = ("listed", "here", "fetched", "not_yet", "waiting", "failed")


@dataclass
class EcRun:
    """Counts and outcome of one EC in one run; threads share it.

    `listed`: receipts that the API listed; `here`: those that the station had; `fetched`: stored by this run;
    `not_yet`: requested and not there yet; `waiting`: missing, and not due for another try; `failed`: requested in
    vain, kept as refused, or listed unreadably. Open items that are due are requested whether they are listed or not.
    `missing` is counted by a dry run only, `positions` by a second opinion only. `page` of `pages` is for a progress
    bar. `error` names the problems, also those that the run corrected.
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
        """Add to a count."""
        with self._lock:
            setattr(self, name, getattr(self, name) + number)

    def add_error(self, error: str) -> None:
        """Append a problem."""
        self.error = f"{self.error}; {error}" if self.error else error

    @property
    def duration_s(self) -> float:
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    def row(self) -> dict[str, Any]:
        """Return the row of the ledger."""
        names = ("id_pa", "run_id", "kind", "outcome", "window_from", "window_to", "started_at", "finished_at",
                 *COUNTS, "requests", "error")  # fmt: skip
        return {name: getattr(self, name) for name in names}
