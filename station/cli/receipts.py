"""`station receipts list|show`."""

import json
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from station import store
from station.cli import Context, cli
from station.receipt import Flag, Source


def as_json(value: Any) -> str:
    """One line of JSON: times in ISO 8601, amounts as text so that they stay exact, bytes in hex."""

    def convert(one: Any) -> Any:
        match one:
            case datetime() | date():
                return one.isoformat()
            case Decimal():
                return str(one)
            case bytes():
                return one.hex()
        raise TypeError(type(one).__name__)

    return json.dumps(value, ensure_ascii=False, default=convert)


@cli.group()
def receipts() -> None:
    """Look at the stored receipts."""


@receipts.command("list")
@click.option("--ec", "id_pa", help="The EC the copy is for (idPA).")
@click.option("--iuv", help="IUV (creditorReferenceId).")
@click.option("--notice", "notice_number", help="Notice number, 18 digits.")
@click.option("--receipt-id", help="receiptId, the payment token.")
@click.option("--station", "id_station", help="A station it came by.")
@click.option("--flag", type=click.Choice([flag.value for flag in Flag]), help="An oddity it was flagged with.")
@click.option("--source", type=click.Choice([source.value for source in Source]), help="The door it came by.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="How many at most.")
@click.option("--json", "json_lines", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def list_(context: Context, limit: int, json_lines: bool, **wanted: Any) -> None:
    """List receipts, the latest arrival first.

    \b
    Example:
      station receipts list --notice 301000000000000017
      station receipts list --flag second_receipt --json
    """
    condition = replace(store.Filter(), **wanted)
    with store.transaction(context.engine(), readonly=True) as connection:
        rows = store.list_receipts(connection, condition, limit=limit)
        flags = store.flags_of(connection, [(row.id_pa, row.receipt_id) for row in rows])
    shown = [{**row._mapping, "flags": flags.get((row.id_pa, row.receipt_id), [])} for row in rows]
    if json_lines:
        for one in shown:
            click.echo(as_json(one))
        return
    table = Table(box=None)
    for title in ("received (UTC)", "EC", "notice number", "IUV", "receiptId", "euro", "resends", "flags"):
        table.add_column(title, justify="right" if title in ("euro", "resends") else "left", overflow="fold")
    for one in shown:
        table.add_row(
            f"{one['received_at']:%Y-%m-%d %H:%M:%S}",
            one["id_pa"],
            one["notice_number"],
            one["iuv"],
            one["receipt_id"],
            str(one["amount"]),
            str(one["resends"]),
            ", ".join(one["flags"]),
        )
    console = Console()
    if not console.is_terminal:
        console.width = 250
    console.print(table)
    if not shown:
        click.echo("no receipt fits", err=True)


@receipts.command()
@click.argument("receipt_id")
@click.option("--ec", "id_pa", help="The EC the copy is for (idPA), where several ECs have a copy.")
@click.option("--xml", is_flag=True, help="The exact bytes that were received, and nothing else.")
@click.option("--json", "as_line", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(context: Context, receipt_id: str, id_pa: str | None, xml: bool, as_line: bool) -> None:
    """Show one receipt with everything that is known of it.

    \b
    Example:
      station receipts show 64d17c29a7a84ae68f3d1e8f3e2b4c55
      station receipts show 64d17c29a7a84ae68f3d1e8f3e2b4c55 --xml > receipt.xml
    """
    with store.transaction(context.engine(), readonly=True) as connection:
        copies = store.list_receipts(connection, store.Filter(id_pa=id_pa, receipt_id=receipt_id))
        if not copies:
            whose = f" for EC {id_pa}" if id_pa else ""
            raise click.ClickException(f"no receipt with receiptId {receipt_id}{whose}")
        if len(copies) > 1:
            raise click.UsageError(f"several ECs have a copy: add --ec {' or --ec '.join(row.id_pa for row in copies)}")
        found = store.find(connection, copies[0].id_pa, receipt_id)
    if found is None:  # purged between the two queries
        raise click.ClickException(f"no receipt with receiptId {receipt_id}")
    raw = found.pop("raw")
    if xml:
        click.get_binary_stream("stdout").write(raw)
        return
    if as_line:
        click.echo(as_json(found))
        return
    for name, value in found.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            for number, part in enumerate(value, start=1):
                click.echo(f"{name} {number}")
                for key, inner in part.items():
                    _line(key, inner, indent="    ")
        else:
            _line(name, value)


def _line(name: str, value: Any, indent: str = "") -> None:
    if value is None or value == []:
        return
    text = as_json(value) if isinstance(value, list | dict) else as_json(value).strip('"')
    click.echo(f"{indent}{name:<{26 - len(indent)}} {text}")
