"""`station fdr show|list|missing|uncredited`: what was credited, for the finance office and for tickets to pagoPA."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

from station import store
from station.cli import Context
from station.cli.fdr import fdr
from station.cli.options import SHOWN_TIMES, TIMES, Amount, Moment, Number, Words, options, wide_option
from station.cli.output import say, say_csv, say_json, table
from station.clock import shown
from station.flow_columns import (
    FLOWS,
    ITALIAN,
    MISSING,
    PAYMENTS,
    RECEIPT_IN_ITALIAN,
    STATUS_NAMES,
    UNCREDITED,
    payment_row,
)
from station.reconcile.bank_line import bank_line
from station.store import credited, flows, queries
from station.text import counted, printable

_FLOWS_SHOWN = 20

_ec_option = click.option("--ec", "id_pas", type=Number(), multiple=True, help="Only this EC (idPA); may be repeated.")
_output_options = options(
    wide_option,
    click.option("--json", "as_", flag_value="json", help="One JSON object per line."),
    click.option("--csv", "as_", flag_value="csv", help="CSV, safe to open in a spreadsheet."),
    click.option(
        "--italian", is_flag=True, help="With --csv: for an Italian spreadsheet program, with Italian titles."
    ),
)
_limit_option = click.option(
    "--limit", type=click.IntRange(1, 1_000_000), default=1000, show_default=True, help="Maximum number of rows."
)


def _rows(rows: Iterable[dict[str, Any]], columns: Sequence[str], as_: str | None, italian: bool) -> bool:
    """Print rows as JSON lines or CSV, if asked for; return whether they were."""
    if italian and as_ != "csv":
        raise click.UsageError("--italian is for --csv")
    if as_ == "json":
        for row in rows:
            say_json({name: row[name] for name in columns})
    elif as_ == "csv":
        titles = [ITALIAN[name] for name in columns] if italian else None
        if italian and "receipt" in columns:
            rows = [row | {"receipt": RECEIPT_IN_ITALIAN[row["receipt"]]} for row in rows]
        say_csv(columns, list(rows), titles=titles, italian=italian)
    return as_ is not None


# --- one flow ---------------------------------------------------------------------------------------------------------

_NAME_MIN = len("2026-11-10")
_NARROW = ("position", "amount", "receipt", "notice_number", "debtor_name")


@fdr.command(epilog=SHOWN_TIMES)
@click.argument("line", type=Words())
@_ec_option
@click.option("--amount", type=Amount(), help="The line's amount in euro, to choose if several flows fit.")
@_output_options
@click.pass_obj
def show(
    context: Context,
    /,
    line: str,
    id_pas: tuple[str, ...],
    amount: Decimal | None,
    wide: bool,
    as_: str | None,
    italian: bool,
) -> None:
    """Show who paid what is in a LINE of the bank statement.

    LINE is the text as the bank prints it, also cut off: /PUR/LGPE-RIVERSAMENTO/URI/ with the name of a flow, or /RFS/
    or /RFB/ with an IUV where a payment was remitted alone. The name of the flow is enough.

    \b
    Example:
      station fdr show "/PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI99999-S011516185"
      station fdr show "/PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI999" --amount 1520,50
      station fdr show "/RFB/01000000000000017/120.50" --csv --italian > riga.csv
    """
    try:
        readings = bank_line(line)
    except ValueError:
        raise click.UsageError(
            f"{printable(line, 60)!r} is no bank line of pagoPA: it has /URI/ with the name of a flow, such as "
            "/PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI99999-S011516185, or /RFS/ or /RFB/ with an IUV"
        ) from None
    names = [name for name, _ in readings if name is not None]
    if not names:
        _show_single(context, [iuv for _, iuv in readings if iuv is not None], id_pas, amount, wide, as_, italian)
        return
    name = names[0]
    if len(name) < _NAME_MIN:
        raise click.UsageError(
            f"{printable(name)!r} is too little of a flow's name: at least the day is needed, 2026-11-10"
        )
    with store.transaction(context.engine(), readonly=True) as connection:
        found: list[Any] = []
        for one in names:
            if not found and len(one) >= _NAME_MIN:
                found = credited.flows_named(connection, one, id_pas or None, amount=amount, limit=_FLOWS_SHOWN + 1)
        if len(found) > 1:
            more = len(found) > _FLOWS_SHOWN
            raise click.UsageError(
                "several flows fit; choose with --amount or --ec, or give one's whole name:\n"
                + "\n".join(
                    printable(f"  {flow.fdr} --ec {flow.id_pa}  {flow.sum_payments} euro, PSP {flow.psp_id}")
                    for flow in found[:_FLOWS_SHOWN]
                )
                + "\n  ..." * more
            )
        if not found:
            raise click.ClickException(
                f"no flow {printable(name)}{' of this amount' if amount is not None else ''} is here; "
                "`station fdr --status` says up to when flows were walked"
            )
        (flow,) = found
        payments = [payment_row(row) for row in credited.payments_of(connection, flow)]
    if as_ == "json":
        say_json({**flow._asdict(), "payments": payments})
        return
    if _rows(payments, PAYMENTS, as_, italian):
        return
    say(f"flow {flow.fdr}, revision {flow.revision}, published {shown(flow.published)} (Italy)")
    say(f"EC {flow.id_pa}, PSP {flow.psp_id} {flow.psp_name or ''}".rstrip())
    say(f"bank transfer (TRN) {flow.regulation or 'not told'}, {shown(flow.regulation_date)}".rstrip(", "))
    _print_payments(payments, wide)
    in_all = sum((one["amount"] for one in payments), Decimal())
    if flow.sum_payments is not None and flow.sum_payments != in_all:
        say(f"the PSP declares {flow.sum_payments:,.2f} euro")


def _print_payments(payments: Sequence[dict[str, Any]], wide: bool) -> None:
    columns = PAYMENTS if wide else _NARROW
    words = {"position": "no", "amount": "euro", "notice_number": "notice number", "debtor_name": "debtor"}
    titles = tuple(words.get(name, name) for name in columns)
    rows = ([shown(one[name]) if name == "pay_date" else one[name] for name in columns] for one in payments)
    table(titles, rows, right=("no", "euro", "id_transfer"))
    in_all = sum((one["amount"] for one in payments), Decimal())
    say(f"{counted(len(payments), 'payment')}, {in_all:,.2f} euro")
    for word, told in (("missing", "without a receipt"), ("not expected", "that may never have a receipt")):
        some = [one["amount"] for one in payments if one["receipt"] == word]
        if some:
            say(f"{counted(len(some), 'payment')} {told}, {sum(some, Decimal()):,.2f} euro")


def _show_single(
    context: Context,
    iuvs: Sequence[str],
    id_pas: tuple[str, ...],
    amount: Decimal | None,
    wide: bool,
    as_: str | None,
    italian: bool,
) -> None:
    """Show a payment that was remitted alone: no flow has it, its receipts tell of it."""
    with store.transaction(context.engine(), readonly=True) as connection:
        rows: list[Any] = []
        for iuv in iuvs:
            rows = rows or credited.paid_with_iuv(connection, iuv, id_pas or None, limit=_FLOWS_SHOWN)
    payments: list[dict[str, Any]] = [
        {"position": place, "iur": row.receipt_id, "pay_status": None, "pay_date": row.payment_date_time,
         "receipt": "provisional" if row.source == "bizevents" else "here", **row._asdict()}
        for place, row in enumerate((row for row in rows if amount in (None, row.amount)), start=1)
    ]  # fmt: skip
    if not payments:
        of = " of this amount" if amount is not None else ""
        iuv = printable(iuvs[-1])
        raise click.ClickException(f"no receipt with IUV {iuv}{of} is here (try `station reconcile --iuv {iuv}`)")
    if not _rows(payments, PAYMENTS, as_, italian):
        say(f"payment with IUV {rows[0].iuv}, remitted alone: it is in no flow")
        _print_payments(payments, wide)


# --- lists ------------------------------------------------------------------------------------------------------------


@fdr.command("list", epilog=TIMES)
@_ec_option
@click.option("--from", "published_from", type=Moment(), help="Published on or after this day or time.")
@click.option("--to", "published_to", type=Moment(end=True), help="Published by the end of this day.")
@_limit_option
@_output_options
@click.pass_obj
def list_(
    context: Context,
    /,
    id_pas: tuple[str, ...],
    published_from: datetime | None,
    published_to: datetime | None,
    limit: int,
    wide: bool,
    as_: str | None,
    italian: bool,
) -> None:
    """List flows, the latest published first.

    \b
    Example:
      station fdr list --from 7d
      station fdr list --ec 77777777777 --from 01/11/2026 --to 30/11/2026 --csv --italian > flussi.csv
    """
    with queries.reading(context.engine()) as connection:
        found = credited.list_flows(
            connection, id_pas or None, published_from=published_from, published_to=published_to, limit=limit
        )
    rows = [flow | {"payments": flow["tot_payments"]} for flow in found]
    _tell_limit(rows, limit)
    if _rows(rows, FLOWS, as_, italian):
        return
    columns = FLOWS if wide else ("published", "id_pa", "fdr", "credited", "missing")
    titles = tuple({"published": "published (Italy)", "id_pa": "EC", "fdr": "flow", "credited": "euro"}.get(name, name)
                   for name in columns)  # fmt: skip
    times = ("published", "flow_date", "regulation_date")
    table(
        titles,
        ([shown(row[name]) if name in times else row[name] for name in columns] for row in rows),
        right=("euro", "missing", "payments", "revision"),
    )
    if not rows:
        say("No flow fits.", err=True)


@fdr.command(epilog=SHOWN_TIMES)
@_ec_option
@_limit_option
@_output_options
@click.pass_obj
def missing(
    context: Context, /, id_pas: tuple[str, ...], limit: int, wide: bool, as_: str | None, italian: bool
) -> None:
    """List payments that were credited and have no receipt, those paid first coming first.

    Their receipts are asked for by each run of `station fdr`. The CSV is what a ticket to pagoPA needs.

    \b
    Example:
      station fdr missing
      station fdr missing --ec 77777777777 --csv > missing.csv
    """
    with queries.reading(context.engine()) as connection:
        found = credited.missing_payments(connection, id_pas or None, limit=limit)
    rows = [row._asdict() | {"pay_status": STATUS_NAMES.get(row.pay_status)} for row in found]
    _tell_limit(rows, limit)
    if _rows(rows, MISSING, as_, italian):
        return
    if wide:
        times = ("pay_date", "regulation_date", "last_at")
        cells = ([shown(row[name]) if name in times else row[name] for name in MISSING] for row in rows)
        table(MISSING, cells, right=("amount", "attempts", "position"))
    elif rows:
        table(
            ("paid (Italy)", "EC", "IUV", "euro", "tries"),
            ((shown(row["pay_date"]), *(row[name] for name in ("id_pa", "iuv", "amount", "attempts"))) for row in rows),
            right=("euro", "tries"),
        )
    _total(rows, "credited payment", "without a receipt")


@fdr.command(epilog=TIMES)
@_ec_option
@click.option("--from", "paid_from", type=Moment(), help="Paid on or after this day or time.")
@_limit_option
@_output_options
@click.pass_obj
def uncredited(
    context: Context,
    /,
    id_pas: tuple[str, ...],
    paid_from: datetime | None,
    limit: int,
    wide: bool,
    as_: str | None,
    italian: bool,
) -> None:
    """List transfers to an EC that its receipts tell of, that are due (fdr.due_days), and that no flow has.

    A payment may have been remitted alone: then the bank statement has a line with /RFS/ or /RFB/ and its IUV.

    \b
    Example:
      station fdr uncredited
      station fdr uncredited --ec 77777777777 --from 01/11/2026 --csv --italian > non-accreditati.csv
    """
    settings = context.settings
    rows: list[dict[str, Any]] = []
    unsaid = []
    with queries.reading(context.engine()) as connection:
        configured = {ec.id for ec in settings.ec if ec.fdr}
        for id_pa in id_pas or sorted(configured.union(flows.all_progress(connection))):
            due = credited.due_before(connection, id_pa, settings.fdr.due_days)
            if due is None:
                unsaid.append(id_pa)
            elif len(rows) < limit:
                found = credited.uncredited(
                    connection, id_pa, paid_to=due, paid_from=paid_from, limit=limit - len(rows)
                )
                rows += [row._asdict() for row in found]
    for id_pa in unsaid:
        say(f"EC {printable(id_pa)}: its flows were never walked completely, so nothing can be said", err=True)
    _tell_limit(rows, limit)
    if _rows(rows, UNCREDITED, as_, italian):
        return
    if wide:
        cells = ([shown(row[name]) if name == "paid_at" else row[name] for name in UNCREDITED] for row in rows)
        table(UNCREDITED, cells, right=("amount", "id_transfer"))
    elif rows:
        table(
            ("paid (Italy)", "EC", "notice number", "PSP", "euro"),
            (
                (shown(row["paid_at"]), *(row[name] for name in ("id_pa", "notice_number", "id_psp", "amount")))
                for row in rows
            ),
            right=("euro",),
        )
    _total(rows, "transfer", "in no flow")


def _total(rows: Sequence[dict[str, Any]], noun: str, told: str) -> None:
    in_all = sum((row["amount"] for row in rows), Decimal())
    say(f"{counted(len(rows), noun)} {told}, {in_all:,.2f} euro")


def _tell_limit(rows: Sequence[dict[str, Any]], limit: int) -> None:
    if len(rows) == limit:
        say(f"there may be more than these: --limit is {limit}", err=True)
