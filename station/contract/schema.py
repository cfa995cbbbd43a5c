"""The published XSD: which requests are valid, what breaks it where, and what of a request it does not know."""

import re
import threading
from copy import deepcopy
from functools import cache
from typing import Any

from lxml import etree

from station.contract.parsing import NS, Element
from station.contract.values import BLANKS
from station.errors import InvalidReceiptError
from station.folder import folder

XS = "{http://www.w3.org/2001/XMLSchema}"


class _Schema(etree.XMLSchema):
    """lxml's schema. Where memory ends, libxml2 reports a breach like any other: here that is a `MemoryError`."""

    def validate(self, request: Any) -> bool:
        error = None
        try:
            if super().validate(request):
                return True
        except etree.XMLSchemaValidateError as raised:
            error = raised
        log: Any = self.error_log
        if any(entry.type == etree.ErrorTypes.ERR_NO_MEMORY for entry in log):
            raise MemoryError
        if error is not None:
            raise error
        return False


class _PerThread(threading.local):
    """lxml's schema keeps the error log of its last use: one for every thread."""

    def __init__(self) -> None:
        self.schema = _Schema(_schema_tree())


def load_schema() -> None:
    """Read the schema for the calling thread, which would read it with its first document: it may not be able to then,
    for want of file descriptors.
    """
    _per_thread.schema  # noqa: B018  (reads it)
    _known_elements()


def _schema_tree() -> etree._ElementTree:
    return etree.parse(folder("wsdl") / "paForNode.xsd", etree.XMLParser(no_network=True))


def known_part(request: Element, *, refuse_unknown: bool) -> Element:
    """The request, or a copy without its unknown elements where there are some. Raises `InvalidReceiptError`."""
    schema = _per_thread.schema
    if schema.validate(request):
        return request
    known = deepcopy(request)
    unknown = not refuse_unknown and _strip_unknown(known, _known_elements()[request.tag])
    trimmed = _trim_dates(known)
    if (unknown or trimmed) and schema.validate(known):
        return known if unknown else request
    log: Any = schema.error_log
    raise InvalidReceiptError(_path(log[0], request), log[0].line or None, _rule(log[0]))


def _trim_dates(request: Element) -> bool:
    """Takes blanks around dates out of the tree: XSD ignores them, libxml2 refuses them. Whether there were any."""
    dates = [request.find(f"receipt/{name}") for name in ("paymentDateTime", "applicationDate", "transferDate")]
    blank = [date for date in dates if date is not None and date.text and date.text != date.text.strip(BLANKS)]
    for date_ in blank:
        date_.text = (date_.text or "").strip(BLANKS)
    return bool(blank)


@cache
def _known_elements() -> dict[str, dict[str, Any]]:
    """For each global element the elements its type knows, nested; `None` stands for an element with simple content."""
    trees = [_schema_tree().getroot()]
    trees += [
        etree.parse(folder("wsdl") / imported.get("schemaLocation", "")).getroot()
        for imported in trees[0].iter(f"{XS}import")
    ]
    types = {type_.get("name"): type_ for tree in trees for type_ in tree.iter(f"{XS}complexType")}

    def children(type_name: str) -> dict[str, Any] | None:
        declared = types.get(type_name.rpartition(":")[2])
        if declared is None:
            return None
        base = next((children(extension.get("base", "")) for extension in declared.iter(f"{XS}extension")), None)
        return (base or {}) | {
            str(element.get("name")): children(element.get("type", "")) for element in declared.iter(f"{XS}element")
        }

    return {
        f"{{{NS}}}{element.get('name')}": children(element.get("type", "")) or {}
        for element in trees[0].findall(f"{XS}element")
    }


def _strip_unknown(element: Element, known: dict[str, Any]) -> bool:
    """Takes out of the tree what the schema does not know where it stands. Whether there was anything."""
    stripped = False
    for child in list(element):
        if child.tag not in known:
            if not (child.tail or "").strip():  # text beside it would go too, and text there is another breach
                element.remove(child)
                stripped = True
        elif known[child.tag] is not None:
            stripped |= _strip_unknown(child, known[child.tag])
    return stripped


def _path(error: etree._LogEntry, request: Element) -> str:
    """The way from the request to the element, without the sender's prefixes: `/paSendRTV2Request/receipt/fee`."""
    steps = (error.path or "").split("/")[2:]
    return "/".join(["", etree.QName(request).localname, *(step.rpartition(":")[2] for step in steps)])[:400]


# The tails of libxml2's messages that come from the schema and not from the document. What the sender wrote stands
# before them, so the last occurrence is libxml2's own.
_RULES = (
    "is not accepted by the pattern",
    "is not an element of the set",
    "is greater than the maximum value allowed",
    "is less than the minimum value allowed",
    "is not a valid value of the atomic type",
    "is not a valid value of the local atomic type",
)
_LENGTH_RULE = re.compile(
    r"\[facet '\w+'\] The value has a length of '\d+'; this \w+ the allowed \w+ length of '\d+'\.$"
)
_EXPECTED = re.compile(
    r"(?:Missing child element\(s\)|This element is not expected)\.(?: Expected is .{0,1000})?$", re.DOTALL
)
_FIXED = (
    "Character content other than whitespace is not allowed because the content type is 'element-only'.",
    "Element content is not allowed, because the type definition is simple.",
    "Element content is not allowed, because the content type is a simple type definition.",
    "Character content is not allowed, because the content type is empty.",
)


def _rule(error: etree._LogEntry) -> str:
    """The rule that was broken, in libxml2's words without what the sender wrote."""
    message = error.message.strip()
    words_at = max(message.rfind(words) for words in _RULES)
    if words_at >= 0:
        facet = re.match(r"Element '[^']*': \[facet '(\w+)'\]", message)
        rule = re.sub(r"\{http[^}]*\}", "", message[words_at:])
        return f"the value {rule}" + (f" (facet {facet[1]})" if facet else "")
    for pattern in (_LENGTH_RULE, _EXPECTED):
        if found := pattern.search(message):
            return found[0]
    return next((words for words in _FIXED if message.endswith(words)), f"breaks the schema rule {error.type_name}")


_per_thread = _PerThread()
