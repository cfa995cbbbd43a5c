"""The statistics as one HTML page to mail: `page.html` with charts as inline SVG; it loads nothing and has no script.

Text from outside is escaped, and the page's content security policy forbids scripts and requests all the same.
"""

from collections import Counter
from datetime import date, datetime
from html import escape
from pathlib import Path
from string import Template

from station.statistics import SOURCES, Counts, Delay, EcCounts, Statistics
from station.statistics.charts import (
    columns,
    duration,
    labelled,
    local_time,
    long_day,
    percent,
    rect,
    short_day,
    svg,
    table,
)
from station.text import counted, printable

_ROWS_MAX = 50
_CALENDAR_MAX = (40, 100)  # ECs, days: beyond that the squares would be dots
_SOURCE_NAMES = {"push": "push", "reconcile": "reconciliation", "replay": "replay", "bizevents": "BizEvents"}
_BUCKETS = (
    ("under 10 seconds", 10),
    ("10 to 60 seconds", 60),
    ("1 to 10 minutes", 600),
    ("10 to 60 minutes", 3600),
    ("1 to 24 hours", 86_400),
    ("more than a day", None),
)


def page(stats: Statistics) -> str:
    """Return the whole page."""
    period = f"{long_day(stats.days[0])} to {long_day(stats.days[-1])}"
    parts = [
        f"<h1>Receipts, {period}</h1>",
        f'<p class="quiet">Made on {local_time(stats.made_at)}. Days and times are Italian civil time.</p>',
        _tiles(stats),
        _silence(stats),
        _section("Receipts per day of arrival", _per_day(stats, stats.by_day), legend=True),
        _section("Receipts per day of payment", _per_day(stats, stats.paid), legend=True),
        _section("Refused requests per day", _refused_per_day(stats)),
        _section("From payment to arrival", _delays(stats), legend=True),
        _section("ECs", _ecs(stats)),
        _calendar(stats),
    ]
    template = Template(Path(__file__).with_name("page.html").read_text("utf-8"))
    return template.substitute(title=f"Receipts, {period}", body="\n".join(filter(None, parts)))


# --- parts of the page ------------------------------------------------------------------------------------------------


def _tiles(stats: Statistics) -> str:
    total, silences = stats.total, len(stats.silences)
    tiles = [
        (*counted(total.receipts, "receipt").split(" ", 1), f"&euro; {total.amount:,.2f}"),
        (percent(total.share("push")), "arrived by push", f"{percent(total.share('reconcile'))} by reconciliation"),
        (duration(stats.delay.percentile(0.5)), "median from payment to arrival",
         f"95 % within {duration(stats.delay.percentile(0.95))}, worst {duration(stats.delay.worst)}"),
        (*counted(total.refused_open, "open refused request").split(" ", 1),
         f"of {total.refused:,} refused in this period"),
        (*counted(silences, "silent EC").split(" ", 1),
         f"no push for {duration(int(stats.silent_after.total_seconds()))}"),
    ]  # fmt: skip
    alarming = {3: total.refused_open > 0, 4: silences > 0}
    cells = "".join(
        f'<div class="tile{" alarm" if alarming.get(number) else ""}"><b>{value}</b>{name}<small>{more}</small></div>'
        for number, (value, name, more) in enumerate(tiles)
    )
    return f'<div class="tiles">{cells}</div>'


def _silence(stats: Statistics) -> str:
    silences = stats.silences
    if not silences:
        return ""

    def when(moment: datetime | None, never: str) -> str:
        return f"{local_time(moment)}, {_ago(stats, moment)}" if moment else never

    rows = (
        [
            _who(ec),
            when(ec.last_push, "never received a push"),
            when(ec.last_refused_push, ""),
            "yes" if ec.configured else "no",
        ]
        for ec in silences[:_ROWS_MAX]
    )
    rows_table = table(["EC", "last push", "last refused push", "configured"], rows, more=len(silences) - _ROWS_MAX)
    return f'<section class="alarm"><h2>Silent: no push has arrived for these ECs</h2>{rows_table}</section>'


def _per_day(stats: Statistics, by_day: dict[date, Counts]) -> str:
    if not any(by_day.values()):
        return '<p class="quiet">None.</p>'

    def bars(day: date) -> list[tuple[str, int]]:
        return [(source, by_day[day].by_source[source]) for source in SOURCES]

    def tip(day: date) -> str:
        counts = by_day[day]
        sources = ", ".join(f"{counts.by_source[source]:,} by {_SOURCE_NAMES[source]}" for source in SOURCES)
        return f"{long_day(day)}: {counted(counts.receipts, 'receipt')} ({sources}), &euro; {counts.amount:,.2f}"

    return columns(stats.days, bars, tip, height=220, label="Receipts per day, by source")


def _refused_per_day(stats: Statistics) -> str:
    if not stats.total.refused:
        return '<p class="quiet">None.</p>'

    def bars(day: date) -> list[tuple[str, int]]:
        counts = stats.by_day[day]
        return [("open", counts.refused_open), ("settled", counts.refused - counts.refused_open)]

    def tip(day: date) -> str:
        return f"{long_day(day)}: {stats.by_day[day].refused:,} refused, {stats.by_day[day].refused_open:,} still open"

    chart = columns(stats.days, bars, tip, height=110, label="Refused requests per day")
    return _legend({"open": "still open", "settled": "accepted or discarded since"}) + chart


def _delays(stats: Statistics) -> str:
    counts: list[Counter[str]] = [Counter() for _ in _BUCKETS]
    for source, delay in stats.by_source.items():
        for seconds, count in delay.steps.items():
            place = next(number for number, (_, end) in enumerate(_BUCKETS) if end is None or seconds < end)
            counts[place][source] += count
    total = sum(bucket.total() for bucket in counts)
    if not total:
        return '<p class="quiet">No receipts with a payment time.</p>'
    most = max(bucket.total() for bucket in counts)
    left, width, step = 150, 720, 30
    parts = []
    for number, ((name, _), bucket) in enumerate(zip(_BUCKETS, counts, strict=True)):
        y = number * step
        parts.append(f'<text class="end" x="{left - 10}" y="{y + 17}">{name}</text>')
        bar, x = _stacked(bucket, left, y + 3, width / most, step - 8)
        parts += bar
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 17}">{percent(bucket.total() / total)}</text>')
    chart = svg(1000, step * len(_BUCKETS), "How long receipts took from payment to arrival", parts)
    rows = (
        [_SOURCE_NAMES[source], f"{delay.steps.total():,}", *_delay_cells(delay)]
        for source, delay in stats.by_source.items()
        if delay.steps
    )
    return chart + table(["by", "receipts", "median", "95 % within", "worst"], rows, numbers={1, 2, 3, 4})


def _ecs(stats: Statistics) -> str:
    most = max((ec.counts.receipts for ec in stats.ecs), default=0) or 1
    rows = (
        [
            _who_in_lines(ec),
            f'<svg class="small" viewBox="0 0 120 12" role="presentation">'
            f"{''.join(_stacked(ec.counts.by_source, 0, 0, 120 / most, 12)[0])}</svg>",
            f"{ec.counts.receipts:,}",
            percent(ec.counts.share("push")),
            f"{ec.counts.amount:,.2f}",
            f"{ec.counts.refused:,}" + (f" ({ec.counts.refused_open:,} open)" if ec.counts.refused_open else ""),
            *_delay_cells(ec.delay),
            "never" if ec.last_push is None else local_time(ec.last_push).replace(", ", "<small>") + "</small>",
        ]
        for ec in stats.ecs[:_ROWS_MAX]
    )
    names = ["EC", "", "receipts", "by push", "euro", "refused", "median", "95 % within", "worst", "last push"]
    return table(names, rows, numbers={2, 3, 4, 5, 6, 7, 8}, more=len(stats.ecs) - _ROWS_MAX)


def _calendar(stats: Statistics) -> str:
    """Draw a square for each EC and day: holes are where nothing came."""
    most_ecs, most_days = _CALENDAR_MAX
    days, ecs = stats.days[-most_days:], [ec for ec in stats.ecs if ec.seen or ec.configured][:most_ecs]
    if not ecs:
        return ""
    left, step = 190, min(24.0, (1000 - 190) / len(days))
    parts = [
        f'<text x="{left + place * step:.1f}" y="12">{short_day(day)}</text>' for place, day in labelled(days, step)
    ]
    for row, ec in enumerate(ecs):
        y = 20 + row * 20
        name = ec.name or ec.id_pa
        shown = name if len(name) <= 26 else f"{name[:25]}…"
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 13}">{_text(shown)}<title>{_who(ec)}</title></text>')
        busiest = max((stats.cells.get((day, ec.id_pa), Counts()).receipts for day in days), default=0)
        for column, day in enumerate(days):
            counts = stats.cells.get((day, ec.id_pa), Counts())
            tip = f"{_text(name)}, {long_day(day)}: {counted(counts.receipts, 'receipt')}, {counts.refused:,} refused"
            shade = 0.25 + 0.75 * counts.receipts / busiest if counts.receipts else 0
            x = left + column * step
            kind = "day" if counts.receipts else "hole"
            parts.append(rect(kind, x, y, step - 2, 17, tip, f' fill-opacity="{shade:.2f}"' if shade else ""))
            if counts.refused:
                middle = x + step / 2 - 1
                parts.append(f'<circle class="open" cx="{middle:.1f}" cy="{y + 8.5}" r="{min(3, step / 4):.1f}"/>')
    chart = svg(1000, 24 + 20 * len(ecs), "Receipts by EC and day", parts)
    note = "The stronger the colour, the closer to the EC's busiest day; a dot marks refused requests."
    if len(ecs) < len(stats.ecs) or len(days) < len(stats.days):
        note += f" The busiest {counted(len(ecs), 'EC')}, {counted(len(days), 'day')}."
    return _section("ECs, day by day", f'<p class="quiet">{note}</p>{chart}')


def _stacked(by_source: Counter[str], x: float, y: float, scale: float, height: float) -> tuple[list[str], float]:
    """Return the parts of a horizontal bar stacked by source, and where it ends."""
    parts = []
    for source in SOURCES:
        if count := by_source[source]:
            tip = f"{count:,} by {_SOURCE_NAMES[source]}"
            parts.append(rect(source, x, y, max(count * scale, 0.5), height, tip))
            x += count * scale
    return parts, x


def _delay_cells(delay: Delay) -> list[str]:
    return [duration(delay.percentile(0.5)), duration(delay.percentile(0.95)), duration(delay.worst)]


def _section(title: str, content: str, *, legend: bool = False) -> str:
    return f"<section><h2>{title}</h2>{_legend(_SOURCE_NAMES) if legend else ''}{content}</section>"


def _legend(names: dict[str, str]) -> str:
    entries = "".join(f'<span><i class="{kind}"></i>{name}</span>' for kind, name in names.items())
    return f'<p class="legend">{entries}</p>'


def _text(text: str) -> str:
    """Return text from outside, escaped for the page."""
    return escape(printable(text))


def _who(ec: EcCounts) -> str:
    if not ec.id_pa:
        return "(without idPA)"
    return f"{_text(ec.name)} ({_text(ec.id_pa)})" if ec.name else _text(ec.id_pa)


def _who_in_lines(ec: EcCounts) -> str:
    return f"{_text(ec.name)}<small>{_text(ec.id_pa)}</small>" if ec.name else _who(ec)


def _ago(stats: Statistics, moment: datetime) -> str:
    return f"{duration(int((stats.made_at - moment).total_seconds()))} ago"
