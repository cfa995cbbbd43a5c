"""Values as a spreadsheet set to Italian shows them: Italian civil time to the second, decimal commas, text as text."""

import re
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from station.clock import ROME, shown

# What Excel and LibreOffice take for a formula at the start of a cell, after blanks, too; East Asian ones by their wide
# signs. Behind an apostrophe, which stays visible, it is text for both.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@＝＋－＠]")
_WORD = re.compile(r"[^\W\d_]+")
_READ_AS_VALUE = {"vero", "falso", "true", "false"}
_WORDS_OF_A_DATE = 3  # "sab 28 nov 2026 2:05 PM" has the most words that a spreadsheet takes for a date


def wall_time(moment: datetime) -> datetime:
    """Return a time as clocks in Italy show it, to the second, without a zone."""
    with suppress(OverflowError):  # the last hours of the year 9999: in Italy it is a year that no datetime has
        moment = moment.astimezone(ROME)
    return moment.replace(microsecond=0, tzinfo=None)


def flat(value: Any) -> Any:
    """Return a value for one cell: lists and hashes as text, all else unchanged."""
    match value:
        case bytes():
            return value.hex()
        case list() | tuple():
            return "; ".join(map(_entry, value))
    return value


def _entry(entry: Any) -> str:
    """Return a key with its value, or another station that a receipt came by, as text."""
    if isinstance(entry, dict):
        return " ".join(shown(value) if isinstance(value, date) else str(value) for value in entry.values())
    return " = ".join(map(str, entry))


def as_text(value: Any, *, marked: bool = True) -> str:
    """Return a value as a cell of a CSV file; `marked=False`: without the marks described here.

    Spreadsheets guess the type of each cell, in quotes or not: 18 digits lose their end and 01 its zero, 1234E5 becomes
    a number and 1/2 a date. The one mark that keeps such a text whole in Excel and in LibreOffice, with the settings
    they come with, is a tab before it, which is not seen but stays in the cell. (="01" would be exact in Excel; but
    LibreOffice evaluates no formula of a CSV file unless told to, and shows the equals sign and the quotes.)
    """
    match value := flat(value):
        case None:
            return ""
        case bool():
            return "VERO" if value else "FALSO"
        case Decimal():
            return f"{value:f}".replace(".", ",")
        case date():
            return shown(value)
        case int():
            return str(value)
    text = str(value)
    if marked and _FORMULA.match(text):
        return f"'{text}"
    return f"\t{text}" if marked and _misread(text) else text


def _misread(text: str) -> bool:
    """Return whether a spreadsheet could take a text for a number, a date, a truth value or an error."""
    if any(char.isdigit() for char in text):
        return len(_WORD.findall(text)) <= _WORDS_OF_A_DATE
    return text.startswith("#") or text.strip().casefold() in _READ_AS_VALUE
