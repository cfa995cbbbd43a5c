"""Days as a form asks for them, `da` and `a`: read, bounded, and moved to the ones before and after."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from station.clock import ROME, day, moment, shown

DAYS_MAX = 366


def today() -> date:
    """Return the day that it is in Italy."""
    return datetime.now(UTC).astimezone(ROME).date()


@dataclass(frozen=True, slots=True)
class DayRange:
    """Whole days of Italy, both ends included."""

    first: date
    last: date

    @property
    def start(self) -> datetime:
        """The moment at which the first day begins."""
        return moment(self.first.isoformat())

    @property
    def end(self) -> datetime:
        """The moment at which the day after the last begins: in Italy, where a day may have 23 or 25 hours."""
        return moment(self.last.isoformat(), end=True)

    @property
    def words(self) -> str:
        """The days as people write them."""
        if self.first == self.last:
            return shown(self.first)
        return f"dal {shown(self.first)} al {shown(self.last)}"

    @property
    def query(self) -> dict[str, str]:
        """The fields that ask for these days."""
        return {"da": self.first.isoformat(), "a": self.last.isoformat()}

    def moved(self, by: int) -> "DayRange | None":
        """Return as many days before (`by` -1) or after (1), of a month the month; `None` outside the calendar."""
        try:
            if self == month_of(self.first):
                return month_of(self.first - timedelta(days=1) if by < 0 else self.last + timedelta(days=1))
            length = (self.last - self.first + timedelta(days=1)) * by
            return DayRange(self.first + length, self.last + length)
        except OverflowError:
            return None


def month_of(of: date) -> DayRange:
    """Return the month that a day is in. Raises `OverflowError` for the calendar's last."""
    first = of.replace(day=1)
    return DayRange(first, (first + timedelta(days=31)).replace(day=1) - timedelta(days=1))


def read_days(fields: Mapping[str, str], default: DayRange | None) -> tuple[DayRange | None, dict[str, str]]:
    """Return the days of a form, or what is wrong with each field. One day alone is both ends; none: `default`."""
    given: dict[str, date] = {}
    wrong: dict[str, str] = {}
    for name in ("da", "a"):
        if text := fields.get(name, "").strip():
            try:
                given[name] = day(text)
                found = DayRange(given[name], given[name])
                found.start, found.end  # noqa: B018  # as moments they must be in the calendar, too
            except (ValueError, OverflowError):
                wrong[name] = "Non è una data: scrivi per esempio 28/11/2026."
    if wrong:
        return None, wrong
    if not given:
        return default, {}
    first, last = given.get("da", given.get("a")), given.get("a", given.get("da"))
    assert first is not None and last is not None  # noqa: S101, PT018  # one of them is given
    if last < first:
        return None, {"a": "Questo giorno viene prima dell'inizio."}
    if last - first >= timedelta(days=DAYS_MAX):
        return None, {"a": f"Sono troppi giorni: al massimo {DAYS_MAX} alla volta."}
    return DayRange(first, last), {}
