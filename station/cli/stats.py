"""`station stats`."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from station import export, statistics
from station.cli import Context, cli
from station.cli.options import Days, format_of
from station.cli.search import ROME, Moment, Words, local
from station.log import printable
from station.statistics.charts import duration
from station.statistics.page import page

_MOST_DAYS = 3700


@cli.command()
@click.option("--from", "start", type=Moment(), help="From this day or time on. Default: 30 days, with today.")
@click.option("--to", "end", type=Moment(end=True), help="Up to the end of this day, or before then. Default: now.")
@click.option("--ec", "id_pa", type=Words(), help="This EC alone (idPA).")
@click.option("--silent-after", type=Days(), default=3, show_default=True, metavar="DAYS",
              help="How many days without a push are a silence.")  # fmt: skip
@click.option("--detail", is_flag=True, help="A line for each day and EC, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything, each day and EC too.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a page with charts to FILE (replacing it), that can be mailed as it is.")  # fmt: skip
@click.pass_obj
def stats(
    context: Context,
    /,
    start: datetime | None,
    end: datetime | None,
    id_pa: str | None,
    silent_after: float,
    detail: bool,
    as_json: bool,
    html: Path | None,
) -> None:
    """Count receipts and refusals per day and EC; by which door, how late, and which EC is silent.

    Days are Italian civil days, and count when a receipt arrived. No names or fiscal codes of people are in it.

    \b
    Example:
      station stats
      station stats --from 2026-07-01 --to 2026-07-31 --html july.html
      station stats --json | jq '.ecs[] | select(.silent)'
    """
    if html is not None:
        format_of(html, ("html",))
    now = datetime.now(UTC)
    end = end or now
    if start is None:
        try:
            first = (end - timedelta(microseconds=1)).astimezone(ROME).date() - timedelta(days=29)
            start = datetime(first.year, first.month, first.day, tzinfo=ROME).astimezone(UTC)
        except OverflowError:
            raise click.UsageError("--to is too early") from None
    if end <= start:
        raise click.UsageError("--to is not after --from")
    if (end - start).days > _MOST_DAYS:
        raise click.UsageError("that is more than ten years: ask for less at once")
    found = statistics.collect(
        context.engine(), context.settings, start, end, id_pa=id_pa, silent_after=timedelta(days=silent_after), now=now
    )
    if html is not None:
        try:
            with export.whole_file(html) as sink:
                sink.write(page(found).encode())
        except OSError as error:
            raise click.ClickException(f"{html} cannot be written: {error.strerror}") from None
        click.echo(f"written to {html}", err=True)
    if as_json:
        click.echo(export.as_json(found.as_dict()))
    elif html is None:
        _print(found, detail)


def _print(found: statistics.Statistics, detail: bool) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 250
    total = found.total
    console.print(
        f"{total.receipts:,} receipts from {local(found.start)} to {local(found.end)} (Italy),"
        f" {total.amount:,.2f} euro; {total.refused:,} requests refused, {total.refused_open:,} still open"
    )
    by_ec = _table("EC", "name", *_TALLY, "median", "95 % within", "worst", "last push (Italy)")
    for ec in found.ecs:
        delays = (ec.delay.percentile(0.5), ec.delay.percentile(0.95), ec.delay.worst)
        _row(
            by_ec,
            ec.id_pa or "(none)",
            ec.name,
            *_cells(ec.tally),
            *map(duration, delays),
            local(ec.last_push) or "never",
        )
    by_day = _table("day", *_TALLY)
    for day in found.days:
        _row(by_day, str(day), *_cells(found.by_day[day]))
    for table in (by_ec, by_day):
        console.print()
        console.print(table)
    if detail:
        each = _table("day", "EC", *_TALLY)
        for (day, id_pa), tally in sorted(found.cells.items()):
            _row(each, str(day), id_pa or "(none)", *_cells(tally))
        console.print()
        console.print(each)
    console.print()
    for source, delay in found.by_source.items():
        if delay.steps:
            console.print(
                f"from payment to arrival by {source}: median {duration(delay.percentile(0.5))},"
                f" 95 % within {duration(delay.percentile(0.95))}, worst {duration(delay.worst)}"
            )
    for ec in found.silences:
        since = f"since {local(ec.last_push)} (Italy)" if ec.last_push else "ever"
        name = f" ({ec.name})" if ec.name else ""
        console.print(Text(printable(f"SILENT  EC {ec.id_pa}{name} has had no push {since}"), style="bold red"))


_TALLY = ("receipts", "push", "reconcile", "replay", "by push", "euro", "refused", "open")


def _cells(tally: statistics.Tally) -> list[str]:
    share = tally.share("push")
    return [
        f"{tally.receipts:,}",
        *(f"{tally.by_source[source]:,}" for source in statistics.SOURCES),
        "" if share is None else f"{share:.1%}",
        f"{tally.amount:,.2f}",
        f"{tally.refused:,}",
        f"{tally.refused_open:,}",
    ]


def _table(*titles: str) -> Table:
    table = Table(box=None)
    for title in titles:
        left = title in ("EC", "name", "day") or title.startswith("last")
        table.add_column(title, justify="left" if left else "right")
    return table


def _row(table: Table, *cells: Any) -> None:
    table.add_row(*(Text(printable(str(cell))) for cell in cells))
