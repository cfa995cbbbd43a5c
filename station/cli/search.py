"""The options that say which receipts, as several commands have them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from station.cli.options import Amount, EcId, FiscalCode, Moment, Notice, Number, Words, options
from station.cli.output import say
from station.clock import shown
from station.receipt import Flag, Source
from station.store import Connection, queries
from station.store.conditions import Filter
from station.text import counted, printable

LATE = timedelta(minutes=1)  # after its arrival: a receipt is stored by then, or its sender has given up waiting
NAME_DAYS = 31  # of receipts, in which a name is looked for: no index finds it

filter_options = options(
    click.option("--notice", "notice_number", type=Notice(), help="Notice number, 18 digits, with or without blanks."),
    click.option("--iuv", type=Number(), help="IUV (creditorReferenceId)."),
    click.option("--receipt-id", type=Words(), help="receiptId, the payment token."),
    click.option("--ec", "id_pa", type=EcId(), help="The EC of the copy (idPA)."),
    click.option("--debtor", "debtor_id", type=FiscalCode(), help="Fiscal code of the debtor."),
    click.option("--payer", "payer_id", type=FiscalCode(), help="Fiscal code of the payer."),
    click.option("--person", "person_id", type=FiscalCode(), help="Fiscal code of the debtor or the payer."),
    click.option("--name", type=Words(), help="Words in the debtor's or the payer's name; needs a range of days."),
    click.option("--amount", type=Amount(), help="Exactly this amount, in euro."),
    click.option("--amount-from", type=Amount(), help="This amount or more."),
    click.option("--amount-to", type=Amount(), help="This amount or less."),
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


def as_filter(fields: dict[str, Any]) -> Filter:
    """Return the filter that `filter_options` ask for. A usage error where they contradict each other."""
    amount = fields.pop("amount")
    if amount is not None:
        if fields["amount_from"] is not None or fields["amount_to"] is not None:
            raise click.UsageError("--amount is exact: leave out --amount-from and --amount-to")
        fields["amount_from"] = fields["amount_to"] = amount
    for name in ("amount", "paid", "received"):
        start, end = fields[f"{name}_from"], fields[f"{name}_to"]
        if start is not None and end is not None and (end < start or (end == start and name != "amount")):
            raise click.UsageError(f"--{name}-to is before --{name}-from")
    if fields["name"] == "":
        raise click.UsageError("--name needs a word")
    if fields["name"] is not None and not _few(fields):
        raise click.UsageError(
            f"--name has to read each receipt: add a range of days (--paid-from and --paid-to, or --received-from "
            f"and --received-to, at most {NAME_DAYS} days), a number or a fiscal code"
        )
    return Filter(**fields)


def before_last_minute(condition: Filter) -> Filter:
    """Return the filter of an export; one by arrival ends a minute ago at the latest, also where no end is given.

    A receipt has the time of its arrival and can be read once it is committed, some seconds later. An export that ends
    now would lack it, and the next one, which begins where this one ends, too. It is clamped rather than refused: an
    end such as today is what a person means by "until now".
    """
    latest = datetime.now(UTC).replace(microsecond=0) - LATE
    if condition.received_from is None and condition.received_to is None:
        return condition
    if condition.received_to is not None and condition.received_to <= latest:
        return condition
    if condition.received_from is not None:
        latest = max(latest, condition.received_from)
    say(
        f"receipts that arrived from {shown(latest)} (Italy) on are left out: some may not be stored yet. Begin the "
        f"next export with --received-from {latest.isoformat()}",
        err=True,
    )
    return replace(condition, received_to=latest)


def one_receipt(connection: Connection, condition: Filter) -> tuple[str, str] | None:
    """Return the key (idPA, receiptId) of the only receipt that fits, `None` where there is none.

    A usage error where several fit, that names them.
    """
    fitting = queries.list_receipts(connection, condition, limit=20)
    if len(fitting) > 1:
        raise click.UsageError(
            "several receipts match; choose one of these (the time is that of arrival, in Italy):\n"
            + "\n".join(printable(f"  {row.receipt_id} --ec {row.id_pa}  {shown(row.received_at)}") for row in fitting)
        )
    return (fitting[0].id_pa, fitting[0].receipt_id) if fitting else None


def _few(fields: dict[str, Any]) -> bool:
    """Return whether the other options leave few enough receipts to read each."""
    names = ("notice_number", "iuv", "receipt_id", "debtor_id", "payer_id", "person_id")
    if any(fields[name] and fields[name] != "ANONIMO" for name in names):
        return True
    return any(
        start and (fields[f"{name}_to"] or datetime.now(UTC)) - start <= timedelta(days=NAME_DAYS, hours=1)
        for name in ("paid", "received")
        if (start := fields[f"{name}_from"])
    )


def odd_fiscal_code(condition: Filter) -> str | None:
    """Return a remark on a person's fiscal code of a length that none has; no error, since documents may hold any."""
    for option, code in (
        ("debtor", condition.debtor_id),
        ("payer", condition.payer_id),
        ("person", condition.person_id),
    ):
        if code and code != "ANONIMO" and len(code) not in (11, 16):
            return (
                f"--{option} {code} has {counted(len(code), 'character')}: the fiscal code of a person has 16, that of "
                "a company 11."
            )
    return None
