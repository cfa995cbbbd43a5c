"""A row with all that belongs to it, inserted in one go. Nothing here commits."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

from sqlalchemy import JSON, Connection, CursorResult, Dialect, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite

from station.store.engine import run_alone

Rows: TypeAlias = Sequence[Mapping[str, Any]]


def insert(connection: Connection, table: Table) -> Any:
    """INSERT with ON CONFLICT, which PostgreSQL and SQLite write alike."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def insert_whole(connection: Connection, table: Table, values: Mapping[str, Any], parts: Mapping[Table, Rows]) -> bool:
    """Inserts a row and its parts. Whether it did: nothing is inserted where a unique constraint turns the row away.

    The parts are rows of other tables, by table.
    """
    if connection.dialect.name == "postgresql":
        given = {part: rows for part, rows in parts.items() if rows}
        statement = _whole_statement(table, tuple(values), tuple(given))
        return connection.exec_driver_sql(statement, parameters(table, values, given)).one_or_none() is not None
    if _insert(connection, table, [values], if_new=True).rowcount == 0:
        return False
    for part, rows in parts.items():
        if rows:
            _insert(connection, part, rows)
    return True


def insert_whole_alone(
    engine: Engine, table: Table, values: Mapping[str, Any], parts: Mapping[Table, Rows], *, until: float
) -> bool:
    """`insert_whole` as a transaction of its own, on PostgreSQL. Raises `StoreError`."""
    given = {part: rows for part, rows in parts.items() if rows}
    statement = _whole_statement(table, tuple(values), tuple(given))
    return run_alone(engine, statement, parameters(table, values, given), until=until) is not None


def _insert(connection: Connection, table: Table, rows: Rows, *, if_new: bool = False) -> CursorResult[Any]:
    """SQLite's statement for rows of one table, which SQLAlchemy only passes on as well: two thirds of the time."""
    statement, columns = _sqlite_insert(connection.dialect, table, tuple(rows[0]))
    given = [tuple(bind(row[name]) if bind else row[name] for name, bind in columns) for row in rows]
    statement += " ON CONFLICT DO NOTHING" if if_new else ""
    return connection.exec_driver_sql(statement, given if len(given) > 1 else given[0])


@cache
def _sqlite_insert(dialect: Dialect, table: Table, names: tuple[str, ...]) -> tuple[str, list[tuple[str, Any]]]:
    """The statement, and for each of its parameters how a value is made ready for it, where it must be."""
    places = ", ".join("?" * len(names))
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({places})"  # noqa: S608
    return statement, [(name, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in names]


@cache
def _whole_statement(table: Table, names: tuple[str, ...], parts: tuple[Table, ...]) -> str:
    inserts = ", ".join(insert_part(part) for part in parts)
    return f"{with_whole(table, names)}, {inserts} SELECT 1 FROM whole"  # noqa: S608


def with_whole(table: Table, names: Iterable[str]) -> str:
    """The beginning of PostgreSQL's one statement for a row and what belongs to it, which SQLAlchemy only passes on:
    `whole` has a row where the row was inserted.

    Measured for a receipt with two transfers: 390 us of our processor time instead of 970, and five round trips less.
    What there can be several of comes as JSON; the table itself says of which types it is. (SQLite knows no such
    statement, and has no round trips.)
    """
    return (
        f"WITH whole AS (INSERT INTO {table.name} ({', '.join(names)}) "  # noqa: S608  (names of tables and columns)
        f"VALUES ({', '.join(f'%({name})s' for name in names)}) ON CONFLICT DO NOTHING RETURNING 1)"
    )


def insert_part(part: Table, *, wherever: str = "whole", **instead: str) -> str:
    """The clause that inserts the rows of `part` where `wherever` has a row. `instead` has SQL for some columns."""
    names = [column.name for column in part.c]
    values = ", ".join(instead.get(name, f"part.{name}") for name in names)
    return (
        f"part_{part.name} AS (INSERT INTO {part.name} ({', '.join(names)}) SELECT {values} "  # noqa: S608
        f"FROM {wherever}, json_populate_recordset(NULL::{part.name}, %({part.name} rows)s) AS part "
        "ON CONFLICT DO NOTHING)"
    )


def parameters(table: Table, values: Mapping[str, Any], parts: Mapping[Table, Rows]) -> dict[str, Any]:
    """The parameters of such a statement."""
    given = {name: _as_json(value) if _is_json(table, name) and value is not None else value
             for name, value in values.items()}  # fmt: skip
    return given | {f"{part.name} rows": _as_json(rows) for part, rows in parts.items()}


@cache
def _is_json(table: Table, name: str) -> bool:
    return isinstance(table.c[name].type, JSON)


def _text(one: Any) -> str:
    return f"\\x{one.hex()}" if isinstance(one, bytes) else str(one)


# JSON as PostgreSQL reads it into columns of any type.
_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_text).encode
