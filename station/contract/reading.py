"""Valid requests -> `Receipt`."""

from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from hashlib import sha256

from station.contract.content import Plain, content_hash, plain
from station.contract.parsing import RECEIPT_OPERATIONS, Element
from station.contract.schema import validate
from station.contract.values import BLANKS, integer, read_date, read_date_time
from station.errors import DocumentError
from station.receipt import Flag, Receipt, Subject, Transfer, oddities

_VERSIONS = {"paSendRTV2": 2, "paSendRT": 1}

# A receiptId is xs:string without a bound, but a B-tree entry has one (PostgreSQL: 2,704 bytes with the other key
# columns). Real ones have 32 characters; a longer one than this is stood for by its hash.
RECEIPT_ID_BYTES = 1024


def read(request: Element, *, refuse_unknown: bool = False) -> Receipt:
    """The receipt in a `paSendRTV2Request` or `paSendRTReq` element.

    Raises `InvalidReceiptError` where the element breaks the published schema. Elements whose names the schema does
    not know where they stand are no breach unless `refuse_unknown`: the receipt is read without them and flagged, and
    its hash covers them. Raises `DocumentError` where the element is no receipt request.
    """
    operation = RECEIPT_OPERATIONS.get(request.tag)
    if operation is None:
        raise DocumentError("not a receipt request")
    said = plain(request)
    unknown = validate(request, refuse_unknown=refuse_unknown)
    # The hash covers what is unknown, the columns do not: it may have a known name, elsewhere, with another content.
    return _receipt(plain(request) if unknown else said, _VERSIONS[operation], content_hash(said), unknown=unknown)


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
        return str(self._children[name]).strip(BLANKS)

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
        id_transfer=integer(transfer.token("idTransfer")),
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
