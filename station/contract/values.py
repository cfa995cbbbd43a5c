"""Texts of a valid request as values: numbers, times and days as XSD reads them."""

import re
from datetime import UTC, date, datetime, timedelta

from station.clock import ROME

BLANKS = " \t\r\n"


def integer(text: str) -> int:
    """Return a number, which may have any number of leading zeros: `int` reads 4,300 digits at most."""
    try:
        return int(text)
    except ValueError:
        return int(_ZEROS.sub("", text))


_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def read_date_time(lexical: str) -> datetime | None:
    """Return an xs:dateTime as aware UTC time to the microsecond, `None` outside the years 1 to 9999.

    Without a zone it is Italian civil time, as the Nodo writes it.
    """
    midnight_after = "T24:00:00" in lexical  # XSD's other way to write the next day's midnight
    if midnight_after:
        lexical = lexical.replace("T24:", "T00:")
    try:
        moment = datetime.fromisoformat(lexical)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ROME)
        if midnight_after:
            moment += timedelta(days=1)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_date(lexical: str) -> date | None:
    """Return an xs:date without its zone, `None` outside the years 1 to 9999."""
    try:
        return date.fromisoformat(lexical[:10]) if lexical[4:5] == "-" else None
    except ValueError:
        return None
