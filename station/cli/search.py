"""The options that say which receipts, as several commands have them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from station import store
from station.cli.options import Euro, FiscalCode, Moment, Notice, Number, Words
from station.receipt import Flag, Source

F = TypeVar("F", bound=Callable[..., Any])
NAME_DAYS = 31  # of receipts, in which a name is looked for: no index finds it

_FILTERS = (
    click.option("--notice", "notice_number", type=Notice(), help="Notice number, 18 digits, with or without blanks."),
    click.option("--iuv", type=Number(), help="IUV (creditorReferenceId)."),
    click.option("--receipt-id", type=Words(), help="receiptId, the payment token."),
    click.option("--ec", "id_pa", type=Number(), help="The EC of the copy (idPA)."),
    click.option("--debtor", "debtor_id", type=FiscalCode(), help="Fiscal code of the debtor."),
    click.option("--payer", "payer_id", type=FiscalCode(), help="Fiscal code of the payer."),
    click.option("--person", "person_id", type=FiscalCode(), help="Fiscal code of the debtor or the payer."),
    click.option("--name", type=Words(), help="Words in the debtor's or the payer's name; needs a range of days."),
    click.option("--amount", type=Euro(), help="Exactly this amount, in euro."),
    click.option("--amount-from", type=Euro(), help="This amount or more."),
    click.option("--amount-to", type=Euro(), help="This amount or less."),
    click.option("--paid-from", type=Moment(), help="Paid on or after this day or time."),
    click.option("--paid-to", type=Moment(end=True), help="Paid by the end of this day, or before this time."),
    click.option("--received-from", type=Moment(), help="Arrived on or after this day or time."),
    click.option("--received-to", type=Moment(end=True), help="Arrived by the end of this day, or before this time."),
    click.option("--psp", "id_psp", type=Words(), help="The PSP it was paid by (idPSP)."),
    click.option("--station", "id_station", type=Words(), help="A station it arrived by, first or later."),
    click.option("--broker", "id_broker_pa", type=Words(), help="A broker it arrived by, first or later."),
    click.option("--flag", type=click.Choice([flag.value for flag in Flag]), help="One of its flags."),
    click.option("--source", type=click.Choice([source.value for source in Source]), help="Its source."),
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
    if wanted["name"] == "":
        raise click.UsageError("--name needs a word")
    if wanted["name"] is not None and not _few(wanted):
        raise click.UsageError(
            f"--name has to read each receipt: add a range of days (--paid-from and --paid-to, or --received-from "
            f"and --received-to, at most {NAME_DAYS} days), a number or a fiscal code"
        )
    return store.Filter(**wanted)


def _few(wanted: dict[str, Any]) -> bool:
    """Whether the other options leave few enough receipts to read each."""
    codes = [wanted[one] for one in ("notice_number", "iuv", "receipt_id", "debtor_id", "payer_id", "person_id")]
    if any(code and code != "ANONIMO" for code in codes):
        return True
    return any(
        start and (wanted[f"{what}_to"] or datetime.now(UTC)) - start <= timedelta(days=NAME_DAYS, hours=1)
        for what in ("paid", "received")
        if (start := wanted[f"{what}_from"])
    )
