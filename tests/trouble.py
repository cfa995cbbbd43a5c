"""Trouble made inside the station: statements that fail, commits whose answer is lost, and memory that ends.

Statements go three ways: through SQLAlchemy, and past it on PostgreSQL (`store.statements.run`) and SQLite
(`store.rows.run_on_sqlite`). Trouble meets all of them.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, exc

from station.errors import StoreError, StoreRejectedError
from station.store import postgres, receipts, rows, statements

LOST = exc.DBAPIError("x", None, Exception("gone"), connection_invalidated=True)


def sent_again(take: Callable[..., Any]) -> Callable[..., Any]:
    """`take` as the Nodo uses it, which sends again what could not be stored now.

    Many that want one row at once wait longer on a busy machine than the station waits for a lock.
    """

    def again(*given: Any, **how: Any) -> Any:
        for _ in range(100):
            try:
                return take(*given, **how)
            except StoreRejectedError:
                raise
            except StoreError:
                continue
        return take(*given, **how)

    return again


def before_statements(monkeypatch: pytest.MonkeyPatch, engine: Engine, call: Callable[[str], object]) -> None:
    """Calls `call` with each statement before it is run; what it raises, the statement failed with."""
    run = statements.run

    def run_after_call(connection: Any, given: Any, until: float | None) -> Any:
        for statement, _ in given:
            call(statement)
        return run(connection, given, until)

    run_on_sqlite = rows.run_on_sqlite

    def run_on_sqlite_after_call(connection: Any, statement: str, given: Any) -> Any:
        call(statement)
        return run_on_sqlite(connection, statement, given)

    monkeypatch.setattr(statements, "run", run_after_call)
    for module in (receipts, rows):
        monkeypatch.setattr(module, "run_on_sqlite", run_on_sqlite_after_call)
    event.listen(engine, "before_cursor_execute", lambda _connection, _cursor, statement, *_: call(statement))


def broken(
    monkeypatch: pytest.MonkeyPatch, engine: Engine, words: str, error: Exception, times: float = float("inf")
) -> None:
    """Lets the statements that hold some words fail, a given number of times."""
    left = [times]

    def fail(statement: str) -> None:
        if words in statement and left[0] > 0:
            left[0] -= 1
            raise error

    before_statements(monkeypatch, engine, fail)


def lost_at_commit(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> list[int]:
    """Lets the first commit go through, and the connection break before it is answered. What is returned tells."""
    times: list[int] = []
    run = statements.run

    def run_and_break(connection: Any, given: Any, until: float | None) -> Any:
        values = run(connection, given, until)
        if not times:
            times.append(1)
            connection.close()
            raise postgres.OperationalError("gone")
        return values

    def commit_and_break(connection: Any) -> None:
        if not times:
            times.append(1)
            connection.connection.dbapi_connection.commit()
            raise exc.DBAPIError("COMMIT", None, Exception("gone"), connection_invalidated=True)

    monkeypatch.setattr(statements, "run", run_and_break)
    event.listen(engine, "commit", commit_and_break)
    return times


def memory_ends(database_url: str, step: int) -> int:
    """Runs `memory_ends.py` in a process of its own. How many pushes failed; raises where one left something behind."""
    command = [sys.executable, str(Path(__file__).with_name("memory_ends.py")), database_url, str(step)]
    done = subprocess.run(command, timeout=900, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout)
