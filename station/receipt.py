"""What a receipt is: the frozen `Receipt` with its transfers, and the oddities that are valid and worth finding.

Pure: no XML (see `contract`), no SQL (see `store`). Objects made for every receipt are named tuples: a frozen dataclass
with this many fields takes twice as long to make.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple


class Source(StrEnum):
    """The door by which a document came."""

    PUSH = "push"
    RECONCILE = "reconcile"
    REPLAY = "replay"
    BIZEVENTS = "bizevents"  # its JSON, until the document comes


class Flag(StrEnum):
    """Oddities of a receipt that is stored all the same; one name each, searchable."""

    TRANSFER_SUM_DIFFERS = "transfer_sum_differs"  # the transfers do not add up to the amount
    OUTCOME_KO = "outcome_ko"  # the schema admits it, the Nodo does not send it
    NOTICE_IUV_DIFFER = "notice_iuv_differ"  # the notice number does not contain the IUV
    SECOND_RECEIPT = "second_receipt"  # another receiptId for the same notice: perhaps paid twice
    SECONDARY_BENEFICIARY = "secondary_beneficiary"  # a copy for an EC that does not own the payment
    STAND_IN = "stand_in"  # paid while the EC's own systems did not answer
    UNKNOWN_ELEMENTS = "unknown_elements"  # holds elements or attributes that our schema does not know
    UNKNOWN_CONTENT_DIFFERS = "unknown_content_differs"  # two documents of it differ in what our schema does not know
    UNKNOWN_STATION = "unknown_station"  # came by a station that is not configured
    DATE_OUT_OF_RANGE = "date_out_of_range"  # a valid date no database can hold: see the raw document
    PROVISIONAL = "provisional"  # made of BizEvents' JSON: the document that the Nodo sends has not come yet
    RECEIPT_ID_HASHED = "receipt_id_hashed"  # receiptId too long for an index: its hash stands for it


# Flags that follow from the fields (see `oddities`): of a receipt with several documents they tell of all together.
ODDITIES = frozenset(
    {Flag.TRANSFER_SUM_DIFFERS, Flag.OUTCOME_KO, Flag.NOTICE_IUV_DIFFER, Flag.SECONDARY_BENEFICIARY, Flag.STAND_IN}
)
# Flags of the arrival: no document gives them, so reading it again does not take them away.
ARRIVAL_FLAGS = frozenset({Flag.SECOND_RECEIPT, Flag.UNKNOWN_STATION})
# Each other flag is of a document, and one document of a receipt is enough for it.


class Subject(NamedTuple):
    """A debtor or payer: type F (natural) or G (legal person), fiscal code or ANONIMO, full name."""

    type: str
    id: str
    name: str


class Transfer(NamedTuple):
    """One of the one to five parts of a payment; `amount` in euro; `iban` is missing for a digital stamp."""

    id_transfer: int
    amount: Decimal
    fiscal_code_pa: str
    company_name: str | None
    iban: str | None
    digital_stamp: bool
    remittance_information: str
    transfer_category: str
    metadata: tuple[tuple[str, str], ...]


class Receipt(NamedTuple):
    """One receipt as it was sent to one EC. Amounts in euro, times aware and UTC, `None` where the sender was silent.

    `iuv` is the schema's creditorReferenceId, `fiscal_code` the EC that owns the payment, `id_pa` the EC this copy is
    for. `content_hash` is the SHA-256 of the canonical `receipt` element: two documents with the same hash say the
    same, whatever their prefixes, blanks, encoding, station or broker.
    """

    version: int
    id_pa: str
    id_broker_pa: str
    id_station: str
    receipt_id: str
    notice_number: str
    fiscal_code: str
    outcome: str
    iuv: str
    amount: Decimal
    description: str
    company_name: str
    office_name: str | None
    debtor: Subject
    transfers: tuple[Transfer, ...]
    id_psp: str
    psp_fiscal_code: str | None
    psp_partita_iva: str | None
    psp_company_name: str
    id_channel: str
    channel_description: str
    payer: Subject | None
    payment_method: str | None
    payment_note: str | None
    fee: Decimal | None
    primary_ci_incurred_fee: Decimal | None
    id_bundle: str | None
    id_ci_bundle: str | None
    payment_date_time: datetime | None
    application_date: date | None
    transfer_date: date | None
    metadata: tuple[tuple[str, str], ...]
    stand_in: bool | None
    content_hash: bytes
    flags: frozenset[Flag]


@dataclass(frozen=True, slots=True)
class Identifiers:
    """The identifiers read of a request that may be invalid; each cut to a sane length, `None` where missing."""

    operation: str
    id_pa: str | None
    id_broker_pa: str | None
    id_station: str | None
    receipt_id: str | None
    notice_number: str | None
    iuv: str | None
    id_psp: str | None = None
    id_channel: str | None = None
    payment_method: str | None = None


def iuv_of_notice(notice_number: str) -> str | None:
    """Return the IUV inside an 18-digit notice number, or `None` where its first digit (aux digit) tells no rule.

    Aux digit 0: two digits of application code, then 15 of IUV. 1, 2, 3: the 17 digits that follow.
    Source: pagoPA, Specifiche attuative dei codici identificativi di versamento.
    """
    match notice_number[:1]:
        case "0":
            return notice_number[3:]
        case "1" | "2" | "3":
            return notice_number[1:]
    return None


def oddities(receipt: Receipt) -> frozenset[Flag]:
    """Return the flags that the receipt's fields ask for."""
    asked = {
        Flag.TRANSFER_SUM_DIFFERS: sum(transfer.amount for transfer in receipt.transfers) != receipt.amount,
        Flag.OUTCOME_KO: receipt.outcome != "OK",
        Flag.NOTICE_IUV_DIFFER: iuv_of_notice(receipt.notice_number) not in (None, receipt.iuv),
        Flag.SECONDARY_BENEFICIARY: receipt.id_pa != receipt.fiscal_code,
        Flag.STAND_IN: receipt.stand_in,
    }
    return frozenset(flag for flag, is_asked in asked.items() if is_asked)
