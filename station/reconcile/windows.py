"""How days are cut into calls. Pure.

The API compares its bounds as strings with payment times in Italian civil time, some of them with fractions or a zone.
So windows overlap, by a day where they are long enough, and a range starts a day early and ends a day late: otherwise a
payment between two bounds (at 23:59:59.5, or in UTC at a time of the day before) would be in neither window.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from station.clock import ROME

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Window:
    """The bounds of one list call, both included, in Italian civil time without zone.

    Payments from `next_first` on are listed by the next window too; `None`: there is no next one.
    """

    first: datetime
    last: datetime
    next_first: datetime | None = None

    def again(self, paid_at: str) -> bool:
        """Return whether the next window lists a receipt with this payment time as well."""
        return self.next_first is not None and paid_at >= self.next_first.isoformat()

    @property
    def hours(self) -> int:
        """Its length, rounded up."""
        return -(-(self.last - self.first) // timedelta(hours=1))

    def __str__(self) -> str:
        return f"{self.first:%Y-%m-%d %H:%M} to {self.last:%Y-%m-%d %H:%M}"


def midnight(day: date) -> datetime:
    """Return the first moment of a day."""
    return datetime.combine(day, time())


def cut(first: datetime, end: datetime, hours: int) -> Window:
    """Return the window of at most `hours` that begins at `first` and does not reach beyond `end`.

    It shares its last day with the next one, or an eighth of itself where that is less.
    """
    length = timedelta(hours=hours)
    last = first + length - _SECOND
    if last >= end:
        return Window(first, end)
    return Window(first, last, next_first=last + _SECOND - min(_DAY, length / 8))


def windows(first: date, last: date, days: int) -> Iterator[Window]:
    """Yield windows of at most `days` days that cover `first` to `last`."""
    start: datetime | None = midnight(first)
    while start is not None:
        window = cut(start, midnight(last) + _DAY - _SECOND, days * 24)
        yield window
        start = window.next_first


def italian_day(moment: datetime) -> date:
    """Return the day that it is in Italy."""
    return moment.astimezone(ROME).date()


def padded(first: date, last: date, today: date) -> tuple[date, date]:
    """Return the range to ask for so that no payment from `first` to `last` is missed: a day more on each side.

    Never beyond today: a payment at midnight is listed tomorrow too.
    """
    last = min(last + _DAY, today)
    return min(first - _DAY, last), last
