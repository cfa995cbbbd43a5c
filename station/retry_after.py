"""The Retry-After header of HTTP (RFC 9110)."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(header: str | None, most: float) -> float | None:
    """Return the seconds that either form of Retry-After means, `most` at most; `None` where it is unreadable."""
    header = (header or "").strip()
    if header.isascii() and header.isdecimal():
        wanted = float(header[:9])
    else:
        try:
            moment = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        # A date without a zone is GMT (RFC 9110).
        wanted = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return min(max(wanted, 0.0), most)
