"""Retry with backoff for commands, which would otherwise end when the database is restarted or busy for a moment.

The server does not use this: a push has a deadline of its own (see `intake`), and the Nodo sends it again.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from station import log, store
from station.errors import DatabaseUnfitError, MissingRightsError, StoreError, StoreRejectedError

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


def in_transaction(engine: store.Engine, work: Callable[[store.Connection], T], *, readonly: bool = False) -> T:
    """Run `work` in a transaction and return its result, `retrying`: `work` must be safe to run again."""

    def once() -> T:
        with store.transaction(engine, readonly=readonly) as connection:
            return work(connection)

    return retrying(once)
