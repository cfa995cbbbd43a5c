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

_NAMES = {
    COMUNE: "Comune di Vattelapesca",
    PROVINCIA: "Provincia di Chissadove",
    NEIGHBOUR: "Comune di Nessunluogo",
}
_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
_TEFA = Decimal("5.00")


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

    @property
    def receipt_id(self) -> str:
        return f"{self.number:032x}"

    @property
    def iuv(self) -> str:
        return f"{self.number:017d}"

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
        subject = {"entityUniqueIdentifierType": "F", "entityUniqueIdentifierValue": "ANONIMO", "fullName": "Nessuno"}
        ecs = [self.owner, PROVINCIA] if self.shared else [self.owner]
        transfers = [
            {"idTransfer": number, "transferAmount": float(amount), "fiscalCodePA": ec, "mbdAttachment": None,
             "iban": f"IT88X000000000000000000000{number}", "remittanceInformation": "TARI",
             "transferCategory": "9/0201101IM/"}
            for ec in ecs for number, amount in [self.part(ec)]
        ]  # fmt: skip
        return {
            "receiptId": self.receipt_id, "noticeNumber": f"3{self.iuv}", "fiscalCode": self.owner, "outcome": "OK",
            "creditorReferenceId": self.iuv, "paymentAmount": float(self.amount),
            "description": f"TARI, rata {self.number}", "companyName": _NAMES[self.owner], "debtor": subject,
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
        transfers = _transfer(1, self._tax, self.owner) + (_transfer(2, _TEFA, PROVINCIA) if self.shared else "")
        psp = "" if self.without_psp else "<idPSP>ABI99999</idPSP>"
        return (
            f"<idPA>{self.id_pa}</idPA><idBrokerPA>{BROKER}</idBrokerPA><idStation>{self.id_station}</idStation>"
            f"<receipt><receiptId>{self.receipt_id}</receiptId><noticeNumber>3{self.iuv}</noticeNumber>"
            f"<fiscalCode>{self.owner}</fiscalCode><outcome>OK</outcome>"
            f"<creditorReferenceId>{self.iuv}</creditorReferenceId><paymentAmount>{self.amount:.2f}</paymentAmount>"
            f"<description>TARI, rata {self.number}</description>"
            f"<companyName>{escape(_NAMES[self.owner])}</companyName>"
            "<debtor><uniqueIdentifier><entityUniqueIdentifierType>F</entityUniqueIdentifierType>"
            "<entityUniqueIdentifierValue>ANONIMO</entityUniqueIdentifierValue></uniqueIdentifier>"
            "<fullName>Nessuno</fullName></debtor>"
            f"<transferList>{transfers}</transferList>{psp}<PSPCompanyName>Banca Immaginaria</PSPCompanyName>"
            "<idChannel>99999999990_01</idChannel><channelDescription>app</channelDescription>"
            f"{f'<paymentNote>{self.cart_id}</paymentNote>' if self.cart_id else ''}"
            f"<paymentDateTime>{self.paid_at:%Y-%m-%dT%H:%M:%S}</paymentDateTime>"
            f"<standIn>{str(self.stand_in).lower()}</standIn>"
            f"{'<newerElement>of a later version</newerElement>' if self.newer_element else ''}</receipt>"
        )


def _transfer(number: int, amount: Decimal, id_pa: str) -> str:
    return (
        f"<transfer><idTransfer>{number}</idTransfer><transferAmount>{amount:.2f}</transferAmount>"
        f"<fiscalCodePA>{id_pa}</fiscalCodePA><IBAN>IT88X000000000000000000000{number}</IBAN>"
        "<remittanceInformation>TARI</remittanceInformation><transferCategory>9/0201101IM/</transferCategory></transfer>"
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
        self.broken = [replace(copy, without_psp=True) for copy in self._copies(3)]

    def _copies(self, number: int, *, shared: bool = False) -> Iterator[Copy]:
        for _ in range(number):
            self._last += 1
            paid_at = self._now - timedelta(minutes=1, seconds=self._last)
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
