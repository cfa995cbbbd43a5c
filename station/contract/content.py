"""What a receipt says, however it is written: its fields, and the canonical form that its hash is made of."""

from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256
from json import JSONEncoder
from typing import Any, NamedTuple, TypeAlias

from station.contract.parsing import NS_XSI, Element
from station.contract.values import BLANKS, integer, read_date, read_date_time

# The children of an element in their order: each its name, and its text, what its text means, or its own children.
Fields: TypeAlias = list[tuple[str, Any]]


# Values that can be written in several ways, and are when a document is read and written again on its way (the GPD API
# serves such copies): for each the one way it is hashed in, and what it means.


def _amount(text: str) -> tuple[str, Decimal]:
    value = Decimal(text.strip(BLANKS))
    return str(value), value


def _integer(text: str) -> tuple[str, int]:
    value = integer(text)
    return str(value), value


def _boolean(text: str) -> tuple[str, bool]:
    value = text.strip(BLANKS) in ("true", "1")
    return "true" if value else "false", value


def _date_time(text: str) -> tuple[str, datetime | None]:
    lexical = text.strip(BLANKS)
    value = read_date_time(lexical)
    return str(value or lexical), value


def _date(text: str) -> tuple[str, date | None]:
    lexical = text.strip(BLANKS)
    return lexical, read_date(lexical)


def _base64(text: str) -> tuple[str, str]:
    value = "".join(text.split())
    return value, value


_VALUES: dict[str, Callable[[str], tuple[str, Any]]] = {
    "paymentAmount": _amount,
    "fee": _amount,
    "primaryCiIncurredFee": _amount,
    "transferAmount": _amount,
    "idTransfer": _integer,
    "standIn": _boolean,
    "paymentDateTime": _date_time,
    "applicationDate": _date,
    "transferDate": _date,
    "MBDAttachment": _base64,
}


class _Place(NamedTuple):
    """Which children of an element are values, and the places of those that have children. The rest is text."""

    values: Mapping[str, Callable[[str], tuple[str, Any]]] = {}
    places: Mapping[str, "_Place"] = {}


_RECEIPT = _Place(_VALUES, {"transferList": _Place(places={"transfer": _Place(_VALUES)})})
_ELSEWHERE = _Place()

_as_json = JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def read_content(receipt: Element, *, unknown: bool) -> tuple[Fields, bytes]:
    """The fields of a valid request's `receipt` element, and the SHA-256 of its canonical form. `unknown` tells whether
    the request holds elements that the schema does not know.

    The form is JSON: [name, text] or [name, [children]], and as a third item the attributes, where there are any. It
    is without prefixes, blanks between elements and hints to schemas. The hash is stored with every receipt and tells
    resends from conflicts: never change the form.
    """
    fields, forms = _children(receipt, _RECEIPT, unknown=unknown)
    return fields, sha256(_as_json(("receipt", forms)).encode()).digest()


def _children(element: Element, place: _Place, *, unknown: bool) -> tuple[Fields, list[Any]]:
    """What the children of an element say, and the canonical form of it."""
    fields: Fields = []
    forms: list[Any] = []
    values = place.values
    for child in element:
        name = child.tag
        value: Any
        form: Any
        if len(child):
            value, form = _children(child, place.places.get(name, _ELSEWHERE), unknown=unknown)
        else:
            value = form = child.text or ""
            if name in values:
                try:
                    form, value = values[name](form)
                except (ValueError, ArithmeticError):
                    pass  # not the schema's element of that name, but an unknown one elsewhere: its text is text
                else:
                    fields.append((name, value))
                    forms.append((name, form))
                    continue
        fields.append((name, value))
        attributes = unknown and _attributes(child)
        forms.append((name, form, attributes) if attributes else (name, form))
    if unknown:
        # Attributes, and text beside elements, occur in unknown elements only, but there they are content.
        texts = (element.text, *[child.tail for child in element])
        forms += [("", text) for text in texts if text and not text.isspace()]
    return fields, forms


def _attributes(element: Element) -> list[Any]:
    return sorted(item for item in element.items() if not str(item[0]).startswith(f"{{{NS_XSI}}}"))
