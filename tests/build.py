"""Requests of every kind the Nodo sends, and the many ways to write one down.

Here: `a_request(...)` and its sisters make a `Request`, `an_envelope(...)`, `a_bare_request(...)` and
`a_gpd_document(...)` turn one into bytes. Random requests live in `strategies.py`, fixed ones in `data/`. Nothing
here imports the station, so that a mistake there cannot hide itself. All names and codes are invented.

    a_request()                                           a valid receipt, unlike every other one
    a_request(version=1)                                  the same for `paSendRT`
    a_request(idPA="88888888888", fee=ABSENT)             other value, element left out
    a_request(debtor__fullName="Ann D'Au")                two underscores descend into an element
    a_request(**{"transfers.0.IBAN": ABSENT, "transfers.0.MBDAttachment": b"..."})     so do dots; bytes become base64
    a_request(metadata={"NOTIFICATION_FEE": "200"})       a plain mapping makes the map entries
    request.but(idPA="88888888888")                       a copy for someone else
    an_envelope(request, "default_namespaces")            by the name of a style, see STYLES
    an_envelope(request, encoding="utf-16", comments=True)     or by its parts, see Style
"""

import base64
import codecs
import copy
import itertools
import os
import random
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any
from xml.sax.saxutils import quoteattr

from lxml import etree

SOAP_NS = "http://schemas.xmlsoap.org/soap/envelope/"
PAF_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
XSI_NS = "http://www.w3.org/2001/XMLSchema-instance"
XSD_NS = "http://www.w3.org/2001/XMLSchema"

EC = "77777777777"
OTHER_EC = "88888888888"
BROKER = "15376371009"
STATION = "15376371009_01"

OPERATIONS = {
    "paSendRTV2Request": "paSendRTV2",
    "paSendRTReq": "paSendRT",
    "paVerifyPaymentNoticeReq": "paVerifyPaymentNotice",
    "paGetPaymentReq": "paGetPayment",
    "paGetPaymentV2Request": "paGetPaymentV2",
    "paDemandPaymentNoticeRequest": "paDemandPaymentNotice",
}
"""The operation of each message element."""


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT = _Absent()
"""Given as a value, leaves the element out."""


def _words(text: str) -> list[str]:
    return text.split()


# The order of the children, by the parent's name, so that an element which is added lands where the schema wants it.
_SUBJECT = _words("uniqueIdentifier fullName streetName civicNumber postalCode city stateProvinceRegion country e-mail")
_REQUEST = _words(
    "idPA idBrokerPA idStation qrCode idServizio idSoggettoServizio datiSpecificiServizioRequest "
    "amount paymentNote transferType dueDate receipt"
)
CHILDREN: dict[str, list[str]] = {
    **dict.fromkeys(OPERATIONS, _REQUEST),
    "receipt": _words(
        "receiptId noticeNumber fiscalCode outcome creditorReferenceId paymentAmount description companyName "
        "officeName debtor transferList idPSP pspFiscalCode pspPartitaIVA PSPCompanyName idChannel channelDescription "
        "payer paymentMethod paymentNote fee primaryCiIncurredFee idBundle idCiBundle paymentDateTime applicationDate "
        "transferDate metadata standIn"
    ),
    "debtor": _SUBJECT,
    "payer": _SUBJECT,
    "uniqueIdentifier": ["entityUniqueIdentifierType", "entityUniqueIdentifierValue"],
    "transferList": ["transfer"],
    "transfer": _words(
        "idTransfer transferAmount fiscalCodePA companyName IBAN MBDAttachment remittanceInformation transferCategory "
        "metadata"
    ),
    "metadata": ["mapEntry"],
    "mapEntry": ["key", "value"],
    "qrCode": ["fiscalCode", "noticeNumber"],
}
ONLY_VERSION_2 = ("paymentNote", "primaryCiIncurredFee", "idBundle", "idCiBundle")
"""What a receipt of version 1 does not know; nor do its transfers know `companyName` and `MBDAttachment`."""

# --- the content ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """One message: `root` is its element's local name, `fields` its children in order.

    A string is an element's text, a dict its children, a list the repetitions of one element.
    """

    root: str
    fields: dict[str, Any]

    @property
    def operation(self) -> str:
        return OPERATIONS[self.root]

    @property
    def version(self) -> int:
        return 2 if "V2" in self.root else 1

    @property
    def receipt(self) -> dict[str, Any]:
        return self.fields["receipt"]

    def __getitem__(self, path: str) -> Any:
        """The value at a path such as `idPA`, `receiptId`, `debtor.fullName` or `transfers.0.IBAN`."""
        node: Any = self.fields
        for step in _steps(path, self.fields):
            node = node[int(step)] if isinstance(node, list) else node[step]
        return node

    def get(self, path: str, default: Any = None) -> Any:
        try:
            return self[path]
        except (KeyError, IndexError):
            return default

    def but(self, **over: Any) -> "Request":
        """A copy that differs in what is given, in the words of `a_request`."""
        fields = copy.deepcopy(self.fields)
        for path, value in over.items():
            _put(fields, self.root, _steps(path, fields), value)
        return Request(self.root, fields)

    def leaves(self) -> dict[str, str]:
        """Each text under its full path, `receipt.transferList.transfer.0.IBAN` and the like, in document order."""
        return dict(_leaves(self.fields, ""))

    def element(self) -> Any:
        """The message element, namespace and all."""
        root = etree.Element(f"{{{PAF_NS}}}{self.root}", nsmap={"pafn": PAF_NS})
        _grow(root, self.fields)
        return root

    def receipt_element(self) -> Any:
        """The `receipt` element alone."""
        receipt = etree.Element("receipt")
        _grow(receipt, self.receipt)
        return receipt


def a_request(version: int = 2, **over: Any) -> Request:
    """A valid receipt on its way to us, fresh in receipt id, notice number and IUV.

    What belongs together stays together unless both are given: IUV and notice number, and the amount paid and the
    first transfer's.
    """
    iuv = _text(over.get("creditorReferenceId", "")) if over.get("creditorReferenceId") is not ABSENT else ""
    notice = _text(over.get("noticeNumber", "")) if over.get("noticeNumber") is not ABSENT else ""
    if not iuv:
        iuv = notice[1:] if len(notice) == 18 and notice[0] == "3" else an_iuv()
    if not notice:
        notice = f"3{iuv}" if len(iuv) == 17 and iuv.isdecimal() else f"3{an_iuv()}"
    first, second = _split(over.get("paymentAmount", "120.50"))
    transfers = [a_transfer(1, transferAmount=first, remittanceInformation=f"/RFB/{iuv}/{first}/TXT/TARI 2026 rata 1")]
    if second:
        transfers.append(
            a_transfer(
                2,
                transferAmount=second,
                fiscalCodePA=OTHER_EC,
                companyName="Provincia di Chissadove",
                IBAN="IT66Y0000000000000000000002",
                remittanceInformation=f"/RFB/{iuv}/{second}/TXT/TEFA 2026",
                transferCategory="9/0201102TS/",
            )
        )
    receipt: dict[str, Any] = {
        "receiptId": a_receipt_id(),
        "noticeNumber": notice,
        "fiscalCode": EC,
        "outcome": "OK",
        "creditorReferenceId": iuv,
        "paymentAmount": "120.50",
        "description": "TARI 2026, prima rata, utenza di via dell'Esempio 12",
        "companyName": "Comune di Vattelapesca",
        "officeName": "Ufficio Tributi",
        "debtor": a_subject(),
        "transferList": {"transfer": transfers},
        "idPSP": "ABI99999",
        "pspFiscalCode": "99999999990",
        "pspPartitaIVA": "99999999990",
        "PSPCompanyName": "Banca Immaginaria S.p.A.",
        "idChannel": "99999999990_01",
        "channelDescription": "app",
        "payer": a_subject(
            fullName="Tizia Sempronia",
            uniqueIdentifier__entityUniqueIdentifierValue="SMPTZI80A41X000X",
            **{"e-mail": "tizia.sempronia@example.invalid"},
        ),
        "paymentMethod": "creditCard",
        "paymentNote": "carrello-0001",
        "fee": "1.50",
        "primaryCiIncurredFee": "0.00",
        "idBundle": "pacchetto-0001",
        "idCiBundle": "pacchetto-ente-0001",
        "paymentDateTime": "2026-07-01T10:20:30",
        "applicationDate": "2026-07-01",
        "transferDate": "2026-07-02",
        "metadata": a_map({"TARI-TEFA-2": "TEFA", "NOTIFICATION_FEE": "200"}),
        "standIn": "false",
    }
    fields: dict[str, Any] = {"idPA": EC, "idBrokerPA": BROKER, "idStation": STATION, "receipt": receipt}
    if version == 1:
        for name in ONLY_VERSION_2:
            del receipt[name]
        for transfer in transfers:
            del transfer["companyName"]
    root = {1: "paSendRTReq", 2: "paSendRTV2Request"}[version]
    return Request(root, fields).but(**over)


def a_subject(**over: Any) -> dict[str, Any]:
    """A debtor or payer."""
    return _with(
        "debtor",
        {
            "uniqueIdentifier": {"entityUniqueIdentifierType": "F", "entityUniqueIdentifierValue": "PLLPNC80A01X000X"},
            "fullName": "Pinco Pallino",
            "streetName": "Via dell'Esempio",
            "civicNumber": "12",
            "postalCode": "00000",
            "city": "Vattelapesca",
            "stateProvinceRegion": "XX",
            "country": "IT",
            "e-mail": "pinco.pallino@example.invalid",
        },
        over,
    )


def a_transfer(number: int = 1, **over: Any) -> dict[str, Any]:
    """One transfer of a receipt to an IBAN."""
    return _with(
        "transfer",
        {
            "idTransfer": str(number),
            "transferAmount": "10.00",
            "fiscalCodePA": EC,
            "companyName": "Comune di Vattelapesca",
            "IBAN": "IT88X0000000000000000000001",
            "remittanceInformation": f"/RFB/quota {number}",
            "transferCategory": "9/0201101IM/",
        },
        over,
    )


def a_stamp_transfer(number: int = 1, size: int = 4096, **over: Any) -> dict[str, Any]:
    """One transfer of version 2 that carries a digital stamp of `size` bytes instead of an IBAN."""
    head, tail = (
        b'<?xml version="1.0"?><marcaDaBollo><psp>Banca Immaginaria</psp><sigillo>',
        b"</sigillo></marcaDaBollo>",
    )
    filler = base64.b64encode(random.Random(number).randbytes(size))[: max(0, size - len(head) - len(tail))]
    stamp = {"transferAmount": "16.00", "IBAN": ABSENT, "MBDAttachment": head + filler + tail}
    return a_transfer(number, **(stamp | over))


def a_map(entries: Mapping[str, str]) -> dict[str, Any]:
    """The content of a `metadata` element."""
    return {"mapEntry": [{"key": key, "value": value} for key, value in entries.items()]}


def a_verify_request(**over: Any) -> Request:
    """`paVerifyPaymentNoticeReq`, as the back office's button sends it."""
    return Request("paVerifyPaymentNoticeReq", {**_addresses(), "qrCode": _qr_code()}).but(**over)


def a_get_payment_request(version: int = 1, **over: Any) -> Request:
    """`paGetPaymentReq`, or `paGetPaymentV2Request`."""
    root = {1: "paGetPaymentReq", 2: "paGetPaymentV2Request"}[version]
    fields = {**_addresses(), "qrCode": _qr_code(), "amount": "120.50", "transferType": "PAGOPA"}
    return Request(root, fields).but(**over)


def a_demand_request(**over: Any) -> Request:
    """`paDemandPaymentNoticeRequest`."""
    fields = {**_addresses(), "idServizio": "00001", "idSoggettoServizio": "00002"}
    fields["datiSpecificiServizioRequest"] = _text(b"<servizio><targa>XX000XX</targa></servizio>")
    return Request("paDemandPaymentNoticeRequest", fields).but(**over)


def a_receipt_id() -> str:
    """A payment token like the Nodo's, never given before."""
    return secrets.token_hex(16)


def an_iuv() -> str:
    """17 digits for notices of aux digit 3, never given before: segregation code, 13 digits, check digits."""
    base = f"01{next(_numbers) % 10**13:013d}"
    return f"{base}{int('3' + base) % 93:02d}"


def _number_from_anywhere() -> None:
    global _numbers
    _numbers = itertools.count(secrets.randbelow(10**13))


_numbers: Iterator[int]
_number_from_anywhere()
os.register_at_fork(after_in_child=_number_from_anywhere)  # a load generator's children must not count alike


def _addresses() -> dict[str, Any]:
    return {"idPA": EC, "idBrokerPA": BROKER, "idStation": STATION}


def _qr_code() -> dict[str, Any]:
    return {"fiscalCode": EC, "noticeNumber": f"3{an_iuv()}"}


def _split(amount: Any) -> tuple[str, str]:
    """The amounts of the first and of the second transfer; no second one where there is not enough for it."""
    try:
        rest = Decimal(_text(amount)) - 5
    except (InvalidOperation, TypeError):
        return "115.50", "5.00"
    return (f"{rest:.2f}", "5.00") if rest > 0 else (_text(amount), "")


def _with(name: str, node: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    for path, value in over.items():
        _put(node, name, _names(path), value)
    return node


def _names(path: str) -> list[str]:
    steps = path.replace("__", ".").split(".")
    steps = ["e-mail" if step == "e_mail" else step for step in steps]
    if steps[0] == "transfers":
        steps[:1] = ["transferList", "transfer"]
    return steps


def _steps(path: str, fields: Mapping[str, Any]) -> list[str]:
    steps = _names(path)
    if "receipt" in fields and steps[0] not in _REQUEST[:3] and steps[0] != "receipt":
        # paymentNote and others are names of a receipt's fields as well as of other requests'.
        steps.insert(0, "receipt")
    elif steps[0] == "receipt":
        steps[1:] = _names(".".join(steps[1:])) if steps[1:] else []
    return steps


def _put(node: Any, name: str, steps: list[str], value: Any) -> None:
    """Sets, adds in its place or removes what lies `steps` below the element `name`, whose content is `node`."""
    step, *rest = steps
    if isinstance(node, list):
        number = int(step)
        if rest:
            _put(node[number], name, rest, value)
        elif value is ABSENT:
            del node[number]
        elif number == len(node):
            node.append(_node(name, value))
        else:
            node[number] = _node(name, value)
    elif rest:
        if step not in node:
            _insert(node, name, step, {})
        _put(node[step], step, rest, value)
    elif value is ABSENT:
        node.pop(step, None)
    elif step in node:
        node[step] = _node(step, value)
    else:
        _insert(node, name, step, _node(step, value))


def _insert(node: dict[str, Any], parent: str, name: str, value: Any) -> None:
    order = CHILDREN.get(parent, [])
    after = order[order.index(name) + 1 :] if name in order else []
    moved = {key: node.pop(key) for key in list(node)[_first(node, after) :]}
    node[name] = value
    node.update(moved)


def _first(node: Mapping[str, Any], names: list[str]) -> int:
    return next((number for number, key in enumerate(node) if key in names), len(node))


def _node(name: str, value: Any) -> Any:
    if name == "metadata" and isinstance(value, Mapping) and "mapEntry" not in value:
        value = a_map(value)
    if isinstance(value, Mapping):
        return {key: _node(key, child) for key, child in value.items() if child is not ABSENT}
    if isinstance(value, list | tuple):
        return [_node(name, child) for child in value]
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | Decimal):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise TypeError(f"{value!r} is no element's content; ABSENT leaves an element out")


def _each(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, child in node.items():
        for one in child if isinstance(child, list) else [child]:
            yield name, one


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield path, node
        return
    for name, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(child, f"{path}.{name}" if path else str(name))


def _grow(parent: Any, node: Mapping[str, Any]) -> None:
    for name, child in _each(node):
        element = etree.SubElement(parent, name)
        if isinstance(child, str):
            element.text = child
        else:
            _grow(element, child)


# --- the writing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How a message is written down; whatever is chosen, it means the same.

    `seed` scatters what is switched on (comments, CDATA, references, blanks) over some places instead of all.
    """

    soap: str | None = "soapenv"  # prefix of the SOAP namespace; None: the default namespace
    paf: str | None = "pafn"  # prefix of the message's namespace; None: default on the root, xmlns="" below
    declare: str = "envelope"  # where the message's prefix is declared: envelope or root
    undeclare: str = "children"  # where a default namespace is switched off: children or root (if that has a prefix)
    extra_namespaces: bool = False  # xsi and xsd declared, as many toolkits do
    header: str | None = None  # None, empty or full
    indent: str | None = "  "  # None: no blanks at all between elements
    newline: str = "\n"
    comments: bool = False  # between elements
    instructions: bool = False  # processing instructions between elements (SOAP 1.1 forbids them, XML does not mind)
    comment_in_text: bool = False  # in the midst of a text: `element.text` alone would lose the rest
    cdata: bool = False
    references: str | None = None  # characters as references: decimal, hex or None
    ragged: bool = False  # blanks inside tags, single quotes, empty elements as pairs
    encoding: str = "utf-8"  # or utf-16-le, utf-16-be (both with a byte order mark), utf-16 (either), iso-8859-1
    bom: bool = False  # for utf-8; utf-16 has one always
    declaration: bool = True  # iso-8859-1 has one always
    seed: int | None = None


STYLES: dict[str, Style] = {
    "plain": Style(),
    "soap": Style(soap="soap", paf="paf"),
    "SOAP-ENV": Style(soap="SOAP-ENV", paf="ns2", declare="root"),
    "S": Style(soap="S", paf="ns2", indent=None),
    "default_namespaces": Style(soap=None, paf=None),
    "default_on_root": Style(paf=None),
    "default_on_soap": Style(soap=None, paf="ns2"),
    "default_on_soap_undone_on_root": Style(soap=None, paf="ns2", undeclare="root", declare="root"),
    "extra_namespaces": Style(soap="SOAP-ENV", extra_namespaces=True),
    "compact": Style(indent=None),
    "tabs": Style(indent="\t"),
    "crlf": Style(newline="\r\n"),
    "comments": Style(comments=True),
    "instructions": Style(instructions=True),
    "comment_in_text": Style(comment_in_text=True),
    "cdata": Style(cdata=True),
    "references": Style(references="decimal"),
    "hex_references": Style(references="hex"),
    "ragged": Style(ragged=True),
    "empty_header": Style(header="empty"),
    "header": Style(header="full"),
    "no_declaration": Style(declaration=False),
    "bom": Style(bom=True),
    "bom_no_declaration": Style(bom=True, declaration=False),
    "utf-16": Style(encoding="utf-16"),
    "utf-16-le": Style(encoding="utf-16-le"),
    "utf-16-be": Style(encoding="utf-16-be"),
    "utf-16_no_declaration": Style(encoding="utf-16", declaration=False),
    "iso-8859-1": Style(encoding="iso-8859-1"),
    "iso-8859-1_crlf_cdata": Style(encoding="iso-8859-1", newline="\r\n", cdata=True),
    "everything": Style(
        soap=None, paf=None, header="full", newline="\r\n", comments=True, instructions=True, comment_in_text=True,
        cdata=True, references="hex", ragged=True, encoding="utf-16-be", extra_namespaces=True, seed=1,
    ),
}  # fmt: skip
"""Styles worth a test each, by name."""


def an_envelope(request: Request, style: str | Style = "plain", **over: Any) -> bytes:
    """The request in a SOAP 1.1 envelope."""
    return _Writer(_style(style, over)).envelope(request)


def a_bare_request(request: Request, style: str | Style = "plain", **over: Any) -> bytes:
    """The message element as a document of its own."""
    return _Writer(_style(style, over)).bare(request)


def a_gpd_document(request: Request, style: str | Style = "compact", **over: Any) -> bytes:
    """A receipt as the GPD receipts API hands it out: no namespace, another root, a standalone document."""
    root = {"paSendRTV2Request": "PaSendRTV2Request"}.get(request.root, request.root)
    return _Writer(_style(style, over)).gpd(Request(root, request.fields))


def _style(style: str | Style, over: Mapping[str, Any]) -> Style:
    return replace(STYLES[style] if isinstance(style, str) else style, **over)


@dataclass
class _Writer:
    style: Style
    out: list[str] = field(default_factory=list)
    chance: random.Random | None = None

    def __post_init__(self) -> None:
        if self.style.seed is not None:
            self.chance = random.Random(self.style.seed)

    def envelope(self, request: Request) -> bytes:
        style = self.style
        soap = f"{style.soap}:" if style.soap else ""
        names = {f"xmlns:{style.soap}" if style.soap else "xmlns": SOAP_NS}
        if style.extra_namespaces:
            names |= {"xmlns:xsi": XSI_NS, "xmlns:xsd": XSD_NS}
        if style.paf and style.declare == "envelope":
            names[f"xmlns:{style.paf}"] = PAF_NS
        self._open(f"{soap}Envelope", names, 0)
        if style.header == "empty":
            self._empty(f"{soap}Header", {}, 1)
        elif style.header == "full":
            self._open(f"{soap}Header", {}, 1)
            self._leaf("x:trace", {"xmlns:x": "urn:example:trace"}, "prova & controprova", 2)
            self._close(f"{soap}Header", 1)
        self._open(f"{soap}Body", {}, 1)
        self._root(request, 2, declared=style.declare == "envelope", default=not style.soap)
        self._close(f"{soap}Body", 1)
        self._close(f"{soap}Envelope", 0)
        return self._bytes()

    def bare(self, request: Request) -> bytes:
        self._root(request, 0, declared=False, default=False)
        return self._bytes()

    def gpd(self, request: Request) -> bytes:
        self._tree(request.root, {}, request.fields, 0, {})
        return self._bytes(standalone=True)

    def _root(self, request: Request, depth: int, declared: bool, default: bool) -> None:
        style = self.style
        names: dict[str, str] = {}
        below: dict[str, str] = {}
        if not style.paf:
            names["xmlns"] = PAF_NS
            below["xmlns"] = ""
        else:
            if not declared:
                names[f"xmlns:{style.paf}"] = PAF_NS
            if default:
                (names if style.undeclare == "root" else below)["xmlns"] = ""
        self._tree(f"{style.paf}:{request.root}" if style.paf else request.root, names, request.fields, depth, below)

    def _tree(self, tag: str, names: dict[str, str], node: Any, depth: int, below: dict[str, str]) -> None:
        if isinstance(node, str):
            self._leaf(tag, names, node, depth)
        elif not any(True for _ in _each(node)):
            self._empty(tag, names, depth)
        else:
            self._open(tag, names, depth)
            for name, child in _each(node):
                self._tree(name, below, child, depth + 1, {})
            self._close(tag, depth)

    def _open(self, tag: str, names: dict[str, str], depth: int) -> None:
        self._gap(depth)
        self.out.append(f"<{tag}{self._attributes(names)}>")

    def _close(self, tag: str, depth: int) -> None:
        self._gap(depth)
        self.out.append(f"</{tag}{self._slack()}>")

    def _leaf(self, tag: str, names: dict[str, str], text: str, depth: int) -> None:
        if not text and not self.style.ragged:
            self._empty(tag, names, depth)
            return
        self._open(tag, names, depth)
        self.out.append(f"{self._escaped(text)}</{tag}{self._slack()}>")

    def _empty(self, tag: str, names: dict[str, str], depth: int) -> None:
        self._gap(depth)
        attributes = self._attributes(names)
        pair = self.style.ragged and self._some()
        self.out.append(f"<{tag}{attributes}></{tag}>" if pair else f"<{tag}{attributes}/>")

    def _gap(self, depth: int) -> None:
        """What stands before a tag where the content has no meaning: line end, indentation, a remark."""
        style = self.style
        if style.indent is not None:
            if self.out:
                self.out.append(style.newline)
            self.out.append(style.indent * depth)
        # A remark that looks like content is only taken for it by those who search instead of parsing.
        if style.comments and self.out and self._some():
            self.out.append("<!-- <receiptId>nota & basta</receiptId> -->")
        if style.instructions and self.out and self._some():
            self.out.append("<?nota <idPA>0</idPA> ?>")
        if style.ragged and self.chance and self.out and self._some():
            self.out.append(self.chance.choice((" ", "\t", style.newline, f"{style.newline} \t")))

    def _attributes(self, names: dict[str, str]) -> str:
        if not self.style.ragged:
            return "".join(f' {name}="{value}"' for name, value in names.items())
        return "".join(f"{self.style.newline} {name} = '{value}'" for name, value in names.items()) + self._slack()

    def _slack(self) -> str:
        return self.style.newline if self.style.ragged and self._some() else ""

    def _some(self) -> bool:
        return self.chance is None or self.chance.random() < 0.5

    def _escaped(self, text: str) -> str:
        parts: list[str] = []
        for piece in self._pieces(text):
            if parts and self.style.comment_in_text and self._some():
                parts.append("<!-- in mezzo -->")
            parts.append(self._cdata(piece) if self.style.cdata and self._some() else self._characters(piece))
        return "".join(parts)

    def _pieces(self, text: str) -> Iterator[str]:
        if self.chance is None:
            middle = len(text) // 2 if self.style.comment_in_text else len(text)
            yield from filter(None, (text[:middle], text[middle:]))
            return
        while text:
            length = self.chance.randint(1, len(text))
            yield text[:length]
            text = text[length:]

    def _cdata(self, text: str) -> str:
        """As CDATA, save what cannot stand there: the end mark, the carriage return, what the encoding lacks."""
        parts = []
        for plain, run in itertools.groupby(text, lambda char: char not in "]>\r" and self._encodable(char)):
            piece = "".join(run)
            parts.append(f"<![CDATA[{piece}]]>" if plain else self._characters(piece))
        return "".join(parts)

    def _characters(self, text: str) -> str:
        return "".join(map(self._character, text))

    def _character(self, char: str) -> str:
        if self.style.references and self._some():
            return f"&#x{ord(char):X};" if self.style.references == "hex" else f"&#{ord(char)};"
        if char in _ENTITIES:
            return _ENTITIES[char]
        return char if self._encodable(char) else f"&#{ord(char)};"

    def _encodable(self, char: str) -> bool:
        return self.style.encoding != "iso-8859-1" or ord(char) < 256

    def _bytes(self, standalone: bool = False) -> bytes:
        style = self.style
        label = style.encoding.upper().removesuffix("-LE").removesuffix("-BE")
        head = ""
        if style.declaration or standalone or style.encoding == "iso-8859-1":
            alone = ' standalone="yes"' if standalone else ""
            head = f'<?xml version="1.0" encoding={quoteattr(label)}{alone}?>'
            head += style.newline if style.indent is not None else ""
        text = head + "".join(self.out) + (style.newline if style.indent is not None else "")
        if style.encoding in _MARKS:
            return _MARKS[style.encoding] + text.encode(style.encoding)
        return (codecs.BOM_UTF8 if style.bom and style.encoding == "utf-8" else b"") + text.encode(style.encoding)


# A carriage return that is not a reference becomes a line feed on reading.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"}
_MARKS = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}
