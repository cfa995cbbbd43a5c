"""Clients of pagoPA's REST services: GPD receipts and positions, FdR, BizEvents. The only user of the HTTP client.

In here: `http` (connections, rates, one request), `calls` (an EC's calls with their retries), `answers` (reading an
answer), and a module for each API: `gpd`, `fdr`, `biz_events`. They return pages of what is listed, documents as bytes,
`None` for what is not there, and raise `ApiError` for everything else. The use cases are in `reconcile`.
"""

from station.pagopa.answers import error_text, usable_iuv
from station.pagopa.biz_events import BizEventsClient
from station.pagopa.fdr import FdrClient, Flow, FlowKey, FlowPage, FlowPayment, check_fdr_access
from station.pagopa.gpd import EcClient, Page, PaidPosition, PositionsPage, Row, check_access
from station.pagopa.http import ApiClient, ApiResponse

__all__ = [
    "ApiClient",
    "ApiResponse",
    "BizEventsClient",
    "EcClient",
    "FdrClient",
    "Flow",
    "FlowKey",
    "FlowPage",
    "FlowPayment",
    "Page",
    "PaidPosition",
    "PositionsPage",
    "Row",
    "check_access",
    "check_fdr_access",
    "error_text",
    "usable_iuv",
]
