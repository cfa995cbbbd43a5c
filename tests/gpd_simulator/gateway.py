"""What stands before the service: keys, the rate limit, and the counting of everything that comes.

Callers hold the simulator's lock.
"""

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Key:
    """What one subscription key opens: some organisations or all (None), some segregation codes or all (none)."""

    orgs: frozenset[str] | None
    segregation_codes: tuple[str, ...] = ()
    denied: int = 403  # the status for other organisations

    @classmethod
    def read(cls, value: Any) -> "Key":
        """From a scenario: `"*"`, a list of organisations, or `{orgs, segregation_codes, denied}`."""
        if not isinstance(value, dict):
            value = {"orgs": value}
        if unknown := set(value) - {"orgs", "segregation_codes", "denied"}:
            raise ValueError(f"key: unknown {', '.join(sorted(unknown))}")
        orgs = value.get("orgs", "*")
        return cls(
            None if orgs == "*" else frozenset(orgs),
            tuple(value.get("segregation_codes", ())),
            value.get("denied", 403),
        )

    def opens(self, org: str) -> bool:
        return self.orgs is None or org in self.orgs


class Limiter:
    """So many calls in a sliding period, for each key on its own; refused calls do not count."""

    def __init__(self) -> None:
        self._taken: dict[str, deque[float]] = {}

    def take(self, key: str, calls: int, period: float) -> tuple[int, float]:
        """How many calls remain and 0, or -1 and the seconds to wait."""
        now = time.monotonic()
        taken = self._taken.setdefault(key, deque())
        while taken and taken[0] <= now - period:
            taken.popleft()
        if len(taken) >= calls:
            return -1, (taken[0] + period - now) if taken else period
        taken.append(now)
        return calls - len(taken), 0.0


@dataclass
class Stats:
    """What was called, answered and asked for."""

    calls: int = 0
    connections: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    by_endpoint: Counter[str] = field(default_factory=Counter)
    by_org: dict[str, Counter[str]] = field(default_factory=dict)
    by_status: Counter[str] = field(default_factory=Counter)
    by_key: Counter[str] = field(default_factory=Counter)
    by_fault: Counter[str] = field(default_factory=Counter)
    most_in_period: Counter[str] = field(default_factory=Counter)
    without_request_id: int = 0
    request_ids: set[str] = field(default_factory=set)
    repeated_request_ids: int = 0
    over_30_days: int = 0
    longest_days: float = 0.0
    past_last_page: int = 0
    callers_gone: int = 0
    errors: list[str] = field(default_factory=list)
    endpoints: tuple[str, ...] = ("list", "receipt", "positions", "other")
    _recent: dict[str, deque[float]] = field(default_factory=dict)

    def arrived(
        self, endpoint: str, org: str, key: str, request_id: str | None, period: float, new_connection: bool
    ) -> None:
        self.calls += 1
        self.connections += new_connection
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.by_endpoint[endpoint] += 1
        self.by_org.setdefault(org, Counter())[endpoint] += 1
        self.by_key[key] += 1
        if not request_id:
            self.without_request_id += 1
        elif request_id in self.request_ids:
            self.repeated_request_ids += 1
        else:
            self.request_ids.add(request_id)
        now = time.monotonic()
        recent = self._recent.setdefault(key, deque())
        recent.append(now)
        while recent[0] <= now - period:
            recent.popleft()
        self.most_in_period[key] = max(self.most_in_period[key], len(recent))

    def asked(self, days: float) -> None:
        self.longest_days = max(self.longest_days, days)
        if days > 30:
            self.over_30_days += 1

    def answered(self, status: str) -> None:
        self.in_flight -= 1
        self.by_status[status] += 1

    def report(self) -> dict[str, Any]:
        return {
            "calls": self.calls,
            "connections": self.connections,
            "most_in_flight": self.most_in_flight,
            "by_endpoint": {name: self.by_endpoint[name] for name in self.endpoints},
            "by_org": self.by_org,
            "by_status": self.by_status,
            "by_key": self.by_key,
            "by_fault": self.by_fault,
            "rate_limited": self.by_status["429"],
            "most_in_period": self.most_in_period,
            "without_request_id": self.without_request_id,
            "distinct_request_ids": len(self.request_ids),
            "repeated_request_ids": self.repeated_request_ids,
            "over_30_days": self.over_30_days,
            "longest_days": round(self.longest_days, 3),
            "past_last_page": self.past_last_page,
            "callers_gone": self.callers_gone,
            "errors": self.errors,
        }


def whole_seconds(wait: float) -> int:
    """As Retry-After counts: rounded up, at least one."""
    return max(1, math.ceil(wait))
