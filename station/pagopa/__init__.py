"""The client of the GPD receipts API and of GPD-Core's list of positions. The only user of the HTTP client.

What comes out: pages of what is listed, documents as bytes, word of what is not there, and a `GpdError` for everything
else. In here: `http` (connections, the rate, one call), `calls` (an EC's calls and their retries), `answers` (what is
in an answer, all of it distrusted). What is done with an answer does not live here (see `reconcile`).
"""

from station.pagopa.answers import Page, PaidPosition, PositionsPage, Row, usable_iuv, words
from station.pagopa.calls import EcClient, ask_once
from station.pagopa.http import Answer, Client, Pace

__all__ = [
    "Answer",
    "Client",
    "EcClient",
    "Pace",
    "Page",
    "PaidPosition",
    "PositionsPage",
    "Row",
    "ask_once",
    "usable_iuv",
    "words",
]
