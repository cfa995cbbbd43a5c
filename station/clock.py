"""Times as people write them: Italian civil time, written in one form and read in several.

Inside the station, in JSON and in CSV for machines, times are aware UTC in ISO 8601.
"""

import calendar
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TypeVar
from zoneinfo import ZoneInfo

Day = TypeVar("Day", bound=date)

ROME = ZoneInfo("Europe/Rome")
EXAMPLES = "28/11/2026, 28/11/2026 14:05 or 2026-11-28T14:05"

_ITALIAN = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})(?: +([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?")
_AGO = re.compile(r"([0-9]{1,6})([dh])")


def shown(moment: date | None) -> str:
    """Return a time as written in Italy, `28/11/2026 14:05:09`; a day as `28/11/2026`; "" for `None`."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        return f"{moment.day:02}/{moment.month:02}/{moment.year:04}"
    with suppress(OverflowError):  # the last hours of the year 9999: in Italy it is a year that no datetime has
        moment = moment.astimezone(ROME)
    return f"{moment.day:02}/{moment.month:02}/{moment.year:04} {moment:%H:%M:%S}"


def day(text: str) -> date:
    """Read a day, `28/11/2026` or `2026-11-28`. Raises `ValueError`."""
    if italian := _ITALIAN.fullmatch(text.strip()):
        if italian[4] is not None:
            raise ValueError("a time, not a day")
        return date(int(italian[3]), int(italian[2]), int(italian[1]))
    return date.fromisoformat(text.strip())


def moment(text: str, *, end: bool = False) -> datetime:
    """Read a day or a time as aware UTC: as written in Italy, in ISO 8601, or as an age (`7d`, `12h`).

    Italian civil time where no zone is given. A day is its beginning, or with `end` the beginning of the next day.
    Raises `ValueError`, and `OverflowError` for a time outside the calendar.
    """
    text = text.strip()
    if ago := _AGO.fullmatch(text):
        number = int(ago[1])
        return datetime.now(UTC) - (timedelta(days=number) if ago[2] == "d" else timedelta(hours=number))
    with suppress(ValueError):
        of = day(text) + timedelta(days=end)
        return datetime(of.year, of.month, of.day, tzinfo=ROME).astimezone(UTC)
    if italian := _ITALIAN.fullmatch(text):
        in_month, month, year, hour, minute, second = (int(part or 0) for part in italian.groups())
        return datetime(year, month, in_month, hour, minute, second, tzinfo=ROME).astimezone(UTC)
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=ROME)).astimezone(UTC)


def months_before(day: Day, months: int) -> Day:
    """Return the same day `months` calendar months earlier; the month's last day where it has no such day.

    A datetime keeps its time of day.
    """
    year, month = divmod(day.year * 12 + day.month - 1 - months, 12)
    return day.replace(year=year, month=month + 1, day=min(day.day, calendar.monthrange(year, month + 1)[1]))
