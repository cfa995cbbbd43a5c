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

from station import store
from station.export.file import replaceable, whole_file
from station.export.lines import CsvWriter, JsonWriter
from station.export.parquet import ParquetWriter
from station.export.xlsx import SHEET_ROWS, XlsxWriter
from station.retry import retrying

__all__ = [
    "BATCH", "SHEET_ROWS", "CsvWriter", "Format", "JsonWriter", "ParquetWriter", "XlsxWriter", "batches",
    "exchanges", "last", "replaceable", "whole_file",
]  # fmt: skip

BATCH = 1000


class Format(StrEnum):
    """What an export can be written as: the ending of the file's name."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"
    XLSX = "xlsx"


def batches(engine: store.Engine, wanted: store.Filter) -> Iterator[list[dict[str, Any]]]:
    """All receipts that fit, oldest first, with transfers, flags and routes, a thousand at a time.

    Each batch is a short transaction of its own: a reader that is slow or stops holds nothing back in the database.
    What arrives after the start is left out, so that a run ends.
    """
    if wanted.order == "received_at":
        end = _bound(engine, "receipt")
        wanted = replace(wanted, received_to=min(wanted.received_to or end, end))
    planned = retrying(lambda: _plan(engine, wanted))
    after: store.Cursor | None = None
    while True:
        page, after = retrying(lambda after=after: _batch(engine, planned, after))  # type: ignore[misc]  # mypy: lambda
        if page:
            yield page
        if after is None:
            return


def _bound(engine: store.Engine, table: str) -> datetime:
    def ask() -> datetime:
        with store.transaction(engine, readonly=True) as connection:
            return store.bound(connection, table, datetime.now(UTC))

    return retrying(ask)


def _plan(engine: store.Engine, wanted: store.Filter) -> store.Plan:
    with store.transaction(engine, readonly=True) as connection:
        store.be_patient(connection)
        return store.plan(connection, wanted)


def _batch(
    engine: store.Engine, planned: store.Plan, after: store.Cursor | None
) -> tuple[list[dict[str, Any]], store.Cursor | None]:
    with store.transaction(engine, readonly=True) as connection:
        store.be_patient(connection)
        rows = store.page(connection, planned, store.EXPORTED, after=after, limit=BATCH, newest_first=False)
        whole = store.with_parts(connection, rows)
    return whole, store.Cursor.of(planned.order, rows[-1]) if len(rows) == BATCH else None


def last(engine: store.Engine, wanted: store.Filter) -> datetime | None:
    """The time of the receipt that an export will end with."""
    with store.transaction(engine, readonly=True) as connection:
        store.be_patient(connection)
        rows = store.list_receipts(connection, wanted, limit=1)
    return getattr(rows[0], wanted.order) if rows else None


def exchanges(engine: store.Engine, wanted: store.ExchangeFilter) -> Iterator[Sequence[Any]]:
    """All exchanges of the journal that fit, in order of time, in the same way."""
    end = _bound(engine, "journal")
    wanted = replace(wanted, at_to=min(wanted.at_to or end, end))
    after: store.ExchangePosition | None = None
    while True:
        page = retrying(lambda after=after: _exchanges(engine, wanted, after))  # type: ignore[misc]  # mypy: lambda
        if page:
            yield page
        if len(page) < BATCH:
            return
        after = store.ExchangePosition.of(page[-1])


def _exchanges(
    engine: store.Engine, wanted: store.ExchangeFilter, after: store.ExchangePosition | None
) -> Sequence[Any]:
    with store.transaction(engine, readonly=True) as connection:
        store.be_patient(connection)
        return store.list_exchanges(connection, wanted, after=after, limit=BATCH)
