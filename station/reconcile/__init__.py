"""The use case: what the GPD receipts API lists and the station does not have is fetched and taken in.

`reconcile` walks the ECs, `fetch` gets single receipts by hand, `status` tells what was walked and what is missing.
In here: `windows` (days), `walk` (one EC), `run` (all of them), `status`. Not here: HTTP (see `gpd`), what becomes of
a document (see `intake`).
"""

from station.reconcile.run import Order, Summary, fetch, reconcile
from station.reconcile.status import EcStatus, Status, status
from station.reconcile.walk import Tally

__all__ = ["EcStatus", "Order", "Status", "Summary", "Tally", "fetch", "reconcile", "status"]
