"""Digital stamps (marche da bollo digitali): write the documents that receipts carry in MBDAttachment to files.

A stamp is signed and stands for itself, so its bytes are written unchanged, with their SHA-256.
"""

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from station import contract, export, log, store
from station.errors import DocumentError, StationError
from station.receipt import Source
from station.retry import read
from station.store import queries

_log = log.get(__name__)

# receiptId and idPA may be any text. A file name holds them unchanged only where no file system can misread them: no
# separators, no dots, no capitals (which some systems do not tell from small letters), no device of Windows.
_SAFE = re.compile(r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])$)[0-9a-z]{1,64}")


@dataclass(frozen=True, slots=True)
class Stamp:
    """One stamp and the transfer it paid. `file` is its name in the folder; `sha256` in hex."""

    file: str
    sha256: str
    size: int
    position: int
    id_pa: str
    receipt_id: str
    notice_number: str
    iuv: str
    payment_date_time: datetime | None
    received_at: datetime
    id_transfer: int
    fiscal_code_pa: str
    amount: Decimal


_OF_RECEIPT = ("id_pa", "receipt_id", "notice_number", "iuv", "payment_date_time", "received_at")
_OF_TRANSFER = ("id_transfer", "fiscal_code_pa", "amount")
COLUMNS = tuple(Stamp.__dataclass_fields__)


class StampError(StationError):
    """The digital stamps of a receipt cannot be written."""

    code = "stamp_unwritten"


def safe_name(text: str) -> str:
    """Return a text as a file's name may hold it: unchanged, or its hash; no two texts have the same."""
    return text if _SAFE.fullmatch(text) else f"id-{_digest(text.encode())[:32]}"


def file_name(id_pa: str, receipt_id: str, position: int, content: bytes) -> str:
    """Return a name of safe characters that no other stamp has."""
    ending = "xml" if content.lstrip().startswith(b"<") else "bin"
    return f"{safe_name(id_pa)}_{safe_name(receipt_id)}_{position}.{ending}"


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def extract(engine: store.Engine, filter_: store.Filter, folder: Path) -> Iterator[Stamp | StampError]:
    """Write the stamps of all receipts that fit into `folder`. Yield each, or an error for a receipt that failed.

    A file that is there already with the same content is left as it is, so that this can be run again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for batch in export.batches(engine, replace(filter_, digital_stamp=True)):
        for receipt in batch:
            try:
                for position, content in _contents(engine, receipt):
                    yield _write(folder, receipt, position, content)
            except (StampError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                _log.error("stamp_unwritten", id_pa=receipt["id_pa"], receipt_id=receipt["receipt_id"], reason=reason)
                yield StampError(f"receipt {receipt['receipt_id']} of EC {receipt['id_pa']}: {reason}")


def _contents(engine: store.Engine, receipt: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    """Yield the stamps in a receipt's stored document, with the place of their transfer, from 1."""
    stored = read(engine, queries.find, receipt["id_pa"], receipt["receipt_id"])
    if stored is None or not stored["raw"]:
        raise StampError("its document was purged")
    if stored["source"] == Source.BIZEVENTS:
        raise StampError("it is provisional: BizEvents told of it, without the stamp")
    try:
        request = contract.request_element(contract.parse(stored["raw"], stored["charset"]).root)
    except DocumentError as error:
        raise StampError(f"its document cannot be read: {error}") from error
    for position, transfer in enumerate(request.iterfind("receipt/transferList/transfer"), start=1):
        encoded = transfer.findtext("MBDAttachment")
        if encoded is not None:
            try:
                yield position, base64.b64decode("".join(encoded.split()), validate=True)
            except (binascii.Error, ValueError):
                raise StampError(f"the stamp of transfer {position} is not base64") from None


def _write(folder: Path, receipt: dict[str, Any], position: int, content: bytes) -> Stamp:
    path = folder / file_name(receipt["id_pa"], receipt["receipt_id"], position, content)
    if not path.is_symlink() and path.is_file():
        if path.read_bytes() != content:
            raise StampError(f"{path.name} is there already with other content")
    else:
        with export.whole_file(path) as sink:
            sink.write(content)
    transfers = {transfer["position"]: transfer for transfer in receipt["transfers"]}
    known: dict[str, Any] = {name: receipt[name] for name in _OF_RECEIPT}
    known |= {name: transfers.get(position, {}).get(name) for name in _OF_TRANSFER}
    return Stamp(file=path.name, sha256=_digest(content), size=len(content), position=position, **known)
