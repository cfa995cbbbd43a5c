"""Digital stamps (marche da bollo digitali): the documents that receipts carry in MBDAttachment, into files.

A stamp is signed and stands for itself, so it leaves as the bytes it came as, with their SHA-256.
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
from station.retry import retrying

_log = log.get(__name__)

# receiptId and idPA may be any text. In a file name they stand as they are only where nothing in them can mean anything
# to a file system: no separators, no dots, no letters that some systems take for others.
_SAFE = re.compile(r"[0-9a-z]{1,64}")


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


def file_name(id_pa: str, receipt_id: str, position: int, content: bytes) -> str:
    """A name of safe characters that no other stamp has."""
    safe = (
        one if _SAFE.fullmatch(one) else f"id-{sha256(one.encode()).hexdigest()[:32]}" for one in (id_pa, receipt_id)
    )
    return f"{'_'.join(safe)}_{position}.{'xml' if content.lstrip().startswith(b'<') else 'bin'}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def extract(engine: store.Engine, wanted: store.Filter, folder: Path) -> Iterator[Stamp | StampError]:
    """Writes the stamps of all receipts that fit into `folder`; what it wrote, or what went wrong with one receipt.

    A file that is there already with the same content is left as it is, so that this can be run again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for batch in export.batches(engine, replace(wanted, digital_stamp=True)):
        for receipt in batch:
            try:
                for position, content in _contents(engine, receipt):
                    yield _write(folder, receipt, position, content)
            except (StampError, OSError) as error:
                reason = error.strerror if isinstance(error, OSError) else str(error)
                _log.error("stamp_unwritten", id_pa=receipt["id_pa"], receipt_id=receipt["receipt_id"], reason=reason)
                yield StampError(f"receipt {receipt['receipt_id']} of EC {receipt['id_pa']}: {reason}")


def _contents(engine: store.Engine, receipt: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    """The stamps in a receipt's stored document, with the place of their transfer, from 1."""
    found = retrying(lambda: _find(engine, receipt))
    if found is None or not found["raw"]:
        raise StampError("its document was purged")
    try:
        request = contract.request_element(contract.parse(found["raw"], found["charset"]).root)
    except DocumentError as error:
        raise StampError(f"its document cannot be read: {error}") from error
    for position, transfer in enumerate(request.iterfind("receipt/transferList/transfer"), start=1):
        encoded = transfer.findtext("MBDAttachment")
        if encoded is not None:
            try:
                yield position, base64.b64decode("".join(encoded.split()), validate=True)
            except (binascii.Error, ValueError):
                raise StampError(f"the stamp of transfer {position} is not base64") from None


def _find(engine: store.Engine, receipt: dict[str, Any]) -> dict[str, Any] | None:
    with store.transaction(engine, readonly=True) as connection:
        return store.find(connection, receipt["id_pa"], receipt["receipt_id"])


def _write(folder: Path, receipt: dict[str, Any], position: int, content: bytes) -> Stamp:
    path = folder / file_name(receipt["id_pa"], receipt["receipt_id"], position, content)
    if not path.is_symlink() and path.is_file():
        if path.read_bytes() != content:
            raise StampError(f"{path.name} is there already with other content")
    else:
        with export.whole_file(path) as sink:
            sink.write(content)
    transfer: dict[str, Any] = next((one for one in receipt["transfers"] if one["position"] == position), {})
    known: dict[str, Any] = {name: receipt[name] for name in _OF_RECEIPT}
    known |= {name: transfer.get(name) for name in _OF_TRANSFER}
    return Stamp(file=path.name, sha256=sha256(content).hexdigest(), size=len(content), position=position, **known)
