"""Values as the pages show them, in Italian: times of Rome, amounts in euro, and words for what the station names."""

from datetime import date, datetime
from decimal import Decimal
from urllib.parse import urlencode

from flask import request

from station.clock import shown


def moment(value: date | None) -> str:
    """Return a time as `28/11/2026 14:05`, a day as `28/11/2026`; a dash for none."""
    if value is None:
        return "—"
    text = shown(value)
    return text[:-3] if isinstance(value, datetime) else text


def euro(value: Decimal | None) -> str:
    """Return an amount as `1.234,56 €`, with blanks that do not break; a dash for none."""
    if value is None:
        return "—"
    return f"{value:,.2f}".translate(str.maketrans(",.", ".,")) + "\u00a0€"


def number(value: int) -> str:
    """Return a whole number as `12.345`."""
    return f"{value:,}".replace(",", ".")


def counted(value: int, one: str, several: str) -> str:
    """Return `1 ricevuta`, `12 ricevute`."""
    return f"{number(value)} {one if value == 1 else several}"


def notice(value: str | None) -> str:
    """Return a notice number in groups of four digits, as it is printed on notices."""
    text = value or "—"
    return " ".join(text[place : place + 4] for place in range(0, len(text), 4))


def with_query(**changed: object) -> str:
    """Return this page's address with other query parameters; those that become `None` go."""
    given = {**request.args.to_dict(), **changed}
    query = urlencode({name: value for name, value in given.items() if value not in (None, "")})
    return f"{request.path}?{query}" if query else request.path


SOURCES = {
    "push": "inviata da pagoPA",
    "reconcile": "richiesta a pagoPA (GPD)",
    "replay": "caricata di nuovo da chi gestisce la stazione",
    "bizevents": "comunicata da BizEvents",
}
