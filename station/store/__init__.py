"""The database: tables, engine, and what is written and read. The only user of SQLAlchemy.

Functions take a connection and never commit; the use cases open transactions with `transaction`.
"""

from sqlalchemy import Connection, Engine

from station.store import runs
from station.store.conditions import Filter
from station.store.engine import connect, parse_url, transaction
from station.store.grants import grants
from station.store.journal import ExchangeFilter, ExchangePosition, list_exchanges, write_exchange
from station.store.levels import (
    CLOCK_TOLERANCE,
    OPEN_COUNTED,
    bound,
    clock,
    fetched_between,
    last_pushes,
    newest_entry,
    open_by_fault,
    pool_use,
)
from station.store.purge import Part, count_older, open_refused, purge_batch
from station.store.queries import (
    EXPORTED,
    LISTED,
    Cursor,
    Position,
    be_patient,
    find,
    flags_of,
    list_receipts,
    page,
    with_parts,
)
from station.store.rebuild import Change, changes, rebuild, replace_stored, stored_page, would_record
from station.store.receipts import Recorded, Recording, record, record_alone
from station.store.refused import (
    RefusedFilter,
    RefusedPosition,
    RefusedState,
    Refusing,
    discard,
    document_of,
    find_refused,
    keep,
    keep_alone,
    list_refused,
    refused_ids,
    settle,
)
from station.store.schema import check_schema, migrate, revisions
from station.store.search import Plan, plan
from station.store.turn import commit

__all__ = [
    "CLOCK_TOLERANCE",
    "EXPORTED",
    "LISTED",
    "OPEN_COUNTED",
    "Change",
    "Connection",
    "Cursor",
    "Engine",
    "ExchangeFilter",
    "ExchangePosition",
    "Filter",
    "Part",
    "Plan",
    "Position",
    "Recorded",
    "Recording",
    "RefusedFilter",
    "RefusedPosition",
    "RefusedState",
    "Refusing",
    "be_patient",
    "bound",
    "changes",
    "check_schema",
    "clock",
    "commit",
    "connect",
    "count_older",
    "discard",
    "document_of",
    "fetched_between",
    "find",
    "find_refused",
    "flags_of",
    "grants",
    "keep",
    "keep_alone",
    "last_pushes",
    "list_exchanges",
    "list_receipts",
    "list_refused",
    "migrate",
    "newest_entry",
    "open_by_fault",
    "open_refused",
    "page",
    "parse_url",
    "plan",
    "pool_use",
    "purge_batch",
    "rebuild",
    "record",
    "record_alone",
    "refused_ids",
    "replace_stored",
    "revisions",
    "runs",
    "settle",
    "stored_page",
    "transaction",
    "with_parts",
    "would_record",
    "write_exchange",
]
