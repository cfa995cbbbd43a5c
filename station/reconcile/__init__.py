"""Two use cases that find what is missing: by the list of the GPD receipts API, and by the flows of FdR.

`reconcile` walks the ECs or fetches single receipts that the API lists and the station does not have, `status` says
what was walked and what is missing. In here: `run` (all ECs), `walk` (one EC), `listing` (its lists), `windows` (days),
`fetch` (its receipts), `ec_run` (its counts), `status`. `walk_flows` stores what FdR says was credited
(`fdr_run`, `fdr_walk`, `fdr_ec_run`, `fdr_status`), matches it with receipts (`matching`), and fetches those that are
missing (`fdr_fetch`). Not here: HTTP (see `pagopa`), what becomes of a document (see `intake`).
"""

from station.reconcile.ec_run import COUNTS, EcRun
from station.reconcile.fdr_ec_run import FDR_COUNTS, MATCH_COUNTS, FdrEcRun
from station.reconcile.fdr_run import FdrOrder, FdrSummary, acknowledge, walk_flows
from station.reconcile.fdr_status import FdrEcStatus, FdrStatus, fdr_status, is_fdr_late
from station.reconcile.run import Order, Summary, reconcile
from station.reconcile.status import EcStatus, Status, is_late, status
from station.reconcile.walk import Missing

__all__ = [
    "COUNTS",
    "FDR_COUNTS",
    "MATCH_COUNTS",
    "EcRun",
    "EcStatus",
    "FdrEcRun",
    "FdrEcStatus",
    "FdrOrder",
    "FdrStatus",
    "FdrSummary",
    "Missing",
    "Order",
    "Status",
    "Summary",
    "acknowledge",
    "fdr_status",
    "is_fdr_late",
    "is_late",
    "reconcile",
    "status",
    "walk_flows",
]
