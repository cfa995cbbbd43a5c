"""Receipts as an Excel workbook, with real types and Italian titles. The only user of XlsxWriter."""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import IO, Any
from weakref import finalize

from station import columns as table
from station.clock import shown
from station.export.italian import flat, wall_time

SHEET_ROWS = 1_048_576  # Excel's and LibreOffice's limit; the first one holds the titles
_FIRST_YEAR = 1901  # Excel has no dates before 1900 and a 29 February in that year


class XlsxWriter:
    """A workbook: dates and times as such (Italian civil time), amounts as numbers, all else as text.

    `sheets`: how many there are, the next one begins where one is full. `cut`: how many texts were longer than a cell.
    """

    def __init__(
        self,
        sink: IO[bytes],
        folder: Path | None = None,
        *,
        columns: Sequence[str] | None = None,
        rows: int = SHEET_ROWS,
    ) -> None:
        """`folder` takes the temporary, uncompressed sheets: about 3 KB for each receipt.

        With `columns` of `columns.TRANSFER_ROW`, these alone, in rows of transfers.
        """
        import xlsxwriter  # takes 0.1 s

        scratch = mkdtemp(dir=folder, prefix=".xlsx-")
        self._tidy = finalize(self, rmtree, scratch, ignore_errors=True)  # at the end of the process, if not before
        self._book = xlsxwriter.Workbook(sink, {"constant_memory": True, "tmpdir": scratch})
        self._book.use_zip64()
        formats = {"title": {"bold": True}, "text": {"num_format": "@"}, "euro": {"num_format": "#,##0.00"},
                   "day": {"num_format": "dd/mm/yyyy"}, "moment": {"num_format": "dd/mm/yyyy hh:mm:ss"}}  # fmt: skip
        self._formats = {name: self._book.add_format(format_) for name, format_ in formats.items()}
        self._columns = columns
        self._rows = rows
        self.sheets = self.cut = 0
        self._begin()

    def _begin(self) -> None:
        self.sheets += 1
        noun = "Versamenti" if self._columns else "Ricevute"
        self._sheet = self._book.add_worksheet(noun if self.sheets == 1 else f"{noun} {self.sheets}")
        titles = [*map(table.title, self._columns)] if self._columns else table.titles()
        self._sheet.set_column(0, len(titles) - 1, 20)
        self._sheet.freeze_panes(1, 0)
        self._sheet.ignore_errors({"number_stored_as_text": "A1:XFD1048576"})
        for column, title in enumerate(titles):
            self._sheet.write_string(0, column, title, self._formats["title"])
        self._row = 1
        self._last_column = len(titles) - 1

    def _end(self) -> None:
        self._sheet.autofilter(0, 0, self._row - 1, self._last_column)

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Write some receipts."""
        for receipt in receipts:
            if self._row == self._rows:
                self._end()
                self._begin()
            values = table.cells(receipt, self._columns) if self._columns else table.row(receipt)
            for column, value in enumerate(values):
                self._put(column, flat(value))
            self._row += 1

    def _put(self, column: int, value: Any) -> None:
        sheet, place, formats = self._sheet, (self._row, column), self._formats
        match value:
            case None | "":
                pass
            case bool():
                sheet.write_boolean(*place, value)
            case Decimal():
                sheet.write_number(*place, float(value), formats["euro"])  # 12 digits: a float is exact to 15
            case int():
                sheet.write_number(*place, value)
            case datetime() if value.year >= _FIRST_YEAR:
                sheet.write_datetime(*place, wall_time(value), formats["moment"])
            case date() if value.year >= _FIRST_YEAR:
                sheet.write_datetime(*place, value, formats["day"])
            case _:
                text = shown(value) if isinstance(value, date) else value
                if text.startswith("<r>"):  # XlsxWriter takes such a text for markup of its own, and writes it as it is
                    text = f"'{text}"
                self.cut += sheet.write_string(*place, text, formats["text"]) != 0

    def close(self) -> None:
        """Write the workbook into the sink, which stays open. Raises `OSError`."""
        from xlsxwriter.exceptions import FileCreateError

        self._end()
        try:
            self._book.close()
        except FileCreateError as error:
            raise error.args[0] from None
        finally:
            self._tidy()
