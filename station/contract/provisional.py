"""A receipt as BizEvents tells it: JSON that says less than the document that the Nodo sends.

The JSON is rewritten as a request and read as one, so that the published schema judges it and one place makes receipts.
Source: `CtReceiptModelResponse` in pagoPA's biz_events.json. What it lacks: broker, station, payment note, names of the
transfers' ECs, stamps; a time of payment only sometimes.
"""

import json
from decimal import Decimal, InvalidOperation
from hashlib import sha256
from typing import Any

from lxml import etree

from station.contract.parsing import NS, Element
from station.contract.reading import read
from station.errors import DocumentError, RefusalError
from station.receipt import Flag, Receipt

_EURO_MAX = Decimal(10) ** 9
_ID_TRANSFER_MAX = 5
_UNKNOWN = "0"  # of what the schema demands and BizEvents does not tell
_STAMP = "AA=="  # likewise
_TEXTS_BEFORE = ("receiptId", "noticeNumber", "fiscalCode", "outcome", "creditorReferenceId")
_TEXTS = ("description", "companyName", "officeName")
_ADDRESS = ("streetName", "civicNumber", "postalCode", "city", "stateProvinceRegion", "country")


def read_provisional(raw: bytes, id_pa: str) -> Receipt:
    """Return the receipt in BizEvents' JSON, as the copy for the EC that asked for it.

    Its broker and station are empty, `version` is 0, the hash is of the bytes, and it has the flag `provisional`.
    Raises `DocumentError` where it is no such JSON, or breaks a rule of the receipt's schema.
    """
    try:
        told = json.loads(raw, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_number)
        receipt = read(_request(told, id_pa))
    except RefusalError as error:
        raise DocumentError(f"BizEvents' receipt breaks the schema: {error}") from error
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, InvalidOperation) as error:
        raise DocumentError(f"not a receipt of BizEvents ({type(error).__name__})") from error
    return receipt._replace(
        version=0,
        id_broker_pa="",
        id_station="",
        content_hash=sha256(raw).digest(),
        flags=receipt.flags | {Flag.PROVISIONAL},
    )


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _request(told: dict[str, Any], id_pa: str) -> Element:
    """Return a `paSendRTV2Request` that says the same. Raises `ValueError` and its like where a value has no place."""
    request = etree.Element(f"{{{NS}}}paSendRTV2Request")
    for name, text in (("idPA", id_pa), ("idBrokerPA", _UNKNOWN), ("idStation", _UNKNOWN)):
        etree.SubElement(request, name).text = text
    receipt = etree.SubElement(request, "receipt")
    _texts(receipt, told, _TEXTS_BEFORE)
    _euro(receipt, "paymentAmount", told.get("paymentAmount"))
    _texts(receipt, told, _TEXTS)
    _subject(receipt, "debtor", told["debtor"])
    transfers = etree.SubElement(receipt, "transferList")
    for number, transfer in enumerate(told["transferList"], start=1):
        _transfer(etree.SubElement(transfers, "transfer"), transfer, number)
    _texts(receipt, told, ("idPSP", "pspFiscalCode", "pspPartitaIVA"))
    _text(receipt, "PSPCompanyName", told.get("pspCompanyName"))
    _text(receipt, "idChannel", told.get("idChannel"))
    _text(receipt, "channelDescription", told.get("channelDescription") or _UNKNOWN)
    if told.get("payer"):
        _subject(receipt, "payer", told["payer"])
    _text(receipt, "paymentMethod", told.get("paymentMethod"))
    for name in ("fee", "primaryCiIncurredFee"):
        _euro(receipt, name, told.get(name))
    _texts(receipt, told, ("idBundle", "idCiBundle"))
    day = told.get("paymentDateTime")
    if isinstance(day, str) and len(day) == len("2026-11-28"):
        day = f"{day}T00:00:00"
    _text(receipt, "paymentDateTime", told.get("paymentDateTimeFormatted") or day)
    _texts(receipt, told, ("applicationDate", "transferDate"))
    _metadata(receipt, told.get("metadata"))
    return request


def _text(parent: Element, name: str, text: Any) -> None:
    if text is not None:
        if not isinstance(text, str):
            raise TypeError(name)
        etree.SubElement(parent, name).text = text


def _texts(parent: Element, told: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        _text(parent, name, told.get(name))


def _euro(parent: Element, name: str, value: Any) -> None:
    """Write an amount: a number that went through floating point, so that cents are what counts of it."""
    if value is not None:
        if not isinstance(value, Decimal) or not 0 <= value < _EURO_MAX:
            raise ValueError(name)
        etree.SubElement(parent, name).text = f"{value:.2f}"


def _subject(parent: Element, name: str, told: dict[str, Any]) -> None:
    subject = etree.SubElement(parent, name)
    identifier = etree.SubElement(subject, "uniqueIdentifier")
    _texts(identifier, told, ("entityUniqueIdentifierType", "entityUniqueIdentifierValue"))
    _texts(subject, told, ("fullName", *_ADDRESS))
    _text(subject, "e-mail", told.get("email"))


def _transfer(transfer: Element, told: dict[str, Any], number: int) -> None:
    position = told.get("idTransfer") or number
    if not 1 <= position <= _ID_TRANSFER_MAX or position != int(position):  # 1E+999999999 has no room as an int
        raise ValueError("idTransfer")
    etree.SubElement(transfer, "idTransfer").text = str(int(position))
    _euro(transfer, "transferAmount", told["transferAmount"])
    _text(transfer, "fiscalCodePA", told["fiscalCodePA"])
    if told.get("iban"):
        _text(transfer, "IBAN", told["iban"])
    else:
        _text(transfer, "MBDAttachment", told.get("mbdAttachment") or _STAMP)
    _texts(transfer, told, ("remittanceInformation", "transferCategory"))
    _metadata(transfer, told.get("metadata"))


def _metadata(parent: Element, told: Any) -> None:
    if told:
        metadata = etree.SubElement(parent, "metadata")
        for one in told:
            _texts(etree.SubElement(metadata, "mapEntry"), one, ("key", "value"))
