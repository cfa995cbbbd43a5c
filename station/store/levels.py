"""What the database knows at this moment, for monitoring. Each query is short, however much is stored."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine, QueuePool, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import Text

from station.store import tables

OPEN_COUNTED = 100_000


def open_by_fault(connection: Connection) -> dict[str, int]:
    """How many refused requests are open for each fault code, of `OPEN_COUNTED` at most."""
    refused = tables.refused.c
    some = select(refused.fault_code).where(refused.state == "open").limit(OPEN_COUNTED).subquery()
    query = (
        select(some.c.fault_code, func.count().label("number")).group_by(some.c.fault_code).order_by(some.c.fault_code)
    )
    return {row.fault_code: row.number for row in connection.execute(query)}


def last_pushes(connection: Connection, id_pas: Sequence[str]) -> dict[str, datetime | None]:
    """When each EC's last new receipt came by push. Without ECs the last of all, under the empty name."""
    receipt = tables.receipt.c
    last = select(receipt.received_at).where(receipt.source == "push").order_by(receipt.received_at.desc()).limit(1)
    if not id_pas:
        return {"": connection.execute(last).scalar()}
    if connection.dialect.name == "postgresql":
        wanted = func.unnest(literal(list(id_pas), ARRAY(Text))).table_valued("id_pa", name="wanted").render_derived()
        query = select(wanted.c.id_pa, last.where(receipt.id_pa == wanted.c.id_pa).scalar_subquery().label("at"))
        return {row.id_pa: row.at for row in connection.execute(query)}
    return {id_pa: connection.execute(last.where(receipt.id_pa == id_pa)).scalar() for id_pa in id_pas}


def fetched_since(connection: Connection, moment: datetime) -> dict[str, int]:
    """How many receipts of each EC reconcile brought since."""
    receipt = tables.receipt.c
    query = select(receipt.id_pa, func.count().label("number")).group_by(receipt.id_pa)
    query = query.where(receipt.source == "reconcile", receipt.received_at >= moment)
    return {row.id_pa: row.number for row in connection.execute(query)}


def clock(connection: Connection) -> datetime | None:
    """The database server's time; `None` on SQLite, which has this machine's."""
    if connection.dialect.name != "postgresql":
        return None
    return connection.execute(select(func.clock_timestamp())).scalar()


def pool_use(engine: Engine) -> tuple[int, int]:
    """Connections of this process's pool that are in use, and how many it may have."""
    pool = engine.pool
    return (pool.checkedout(), pool.size()) if isinstance(pool, QueuePool) else (0, 0)
