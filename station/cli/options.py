"""What several commands share: how times, numbers and names are typed, names of files, and who runs a command."""

import re
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from math import isnan
from pathlib import Path
from typing import Any

import click

from station import clock
from station.cli import Context
from station.text import printable

NOTICE_DIGITS = 18
TIMES = f"Days and times are Italian unless they carry a time zone: {clock.EXAMPLES}, or 7d for seven days ago."
SHOWN_TIMES = "Days and times are Italian; log lines and JSON have UTC."


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
    """A number of days up to ten years, with a part of one where there is need."""

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
    """Text as it was written down: blanks around it do not count."""

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


class Notice(Words):
    """A notice number, with or without blanks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = "".join(super().convert(value, param, ctx).split())
        if not re.fullmatch(r"[0-9]+", text):
            self.fail(f"{printable(value, 60)!r} is not a notice number of {NOTICE_DIGITS} digits", param, ctx)
        if len(text) != NOTICE_DIGITS:
            self.fail(f"{printable(text, 60)} has {len(text)} digits, a notice number has {NOTICE_DIGITS}", param, ctx)
        return text


class FiscalCode(Words):
    """A fiscal code of a person or a company, in capitals without blanks."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "".join(super().convert(value, param, ctx).split()).upper()


class Euro(click.ParamType[Decimal]):
    """An amount in euro, with a point or a comma before the cents."""

    name = "euro"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        if isinstance(value, Decimal):
            return value
        if not re.fullmatch(r"[0-9]{1,10}([.,][0-9]{1,2})?", value):
            self.fail(f"{printable(value, 60)!r} is not an amount (write 120.50 or 120,50)", param, ctx)
        return Decimal(value.replace(",", "."))


wide_option = click.option("--wide", is_flag=True, help="Show all columns, whatever the width of the terminal.")
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
    """The name that the history gets."""
    from station import config

    return printable(given.strip() if given and given.strip() else config.operator())[:64]


def format_of(file: Path, formats: Sequence[str], wanted: str | None = None) -> str:
    """The format that FILE is written in: `wanted`, or what its name ends with; the first one where neither says it.

    A usage error where the name ends with something else than what is written.
    """
    ending = file.suffix.lower().removeprefix(".")
    chosen = wanted or (ending if ending in formats else formats[0])
    if ending not in ("", chosen) and (file.is_file() or not file.exists()):  # not a pipe
        fitting = file.with_suffix(f".{chosen}").name
        others = "" if wanted else f" (or .{', .'.join(formats[1:])} for other formats)" if formats[1:] else ""
        raise click.UsageError(
            f"{printable(file.name)}: {chosen} does not match this ending: name it {printable(fitting)}{others}"
        )
    return chosen
