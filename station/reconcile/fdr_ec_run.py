"""One EC's part of a run of `station fdr`: what is counted, shown while it runs, and written to the ledger."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

FDR_COUNTS = ("listed", "new", "revised", "failed", "payments")
MATCH_COUNTS = ("missing", "fetched", "provisional")


@dataclass
class FdrEcRun:
    """Counts and outcome of one EC in one run.

    `listed`: flows in the EC's list; `new`: stored by this run; `revised`: stored as a later revision of one that was
    here; `failed`: could not be read, to be tried again; `payments`: of the flows that were stored. `done` of `due` is
    for a progress bar. `gap`: a time is not covered, and an operator has to acknowledge it. `error` names the problems.

    `missing`: payments without a receipt at the end of the run; `fetched`: receipts that GPD had, `provisional`: those
    that BizEvents told of.
    """

    id_pa: str
    run_id: str
    started_at: datetime
    kind: str = "walk"
    outcome: str = "running"
    finished_at: datetime | None = None
    listed: int = 0
    new: int = 0
    revised: int = 0
    failed: int = 0
    payments: int = 0
    requests: int = 0
    error: str | None = None
    gap: bool = False
    done: int = 0
    due: int = 0
    missing: int = 0
    fetched: int = 0
    provisional: int = 0

    def add_error(self, error: str) -> None:
        """Append a problem."""
        self.error = f"{self.error}; {error}" if self.error else error

    @property
    def duration_s(self) -> float:
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    def row(self) -> dict[str, Any]:
        """Return the row of the ledger."""
        names = ("id_pa", "run_id", "kind", "outcome", "started_at", "finished_at", *FDR_COUNTS, "requests", "error")
        return {name: getattr(self, name) for name in names}
