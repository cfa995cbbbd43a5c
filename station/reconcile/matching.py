"""Match what flows say was credited to an EC with its receipts, both ways. The SQL is in `store.matching`."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from station import log, store
from station.retry import read, retrying
from station.store import matching
from station.store.engine import QUERY_TIMEOUT_S

T = TypeVar("T")

_log = log.get(__name__)

_SLICE = timedelta(days=1)  # receipts that arrived in this time are looked at in one transaction


def match(engine: store.Engine, id_pa: str) -> int:
    """Match an EC's payments that have no receipt with receipts, and its receipts with flows. Return how many payments
    were matched. Raises `StoreError`: run it again then.
    """
    now = datetime.now(UTC)
    since = read(engine, matching.first_flow, id_pa)
    if since is None:
        return 0
    matched = _write(engine, lambda connection: matching.match_payments(connection, id_pa, now=now))
    start, end = read(engine, matching.looked_at, id_pa)
    if start is None or end is None or since < start or end > now + store.CLOCK_TOLERANCE:
        start = end = since
    while end < now:
        last, end = end, min(end + _SLICE, now)

        def look(connection: store.Connection, last: datetime = last, end: datetime = end) -> None:
            matching.await_arrived(connection, id_pa, since=since, start=last, end=end)
            matching.note_looked_at(connection, id_pa, start=start, end=end)

        _write(engine, look)
    _write(engine, lambda connection: matching.settle_flows(connection, id_pa, since=since))
    _log.info("payments_matched", id_pa=id_pa, payments=matched)
    return matched


def _write(engine: store.Engine, work: Callable[[store.Connection], T]) -> T:
    """Run `work` in a transaction that may take its time: the first of an EC looks at all that is stored."""

    def once() -> T:
        with store.transaction(engine, timeout=QUERY_TIMEOUT_S) as connection:
            return work(connection)

    return retrying(once)
