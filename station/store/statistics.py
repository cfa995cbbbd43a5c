"""Receipts and refusals, counted for reports. Nothing here commits, and nothing here names a person.

`id_pas`: of these ECs only, `None`: of all.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Integer, case, cast, func, literal_column, select

from station.store import tables
from station.store.conditions import distinct
from station.store.limits import among


class Hour(NamedTuple):
    """Receipts of one EC by one source that arrived, or were paid, in the hour from `hour` on; their amount in euro."""

    hour: datetime
    id_pa: str
    source: str
    number: int
    amount: Decimal


class Refusals(NamedTuple):
    """Requests that were refused in an hour for one EC (empty where none could be read), and how many are open."""

    hour: datetime
    id_pa: str
    number: int
    open: int


class Delays(NamedTuple):
    """Receipts that arrived about `seconds` after their payment, at most `worst`, for one EC by one source."""

    id_pa: str
    source: str
    seconds: int
    worst: int
    number: int


def by_hour(
    connection: Connection, start: datetime, end: datetime, id_pas: Sequence[str] | None, *, time: str = "received_at"
) -> Iterator[Hour]:
    """Yield receipts by EC, source and hour of their arrival, or of the other `time` that is named.

    By hour, since a day's borders are the reader's, and those of each zone lie on full hours.
    """
    receipt = tables.receipt.c
    hour = _hour(connection, receipt[time])
    query = select(hour, receipt.id_pa, receipt.source, func.count(), func.sum(receipt.amount))
    query = query.where(*_within(receipt, start, end, id_pas, time)).group_by(hour, receipt.id_pa, receipt.source)
    for at, *counted in connection.execute(query):
        yield Hour(_moment(at), *counted)


def refusals(
    connection: Connection, start: datetime, end: datetime, id_pas: Sequence[str] | None
) -> Iterator[Refusals]:
    """Yield refused requests by the hour they came first, and EC."""
    refused = tables.refused.c
    hour = _hour(connection, refused.received_at)
    still_open = func.sum(case((refused.state == "open", 1), else_=0))
    query = select(hour, refused.id_pa, func.count(), still_open)
    query = query.where(*_within(refused, start, end, id_pas)).group_by(hour, refused.id_pa)
    for at, *counted in connection.execute(query):
        yield Refusals(_moment(at), *counted)


def delays(connection: Connection, start: datetime, end: datetime, id_pas: Sequence[str] | None) -> Iterator[Delays]:
    """Yield delays from payment to arrival: to the second up to an hour, to the minute up to a day, to the hour beyond.

    In steps, so that a year of receipts is a few thousand rows, which give any percentile.
    """
    receipt = tables.receipt.c
    exact: Any
    if connection.dialect.name == "postgresql":
        exact = func.extract("epoch", receipt.received_at - receipt.payment_date_time)
    else:
        exact = (func.julianday(receipt.received_at) - func.julianday(receipt.payment_date_time)) * 86400
    seconds = cast(func.round(exact), BigInteger)  # a payment may be dated two thousand years ago
    whole = (
        select(receipt.id_pa, receipt.source, seconds.label("seconds"))
        # None without a payment time, and on SQLite for the last microseconds of the year 9999.
        .where(*_within(receipt, start, end, id_pas), exact.is_not(None))
        .subquery()
    )
    delay = whole.c.seconds
    # As text: with parameters, PostgreSQL would not see that the grouped expression is the selected one.
    minute, hour, day = (literal_column(str(step), Integer) for step in (60, 3600, 86400))
    step = case((delay < hour, delay), (delay < day, delay - delay % minute), else_=delay - delay % hour)
    query = select(whole.c.id_pa, whole.c.source, step, func.max(delay), func.count())
    for row in connection.execute(query.group_by(whole.c.id_pa, whole.c.source, step)):
        yield Delays(*row)


def seen_ecs(connection: Connection, id_pas: Sequence[str] | None = None) -> list[str]:
    """Return every EC that a receipt is stored for."""
    return list(distinct(connection, tables.receipt.c.id_pa, *among(tables.receipt.c.id_pa, id_pas)))


def last_refused_pushes(connection: Connection, id_pas: Sequence[str] | None = None) -> dict[str, datetime]:
    """Return when a push was last refused, by EC."""
    refused = tables.refused.c
    query = select(refused.id_pa, func.max(refused.last_at).label("last_at")).where(refused.source == "push")
    query = query.where(*among(refused.id_pa, id_pas))
    return {row.id_pa: row.last_at for row in connection.execute(query.group_by(refused.id_pa))}


def _within(
    table: Any, start: datetime, end: datetime, id_pas: Sequence[str] | None, time: str = "received_at"
) -> list[Any]:
    return [table[time] >= start, table[time] < end, *among(table.id_pa, id_pas)]


def _hour(connection: Connection, column: Any) -> Any:
    if connection.dialect.name == "postgresql":
        return func.date_trunc(literal_column("'hour'"), column, literal_column("'UTC'"))
    return func.strftime(literal_column("'%Y-%m-%d %H:00:00'"), column)


def _moment(hour: datetime | str) -> datetime:
    moment = datetime.fromisoformat(hour) if isinstance(hour, str) else hour
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
