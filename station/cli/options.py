"""What several commands share: the types of their options, options of the same name, and who runs a command."""

import re
import signal
import threading
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from math import isnan
from typing import Any, TypeVar

import click

from station import clock
from station.cli import Context
from station.text import counted, printable

F = TypeVar("F", bound=Callable[..., Any])

NOTICE_DIGITS = 18
TIMES = f"Days and times are Italian unless they carry a time zone: {clock.EXAMPLES}, or 7d for seven days ago."
SHOWN_TIMES = "Days and times are Italian; log lines and JSON have UTC."


def options(*given: Callable[[F], F]) -> Callable[[F], F]:
    """Return one decorator that adds several options to a command, in this order."""

    def add(command: F) -> F:
        for option in reversed(given):
            command = option(command)
        return command

    return add


class Moment(click.ParamType[datetime]):
    """A day, a time, or how long ago, see `clock.moment`. With `end`, a day means its end."""

    name = "time"

    def __init__(self, *, end: bool = False) -> None:
        self._end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            return clock.moment(value, end=self._end)
        except (ValueError, OverflowError):
            self.fail(f"{printable(value, 60)!r} is not a time (write {clock.EXAMPLES})", param, ctx)


class Days(click.FloatRange):
    """A number of days up to ten years, with a fraction where needed."""

    name = "days"

    def __init__(self) -> None:
        super().__init__(min=0, max=3660)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        days: float = super().convert(value, param, ctx)
        if isnan(days):  # in every range
            self.fail("nan is not a number of days", param, ctx)
        return days


class Day(click.ParamType[date]):
    """A day, see `clock.day`."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        if isinstance(value, date):
            return value
        try:
            return clock.day(value)
        except ValueError:
            self.fail(f"{printable(value, 60)!r} is not a day (write 28/11/2026 or 2026-11-28)", param, ctx)


class Words(click.ParamType[str]):
    """Text; blanks around it do not count."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            self.fail("is not UTF-8", param, ctx)
        return text


class Number(Words):
    """An identifier that is printed in groups: blanks within it do not count either."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = super().convert(value, param, ctx)
        joined = "".join(text.split())
        return joined if joined.isalnum() else text


class _Digits(Words):
    """A number of a fixed length, with or without blanks. The length is checked: a digit too few would find nothing."""

    noun: str
    digits: int

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = "".join(super().convert(value, param, ctx).split())
        if not re.fullmatch(r"[0-9]+", text):
            self.fail(f"{printable(text, 60)!r} is not {self.noun} of {self.digits} digits", param, ctx)
        if len(text) != self.digits:
            has = counted(len(text), "digit")
            self.fail(f"{printable(text, 60)} has {has}, {self.noun} has {self.digits}", param, ctx)
        return text


class EcId(_Digits):
    """The fiscal code of an EC."""

    noun, digits = "an EC's fiscal code", 11


class Notice(_Digits):
    """A notice number."""

    noun, digits = "a notice number", NOTICE_DIGITS


class FiscalCode(Words):
    """A fiscal code of a person or a company, in capitals without blanks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "".join(super().convert(value, param, ctx).split()).upper()


class Amount(click.ParamType[Decimal]):
    """An amount in euro, with a point or a comma before the cents."""

    name = "euro"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        if isinstance(value, Decimal):
            return value
        if re.fullmatch(r"[0-9]{1,3}(\.[0-9]{3}){1,3},[0-9]{2}", value):  # 1.520,50, as Italian banks print it
            value = value.replace(".", "")
        if not re.fullmatch(r"[0-9]{1,10}([.,][0-9]{1,2})?", value):
            self.fail(f"{printable(value, 60)!r} is not an amount (write 120.50 or 120,50)", param, ctx)
        return Decimal(value.replace(",", "."))


wide_option = click.option("--wide", is_flag=True, help="Show all columns, whatever the width of the terminal.")
list_options = options(
    click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True,
                 help="Maximum number of rows."),
    click.option("--after", "cursor", metavar="CURSOR", help="Show the next page: the cursor printed by the last one."),
    wide_option,
    click.option("--json", "as_", flag_value="json", help="One JSON object per line; each has its `cursor`."),
    click.option("--csv", "as_", flag_value="csv", help="CSV, safe to open in a spreadsheet."),
)  # fmt: skip
quiet_option = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=lambda ctx, _param, value: setattr(ctx.ensure_object(Context), "quiet", value),
    help="Print nothing unless something is wrong: for cron, which mails all output.",
)
operator_option = click.option(
    "--operator",
    help="Your name, for the history. Default: STATION_OPERATOR, or the system user's name.",
)


def operator_name(given: str | None) -> str:
    """Return the operator's name for the history, at most 64 characters."""
    from station import config

    return printable(given.strip() if given and given.strip() else config.operator())[:64]


def stop_on_signals() -> threading.Event:
    """Return an event that the first SIGTERM or SIGINT sets; the second one ends the process."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stop
