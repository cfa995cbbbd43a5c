"""Which days a run covers, and how they are cut into calls. Pure.

The API compares its bounds as strings with payment times in Italian civil time, some with fractions or a zone. What
lies between two bounds (23:59:59.5, or a time of the day before in UTC) is why windows overlap with their neighbours, a
day where they are long enough, and why a range starts a day early and ends a day late.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

ROME = ZoneInfo("Europe/Rome")
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)
_IN_VAIN_MOST = 100
# Shares of the timeout.
_SLOW, _QUICK = 1 / 4, 1 / 16


@dataclass(frozen=True, slots=True)
class Window:
    """The bounds of one call, both included, in Italian civil time without zone.

    What is paid from `next_first` on is listed by the next window too; `None`: there is no next one.
    """

    first: datetime
    last: datetime
    next_first: datetime | None = None

    def again(self, paid_at: str) -> bool:
        """Whether the next window lists a receipt with this payment time as well."""
        return self.next_first is not None and paid_at >= self.next_first.isoformat()

    @property
    def hours(self) -> int:
        """Its length, rounded up."""
        return -(-(self.last - self.first) // timedelta(hours=1))

    def __str__(self) -> str:
        return f"{self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M}"


def midnight(day: date) -> datetime:
    """The first moment of a day."""
    return datetime.combine(day, time())


def cut(first: datetime, end: datetime, hours: int) -> Window:
    """The window that begins at `first`, of `hours` at most, and none of it behind `end`.

    It shares its last day with the next one, or an eighth of itself where that is less.
    """
    length = timedelta(hours=hours)
    last = first + length - _SECOND
    if last >= end:
        return Window(first, end)
    return Window(first, last, next_first=last + _SECOND - min(_DAY, length / 8))


@dataclass
class Span:
    """How much one call may cover: as much as the API lists in good time, `widest` hours at most.

    The service's time for a page grows with all rows of the window (twice the rows take some four times as long), and a
    single faulty debt position makes a whole list an error. `timeout`: seconds until a call counts as failed.
    """

    widest: int
    hours: int
    timeout: float
    in_trouble: bool = False  # the last window could not be read
    _in_vain: int = 0  # windows in a row that could not be read and not be narrowed

    def can_narrow(self, window: Window) -> bool:
        """Whether a window that failed may be narrowed."""
        return window.hours > 1 and self._in_vain < _IN_VAIN_MOST

    def narrow(self, window: Window) -> None:
        """After a window that could not be read."""
        self.in_trouble = True
        self.hours = max(1, min(self.hours, window.hours) // 2)

    def read(self, window: Window, slowest_s: float) -> None:
        """After a window that was read, by the time that its slowest page took."""
        self._in_vain = 0
        if slowest_s > self.timeout * _SLOW:
            self.narrow(window)
        elif slowest_s < self.timeout * _QUICK:
            self.hours = min(2 * self.hours, self.widest)
        self.in_trouble = False

    def leave(self, *, partly: bool) -> None:
        """After a window that was given up; `partly`: other pages of it were read.

        Then it is the page that fails and not one of its receipts, and narrower windows would fail as well. Windows
        grow again after many in vain: what cannot be read for days is not walked by the hour.
        """
        self.in_trouble = True
        self._in_vain = _IN_VAIN_MOST if partly else self._in_vain + 1
        if self._in_vain >= _IN_VAIN_MOST:
            self.hours = min(2 * self.hours, self.widest)


def windows(first: date, last: date, days: int) -> Iterator[Window]:
    """`first` to `last` in windows of `days` days at most, each starting on the last day of the one before."""
    start: datetime | None = midnight(first)
    while start is not None:
        window = cut(start, midnight(last) + _DAY - _SECOND, days * 24)
        yield window
        start = window.next_first


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
