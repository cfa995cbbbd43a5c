"""The documents of a receipt: list them, decide about one more, add it. Nothing here commits.

A receipt that is stored has one document, in `receipt`. When another one is accepted that says the same, one of them
more than the other, both become rows of `receipt_document`, and the receipt becomes what they say together. BizEvents'
JSON (a provisional receipt's document, always the first) is none of those that are compared: the first genuine document
takes its place in `receipt`, see `receipts`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, delete, func, literal, select, update

from station import contract
from station.errors import DocumentError, RefusalError
from station.receipt import ARRIVAL_FLAGS, Flag, Receipt, Source
from station.store import tables
from station.store.rows import insert_rows, receipt_row, transfer_rows

# Each new document is compared with all that are there. The Nodo and the GPD API send three that differ at most; more
# than this are refused, and kept as refused requests.
DOCUMENTS_MAX = 20


def documents_of(connection: Connection, id_pa: str, receipt_id: str) -> list[dict[str, Any]]:
    """Return the documents of a receipt in the order they were accepted, each as a dictionary without its bytes.

    Keys: number, content_hash, version, source, received_at, charset, size (0 once it was purged), and fullest, which
    is true of the one that `receipt` has.
    """
    receipt, document = tables.receipt, tables.receipt_document

    def rows(table: Table, number: Any) -> list[dict[str, Any]]:
        names = ("content_hash", "version", "source", "received_at", "charset")
        query = select(
            number.label("number"), *(table.c[name] for name in names), func.length(table.c.raw).label("size")
        )
        query = query.select_from(table).filter_by(id_pa=id_pa, receipt_id=receipt_id).order_by("number")
        return [dict(row) for row in connection.execute(query).mappings()]

    own = rows(receipt, literal(1))
    several = rows(document, document.c.number)
    return [one | {"fullest": one["content_hash"] == own[0]["content_hash"]} for one in several or own]


def document_bytes(connection: Connection, id_pa: str, receipt_id: str, number: int) -> tuple[bytes, str | None]:
    """Return the bytes of one of `documents_of`, and the character set the transport gave them."""
    document, receipt = tables.receipt_document, tables.receipt
    query = select(document.c.raw, document.c.charset).filter_by(id_pa=id_pa, receipt_id=receipt_id, number=number)
    row = connection.execute(query).one_or_none()
    if row is None:  # a receipt with one document
        row = connection.execute(
            select(receipt.c.raw, receipt.c.charset).filter_by(id_pa=id_pa, receipt_id=receipt_id)
        ).one()
    return row.raw, row.charset


class Comparison(NamedTuple):
    """The receipt that its documents make, with one more that says the same; `is_new`: it is none of them."""

    united: contract.United
    is_new: bool


def compare(
    connection: Connection,
    receipt: Receipt,
    document: tuple[bytes, str | None],
    stored: Sequence[dict[str, Any]],
    earlier: Sequence[tuple[bytes, str | None]] = (),
) -> Comparison | None:
    """Compare a document (bytes and character set) with the `stored` ones of its receipt and with `earlier`.

    `earlier`: documents not stored yet (a dry run of replay).
    Return `None` for a conflict: a field that the schema knows has another value, there are too many documents already,
    or one that is stored was purged or cannot be read any more.
    """
    try:
        copies = []
        for one in stored:  # one after the other: a tree takes many times the memory of its bytes
            if one["source"] == Source.BIZEVENTS:
                continue
            if not one["size"]:
                return None
            copies.append(
                contract.read_copy(*document_bytes(connection, receipt.id_pa, receipt.receipt_id, one["number"]))
            )
        copies += [contract.read_copy(*one) for one in earlier]
        # The stored hash may be an earlier version's, and the content the same.
        is_new = receipt.content_hash not in [copy.receipt.content_hash for copy in copies]
        if is_new:
            copies.append(contract.read_copy(*document))
    except (DocumentError, RefusalError):
        return None
    united = contract.unite(copies) if len(copies) <= DOCUMENTS_MAX else None
    return None if united is None else Comparison(united, is_new)


def add_document(connection: Connection, receipt: Receipt, document: dict[str, Any]) -> frozenset[Flag] | None:
    """Add a document to the receipt that is stored under its key, which becomes what all of its documents say.

    `document` has the columns source, received_at, charset and raw. Return the flags that the receipt did not have
    before, or `None` for a conflict: then nothing was written. BizEvents' JSON adds nothing to a receipt that is here.
    """
    if document["source"] == Source.BIZEVENTS:
        return frozenset()
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    table = tables.receipt_document
    # Documents that come at once take turns. The lock is exclusive: several that all held a shared one would wait for
    # each other to give it up, and end in deadlocks.
    connection.execute(select(tables.receipt.c.receipt_id).filter_by(**key).with_for_update(key_share=True)).one()
    stored = documents_of(connection, **key)
    if receipt.content_hash in [one["content_hash"] for one in stored]:
        return frozenset()
    compared = compare(connection, receipt, (document["raw"], document["charset"]), stored)
    if compared is None:
        return None
    united = compared.united
    if not compared.is_new:
        _write_hashes(connection, united)
        return frozenset()
    if len(stored) == 1:
        raw, charset = document_bytes(connection, **key, number=1)
        first = {name: stored[0][name] for name in ("number", "content_hash", "version", "source", "received_at")}
        insert_rows(connection, table, [key | first | {"raw": raw, "charset": charset}])
    newest = {"number": len(stored) + 1, "content_hash": receipt.content_hash, "version": receipt.version}
    insert_rows(connection, table, [key | newest | document])
    flags = tables.receipt_flag
    before = set(connection.execute(select(flags.c.flag).filter_by(**key)).scalars())
    write_united(connection, united)
    announce(connection, **key, at=document["received_at"])
    return united.receipt.flags - before


def announce(connection: Connection, id_pa: str, receipt_id: str, *, at: datetime) -> None:
    """Raise the revision of a receipt whose content changed, and put it into the outbox: it is delivered again."""
    key = {"id_pa": id_pa, "receipt_id": receipt_id}
    table = tables.receipt
    raised = update(table).filter_by(**key).values(revision=table.c.revision + 1).returning(table.c.revision)
    revision = connection.execute(raised).scalar_one()
    insert_rows(connection, tables.outbox, [key | {"at": at, "revision": revision}])


def write_united(connection: Connection, united: contract.United) -> None:
    """Make the stored receipt what its documents say together: columns, transfers and flags of the content, and the
    bytes of the fullest. Its history (when, by which door and how often it came) stays.
    """
    receipt = united.receipt
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    _write_hashes(connection, united)
    values = receipt_row(receipt)
    if len(united.hashes) > 1:
        document = tables.receipt_document
        number = _compared(connection, key)[united.fullest]
        fullest = {
            name: select(document.c[name]).filter_by(**key, number=number).scalar_subquery()
            for name in ("raw", "charset")
        }
        values |= fullest
    connection.execute(update(tables.receipt).filter_by(**key).values(values))
    connection.execute(delete(tables.transfer).filter_by(**key))
    insert_rows(connection, tables.transfer, transfer_rows(receipt))
    flag = tables.receipt_flag
    connection.execute(delete(flag).filter_by(**key).where(flag.c.flag.not_in(sorted(ARRIVAL_FLAGS))))
    received_at = connection.execute(select(tables.receipt.c.received_at).filter_by(**key)).scalar_one()
    flags = [key | {"flag": one.value, "received_at": received_at} for one in sorted(receipt.flags - ARRIVAL_FLAGS)]
    insert_rows(connection, flag, flags)


def _write_hashes(connection: Connection, united: contract.United) -> None:
    """Replace hashes in the form of an earlier version by those of today: the next resend needs no comparison."""
    key = {"id_pa": united.receipt.id_pa, "receipt_id": united.receipt.receipt_id}
    document = tables.receipt_document
    for number, content_hash in zip(_compared(connection, key), united.hashes, strict=False):
        changed = update(document).filter_by(**key, number=number).where(document.c.content_hash != content_hash)
        connection.execute(changed.values(content_hash=content_hash))
    fullest = united.hashes[united.fullest]
    connection.execute(update(tables.receipt).filter_by(**key).values(content_hash=fullest))


def _compared(connection: Connection, key: dict[str, str]) -> list[int]:
    """Return the numbers of the documents that are compared, in their order; none where the receipt has but one."""
    document = tables.receipt_document.c
    query = select(document.number).filter_by(**key).where(document.source != Source.BIZEVENTS)
    return list(connection.execute(query.order_by(document.number)).scalars())
