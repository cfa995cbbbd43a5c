"""`station journal list|export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from station import export as exports
from station import journal as events
from station.cli import Context, cli
from station.cli.files import format_of, target
from station.cli.options import TIMES, EcId, Moment, Notice, Number, Words, list_options, options
from station.cli.output import say, say_csv, say_json, table
from station.clock import shown
from station.store import queries
from station.store.journal import ExchangeFilter, list_exchanges
from station.store.paging import Cursor
from station.text import counted

_OUTCOMES = ("stored", "duplicate", "refused", events.DECLINED, events.FAILED, events.DELIVERED)
_COLUMNS = tuple(column for column in events.COLUMNS if column != "event_id")

_filter_options = options(
    click.option("--from", "at_from", type=Moment(), help="Started on or after this day or time."),
    click.option("--to", "at_to", type=Moment(end=True), help="Started by the end of this day, or before this time."),
    click.option("--ec", "id_pa", type=EcId(), help="The EC (idPA)."),
    click.option("--iuv", type=Number(), help="IUV (creditorReferenceId)."),
    click.option("--notice", "notice_number", type=Notice(), help="Notice number, 18 digits, with or without blanks."),
    click.option("--receipt-id", type=Words(), help="receiptId, the payment token."),
    click.option("--outcome", type=click.Choice(_OUTCOMES), help="Its outcome."),
    click.option("--fault-code", type=Words(), help="Its fault code, for example PAA_SINTASSI_EXTRAXSD."),
    click.option("--operation", type=Words(), help="For example paSendRTV2, paVerifyPaymentNotice, getReceiptByIUV."),
    click.option(
        "--direction",
        type=click.Choice([*dict.fromkeys(events.DIRECTIONS.values())]),
        help="Incoming, outgoing or internal.",
    ),
    click.option("--source", type=click.Choice(events.SOURCES), help="Its source."),
)


def _as_filter(context: Context, fields: dict[str, Any]) -> ExchangeFilter:
    if not context.settings.journal.enabled:
        say("station: the journal is turned off (journal.enabled): older entries are shown", err=True)
    start, end = fields["at_from"], fields["at_to"]
    if start is not None and end is not None and end <= start:
        raise click.UsageError("--to is before --from")
    return ExchangeFilter(**fields)


@cli.group()
def journal() -> None:
    """List and export the event journal (giornale degli eventi)."""


@journal.command("list", epilog=TIMES)
@_filter_options
@click.option("--oldest-first", is_flag=True, help="Oldest first; the default is latest first.")
@list_options
@click.pass_obj
def list_(
    context: Context, /, limit: int, cursor: str | None, oldest_first: bool, wide: bool, as_: str | None, **fields: Any
) -> None:
    """List exchanges, the latest first.

    Times are Italian in the table, UTC in JSON and CSV.

    \b
    Example:
      station journal list --notice "3010 0000 0000 0000 17"
      station journal list --from 01/07/2026 --to 31/07/2026 --outcome refused --ec 77777777777
      station journal list --from "01/07/2026 10:00" --to "01/07/2026 10:15" --json
    """
    condition = _as_filter(context, fields)
    try:
        after = None if cursor is None else Cursor.decode(cursor, ("at",), int)
    except ValueError:
        raise click.UsageError("--after: not a cursor printed by this list") from None
    with queries.reading(context.engine()) as connection:
        rows = list_exchanges(connection, condition, after=after, newest_first=not oldest_first, limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    cursors = [Cursor.of("at", row, "event_id").encode() for row in rows]
    match as_:
        case "json":
            for row, its_cursor in zip(rows, cursors, strict=True):
                say_json({name: getattr(row, name) for name in _COLUMNS} | {"cursor": its_cursor})
        case "csv":
            say_csv(_COLUMNS, [row._asdict() for row in rows])
        case _ if rows:
            _print_table(rows, wide)
    if not rows:
        say("No exchange matches." if after is None else "No more exchanges.", err=True)
    elif more:
        say(f"more: --after {cursors[-1]}", err=True)


def _print_table(rows: Any, wide: bool) -> None:
    """Print exchanges in columns that fit 80 characters, or in all of them."""
    columns: dict[str, Callable[[Any], Any]] = {
        "started (Italy)": lambda row: shown(row.at),
        "source": lambda row: row.source,
        "operation": lambda row: row.operation,
        "EC": lambda row: row.id_pa,
        "notice number": lambda row: row.notice_number,
        "IUV": lambda row: row.iuv,
        "notice or IUV": lambda row: row.notice_number or row.iuv,
        "receiptId": lambda row: row.receipt_id,
        "outcome": lambda row: row.outcome,
        "fault code": lambda row: row.fault_code,
        "HTTP": lambda row: row.http_status,
        "ms": lambda row: row.duration_ms,
    }
    titles: tuple[str, ...] = ("started (Italy)", "notice or IUV", "outcome", "HTTP", "fault code")
    if wide:
        titles = tuple(title for title in columns if title != "notice or IUV")
    table(titles, ([columns[title](row) for title in titles] for row in rows), right=("HTTP", "ms"))


@journal.command(epilog=TIMES)
@_filter_options
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]),
              help="Default: by the file's ending, otherwise csv.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def export(context: Context, /, file: Path, format_: str | None, overwrite: bool, **fields: Any) -> None:
    """Write the matching events to FILE (- for standard output), with the fields that pagoPA asks for.

    An exchange with pagoPA is two events, request and response; a replay is one, internal; a delivery to a system
    of the EC is none. The oldest come first.
    The file gets its name when it is complete. The fields are described in docs/journal.md.

    \b
    Example:
      station journal export july.csv --from 2026-07-01 --to 2026-07-31 --ec 77777777777
      station journal export --format jsonl - --iuv 01000000000000017
    """
    condition = _as_filter(context, fields)
    own_id = context.settings.own_id
    engine = context.engine()
    chosen = format_of(file, ("csv", "jsonl"), format_)
    count = 0
    with target(file, overwrite=overwrite) as sink:
        writer = exports.JsonWriter(sink) if chosen == "jsonl" else exports.CsvWriter(sink, events.EVENT_FIELDS)
        for rows in exports.exchanges(engine, condition):
            exported = [event for row in rows for event in events.events(row, own_id)]
            writer.write(exported)
            count += len(exported)
        writer.close()
    say(counted(count, "event") + ("" if str(file) == "-" else f" written to {file}"), err=True)
