"""Run statements through libpq's pipeline: one, or several in one transaction and one round trip. PostgreSQL only.

psycopg's cursors, and a connection that changes to autocommit and back, took three times as long for a receipt.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cache, lru_cache
from itertools import compress
from operator import call, itemgetter
from types import NoneType
from typing import Any, TypeAlias

from psycopg import DataError, Error, generators
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus

from station.store.engine import UndoneError
from station.store.postgres import set_deadline

# SQL with places like %(name)s, and a value for each name.
Statement: TypeAlias = tuple[str, Mapping[str, Any]]


def run(connection: Any, statements: Sequence[Statement], until: float | None) -> list[str | None]:
    """Run statements as one transaction, in one round trip. Return the first value of the first row of each, or `None`.

    `until` (of `time.monotonic()`) is the deadline. Raises `UndoneError` if one of several failed, and the driver's
    error otherwise: then the transaction may have been committed, and it was if that is `UnconfirmedError`. Parameters
    go to the server without a type, which it takes from the statement.
    """
    set_deadline(connection, until)
    connection.warnings.clear()
    values = _run_known(connection, statements)
    connection.confirm()
    return values


def _run_known(connection: Any, statements: Sequence[Statement]) -> list[str | None]:
    try:
        return _run(connection, statements)
    except (InvalidSqlStatementName, UndoneError) as error:
        if not isinstance(error.__cause__ or error, InvalidSqlStatementName):
            raise
    # It is no longer prepared: psycopg deallocates all after some ROLLBACKs, and a pooler may. Nothing was done.
    connection.named.clear()
    return _run(connection, statements)


def _run(connection: Any, statements: Sequence[Statement]) -> list[str | None]:
    if len(statements) == 1:
        _send(connection, *_ready(connection, *statements[0]))
        return [_answer(connection)]
    try:
        return _run_together(connection, statements)
    except UndoneError:
        raise
    except BaseException:
        connection.pgconn.finish()  # answers to these statements may still arrive on it
        raise


def _run_together(connection: Any, statements: Sequence[Statement]) -> list[str | None]:
    try:
        ready = [_ready(connection, *one) for one in statements]
    except Exception as error:
        if connection.closed:
            raise
        raise UndoneError from error
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for one in ready:
        _send(connection, *one)
    pgconn.pipeline_sync()
    results = connection.wait(generators.execute(pgconn))
    while results[-1].status != ExecStatus.PIPELINE_SYNC:
        results += connection.wait(generators.fetch_many(pgconn))
    pgconn.exit_pipeline_mode()
    try:
        # One for each statement, and one more where the commit failed.
        return [_value(result) for result in results[:-1]]
    except Error as error:
        raise UndoneError from error


def _ready(connection: Any, statement: str, given: Mapping[str, Any]) -> tuple[bytes, list[bytes | None], list[bool]]:
    """Return the statement, or the name under which it is prepared, its parameters, and which of them are binary."""
    command, values_of = _numbered(statement)
    values = values_of(given)
    dumps, texts, binary = _dumps(tuple(map(type, values)))
    if "\0" in "".join(compress(values, texts)):  # libpq takes what is before it for the whole
        raise DataError("PostgreSQL has no NUL in text")
    return _known(connection, command), list(map(call, dumps, values)), binary


def _known(connection: Any, command: bytes) -> bytes:
    """Return the name under which a statement is prepared, or the statement where none is to be prepared."""
    if connection.prepare_threshold is None:
        return command
    name: bytes | None = connection.named.get(command)
    if name is None:
        name = b"station_%d" % next(connection.names)
        connection.pgconn.send_prepare(name, command)
        _answer(connection)
        connection.named[command] = name
    return name


def _send(connection: Any, known: bytes, values: list[bytes | None], formats: list[bool]) -> None:
    if connection.prepare_threshold is None:
        connection.pgconn.send_query_params(known, values, None, formats)
    else:
        connection.pgconn.send_query_prepared(known, values, formats)


def _answer(connection: Any) -> str | None:
    """Wait for the answer to one statement and its commit, and return its value. Raises the driver's error."""
    results = connection.wait(generators.execute(connection.pgconn))
    value, *_ = [_value(result) for result in results]  # the commit has no result of its own, unless it failed
    return value


def _value(result: Any) -> str | None:
    """Return the first value of the first row. Raises the driver's error if the statement failed."""
    match result.status:
        case ExecStatus.TUPLES_OK:
            value = result.get_value(0, 0) if result.ntuples else None
            return None if value is None else value.decode()
        case ExecStatus.COMMAND_OK:
            return None
    raise error_from_result(result)


@cache
def _numbered(statement: str) -> tuple[bytes, Callable[[Mapping[str, Any]], tuple[Any, ...]]]:
    """Return the statement with a number for each name, and a function that returns the parameters in that order."""
    numbers: dict[str, int] = {}
    command = _NAMED.sub(lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", statement)
    names = list(numbers)
    # Of one name or none, `itemgetter` makes no tuple.
    return command.encode(), itemgetter(*names) if len(names) > 1 else lambda given: tuple(given[one] for one in names)


_NAMED = re.compile(r"%\(([^)]+)\)s")


@lru_cache(maxsize=256)
def _dumps(kinds: tuple[type, ...]) -> tuple[list[Callable[[Any], bytes | None]], list[bool], list[bool]]:
    """Return the functions that encode values of these kinds, which of them are text, and which are binary.

    Bytes are sent as they are, all else in PostgreSQL's text.
    """
    dumps = [next(dump for known, dump in _DUMPS if issubclass(kind, known)) for kind in kinds]
    return dumps, [issubclass(kind, str) for kind in kinds], [kind is bytes for kind in kinds]


_DUMPS: tuple[tuple[type, Callable[[Any], bytes | None]], ...] = (
    (NoneType, lambda _: None),
    (bytes, bytes),
    (str, str.encode),
    (bool, lambda value: b"t" if value else b"f"),
    (int, b"%d".__mod__),
    (Decimal, lambda value: str(value).encode()),
    (date, lambda value: value.isoformat().encode()),  # and datetime
)
