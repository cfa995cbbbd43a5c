"""Retry with backoff for commands, which would otherwise end when the database is restarted or busy for a moment.

The server does not use this: a push has a deadline of its own (see `intake`), and the Nodo sends it again.
"""

import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from station import log, store
from station.errors import DatabaseUnfitError, MissingRightsError, StoreError, StoreRejectedError
from station.store import queries

P = ParamSpec("P")
T = TypeVar("T")

_log = log.get(__name__)

_PAUSES_S = (0.2, 1.0, 3.0)


def retrying(work: Callable[[], T]) -> T:
    """Return what `work` returns; it must be safe to run again. Raise `StoreError` if the last try fails too.

    An error that would come again at each try (a constraint, a missing right, a schema of another version) is raised
    at once.
    """
    for pause in _PAUSES_S:
        try:
            return work()
        except (StoreRejectedError, DatabaseUnfitError, MissingRightsError):
            raise
        except StoreError as error:
            _log.warning("database_waited_for", reason=str(error))
            time.sleep(pause)
    return work()


def read(
    engine: store.Engine, query: Callable[Concatenate[store.Connection, P], T], /, *args: P.args, **named: P.kwargs
) -> T:
    """Run one query in a transaction of its own, retried while the database is away for a moment."""

    def once() -> T:
        with queries.reading(engine) as connection:
            return query(connection, *args, **named)

    return retrying(once)


def write(
    engine: store.Engine, work: Callable[Concatenate[store.Connection, P], T], /, *args: P.args, **named: P.kwargs
) -> T:
    """Run `work` in a transaction of its own, retried as `read` is: it must be safe to run again."""

    def once() -> T:
        with store.transaction(engine) as connection:
            return work(connection, *args, **named)

    return retrying(once)
