"""Commands wait for a database that is away or busy for a moment; the server does not, its callers send again."""

import time
from collections.abc import Callable
from typing import TypeVar

from station import log
from station.errors import DatabaseUnfitError, MissingRightsError, StoreError, StoreRejectedError

T = TypeVar("T")

_log = log.get(__name__)

_PAUSES_S = (0.2, 1.0, 3.0)


def patiently(work: Callable[[], T]) -> T:
    """What `work` returns; it must be safe to run again. Raises `StoreError` when the database stays away."""
    for pause in _PAUSES_S:
        try:
            return work()
        except (StoreRejectedError, DatabaseUnfitError, MissingRightsError):  # it would be rejected again
            raise
        except StoreError as error:
            _log.warning("database_waited_for", reason=str(error))
            time.sleep(pause)
    return work()
