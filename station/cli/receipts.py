"""`station receipts list|show|export|stamps`; `pdf` is in `receipt_pdf`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from station import columns, store
from station import export as exports
from station.cli import Context, cli
from station.cli.files import format_of, target, writing
from station.cli.options import NOTICE_DIGITS, TIMES, Notice, Number, Words, list_options
from station.cli.output import say, say_csv, say_json, table
from station.cli.receipt_pdf import pdf
from station.cli.search import as_filter, before_last_minute, filter_options, odd_fiscal_code, one_receipt
from station.clock import shown
from station.export import Format
from station.receipt import Source, iuv_of_notice
from station.store import queries
from station.store.conditions import ORDERS, Filter
from station.store.paging import Cursor
from station.text import counted, printable


@cli.group()
def receipts() -> None:
    """List, show and export stored receipts."""


receipts.add_command(pdf)


@receipts.command("list", epilog=TIMES)
@filter_options
@list_options
@click.pass_obj
def list_(context: Context, /, limit: int, cursor: str | None, wide: bool, as_: str | None, **fields: Any) -> None:
    """List receipts, latest first: by payment if you filter by payment date, otherwise by arrival.

    Times are Italian in the table, UTC in JSON and CSV.

    \b
    Example:
      station receipts list --notice "3010 0000 0000 0000 17"
      station receipts list --person PLLPNC80A01X000X --paid-from 01/07/2026 --paid-to 31/07/2026
      station receipts list --name "pallino" --paid-from 01/07/2026 --paid-to 31/07/2026
      station receipts list --flag second_receipt --json
    """
    condition = as_filter(fields)
    after = None if cursor is None else _cursor(cursor, condition.order)
    with queries.reading(context.engine()) as connection:
        rows = queries.list_receipts(connection, condition, after=after, limit=limit + 1)
        more, rows = len(rows) > limit, rows[:limit]
        flags = queries.flags_of(connection, [(row.id_pa, row.receipt_id) for row in rows])
        total = queries.total(connection, condition) if (more or after) and rows and not as_ else None
    listed = [row._asdict() | {"flags": flags.get((row.id_pa, row.receipt_id), [])} for row in rows]
    cursors = [Cursor.of(condition.order, row).encode() for row in rows]
    match as_:
        case "json":
            for receipt, its_cursor in zip(listed, cursors, strict=True):
                say_json(receipt | {"cursor": its_cursor})
        case "csv":
            say_csv((*queries.LISTED, "flags"), listed)
        case _ if listed:
            _print_table(listed, condition.order, wide)
            if not more and after is None:
                total = len(listed), sum((receipt["amount"] for receipt in listed), Decimal())
            if total is not None:
                in_all = " in total" if more or after else ""
                say(f"{counted(total[0], 'receipt')}{in_all}, {total[1]:,.2f} euro")
    if more:
        say(f"more: --after {cursors[-1]}", err=True)
    elif not listed:
        say("No receipt matches." if after is None else "No more receipts.", err=True)
        if remark := odd_fiscal_code(condition):
            say(remark, err=True)
        if condition.notice_number or condition.iuv:
            only = context.settings.ec[0].id if len(context.settings.ec) == 1 else "EC"
            for line in _elsewhere(condition, condition.id_pa or only):
                say(line, err=True)


def _cursor(word: str, order: str) -> Cursor:
    try:
        cursor = Cursor.decode(word, ORDERS, str)
    except ValueError:
        raise click.UsageError("--after: not a cursor printed by this list") from None
    if cursor.order != order:
        raise click.UsageError(
            "--after: this cursor belongs to a list in another order (with or without payment dates)"
        )
    return cursor


def _elsewhere(condition: Filter, ec: str) -> Iterator[str]:
    """Name where else the receipt of an EC can be that a notice number or IUV should have found."""
    notice, iuv = condition.notice_number, condition.iuv
    yield "Where else to look:"
    if not notice and iuv and len(iuv) == NOTICE_DIGITS and iuv.isdecimal():
        yield f"  station receipts list --notice {iuv}  (a number of {NOTICE_DIGITS} digits is a notice number)"
        return
    by = f"--notice {notice}" if notice else f"--iuv {iuv}"
    yield f"  station refused list --state all {by}"
    yield f"  station journal list {by}"
    if iuv := iuv or (iuv_of_notice(notice) if notice else None):
        yield f"  station reconcile --iuv {iuv} --ec {ec}"


def _print_table(listed: list[dict[str, Any]], order: str, wide: bool) -> None:
    """Print receipts in columns that fit 80 characters, or in all of them."""
    shown_by: dict[str, Callable[[dict[str, Any]], Any]] = {
        "received (Italy)": lambda receipt: shown(receipt["received_at"]),
        "paid (Italy)": lambda receipt: shown(receipt["payment_date_time"]),
        "EC": lambda receipt: receipt["id_pa"],
        "notice number": lambda receipt: receipt["notice_number"],
        "IUV": lambda receipt: receipt["iuv"],
        "receiptId": lambda receipt: receipt["receipt_id"],
        "debtor": lambda receipt: receipt["debtor_id"],
        "debtor's name": lambda receipt: receipt["debtor_name"],
        "euro": lambda receipt: receipt["amount"],
        "PSP": lambda receipt: receipt["id_psp"],
        "flags": lambda receipt: ", ".join(receipt["flags"]),
    }
    at = "received (Italy)" if order == "received_at" else "paid (Italy)"
    titles = tuple(shown_by) if wide else (at, "EC", "notice number", "debtor", "euro")
    table(titles, ([shown_by[title](receipt) for title in titles] for receipt in listed), right=("euro",))


@receipts.command()
@click.argument("receipt_id", required=False, type=Words())
@click.option("--notice", "notice_number", type=Notice(), help="By notice number instead of receiptId.")
@click.option("--iuv", type=Number(), help="By IUV instead of receiptId.")
@click.option("--ec", "id_pa", type=Number(), help="The EC of the copy (idPA), if several ECs have one.")
@click.option("--xml", is_flag=True, help="Print only the exact bytes that were received: of the fullest document.")
@click.option("--all", "all_documents", is_flag=True, help="Print each document of the receipt, with its arrival.")
@click.option("--json", "as_line", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(context: Context, /, xml: bool, all_documents: bool, as_line: bool, **by: str | None) -> None:
    """Show everything that is stored about one receipt.

    \b
    Example:
      station receipts show 64d17c29a7a84ae68f3d1e8f3e2b4c55
      station receipts show --notice 301000000000000017
      station receipts show 64d17c29a7a84ae68f3d1e8f3e2b4c55 --xml > receipt.xml
      station receipts show 64d17c29a7a84ae68f3d1e8f3e2b4c55 --all
    """
    xml = xml or all_documents
    if not any(by[name] for name in ("receipt_id", "notice_number", "iuv")):
        raise click.UsageError("which receipt? Give its receiptId, --notice or --iuv")
    with store.transaction(context.engine(), readonly=True) as connection:
        chosen = one_receipt(connection, store.Filter(**by))  # type: ignore[arg-type]  # text all
        found = None if chosen is None else store.find(connection, *chosen)
        if found is not None:
            found["same_notice"] = store.same_notice(connection, found)
            found["documents"] = store.documents_of(connection, found["id_pa"], found["receipt_id"])
            key = found["id_pa"], found["receipt_id"]
            wanted = found["documents"] if all_documents else [one for one in found["documents"] if one["fullest"]]
            raws = [store.document_bytes(connection, *key, one["number"])[0] for one in wanted] if xml else []
    if found is None:
        raise click.ClickException("no such receipt is stored (was it refused? See `station refused list --state all`)")
    size = len(found.pop("raw"))
    if xml:
        if found["source"] == Source.BIZEVENTS and not all_documents:
            raise click.ClickException(
                "there is no XML: the receipt is provisional, BizEvents told of it and its document has not come yet"
                " (--all prints BizEvents' JSON)"
            )
        if not size:
            raise click.ClickException(f"the document was purged at {shown(found['raw_purged_at'])} (Italy)")
        for one, raw in zip(wanted, raws, strict=True):
            if all_documents:
                say(f"<!-- {_arrival(one)} -->")
            sys.stdout.flush()
            sys.stdout.buffer.write(raw + b"\n" * (all_documents and not raw.endswith(b"\n")))
            sys.stdout.buffer.flush()
    elif as_line:
        say_json(found)
    else:
        for line in _described(found, size):
            say(line)


# What `show` prints, in groups; whatever is not named here follows at the end, so that nothing is left out.
_GROUPS = {
    "receipt": (
        "receipt_id", "id_pa", "notice_number", "iuv", "fiscal_code", "company_name", "office_name", "description",
        "outcome", "amount", "fee", "primary_ci_incurred_fee", "flags",
    ),
    "payment": (
        "payment_date_time", "application_date", "transfer_date", "payment_method", "payment_note", "id_psp",
        "psp_company_name", "psp_fiscal_code", "psp_partita_iva", "id_channel", "channel_description",
    ),
    "people": ("debtor_type", "debtor_id", "debtor_name", "payer_type", "payer_id", "payer_name"),
    "arrival": ("received_at", "source", "id_broker_pa", "id_station", "resends", "last_resend_at"),
}  # fmt: skip


def _arrival(document: dict[str, Any]) -> str:
    """Return one line about a document of a receipt: when it came, by which door, and whether it is the fullest."""
    fullest = ", the fullest" if document["fullest"] else ""
    return (
        f"document {document['number']}: {shown(document['received_at'])} (Italy), {document['source']}, "
        f"version {document['version']}, {document['size']} bytes{fullest}"
    )


def _described(found: dict[str, Any], size: int) -> Iterator[str]:
    lists = {name: found.pop(name) for name in ("same_notice", "transfers", "routes")}
    documents = found.pop("documents")
    groups = {title: {name: found.pop(name) for name in names} for title, names in _GROUPS.items()}
    for number, other in enumerate(lists["same_notice"], start=1):
        groups[f"other payment of this notice, number {number}"] = other
    for number, transfer in enumerate(lists["transfers"], start=1):
        groups[f"transfer {number}"] = {name: value for name, value in transfer.items() if name != "position"}
    for number, route in enumerate(lists["routes"], start=1):
        groups[f"other station it arrived by, number {number}"] = route
    groups["document"] = found | {"bytes": size}
    if len(documents) > 1:
        yield f"{len(documents)} documents: the values below are what they say together"
        yield from (f"    {_arrival(one)}" for one in documents)
    for title, fields in groups.items():
        yield title
        for name, value in fields.items():
            if value is not None and value != []:
                yield f"    {name:<24} {_readable(value)}"


def _readable(value: Any) -> str:
    match value:
        case datetime():
            return f"{shown(value)} (Italy)"
        case date():
            return shown(value)
        case bool():
            return "yes" if value else "no"
        case bytes():
            return value.hex()
        case list():
            return ", ".join(entry if isinstance(entry, str) else " = ".join(entry) for entry in value)
    return str(value)


@receipts.command()
@filter_options
@click.option("--format", "format_", type=click.Choice([format_.value for format_ in Format]),
              help="Default: by the file's ending, otherwise csv.")  # fmt: skip
@click.option("--xlsx", "format_", flag_value="xlsx", help="An Excel workbook: the same as --format xlsx.")
@click.option("--italian", is_flag=True, help="CSV for an Italian spreadsheet program, with Italian titles and times.")
@click.option("--transfers", is_flag=True, help="A row for each transfer instead of each receipt: for bookkeeping.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def export(
    context: Context, /, file: Path, format_: str | None, italian: bool, transfers: bool, overwrite: bool, **fields: Any
) -> None:
    """Write all matching receipts to FILE (- for standard output), oldest first, with everything but the XML.

    Times are Italian in Excel workbooks and with --italian, otherwise UTC. The file gets its name when it is complete,
    and only its owner may read it. The columns are described in docs/receipts.md. For a program that must get each
    receipt once, a destination is made (docs/delivery-folder.md): a receipt that is stored late would be missed.

    \b
    Example:
      station receipts export july.xlsx --ec 77777777777 --paid-from 2026-07-01 --paid-to 2026-07-31
      station receipts export july.csv --italian --paid-from 2026-07-01 --paid-to 2026-07-31
      station receipts export --transfers july.xlsx --paid-from 2026-07-01 --paid-to 2026-07-31
      station receipts export --format jsonl - --received-from 2026-07-01 | gzip > july.jsonl.gz
      station receipts export everything.parquet
    """
    condition = before_last_minute(as_filter(fields))
    chosen = Format(format_of(file, list(Format), format_))
    if italian and chosen not in (Format.CSV, Format.XLSX):
        raise click.UsageError("--italian is for CSV; a workbook (.xlsx) is always in Italian")
    if str(file) == "-" and chosen in (Format.PARQUET, Format.XLSX) and sys.stdout.isatty():
        raise click.UsageError(f"a terminal cannot show {chosen.value}: give a file")
    if not file.parent.is_dir():
        raise click.UsageError(f"{printable(file.parent)} is not a folder")
    engine = context.engine()
    of_transfer = columns.TRANSFER_ROW if transfers else None
    with target(file, overwrite=overwrite) as sink:
        writer: exports.CsvWriter | exports.JsonWriter | exports.ParquetWriter | exports.XlsxWriter
        match chosen:
            case Format.CSV:
                titles = [*map(columns.title, columns.TRANSFER_ROW)] if transfers and italian else None
                writer = exports.CsvWriter(sink, of_transfer, titles=titles, italian=italian)
            case Format.JSONL:
                writer = exports.JsonWriter(sink)
            case Format.PARQUET:
                writer = exports.ParquetWriter(sink, *([of_transfer] if of_transfer else []))
            case Format.XLSX:
                beside = str(file) != "-" and exports.replaceable(file)
                writer = exports.XlsxWriter(sink, file.resolve().parent if beside else None, columns=of_transfer)
        count = rows = 0
        with _progress(lambda: exports.last(engine, condition)) as advance:
            for batch in exports.batches(engine, condition):
                written = exports.transfers_of(batch) if transfers else batch
                writer.write(written)
                rows += len(written)
                count += len(batch)
                advance(batch[0][condition.order], batch[-1][condition.order], count)
        writer.close()
    of = f"{counted(rows, 'transfer')} of " if transfers else ""
    say(f"{of}{counted(count, 'receipt')}" + ("" if str(file) == "-" else f" written to {file}"), err=True)
    if isinstance(writer, exports.XlsxWriter):
        if writer.sheets > 1:
            most = exports.SHEET_ROWS - 1
            say(f"in {writer.sheets} sheets, since a sheet holds at most {most:,} rows", err=True)
        if writer.cut:
            cut = counted(writer.cut, "text")
            say(f"{cut} cut to the 32,767 characters that a cell can hold: JSON lines have the whole text", err=True)


@contextmanager
def _progress(last: Callable[[], datetime | None]) -> Iterator[Callable[[datetime, datetime, int], None]]:
    """Show a progress bar on a terminal, by the receipts' times: counting them first would take long, too."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    end = last() if console.is_terminal else None
    if end is None:
        yield lambda *_: None
        return
    parts = (SpinnerColumn(), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[told]}"))
    with Progress(*parts, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=1.0, told="")
        start: list[datetime] = []

        def advance(first: datetime, reached: datetime, count: int) -> None:
            start.append(first)
            span = (end - start[0]).total_seconds()
            done = (reached - start[0]).total_seconds() / span if span > 0 else 1.0
            progress.update(task, completed=min(done, 1.0), told=counted(count, "receipt"))

        yield advance
        progress.update(task, completed=1.0)


@receipts.command()
@filter_options
@click.option("--manifest", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True,
              help="The format of the manifest.")  # fmt: skip
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.pass_obj
def stamps(context: Context, /, folder: Path, manifest: str, **fields: Any) -> None:
    """Write the digital stamps (marca da bollo digitale) of receipts to files in FOLDER, with a manifest.

    Each file holds the stamp as it was received; manifest.csv or manifest.jsonl names its receipt and its SHA-256.
    Existing files stay; the manifest lists those of this run. Exits 1 if a stamp could not be written.

    \b
    Example:
      station receipts stamps stamps/ --ec 77777777777 --paid-from 2026-07-01 --paid-to 2026-07-31
    """
    from station import stamps as digital_stamps

    condition = before_last_minute(as_filter(fields))
    engine = context.engine()
    count, failed = 0, 0
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with exports.whole_file(folder / f"manifest.{manifest}") as sink:
            writer = exports.CsvWriter(sink, digital_stamps.COLUMNS) if manifest == "csv" else exports.JsonWriter(sink)
            for stamp in digital_stamps.extract(engine, condition, folder):
                if isinstance(stamp, digital_stamps.Stamp):
                    writer.write([asdict(stamp)])
                    count += 1
                else:
                    say(f"station: {stamp}", err=True)
                    failed += 1
            writer.close()
    say(f"{counted(count, 'stamp')} in {folder}" + (f", {counted(failed, 'receipt')} failed" * bool(failed)), err=True)
    if failed:
        raise click.exceptions.Exit(1)
