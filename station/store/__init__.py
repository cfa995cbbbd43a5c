"""The database: tables, engine, and what is written and read. The only user of SQLAlchemy.

Functions take a connection and never commit; the use cases open transactions with `transaction`.
"""

from sqlalchemy import Connection, Engine

from station.store.engine import connect, parse_url, transaction
from station.store.queries import Filter, Position, find, flags_of, list_receipts
from station.store.receipts import Recorded, record
from station.store.refused import keep
from station.store.schema import check_schema, migrate, revisions

__all__ = [
    "Connection",
    "Engine",
    "Filter",
    "Position",
    "Recorded",
    "check_schema",
    "connect",
    "find",
    "flags_of",
    "keep",
    "list_receipts",
    "migrate",
    "parse_url",
    "record",
    "revisions",
    "transaction",
]
