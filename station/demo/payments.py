"""Payments that never happened, and their documents: the push's envelope and what the GPD API hands out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

COMUNE = "77777777777"
PROVINCIA = "88888888888"
NEIGHBOUR = "66666666666"  # an EC that the station learns of late
BROKER = "15376371009"
STATION = f"{BROKER}_01"

NAMES = {
    COMUNE: "Comune di Vattelapesca",
    PROVINCIA: "Provincia di Chissadove",
    NEIGHBOUR: "Comune di Nessunluogo",
}
_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
_TEFA = Decimal("5.00")
# Invented names, with codes that no one has.
_PEOPLE = (
    ("Pinco Pallino", "PLLPNC80A01X000X"), ("Tizia Sempronia", "SMPTZI85B41X000X"),
    ("Caio Mevio", "MVECAI72C15X000X"), ("Filana Calpurnia", "CLPFLN90D52X000X"),
    ("Agerio Numerio", "NMRGRA68E20X000X"), ("Titta Zeta", "ZTETTT95H61X000X"),
    ("Nicolò D'Àngelo", "DNGNCL77L08X000X"),
)  # fmt: skip
# Text, and category and IBAN of the transfer.
_SERVICES = (
    ("TARI {year}, rata {number}", "9/0201101IM/", "IT88X0000000000000000000001"),
    ("Mensa scolastica {year}, bollettino {number}", "9/0301109AP/", "IT88X0000000000000000000002"),
    ("TARI {year}, rata {number}", "9/0201101IM/", "IT88X0000000000000000000001"),
    ("Verbale {number}/{year}, Polizia Locale", "9/0401101SA/", "IT88X0000000000000000000003"),
)
_TEFA_SERVICE = ("9/0201102TS/", "IT66Y0000000000000000000002")
_EVERY = timedelta(minutes=15)  # a payment


@dataclass(frozen=True, slots=True)
class Copy:
    """One receipt on its way to one EC, and what is odd about it."""

    number: int
    id_pa: str
    owner: str
    paid_at: datetime  # Italian civil time, as the Nodo writes it
    shared: bool = False  # a part of it goes to the Provincia
    id_station: str = STATION
    stand_in: bool = False
    amount_off: Decimal = Decimal(0)
    newer_element: bool = False
    without_psp: bool = False  # which the schema demands
    cart_id: str | None = None  # of the payments that were made at once
    again: bool = False  # the notice was paid once before

    @property
    def receipt_id(self) -> str:
        return f"{self.number + (1 << 64 if self.again else 0):032x}"

    @property
    def iuv(self) -> str:
        return f"{self.number:017d}"

    @property
    def debtor(self) -> tuple[str, str]:
        """Name and fiscal code of the one who owes."""
        return _PEOPLE[self.number % len(_PEOPLE)]

    @property
    def description(self) -> str:
        return self._service[0].format(year=self.paid_at.year, number=self.number)

    @property
    def _service(self) -> tuple[str, str, str]:
        return _SERVICES[0 if self.shared else self.number % len(_SERVICES)]

    @property
    def _transfers(self) -> list[tuple[int, Decimal, str, str, str]]:
        """Number, amount, EC, category and IBAN of each."""
        first = (1, self._tax, self.owner, *self._service[1:])
        return [first, (2, _TEFA, PROVINCIA, *_TEFA_SERVICE)] if self.shared else [first]

    @property
    def amount(self) -> Decimal:
        return self._tax + (_TEFA if self.shared else 0) + self.amount_off

    @property
    def _tax(self) -> Decimal:
        return Decimal(1000 + self.number * 7) / 100

    @property
    def key(self) -> tuple[str, str]:
        """The receipt's key: an EC and a receiptId."""
        return self.id_pa, self.receipt_id

    def part(self, id_pa: str) -> tuple[int, Decimal]:
        """Return number and amount of the transfer to an EC."""
        return (1, self._tax) if id_pa == self.owner else (2, _TEFA)

    def biz_event(self) -> dict[str, Any]:
        """Return what BizEvents tells of the receipt."""
        name, fiscal_code = self.debtor
        subject = {
            "entityUniqueIdentifierType": "F", "entityUniqueIdentifierValue": fiscal_code, "fullName": name
        }  # fmt: skip
        transfers = [
            {"idTransfer": number, "transferAmount": float(amount), "fiscalCodePA": ec, "mbdAttachment": None,
             "iban": iban, "remittanceInformation": self.description, "transferCategory": category}
            for number, amount, ec, category, iban in self._transfers
        ]  # fmt: skip
        return {
            "receiptId": self.receipt_id, "noticeNumber": f"3{self.iuv}", "fiscalCode": self.owner, "outcome": "OK",
            "creditorReferenceId": self.iuv, "paymentAmount": float(self.amount),
            "description": self.description, "companyName": NAMES[self.owner], "debtor": subject,
            "transferList": transfers, "idPSP": "ABI99999", "pspCompanyName": "Banca Immaginaria",
            "idChannel": "99999999990_01", "channelDescription": "app", "paymentDateTime": f"{self.paid_at:%Y-%m-%d}",
        }  # fmt: skip

    def other_content(self) -> "Copy":
        """Return the same receipt with another amount, as it must never come."""
        return replace(self, amount_off=self.amount_off + 1)

    def envelope(self) -> bytes:
        """Return the request as the Nodo pushes it."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            f'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:pafn="{_NS}">'
            f"<soapenv:Body><pafn:paSendRTV2Request>{self._content()}</pafn:paSendRTV2Request></soapenv:Body>"
            "</soapenv:Envelope>"
        ).encode()

    def document(self) -> bytes:
        """Return the receipt as the GPD receipts API hands it out: another root, in no namespace."""
        declaration = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
        return f"{declaration}<PaSendRTV2Request>{self._content()}</PaSendRTV2Request>".encode()

    def _content(self) -> str:
        transfers = "".join(
            f"<transfer><idTransfer>{number}</idTransfer><transferAmount>{amount:.2f}</transferAmount>"
            f"<fiscalCodePA>{ec}</fiscalCodePA><IBAN>{iban}</IBAN>"
            f"<remittanceInformation>{self.description}</remittanceInformation>"
            f"<transferCategory>{category}</transferCategory></transfer>"
            for number, amount, ec, category, iban in self._transfers
        )
        name, fiscal_code = self.debtor
        psp = "" if self.without_psp else "<idPSP>ABI99999</idPSP>"
        return (
            f"<idPA>{self.id_pa}</idPA><idBrokerPA>{BROKER}</idBrokerPA><idStation>{self.id_station}</idStation>"
            f"<receipt><receiptId>{self.receipt_id}</receiptId><noticeNumber>3{self.iuv}</noticeNumber>"
            f"<fiscalCode>{self.owner}</fiscalCode><outcome>OK</outcome>"
            f"<creditorReferenceId>{self.iuv}</creditorReferenceId><paymentAmount>{self.amount:.2f}</paymentAmount>"
            f"<description>{self.description}</description>"
            f"<companyName>{escape(NAMES[self.owner])}</companyName>"
            "<debtor><uniqueIdentifier><entityUniqueIdentifierType>F</entityUniqueIdentifierType>"
            f"<entityUniqueIdentifierValue>{fiscal_code}</entityUniqueIdentifierValue></uniqueIdentifier>"
            f"<fullName>{escape(name)}</fullName></debtor>"
            f"<transferList>{transfers}</transferList>{psp}<PSPCompanyName>Banca Immaginaria</PSPCompanyName>"
            "<idChannel>99999999990_01</idChannel><channelDescription>app</channelDescription>"
            f"{f'<paymentNote>{self.cart_id}</paymentNote>' if self.cart_id else ''}"
            f"<paymentDateTime>{self.paid_at:%Y-%m-%dT%H:%M:%S}</paymentDateTime>"
            f"<standIn>{str(self.stand_in).lower()}</standIn>"
            f"{'<newerElement>of a later version</newerElement>' if self.newer_element else ''}</receipt>"
        )


class Ledger:
    """All payments. `ordinary`, `lost` and so on are the copies by what will happen to them."""

    def __init__(self, now: datetime) -> None:
        self._now = now.replace(microsecond=0, tzinfo=None)
        self._last = 0
        self.ordinary = [*self._copies(160), *self._shared(20)]
        self.cut = list(self._copies(30))
        self.lost = list(self._copies(25))  # the Nodo gave up on them, or never tried
        self.for_neighbour = [replace(copy, id_pa=NEIGHBOUR, owner=NEIGHBOUR) for copy in self._copies(20)]
        [stand_in, off, newer, elsewhere] = self._copies(4)
        self.odd = {
            "paid while the EC could not be asked": replace(stand_in, stand_in=True),
            "the transfers do not add up": replace(off, amount_off=Decimal("0.10")),
            "an element that no schema knows yet": replace(newer, newer_element=True),
            "by a station that is not configured": replace(elsewhere, id_station=f"{BROKER}_99"),
        }
        # The asynchronous payment, see `story`: one of a shared payment's parts goes to the Provincia.
        self.notices = [*self._copies(6), *self._copies(1, shared=True)]
        self.cart = [replace(copy, cart_id="carrello-1") for copy in self._copies(3)]
        [self.unpaid] = self._copies(1)
        self.second_part = replace(self.notices[-1], id_pa=PROVINCIA)
        self.pushes_lost = [self.notices[1], self.cart[0]]
        self.only_in_flow = self.notices[2]
        # What the console shows beside that: a notice that was paid twice, and a payment without any receipt.
        first = self.ordinary[3]
        self.paid_twice = replace(first, again=True, paid_at=first.paid_at + timedelta(minutes=4))
        [self.never_heard_of] = self._copies(1)
        self.broken = [replace(copy, without_psp=True) for copy in self._copies(3)]

    def _copies(self, number: int, *, shared: bool = False) -> Iterator[Copy]:
        for _ in range(number):
            self._last += 1
            paid_at = self._now - timedelta(minutes=1) - self._last * _EVERY
            yield Copy(self._last, COMUNE, COMUNE, paid_at, shared)

    def _shared(self, number: int) -> Iterator[Copy]:
        for copy in self._copies(number):
            shared = replace(copy, shared=True)
            yield shared
            yield replace(shared, id_pa=PROVINCIA)

    @property
    def expected(self) -> list[Copy]:
        """The receipts that must be stored in the end, each of them once."""
        story = [*self.notices, *self.cart, self.second_part]
        return [*self._before_story, *story]

    @property
    def _before_story(self) -> list[Copy]:
        return [*self.ordinary, *self.cut, *self.lost, *self.for_neighbour, *self.odd.values()]

    @property
    def listed(self) -> list[Copy]:
        """The receipts that the GPD API lists from the start: the owners', no copies for secondary beneficiaries."""
        return [copy for copy in self._before_story if copy.id_pa == copy.owner]
