"""Receipts into files, row by row in flat memory: CSV, JSON lines, Parquet and Excel; and files whole or absent.

Read here, in the order that `store` gives; written by the modules beside this one. The columns are described in
docs/receipts.md.
"""

from __future__ import annotations  # what they name is loaded when it is needed

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from station import columns, store
from station.export.file import replaceable, whole_file
from station.export.lines import CsvWriter, JsonWriter
from station.export.parquet import ParquetWriter
from station.export.xlsx import SHEET_ROWS, XlsxWriter
from station.retry import read
from station.store import gauges, journal, queries, search
from station.store.paging import Cursor

__all__ = [
    "BATCH", "SHEET_ROWS", "CsvWriter", "Format", "JsonWriter", "ParquetWriter", "XlsxWriter", "batches",
    "exchanges", "last", "replaceable", "transfers_of", "whole_file",
]  # fmt: skip

BATCH = 1000


class Format(StrEnum):
    """What an export can be written as: the ending of the file's name."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


def batches(engine: store.Engine, filter_: store.Filter) -> Iterator[list[dict[str, Any]]]:
    """Yield all receipts that fit, oldest first, with transfers, flags and routes, a thousand at a time.

    Each batch is a short transaction of its own: a reader that is slow or stops holds nothing back in the database.
    Receipts that arrive after the start are left out, so that a run ends.
    """
    if filter_.order == "received_at":
        end = read(engine, gauges.bound, "receipt", datetime.now(UTC))
        filter_ = replace(filter_, received_to=min(filter_.received_to or end, end))
    planned = read(engine, search.plan, filter_)

    def batch(connection: store.Connection, after: Cursor | None) -> tuple[list[dict[str, Any]], Cursor | None]:
        rows = queries.page(connection, planned, queries.EXPORTED, after=after, limit=BATCH, newest_first=False)
        end = Cursor.of(planned.order, rows[-1]) if len(rows) == BATCH else None
        return queries.with_children(connection, rows), end

    after: Cursor | None = None
    while True:
        receipts, after = read(engine, batch, after)
        if receipts:
            yield receipts
        if after is None:
            return


def transfers_of(receipts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each transfer of some receipts, with the columns `columns.TRANSFER_ROW`."""
    return [
        {name: row[name] for name in columns.TRANSFER_ROW}
        for receipt in receipts
        for row in columns.transfer_rows(receipt)
    ]


def last(engine: store.Engine, filter_: store.Filter) -> datetime | None:
    """Return the time of the receipt that an export will end with; `None` where no receipt fits."""
    rows = read(engine, queries.list_receipts, filter_, limit=1)
    return getattr(rows[0], filter_.order) if rows else None


def exchanges(engine: store.Engine, filter_: journal.ExchangeFilter) -> Iterator[Sequence[Any]]:
    """Yield all exchanges of the journal that fit, in order of time, in the same way."""
    end = read(engine, gauges.bound, "journal", datetime.now(UTC))
    filter_ = replace(filter_, at_to=min(filter_.at_to or end, end))
    after: Cursor | None = None
    while True:
        page = read(engine, journal.list_exchanges, filter_, after=after, limit=BATCH)
        if page:
            yield page
        if len(page) < BATCH:
            return
        after = Cursor.of("at", page[-1], "event_id")
