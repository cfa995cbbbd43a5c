"""A receipt as rows of tables and as parameters of the statements in `sql/`; INSERT for both databases, and the short
way to SQLite's driver. Nothing here commits."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

from sqlalchemy import Connection, Table, exc

from station.journal import Exchange
from station.receipt import Receipt, Subject


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """Return the columns of `receipt` that follow from its documents."""
    row = receipt._asdict()
    debtor, payer, transfers = row.pop("debtor"), row.pop("payer"), row.pop("transfers")
    del row["flags"]
    for name, subject in (("debtor", debtor), ("payer", payer)):
        for field in Subject._fields:
            row[f"{name}_{field}"] = getattr(subject, field, None)
    row["metadata"] = receipt.metadata or None
    row["digital_stamp"] = any(transfer.digital_stamp for transfer in transfers)
    return row


def transfer_rows(receipt: Receipt) -> list[dict[str, Any]]:
    """Return the rows of `transfer`, in the order of the document."""
    key = {"id_pa": receipt.id_pa, "receipt_id": receipt.receipt_id}
    return [
        key | transfer._asdict() | {"position": position, "metadata": transfer.metadata or None}
        for position, transfer in enumerate(receipt.transfers, start=1)
    ]


_JOURNAL = [f"journal.{name}" for name in Exchange._fields]
_NO_EXCHANGE = dict.fromkeys(_JOURNAL)


def exchange_parameters(exchange: Exchange | None) -> dict[str, Any]:
    """Return the parameters of the journal's row in PostgreSQL's statements: `event_id` is NULL without a journal."""
    return _NO_EXCHANGE if exchange is None else dict(zip(_JOURNAL, exchange, strict=True))


as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def read_sql(name: str) -> str:
    """Return the statement in `sql/NAME.sql`, without its comments: the driver would look for parameters in them.

    Call it as a module is loaded: there may be no file descriptor left when a request comes.
    """
    text = files("station.store").joinpath("sql", f"{name}.sql").read_text("utf-8")
    return "\n".join(line.partition("--")[0].rstrip() for line in text.splitlines() if not line.startswith("--"))


def insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that knows ON CONFLICT, which PostgreSQL and SQLite write alike."""
    # SQLAlchemy's PostgreSQL takes 0.05 s to load, which a command on SQLite does not need.
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def insert_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], *, if_new: bool = False
) -> bool:
    """Insert rows, all with the same columns. With `if_new` one row: return False where a constraint turns it away."""
    if not rows:
        return True
    if connection.dialect.name == "postgresql":
        statement = insert(connection, table)
        result = connection.execute(statement.on_conflict_do_nothing() if if_new else statement, rows)
        return not if_new or result.rowcount > 0
    names = list(rows[0])
    command = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
    if if_new:
        command += " ON CONFLICT DO NOTHING"
    count = 0
    for row in rows:
        values = [row[name] for name in names]
        given = tuple([convert(value) if (convert := _ON_SQLITE.get(type(value))) else value for value in values])
        count = run_on_sqlite(connection, command, given).rowcount
    return count > 0


def sqlite_time(value: datetime) -> str:
    """Return an aware time as SQLite's columns hold it (see `tables.UtcDateTime`)."""
    if value.tzinfo is None:
        raise ValueError("a time without a zone")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _cents(value: Decimal) -> int:
    return int(value * 100)


# How SQLite's columns hold what its driver does not know, as the types in `tables` do it: times, days, euro, JSON.
_ON_SQLITE: dict[type, Callable[[Any], Any]] = {
    datetime: sqlite_time,
    date: date.isoformat,
    Decimal: _cents,
    tuple: as_json,
}


def run_on_sqlite(connection: Connection, statement: str, given: tuple[Any, ...] | dict[str, Any]) -> Any:
    """Run a statement by SQLite's driver and return its cursor: SQLAlchemy takes as long to pass it on as SQLite to run
    it."""
    raw: Any = connection.connection.dbapi_connection
    try:
        return raw.execute(statement, given)
    except sqlite3.Error as error:
        if not raw.in_transaction:  # SQLite rolled back: what is run now would stand alone, and be committed
            raise exc.DBAPIError.instance(
                None, None, error, sqlite3.Error, hide_parameters=True, dialect=connection.dialect
            ) from error
        # Nothing of this statement was done: once more, for the error as SQLAlchemy has it.
        return connection.exec_driver_sql(statement, given).cursor
