"""Receipts that are stored already: rebuild one from its documents, or replace it by an operator's decision.

Columns, transfers and flags of the content follow from the documents and are rebuilt; bytes and history (when, by which
door and how often it came, its place among the receipts of its notice) stay. Nothing here commits.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, delete, func, select, tuple_, update

from station import contract, journal
from station.errors import ReceiptConflictError
from station.receipt import ARRIVAL_FLAGS, Flag, Identifiers, Receipt, Source
from station.store import tables
from station.store.documents import announce, document_bytes, documents_of, write_united
from station.store.paging import Cursor
from station.store.receipts import next_ordinal
from station.store.refused import NewRefusal, RefusedState, discard, write_refused
from station.store.rows import receipt_row, transfer_rows


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
    """Return one page of receipts, oldest first, with all their columns, `transfers`, `flags` and `documents`.

    `documents` has bytes and character set of each, in the order they were accepted, without BizEvents' JSON where a
    genuine one came. Keyset paging.
    """
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
        one |= {"transfers": [], "flags": set(), "documents": []}
    if found:
        for part in (tables.transfer, tables.receipt_flag, tables.receipt_document):
            theirs = select(part).where(tuple_(part.c.id_pa, part.c.receipt_id).in_(list(by_key)))
            for row in connection.execute(theirs.order_by(*part.primary_key.columns)).mappings():
                one = by_key[row["id_pa"], row["receipt_id"]]
                if part is tables.transfer:
                    one["transfers"].append(dict(row))
                elif part is tables.receipt_flag:
                    one["flags"].add(row["flag"])
                elif row["source"] != Source.BIZEVENTS:
                    one["documents"].append((row["raw"], row["charset"]))
    for one in found:
        one["documents"] = one["documents"] or [(one["raw"], one["charset"])]
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """A value that a rebuild changes. `table` receipt, transfer (`position` says which) or flag; `None`: not there."""

    table: str
    name: str
    old: Any
    new: Any
    position: int | None = None


def changes(stored: dict[str, Any], receipt: Receipt) -> list[Change]:
    """Return what a rebuild would change in `stored` (see `stored_page`), its documents read today as `receipt`."""
    found = [
        Change("receipt", name, stored[name], value)
        for name, value in receipt_row(receipt).items()
        if not _is_same(stored[name], value)
    ]
    before: dict[int, dict[str, Any]] = {one["position"]: one for one in stored["transfers"]}
    now = {one["position"]: one for one in transfer_rows(receipt)}
    for position in sorted(before.keys() | now.keys()):
        old, new = before.get(position, {}), now.get(position, {})
        found += [
            Change("transfer", name, old.get(name), new.get(name), position)
            for name in old or new
            if name not in ("id_pa", "receipt_id", "position")
            and (not old or not new or not _is_same(old[name], new[name]))
        ]
    flags_before = set(stored["flags"]) - ARRIVAL_FLAGS
    flags_now = set(receipt.flags)
    found += [Change("flag", flag, flag, None) for flag in sorted(flags_before - flags_now)]
    found += [Change("flag", flag, None, flag) for flag in sorted(flags_now - flags_before)]
    return found


def _is_same(stored: Any, read: Any) -> bool:
    """Tell whether a value as the database returns it is the one that was read: JSON has lists in place of tuples."""
    if isinstance(read, tuple):
        return stored is not None and [list(entry) for entry in read] == stored
    return bool(stored == read)


def rebuild(connection: Connection, united: contract.United) -> bool:
    """Make a stored receipt what its documents say, read again. Return `False` where they were purged meanwhile, or
    another one was added or took the place of BizEvents' JSON: for it, all of them were read again.
    """
    table, document = tables.receipt, tables.receipt_document
    key = {"id_pa": united.receipt.id_pa, "receipt_id": united.receipt.receipt_id}
    # The lock keeps the retention and another document out.
    query = select(table.c.source).filter_by(**key).where(table.c.raw_purged_at.is_(None))
    source = connection.execute(query.with_for_update(key_share=True)).scalar_one_or_none()
    if source is None or (source == Source.BIZEVENTS) != (Flag.PROVISIONAL in united.receipt.flags):
        return False
    compared = select(func.count()).select_from(document).where(document.c.source != Source.BIZEVENTS)
    count = connection.execute(compared.filter_by(**key)).scalar_one()
    if max(count, 1) != len(united.hashes):
        return False
    write_united(connection, united)
    return True


def replace_stored(
    connection: Connection, receipt: Receipt, *, raw: bytes, charset: str | None, by: str, operator: str, at: datetime
) -> str | None:
    """Put `receipt` in the place of the one that is stored under its key, by an operator's decision.

    The documents that were stored are kept as discarded refused requests; return the id of the fullest. `by` names the
    refused request that takes their place. Return `None` where there is none to replace, or its documents were purged.
    """
    table, document = tables.receipt, tables.receipt_document
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    stored = connection.execute(select(table).filter_by(**key).with_for_update()).mappings().one_or_none()
    if stored is None or not stored["raw"]:
        return None
    names = ("id_pa", "id_broker_pa", "id_station", "receipt_id", "notice_number", "iuv")
    refused_id = None
    for one in documents_of(connection, **key):
        old_raw, old_charset = document_bytes(connection, **key, number=one["number"])
        kept = write_refused(
            connection,
            NewRefusal(
                Identifiers(
                    operation={0: journal.FETCH_PROVISIONAL, 1: "paSendRT", 2: "paSendRTV2"}[one["version"]],
                    **{name: stored[name][:64] for name in names},
                ),
                ReceiptConflictError(),
                raw=old_raw,
                charset=old_charset,
                source=Source.REPLAY,
                peer=None,
                request_id=None,
                received_at=at,
                operator=operator,
            ),
        )
        discard(
            connection,
            receipt.id_pa,
            sha256(old_raw).digest(),
            reason=f"replaced by the refused request {by}",
            operator=operator,
            at=at,
            states=tuple(RefusedState),  # it may have been refused and accepted once
        )
        if one["fullest"]:
            refused_id = kept
    connection.execute(delete(document).filter_by(**key))
    values: dict[str, Any] = {"raw": raw, "charset": charset}
    if (stored["notice_number"], stored["fiscal_code"]) != (receipt.notice_number, receipt.fiscal_code):
        values["notice_ordinal"] = next_ordinal(connection, receipt)
    connection.execute(update(table).filter_by(**key).values(receipt_row(receipt) | values))
    write_united(connection, contract.United(receipt, (receipt.content_hash,), 0))
    announce(connection, **key, at=at)
    return refused_id
