"""`station stats`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from station import export, statistics
from station.cli import Context, cli
from station.cli.files import format_of, writing
from station.cli.options import TIMES, Days, EcId, Moment
from station.cli.output import say, say_json, table
from station.clock import ROME, moment, shown
from station.receipt import Source
from station.statistics.charts import duration
from station.statistics.page import page
from station.text import counted

_DAYS_MAX = 3700


@cli.command(epilog=TIMES)
@click.option(
    "--from", "start", type=Moment(), help="From this day or time on. Default: the last 30 days, including today."
)
@click.option(
    "--to", "end", type=Moment(end=True), help="Up to the end of this day, or before this time. Default: now."
)
@click.option("--ec", "id_pa", type=EcId(), help="Only this EC (idPA).")
@click.option("--silent-after", type=Days(), default=3, show_default=True, metavar="DAYS",
              help="Days without a push after which an EC is silent.")  # fmt: skip
@click.option("--detail", is_flag=True, help="Add all columns, and a line for each day and EC.")
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
        except OverflowError:
            raise click.UsageError("--to is too early") from None
        start = moment(first.isoformat())
    if end <= start:
        raise click.UsageError("--to is not after --from")
    if (end - start).days > _DAYS_MAX:
        raise click.UsageError("that is more than ten years: choose a shorter period")
    figures = statistics.collect(
        context.engine(),
        context.settings,
        start,
        end,
        id_pas=None if id_pa is None else (id_pa,),
        silent_after=timedelta(days=silent_after),
        now=now,
    )
    if html is not None:
        with writing(html), export.whole_file(html) as sink:
            sink.write(page(figures).encode())
        say(f"written to {html}", err=True)
    if as_json:
        say_json(figures.as_dict())
    elif html is None:
        _print(figures, detail)


_REFUSED = ("refused", "open")


def _print(figures: statistics.Statistics, detail: bool) -> None:
    """Print tables that fit 80 characters, or with `detail` those with all columns and a line for each day and EC."""
    total, paid = figures.total, figures.paid_total
    # Few receipts come by BizEvents, and stay so: its column is shown where there are any.
    by_source = [name for name in statistics.SOURCES if name != Source.BIZEVENTS or total.by_source[name]]
    say(f"from {shown(figures.start)} to {shown(figures.end)} (Italy):")
    say(
        f"arrived: {counted(total.receipts, 'receipt')}, {total.amount:,.2f} euro;"
        f" {counted(total.refused, 'request')} refused, {total.refused_open:,} still open"
    )
    say(f"paid: {counted(paid.receipts, 'receipt')}, {paid.amount:,.2f} euro")
    if detail:
        of_ec = ("EC", "name", "receipts", *by_source, "by push", "euro", *_REFUSED, "median", "95 % within", "worst")
    else:
        of_ec = ("EC", "receipts", "by push", "euro", *_REFUSED, "95 % within")
    last_push = "last push (Italy)" if detail else "last push"
    _table((*of_ec, last_push), [_ec_cells(ec) for ec in figures.ecs])
    arrived = ("receipts", *by_source, "by push", "euro", *_REFUSED)
    paid_on = ("receipts", *by_source, "euro")
    for title, by_day, titles in (
        ("day of arrival", figures.by_day, arrived),
        ("day of payment", figures.paid, paid_on),
    ):
        days = [day for day in figures.days if by_day[day]]
        _table((title, *titles), [{title: shown(day), **_cells(by_day[day])} for day in days])
    if detail:
        for title, cells, titles in (
            ("day of arrival", figures.cells, arrived),
            ("day of payment", figures.paid_cells, paid_on),
        ):
            rows = [
                {title: shown(day), "EC": id_pa or "(none)", **_cells(counts)}
                for (day, id_pa), counts in sorted(cells.items())
            ]
            _table((title, "EC", *titles), rows)
    say()
    for source, delay in figures.by_source.items():
        if delay.steps:
            say(
                f"from payment to arrival by {source}: median {duration(delay.percentile(0.5))},"
                f" 95 % within {duration(delay.percentile(0.95))}, worst {duration(delay.worst)}"
            )
    for ec in figures.silences:
        since = f"since {shown(ec.last_push)} (Italy)" if ec.last_push else "yet"
        name = f" ({ec.name})" if ec.name else ""
        say(f"SILENT  EC {ec.id_pa}{name} has received no push {since}")


def _cells(counts: statistics.Counts) -> dict[str, str]:
    """Return the cells of a line of any table, by title."""
    share = counts.share("push")
    return {
        "receipts": f"{counts.receipts:,}",
        **{source: f"{counts.by_source[source]:,}" for source in statistics.SOURCES},
        "by push": "" if share is None else f"{share:.1%}",
        "euro": f"{counts.amount:,.2f}",
        "refused": f"{counts.refused:,}",
        "open": f"{counts.refused_open:,}",
    }


def _ec_cells(ec: statistics.EcCounts) -> dict[str, str]:
    return _cells(ec.counts) | {
        "EC": ec.id_pa or "(none)",
        "name": ec.name,
        "median": duration(ec.delay.percentile(0.5)),
        "95 % within": duration(ec.delay.percentile(0.95)),
        "worst": duration(ec.delay.worst),
        "last push (Italy)": shown(ec.last_push) or "never",
        "last push": shown(ec.last_push)[:10] or "never",
    }


_LEFT = ("EC", "name", "day of arrival", "day of payment", "last push (Italy)", "last push")


def _table(titles: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Print rows, which are cells by title, if there are any."""
    if rows:
        say()
        table(
            titles,
            ([row[title] for title in titles] for row in rows),
            right=[title for title in titles if title not in _LEFT],
        )
