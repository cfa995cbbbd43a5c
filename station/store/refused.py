"""Refused requests in the database: keep, find and settle them, with their history. Nothing here commits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Engine, Row, bindparam, func, select, update

from station.errors import RefusalError, StoreError
from station.journal import Exchange
from station.receipt import Identifiers, Source
from station.store import tables
from station.store.group_commit import commit, run_alone
from station.store.journal import write_exchange
from station.store.limits import among
from station.store.paging import Cursor, in_order
from station.store.rows import exchange_parameters, insert_rows, read_sql


class RefusedState(StrEnum):
    """What became of a refused request."""

    OPEN = "open"
    ACCEPTED = "accepted"  # the receipt is stored
    DISCARDED = "discarded"  # an operator decided that it is none


@dataclass(frozen=True, slots=True)
class NewRefusal:
    """A request that is being refused, and the reason. `exchange` is its row in the journal, if there is a journal."""

    identifiers: Identifiers
    refusal: RefusalError
    raw: bytes
    charset: str | None
    source: Source
    peer: str | None
    request_id: str | None
    received_at: datetime
    operator: str | None = None
    exchange: Exchange | None = None

    def row(self) -> dict[str, Any]:
        """Return the row of a request that was never refused before."""
        identifiers = self.identifiers
        id_pa, raw_hash = _key(identifiers, self.raw)
        names = ("operation", "id_broker_pa", "id_station", "receipt_id", "notice_number", "iuv")
        return {name: getattr(identifiers, name) for name in names} | {
            "id_pa": id_pa,
            "raw_hash": raw_hash,
            "refused_id": raw_hash.hex()[:16],
            "source": self.source.value,
            "peer": self.peer,
            "request_id": self.request_id,
            "fault_code": self.refusal.fault_code,
            "reason": str(self.refusal),
            "state": RefusedState.OPEN.value,
            "received_at": self.received_at,
            "times": 1,
            "last_at": self.received_at,
            "charset": self.charset,
            "raw": self.raw,
        }


# Built once: SQLAlchemy's objects for a statement stay in memory until Python's collector runs.
_IS_IT = (tables.refused.c.id_pa == bindparam("of_id_pa")) & (tables.refused.c.raw_hash == bindparam("of_raw_hash"))
_KNOWN = (
    select(*(tables.refused.c[name] for name in ("state", "fault_code", "reason", "times")))
    .where(_IS_IT)
    .with_for_update()
)
_CHANGED = update(tables.refused).where(_IS_IT)
_SAVE = read_sql("save_refused")  # on PostgreSQL


def save_refused(engine: Engine, new: NewRefusal, *, until: float) -> str:
    """Save a refused request (see `write_refused`) by group commit and return its `refused_id`.

    `until` (of `time.monotonic()`) is the deadline. Raises `StoreError`.
    """
    if engine.dialect.name == "postgresql":
        row = new.row()
        given = row | {"operator": new.operator and new.operator[:64]} | exchange_parameters(new.exchange)
        key = ("refused", row["id_pa"], row["refused_id"])
        if run_alone(engine, _SAVE, given, key=key, until=until) is not None:
            return str(row["refused_id"])
    return commit(engine, lambda connection: write_refused(connection, new), until=until)


def write_refused(connection: Connection, new: NewRefusal) -> str:
    """Keep a refused request with its exact bytes and return its `refused_id`.

    The same bytes refused again are the same refused request, with the latest reason. It is counted if it was sent
    again, not if an operator had it read again; its history has the replays and each change. A discarded one is open
    again, unless only the reconciliation came across it.
    """
    row = new.row()
    id_pa, raw_hash, refused_id = row["id_pa"], row["raw_hash"], str(row["refused_id"])
    judged = {name: row[name] for name in ("fault_code", "reason")}
    event = judged | {
        "at": new.received_at, "result": "refused", "source": new.source.value, "operator": new.operator
    }  # fmt: skip
    # Turned away by a row that is gone when it is looked for: the retention deletes settled ones. Not twice in a row.
    for _ in range(3):
        known = None
        if insert_rows(connection, tables.refused, [row], if_new=True):
            break
        known = connection.execute(_KNOWN, _of_it(id_pa, raw_hash)).one_or_none()
        if known is not None:
            break
    else:
        raise StoreError("the refused request cannot be kept now", reason="row comes and goes", retry=True)
    if known is None:
        _remember(connection, id_pa, raw_hash, event)
    else:
        changes: dict[str, Any] = dict(judged)
        if new.source is not Source.REPLAY:
            changes |= {"times": known.times + 1, "last_at": new.received_at}
        reopened = known.state == RefusedState.DISCARDED and new.source is not Source.RECONCILE
        if reopened:
            changes |= {"state": RefusedState.OPEN, "settled_at": None}
        connection.execute(_CHANGED, _of_it(id_pa, raw_hash) | changes)
        if new.source is Source.REPLAY or reopened or (known.fault_code, known.reason) != tuple(judged.values()):
            _remember(connection, id_pa, raw_hash, event)
    if new.exchange is not None:
        write_exchange(connection, new.exchange)
    return refused_id


def settle(
    connection: Connection,
    identifiers: Identifiers,
    raw: bytes,
    *,
    result: str,
    source: Source,
    operator: str | None,
    at: datetime,
) -> bool:
    """Note that a request once refused with these bytes was taken in now: `result` is stored, duplicate or replaced.

    Return whether there was one to settle; one that is accepted already stays as it is.
    """
    table = tables.refused
    id_pa, raw_hash = _key(identifiers, raw)
    statement = update(table).where(_IS_IT, table.c.state != RefusedState.ACCEPTED)
    changes = {"state": RefusedState.ACCEPTED, "settled_at": at}
    if connection.execute(statement, _of_it(id_pa, raw_hash) | changes).rowcount == 0:
        return False
    _remember(connection, id_pa, raw_hash, {"at": at, "result": result, "source": source, "operator": operator})
    return True


def discard(
    connection: Connection,
    id_pa: str,
    raw_hash: bytes,
    *,
    reason: str,
    operator: str,
    at: datetime,
    states: Sequence[RefusedState] = (RefusedState.OPEN,),
) -> bool:
    """Note an operator's decision not to take in a refused request. Return whether it was in one of `states`."""
    table = tables.refused
    statement = update(table).where(_IS_IT, table.c.state.in_(states))
    changes = {"state": RefusedState.DISCARDED, "settled_at": at}
    if connection.execute(statement, _of_it(id_pa, raw_hash) | changes).rowcount == 0:
        return False
    _remember(connection, id_pa, raw_hash, {"at": at, "result": "discarded", "operator": operator, "reason": reason})
    return True


def _remember(connection: Connection, id_pa: str, raw_hash: bytes, event: dict[str, Any]) -> None:
    """Add to the history. The transaction must hold the lock of the row in `refused`: its events are numbered."""
    table = tables.refused_history
    key = (table.c.id_pa == id_pa) & (table.c.raw_hash == raw_hash)
    number = connection.execute(select(func.coalesce(func.max(table.c.number), 0) + 1).where(key)).scalar_one()
    operator = event.get("operator")
    cut = {"operator": operator[:64]} if operator else {}
    connection.execute(table.insert(), event | cut | {"id_pa": id_pa, "raw_hash": raw_hash, "number": number})


def _key(identifiers: Identifiers, raw: bytes) -> tuple[str, bytes]:
    return (identifiers.id_pa or "")[:35], sha256(raw).digest()


def _of_it(id_pa: str, raw_hash: bytes) -> dict[str, Any]:
    """Return the parameters of `_IS_IT`."""
    return {"of_id_pa": id_pa, "of_raw_hash": raw_hash}


# --- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RefusedFilter:
    """Which refused requests: every condition that is given must hold. Times are aware; `refused_ids`: one of them.

    `id_pas`: the ECs whose requests the reader may see, `None` all, also those without a readable EC.
    """

    refused_ids: tuple[str, ...] = ()
    state: str | None = None
    id_pa: str | None = None
    id_pas: tuple[str, ...] | None = None
    fault_code: str | None = None
    receipt_id: str | None = None
    notice_number: str | None = None
    iuv: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None


REFUSED_LISTED = (
    "refused_id", "received_at", "id_pa", "id_broker_pa", "id_station", "operation", "receipt_id", "notice_number",
    "iuv", "source", "fault_code", "reason", "state", "settled_at", "times", "last_at", "raw_hash",
)  # fmt: skip


def list_refused(
    connection: Connection,
    wanted: RefusedFilter,
    *,
    after: Cursor | None = None,
    newest_first: bool = False,
    limit: int = 50,
) -> Sequence[Row[Any]]:
    """Return one page of refused requests by first arrival, with the columns `REFUSED_LISTED`. Keyset paging."""
    table = tables.refused
    query = select(*(table.c[name] for name in REFUSED_LISTED)).where(*_conditions(wanted))
    order = (table.c.received_at, table.c.id_pa, table.c.raw_hash)
    if after is not None:
        query = query.where(after.behind(order, newest_first=newest_first))
    query = query.order_by(*in_order(order, newest_first=newest_first)).limit(limit)
    return connection.execute(query).all()


def _conditions(wanted: RefusedFilter) -> Iterable[Any]:
    table = tables.refused
    if wanted.refused_ids:
        yield table.c.refused_id.in_(wanted.refused_ids)
    yield from among(table.c.id_pa, wanted.id_pas)
    for name in ("state", "id_pa", "fault_code", "receipt_id", "notice_number", "iuv"):
        if (value := getattr(wanted, name)) is not None:
            yield table.c[name] == value
    if wanted.received_from is not None:
        yield table.c.received_at >= wanted.received_from
    if wanted.received_to is not None:
        yield table.c.received_at < wanted.received_to


def refused_ids(
    connection: Connection, prefix: str, *, id_pas: Sequence[str] | None = None, limit: int = 10
) -> list[str]:
    """Return the ids of refused requests that start with `prefix` (hexadecimal digits, lower case), in order.

    Of all ECs, or of `id_pas`.
    """
    column = tables.refused.c.refused_id
    query = select(column).where(column >= prefix, column < f"{prefix}g", *among(tables.refused.c.id_pa, id_pas))
    query = query.distinct().order_by(column).limit(limit)
    return [one for one in connection.execute(query).scalars() if one.startswith(prefix)]


def find_refused(
    connection: Connection, refused_id: str, *, id_pas: Sequence[str] | None = None
) -> dict[str, Any] | None:
    """Return one refused request, of all ECs or of `id_pas`, with all its columns and its `history`."""
    query = select(tables.refused).where(
        tables.refused.c.refused_id == refused_id, *among(tables.refused.c.id_pa, id_pas)
    )
    row = connection.execute(query.order_by(tables.refused.c.received_at).limit(1)).mappings().one_or_none()
    if row is None:
        return None
    history = tables.refused_history
    key = (history.c.id_pa == row["id_pa"]) & (history.c.raw_hash == row["raw_hash"])
    events = connection.execute(select(history).where(key).order_by(history.c.number)).mappings()
    keys = ("id_pa", "raw_hash", "number")
    return {**row, "history": [{name: value for name, value in one.items() if name not in keys} for one in events]}


def document_of(connection: Connection, id_pa: str, raw_hash: bytes) -> tuple[bytes, str | None] | None:
    """Return the exact bytes of one refused request and the character set the transport gave them."""
    statement = select(tables.refused.c.raw, tables.refused.c.charset).where(_IS_IT)
    row = connection.execute(statement, _of_it(id_pa, raw_hash)).first()
    return None if row is None else (row.raw, row.charset)
