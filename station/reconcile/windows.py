"""Days: which ones a run covers, and how they are cut into calls. Pure.

The API compares its bounds as strings with payment times in Italian civil time, some with fractions or a zone. Whole
days are the bounds that lose least: `from` stands for 00:00:00 of its day and `to` for 23:59:59. What lies between
(23:59:59.5, or a time of the day before in UTC) is why windows share a day with their neighbours, and why a range
starts a day early and ends a day late.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

ROME = ZoneInfo("Europe/Rome")
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The days of one call, both included. What is paid from `next_from` on is listed by the next window too."""

    first: date
    last: date
    next_from: date | None = None

    def again(self, paid_at: str) -> bool:
        """Whether the next window lists a receipt with this payment time as well."""
        return self.next_from is not None and paid_at >= f"{self.next_from}T00:00:00"


def windows(first: date, last: date, days: int) -> Iterator[Window]:
    """`first` to `last` in windows of `days` days at most, each starting on the last day of the one before."""
    while True:
        end = min(first + timedelta(days=days - 1), last)
        if end >= last:
            yield Window(first, last)
            return
        yield Window(first, end, next_from=end)
        first = end


def days_before(today: date, days: int) -> date:
    return today - timedelta(days=days)


def three_months_before(today: date) -> date:
    """The same day three months before, or that month's last."""
    year, month = divmod(today.year * 12 + today.month - 1 - 3, 12)
    month += 1
    for day in range(today.day, 0, -1):
        try:
            return date(year, month, day)
        except ValueError:
            continue
    raise AssertionError("every month has a first day")


def italian_day(moment: datetime) -> date:
    """The day it is in Italy."""
    return moment.astimezone(ROME).date()


def padded(first: date, last: date, today: date) -> tuple[date, date]:
    """The range to ask for so that nothing paid from `first` to `last` is missed: a day more on each side.

    Never beyond today: what comes at midnight comes again tomorrow.
    """
    last = min(last + _DAY, today)
    return min(first - _DAY, last), last
