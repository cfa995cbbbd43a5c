"""Receipts as lines: CSV for machines and for spreadsheets set to Italian, and JSON lines."""

import csv
import io
import json
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import IO, Any

from station import columns as table
from station.export.italian import as_text
from station.text import as_json, plain

# A spreadsheet takes a cell that begins like this for a formula, wherever the text comes from (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: Any, *, marked: bool = True) -> Any:
    """Return a value for CSV: text that a spreadsheet would run is put behind an apostrophe, numbers are unchanged.

    `marked=False`: without the apostrophe, for a program that needs the text exactly.
    """
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return str(value)
        case int():
            return value
        case str():
            text = value
        case list() | tuple():
            text = json.dumps(value, default=plain, ensure_ascii=False) if value else ""
        case _:
            text = str(plain(value))
    return f"'{text}" if marked and text.startswith(_FORMULA) else text


class CsvWriter:
    """One row for each receipt, its transfers side by side. UTF-8, commas, points in amounts, times in UTC.

    `italian` is for a spreadsheet set to Italian, see `italian`: semicolons, a mark at the start that tells UTF-8, and
    everything in quotes, since LibreOffice takes a comma outside of them for the end of a cell, too.
    """

    def __init__(
        self,
        sink: IO[bytes],
        columns: Sequence[str] | None = None,
        *,
        titles: Sequence[str] | None = None,
        italian: bool = False,
        marked: bool = True,
    ) -> None:
        """With `columns`, these alone and no transfers side by side; `titles` are theirs, by default the names.

        `marked=False`: text is written exactly, without the marks that protect who opens it in a spreadsheet.
        """
        self._text = io.TextIOWrapper(sink, "utf-8-sig" if italian else "utf-8", newline="", write_through=False)
        self._columns = columns
        self._cell = partial(as_text if italian else cell, marked=marked)
        if italian:
            self._writer = csv.writer(self._text, delimiter=";", lineterminator="\r\n", quoting=csv.QUOTE_ALL)
        else:
            self._writer = csv.writer(self._text, lineterminator="\r\n")
        self._writer.writerow(titles or columns or (table.titles() if italian else table.names()))

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Write some receipts."""
        for receipt in receipts:
            values = table.row(receipt) if self._columns is None else table.cells(receipt, self._columns)
            self._writer.writerow(map(self._cell, values))

    def close(self) -> None:
        """Write what is left; the sink stays open."""
        self._text.flush()
        self._text.detach()


class JsonWriter:
    """One JSON object a line for each receipt."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Write some receipts."""
        self._sink.write("".join(f"{as_json(receipt)}\n" for receipt in receipts).encode())

    def close(self) -> None:
        """Nothing is left to write."""
