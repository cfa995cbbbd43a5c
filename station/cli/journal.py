"""`station journal list|export`."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click

from station import export as exports
from station import journal as events
from station import store
from station.cli import Context, cli
from station.cli.options import TIMES, Moment, Notice, Number, Words, format_of, wide_option
from station.cli.output import say, say_csv, say_json, table
from station.clock import shown
from station.receipt import Source
from station.text import counted, printable

F = TypeVar("F", bound=Callable[..., Any])

_OUTCOMES = ("stored", "duplicate", "refused", events.DECLINED, events.FAILED)
_FILTERS = (
    click.option("--from", "at_from", type=Moment(), help="Started on or after this day or time."),
    click.option("--to", "at_to", type=Moment(end=True), help="Started by the end of this day, or before this time."),
    click.option("--ec", "id_pa", type=Number(), help="The EC (idPA)."),
    click.option("--iuv", type=Number(), help="IUV (creditorReferenceId)."),
    click.option("--notice", "notice_number", type=Notice(), help="Notice number, 18 digits, with or without blanks."),
    click.option("--receipt-id", type=Words(), help="receiptId, the payment token."),
    click.option("--outcome", type=click.Choice(_OUTCOMES), help="Its outcome."),
    click.option("--fault-code", type=Words(), help="Its fault code, for example PAA_SINTASSI_EXTRAXSD."),
    click.option("--operation", type=Words(), help="For example paSendRTV2, paVerifyPaymentNotice, getReceiptByIUV."),
    click.option(
        "--direction", type=click.Choice([*events.DIRECTIONS.values()]), help="Incoming, outgoing or internal."
    ),
    click.option("--source", type=click.Choice([source.value for source in Source]), help="Its source."),
)


def _filter_options(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _as_filter(context: Context, wanted: dict[str, Any]) -> store.ExchangeFilter:
    if not context.settings.journal.enabled:
        say("station: the journal is turned off (journal.enabled): older entries are shown", err=True)
    start, end = wanted["at_from"], wanted["at_to"]
    if start is not None and end is not None and end <= start:
        raise click.UsageError("--to is before --from")
    return store.ExchangeFilter(**wanted)


@cli.group()
def journal() -> None:
    """List and export the event journal (giornale degli eventi)."""


_COLUMNS = tuple(column for column in events.COLUMNS if column != "event_id")


@journal.command("list", epilog=TIMES)
@_filter_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum number of rows.")
@click.option("--after", "cursor", metavar="CURSOR", help="Show the next page: the cursor printed by the last one.")
@click.option("--oldest-first", is_flag=True, help="Oldest first; the default is latest first.")
@wide_option
@click.option("--json", "as_", flag_value="json", help="One JSON object per line; each has its `cursor`.")
@click.option("--csv", "as_", flag_value="csv", help="CSV, safe to open in a spreadsheet.")
@click.pass_obj
def list_(
    context: Context, /, limit: int, cursor: str | None, oldest_first: bool, wide: bool, as_: str | None, **wanted: Any
) -> None:
    """List exchanges, the latest first.

    Times are Italian in the table, UTC in JSON and CSV.

    \b
    Example:
      station journal list --notice "3010 0000 0000 0000 17"
      station journal list --from 01/07/2026 --to 31/07/2026 --outcome refused --ec 77777777777
      station journal list --from "01/07/2026 10:00" --to "01/07/2026 10:15" --json
    """
    condition = _as_filter(context, wanted)
    try:
        after = None if cursor is None else store.ExchangePosition.decode(cursor)
    except ValueError:
        raise click.UsageError("--after: not a cursor printed by this list") from None
    with store.transaction(context.engine(), readonly=True) as connection:
        store.be_patient(connection)
        rows = store.list_exchanges(connection, condition, after=after, newest_first=not oldest_first, limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    cursors = [store.ExchangePosition.of(row).encode() for row in rows]
    match as_:
        case "json":
            for row, its in zip(rows, cursors, strict=True):
                say_json({name: getattr(row, name) for name in _COLUMNS} | {"cursor": its})
        case "csv":
            say_csv(_COLUMNS, [row._asdict() for row in rows])
        case _ if rows:
            _print_table(rows, wide)
    if not rows:
        say("No exchange matches." if after is None else "No more exchanges.", err=True)
    elif more:
        say(f"more: --after {cursors[-1]}", err=True)


def _print_table(rows: Any, wide: bool) -> None:
    """The exchanges in columns that fit 80 characters, or in all of them."""
    right = ("HTTP", "ms")
    if wide:
        table(
            ("started (Italy)", "source", "operation", "EC", "notice number", "IUV", "receiptId", "outcome",
             "fault code", "HTTP", "ms"),
            ((shown(row.at), row.source, row.operation, row.id_pa, row.notice_number, row.iuv, row.receipt_id,
              row.outcome, row.fault_code, row.http_status, row.duration_ms) for row in rows),
            right=right,
        )  # fmt: skip
        return
    table(
        ("started (Italy)", "notice or IUV", "outcome", "HTTP", "fault code"),
        ((shown(row.at), row.notice_number or row.iuv, row.outcome, row.http_status, row.fault_code) for row in rows),
        right=right,
    )


@journal.command(epilog=TIMES)
@_filter_options
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]),
              help="Default: by the file's ending, otherwise csv.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def export(context: Context, /, file: Path, format_: str | None, overwrite: bool, **wanted: Any) -> None:
    """Write the matching events to FILE (- for standard output), with the fields that pagoPA asks for.

    An exchange with pagoPA is two events, request and response; a replay is one, internal. The oldest come first.
    The file gets its name when it is complete. The fields are described in docs/journal.md.

    \b
    Example:
      station journal export july.csv --from 2026-07-01 --to 2026-07-31 --ec 77777777777
      station journal export --format jsonl - --iuv 01000000000000017
    """
    condition = _as_filter(context, wanted)
    own_id = context.settings.own_id
    engine = context.engine()
    if str(file) != "-" and file.is_file() and not overwrite:
        raise click.UsageError(f"{printable(file)} already exists: add --overwrite to replace it")
    chosen = format_of(file, ("csv", "jsonl"), format_)
    count = 0
    try:
        with nullcontext(sys.stdout.buffer) if str(file) == "-" else exports.whole_file(file) as sink:
            writer = exports.JsonWriter(sink) if chosen == "jsonl" else exports.CsvWriter(sink, events.EVENT_FIELDS)
            for rows in exports.exchanges(engine, condition):
                found = [event for row in rows for event in events.events(row, own_id)]
                writer.write(found)
                count += len(found)
            writer.close()
            sink.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise click.ClickException(f"{printable(file)} cannot be written: {error.strerror}") from None
    say(counted(count, "event") + ("" if str(file) == "-" else f" written to {file}"), err=True)
