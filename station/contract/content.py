"""The content of a receipt, however it is written: its fields, the canonical form that its hash is made of, and each
single statement of a document, to be compared with another document's."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from json import JSONEncoder
from typing import Any, NamedTuple, TypeAlias

from station.clock import ROME
from station.contract.parsing import BLANKS, RECEIPT_OPERATIONS, Element
from station.contract.schema import DECLARED, HINTS, NIL, TYPE, Place, is_nil

# The children of an element in their order: each its name, and its text, what its text means, or its own children.
Fields: TypeAlias = list[tuple[str, Any]]


# Values that can be written in several ways, and are when a document is read and written again on its way (the GPD API
# serves such copies). Each function returns the one form in which the value is hashed, and its meaning.


def _amount(text: str) -> tuple[str, Decimal]:
    value = Decimal(text.strip(BLANKS))
    return str(value), value


def _integer(text: str) -> tuple[str, int]:
    try:
        value = int(text)
    except ValueError:  # `int` reads 4,300 digits at most, and there may be any number of leading zeros
        value = int(_ZEROS.sub("", text))
    return str(value), value


_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def _boolean(text: str) -> tuple[str, bool]:
    value = text.strip(BLANKS) in ("true", "1")
    return "true" if value else "false", value


def _date_time(text: str) -> tuple[str, datetime | None]:
    lexical = text.strip(BLANKS)
    midnight_after = "T24:00:00" in lexical  # XSD's other way to write the next day's midnight
    try:
        moment = datetime.fromisoformat(lexical.replace("T24:", "T00:") if midnight_after else lexical)
        if moment.tzinfo is None:  # Italian civil time, as the Nodo writes it
            moment = moment.replace(tzinfo=ROME)
        value: datetime | None = (moment + timedelta(days=1) if midnight_after else moment).astimezone(UTC)
    except (ValueError, OverflowError):
        value = None
    whole, _, rest = lexical.partition(".")
    if value is not None and len(rest) <= 6:
        return str(value), value
    digits = _DIGITS.match(rest)[0]  # type: ignore[index]  # it matches nothing, too
    fraction = digits.rstrip("0")
    if value is not None:  # to the microsecond, and the digits beyond are content as well
        return f"{value}{fraction[6:]}", value
    return _UTC.sub("Z", f"{whole}{fraction and '.'}{fraction}{rest[len(digits) :]}"), None


_DIGITS = re.compile(r"[0-9]*")
_UTC = re.compile(r"[+-]00:00\Z")  # written as Z: the GPD API rewrites the other notations to it


def read_date_time(lexical: str) -> datetime | None:
    """Return an xs:dateTime as aware UTC time to the microsecond, `None` outside the years 1 to 9999.

    Without a zone it is Italian civil time, as the Nodo writes it.
    """
    return _date_time(lexical)[1]


def _date(text: str) -> tuple[str, date | None]:
    lexical = text.strip(BLANKS)
    try:  # the day without its zone, `None` outside the years 1 to 9999
        value = date.fromisoformat(lexical[:10]) if lexical[4:5] == "-" else None
    except ValueError:
        value = None
    return _UTC.sub("Z", lexical), value


def _base64(text: str) -> tuple[str, str]:
    value = "".join(text.split())
    return value, value


# By the built-in type that the schema declares. The rest is text, every character of it.
_VALUES: Mapping[str, Callable[[str], tuple[str, Any]]] = {
    "decimal": _amount,
    "int": _integer,
    "boolean": _boolean,
    "dateTime": _date_time,
    "date": _date,
    "base64Binary": _base64,
}


class _Reader(NamedTuple):
    """The children of an element that are values, and the readers of those that have children."""

    values: Mapping[str, Callable[[str], tuple[str, Any]]]
    below: Mapping[str, "_Reader"]


def _reader(place: Place) -> _Reader:
    children = place.children.items()
    return _Reader(
        {name: _VALUES[child.type] for name, child in children if child.type in _VALUES},
        {name: _reader(child) for name, child in children if child.children},
    )


_RECEIPTS = {operation: DECLARED[operation].children["receipt"] for operation in RECEIPT_OPERATIONS}
_READERS = {operation: _reader(place) for operation, place in _RECEIPTS.items()}

_as_json = JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def read_content(request: Element) -> tuple[Fields, bytes]:
    """Return the fields of the `receipt` element of a request that the schema knows all of, and its content's hash.

    The hash is the SHA-256 of a canonical form, which is JSON: [name, text] or [name, [children]], without prefixes,
    blanks between elements and hints to schemas. It is stored with every receipt: a resend with the same hash needs no
    comparison. If the form changed, each resend of an older receipt would be read and compared (see `comparison`):
    correct, but all the time that the hash saves would be lost.
    """
    fields, forms = _children(next(request.iterchildren("receipt")), _READERS[request.tag])
    return fields, _hash("receipt", forms)


def hash_all(request: Element, known_hash: bytes) -> bytes:
    """Return the content's hash of a valid request that holds more than the schema knows.

    Attributes are a third item of their element, text beside elements is ["", text] in its place. Elements that count
    as missing are left out. `known_hash` is the hash of the part that the schema knows: returned where the receipt
    itself holds no more. Otherwise the receipt has its third item even without attributes: versions before 1.0 had
    none, and one hash for some documents that differ.
    """
    receipt = next(request.iterchildren("receipt"))
    forms = _forms(receipt, _RECEIPTS[request.tag])
    attributes = _content(receipt.items(), known=True)
    if not attributes and _hash("receipt", forms) == known_hash:
        return known_hash
    return _hash("receipt", forms, attributes)


def _hash(*form: Any) -> bytes:
    return sha256(_as_json(form).encode()).digest()


def _children(element: Element, reader: _Reader) -> tuple[Fields, list[Any]]:
    """Return the fields of an element's children, and their canonical form."""
    fields: Fields = []
    forms: list[Any] = []
    values = reader.values
    for child in element:
        name = child.tag
        value: Any
        form: Any
        if len(child):
            value, form = _children(child, reader.below[name])
        elif name in values:
            form, value = values[name](child.text or "")
        else:
            value = form = child.text or ""
        fields.append((name, value))
        forms.append((name, form))
    return fields, forms


def _forms(element: Element, place: Place | None) -> list[Any]:
    """Return the canonical form of an element's children; `place` is `None` where the schema does not know it."""
    forms: list[Any] = []
    text = element.text
    if text and text.strip(BLANKS):
        forms.append(("", text))
    for child in element:
        tag = child.tag
        declared = None if place is None else place.children.get(tag)
        attributes: Any = child.items()
        nil = False
        if attributes:
            nil = declared is not None and is_nil(child)
            attributes = _content(attributes, known=declared is not None)
        form: Any
        if len(child):
            form = _forms(child, declared)
        else:
            form = child.text or ""
            if declared is not None and declared.type in _VALUES and not nil:
                form, _ = _VALUES[declared.type](form)
        if attributes:
            forms.append((tag, form, attributes))
        elif not nil:
            forms.append((tag, form))
        text = child.tail
        if text and text.strip(BLANKS):
            forms.append(("", text))
    return forms


def _content(attributes: Any, *, known: bool) -> list[tuple[str, str]]:
    """Return the attributes that are content: not XSD's own where it knows the element, since it judges them."""
    return sorted(item for item in attributes if item[0] not in (_JUDGED if known else HINTS))


_JUDGED = HINTS | {NIL, TYPE}


# A place in a receipt: names from the top, with the idTransfer of a transfer and the key of a metadata entry.
Path: TypeAlias = tuple[str | int, ...]


class Statements(NamedTuple):
    """The values that a document states by their places, in an order that does not depend on the document's.

    `known` has the content that the schema knows, each place with the canonical forms of its values (several where an
    idTransfer or a key occurs twice), `unknown` the rest.
    """

    known: dict[Path, list[Any]]
    unknown: dict[Path, list[Any]]


# Values that say the same as their absence.
_AS_MISSING = (("standIn",), ["false"]), (("fee",), ["0.00"])


def read_statements(request: Element) -> Statements:
    """Return the statements of a valid request's `receipt` element."""
    made = Statements({}, {})
    _state(next(request.iterchildren("receipt")), _RECEIPTS[request.tag], (), made)
    for path, forms in _AS_MISSING:
        if made.known.get(path) == forms:
            del made.known[path]
    for forms in made.known.values():
        forms.sort()
    return made


def _state(element: Element, place: Place, path: Path, made: Statements) -> None:
    for name, value in _content(element.items(), known=True):
        made.unknown.setdefault((*path, f"@{name}"), []).append(value)
    for child in element:
        tag = child.tag
        declared = place.children.get(tag)
        below: Path = (*path, tag)
        if declared is None:
            made.unknown.setdefault(below, []).append((_forms(child, None), _content(child.items(), known=False)))
            continue
        if tag == "transfer":
            below = (*below, _integer(child.findtext("idTransfer", ""))[1])
        elif tag == "mapEntry":
            below = (*below, child.findtext("key", ""))
        if not is_nil(child) and not declared.children:
            form = child.text or ""
            if declared.type in _VALUES:
                form, _ = _VALUES[declared.type](form)
            made.known.setdefault(below, []).append(form)
        _state(child, declared, below, made)
