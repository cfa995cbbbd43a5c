"""Receipts in the database: record one. What is read lives in `queries`. Nothing here commits."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from station.errors import StoreError
from station.journal import Exchange
from station.receipt import Flag, Receipt, Source, Transfer
from station.store import tables


class Recorded(StrEnum):
    """What became of a receipt that was to be recorded."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same key, same content: the first stays as it is
    CONFLICT = "conflict"  # same key, other content: the first stays as it is


Rows: TypeAlias = Sequence[Mapping[str, Any]]


def insert(connection: Connection, table: Any) -> Any:
    """INSERT with ON CONFLICT, which PostgreSQL and SQLite write alike."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def record(
    connection: Connection,
    receipt: Receipt,
    *,
    flags: frozenset[Flag],
    raw: bytes,
    charset: str | None,
    source: Source,
    received_at: datetime,
    exchange: Callable[[], Exchange] | None = None,
) -> tuple[Recorded, frozenset[Flag]]:
    """Inserts first and lets the unique constraints judge. Returns what became of it and the flags it was stored with:
    `flags`, and one more where it is not the first receipt of its notice.

    A receipt that is there already is counted as resent where it came by push, and the station it came by is kept.
    `exchange` makes the journal's row for a receipt that is stored; for another nothing is written.
    """
    values = columns(receipt) | {"source": source.value, "received_at": received_at, "charset": charset, "raw": raw}
    values["resends"] = 0
    key: dict[str, Any] = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    transfers = [key | transfer_columns(position, one) for position, one in enumerate(receipt.transfers, start=1)]
    journal = [exchange().columns()] if exchange else []
    ordinal = 0
    # Each turn ends the loop or has lost a race for one ordinal of the same notice; nobody races that often.
    for _ in range(20):
        flagged = [key | {"received_at": received_at, "flag": flag.value} for flag in sorted(flags)]
        if _store(connection, values | {"notice_ordinal": ordinal}, transfers, flagged, journal):
            return Recorded.STORED, flags
        known = _again(connection, receipt, source, received_at)
        if known is not None:
            return known, frozenset()
        ordinal = next_ordinal(connection, receipt)
        flags = flags | {Flag.SECOND_RECEIPT}
    raise StoreError("too many receipts for one notice at once", reason="notice ordinal", retry=True)


def _store(connection: Connection, values: dict[str, Any], transfers: Rows, flags: Rows, journal: Rows) -> bool:
    """Inserts a receipt and what belongs to it. Whether it did: not where a unique constraint turned it away."""
    if connection.dialect.name == "postgresql":
        values["metadata"] = _as_json(values["metadata"])
        values |= {"transfers": _as_json(transfers), "flags": _as_json(flags), "journal": _as_json(journal)}
        # The rows of the last of the statement's inserts: a receipt has transfers, one at least.
        return connection.exec_driver_sql(_AT_ONCE, values).rowcount > 0
    # preserve_rowcount: SQLAlchemy gives none for an INSERT otherwise, and none looks like a duplicate.
    statement = insert(connection, tables.receipt).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
    if connection.execute(statement, values).rowcount == 0:
        return False
    for table, rows in ((tables.transfer, transfers), (tables.receipt_flag, flags), (tables.journal, journal)):
        if rows:
            connection.execute(table.insert(), rows)
    return True


# PostgreSQL takes a receipt and what belongs to it in one statement that SQLAlchemy only passes on: measured, 390 us
# of our processor time instead of 970, five round trips and a compilation less. What there can be several of comes as
# JSON, and the table itself says of which types it is. (SQLite knows no such statement, and has no round trips.)
def _rows_of(table: Table, parameter: str) -> str:
    names = [column.name for column in table.c]
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {', '.join(f'part.{name}' for name in names)} "  # noqa: S608
        f"FROM stored, json_populate_recordset(NULL::{table.name}, %({parameter})s) AS part"
    )


_LATER = ("last_resend_at", "raw_purged_at", "anonymised_at")
_STORED = [column.name for column in tables.receipt.c if column.name not in _LATER]
_AT_ONCE = f"""
WITH stored AS (
    INSERT INTO receipt ({", ".join(_STORED)}) VALUES ({", ".join(f"%({name})s" for name in _STORED)})
    ON CONFLICT DO NOTHING RETURNING receipt_id
),
flagged AS ({_rows_of(tables.receipt_flag, "flags")}),
journaled AS ({_rows_of(tables.journal, "journal")} ON CONFLICT DO NOTHING)
{_rows_of(tables.transfer, "transfers")}
"""  # noqa: S608  (names of tables and columns, all ours)


def _as_json(value: Any) -> str | None:
    """JSON as PostgreSQL reads it into columns of any type."""

    def text(one: Any) -> str:
        return f"\\x{one.hex()}" if isinstance(one, bytes) else str(one)

    return None if value is None else json.dumps(value, ensure_ascii=False, default=text)


_RESENT = (
    update(tables.receipt)
    .where(
        tables.receipt.c.id_pa == bindparam("of_ec"),
        tables.receipt.c.receipt_id == bindparam("of_receipt"),
        tables.receipt.c.content_hash == bindparam("of_content"),
    )
    .values(resends=tables.receipt.c.resends + 1, last_resend_at=bindparam("now"))
    .returning(tables.receipt.c.id_broker_pa, tables.receipt.c.id_station, tables.receipt.c.received_at)
)


def _again(connection: Connection, receipt: Receipt, source: Source, now: datetime) -> Recorded | None:
    """What a receipt whose insert was turned away is to the one stored under its key; `None` where there is none."""
    pushed = source is Source.PUSH
    if pushed and _count(connection, receipt, now):
        return Recorded.DUPLICATE
    content_hash = connection.execute(select(tables.receipt.c.content_hash).where(_is(receipt))).scalar_one_or_none()
    if content_hash is None:
        return None
    if content_hash != receipt.content_hash:
        return Recorded.CONFLICT
    if pushed:  # turned away by another receipt of the notice, and committed since it was counted in vain
        _count(connection, receipt, now)
    return Recorded.DUPLICATE


def _count(connection: Connection, receipt: Receipt, now: datetime) -> bool:
    """Counts the stored receipt of the same content as resent, keeps the station it came by. Whether there is one."""
    of = {"of_ec": receipt.id_pa, "of_receipt": receipt.receipt_id, "of_content": receipt.content_hash}
    stored = connection.execute(_RESENT, of | {"now": now}).one_or_none()
    if stored is None:
        return False
    if (stored.id_broker_pa, stored.id_station) != (receipt.id_broker_pa, receipt.id_station):
        route = {
            "id_pa": receipt.id_pa,
            "receipt_id": receipt.receipt_id,
            "id_broker_pa": receipt.id_broker_pa,
            "id_station": receipt.id_station,
            "first_at": now,
            "received_at": stored.received_at,
        }
        connection.execute(insert(connection, tables.receipt_route).on_conflict_do_nothing(), route)
    return True


def next_ordinal(connection: Connection, receipt: Receipt) -> int:
    """Which receipt of its notice the next one would be."""
    table = tables.receipt
    highest = connection.execute(
        select(func.max(table.c.notice_ordinal)).where(
            table.c.id_pa == receipt.id_pa,
            table.c.notice_number == receipt.notice_number,
            table.c.fiscal_code == receipt.fiscal_code,
        )
    ).scalar()
    return 0 if highest is None else highest + 1


def _is(receipt: Receipt) -> Any:
    return (tables.receipt.c.id_pa == receipt.id_pa) & (tables.receipt.c.receipt_id == receipt.receipt_id)


def columns(receipt: Receipt) -> dict[str, Any]:
    """What the columns of `receipt` hold that follows from the document."""
    payer = receipt.payer
    return {
        "id_pa": receipt.id_pa,
        "receipt_id": receipt.receipt_id,
        "id_broker_pa": receipt.id_broker_pa,
        "id_station": receipt.id_station,
        "notice_number": receipt.notice_number,
        "fiscal_code": receipt.fiscal_code,
        "iuv": receipt.iuv,
        "outcome": receipt.outcome,
        "amount": receipt.amount,
        "fee": receipt.fee,
        "primary_ci_incurred_fee": receipt.primary_ci_incurred_fee,
        "description": receipt.description,
        "company_name": receipt.company_name,
        "office_name": receipt.office_name,
        "debtor_type": receipt.debtor.type,
        "debtor_id": receipt.debtor.id,
        "debtor_name": receipt.debtor.name,
        "payer_type": payer.type if payer else None,
        "payer_id": payer.id if payer else None,
        "payer_name": payer.name if payer else None,
        "id_psp": receipt.id_psp,
        "psp_fiscal_code": receipt.psp_fiscal_code,
        "psp_partita_iva": receipt.psp_partita_iva,
        "psp_company_name": receipt.psp_company_name,
        "id_channel": receipt.id_channel,
        "channel_description": receipt.channel_description,
        "payment_method": receipt.payment_method,
        "payment_note": receipt.payment_note,
        "id_bundle": receipt.id_bundle,
        "id_ci_bundle": receipt.id_ci_bundle,
        "payment_date_time": receipt.payment_date_time,
        "application_date": receipt.application_date,
        "transfer_date": receipt.transfer_date,
        "metadata": receipt.metadata or None,
        "stand_in": receipt.stand_in,
        "version": receipt.version,
        "content_hash": receipt.content_hash,
    }


def transfer_columns(position: int, transfer: Transfer) -> dict[str, Any]:
    """What the columns of `transfer` hold of the one that stands at `position`, its key left out."""
    return {
        "position": position,
        "id_transfer": transfer.id_transfer,
        "amount": transfer.amount,
        "fiscal_code_pa": transfer.fiscal_code_pa,
        "company_name": transfer.company_name,
        "iban": transfer.iban,
        "digital_stamp": transfer.digital_stamp,
        "remittance_information": transfer.remittance_information,
        "transfer_category": transfer.transfer_category,
        "metadata": transfer.metadata or None,
    }
