"""The ZIP of a folder: receipts.csv, transfers.csv, the documents and manifest.json, in flat memory.

The same receipts and the same time of planning give the same bytes: nothing in it depends on when it is written.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from station import __version__, columns, export, stamps
from station.clock import ROME
from station.config import Folder
from station.receipt import Flag
from station.text import as_json

_CHUNK = 1024 * 1024
_ZIP_YEARS = range(1980, 2108)


class Line(NamedTuple):
    """A receipt in a file, with the number it is there by; `new`: it had no number before."""

    number: int
    new: bool
    receipt: dict[str, Any]


class FileFigures(NamedTuple):
    """The content of a file in figures; `amount` in euro is the sum of its receipts' amounts."""

    receipts: int
    transfers: int
    amount: Decimal


def document_name(receipt: dict[str, Any]) -> str | None:
    """Return the document's name in the ZIP, which no other receipt has; `None` where the document was purged, or has
    not come yet (a provisional receipt)."""
    if not receipt["raw"] or Flag.PROVISIONAL in receipt["flags"]:
        return None
    return f"xml/{stamps.safe_name(receipt['id_pa'])}/{stamps.safe_name(receipt['receipt_id'])}.xml"


def write(
    sink: IO[bytes], pages: Iterable[list[Line]], folder: Folder, *, first: int, last: int, planned_at: datetime
) -> FileFigures:
    """Write the ZIP with the numbers `first` to `last` into a file that can seek. Raise `OSError`, and what `pages` do.

    `pages` have the receipts with their documents. The tables grow beside the ZIP, in files without a name that vanish
    with the process.
    """
    count, transfers, amount = 0, 0, Decimal("0.00")
    entries: list[dict[str, Any]] = []
    without: list[dict[str, Any]] = []
    local = planned_at.astimezone(ROME)
    at = local.timetuple()[:6] if local.year in _ZIP_YEARS else (1980, 1, 1, 0, 0, 0)

    def entry(name: str, size: int, digest: str) -> None:
        entries.append({"name": name, "size": size, "sha256": digest})

    with ExitStack() as stack:
        archive = stack.enter_context(ZipFile(sink, "w"))
        tables = {name: stack.enter_context(TemporaryFile(dir=folder.path)) for name in ("receipts", "transfers")}
        receipts_csv = _writer(tables["receipts"], folder.receipts_columns, columns.RECEIPTS_CSV, folder)
        transfers_csv = _writer(tables["transfers"], folder.transfers_columns, columns.TRANSFERS_CSV, folder)
        for page in pages:
            rows = []
            for line in page:
                receipt, name = line.receipt, document_name(line.receipt)
                event = "stored" if line.new else "completed"
                rows.append(receipt | {"number": line.number, "event": event, "document": name})
                if name is None:
                    key = {name: receipt[name] for name in ("id_pa", "receipt_id", "raw_purged_at", "anonymised_at")}
                    provisional = Flag.PROVISIONAL in receipt["flags"]
                    without.append({"number": line.number} | key | {"provisional": provisional})
                else:
                    archive.writestr(_info(name, at), receipt["raw"])
                    entry(name, len(receipt["raw"]), sha256(receipt["raw"]).hexdigest())
                count += 1
                amount += receipt["amount"]
                transfers += len(receipt["transfers"])
            receipts_csv.write(rows)
            transfers_csv.write([row for receipt in rows for row in columns.transfer_rows(receipt)])
        receipts_csv.close()
        transfers_csv.close()
        for name, table in tables.items():
            info = _info(f"{name}.csv", at)
            info.file_size, digest = table.tell(), sha256()
            table.seek(0)
            with archive.open(info, "w") as target:
                while chunk := table.read(_CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            entry(info.filename, table.tell(), digest.hexdigest())
        manifest = {
            "station": __version__,
            "destination": folder.name,
            "planned_at": planned_at,
            "number_from": first,
            "number_to": last,
            "receipts": count,
            "transfers": transfers,
            "amount": amount,
            "files": sorted(entries, key=lambda one: one["name"]),
            "without_document": without,
        }
        archive.writestr(_info("manifest.json", at), _manifest(manifest))
    return FileFigures(count, transfers, amount)


def read(path: Path, folder: Folder, *, first: int, last: int) -> FileFigures | None:
    """Return what a file holds, which is whole and has just these numbers; otherwise `None`. Raise `OSError`."""
    try:
        with ZipFile(path) as archive:
            found = json.loads(archive.read("manifest.json"))
        if (found["destination"], found["number_from"], found["number_to"]) != (folder.name, first, last):
            return None
        return FileFigures(int(found["receipts"]), int(found["transfers"]), Decimal(found["amount"]))
    except (BadZipFile, KeyError, TypeError, ValueError, ArithmeticError, EOFError, NotImplementedError):
        return None


def _writer(sink: IO[bytes], chosen: tuple[str, ...], default: tuple[str, ...], folder: Folder) -> export.CsvWriter:
    names, titles = [], []
    for text in chosen or default:
        name, _, title = text.partition("=")
        names.append(name)
        titles.append(title or (columns.title(name) if folder.italian else name))
    return export.CsvWriter(sink, names, titles=titles, italian=folder.italian, marked=not folder.exact)


def _info(name: str, at: tuple[int, ...]) -> ZipInfo:
    info = ZipInfo(name, at)  # type: ignore[arg-type]
    info.create_system = 3  # Unix, on every system
    info.external_attr = 0o640 << 16
    info.compress_type = ZIP_DEFLATED
    return info


def _manifest(manifest: dict[str, Any]) -> str:
    """Return JSON that people can read, with one line for each entry of a list."""

    def lines() -> Iterator[str]:
        for name, value in manifest.items():
            if isinstance(value, list) and value:
                yield f"  {as_json(name)}: [\n    " + ",\n    ".join(map(as_json, value)) + "\n  ]"
            else:
                yield f"  {as_json(name)}: {as_json(value)}"

    return "{\n" + ",\n".join(lines()) + "\n}\n"
