"""Valid requests -> `Receipt`."""

from hashlib import sha256
from typing import Any

from station.contract.content import Fields, hash_all, read_content
from station.contract.parsing import RECEIPT_OPERATIONS, Element
from station.contract.schema import known_part
from station.errors import DocumentError
from station.receipt import Flag, Receipt, Subject, Transfer, oddities

_VERSIONS = {"paSendRTV2": 2, "paSendRT": 1}

# A receiptId is xs:string without a bound, but a B-tree entry has one (PostgreSQL: 2,704 bytes with the other key
# columns). Real ones have 32 characters; a longer one than this is replaced by its hash.
RECEIPT_ID_BYTES = 1024

_DATES = ("paymentDateTime", "applicationDate", "transferDate")


def read(request: Element, *, refuse_unknown: bool = False) -> Receipt:
    """Return the receipt in a `paSendRTV2Request` or `paSendRTReq` element.

    Raises `InvalidReceiptError` where the element breaks the published schema. Elements whose names the schema does
    not know where they stand are no breach unless `refuse_unknown`: the receipt is read without them and flagged, and
    its hash covers them. So are attributes. Raises `DocumentError` where the element is no receipt request.
    """
    operation = RECEIPT_OPERATIONS.get(request.tag)
    if operation is None:
        raise DocumentError("not a receipt request")
    known = known_part(request, refuse_unknown=refuse_unknown)
    fields, content_hash = read_content(known)
    unknown = known is not request
    if unknown:
        content_hash = hash_all(request, content_hash)
    envelope = {child.tag: child.text or "" for child in known}
    return _receipt(envelope, dict(fields), _VERSIONS[operation], content_hash, unknown=unknown)


def _receipt(
    envelope: dict[str, str], fields: dict[str, Any], version: int, content_hash: bytes, *, unknown: bool
) -> Receipt:
    get = fields.get
    id_pa = envelope["idPA"]
    receipt_id = fields["receiptId"]
    payer = get("payer")
    flags = set()
    if unknown:
        flags.add(Flag.UNKNOWN_ELEMENTS)
    if None in [fields.get(name, "") for name in _DATES]:
        flags.add(Flag.DATE_OUT_OF_RANGE)
    id_bytes = receipt_id.encode()
    if len(id_bytes) > RECEIPT_ID_BYTES:
        flags.add(Flag.RECEIPT_ID_HASHED)
        receipt_id = f"sha256:{sha256(id_bytes).hexdigest()}"
    receipt = Receipt(
        version=version,
        id_pa=id_pa,
        id_broker_pa=envelope["idBrokerPA"],
        id_station=envelope["idStation"],
        receipt_id=receipt_id,
        notice_number=fields["noticeNumber"],
        fiscal_code=fields["fiscalCode"],
        outcome=fields["outcome"],
        iuv=fields["creditorReferenceId"],
        amount=fields["paymentAmount"],
        description=fields["description"],
        company_name=fields["companyName"],
        office_name=get("officeName"),
        debtor=_subject(fields["debtor"]),
        transfers=tuple(_transfer(dict(transfer)) for _, transfer in fields["transferList"]),
        id_psp=fields["idPSP"],
        psp_fiscal_code=get("pspFiscalCode"),
        psp_partita_iva=get("pspPartitaIVA"),
        psp_company_name=fields["PSPCompanyName"],
        id_channel=fields["idChannel"],
        channel_description=fields["channelDescription"],
        payer=_subject(payer) if payer else None,
        payment_method=get("paymentMethod"),
        payment_note=get("paymentNote"),
        fee=get("fee"),
        primary_ci_incurred_fee=get("primaryCiIncurredFee"),
        id_bundle=get("idBundle"),
        id_ci_bundle=get("idCiBundle"),
        payment_date_time=get("paymentDateTime"),
        application_date=get("applicationDate"),
        transfer_date=get("transferDate"),
        metadata=_metadata(fields),
        stand_in=get("standIn"),
        content_hash=content_hash,
        flags=frozenset(flags),
    )
    return receipt._replace(flags=oddities(receipt) | flags)


def _transfer(fields: dict[str, Any]) -> Transfer:
    return Transfer(
        id_transfer=fields["idTransfer"],
        amount=fields["transferAmount"],
        fiscal_code_pa=fields["fiscalCodePA"],
        company_name=fields.get("companyName"),
        iban=fields.get("IBAN"),
        digital_stamp="MBDAttachment" in fields,
        remittance_information=fields["remittanceInformation"],
        transfer_category=fields["transferCategory"],
        metadata=_metadata(fields),
    )


def _subject(fields: Fields) -> Subject:
    subject = dict(fields)
    identifier = dict(subject["uniqueIdentifier"])
    return Subject(
        type=identifier["entityUniqueIdentifierType"],
        id=identifier["entityUniqueIdentifierValue"],
        name=subject["fullName"],
    )


def _metadata(fields: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return keys and values in their order; a key may occur twice."""
    return tuple([(entry["key"], entry["value"]) for entry in (dict(one) for _, one in fields.get("metadata", ()))])
