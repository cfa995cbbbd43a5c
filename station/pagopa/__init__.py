"""Clients of pagoPA's REST services: the GPD receipts API and GPD-Core's positions. The only user of the HTTP client.

In here: `http` (connections, rates, one request), `calls` (an EC's calls with their retries), `answers` (reading an
answer). They return pages of listed receipts, documents as bytes, `None` for pages that are not there, and raise
`GpdError` for everything else. The use case is in `reconcile`.
"""

from station.pagopa.answers import Page, PaidPosition, PositionsPage, Row, error_text, usable_iuv
from station.pagopa.calls import EcClient, check_access
from station.pagopa.http import ApiClient, ApiResponse

__all__ = [
    "ApiClient",
    "ApiResponse",
    "EcClient",
    "Page",
    "PaidPosition",
    "PositionsPage",
    "Row",
    "check_access",
    "error_text",
    "usable_iuv",
]
