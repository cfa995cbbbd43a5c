"""The published XSD: which requests are valid, which rule is broken where, and which content it does not know."""

import errno
import re
import threading
from typing import Any, NamedTuple

from lxml import etree

from station.contract.parsing import BLANKS, NS, NS_XSI, Element
from station.errors import InvalidReceiptError
from station.folder import folder

XS = "{http://www.w3.org/2001/XMLSchema}"


class _Schema(etree.XMLSchema):
    """lxml's schema. If memory runs out, libxml2 reports a breach like any other: here that is a `MemoryError`."""

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
        try:
            self.schema = _Schema(_schema_tree())
        except (OSError, etree.LxmlError) as error:  # lxml does not say what was missing, and the file is ours
            raise OSError(errno.EMFILE, "the schema cannot be read now") from error


def load_schema() -> None:
    """Read the schema for the calling thread, which would read it with its first document: it may not be able to then,
    for want of file descriptors.
    """
    _per_thread.schema  # noqa: B018  (reads it)


def _schema_tree() -> etree._ElementTree:
    return etree.parse(folder("wsdl") / "paForNode.xsd", etree.XMLParser(no_network=True))


class Place(NamedTuple):
    """The schema's declaration of an element: its children by name, or the built-in type of its text."""

    children: dict[str, "Place"]
    type: str = ""


def _declared() -> dict[str, Place]:
    """Return the declarations of the global elements by tag."""
    schema = _schema_tree().getroot()
    imported = [
        etree.parse(folder("wsdl") / one.get("schemaLocation", "")).getroot() for one in schema.iter(f"{XS}import")
    ]
    types = {
        type_.get("name"): type_
        for tree in (schema, *imported)
        for type_ in tree.iterchildren(f"{XS}complexType", f"{XS}simpleType")
    }

    def place(type_name: str) -> Place:
        local = type_name.rpartition(":")[2]
        if local not in types:
            return Place({}, local)
        bases = [place(base.get("base", "")) for base in types[local].iter(f"{XS}extension", f"{XS}restriction")]
        children = {str(one.get("name")): place(one.get("type", "")) for one in types[local].iter(f"{XS}element")}
        return Place(bases[0].children | children, bases[0].type) if bases else Place(children)

    return {f"{{{NS}}}{one.get('name')}": place(one.get("type", "")) for one in schema.iterchildren(f"{XS}element")}


DECLARED = _declared()


def known_part(request: Element, *, refuse_unknown: bool) -> Element:
    """Return the request, or a copy of its known part if it has more. Raises `InvalidReceiptError`.

    Elements and attributes that the schema does not know where they stand are no breach unless `refuse_unknown`, nor
    are elements that count as missing (see `is_nil`).
    """
    schema = _per_thread.schema
    if schema.validate(request):
        return request
    copy = _KnownPart(request)
    if not ((copy.unknown or copy.trimmed) and schema.validate(copy.root)):
        log: Any = schema.error_log
        line = log[0].line if 0 < log[0].line < _LINE_MAX else None
        raise copy.misplaced(log[0]) or InvalidReceiptError(_path(log[0].path, request), line, _rule(log[0]))
    if copy.unknown and refuse_unknown:
        parent, below, line, rule = copy.unknown
        raise InvalidReceiptError(_path(copy.path(parent), request, *below), line, rule)
    return copy.root if copy.unknown else request


def is_nil(element: Element) -> bool:
    """Tell whether an element is empty and marked as missing by `xsi:nil`."""
    nil = element.get(NIL)
    return nil is not None and nil.strip(BLANKS) in ("true", "1") and not element.text and not len(element)


NIL, TYPE = f"{{{NS_XSI}}}nil", f"{{{NS_XSI}}}type"
# Where a schema would be found: the schema allows it anywhere, and it says nothing.
HINTS = frozenset({f"{{{NS_XSI}}}schemaLocation", f"{{{NS_XSI}}}noNamespaceSchemaLocation"})
_LINE_MAX = 65_535  # the last that an element of libxml2's has room for: no line, where it would be a later one
# Resolving a prefix looks at every namespace. The largest request has 380 elements.
_TYPES_MAX = 400
_MISPLACED_MAX = 50  # elements in a wrong namespace that are remembered: the first of them explain the breach


class _KnownPart:
    """The part of a request that the schema knows, as a document of its own with the element `root`.

    It is built, not pruned: to take thousands of elements out of a tree, libxml2 needs elements times namespaces.
    `unknown` is the first content left out: its place in the copy, a name below that, its line and the rule it breaks.
    `trimmed` is true if there were blanks around dates, which XSD ignores and libxml2 refuses.
    """

    def __init__(self, request: Element) -> None:
        self.unknown: tuple[Element, tuple[str, ...], Any, str] | None = None
        self.trimmed = False
        self._types = 0
        self._misplaced: list[tuple[Element, Element]] = []
        self.root = etree.Element(request.tag, nsmap={"pafn": NS})
        self._fill(self.root, request, DECLARED[request.tag])

    def path(self, element: Element) -> str:
        """Return the path of an element of the copy, as libxml2 writes it."""
        return self.root.getroottree().getpath(element)

    def misplaced(self, error: etree._LogEntry) -> InvalidReceiptError | None:
        """Return the breach in better words if the missing element is there, but in a namespace."""
        missing = _EXPECTED.search(error.message.strip())
        if missing is None or not self._misplaced:
            return None
        names = re.findall(r"[\w.-]+", missing[0].partition("Expected is")[2])
        path = error.path or ""
        parent_path = path if missing[0].startswith("Missing") else path.rpartition("/")[0]
        for parent, element in self._misplaced:
            name = etree.QName(element)
            if name.localname in names and self.path(parent) == parent_path:
                own = ", the request's own" if name.namespace == NS else ""
                rule = f"the element is in a namespace{own}, but the schema defines it without one"
                line: Any = element.sourceline
                return InvalidReceiptError(_path(parent_path, self.root, name.localname), line, rule)
        return None

    def _fill(self, copy: Element, element: Element, place: Place) -> None:
        """Copy the known content of an element into its copy, which has its name."""
        line: Any = element.sourceline
        copy.sourceline = min(line or 0, _LINE_MAX)  # type: ignore[assignment]
        if attributes := element.items():
            self._copy_attributes(copy, element, attributes)
        text = element.text
        if not place.children:
            copy.text = text
            if text and place.type in ("date", "dateTime"):
                copy.text = text.strip(BLANKS)
                self.trimmed |= copy.text != text
            if len(element):  # a breach, and one is enough for it
                etree.SubElement(copy, element[0].tag)
            return
        for child in element:
            tag = child.tag
            declared = place.children.get(tag)
            if declared is None:
                name = etree.QName(child).localname
                if name in place.children and len(self._misplaced) < _MISPLACED_MAX:
                    self._misplaced.append((copy, child))
                self._leave_out(copy, child, "the element is not expected here", name)
            elif is_nil(child):
                self._leave_out(copy, child, "the element is empty and marked as absent by xsi:nil", tag)
            else:
                self._fill(etree.SubElement(copy, tag), child, declared)
            tail = child.tail
            if tail and tail.strip(BLANKS):
                text = tail
        if text and text.strip(BLANKS):
            copy.text = text  # a breach, also beside what is left out

    def _copy_attributes(self, copy: Element, element: Element, attributes: Any) -> None:
        for name, value in attributes:
            if name == TYPE:
                self._types += 1
                copy.set(name, _type_name(element, value) if self._types <= _TYPES_MAX else "")
            elif name == NIL and value.strip(BLANKS) not in ("false", "0"):
                copy.set(name, value)
            elif name not in HINTS:
                name = etree.QName(name).localname[:64]
                self._leave_out(copy, element, f"the attribute {name} is not expected here")

    def _leave_out(self, parent: Element, element: Element, rule: str, *below: str) -> None:
        self.unknown = self.unknown or (parent, below, element.sourceline, rule)


def _type_name(element: Element, value: str) -> Any:
    """Return the name in an `xsi:type`, as it can be set in the copy; empty, which is a breach too, if it is none."""
    prefix, _, local = value.strip(BLANKS).rpartition(":")
    namespaces: Any = element.nsmap
    try:
        return etree.QName(namespaces[prefix or None], local)
    except (KeyError, ValueError):
        return ""


def _path(path: str | None, request: Element, *below: str) -> str:
    """Return the path to the element without the sender's prefixes: `/paSendRTV2Request/receipt/fee`."""
    steps = [step.rpartition(":")[2] for step in (path or "").split("/")[2:]]
    return "/".join(["", etree.QName(request).localname, *steps, *below])[:400]


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


# What is left of attributes once the unknown ones are set apart.
_BY_ATTRIBUTE = re.compile(rf"Element '[^']*', attribute '\{{{re.escape(NS_XSI)}\}}(nil|type)': ")
_ATTRIBUTES = {
    "type": "the attribute xsi:type does not name the type that the schema defines here",
    "nil": "the attribute xsi:nil is not allowed here",
}


def _rule(error: etree._LogEntry) -> str:
    """Return the rule that was broken, in libxml2's words without the sender's text."""
    message = error.message.strip()
    if by_attribute := _BY_ATTRIBUTE.match(message):
        return _ATTRIBUTES[by_attribute[1]]
    if message.endswith("The element is not 'nillable'."):
        return _ATTRIBUTES["nil"]
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
