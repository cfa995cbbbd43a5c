"""Receipts that are stored already: what recording one again would do, and rebuilding one from its document.

What a receipt's document says (columns, transfers, flags of its content) is rebuilt; its bytes and its history (when,
by which door and how often it came, its place among the receipts of its notice) are not touched. Nothing here commits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, exists, select, tuple_, update

from station import contract
from station.errors import ReceiptConflictError
from station.receipt import Flag, Identifiers, Receipt, Source
from station.store import tables
from station.store.paging import Cursor
from station.store.receipts import Recorded, columns, next_ordinal, transfer_columns
from station.store.refused import RefusedState, Refusing, discard, keep

# What tells of the arrival and not of the document.
HISTORY_FLAGS = frozenset({Flag.SECOND_RECEIPT, Flag.UNKNOWN_STATION})


def would_record(connection: Connection, receipt: Receipt, flags: frozenset[Flag]) -> tuple[Recorded, frozenset[Flag]]:
    """What `record` would return if it were called now. Writes nothing."""
    table = tables.receipt
    stored = connection.execute(
        select(table.c.content_hash, table.c.raw, table.c.charset).where(
            table.c.id_pa == receipt.id_pa, table.c.receipt_id == receipt.receipt_id
        )
    ).one_or_none()
    if stored is not None:
        same = stored.content_hash == receipt.content_hash or contract.same_content(stored.raw, stored.charset, receipt)
        return (Recorded.DUPLICATE if same else Recorded.CONFLICT), frozenset()
    same_notice = exists().where(
        table.c.id_pa == receipt.id_pa,
        table.c.notice_number == receipt.notice_number,
        table.c.fiscal_code == receipt.fiscal_code,
    )
    second = connection.execute(select(same_notice)).scalar_one()
    return Recorded.STORED, flags | {Flag.SECOND_RECEIPT} if second else flags


def stored_page(
    connection: Connection,
    *,
    id_pa: str | None = None,
    receipt_id: str | None = None,
    received_from: datetime | None = None,
    received_to: datetime | None = None,
    after: Cursor | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """One page of receipts, oldest first, with all their columns, `transfers` and `flags`. Keyset paging."""
    table = tables.receipt
    query = select(table)
    if id_pa is not None:
        query = query.where(table.c.id_pa == id_pa)
    if receipt_id is not None:
        query = query.where(table.c.receipt_id == receipt_id)
    if received_from is not None:
        query = query.where(table.c.received_at >= received_from)
    if received_to is not None:
        query = query.where(table.c.received_at < received_to)
    order = (table.c.received_at, table.c.id_pa, table.c.receipt_id)
    if after is not None:
        query = query.where(after.behind(order))
    found = [dict(row) for row in connection.execute(query.order_by(*order).limit(limit)).mappings()]
    by_key = {(one["id_pa"], one["receipt_id"]): one for one in found}
    for one in found:
        one["transfers"], one["flags"] = [], set()
    if found:
        for part, put in ((tables.transfer, _put_transfer), (tables.receipt_flag, _put_flag)):
            theirs = select(part).where(tuple_(part.c.id_pa, part.c.receipt_id).in_(list(by_key)))
            for row in connection.execute(theirs.order_by(*part.primary_key.columns)).mappings():
                put(by_key[row["id_pa"], row["receipt_id"]], dict(row))
    return found


def _put_transfer(stored: dict[str, Any], row: dict[str, Any]) -> None:
    stored["transfers"].append({name: value for name, value in row.items() if name not in ("id_pa", "receipt_id")})


def _put_flag(stored: dict[str, Any], row: dict[str, Any]) -> None:
    stored["flags"].add(row["flag"])


@dataclass(frozen=True, slots=True)
class Change:
    """A value that a rebuild changes. `table` receipt, transfer (`position` says which) or flag; `None`: not there."""

    table: str
    name: str
    old: Any
    new: Any
    position: int | None = None


def changes(stored: dict[str, Any], receipt: Receipt) -> list[Change]:
    """What a rebuild would change in `stored` (see `stored_page`), where `receipt` is its document read now."""
    found = [
        Change("receipt", name, stored[name], value)
        for name, value in columns(receipt).items()
        if not _same(stored[name], value)
    ]
    before: dict[int, dict[str, Any]] = {one["position"]: one for one in stored["transfers"]}
    now = {position: transfer_columns(position, one) for position, one in enumerate(receipt.transfers, start=1)}
    for position in sorted(before.keys() | now.keys()):
        old, new = before.get(position, {}), now.get(position, {})
        found += [
            Change("transfer", name, old.get(name), new.get(name), position)
            for name in old or new
            if name != "position" and (not old or not new or not _same(old[name], new[name]))
        ]
    flags_before = set(stored["flags"]) - HISTORY_FLAGS
    flags_now = set(receipt.flags)
    found += [Change("flag", flag, flag, None) for flag in sorted(flags_before - flags_now)]
    found += [Change("flag", flag, None, flag) for flag in sorted(flags_now - flags_before)]
    return found


def _same(stored: Any, read: Any) -> bool:
    """Whether a value as the database gives it is the one that was read: JSON knows no tuples."""
    return bool(_lists(stored) == _lists(read))


def _lists(value: Any) -> Any:
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def rebuild(
    connection: Connection, receipt: Receipt, what: Sequence[Change], *, document: dict[str, Any] | None = None
) -> bool:
    """Makes what is stored say what `receipt` says. Whether it did: not if the document was purged meanwhile.

    `receipt` must have the key of the one that is stored; `document` holds its `raw` and `charset` where they are new.
    """
    table = tables.receipt
    statement = update(table).where(
        table.c.id_pa == receipt.id_pa, table.c.receipt_id == receipt.receipt_id, table.c.raw_purged_at.is_(None)
    )
    # Even where no column changes: the row is locked by it, against the retention and another rebuild.
    if connection.execute(statement.values(columns(receipt) | (document or {}))).rowcount == 0:
        return False
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    touched = {change.table for change in what}
    if "transfer" in touched:
        connection.execute(delete(tables.transfer).filter_by(**key))
        connection.execute(
            tables.transfer.insert(),
            [key | transfer_columns(position, one) for position, one in enumerate(receipt.transfers, start=1)],
        )
    if "flag" in touched:
        flag = tables.receipt_flag
        connection.execute(delete(flag).filter_by(**key).where(flag.c.flag.not_in(sorted(HISTORY_FLAGS))))
        if flags := sorted(receipt.flags - HISTORY_FLAGS):
            received_at = select(table.c.received_at).filter_by(**key).scalar_subquery()
            connection.execute(flag.insert().values(received_at=received_at), [key | {"flag": one} for one in flags])
    return True


def replace_stored(
    connection: Connection, receipt: Receipt, *, raw: bytes, charset: str | None, by: str, operator: str, at: datetime
) -> str | None:
    """Puts `receipt` in the place of the one that is stored under its key, by an operator's decision.

    The document that was stored is kept as a discarded refused request, whose id is returned; `by` names the refused
    request that takes its place. `None` where there is none to replace, or its document was purged.
    """
    table = tables.receipt
    key = (table.c.id_pa == receipt.id_pa) & (table.c.receipt_id == receipt.receipt_id)
    connection.execute(select(table.c.receipt_id).where(key).with_for_update())
    page = stored_page(connection, id_pa=receipt.id_pa, receipt_id=receipt.receipt_id, limit=1)
    if not page or not page[0]["raw"]:
        return None
    stored = page[0]
    names = ("id_pa", "id_broker_pa", "id_station", "receipt_id", "notice_number", "iuv")
    identifiers = Identifiers(
        operation={1: "paSendRT", 2: "paSendRTV2"}[stored["version"]], **{name: stored[name][:64] for name in names}
    )
    refusing = Refusing(
        identifiers,
        ReceiptConflictError(),
        raw=stored["raw"],
        charset=stored["charset"],
        source=Source.REPLAY,
        peer=None,
        request_id=None,
        received_at=at,
        operator=operator,
    )
    refused_id = keep(connection, refusing)
    discard(
        connection,
        stored["id_pa"],
        sha256(stored["raw"]).digest(),
        reason=f"replaced by the refused request {by}",
        operator=operator,
        at=at,
        states=tuple(RefusedState),  # it may have been refused and accepted once
    )
    document: dict[str, Any] = {"raw": raw, "charset": charset}
    if (stored["notice_number"], stored["fiscal_code"]) != (receipt.notice_number, receipt.fiscal_code):
        document["notice_ordinal"] = next_ordinal(connection, receipt)
    rebuild(connection, receipt, changes(stored, receipt), document=document)
    return refused_id
