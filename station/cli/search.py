"""What the commands over receipts share: the options that say which, and how dates and amounts are written."""

import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import click

from station import store
from station.log import printable
from station.receipt import Flag, Source

ROME = ZoneInfo("Europe/Rome")
F = TypeVar("F", bound=Callable[..., Any])


class Words(click.ParamType[str]):
    """An identifier as it was written down: blanks around it do not count."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value).strip()
        if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
            self.fail("is not UTF-8", param, ctx)
        return text


class Digits(Words):
    """A number that is printed in groups: blanks within it do not count either."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return "".join(super().convert(value, param, ctx).split())


class Moment(click.ParamType[datetime]):
    """A day or a time. Italian civil time where there is no zone. With `end`, a day means its end."""

    name = "time"

    def __init__(self, *, end: bool = False) -> None:
        self._end = end

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            if re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
                day = date.fromisoformat(value) + timedelta(days=self._end)
                return datetime(day.year, day.month, day.day, tzinfo=ROME).astimezone(UTC)
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=ROME)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{printable(str(value))!r} is no time, want 2026-07-01 or 2026-07-01T10:30", param, ctx)


class Euro(click.ParamType[Decimal]):
    """An amount in euro, with a point or a comma before the cents."""

    name = "euro"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        if isinstance(value, Decimal):
            return value
        if not re.fullmatch(r"[0-9]{1,10}([.,][0-9]{1,2})?", value):
            self.fail(f"{printable(str(value))!r} is no amount, want 120.50 or 120,50", param, ctx)
        return Decimal(value.replace(",", "."))


_FILTERS = (
    click.option("--notice", "notice_number", type=Digits(), help="Notice number, 18 digits; blanks do not matter."),
    click.option("--iuv", type=Words(), help="IUV (creditorReferenceId)."),
    click.option("--receipt-id", type=Words(), help="receiptId, the payment token."),
    click.option("--ec", "id_pa", type=Words(), help="The EC the copy is for (idPA)."),
    click.option("--debtor", "debtor_id", type=Words(), help="Fiscal code of the debtor."),
    click.option("--payer", "payer_id", type=Words(), help="Fiscal code of who paid."),
    click.option("--person", "person_id", type=Words(), help="Fiscal code of the debtor or of who paid."),
    click.option("--amount", type=Euro(), help="This amount, in euro."),
    click.option("--amount-from", type=Euro(), help="This amount or more."),
    click.option("--amount-to", type=Euro(), help="This amount or less."),
    click.option("--paid-from", type=Moment(), help="Paid on this day or later, or from this time on."),
    click.option("--paid-to", type=Moment(end=True), help="Paid up to the end of this day, or before then."),
    click.option("--received-from", type=Moment(), help="Arrived on this day or later, or from this time on."),
    click.option("--received-to", type=Moment(end=True), help="Arrived up to the end of this day, or before then."),
    click.option("--psp", "id_psp", type=Words(), help="The PSP it was paid by (idPSP)."),
    click.option("--station", "id_station", type=Words(), help="A station it came by, at first or again."),
    click.option("--broker", "id_broker_pa", type=Words(), help="A broker it came by, at first or again."),
    click.option("--flag", type=click.Choice([flag.value for flag in Flag]), help="An oddity it was flagged with."),
    click.option("--source", type=click.Choice([source.value for source in Source]), help="The door it came by."),
    click.option("--digital-stamp", is_flag=True, help="One of its transfers is a digital stamp."),
)


def filter_options(command: F) -> F:
    """The options that say which receipts; the command gets them as `wanted`, see `as_filter`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def as_filter(wanted: dict[str, Any]) -> store.Filter:
    """The filter that the options ask for. A usage error where they contradict each other."""
    amount = wanted.pop("amount")
    if amount is not None:
        if wanted["amount_from"] is not None or wanted["amount_to"] is not None:
            raise click.UsageError("--amount is exact: leave out --amount-from and --amount-to")
        wanted["amount_from"] = wanted["amount_to"] = amount
    for what in ("amount", "paid", "received"):
        start, end = wanted[f"{what}_from"], wanted[f"{what}_to"]
        if start is not None and end is not None and (end < start or (end == start and what != "amount")):
            raise click.UsageError(f"--{what}-to is before --{what}-from")
    return store.Filter(**wanted)


def local(moment: datetime | None) -> str:
    """A time as people in Italy read it."""
    if moment is None:
        return ""
    with suppress(OverflowError):  # the last hours of the year 9999: in Italy it is a year that no datetime has
        moment = moment.astimezone(ROME)
    return f"{moment:%Y-%m-%d %H:%M:%S}"
