"""Bytes -> hardened parse -> the request in the document, and who it is from. What is valid stands in `schema`."""

import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from lxml import etree

from station.errors import DocumentError, MalformedDocumentError
from station.receipt import Identifiers

NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
NS_SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
NS_XSI = "http://www.w3.org/2001/XMLSchema-instance"

BLANKS = " \t\r\n"

RECEIPT_OPERATIONS = {f"{{{NS}}}paSendRTV2Request": "paSendRTV2", f"{{{NS}}}paSendRTReq": "paSendRT"}
# Other spellings of the same roots: with a capital P, and in no namespace. The GPD receipts API serves both, and files
# that were made from its documents have them inside an envelope.
_SPELLINGS = {
    f"{namespace}{first}{name[1:]}": f"{{{NS}}}{name}"
    for name in ("paSendRTV2Request", "paSendRTReq")
    for first in "pP"
    for namespace in (f"{{{NS}}}", "")
}

Element: TypeAlias = etree._Element


@dataclass(frozen=True, slots=True)
class Document:
    """A document that came in: its exact bytes, the character set if it is not the document's own word, the tree."""

    raw: bytes
    charset: str | None
    root: Element


# No DTD, no entities, no network, libxml2's own limits on depth and text. Comments and processing instructions are
# dropped, so that text on both sides of one is one text.
_HARDENED: dict[str, Any] = {
    "resolve_entities": False, "no_network": True, "load_dtd": False, "dtd_validation": False, "huge_tree": False,
    "remove_comments": True, "remove_pis": True,
}  # fmt: skip


# A document type can only stand before the root element, behind comments and processing instructions. Atomic groups:
# no input makes this pattern go back.
_DOCTYPE = re.compile(rb"(?>\s++|(?><\?.*?\?>)|(?><!--.*?-->))*+<!DOCTYPE", re.DOTALL)
_BOMS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
# The largest request that the schema knows has 380 elements, and attributes on the envelope only. Time grows with
# elements times namespaces, with elements times attributes (for each that is unknown, lxml counts the siblings of its
# element) and with the square of one element's attributes: 80,000 of them, in a body of 1 MiB, took 92 s.
_MAX_ELEMENTS = 2_500
_MAX_ATTRIBUTES = 1_000
_MAX_NAMESPACES = 1_000  # declarations; as many as elements where each declares its own
_TOO_MUCH = f"count(//*) > {_MAX_ELEMENTS} or count(//@*) > {_MAX_ATTRIBUTES}"
_TOO_MANY_NAMESPACES = f"more than {_MAX_NAMESPACES} namespace declarations"
# Tags and comments, before a tree is built, which takes thirty times the memory of such a document.
_MAX_TAGS = 10_000
# An attribute takes five bytes at least, and so does the name of a namespace: in a document of this size, as most are,
# there is no need to count anything.
_NEVER_TOO_MUCH = 5_000


# The document's own word on its encoding, in its first line.
_DECLARED = re.compile(rb"""<\?xml\s[^>]*?\sencoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_UTF8 = ("utf-8", "utf8")
# What a document in UTF-8 may declare: ASCII is a part of it.
_UTF8_DECLARED = (b"utf-8", b"utf8", b"us-ascii", b"ascii")


def parse(raw: bytes, charset: str | None = None) -> Document:
    """Parse `raw` with the hardened parser.

    `charset` is the one the transport names (RFC 7303: it goes before the document's own declaration, and a byte order
    mark before both). Senders are wrong about it more often than documents are: UTF-8 that does not declare anything
    else is UTF-8 whatever the label says, and where the bytes do not parse in the label's charset the document's own
    word counts. Raises `MalformedDocumentError`.
    """
    start = raw[:4096].replace(b"\0", b"")
    if b"<!DOCTYPE" in start and _DOCTYPE.match(start.lstrip(b"\xef\xbb\xbf\xff\xfe")):
        raise MalformedDocumentError("a document type declaration (DTD) is not accepted")
    if len(raw) > _NEVER_TOO_MUCH:
        if raw.count(b"<") > _MAX_TAGS:
            raise MalformedDocumentError(f"more than {_MAX_TAGS} tags and comments")
        if raw.count(b"xmlns") > _MAX_NAMESPACES:
            raise MalformedDocumentError(_TOO_MANY_NAMESPACES)
    labels: tuple[str | None, ...] = (None,)
    if charset is not None and not raw.startswith(_BOMS):
        labels = ("utf-8", charset, None) if _mislabelled(raw, charset) else (charset, None)
    where = ""
    for label in labels:
        try:
            # A parser for each document, as are compiled paths: lxml's parsers and paths hold a lock, and a MemoryError
            # while it is held would deadlock the next user.
            root = etree.fromstring(raw, etree.XMLParser(encoding=label, **_HARDENED))
        except (etree.XMLSyntaxError, LookupError, ValueError) as error:
            # The next label may be a wrong one: only what does not parse is read by it.
            if getattr(error, "code", None) == etree.ErrorTypes.ERR_NO_MEMORY:
                raise MemoryError from None
            line, column = getattr(error, "position", (0, 0))
            where = f" (line {line}, column {column})" if line else ""
            continue
        # The quick look above sees the first 4 KiB only; this one sees every document type.
        if root.getroottree().docinfo.internalDTD is not None:
            raise MalformedDocumentError("a document type declaration (DTD) is not accepted")
        if len(raw) > _NEVER_TOO_MUCH:
            if root.xpath(_TOO_MUCH):
                raise MalformedDocumentError(f"more than {_MAX_ELEMENTS} elements or {_MAX_ATTRIBUTES} attributes")
            # Again, since other encodings write them in other bytes: UTF-16, or such as UTF-7 whatever they like.
            if next(islice(etree.iterwalk(root, events=("start-ns",)), _MAX_NAMESPACES, None), None):
                raise MalformedDocumentError(_TOO_MANY_NAMESPACES)
        return Document(raw, label, root)
    raise MalformedDocumentError(f"not well-formed XML{where}")


def _mislabelled(raw: bytes, charset: str) -> bool:
    """Whether `raw` is UTF-8 under another label: texts with accents in another encoding are never valid UTF-8."""
    if charset.lower() in _UTF8 or raw.isascii():
        return False
    declared = _DECLARED.match(raw, 0, 1024)
    if declared is not None and declared[1].lower() not in _UTF8_DECLARED:
        return False
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def request_element(root: Element) -> Element:
    """Return the request in a SOAP envelope, or `root` itself if it is a bare request or the GPD API's document.

    A receipt request in another spelling is renamed to the published one, in the tree only. Raises `DocumentError`.
    """
    request = root
    if root.tag == f"{{{NS_SOAP}}}Envelope":
        bodies = list(root.iterchildren(f"{{{NS_SOAP}}}Body"))
        if len(bodies) != 1:
            raise DocumentError(f"the SOAP envelope holds {len(bodies)} Body elements instead of one")
        entries = list(bodies[0])
        if len(entries) != 1:
            raise DocumentError(f"the SOAP Body holds {len(entries)} elements instead of one")
        request = entries[0]
    elif etree.QName(root).localname == "Envelope":
        raise DocumentError("the root is an Envelope, but not in the namespace of SOAP 1.1")
    published = _SPELLINGS.get(request.tag)
    if published is not None and published != request.tag:
        request.tag = published
    return request


# The identifiers of a request by the element that has them ("": the request itself), the one that counts last.
_IDENTIFIERS = (
    ("", ("idPA", "idBrokerPA", "idStation")),
    ("qrCode", ("noticeNumber",)),
    ("receipt", ("receiptId", "noticeNumber", "creditorReferenceId", "idPSP", "idChannel", "paymentMethod")),
)


def identify(request: Element) -> Identifiers:
    """Return the identifiers of any request of the port type, valid or not."""
    texts: dict[str, str | None] = {}
    for place, names in _IDENTIFIERS:
        parent = next(request.iterchildren(place), None) if place else request
        if parent is not None:
            # Backwards, so that the first of a name is the last to be kept. Cut beyond the longest identifier.
            children = parent.iterchildren(*names, reversed=True)
            texts |= {child.tag: (child.text or "")[:64] or None for child in children}
    return Identifiers(
        operation=RECEIPT_OPERATIONS.get(request.tag) or etree.QName(request).localname[:64],
        id_pa=texts.get("idPA"),
        id_broker_pa=texts.get("idBrokerPA"),
        id_station=texts.get("idStation"),
        receipt_id=texts.get("receiptId"),
        notice_number=texts.get("noticeNumber"),
        iuv=texts.get("creditorReferenceId"),
        id_psp=texts.get("idPSP"),
        id_channel=texts.get("idChannel"),
        payment_method=texts.get("paymentMethod"),
    )
