"""What a request says, however it is written, and the hash of it that tells resends from conflicts."""

import json
from collections.abc import Callable
from decimal import Decimal
from hashlib import sha256
from typing import Any, TypeAlias

from station.contract.parsing import NS_XSI, Element
from station.contract.values import BLANKS, integer, read_date_time

# An element without prefixes and without blanks between elements: [tag, text] or [tag, [children]], and as a third
# item the attributes, where there are any.
Plain: TypeAlias = list[Any]


def plain(element: Element) -> Plain:
    """The element without prefixes, blanks between elements and hints to schemas: what it says, as nested lists."""
    if len(element):
        children = list(element)
        content: Any = [plain(child) for child in children]
        # Text beside elements occurs in unknown elements only, but there it is content.
        for text in (element.text, *[child.tail for child in children]):
            if text and not text.isspace():
                content.append(["", text])
    else:
        content = element.text or ""
    if element.keys():
        attributes = element.items()
        attributes = sorted((name, value) for name, value in attributes if not str(name).startswith(f"{{{NS_XSI}}}"))
        if attributes:
            return [element.tag, content, attributes]
    return [element.tag, content]


# Values that can be written in several ways, and are when a document is read and written again on its way (the GPD API
# serves such copies): each by the one way it is hashed in.
_CANONICAL: dict[str, Callable[[str], str]] = {
    "paymentAmount": lambda text: str(Decimal(text.strip(BLANKS))),
    "fee": lambda text: str(Decimal(text.strip(BLANKS))),
    "primaryCiIncurredFee": lambda text: str(Decimal(text.strip(BLANKS))),
    "transferAmount": lambda text: str(Decimal(text.strip(BLANKS))),
    "idTransfer": lambda text: str(integer(text)),
    "standIn": lambda text: "true" if text.strip(BLANKS) in ("true", "1") else "false",
    "paymentDateTime": lambda text: str(read_date_time(text.strip(BLANKS)) or text.strip(BLANKS)),
    "applicationDate": lambda text: text.strip(BLANKS),
    "transferDate": lambda text: text.strip(BLANKS),
    "MBDAttachment": lambda text: "".join(text.split()),
}


def content_hash(request: Plain) -> bytes:
    """SHA-256 of the canonical form of a valid request's `receipt` element.

    It is stored with every receipt and tells resends from conflicts: never change the form.
    """
    receipt = _child(request, "receipt")
    fields = [
        [field[0], [[part[0], _canonical(part[1])] if part[0] == "transfer" else part for part in field[1]]]
        if field[0] == "transferList"
        else field
        for field in _canonical(receipt[1])
    ]
    return sha256(_as_json([receipt[0], fields]).encode()).digest()


_as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _child(element: Plain, name: str) -> Plain:
    return next(child for child in element[1] if child[0] == name)


def _canonical(fields: list[Plain]) -> list[Plain]:
    return [_canonical_field(field) if field[0] in _CANONICAL else field for field in fields]


def _canonical_field(field: Plain) -> Plain:
    try:
        return [field[0], _CANONICAL[field[0]](field[1])]
    except (ValueError, ArithmeticError, AttributeError):
        return field  # not the schema's element of that name, but an unknown one elsewhere: no value is known of it
