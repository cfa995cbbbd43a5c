"""The clock of people: Italian civil time, written one way.

Inside the station, in JSON and in CSV for machines, times are aware UTC in ISO 8601.
"""

from contextlib import suppress
from datetime import date, datetime
from zoneinfo import ZoneInfo

ROME = ZoneInfo("Europe/Rome")


def shown(moment: date | None) -> str:
    """A time as people in Italy write it, `28/11/2026 14:05:09`; a day as `28/11/2026`; nothing for `None`."""
    if moment is None:
        return ""
    if not isinstance(moment, datetime):
        return f"{moment.day:02}/{moment.month:02}/{moment.year:04}"
    with suppress(OverflowError):  # the last hours of the year 9999: in Italy it is a year that no datetime has
        moment = moment.astimezone(ROME)
    return f"{moment.day:02}/{moment.month:02}/{moment.year:04} {moment:%H:%M:%S}"
