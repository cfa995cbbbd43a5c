"""A receipt as it may be shown without `--reveal`: personal data masked, characters that a terminal obeys escaped.

The lists name the safe places, not the personal ones: an element unknown to them is masked.
"""

import re
from collections.abc import Iterator
from copy import deepcopy
from datetime import date, datetime
from typing import Any, NamedTuple

from lxml import etree

from station import contract
from station.errors import DocumentError
from station.text import printable

# The paths below the request whose text holds no name, address or account, and not the reason of the payment.
_PLACES = """
    idPA idBrokerPA idStation
    receipt/receiptId receipt/noticeNumber receipt/fiscalCode receipt/outcome receipt/creditorReferenceId
    receipt/paymentAmount receipt/companyName receipt/officeName receipt/idPSP receipt/pspFiscalCode
    receipt/pspPartitaIVA receipt/PSPCompanyName receipt/idChannel receipt/channelDescription receipt/paymentMethod
    receipt/fee receipt/primaryCiIncurredFee receipt/idBundle receipt/idCiBundle receipt/paymentDateTime
    receipt/applicationDate receipt/transferDate receipt/standIn receipt/metadata/mapEntry/key
    receipt/debtor/uniqueIdentifier/entityUniqueIdentifierType
    receipt/payer/uniqueIdentifier/entityUniqueIdentifierType
    receipt/transferList/transfer/idTransfer receipt/transferList/transfer/transferAmount
    receipt/transferList/transfer/fiscalCodePA receipt/transferList/transfer/companyName
    receipt/transferList/transfer/transferCategory receipt/transferList/transfer/metadata/mapEntry/key
"""
# The columns of `receipt` and `transfer` with the text of such paths.
_COLUMNS = """
    id_pa receipt_id id_broker_pa id_station notice_number fiscal_code iuv outcome amount fee primary_ci_incurred_fee
    company_name office_name debtor_type payer_type id_psp psp_fiscal_code psp_partita_iva psp_company_name id_channel
    channel_description payment_method id_bundle id_ci_bundle payment_date_time application_date transfer_date stand_in
    version content_hash position id_transfer fiscal_code_pa digital_stamp transfer_category
"""
_SHOWN = frozenset(_PLACES.split())
_SHOWN_COLUMNS = frozenset(_COLUMNS.split())
# Personal data that a sender put into a safe place by mistake: a person's fiscal code, an e-mail address.
_MISPLACED = re.compile(r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]|@", re.IGNORECASE)
_NUMBER = re.compile(r"\[[0-9]+\]")
_MAX_LENGTH = 200


def masked(text: str) -> str:
    """Return a stand-in for `text` with its length, which can be the reason of a refusal."""
    return f"*** ({len(text)} characters)"


def _shown(text: str, *, safe: bool) -> str:
    if not text.strip():
        return text
    if not safe or _MISPLACED.search(text):
        return masked(text)
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}... ({len(text)} characters)"


def pretty(document: contract.Document, *, reveal: bool = False, at: str | None = None, remark: str = "") -> list[str]:
    """Return the document as indented lines that are safe to print, its personal data masked unless `reveal`.

    `remark` is put before the element at the path `at`, as a refusal names it (`/paSendRTV2Request/receipt/fee`).
    """
    root = deepcopy(document.root)
    request: contract.Element | None = root
    if root.tag == f"{{{contract.NS_SOAP}}}Envelope":
        try:
            request = contract.request_element(root)
        except DocumentError:
            request = None
    if not reveal:
        _mask(root, None, request)
    etree.indent(root)
    if at is not None and request is not None:
        _remark(request, at, remark)
    return [printable(line, None) for line in etree.tostring(root, encoding="unicode").split("\n")]


def _mask(element: contract.Element, place: str | None, request: contract.Element | None) -> None:
    """Mask `element` in place. `place` is its path below the request, `None` outside it."""
    if element is request:
        place = ""
    if len(element):
        element.text = _shown(element.text or "", safe=False)
    else:
        element.text = _shown(element.text or "", safe=place in _SHOWN)
    for name, value in element.items():
        element.set(name, _shown(str(value), safe=False))
    for child in element:
        child.tail = _shown(child.tail or "", safe=False)
        _mask(child, None if place is None else f"{place}/{child.tag}".lstrip("/"), request)


def _remark(request: contract.Element, at: str, remark: str) -> None:
    below = at.strip("/").partition("/")[2]
    try:
        element = request.find(below) if below else request
    except SyntaxError:  # not a path to lxml
        return
    parent = None if element is None else element.getparent()
    if element is None or parent is None:
        return
    comment = etree.Comment(f" {remark.replace('--', '- -')} ")
    comment.tail = f"\n{'  ' * len(list(element.iterancestors()))}"
    parent.insert(parent.index(element), comment)


class Difference(NamedTuple):
    """A place where two receipts differ; `None` where one of them has nothing."""

    name: str
    stored: str | None
    other: str | None


def differences(stored: contract.Element, other: contract.Element, *, reveal: bool = False) -> list[Difference]:
    """Return the differences of two requests' receipts, values masked unless `reveal`."""
    ours, theirs = (dict(_leaves(request)) for request in (stored, other))
    return [
        Difference(
            name,
            *(
                None if name not in leaves else leaves[name] if reveal else _shown(leaves[name], safe=_safe(name))
                for leaves in (ours, theirs)
            ),
        )
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]


def _safe(name: str) -> bool:
    return f"receipt/{_NUMBER.sub('', name)}" in _SHOWN


def _leaves(request: contract.Element) -> Iterator[tuple[str, str]]:
    """Yield the receipt's texts and attributes with their paths; a repeated element's path has its number."""
    receipt = request.find("receipt")
    pending = [] if receipt is None else [("", receipt)]
    while pending:
        path, element = pending.pop()
        seen: dict[str, int] = {}
        below = []
        for child in element:
            seen[child.tag] = seen.get(child.tag, 0) + 1
            number = f"[{seen[child.tag]}]" if seen[child.tag] > 1 else ""
            below.append((f"{path}/{child.tag}{number}".lstrip("/"), child))
        pending += reversed(below)
        texts = [element.text or "", *(child.tail or "" for child in element)]
        text = "".join(text for text in texts if text.strip()) if below else texts[0]
        if text or not below:
            yield path, text
        for name, value in element.items():
            yield f"{path}@{name!s}", str(value)


def column(name: str, value: Any, *, reveal: bool = False) -> str | None:
    """Return a column's value as text, masked unless it is safe or `reveal`."""
    match value:
        case None:
            return None
        case bytes():
            text = value.hex()
        case datetime() | date():
            text = value.isoformat()
        case _:
            text = str(value)
    return text if reveal else _shown(text, safe=name in _SHOWN_COLUMNS)
