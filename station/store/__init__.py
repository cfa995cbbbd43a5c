"""The database: tables, engine, and what is written and read. The only user of SQLAlchemy.

Functions take a connection and never commit; the use cases open transactions with `transaction`. A name is loaded, with
its module, when it is first asked for: a command that shows one receipt does not wait for what writes them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# For type checkers, which take no part in the loading below.
if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from station.store import runs
    from station.store.conditions import Filter
    from station.store.engine import connect, parse_url, shown_url, transaction
    from station.store.gauges import (
        CLOCK_TOLERANCE,
        OPEN_COUNTED,
        Durability,
        bound,
        clock,
        clock_problem,
        durability,
        fetched_between,
        last_pushes,
        newest_entry,
        open_by_fault,
        pool_use,
    )
    from station.store.journal import ExchangeFilter, ExchangePosition, list_exchanges, write_exchange
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
        same_notice,
        total,
        with_parts,
    )
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
    from station.store.rights import excessive_rights, grants, missing_rights
    from station.store.schema import check_schema, migrate, revisions
    from station.store.search import Plan, plan
    from station.store.stored import Change, changes, rebuild, replace_stored, stored_page, would_record
    from station.store.turn import commit

_NAMES = {
    "sqlalchemy": "Connection Engine",
    "station.store.conditions": "Filter",
    "station.store.engine": "connect parse_url shown_url transaction",
    "station.store.journal": "ExchangeFilter ExchangePosition list_exchanges write_exchange",
    "station.store.rights": "excessive_rights grants missing_rights",
    "station.store.gauges": "CLOCK_TOLERANCE OPEN_COUNTED Durability bound clock clock_problem durability"
    " fetched_between last_pushes newest_entry open_by_fault pool_use",
    "station.store.purge": "Part count_older open_refused purge_batch",
    "station.store.queries": "EXPORTED LISTED Cursor Position be_patient find flags_of list_receipts page same_notice"
    " total with_parts",
    "station.store.stored": "Change changes rebuild replace_stored stored_page would_record",
    "station.store.receipts": "Recorded Recording record record_alone",
    "station.store.refused": "RefusedFilter RefusedPosition RefusedState Refusing discard document_of find_refused keep"
    " keep_alone list_refused refused_ids settle",
    "station.store.schema": "check_schema migrate revisions",
    "station.store.search": "Plan plan",
    "station.store.turn": "commit",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}


def _load(name: str) -> Any:
    globals()[name] = found = getattr(import_module(_HOME[name]), name)
    return found


def load() -> None:
    """Load all of it: what a server needs for a request is there before the first one, whatever is short by then."""
    for name in _HOME:
        _load(name)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "runs":
            return import_module("station.store.runs")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _load(name)
