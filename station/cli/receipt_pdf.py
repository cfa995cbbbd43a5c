"""`station receipts pdf`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from station import export as exports
from station import store
from station.cli import Context
from station.cli.files import target, writing
from station.cli.options import TIMES, Words
from station.cli.output import say
from station.cli.search import as_filter, filter_options, one_receipt
from station.store import queries
from station.text import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from station.store.conditions import Filter


@click.command(epilog=TIMES)
@filter_options
@click.option("-o", "--output", "file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
              default="-", help="Write to this file. Default: standard output.")  # fmt: skip
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False),
              help="Write a PDF of each matching receipt to this folder.")  # fmt: skip
@click.option("--attach-xml", is_flag=True, help="Attach the XML as it was received.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.argument("receipt", required=False, metavar="[RECEIPT_ID]", type=Words())
@click.pass_obj
def pdf(
    context: Context,
    /,
    receipt: str | None,
    file: Path,
    folder: Path | None,
    attach_xml: bool,
    overwrite: bool,
    **fields: Any,
) -> None:
    """Write the printed copy of a receipt (copia analogica) as an accessible PDF in Italian.

    The same receipt gives the same bytes each time. With --folder all matching receipts are written, each to a file
    named by its EC and receiptId; a file that is there already is replaced. Exits 1 if a PDF could not be written.

    \b
    Example:
      station receipts pdf 64d17c29a7a84ae68f3d1e8f3e2b4c55 > receipt.pdf
      station receipts pdf --notice "3010 0000 0000 0000 17" -o receipt.pdf --attach-xml
      station receipts pdf --person PLLPNC80A01X000X --paid-from 01/01/2026 --folder copies/
    """
    from station import pdf as printed

    if receipt is not None:
        if fields["receipt_id"] is not None:
            raise click.UsageError("give the receiptId once: as argument or by --receipt-id")
        fields["receipt_id"] = receipt
    condition = as_filter(fields)

    def render(found: dict[str, Any]) -> bytes:
        return printed.render(context.settings, found, attach_xml=attach_xml)

    if folder is not None:
        if str(file) != "-":
            raise click.UsageError("give --output or --folder, not both")
        _write_all(context.engine(), condition, folder, render)
        return
    if all(value in (None, False) for value in fields.values()):
        raise click.UsageError("which receipt? Give its receiptId, --notice or --iuv, or --folder for several")
    if str(file) == "-" and sys.stdout.isatty():
        raise click.UsageError("a terminal cannot show a PDF: add -o receipt.pdf")
    with queries.reading(context.engine()) as connection:
        key = one_receipt(connection, condition)
        found = None if key is None else queries.find(connection, *key)
    if found is None:
        raise click.ClickException("no such receipt is stored (was it refused? See `station refused list --state all`)")
    content = render(found)
    with target(file, overwrite=overwrite) as sink:
        sink.write(content)


def _write_all(
    engine: store.Engine, condition: "Filter", folder: Path, render: "Callable[[dict[str, Any]], bytes]"
) -> None:
    from station.pdf import PdfError
    from station.retry import read
    from station.stamps import safe_name

    count, failed = 0, 0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for batch in exports.batches(engine, condition):
            for one in batch:
                found = read(engine, queries.find, one["id_pa"], one["receipt_id"])
                try:
                    content = render(found or one)
                except PdfError as error:
                    say(f"station: {error}", err=True)
                    failed += 1
                    continue
                name = f"{safe_name(one['id_pa'])}_{safe_name(one['receipt_id'])}.pdf"
                with exports.whole_file(folder / name) as sink:
                    sink.write(content)
                count += 1
    told = f"{counted(count, 'PDF')} in {printable(folder)}"
    say(told + (f", {counted(failed, 'receipt')} failed" * bool(failed)), err=True)
    if failed:
        raise click.exceptions.Exit(1)
