"""A token bucket: how often something may be done, by all threads together."""

import threading
import time
from collections.abc import Callable

from station.errors import StoppedError


class TokenBucket:
    """Allow `rate` events a second, and `burst` at once after a quiet time; threads share it.

    Kept as one time instead of a count (GCRA): when the bucket will be full again.
    """

    def __init__(self, rate: float, burst: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = 1 / rate
        self._ahead = (burst - 1) * self._interval
        self._clock = clock
        self._full_at = 0.0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a token; False if the bucket is empty."""
        return self._try() == 0

    def wait(self, stop: threading.Event) -> None:
        """Take a token as soon as there is one. Raise `StoppedError` as soon as `stop` is set."""
        while (pause := self._try()) > 0:
            if stop.wait(pause):
                break
        if stop.is_set():
            raise StoppedError

    def hold(self, seconds: float) -> None:
        """Give no token for `seconds`."""
        with self._lock:
            self._full_at = max(self._full_at, self._clock() + seconds + self._ahead)

    def _try(self) -> float:
        """Take a token and return 0, or return the seconds until there is one."""
        with self._lock:
            now = self._clock()
            pause = self._full_at - self._ahead - now
            if pause > 0:
                return pause
            self._full_at = max(self._full_at, now) + self._interval
            return 0
