"""Charts as inline SVG, tables, and numbers in words, for the page. Text given to them is HTML already."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from math import ceil, log10

from station.clock import ROME


def columns(
    days: Sequence[date],
    bars: Callable[[date], list[tuple[str, int]]],
    tip: Callable[[date], str],
    *,
    height: int,
    label: str,
) -> str:
    """Draw a stacked column for each day, with an axis in round numbers."""
    left, right, bottom, top = 70, 995, height, 8
    step = (right - left) / len(days)
    most = max(sum(count for _, count in bars(day)) for day in days)
    unit = _round_unit(most)
    highest = max(unit * ceil(most / unit), 1)
    scale = (bottom - top) / highest
    parts = []
    for value in range(0, highest + 1, unit):
        y = bottom - value * scale
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{left - 8}" y="{y + 4:.1f}">{value:,}</text>')
    for number, day in enumerate(days):
        x, y = left + number * step, float(bottom)
        for kind, count in bars(day):
            if count:
                y -= count * scale
                parts.append(rect(kind, x + step * 0.1, y, step * 0.8, count * scale))
        parts.append(rect("touch", x, top, step, bottom - top, tip(day)))
    for number, day in labelled(days, step):
        middle = left + (number + 0.5) * step
        parts.append(f'<text class="middle" x="{middle:.1f}" y="{bottom + 18}">{short_day(day)}</text>')
    return svg(1000, height + 26, label, parts)


def _round_unit(highest: int) -> int:
    """Return a step of 1, 2 or 5 times a power of ten, about four of which reach the highest value."""
    rough = max(highest, 1) / 4
    power = 10 ** int(log10(rough)) if rough >= 1 else 1
    return int(next(unit for factor in (1, 2, 5, 10) if (unit := factor * power) >= rough))


def labelled(days: Sequence[date], step: float) -> Iterator[tuple[int, date]]:
    every = max(1, ceil(62 / step))
    return ((number, day) for number, day in enumerate(days) if number % every == 0)


def rect(kind: str, x: float, y: float, width: float, height: float, tip: str = "", more: str = "") -> str:
    title = f"<title>{tip}</title>" if tip else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect class="{kind}" {place}{more}>{title}</rect>'


def svg(width: int, height: int, label: str, parts: Iterable[str]) -> str:
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
    return f'<div class="wide">{opening}{"".join(parts)}</svg></div>'


def table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: set[int] | None = None, more: int = 0
) -> str:
    """Return a table, with a remark where there are `more` rows; columns in `numbers` are aligned to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{cell}</{tag}>' if number in (numbers or ()) else f"<{tag}>{cell}</{tag}>"
            for number, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    rest = f'<p class="quiet">And {more:,} more: see <code>station stats --json</code>.</p>' if more > 0 else ""
    head = f"<thead><tr>{cells('th', names)}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>{rest}'


# --- words ------------------------------------------------------------------------------------------------------------


def duration(seconds: int | None) -> str:
    """Return seconds in words, in the two greatest units."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"−{duration(-seconds)}"
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    parts = [(days, "day" if days == 1 else "days"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((number for number, (value, _) in enumerate(parts) if value), 3)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2] if value) or "0 s"


def percent(share: float | None) -> str:
    if share is None:
        return "–"
    return f"{share * 100:.1f} %" if 0.0005 <= share < 0.9995 or share in (0, 1) else f"{share * 100:.3f} %"


def local_time(moment: datetime) -> str:
    return f"{moment.astimezone(ROME):%d %b %Y, %H:%M}"


def long_day(day: date) -> str:
    return f"{day:%d %b %Y}"


def short_day(day: date) -> str:
    return f"{day:%d %b}"
