"""Receipts as a Parquet file."""

from collections.abc import Sequence
from typing import IO, Any

from station.columns import COLUMNS, OF_TRANSFER, TRANSFER
from station.errors import MissingExtraError

_ROW_GROUP = 10_000  # rows that Parquet keeps together; they are held until it is full


class ParquetWriter:
    """A Parquet file with typed columns: exact decimals, UTC times, lists of transfers and routes."""

    def __init__(self, sink: IO[bytes], columns: Sequence[str] = (*COLUMNS, "transfers")) -> None:
        """Raise `MissingExtraError` where pyarrow is not installed."""
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            raise MissingExtraError("Parquet", "parquet") from None
        self._pyarrow = pyarrow
        self._schema = _schema(pyarrow, columns)
        self._writer = parquet.ParquetWriter(sink, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, receipts: Sequence[dict[str, Any]]) -> None:
        """Write some receipts."""
        self._rows += map(_for_parquet, receipts)
        if len(self._rows) >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(self._pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Write the rest and the index at the end of the file; the sink stays open."""
        if self._rows:
            self._flush()
        self._writer.close()


def _schema(pa: Any, columns: Sequence[str]) -> Any:
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
    types["transfers"] = pa.list_(pa.struct(fields(("position", *TRANSFER))))
    for name, its in OF_TRANSFER.items():
        types.setdefault(name, types.get(its, pa.string()))
    return pa.schema(fields(columns))


def _for_parquet(receipt: dict[str, Any]) -> dict[str, Any]:
    def entries(metadata: Any) -> Any:
        return metadata and [{"key": key, "value": value} for key, value in metadata]

    if "transfers" not in receipt:
        return receipt | {"transfer_metadata": entries(receipt["transfer_metadata"])}
    return receipt | {
        "content_hash": receipt["content_hash"].hex(),
        "metadata": entries(receipt["metadata"]),
        "transfers": [transfer | {"metadata": entries(transfer["metadata"])} for transfer in receipt["transfers"]],
    }
