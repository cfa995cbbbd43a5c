"""Refused requests in the database: keep one. Nothing here commits."""

from datetime import datetime
from hashlib import sha256

from sqlalchemy import Connection, case

from station.errors import RefusalError
from station.receipt import Identifiers, Source
from station.store import tables
from station.store.receipts import insert


def keep(
    connection: Connection,
    identifiers: Identifiers,
    refusal: RefusalError,
    *,
    raw: bytes,
    charset: str | None,
    source: Source,
    peer: str | None,
    request_id: str | None,
    received_at: datetime,
) -> str:
    """Keeps a refused request with its exact bytes and returns its `refused_id`.

    The same bytes refused again are the same refused request: counted, with the latest reason, and open again where
    somebody had discarded it.
    """
    table = tables.refused
    raw_hash = sha256(raw).digest()
    statement = insert(connection, table).values(
        id_pa=(identifiers.id_pa or "")[:35],
        raw_hash=raw_hash,
        refused_id=raw_hash.hex()[:16],
        operation=identifiers.operation,
        id_broker_pa=identifiers.id_broker_pa,
        id_station=identifiers.id_station,
        receipt_id=identifiers.receipt_id,
        notice_number=identifiers.notice_number,
        iuv=identifiers.iuv,
        source=source,
        peer=peer,
        request_id=request_id,
        fault_code=refusal.fault_code,
        reason=str(refusal),
        state="open",
        received_at=received_at,
        times=1,
        last_at=received_at,
        charset=charset,
        raw=raw,
    )
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.id_pa, table.c.raw_hash],
            set_={
                "times": table.c.times + 1,
                "last_at": received_at,
                "fault_code": statement.excluded.fault_code,
                "reason": statement.excluded.reason,
                "state": case((table.c.state == "discarded", "open"), else_=table.c.state),
            },
        )
    )
    return raw_hash.hex()[:16]
