"""The database: tables, engine, and what is written and read. The only user of SQLAlchemy.

Functions take a connection and never commit; the use cases open transactions with `transaction`.
"""

from sqlalchemy import Connection, Engine

from station.store import runs
from station.store.engine import connect, parse_url, transaction
from station.store.queries import Filter, Position, find, flags_of, list_receipts
from station.store.rebuild import Change, changes, rebuild, stored_page, would_record
from station.store.receipts import Recorded, record
from station.store.refused import (
    RefusedFilter,
    RefusedPosition,
    RefusedState,
    discard,
    document_of,
    find_refused,
    keep,
    list_refused,
    refused_ids,
    settle,
)
from station.store.schema import check_schema, migrate, revisions

__all__ = [
    "Change",
    "Connection",
    "Engine",
    "Filter",
    "Position",
    "Recorded",
    "RefusedFilter",
    "RefusedPosition",
    "RefusedState",
    "changes",
    "check_schema",
    "connect",
    "discard",
    "document_of",
    "find",
    "find_refused",
    "flags_of",
    "keep",
    "list_receipts",
    "list_refused",
    "migrate",
    "parse_url",
    "rebuild",
    "record",
    "refused_ids",
    "revisions",
    "runs",
    "settle",
    "stored_page",
    "transaction",
    "would_record",
]
