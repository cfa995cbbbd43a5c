"""The use case: what the GPD receipts API lists and the station does not have is fetched and taken in.

`reconcile` walks the ECs, `fetch_by_hand` gets single receipts, `status` tells what was walked and what is missing. In
here: `windows` (days), `walk` (the lists of one EC), `fetch` (its receipts), `tally` (its counts), `run` (all ECs),
`status`. Not here: HTTP (see `gpd`), what becomes of a document (see `intake`).
"""

from station.reconcile.run import Order, Summary, fetch_by_hand, reconcile
from station.reconcile.status import EcStatus, Status, status
from station.reconcile.tally import COUNTS, Missing, Tally

__all__ = [
    "COUNTS",
    "EcStatus",
    "Missing",
    "Order",
    "Status",
    "Summary",
    "Tally",
    "fetch_by_hand",
    "reconcile",
    "status",
]
