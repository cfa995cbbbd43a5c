"""The database: tables, engine, and what is written and read. The only user of SQLAlchemy.

Functions take a connection and never commit; the use cases open transactions with `transaction`. Import from the
modules (`from station.store import queries`); here are the engine and what the server and the replay share. A name is
loaded, with its module, when it is first asked for: a command that shows a receipt does not load the write path.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# For type checkers, which take no part in the loading below.
if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from station.store import runs
    from station.store.conditions import Filter
    from station.store.documents import document_bytes, documents_of
    from station.store.engine import connect, parse_url, shown_url, transaction
    from station.store.gauges import (
        CLOCK_TOLERANCE,
        OPEN_COUNTED,
        bound,
        clock,
        clock_problem,
        fetched_between,
        last_pushes,
        open_by_fault,
        pool_use,
    )
    from station.store.group_commit import commit, on_batch
    from station.store.journal import write_exchange
    from station.store.paging import Cursor
    from station.store.queries import find, list_receipts, same_notice
    from station.store.receipts import NewReceipt, Saved, foresee, save_receipt
    from station.store.refused import (
        NewRefusal,
        RefusedFilter,
        RefusedState,
        discard,
        document_of,
        find_refused,
        list_refused,
        refused_ids,
        save_refused,
        settle,
    )
    from station.store.schema import check_schema, migrate, revisions
    from station.store.stored import Change, changes, rebuild, replace_stored, stored_page

_NAMES = {
    "sqlalchemy": "Connection Engine",
    "station.store.conditions": "Filter",
    "station.store.documents": "document_bytes documents_of",
    "station.store.engine": "connect parse_url shown_url transaction",
    "station.store.gauges": "CLOCK_TOLERANCE OPEN_COUNTED bound clock clock_problem fetched_between last_pushes"
    " open_by_fault pool_use",
    "station.store.group_commit": "commit on_batch",
    "station.store.journal": "write_exchange",
    "station.store.paging": "Cursor",
    "station.store.queries": "find list_receipts same_notice",
    "station.store.receipts": "NewReceipt Saved foresee save_receipt",
    "station.store.refused": "NewRefusal RefusedFilter RefusedState discard document_of find_refused"
    " list_refused refused_ids save_refused settle",
    "station.store.schema": "check_schema migrate revisions",
    "station.store.stored": "Change changes rebuild replace_stored stored_page",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


def _load(name: str) -> Any:
    globals()[name] = value = getattr(import_module(_HOME[name]), name)
    return value


def load() -> None:
    """Load all names, so that a server under memory pressure imports nothing for its first request."""
    for name in _HOME:
        _load(name)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "runs":
            return import_module("station.store.runs")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _load(name)
