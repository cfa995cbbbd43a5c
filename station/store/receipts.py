"""Receipts in the database: record one. What is read lives in `queries`. Nothing here commits."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from station.errors import StoreError
from station.receipt import Flag, Receipt, Source, Transfer
from station.store import tables


class Recorded(StrEnum):
    """What became of a receipt that was to be recorded."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same key, same content: the first stays as it is
    CONFLICT = "conflict"  # same key, other content: the first stays as it is


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
) -> tuple[Recorded, frozenset[Flag]]:
    """Inserts first and lets the unique constraints judge. Returns what became of it and the flags it was stored with:
    `flags`, and one more where it is not the first receipt of its notice.

    A receipt that is there already is counted as resent where it came by push, and the station it came by is kept.
    """
    values = columns(receipt) | {"source": source, "received_at": received_at, "charset": charset, "raw": raw}
    values["resends"] = 0
    ordinal = 0
    # Each turn ends the loop or has lost a race for one ordinal of the same notice; nobody races that often.
    for _ in range(20):
        # preserve_rowcount: SQLAlchemy gives none for an INSERT otherwise, and none looks like a duplicate.
        statement = (
            insert(connection, tables.receipt).on_conflict_do_nothing().execution_options(preserve_rowcount=True)
        )
        if connection.execute(statement, values | {"notice_ordinal": ordinal}).rowcount == 1:
            break
        known = _again(connection, receipt, source, received_at)
        if known is not None:
            return known, frozenset()
        ordinal = next_ordinal(connection, receipt)
        flags = flags | {Flag.SECOND_RECEIPT}
    else:
        raise StoreError("too many receipts for one notice at once", reason="notice ordinal", retry=True)
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    connection.execute(
        tables.transfer.insert(),
        [key | transfer_columns(position, one) for position, one in enumerate(receipt.transfers, start=1)],
    )
    if flags:
        flagged = key | {"received_at": received_at}
        connection.execute(tables.receipt_flag.insert(), [flagged | {"flag": flag} for flag in sorted(flags)])
    return Recorded.STORED, flags


def _again(connection: Connection, receipt: Receipt, source: Source, now: datetime) -> Recorded | None:
    """What a receipt whose insert was turned away is to the one stored under its key; `None` where there is none."""
    table = tables.receipt
    stored = connection.execute(
        select(table.c.content_hash, table.c.id_broker_pa, table.c.id_station, table.c.received_at).where(_is(receipt))
    ).one_or_none()
    if stored is None:
        return None
    if stored.content_hash != receipt.content_hash:
        return Recorded.CONFLICT
    if source is Source.PUSH:
        connection.execute(update(table).where(_is(receipt)).values(resends=table.c.resends + 1, last_resend_at=now))
        if (stored.id_broker_pa, stored.id_station) != (receipt.id_broker_pa, receipt.id_station):
            connection.execute(
                insert(connection, tables.receipt_route).on_conflict_do_nothing(),
                {
                    "id_pa": receipt.id_pa,
                    "receipt_id": receipt.receipt_id,
                    "id_broker_pa": receipt.id_broker_pa,
                    "id_station": receipt.id_station,
                    "first_at": now,
                    "received_at": stored.received_at,
                },
            )
    return Recorded.DUPLICATE


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
