"""Statements that share a transaction: on PostgreSQL, those that come at about the same time go together.

A commit waits for the disk, and each time that the machine goes to the disk or from one process to another costs
processor time: one transaction for several receipts is one commit, one round trip and two changes of processes for all
of them. Each is still told what became of its own: where one fails, nothing was done, and each goes alone.
"""

import weakref
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine

from station import log, loop
from station.errors import StoreError
from station.store.engine import has_free_connection, run_statements
from station.store.statements import UndoneError

_log = log.get(__name__)

_ENOUGH = 8  # the database works on these while the next ones are computed
_MOST = 16
# One, and two more where it waits for somebody's lock. Not as many as there are connections: a server that does not
# answer keeps each that is given up, until it lets nobody in any more.
_AT_ONCE = 3


def run_alone(
    engine: Engine, statement: str, parameters: Mapping[str, Any], *, key: tuple[str, ...], until: float
) -> str | None:
    """Runs one statement that succeeds or fails for itself, on PostgreSQL. The first value of its first row, or `None`.

    `key`: of the row that it writes, table first. All take their locks in the order of their keys. Raises `StoreError`,
    after which it may have been committed; `until` as in `transaction`.
    """
    one = _Coming(engine, statement, parameters, key, until)
    _together(engine).do(one)
    if one.alone:
        return loop.elsewhere(lambda: run_statements(engine, [one.statement], until=until)[0])
    if one.error is not None:
        raise one.error
    return one.value


class _Coming:
    """A statement on its way."""

    def __init__(
        self, engine: Engine, statement: str, parameters: Mapping[str, Any], key: tuple[str, ...], until: float
    ) -> None:
        self.engine = engine
        self.statement = statement, parameters
        self.key = key
        self.until = until
        self.alone = False
        self.value: str | None = None
        self.error: Exception | None = StoreError("the transaction was given up", reason="given up", retry=True)


_of_engine: weakref.WeakKeyDictionary[Engine, loop.Together[_Coming]] = weakref.WeakKeyDictionary()


def _together(engine: Engine) -> loop.Together[_Coming]:
    return _of_engine.get(engine) or _of_engine.setdefault(
        engine, loop.Together(_run, enough=_ENOUGH, most=_MOST, at_once=_AT_ONCE, in_loop=_connected)
    )


def _connected(one: _Coming) -> bool:
    return has_free_connection(one.engine)


def _run(going: list[_Coming]) -> None:
    going.sort(key=lambda one: one.key)
    try:
        until = min(one.until for one in going)
        values = run_statements(going[0].engine, [one.statement for one in going], until=until)
    except UndoneError:
        for one in going:
            one.alone = True
    except StoreError as error:
        for one in going:
            one.error = error
    except Exception as error:
        if len(going) == 1:
            going[0].error = error
        else:  # a defect, or no memory: nobody knows whose, nor whether it was before the commit
            _log.error("transaction_given_up", exc_info=error)
    else:
        for one, value in zip(going, values, strict=True):
            one.value = value
            one.error = None
