"""Table and chart of the figures, written into docs/performance.md between its markers."""

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench import load, service
from bench.documents import ROOT

PAGE = ROOT / "docs" / "performance.md"
NOTES = ROOT / "bench" / "NOTES.md"
CHART = ROOT / "docs" / "performance.svg"
Figures = Mapping[str, Sequence[float]]


class Line(NamedTuple):
    """A line of the table: which figure, which floor it is a ratio to, and what was asked for."""

    figure: str
    title: str
    floor: str | None = None
    goal: str = ""


LINES = (
    Line("reading", "floor: lxml parses and validates one request, one core"),
    Line("pgbench bare", "floor: PostgreSQL, document and key, pgbench"),
    Line("pgbench", "floor: PostgreSQL, the row of a receipt with all its indexes, pgbench"),
    Line(
        "postgres new",
        "PostgreSQL: new receipts, 3.2 KB",
        "pgbench",
        "0.25 of the floor, or 1,500/s if that is less: {at_least:,.0f}/s",
    ),
    Line("postgres resends", "PostgreSQL: the same again", "postgres new", "1.0 of new receipts"),
    Line("postgres refusals", "PostgreSQL: refused by the schema, kept", "postgres new", "0.5 of new receipts"),
    Line("postgres stamps", "PostgreSQL: new receipts with stamps, 40 KB", "postgres new"),
    Line("sqlite floor", "floor: SQLite, the row of a receipt, one commit each"),
    Line("sqlite new", "SQLite: new receipts, 3.2 KB", "sqlite floor", "1,000/s"),
    Line("sqlite resends", "SQLite: the same again", "sqlite new", "1.0 of new receipts"),
    Line("sqlite refusals", "SQLite: refused by the schema, kept", "sqlite new", "0.5 of new receipts"),
    Line("sqlite stamps", "SQLite: new receipts with stamps, 40 KB", "sqlite new"),
)


def table(figures: Figures) -> str:
    """The figures in Markdown: medians, and medians of the ratios within each turn."""
    out = ["| what | a second | ratio | to | asked for |", "|---|---:|---:|---|---|"]
    for line in LINES:
        ratio = to = ""
        if line.floor:
            pairs = zip(figures[line.figure], figures[line.floor], strict=True)
            ratio, to = f"{median(one / floor for one, floor in pairs):.2f}", line.floor
        goal = line.goal.format(at_least=min(1500, median(figures["pgbench"]) / 4))
        out.append(f"| {line.title} | {median(figures[line.figure]):,.0f} | {ratio} | {to} | {goal} |")
    out += ["", "| at half of that rate, open loop | p50 | p99 | asked for |", "|---|---:|---:|---|"]
    for name, title in (("postgres", "PostgreSQL"), ("sqlite", "SQLite")):
        p50, p99 = (median(figures[f"{name} {figure}"]) for figure in ("p50", "p99"))
        out.append(f"| {title}, {median(figures[f'{name} half rate']):,.0f}/s | {p50:.1f} ms | {p99:.1f} ms | 50 ms |")
    out += ["", "| memory of the largest worker | at the start | at the end | receipts |", "|---|---:|---:|---:|"]
    for name, title in (("postgres", "PostgreSQL"), ("sqlite", "SQLite")):
        before, after = (figures[f"{name} memory {when}"][0] for when in ("before", "after"))
        number = figures[f"{name} acknowledged"][0]
        out.append(f"| {title} | {before:.0f} MiB | {after:.0f} MiB | {number:,.0f} |")
    return "\n".join(out)


def setting(figures: Figures) -> str:
    """Where and how this was measured."""
    loader = "wrk" if service.has_wrk() else "the project's own generator"
    return (
        f"Measured {datetime.now(UTC):%Y-%m-%d} with `make bench` on {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; load by {loader} over {load.CONNECTIONS} kept-alive connections, the open loop "
        f"by the project's own generator over 64; load, station and database on the same cores. Median of "
        f"{len(figures['postgres new'])} turns; ratios are medians of the ratios within a turn."
    )


def chart(figures: Figures) -> str:
    """The rates as bars, the floors grey, in SVG."""
    shown = [line for line in LINES if line.figure != "reading"]
    rates = [median(figures[line.figure]) for line in shown]
    # Each title stands above its bar: beside it, long ones were cut.
    step, width = 44, 560
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 100} {step * len(shown) + 12}" '
        'font-family="sans-serif" font-size="14" role="img">',
        "<title>Receipts a second, beside what the databases reach alone</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (line, rate) in enumerate(zip(shown, rates, strict=True)):
        y = 8 + step * number
        length = width * rate / max(rates)
        colour = "#b8b8b8" if line.title.startswith("floor") else "#0066cc"
        out += [
            f'<text x="10" y="{y + 14}">{line.title}</text>',
            f'<rect x="10" y="{y + 20}" width="{length:.1f}" height="16" fill="{colour}"/>',
            f'<text x="{length + 16:.1f}" y="{y + 33}">{rate:,.0f}/s</text>',
        ]
    return "\n".join([*out, "</svg>", ""])


def write(figures: Figures, *, dry_run: bool = False) -> None:
    """Prints the table, and puts table and chart into the documentation."""
    text = f"{setting(figures)}\n\n{table(figures)}\n\n![The rates of the table as bars](performance.svg)"
    print(text)
    if not dry_run:
        CHART.write_text(chart(figures))
        put(PAGE, "measured", text)


def put(page: Path, name: str, text: str) -> None:
    """Replaces what stands between the markers of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = page.read_text()
    head, found, rest = content.partition(begin)
    _old, also_found, tail = rest.partition(end)
    if not found or not also_found:
        raise SystemExit(f"{page} has no markers {begin} and {end}")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
