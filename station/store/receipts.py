"""Receipts in the database: record one. What is read lives in `queries`. Nothing here commits."""

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, Table, func, select, update

from station import contract
from station.errors import StoreError
from station.journal import Exchange
from station.receipt import Flag, Receipt, Source, Transfer
from station.store import tables
from station.store.group_commit import run_alone
from station.store.journal import write_exchange
from station.store.whole import Shape, insert_parts, insert_whole, parameters, run_sql, shape, with_whole


class Recorded(StrEnum):
    """What became of a receipt that was to be recorded."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # same key, same content: the first stays as it is
    CONFLICT = "conflict"  # same key, other content: the first stays as it is


class Recording:
    """A receipt that is to be recorded, with the rows that it becomes: made before the database is waited for, since on
    SQLite everybody waits for whoever has it.

    `flags` are those it deserves, `exchange` is its row in the journal as if it were stored, if it is to have one.
    """

    def __init__(
        self,
        receipt: Receipt,
        *,
        flags: frozenset[Flag],
        raw: bytes,
        charset: str | None,
        source: Source,
        received_at: datetime,
        exchange: Exchange | None = None,
    ) -> None:
        self.receipt = receipt
        self.flags = flags
        self.source = source
        self.received_at = received_at
        self.exchange = exchange
        self.values = columns(receipt) | {
            "source": source.value, "received_at": received_at, "charset": charset, "raw": raw, "resends": 0,
            "notice_ordinal": 0,
        }  # fmt: skip
        key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
        self.parts: dict[Table, list[dict[str, Any]]] = {
            tables.transfer: [
                key | transfer_columns(position, one) for position, one in enumerate(receipt.transfers, start=1)
            ],
            tables.journal: [exchange.columns()] if exchange else [],
            tables.receipt_flag: self.flag_rows(flags),
        }

    def flag_rows(self, flags: frozenset[Flag]) -> list[dict[str, Any]]:
        """The rows for the flags that it is stored with."""
        row = {"id_pa": self.receipt.id_pa, "receipt_id": self.receipt.receipt_id, "received_at": self.received_at}
        return [row | {"flag": flag.value} for flag in sorted(flags)]


def record(connection: Connection, recording: Recording, *, in_doubt: bool = False) -> tuple[Recorded, frozenset[Flag]]:
    """Inserts first and lets the unique constraints judge. Returns what became of it and the flags it was stored with:
    those it deserves, and one more where it is not the first receipt of its notice.

    A receipt that is there already is counted as resent where it came by push, and the station it came by is kept. The
    journal's row goes with either; with a conflict nothing is written. `in_doubt`: an earlier try of the same arrival
    may have been committed, which then counts as no resend.
    """
    receipt, flags = recording.receipt, recording.flags
    values, parts = recording.values, recording.parts
    # Each turn ends the loop or has lost a race for one ordinal of the same notice; nobody races that often.
    for _ in range(20):
        if insert_whole(connection, tables.receipt, values, parts):
            return Recorded.STORED, flags
        known = _again(connection, recording, in_doubt)
        if known is not None:
            if known is Recorded.DUPLICATE and recording.exchange is not None:
                write_exchange(connection, recording.exchange._replace(outcome=known.value))
            return known, frozenset()
        flags = flags | {Flag.SECOND_RECEIPT}
        values = values | {"notice_ordinal": next_ordinal(connection, receipt)}
        parts = parts | {tables.receipt_flag: recording.flag_rows(flags)}
    raise StoreError("too many receipts for one notice at once", reason="notice ordinal", retry=True)


def record_alone(engine: Engine, recording: Recording, *, in_doubt: bool = False, until: float) -> Recorded | None:
    """What nearly every push needs of `record`, as one statement that fails or succeeds for itself; PostgreSQL only.

    STORED with the flags it deserves, or DUPLICATE, each with its row in the journal. `None`: neither, for all that the
    statement could see, and nothing was written. It is for `record` to find out then. Raises `StoreError`.
    """
    if engine.dialect.name != "postgresql":
        return None
    values, parts = recording.values, recording.parts
    statement = _alone(tuple(values), shape(parts))
    given = parameters(tables.receipt, values, parts) | {"own": recording.received_at if in_doubt else None}
    key = ("receipt", recording.receipt.id_pa, recording.receipt.receipt_id)
    outcome = run_alone(engine, statement, given, key=key, until=until)
    return None if outcome is None else Recorded(outcome)


@cache
def _alone(names: tuple[str, ...], parts: Shape) -> str:
    """The statement: the receipt is inserted with its parts, or counted as sent again, or neither."""
    of_either = {"wherever": "became", "outcome": "became.outcome"}
    inserts = [insert_parts(part, count, **(of_either if part is tables.journal else {})) for part, count in parts]
    return f"{with_whole(tables.receipt, names)}, {_SENT_AGAIN}, {', '.join(inserts)} SELECT outcome FROM became"  # noqa: S608


# `own` is when a try whose commit was in doubt arrived, and NULL in a first try: two copies may well arrive in the same
# microsecond.
_COUNT_AGAIN = """UPDATE receipt SET resends =
CASE WHEN %(own)s IN (received_at, last_resend_at) THEN resends ELSE resends + 1 END,
last_resend_at = CASE WHEN %(own)s = received_at THEN last_resend_at ELSE %(received_at)s END
WHERE id_pa = %(id_pa)s AND receipt_id = %(receipt_id)s AND content_hash = %(content_hash)s"""
_KEEP_ROUTE = """INSERT INTO receipt_route (id_pa, receipt_id, id_broker_pa, id_station, first_at, received_at)
SELECT id_pa, receipt_id, %(id_broker_pa)s, %(id_station)s, %(received_at)s, received_at FROM {again}
WHERE {which} ON CONFLICT DO NOTHING"""
_KEEP_ROUTE_OF_ONE = _KEEP_ROUTE.format(again="receipt", which="id_pa = %(id_pa)s AND receipt_id = %(receipt_id)s")
_BY_ANOTHER_WAY = "(id_broker_pa, id_station) <> (%(id_broker_pa)s, %(id_station)s)"
# A statement sees the database as it was when it began: what another one commits meanwhile is neither inserted nor
# counted here.
_SENT_AGAIN = f"""
again AS ({_COUNT_AGAIN}
    AND NOT EXISTS (SELECT 1 FROM whole)
    RETURNING id_pa, receipt_id, id_broker_pa, id_station, received_at
),
route AS ({_KEEP_ROUTE.format(again="again", which=_BY_ANOTHER_WAY)}),
became AS (SELECT 'stored' AS outcome FROM whole UNION ALL SELECT 'duplicate' FROM again)"""  # noqa: S608


def _again(connection: Connection, recording: Recording, in_doubt: bool) -> Recorded | None:
    """What a receipt whose insert was turned away is to the one stored under its key; `None` where there is none."""
    receipt = recording.receipt
    pushed = recording.source is Source.PUSH
    if pushed and _count(connection, recording, in_doubt):
        return Recorded.DUPLICATE
    stored = select(tables.receipt.c.content_hash).where(_is(receipt))
    # The lock makes this commit one that PostgreSQL's standbys confirm, and the receipt's own with it. It is exclusive:
    # resends at once that all held a shared lock would wait for each other to give it up, and end in deadlocks.
    content_hash = connection.execute(stored.with_for_update(key_share=True)).scalar_one_or_none()
    if content_hash is None:
        return None
    if content_hash != receipt.content_hash and not _same_again(connection, receipt):
        return Recorded.CONFLICT
    if pushed:  # counted in vain above: committed since, or stored under an earlier version's hash
        _count(connection, recording, in_doubt)
    return Recorded.DUPLICATE


def _same_again(connection: Connection, receipt: Receipt) -> bool:
    """Whether the stored document, read again, says what `receipt` says. Its hash is then replaced by today's."""
    table = tables.receipt
    document = connection.execute(select(table.c.raw, table.c.charset).where(_is(receipt))).one()
    if not contract.same_content(document.raw, document.charset, receipt):
        return False
    connection.execute(update(table).where(_is(receipt)).values(content_hash=receipt.content_hash))
    return True


def _count(connection: Connection, recording: Recording, in_doubt: bool) -> bool:
    """Counts the stored receipt of the same content as resent, keeps the station it came by. Whether there is one."""
    receipt = recording.receipt
    at = _as_written(connection.dialect)(recording.received_at)
    given = {
        "id_pa": receipt.id_pa,
        "receipt_id": receipt.receipt_id,
        "content_hash": receipt.content_hash,
        "id_broker_pa": receipt.id_broker_pa,
        "id_station": receipt.id_station,
        "received_at": at,
        "own": at if in_doubt else None,
    }
    came_by = run_sql(connection, f"{_COUNT_AGAIN} RETURNING id_broker_pa, id_station", given).one_or_none()
    if came_by is not None and came_by != (receipt.id_broker_pa, receipt.id_station):
        run_sql(connection, _KEEP_ROUTE_OF_ONE, given)
    return came_by is not None


@cache
def _as_written(dialect: Dialect) -> Callable[[datetime], Any]:
    """What makes of a time what the driver is given for it."""
    processor: Any = tables.UtcDateTime().dialect_impl(dialect).bind_processor(dialect)
    return processor  # type: ignore[no-any-return]


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
        "digital_stamp": any(transfer.digital_stamp for transfer in receipt.transfers),
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
