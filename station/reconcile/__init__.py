"""The use case: receipts that the GPD receipts API lists and the station does not have are fetched and taken in.

`reconcile` walks the ECs or fetches single receipts, `status` says what was walked and what is missing. In
here: `run` (all ECs), `walk` (one EC), `listing` (its lists), `windows` (days), `fetch` (its receipts), `ec_run` (its
counts), `status`. Not here: HTTP (see `pagopa`), what becomes of a document (see `intake`).
"""

from station.reconcile.ec_run import COUNTS, EcRun
from station.reconcile.run import Order, Summary, reconcile
from station.reconcile.status import EcStatus, Status, status
from station.reconcile.walk import Missing

__all__ = [
    "COUNTS",
    "EcRun",
    "EcStatus",
    "Missing",
    "Order",
    "Status",
    "Summary",
    "reconcile",
    "status",
]
