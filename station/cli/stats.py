"""`station stats`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from station import export, statistics
from station.cli import Context, cli
from station.cli.options import TIMES, Days, Moment, Number, format_of
from station.cli.output import say, say_json, table
from station.clock import ROME, shown
from station.statistics.charts import duration
from station.statistics.page import page
from station.text import counted, printable

_MOST_DAYS = 3700


@cli.command(epilog=TIMES)
@click.option(
    "--from", "start", type=Moment(), help="From this day or time on. Default: the last 30 days, including today."
)
@click.option(
    "--to", "end", type=Moment(end=True), help="Up to the end of this day, or before this time. Default: now."
)
@click.option("--ec", "id_pa", type=Number(), help="Only this EC (idPA).")
@click.option("--silent-after", type=Days(), default=3, show_default=True, metavar="DAYS",
              help="Days without a push after which an EC is silent.")  # fmt: skip
@click.option("--detail", is_flag=True, help="Add a line for each day and EC.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with everything, including each day and EC.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a page with charts, ready to mail, to FILE (replacing it).")  # fmt: skip
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
    """Count receipts and refusals per day and EC, by source, with delays and silent ECs.

    Days are Italian civil days: of arrival and, in separate tables, of payment. The output holds no names or fiscal
    codes of people.

    \b
    Example:
      station stats
      station stats --from 01/07/2026 --to 31/07/2026 --html july.html
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
        raise click.UsageError("that is more than ten years: choose a shorter period")
    found = statistics.collect(
        context.engine(), context.settings, start, end, id_pa=id_pa, silent_after=timedelta(days=silent_after), now=now
    )
    if html is not None:
        try:
            with export.whole_file(html) as sink:
                sink.write(page(found).encode())
        except OSError as error:
            raise click.ClickException(f"{printable(html)} cannot be written: {error.strerror}") from None
        say(f"written to {html}", err=True)
    if as_json:
        say_json(found.as_dict())
    elif html is None:
        _print(found, detail)


def _print(found: statistics.Statistics, detail: bool) -> None:
    total, paid = found.total, found.paid_total
    say(f"from {shown(found.start)} to {shown(found.end)} (Italy):")
    say(
        f"arrived: {counted(total.receipts, 'receipt')}, {total.amount:,.2f} euro;"
        f" {counted(total.refused, 'request')} refused, {total.refused_open:,} still open"
    )
    say(f"paid: {counted(paid.receipts, 'receipt')}, {paid.amount:,.2f} euro")
    by_ec = []
    for ec in found.ecs:
        delays = (ec.delay.percentile(0.5), ec.delay.percentile(0.95), ec.delay.worst)
        by_ec.append((ec.id_pa or "(none)", ec.name, *_cells(ec.tally), *map(duration, delays), _last(ec.last_push)))
    _table(("EC", "name", *_TALLY, "median", "95 % within", "worst", "last push (Italy)"), by_ec)
    days = filter(found.by_day.get, found.days)
    _table(("day of arrival", *_TALLY), [(shown(day), *_cells(found.by_day[day])) for day in days])
    days = filter(found.paid.get, found.days)
    _table(("day of payment", *_PAID), [(shown(day), *_paid(found.paid[day])) for day in days])
    if detail:
        cells, paid_cells = sorted(found.cells.items()), sorted(found.paid_cells.items())
        each = [(shown(day), id_pa or "(none)", *_cells(tally)) for (day, id_pa), tally in cells]
        _table(("day of arrival", "EC", *_TALLY), each)
        _table(
            ("day of payment", "EC", *_PAID), [(shown(day), id_pa, *_paid(tally)) for (day, id_pa), tally in paid_cells]
        )
    say()
    for source, delay in found.by_source.items():
        if delay.steps:
            say(
                f"from payment to arrival by {source}: median {duration(delay.percentile(0.5))},"
                f" 95 % within {duration(delay.percentile(0.95))}, worst {duration(delay.worst)}"
            )
    for ec in found.silences:
        since = f"since {shown(ec.last_push)} (Italy)" if ec.last_push else "yet"
        name = f" ({ec.name})" if ec.name else ""
        say(f"SILENT  EC {ec.id_pa}{name} has received no push {since}")


def _last(push: datetime | None) -> str:
    return shown(push) or "never"


_PAID = ("receipts", "push", "reconcile", "replay", "euro")
_TALLY = ("receipts", "push", "reconcile", "replay", "by push", "euro", "refused", "open")


def _paid(tally: statistics.Tally) -> list[str]:
    by_source = (f"{tally.by_source[source]:,}" for source in statistics.SOURCES)
    return [f"{tally.receipts:,}", *by_source, f"{tally.amount:,.2f}"]


def _cells(tally: statistics.Tally) -> list[str]:
    share = tally.share("push")
    *counts, euro = _paid(tally)
    return [
        *counts,
        "" if share is None else f"{share:.1%}",
        euro,
        f"{tally.refused:,}",
        f"{tally.refused_open:,}",
    ]


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if not rows:
        return
    say()
    left = ("EC", "name", "day of arrival", "day of payment", "last push (Italy)")
    table(titles, rows, right=[title for title in titles if title not in left])
