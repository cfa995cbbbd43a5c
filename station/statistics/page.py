"""The statistics as one HTML page to mail: charts as inline SVG, nothing loaded from elsewhere, no script.

Whatever came from outside is escaped, and a content security policy in the page forbids what could still get through.
"""

from datetime import date, datetime
from html import escape

from station.statistics import SOURCES, Delay, Ec, Statistics, Tally
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

_MOST_ROWS = 50
_MOST_CALENDAR = (40, 100)  # ECs, days: beyond that the squares would be dots
_DOORS = {"push": "push", "reconcile": "reconciliation", "replay": "replay"}
_BUCKETS = (
    ("under 10 seconds", 10),
    ("10 to 60 seconds", 60),
    ("1 to 10 minutes", 600),
    ("10 to 60 minutes", 3600),
    ("1 to 24 hours", 86_400),
    ("more than a day", None),
)


def page(found: Statistics) -> str:
    """The whole page."""
    period = f"{long_day(found.days[0])} to {long_day(found.days[-1])}"
    parts = [
        f"<h1>Receipts, {period}</h1>",
        f'<p class="quiet">Made on {local_time(found.made_at)}. Days and times are Italian civil time.</p>',
        _tiles(found),
        _silence(found),
        _section("Receipts per day of arrival", _per_day(found, found.by_day), legend=True),
        _section("Receipts per day of payment", _per_day(found, found.paid), legend=True),
        _section("Refused requests per day", _refused_per_day(found)),
        _section("From payment to arrival", _delays(found), legend=True),
        _section("ECs", _ecs(found)),
        _calendar(found),
    ]
    return _FRAME.format(title=f"Receipts, {period}", style=_STYLE, body="\n".join(filter(None, parts)))


# --- parts of the page ------------------------------------------------------------------------------------------------


def _tiles(found: Statistics) -> str:
    total, silences = found.total, len(found.silences)
    tiles = [
        (*counted(total.receipts, "receipt").split(" ", 1), f"&euro; {total.amount:,.2f}"),
        (percent(total.share("push")), "arrived by push", f"{percent(total.share('reconcile'))} by reconciliation"),
        (duration(found.delay.percentile(0.5)), "median from payment to arrival",
         f"95 % within {duration(found.delay.percentile(0.95))}, worst {duration(found.delay.worst)}"),
        (*counted(total.refused_open, "open refused request").split(" ", 1),
         f"of {total.refused:,} refused in this period"),
        (*counted(silences, "silent EC").split(" ", 1),
         f"no push for {duration(int(found.silent_after.total_seconds()))}"),
    ]  # fmt: skip
    alarming = {3: total.refused_open > 0, 4: silences > 0}
    cells = "".join(
        f'<div class="tile{" alarm" if alarming.get(number) else ""}"><b>{value}</b>{name}<small>{more}</small></div>'
        for number, (value, name, more) in enumerate(tiles)
    )
    return f'<div class="tiles">{cells}</div>'


def _silence(found: Statistics) -> str:
    silences = found.silences
    if not silences:
        return ""

    def when(moment: datetime | None, never: str) -> str:
        return f"{local_time(moment)}, {_ago(found, moment)}" if moment else never

    rows = (
        [
            _who(ec),
            when(ec.last_push, "never received a push"),
            when(ec.last_refused_push, ""),
            "yes" if ec.configured else "no",
        ]
        for ec in silences[:_MOST_ROWS]
    )
    rows_table = table(["EC", "last push", "last refused push", "configured"], rows, more=len(silences) - _MOST_ROWS)
    return f'<section class="alarm"><h2>Silent: no push has arrived for these ECs</h2>{rows_table}</section>'


def _per_day(found: Statistics, by_day: dict[date, Tally]) -> str:
    if not any(by_day.values()):
        return '<p class="quiet">None.</p>'

    def bars(day: date) -> list[tuple[str, int]]:
        return [(source, by_day[day].by_source[source]) for source in SOURCES]

    def tip(day: date) -> str:
        tally = by_day[day]
        doors = ", ".join(f"{tally.by_source[source]:,} by {_DOORS[source]}" for source in SOURCES)
        return f"{long_day(day)}: {counted(tally.receipts, 'receipt')} ({doors}), &euro; {tally.amount:,.2f}"

    return columns(found.days, bars, tip, height=220, label="Receipts per day, by source")


def _refused_per_day(found: Statistics) -> str:
    if not found.total.refused:
        return '<p class="quiet">None.</p>'

    def bars(day: date) -> list[tuple[str, int]]:
        tally = found.by_day[day]
        return [("open", tally.refused_open), ("settled", tally.refused - tally.refused_open)]

    def tip(day: date) -> str:
        return f"{long_day(day)}: {found.by_day[day].refused:,} refused, {found.by_day[day].refused_open:,} still open"

    chart = columns(found.days, bars, tip, height=110, label="Refused requests per day")
    return _legend({"open": "still open", "settled": "accepted or discarded since"}) + chart


def _delays(found: Statistics) -> str:
    counts = [dict.fromkeys(SOURCES, 0) for _ in _BUCKETS]
    for source, delay in found.by_source.items():
        for seconds, count in delay.steps.items():
            place = next(number for number, (_, end) in enumerate(_BUCKETS) if end is None or seconds < end)
            counts[place][source] += count
    total = sum(sum(bucket.values()) for bucket in counts)
    if not total:
        return '<p class="quiet">No receipts with a payment time.</p>'
    most = max(sum(bucket.values()) for bucket in counts)
    left, width, step = 150, 720, 30
    parts = []
    for number, ((name, _), bucket) in enumerate(zip(_BUCKETS, counts, strict=True)):
        y, x = number * step, float(left)
        count = sum(bucket.values())
        parts.append(f'<text class="end" x="{left - 10}" y="{y + 17}">{name}</text>')
        for source in SOURCES:
            wide = bucket[source] / most * width
            if wide:
                tip = f"{bucket[source]:,} by {_DOORS[source]}"
                parts.append(rect(source, x, y + 3, max(wide, 0.5), step - 8, tip))
                x += wide
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 17}">{percent(count / total)}</text>')
    chart = svg(1000, step * len(_BUCKETS), "How long receipts took from payment to arrival", parts)
    rows = (
        [_DOORS[source], *_delay_cells(delay, delay.steps.total())]
        for source, delay in found.by_source.items()
        if delay.steps
    )
    return chart + table(["by", "receipts", "median", "95 % within", "worst"], rows, numbers={1, 2, 3, 4})


def _ecs(found: Statistics) -> str:
    most = max((ec.tally.receipts for ec in found.ecs), default=0) or 1
    rows = (
        [
            _who_in_lines(ec),
            _bar(ec.tally, most),
            f"{ec.tally.receipts:,}",
            percent(ec.tally.share("push")),
            f"{ec.tally.amount:,.2f}",
            f"{ec.tally.refused:,}" + (f" ({ec.tally.refused_open:,} open)" if ec.tally.refused_open else ""),
            *_delay_cells(ec.delay),
            "never" if ec.last_push is None else local_time(ec.last_push).replace(", ", "<small>") + "</small>",
        ]
        for ec in found.ecs[:_MOST_ROWS]
    )
    names = ["EC", "", "receipts", "by push", "euro", "refused", "median", "95 % within", "worst", "last push"]
    return table(names, rows, numbers={2, 3, 4, 5, 6, 7, 8}, more=len(found.ecs) - _MOST_ROWS)


def _calendar(found: Statistics) -> str:
    """A square for each EC and day: holes are where nothing came."""
    most_ecs, most_days = _MOST_CALENDAR
    days, ecs = found.days[-most_days:], [ec for ec in found.ecs if ec.seen or ec.configured][:most_ecs]
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
        busiest = max((found.cells.get((day, ec.id_pa), Tally()).receipts for day in days), default=0)
        for column, day in enumerate(days):
            tally = found.cells.get((day, ec.id_pa), Tally())
            tip = f"{_text(name)}, {long_day(day)}: {counted(tally.receipts, 'receipt')}, {tally.refused:,} refused"
            shade = 0.25 + 0.75 * tally.receipts / busiest if tally.receipts else 0
            x = left + column * step
            kind = "day" if tally.receipts else "hole"
            parts.append(rect(kind, x, y, step - 2, 17, tip, f' fill-opacity="{shade:.2f}"' if shade else ""))
            if tally.refused:
                middle = x + step / 2 - 1
                parts.append(f'<circle class="open" cx="{middle:.1f}" cy="{y + 8.5}" r="{min(3, step / 4):.1f}"/>')
    chart = svg(1000, 24 + 20 * len(ecs), "Receipts by EC and day", parts)
    note = "The stronger the colour, the closer to the EC's busiest day; a dot marks refused requests."
    if len(ecs) < len(found.ecs) or len(days) < len(found.days):
        note += f" The busiest {counted(len(ecs), 'EC')}, {counted(len(days), 'day')}."
    return _section("ECs, day by day", f'<p class="quiet">{note}</p>{chart}')


def _bar(tally: Tally, most: int) -> str:
    """A small stacked bar inside a table."""
    x, parts = 0.0, []
    for source in SOURCES:
        wide = tally.by_source[source] / most * 120
        parts.append(rect(source, x, 0, wide, 12))
        x += wide
    return f'<svg class="small" viewBox="0 0 120 12" role="presentation">{"".join(parts)}</svg>'


def _delay_cells(delay: Delay, count: int | None = None) -> list[str]:
    times = [duration(delay.percentile(0.5)), duration(delay.percentile(0.95)), duration(delay.worst)]
    return times if count is None else [f"{count:,}", *times]


def _section(title: str, content: str, *, legend: bool = False) -> str:
    return f"<section><h2>{title}</h2>{_legend(_DOORS) if legend else ''}{content}</section>"


def _legend(names: dict[str, str]) -> str:
    entries = "".join(f'<span><i class="{kind}"></i>{name}</span>' for kind, name in names.items())
    return f'<p class="legend">{entries}</p>'


def _text(text: str) -> str:
    """What came from outside, for the page."""
    return escape(printable(text))


def _who(ec: Ec) -> str:
    if not ec.id_pa:
        return "(without idPA)"
    return f"{_text(ec.name)} ({_text(ec.id_pa)})" if ec.name else _text(ec.id_pa)


def _who_in_lines(ec: Ec) -> str:
    return f"{_text(ec.name)}<small>{_text(ec.id_pa)}</small>" if ec.name else _who(ec)


def _ago(found: Statistics, moment: datetime) -> str:
    return f"{duration(int((found.made_at - moment).total_seconds()))} ago"


_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root {
  --page: #f6f7f9; --card: #fff; --ink: #1b2330; --quiet: #5c6675; --line: #dfe3e9; --alarm: #b3261e;
  --push: #2f6fde; --reconcile: #e08a00; --replay: #8a56d8; --open: #d0342c; --settled: #d8a5a1;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #12161c; --card: #1b2129; --ink: #e6eaf0; --quiet: #98a3b3; --line: #303844; --alarm: #ff8a80;
  --push: #6ea1ff; --reconcile: #ffb74a; --replay: #b794f6; --open: #ff7a70; --settled: #8a4c48;
} }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 1120px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 10px; }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
section { padding: 16px 18px; margin-top: 16px; break-inside: avoid; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); margin-top: 16px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
small, .quiet { display: block; color: var(--quiet); font-size: 13px; margin-bottom: 6px; }
.tile.alarm b, .alarm h2 { color: var(--alarm); }
section.alarm, .tile.alarm { border-color: var(--alarm); }
.legend { margin: 0 0 8px; font-size: 13px; color: var(--quiet); }
.legend span { margin-right: 18px; white-space: nowrap; }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin-right: 6px; }
.wide { overflow-x: auto; }
svg { display: block; width: 100%; min-width: 640px; height: auto; }
svg.small { width: 100px; min-width: 100px; height: 10px; }
svg text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--line); }
.push { fill: var(--push); background: var(--push); }
.reconcile { fill: var(--reconcile); background: var(--reconcile); }
.replay { fill: var(--replay); background: var(--replay); } .open { fill: var(--open); background: var(--open); }
.settled { fill: var(--settled); background: var(--settled); } .day { fill: var(--push); }
.hole { fill: none; stroke: var(--line); } .touch { fill: transparent; }
.touch:hover { fill: var(--ink); fill-opacity: .07; }
td small { margin: 0; font-size: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--quiet); }
th, td { padding: 5px 0 5px 14px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
.number { text-align: right; }
@media print { body { background: #fff; max-width: none; } section { break-inside: avoid; } }
"""
