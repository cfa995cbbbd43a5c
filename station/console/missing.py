"""How many receipts are known to exist and are not here: the same number wherever a page tells it."""

from collections.abc import Sequence

from station import store
from station.store import credited


def number_missing(connection: store.Connection, id_pas: Sequence[str] | None) -> int:
    """Return how many receipts pagoPA lists, or has credited, that did not arrive; each once."""
    listed: int = sum(
        row.number for row in store.runs.count_items(connection, id_pas) if row.reason != store.runs.IN_FDR
    )
    credited_only: int = sum(total.number for total in credited.missing_totals(connection, id_pas))
    return listed + credited_only
