"""Printing: all text of a command reaches the terminal through here.

Any text may come from outside (a document, an answer, the database, a file's name), so all of it is made printable, and
none of it is taken for markup. JSON is escaped by its own rules.
"""

import sys
from collections.abc import Container, Iterable, Sequence
from typing import Any

import click

from station.text import as_json, printable

_WIDTH = 80
_LINE = 10_000  # characters of a line; of a cell it is `text.LENGTH`


def say(line: object = "", *, err: bool = False, length: int | None = _LINE) -> None:
    """Print one line of text, cut to `length` characters; with `err` on standard error."""
    click.echo(printable(line, length), err=err)


def say_fields(fields: Iterable[object]) -> None:
    """Print one line of fields with tabs between, for other programs."""
    click.echo("\t".join(map(printable, fields)))


def say_json(value: Any) -> None:
    """Print one line of JSON."""
    click.echo(as_json(value))


def say_csv(
    columns: Sequence[str],
    rows: Sequence[dict[str, Any]],
    *,
    titles: Sequence[str] | None = None,
    italian: bool = False,
) -> None:
    """Print rows as CSV: exact in a file or a pipe, printable on a terminal. `titles` and `italian` as `CsvWriter`."""
    from station.export import CsvWriter

    if sys.stdout.isatty():
        rows = [
            {name: printable(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows
        ]
    writer = CsvWriter(sys.stdout.buffer, columns, titles=titles, italian=italian)
    writer.write(rows)
    writer.close()


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], *, right: Container[str] = ()) -> None:
    """Print rows in columns; those whose title is in `right` end at the same place, as numbers do.

    No cell is broken or cut to fit: an id must stay whole. One blank between columns where two would exceed 80.
    """
    lines = [titles, *([printable("" if cell is None else cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    gap = " " if sum(widths) + 2 * (len(widths) - 1) > _WIDTH >= sum(widths) + len(widths) - 1 else "  "
    for line in lines:
        cells = (
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, width, cell in zip(titles, widths, line, strict=True)
        )
        say(gap.join(cells).rstrip())
