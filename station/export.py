"""Receipts into files: CSV, JSON lines and Parquet, row by row in flat memory, and files that are whole or not there.

What is read and in which order stands in `store`; the columns are described in docs/receipts.md.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from station import store
from station.errors import MissingExtraError
from station.patience import patiently

BATCH = 1000
_ROW_GROUP = 10_000  # rows that Parquet keeps together; they are held until it is full

_TRANSFER = (
    "id_transfer", "amount", "fiscal_code_pa", "company_name", "iban", "digital_stamp", "remittance_information",
    "transfer_category", "metadata",
)  # fmt: skip
_MOST_TRANSFERS = 5  # the schema's limit
COLUMNS = (*store.EXPORTED, "flags", "routes")
"""The columns of a CSV file; behind them come the transfers, `transfer_1_amount` and so on."""


class Format(StrEnum):
    """What an export can be written as."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


# --- reading ----------------------------------------------------------------------------------------------------------


def batches(engine: store.Engine, wanted: store.Filter) -> Iterator[list[dict[str, Any]]]:
    """All receipts that fit, oldest first, with transfers, flags and routes, a thousand at a time.

    Each batch is a short transaction of its own: a reader that is slow or stops holds nothing back in the database.
    What arrives after the start is left out, so that a run ends.
    """
    if wanted.order == "received_at":
        end = _bound(engine, "receipt")
        wanted = replace(wanted, received_to=min(wanted.received_to or end, end))
    planned = patiently(lambda: _plan(engine, wanted))
    after: store.Cursor | None = None
    while True:
        page, after = patiently(lambda after=after: _batch(engine, planned, after))  # type: ignore[misc]  # mypy: lambda
        if page:
            yield page
        if after is None:
            return


def _bound(engine: store.Engine, table: str) -> datetime:
    def ask() -> datetime:
        with store.transaction(engine, readonly=True) as connection:
            return store.bound(connection, table, datetime.now(UTC))

    return patiently(ask)


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
        page = patiently(lambda after=after: _exchanges(engine, wanted, after))  # type: ignore[misc]  # mypy: lambda
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


# --- writing ----------------------------------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value as text where JSON has no type for it: times in ISO 8601, amounts exact, hashes in hex."""
    match value:
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return str(value)
        case bytes():
            return value.hex()
    raise TypeError(type(value).__name__)


def as_json(value: Any) -> str:
    """One line of JSON in ASCII: what comes from outside may hold what a terminal obeys."""
    return json.dumps(value, default=plain)


# A spreadsheet takes a cell that begins like this for a formula, wherever the text comes from (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: Any, *, decimal: str = ".") -> Any:
    """A value for CSV: text that a spreadsheet would run is put behind an apostrophe; amounts and numbers stay so."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Decimal():
            return str(value).replace(".", decimal)
        case int():
            return value
        case str():
            text = value
        case list() | tuple():
            text = json.dumps(value, default=plain, ensure_ascii=False) if value else ""
        case _:
            text = str(plain(value))
    return f"'{text}" if text.startswith(_FORMULA) else text


class CsvWriter:
    """One row for each receipt, its transfers side by side. UTF-8.

    `italian` is what a spreadsheet set to Italian opens by a double click: semicolons, a comma in amounts, and a mark
    at the start that tells UTF-8.
    """

    def __init__(self, sink: IO[bytes], columns: Sequence[str] | None = None, *, italian: bool = False) -> None:
        """With `columns`, these alone and no transfers."""
        self._text = io.TextIOWrapper(sink, "utf-8-sig" if italian else "utf-8", newline="", write_through=False)
        self._writer = csv.writer(self._text, delimiter=";" if italian else ",", lineterminator="\r\n")
        self._decimal = "," if italian else "."
        self._columns = COLUMNS if columns is None else columns
        self._transfers = range(_MOST_TRANSFERS if columns is None else 0)
        names = [f"transfer_{number + 1}_{name}" for number in self._transfers for name in _TRANSFER]
        self._writer.writerow([*self._columns, *names])

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Writes some receipts."""
        self._writer.writerows(self._row(receipt) for receipt in receipts)

    def _row(self, receipt: dict[str, Any]) -> Iterator[Any]:
        for name in self._columns:
            value = receipt[name]
            yield cell(" ".join(value) if name == "flags" else value, decimal=self._decimal)
        for number in self._transfers:
            one = receipt["transfers"][number] if number < len(receipt["transfers"]) else {}
            for name in _TRANSFER:
                yield cell(one.get(name), decimal=self._decimal)

    def close(self) -> None:
        """Writes what is left; the sink stays open."""
        self._text.flush()
        self._text.detach()


class JsonWriter:
    """One JSON object a line for each receipt."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Writes some receipts."""
        self._sink.write("".join(f"{as_json(receipt)}\n" for receipt in receipts).encode())

    def close(self) -> None:
        """Nothing is left to write."""


class ParquetWriter:
    """A Parquet file with typed columns: exact decimals, UTC times, lists of transfers and routes."""

    def __init__(self, sink: IO[bytes]) -> None:
        """Raises `MissingExtraError` where pyarrow is not installed."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError("Parquet", "parquet") from None
        self._pyarrow = pyarrow
        self._schema = _schema(pyarrow)
        self._writer = parquet.ParquetWriter(sink, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Writes some receipts."""
        self._rows += map(_for_parquet, receipts)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Writes what is left and the index at the end of the file; the sink stays open."""
        if self._rows:
            self._flush()
        self._writer.close()


def _schema(pa: Any) -> Any:
    euro, moment = pa.decimal128(12, 2), pa.timestamp("us", tz="UTC")
    metadata = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
    types = {
        "amount": euro, "fee": euro, "primary_ci_incurred_fee": euro,
        "payment_date_time": moment, "received_at": moment, "last_resend_at": moment, "first_at": moment,
        "raw_purged_at": moment, "anonymised_at": moment,
        "application_date": pa.date32(), "transfer_date": pa.date32(),
        "stand_in": pa.bool_(), "digital_stamp": pa.bool_(),
        "version": pa.int16(), "id_transfer": pa.int16(), "position": pa.int16(), "resends": pa.int32(),
        "metadata": metadata, "flags": pa.list_(pa.string()),
    }  # fmt: skip

    def fields(names: Sequence[str]) -> list[Any]:
        return [pa.field(name, types.get(name, pa.string())) for name in names]

    types["routes"] = pa.list_(pa.struct(fields(("id_broker_pa", "id_station", "first_at"))))
    types["transfers"] = pa.list_(pa.struct(fields(("position", *_TRANSFER))))
    return pa.schema(fields((*COLUMNS, "transfers")))


def _for_parquet(receipt: dict[str, Any]) -> dict[str, Any]:
    def entries(metadata: Any) -> Any:
        return metadata and [{"key": key, "value": value} for key, value in metadata]

    return receipt | {
        "content_hash": receipt["content_hash"].hex(),
        "metadata": entries(receipt["metadata"]),
        "transfers": [one | {"metadata": entries(one["metadata"])} for one in receipt["transfers"]],
    }


# --- files ------------------------------------------------------------------------------------------------------------


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when it is complete, replacing what had it; on any error nothing is left.

    Readable by its owner alone: what is written tells who paid for what.
    """
    if path.exists() and not path.is_file():  # a pipe or a device takes what comes, it cannot be replaced
        with path.open("wb") as sink:
            yield sink
        return
    path = path.resolve()  # the file that a link points to, not the link
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
