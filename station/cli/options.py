"""What several commands share: options, the names of files, and JSON lines."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import isnan
from pathlib import Path
from typing import Any

import click

from station import config
from station.log import printable


class Moment(click.ParamType[datetime]):
    """A day, a time, or how long ago. Without a zone it is UTC, as the lists show times."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if value[-1:] in ("d", "h") and value[:-1].isdecimal():
                number = int(value[:-1])
                return datetime.now(UTC) - (timedelta(days=number) if value[-1] == "d" else timedelta(hours=number))
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time, want for example 2026-07-01, 2026-07-01T10:30 or 7d", param, ctx)


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


operator_option = click.option(
    "--operator",
    help="Who does this, for the history. Default: STATION_OPERATOR, or the name of this system's user.",
)


def operator_name(given: str | None) -> str:
    """The name that the history gets."""
    return printable(given.strip())[:64] if given and given.strip() else printable(config.operator())


def json_line(value: Any) -> str:
    """One line of JSON in ASCII: names in it come from outside and may hold what a terminal obeys."""

    def convert(one: Any) -> Any:
        if isinstance(one, datetime):
            return one.isoformat()
        raise TypeError(type(one).__name__)

    return json.dumps(value, default=convert)


def format_of(file: Path, formats: Sequence[str], wanted: str | None = None) -> str:
    """The format that FILE is written in: `wanted`, or what its name ends with; the first one where neither says it.

    A usage error where the name ends with something else than what is written.
    """
    ending = file.suffix.lower().removeprefix(".")
    chosen = wanted or (ending if ending in formats else formats[0])
    if ending not in ("", chosen) and (file.is_file() or not file.exists()):  # not a pipe
        fitting = file.with_suffix(f".{chosen}").name
        others = "" if wanted else f" (or .{', .'.join(formats[1:])} for other formats)" if formats[1:] else ""
        raise click.UsageError(f"{file.name}: {chosen} does not fit this ending: name it {fitting}{others}")
    return chosen
