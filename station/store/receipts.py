"""Save a receipt: the one decision about what becomes of a document. Reading lives in `queries`.

On PostgreSQL the statement in `sql/save_receipt.sql` decides: it inserts first, and the unique constraints judge. On
SQLite, where a transaction that writes is alone, `_save_on_sqlite` reads, decides and writes. Both say of a document
with other content that it differs; whether it contradicts what is stored is decided in `documents`. A provisional
receipt, which BizEvents told of, is no content to contradict: the document takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, select, update

from station.errors import StoreError
from station.journal import Exchange
from station.receipt import Flag, Receipt, Source
from station.store import tables
from station.store.documents import add_document, announce, compare, documents_of
from station.store.group_commit import commit, run_alone
from station.store.journal import write_exchange
from station.store.rows import (
    as_json,
    exchange_parameters,
    insert_rows,
    read_sql,
    receipt_row,
    run_on_sqlite,
    sqlite_time,
    transfer_rows,
)


class Saved(StrEnum):
    """What became of a receipt that was to be saved."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # it is stored already, and this document contradicts it nowhere
    CONFLICT = "conflict"  # another content is stored under its key: nothing was written


@dataclass(frozen=True, slots=True)
class NewReceipt:
    """A receipt that is to be saved.

    `flags`: from content and configuration, without `second_receipt`. `exchange`: its row in the journal as if it were
    stored, if there is a journal.
    """

    receipt: Receipt
    flags: frozenset[Flag]
    raw: bytes
    charset: str | None
    source: Source
    received_at: datetime
    exchange: Exchange | None = None

    @property
    def document(self) -> dict[str, Any]:
        """Return the columns that tell of the document and its arrival."""
        return {
            "source": self.source.value, "received_at": self.received_at, "charset": self.charset, "raw": self.raw
        }  # fmt: skip


_SAVE = read_sql("save_receipt")  # on PostgreSQL
# The statement asks for a retry if a concurrent transaction took the key or ordinal. Twenty in a row mean a defect.
_TRIES_MAX = 20


def save_receipt(
    engine: Engine, new: NewReceipt, *, in_doubt: bool = False, until: float
) -> tuple[Saved, frozenset[Flag]]:
    """Save a receipt by group commit. Return whether it is new, a duplicate or a conflict, and the flags it brought.

    If it is stored already, a push is counted as a resend, and the station it came by is kept. A document with a new
    hash is kept too. The journal's row goes with either; a conflict writes nothing. `in_doubt`: an earlier try of the
    same arrival may have been committed, and counts as no resend. `until` (of `time.monotonic()`) is the deadline.
    Raises `StoreError`.
    """
    if engine.dialect.name == "sqlite":
        return commit(engine, partial(_save_on_sqlite, new=new, in_doubt=in_doubt), until=until)
    given = _parameters(new, in_doubt)
    key = ("receipt", new.receipt.id_pa, new.receipt.receipt_id)
    flags = new.flags
    for _ in range(_TRIES_MAX):
        outcome = run_alone(engine, _SAVE, given, key=key, until=until)
        if outcome != "retry":
            break
        given["notice_ordinal"] = commit(engine, partial(next_ordinal, receipt=new.receipt), until=until)
        flags = new.flags | {Flag.SECOND_RECEIPT} if given["notice_ordinal"] else new.flags
        given["flags"] = _text_array(flags)

    def save_differing(connection: Connection) -> tuple[Saved, frozenset[Flag]]:
        replaced = _replace_provisional(connection, new)
        if replaced is not None:
            if new.exchange is not None:
                write_exchange(connection, new.exchange)
            return Saved.STORED, replaced
        added = add_document(connection, new.receipt, new.document)
        if added is None:
            return Saved.CONFLICT, frozenset()
        # Now the statement counts it as a resend of the receipt that it is a document of.
        stored = select(tables.receipt.c.content_hash).filter_by(
            id_pa=new.receipt.id_pa, receipt_id=new.receipt.receipt_id
        )
        counted = given | {"same_as": connection.execute(stored).scalar_one()}
        return Saved(connection.exec_driver_sql(_SAVE, counted).scalar_one()), added

    match outcome:
        case "retry":
            raise StoreError("too many receipts for one notice at once", reason="notice ordinal", retry=True)
        case "differs":
            return commit(engine, save_differing, until=until)
        case "duplicate":
            return Saved.DUPLICATE, frozenset()
    return Saved.STORED, flags


def _parameters(new: NewReceipt, in_doubt: bool) -> dict[str, Any]:
    """Return the parameters of PostgreSQL's statement."""
    given = receipt_row(new.receipt) | new.document | exchange_parameters(new.exchange)
    if given["metadata"] is not None:
        given["metadata"] = as_json(given["metadata"])
    given["transfers"] = as_json(transfer_rows(new.receipt))
    given["flags"] = _text_array(new.flags)
    given["notice_ordinal"] = 0
    given["same_as"] = new.receipt.content_hash
    given["own"] = new.received_at if in_doubt else None
    return given


def _text_array(flags: frozenset[Flag]) -> str:
    return f"{{{','.join(sorted(flags))}}}"


# --- SQLite -----------------------------------------------------------------------------------------------------------

_STORED = """
SELECT content_hash = :content_hash OR EXISTS (SELECT 1 FROM receipt_document AS document
    WHERE document.id_pa = :id_pa AND document.receipt_id = :receipt_id AND document.content_hash = :content_hash)
FROM receipt WHERE id_pa = :id_pa AND receipt_id = :receipt_id"""
_ORDINAL = """
SELECT coalesce(max(notice_ordinal) + 1, 0) FROM receipt
WHERE id_pa = :id_pa AND notice_number = :notice_number AND fiscal_code = :fiscal_code"""
_COUNT = """
UPDATE receipt SET
    resends = resends + CASE WHEN :own IN (received_at, last_resend_at) THEN 0 ELSE 1 END,
    last_resend_at = CASE WHEN :own = received_at THEN last_resend_at ELSE :received_at END
WHERE id_pa = :id_pa AND receipt_id = :receipt_id"""
_KEEP_STATION = """
INSERT INTO receipt_route (id_pa, receipt_id, id_broker_pa, id_station, first_at, received_at)
SELECT id_pa, receipt_id, :id_broker_pa, :id_station, :received_at, received_at FROM receipt
WHERE id_pa = :id_pa AND receipt_id = :receipt_id AND (id_broker_pa, id_station) <> (:id_broker_pa, :id_station)
ON CONFLICT DO NOTHING"""


def _save_on_sqlite(connection: Connection, new: NewReceipt, in_doubt: bool) -> tuple[Saved, frozenset[Flag]]:
    """Read, decide and write: the transaction holds the only lock that writes."""
    receipt, flags = new.receipt, new.flags
    key: dict[str, Any] = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    given = key | {"content_hash": receipt.content_hash}
    stored = run_on_sqlite(connection, _STORED, given).fetchone()
    if stored is None:
        notice = {"id_pa": receipt.id_pa, "notice_number": receipt.notice_number, "fiscal_code": receipt.fiscal_code}
        (ordinal,) = run_on_sqlite(connection, _ORDINAL, notice).fetchone()
        if ordinal:
            flags |= {Flag.SECOND_RECEIPT}
        row = receipt_row(receipt) | new.document | {"resends": 0, "notice_ordinal": ordinal}
        insert_rows(connection, tables.receipt, [row])
        insert_rows(connection, tables.transfer, transfer_rows(receipt))
        flag_rows = [key | {"flag": flag.value, "received_at": new.received_at} for flag in flags]
        insert_rows(connection, tables.receipt_flag, flag_rows)
        insert_rows(connection, tables.outbox, [key | {"at": new.received_at, "revision": 1}])
        saved = Saved.STORED
    elif not stored[0] and (replaced := _replace_provisional(connection, new)) is not None:
        saved, flags = Saved.STORED, replaced
    else:
        added = frozenset() if stored[0] else add_document(connection, receipt, new.document)
        if added is None:
            return Saved.CONFLICT, frozenset()
        saved, flags = Saved.DUPLICATE, added
        if new.source is Source.PUSH:
            at = sqlite_time(new.received_at)
            given |= {"id_broker_pa": receipt.id_broker_pa, "id_station": receipt.id_station, "received_at": at}
            run_on_sqlite(connection, _COUNT, given | {"own": at if in_doubt else None})
            run_on_sqlite(connection, _KEEP_STATION, given)
    if new.exchange is not None:
        exchange = new.exchange._replace(outcome=saved.value)
        insert_rows(connection, tables.journal, [exchange._asdict()], if_new=True)
    return saved, flags


# --- both -------------------------------------------------------------------------------------------------------------


def next_ordinal(connection: Connection, receipt: Receipt) -> int:
    """Return which receipt of its notice the next one would be: 0 for the first."""
    table = tables.receipt
    highest = connection.execute(
        select(func.max(table.c.notice_ordinal)).where(
            table.c.id_pa == receipt.id_pa,
            table.c.notice_number == receipt.notice_number,
            table.c.fiscal_code == receipt.fiscal_code,
        )
    ).scalar()
    return 0 if highest is None else highest + 1


def _replace_provisional(connection: Connection, new: NewReceipt) -> frozenset[Flag] | None:
    """Put a document in the place of BizEvents' JSON, which stays as the receipt's first document.

    The receipt is then as if it had been stored now, by the door that the document came through. Return its flags, or
    `None` where no provisional receipt is stored, or this is another JSON.
    """
    receipt, table = new.receipt, tables.receipt
    key: dict[str, Any] = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    if new.source is Source.BIZEVENTS:
        return None
    # Documents that come at once take turns: the second one finds a receipt that is not provisional any more.
    query = select(table).filter_by(**key, source=Source.BIZEVENTS.value).with_for_update(key_share=True)
    stored = connection.execute(query).mappings().one_or_none()
    if stored is None:
        return None
    ordinal = stored["notice_ordinal"]
    if (stored["notice_number"], stored["fiscal_code"]) != (receipt.notice_number, receipt.fiscal_code):
        ordinal = next_ordinal(connection, receipt)
    flags = new.flags | {Flag.SECOND_RECEIPT} if ordinal else new.flags
    again = {"notice_ordinal": ordinal, "resends": 0, "raw_purged_at": None, "anonymised_at": None}
    connection.execute(update(table).filter_by(**key).values(receipt_row(receipt) | new.document | again))
    for part in (tables.transfer, tables.receipt_flag):
        connection.execute(delete(part).filter_by(**key))
    insert_rows(connection, tables.transfer, transfer_rows(receipt))
    flag_rows = [key | {"flag": flag.value, "received_at": new.received_at} for flag in sorted(flags)]
    insert_rows(connection, tables.receipt_flag, flag_rows)
    names = ("content_hash", "version", "source", "received_at", "charset", "raw")
    first = key | {"number": 1} | {name: stored[name] for name in names}
    second = {"number": 2, "content_hash": receipt.content_hash, "version": receipt.version}
    insert_rows(connection, tables.receipt_document, [first, key | second | new.document])
    announce(connection, **key, at=new.received_at)
    return flags


def foresee(
    connection: Connection, new: NewReceipt, earlier: Sequence[tuple[bytes, str | None]] = ()
) -> tuple[Saved, frozenset[Flag]]:
    """Return what `save_receipt` would return after the documents `earlier` of the same receipt. Writes nothing."""
    receipt = new.receipt
    stored = documents_of(connection, receipt.id_pa, receipt.receipt_id)
    if not stored and not earlier:
        second = {Flag.SECOND_RECEIPT} if next_ordinal(connection, receipt) else set()
        return Saved.STORED, new.flags | second
    if not earlier and [one["source"] for one in stored] == [Source.BIZEVENTS]:
        return Saved.STORED, new.flags
    if receipt.content_hash in [one["content_hash"] for one in stored]:
        return Saved.DUPLICATE, frozenset()
    compared = compare(connection, receipt, (new.raw, new.charset), stored, earlier)
    return (Saved.CONFLICT if compared is None else Saved.DUPLICATE), frozenset()
