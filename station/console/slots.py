"""Slots: how many requests of a worker process use the database at the same time, and how many of one user."""

import threading
from collections import Counter


class Slots:
    """`number` slots, of which one user has half at most: slow searches of one do not hold up the others."""

    def __init__(self, number: int) -> None:
        self._free, self._most = number, max(1, number // 2)
        self._taken: Counter[str] = Counter()
        self._changed = threading.Condition()

    def take(self, user: str, timeout: float) -> bool:
        """Wait for a slot, `timeout` seconds at most. Return whether there was one."""
        with self._changed:
            found = self._changed.wait_for(lambda: self._free > 0 and self._taken[user] < self._most, timeout)
            if found:
                self._free -= 1
                self._taken[user] += 1
            return found

    def give_back(self, user: str) -> None:
        """Give a slot back."""
        with self._changed:
            self._free += 1
            self._taken[user] -= 1
            if not self._taken[user]:
                del self._taken[user]
            self._changed.notify_all()
