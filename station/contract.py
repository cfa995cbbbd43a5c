"""The published contract: bytes -> hardened parse -> valid tree -> `Receipt`. The only user of the XSD.

What comes in may be a SOAP 1.1 envelope, a bare request element, or the GPD API's document (the same request with its
root in no namespace). No SOAP answers here (see `soap`), no decision about what to do with a receipt (see `intake`).
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from hashlib import sha256
from typing import Any, TypeAlias
from zoneinfo import ZoneInfo

from lxml import etree

from station.errors import DocumentError, InvalidReceiptError, MalformedDocumentError
from station.folder import folder
from station.receipt import Flag, Identifiers, Receipt, Subject, Transfer, oddities

NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
NS_SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
NS_XSI = "http://www.w3.org/2001/XMLSchema-instance"
XS = "{http://www.w3.org/2001/XMLSchema}"

RECEIPT_OPERATIONS = {f"{{{NS}}}paSendRTV2Request": "paSendRTV2", f"{{{NS}}}paSendRTReq": "paSendRT"}
# The GPD receipts API serves the same requests with their root in no namespace, one with a capital P.
_GPD_ROOTS = {"PaSendRTV2Request": f"{{{NS}}}paSendRTV2Request", "paSendRTReq": f"{{{NS}}}paSendRTReq"}
_VERSIONS = {"paSendRTV2": 2, "paSendRT": 1}

# A receiptId is xs:string without a bound, but a B-tree entry has one (PostgreSQL: 2,704 bytes with the other key
# columns). Real ones have 32 characters; a longer one than this is stood for by its hash.
RECEIPT_ID_BYTES = 1024

_BLANKS = " \t\r\n"
_ROME = ZoneInfo("Europe/Rome")

# An element without prefixes and without blanks between elements: [tag, text] or [tag, [children]], and as a third
# item the attributes, where there are any.
Plain: TypeAlias = list[Any]
Element: TypeAlias = etree._Element


@dataclass(frozen=True, slots=True)
class Document:
    """What came in: the exact bytes, the character set the transport gave them where it was decisive, and the tree."""

    raw: bytes
    charset: str | None
    root: Element


class _PerThread(threading.local):
    """lxml's parser and schema keep the error log of their last use: one of each for every thread."""

    def __init__(self) -> None:
        self.schema = etree.XMLSchema(_schema_tree())


def _parser(charset: str | None = None) -> etree.XMLParser:
    """No DTD, no entities, no network, libxml2's own limits on depth and text.

    Comments and processing instructions are dropped by the parser, so that text on both sides of one is one text.
    """
    return etree.XMLParser(
        encoding=charset,
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


# A document type can only stand before the root element, behind comments and processing instructions. Atomic groups:
# no input makes this pattern go back.
_DOCTYPE = re.compile(rb"(?>\s++|(?><\?.*?\?>)|(?><!--.*?-->))*+<!DOCTYPE", re.DOTALL)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
# The largest request has some 1,000 elements, and attributes on the envelope only. libxml2 validates attributes in time
# that grows with their square: 80,000 of them on one element, 1 MiB of body, took 92 s.
_TOO_MUCH = etree.XPath("count(//*) > 20000 or count(//@*) > 1000")
# The same before a tree is built, which takes thirty times the memory of such a document.
_MAX_TAGS = 50_000
# One for each of the largest request's elements, twice. To validate takes elements times namespaces: 0.4 s with 20,000.
_MAX_NAMESPACES = 2_000


def parse(raw: bytes, charset: str | None = None) -> Document:
    """Parses `raw` with the hardened parser.

    `charset` is the one the transport names (RFC 7303: it goes before the document's own declaration, and a byte order
    mark before both). Senders are wrong about it more often than documents are, so where the bytes do not parse in it
    the document's own word counts. Raises `MalformedDocumentError`.
    """
    start = raw[:4096].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe")
    if _DOCTYPE.match(start):
        raise MalformedDocumentError("a document type declaration (DTD) is not accepted")
    if raw.count(b"<") > _MAX_TAGS:
        raise MalformedDocumentError(f"more than {_MAX_TAGS} tags and comments")
    if raw.count(b"xmlns") > _MAX_NAMESPACES:
        raise MalformedDocumentError(f"more than {_MAX_NAMESPACES} declarations of namespaces")
    if charset is not None and not raw.startswith(_BOMS):
        try:
            return _checked(raw, charset, etree.fromstring(raw, _parser(charset)))
        except (etree.XMLSyntaxError, LookupError, ValueError):
            pass
    try:
        return _checked(raw, None, etree.fromstring(raw, _parser()))
    except (etree.XMLSyntaxError, ValueError) as error:
        raise MalformedDocumentError(f"not well-formed XML{_where(error)}") from None


def _checked(raw: bytes, charset: str | None, root: Element) -> Document:
    # The quick look above sees the first 4 KiB only; this one sees every document type.
    if root.getroottree().docinfo.internalDTD is not None:
        raise MalformedDocumentError("a document type declaration (DTD) is not accepted")
    if _TOO_MUCH(root):
        raise MalformedDocumentError("more than 20000 elements or 1000 attributes")
    return Document(raw, charset, root)


def _where(error: Exception) -> str:
    line, column = getattr(error, "position", (0, 0))
    return f" (line {line}, column {column})" if line else ""


def request_element(root: Element) -> Element:
    """The request in a SOAP envelope, or `root` itself where it is a bare request or the GPD API's document.

    The GPD API's root is renamed to the published name, in the tree only. Raises `DocumentError`.
    """
    if root.tag == f"{{{NS_SOAP}}}Envelope":
        bodies = root.findall(f"{{{NS_SOAP}}}Body")
        if len(bodies) != 1:
            raise DocumentError(f"the SOAP envelope holds {len(bodies)} Body elements instead of one")
        entries = list(bodies[0])
        if len(entries) != 1:
            raise DocumentError(f"the SOAP Body holds {len(entries)} elements instead of one")
        return entries[0]
    if etree.QName(root).localname == "Envelope":
        raise DocumentError("the root is an Envelope, but not in the namespace of SOAP 1.1")
    if root.tag in _GPD_ROOTS:
        root.tag = _GPD_ROOTS[root.tag]
    return root


def read(request: Element, *, refuse_unknown: bool = False) -> Receipt:
    """The receipt in a `paSendRTV2Request` or `paSendRTReq` element.

    Raises `InvalidReceiptError` where the element breaks the published schema. Elements whose names the schema does
    not know where they stand are no breach unless `refuse_unknown`: the receipt is read without them and flagged, and
    its hash covers them. Raises `DocumentError` where the element is no receipt request.
    """
    operation = RECEIPT_OPERATIONS.get(request.tag)
    if operation is None:
        raise DocumentError("not a receipt request")
    plain = _plain(request)
    unknown = _validate(request, refuse_unknown=refuse_unknown)
    # The hash covers what is unknown, the columns do not: it may have a known name, elsewhere, with another content.
    return _receipt(_plain(request) if unknown else plain, _VERSIONS[operation], content_hash(plain), unknown=unknown)


def identify(request: Element) -> Identifiers:
    """Reads the identifiers of any request of the port type, valid or not."""

    def text(parent: Element | None, name: str) -> str | None:
        # By name and level by level: a path costs a search of its own, ten times as long.
        found = None if parent is None else child(parent, name)
        # More than the longest identifier is nobody's.
        return found.text[:64] if found is not None and found.text else None

    def child(parent: Element, name: str) -> Element | None:
        return next(parent.iterchildren(name), None)

    receipt = child(request, "receipt")
    return Identifiers(
        operation=RECEIPT_OPERATIONS.get(request.tag) or etree.QName(request).localname[:64],
        id_pa=text(request, "idPA"),
        id_broker_pa=text(request, "idBrokerPA"),
        id_station=text(request, "idStation"),
        receipt_id=text(receipt, "receiptId"),
        notice_number=text(receipt, "noticeNumber") or text(child(request, "qrCode"), "noticeNumber"),
        iuv=text(receipt, "creditorReferenceId"),
        id_psp=text(receipt, "idPSP"),
        id_channel=text(receipt, "idChannel"),
        payment_method=text(receipt, "paymentMethod"),
    )


# --- validation -------------------------------------------------------------------------------------------------------


def _schema_tree() -> etree._ElementTree:
    return etree.parse(folder("wsdl") / "paForNode.xsd", etree.XMLParser(no_network=True))


def _validate(request: Element, *, refuse_unknown: bool) -> bool:
    """Whether the request is valid but for unknown elements. Raises `InvalidReceiptError` where it is not valid."""
    schema = _per_thread.schema
    if schema.validate(request):
        return False
    unknown = not refuse_unknown and _strip_unknown(request, _known_elements()[request.tag])
    trimmed = _trim_dates(request)
    if (unknown or trimmed) and schema.validate(request):
        return unknown
    log: Any = schema.error_log
    raise InvalidReceiptError(_path(log[0], request), log[0].line or None, _rule(log[0]))


def _trim_dates(request: Element) -> bool:
    """Takes blanks around dates out of the tree: XSD ignores them, libxml2 refuses them. Whether there were any."""
    dates = [request.find(f"receipt/{name}") for name in ("paymentDateTime", "applicationDate", "transferDate")]
    blank = [date for date in dates if date is not None and date.text and date.text != date.text.strip(_BLANKS)]
    for date_ in blank:
        date_.text = (date_.text or "").strip(_BLANKS)
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


# --- reading ----------------------------------------------------------------------------------------------------------


def _plain(element: Element) -> Plain:
    """The element without prefixes, blanks between elements and hints to schemas: what it says, as nested lists."""
    if len(element):
        children = list(element)
        content: Any = [_plain(child) for child in children]
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


def _integer(text: str) -> int:
    """A number that has any number of zeros before it, as XSD lets it: `int` reads 4,300 digits at most."""
    try:
        return int(text)
    except ValueError:
        return int(_ZEROS.sub("", text))


_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


# Values that can be written in several ways, and are when a document is read and written again on its way (the GPD API
# serves such copies): each by the one way it is hashed in.
_CANONICAL: dict[str, Callable[[str], str]] = {
    "paymentAmount": lambda text: str(Decimal(text.strip(_BLANKS))),
    "fee": lambda text: str(Decimal(text.strip(_BLANKS))),
    "primaryCiIncurredFee": lambda text: str(Decimal(text.strip(_BLANKS))),
    "transferAmount": lambda text: str(Decimal(text.strip(_BLANKS))),
    "idTransfer": lambda text: str(_integer(text)),
    "standIn": lambda text: "true" if text.strip(_BLANKS) in ("true", "1") else "false",
    "paymentDateTime": lambda text: str(read_date_time(text.strip(_BLANKS)) or text.strip(_BLANKS)),
    "applicationDate": lambda text: text.strip(_BLANKS),
    "transferDate": lambda text: text.strip(_BLANKS),
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


class _Fields:
    """The children of one element by name: text as it stands, or trimmed where its type ignores blanks around it."""

    __slots__ = ("_children",)

    def __init__(self, children: list[Plain]) -> None:
        self._children = {child[0]: child[1] for child in children}

    def text(self, name: str) -> str:
        return str(self._children[name])

    def optional(self, name: str) -> str | None:
        return self._children.get(name)

    def token(self, name: str) -> str:
        return str(self._children[name]).strip(_BLANKS)

    def fields(self, name: str) -> "_Fields":
        return _Fields(self._children[name])

    def __contains__(self, name: str) -> bool:
        return name in self._children

    def amount(self, name: str) -> Decimal:
        return Decimal(self.token(name))

    def optional_amount(self, name: str) -> Decimal | None:
        return self.amount(name) if name in self else None

    def optional_boolean(self, name: str) -> bool | None:
        return self.token(name) in ("true", "1") if name in self else None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Keys and values in their order; a key may occur twice."""
        entries = (_Fields(entry[1]) for entry in self._children.get("metadata", ()) if entry[0] == "mapEntry")
        return tuple((entry.text("key"), entry.text("value")) for entry in entries)

    def subject(self, name: str) -> Subject:
        subject = self.fields(name)
        identifier = subject.fields("uniqueIdentifier")
        return Subject(
            type=identifier.text("entityUniqueIdentifierType"),
            id=identifier.text("entityUniqueIdentifierValue"),
            name=subject.text("fullName"),
        )

    def transfers(self) -> Iterator[Transfer]:
        for transfer in self._children["transferList"]:
            if transfer[0] == "transfer":
                yield _transfer(_Fields(transfer[1]))


def _transfer(transfer: _Fields) -> Transfer:
    return Transfer(
        id_transfer=_integer(transfer.token("idTransfer")),
        amount=transfer.amount("transferAmount"),
        fiscal_code_pa=transfer.text("fiscalCodePA"),
        company_name=transfer.optional("companyName"),
        iban=transfer.optional("IBAN"),
        digital_stamp="MBDAttachment" in transfer,
        remittance_information=transfer.text("remittanceInformation"),
        transfer_category=transfer.text("transferCategory"),
        metadata=transfer.metadata(),
    )


def _receipt(request: Plain, version: int, hash_: bytes, *, unknown: bool) -> Receipt:
    envelope = _Fields(request[1])
    fields = envelope.fields("receipt")
    transfers = tuple(fields.transfers())
    dates: list[tuple[str, Callable[[str], date | None]]] = [
        ("paymentDateTime", read_date_time),
        ("applicationDate", read_date),
        ("transferDate", read_date),
    ]
    read_dates = {name: reader(fields.token(name)) for name, reader in dates if name in fields}
    payment_date_time = read_dates.get("paymentDateTime")
    receipt_id = fields.text("receiptId")
    id_bytes = receipt_id.encode()
    id_pa = envelope.text("idPA")
    flags = oddities(
        id_pa=id_pa,
        fiscal_code=fields.text("fiscalCode"),
        notice_number=fields.text("noticeNumber"),
        iuv=fields.text("creditorReferenceId"),
        outcome=fields.text("outcome"),
        amount=fields.amount("paymentAmount"),
        transfers=transfers,
        stand_in=fields.optional_boolean("standIn"),
    )
    if unknown:
        flags.add(Flag.UNKNOWN_ELEMENTS)
    if None in read_dates.values():
        flags.add(Flag.DATE_OUT_OF_RANGE)
    if len(id_bytes) > RECEIPT_ID_BYTES:
        flags.add(Flag.RECEIPT_ID_HASHED)
        receipt_id = f"sha256:{sha256(id_bytes).hexdigest()}"
    return Receipt(
        version=version,
        id_pa=id_pa,
        id_broker_pa=envelope.text("idBrokerPA"),
        id_station=envelope.text("idStation"),
        receipt_id=receipt_id,
        notice_number=fields.text("noticeNumber"),
        fiscal_code=fields.text("fiscalCode"),
        outcome=fields.text("outcome"),
        iuv=fields.text("creditorReferenceId"),
        amount=fields.amount("paymentAmount"),
        description=fields.text("description"),
        company_name=fields.text("companyName"),
        office_name=fields.optional("officeName"),
        debtor=fields.subject("debtor"),
        transfers=transfers,
        id_psp=fields.text("idPSP"),
        psp_fiscal_code=fields.optional("pspFiscalCode"),
        psp_partita_iva=fields.optional("pspPartitaIVA"),
        psp_company_name=fields.text("PSPCompanyName"),
        id_channel=fields.text("idChannel"),
        channel_description=fields.text("channelDescription"),
        payer=fields.subject("payer") if "payer" in fields else None,
        payment_method=fields.optional("paymentMethod"),
        payment_note=fields.optional("paymentNote"),
        fee=fields.optional_amount("fee"),
        primary_ci_incurred_fee=fields.optional_amount("primaryCiIncurredFee"),
        id_bundle=fields.optional("idBundle"),
        id_ci_bundle=fields.optional("idCiBundle"),
        payment_date_time=payment_date_time if isinstance(payment_date_time, datetime) else None,
        application_date=read_dates.get("applicationDate"),
        transfer_date=read_dates.get("transferDate"),
        metadata=fields.metadata(),
        stand_in=fields.optional_boolean("standIn"),
        content_hash=hash_,
        flags=frozenset(flags),
    )


def read_date_time(lexical: str) -> datetime | None:
    """An xs:dateTime as aware UTC time to the microsecond, `None` outside the years 1 to 9999.

    Without a zone it is Italian civil time, as the Nodo writes it.
    """
    midnight_after = "T24:00:00" in lexical  # XSD's other way to write the next day's midnight
    if midnight_after:
        lexical = lexical.replace("T24:", "T00:")
    try:
        moment = datetime.fromisoformat(lexical)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=_ROME)
        return (moment + timedelta(days=midnight_after)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def read_date(lexical: str) -> date | None:
    """An xs:date, its zone left out; `None` outside the years 1 to 9999."""
    try:
        return date.fromisoformat(lexical[:10]) if lexical[4:5] == "-" else None
    except ValueError:
        return None


_per_thread = _PerThread()
