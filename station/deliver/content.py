"""What a receiver is told of a receipt: the same in a webhook and in the feed."""

import uuid
from typing import Any

from station import config
from station.store.outgoing import Choice, Numbered

_NAMESPACE = uuid.UUID("5d1c6a5e-6f0b-5c7e-9a42-2f2f1d0c8b11")


def choice(destination: config.Destination) -> Choice:
    """Return which receipts a destination gets."""
    return Choice(destination.ecs, destination.categories, destination.copies)


def event_id(numbered: Numbered) -> str:
    """Return the id of one revision of a receipt: the same at each attempt, and after the database was restored."""
    receipt = numbered.receipt
    name = f"{receipt['id_pa']}/{receipt['receipt_id']}/{numbered.revision}"
    return f"evt_{uuid.uuid5(_NAMESPACE, name).hex}"


def event_type(numbered: Numbered) -> str:
    """Return `receipt.stored` for a new receipt, `receipt.completed` for one whose content became fuller later."""
    return "receipt.stored" if numbered.revision == 1 else "receipt.completed"


def item(numbered: Numbered, *, thin: bool = False) -> dict[str, Any]:
    """Return a receipt for `text.as_json`, with its number in the order of delivery.

    `thin`: its identifiers only. Otherwise all its columns as in `receipts export --format jsonl`: amounts in euro as
    text with two decimals, times in UTC.
    """
    receipt = numbered.receipt
    head = {"number": numbered.number, "id": event_id(numbered), "type": event_type(numbered)}
    head |= {"revision": numbered.revision, "numbered_at": numbered.numbered_at}
    names = ("id_pa", "receipt_id", "notice_number", "iuv", "fiscal_code")
    shown = {name: receipt[name] for name in names} if thin else receipt
    return head | {"receipt": {name: value for name, value in shown.items() if name not in ("raw", "charset")}}
