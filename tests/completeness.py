"""A world in which some receipts are missing: payments, their receipts, flows, and who still has what.

`World.make(payments)` deals out payments of three ECs over flows of 50, as many as 100,000 payments in 2,000 flows. One
receipt in a hundred is lost: of secondary beneficiaries, of payments that the flow names by another IUR, of revised
flows, of payments that may never have a receipt (status 9), of stamps (in no flow), and of ordinary ones, some of which
only BizEvents knows. The world is the same for the same number. Nothing here imports the station.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

ECS = ("77777777777", "88888888888", "66666666666")
STRANGER = "55555555555"  # owns the payments of which our ECs are secondary beneficiaries
BROKER, STATION = "15376371009", "15376371009_01"
PSPS = ("ABI99999", "ABI99998", "BIC99997")
_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
_SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
PER_FLOW = 50


@dataclass
class Payment:
    """One payment with a part for one of our ECs. `kind` says what becomes of its receipt, see `KINDS`."""

    number: int
    ec: str
    kind: str
    paid_at: datetime

    @property
    def receipt_id(self) -> str:
        return sha256(f"payment {self.number}".encode()).hexdigest()[:32]

    @property
    def iuv(self) -> str:
        return f"{10**15 + self.number:017d}"

    @property
    def cents(self) -> int:
        return int(self.receipt_id[:6], 16) % 50_000 + 1

    @property
    def owner(self) -> str:
        return STRANGER if self.kind == "secondary" else self.ec

    @property
    def iur(self) -> str:
        """As the flow names it."""
        return self.receipt_id[::-1] if self.kind in ("other iur", "other iur here") else self.receipt_id

    @property
    def transfer(self) -> int:
        return 2 if self.owner == STRANGER else 1

    def line(self) -> dict[str, Any]:
        """As a flow lists it."""
        return {
            "iuv": self.iuv, "iur": self.iur, "amount": euro(self.cents), "id_transfer": self.transfer,
            "status": "NO_RPT" if self.kind in ("status 9", "status 9 never") else "EXECUTED",
            "date": self.paid_at.isoformat().replace("+00:00", "Z"),
        }  # fmt: skip

    def _parts(self) -> list[tuple[int, str]]:
        return [(700, STRANGER), (self.cents, self.ec)] if self.owner == STRANGER else [(self.cents, self.ec)]

    def request(self, root: str = "pafn:paSendRTV2Request") -> str:
        """The receipt's document, for the EC."""
        stamp = "<MBDAttachment>bWFyY2E=</MBDAttachment>"
        iban = "<IBAN>IT88X0000000000000000000001</IBAN>"
        transfers = "".join(
            f"<transfer><idTransfer>{place}</idTransfer><transferAmount>{euro(cents)}</transferAmount>"
            f"<fiscalCodePA>{ec}</fiscalCodePA>{stamp if 'stamp' in self.kind else iban}"
            f"<remittanceInformation>/RFB/{self.iuv}/TXT/TARI</remittanceInformation>"
            "<transferCategory>9/0201101IM/</transferCategory></transfer>"
            for place, (cents, ec) in enumerate(self._parts(), start=1)
        )
        total = euro(sum(cents for cents, _ in self._parts()))
        return (
            f"<{root}><idPA>{self.ec}</idPA><idBrokerPA>{BROKER}</idBrokerPA><idStation>{STATION}</idStation><receipt>"
            f"<receiptId>{self.receipt_id}</receiptId><noticeNumber>3{self.iuv}</noticeNumber>"
            f"<fiscalCode>{self.owner}</fiscalCode><outcome>OK</outcome>"
            f"<creditorReferenceId>{self.iuv}</creditorReferenceId><paymentAmount>{total}</paymentAmount>"
            "<description>TARI 2026</description><companyName>Comune di Vattelapesca</companyName>"
            "<debtor><uniqueIdentifier><entityUniqueIdentifierType>F</entityUniqueIdentifierType>"
            "<entityUniqueIdentifierValue>PLLPNC80A01X000X</entityUniqueIdentifierValue></uniqueIdentifier>"
            f"<fullName>Pinco Pallino</fullName></debtor><transferList>{transfers}</transferList>"
            f"<idPSP>{PSPS[self.number % 3]}</idPSP><PSPCompanyName>Banca Immaginaria</PSPCompanyName>"
            "<idChannel>99999999990_01</idChannel><channelDescription>app</channelDescription>"
            f"<paymentDateTime>{self.paid_at:%Y-%m-%dT%H:%M:%S}Z</paymentDateTime></receipt></{root}>"
        )

    def envelope(self) -> bytes:
        """The document as the Nodo pushes it."""
        document = self.request().replace(">", f' xmlns:pafn="{_NS}">', 1)
        return f'<s:Envelope xmlns:s="{_SOAP}"><s:Body>{document}</s:Body></s:Envelope>'.encode()

    def in_gpd(self) -> dict[str, Any]:
        """As a scenario of the simulated GPD has it."""
        return {
            "org": self.ec, "n": self.number, "iuv": self.iuv, "receipt_id": self.receipt_id,
            "payment_date_time": f"{self.paid_at:%Y-%m-%dT%H:%M:%S}", "xml": self.request("PaSendRTV2Request"),
        }  # fmt: skip

    def in_biz_events(self) -> dict[str, Any]:
        """As a scenario of the simulated BizEvents has it: less than the document, and amounts that were floats."""
        subject = {"entityUniqueIdentifierType": "F", "entityUniqueIdentifierValue": "PLLPNC80A01X000X",
                   "fullName": "Pinco Pallino"}  # fmt: skip
        transfers = [
            {"idTransfer": place, "transferAmount": cents / 100, "fiscalCodePA": ec, "mbdAttachment": None,
             "iban": "IT88X0000000000000000000001", "remittanceInformation": f"/RFB/{self.iuv}/TXT/TARI",
             "transferCategory": "9/0201101IM/"}
            for place, (cents, ec) in enumerate(self._parts(), start=1)
        ]  # fmt: skip
        body = {
            "receiptId": self.receipt_id, "noticeNumber": f"3{self.iuv}", "fiscalCode": self.owner, "outcome": "OK",
            "creditorReferenceId": self.iuv, "paymentAmount": sum(cents for cents, _ in self._parts()) / 100,
            "description": "TARI 2026", "companyName": "Comune di Vattelapesca", "debtor": subject,
            "transferList": transfers, "idPSP": PSPS[self.number % 3], "pspCompanyName": "Banca Immaginaria",
            "idChannel": "99999999990_01", "channelDescription": "app", "paymentDateTime": f"{self.paid_at:%Y-%m-%d}",
        }  # fmt: skip
        return {"iur": self.receipt_id, "ecs": sorted({self.ec, self.owner}), "body": body}


# How many receipts of a thousand that are lost are of which kind; and where each is still to be had.
KINDS = {"secondary": 100, "other iur": 50, "revised": 20, "status 9": 30, "stamp": 20, "only biz": 80, "lost": 700}
IN_GPD = ("other iur", "revised", "status 9", "stamp", "lost")
IN_BIZ_EVENTS = ("secondary", "only biz")
# And some that are here: nothing may be said of them, other than of those that no flow has.
HERE = {"other iur here": 50, "stamp here": 20, "uncredited": 40, "recent": 40, "dropped": 10}
NEVER = {"status 9 never": 10}


@dataclass
class World:
    """All payments; `flows` as scenarios of the simulated FdR have them."""

    payments: list[Payment]
    flows: list[dict[str, Any]] = field(default_factory=list)
    revised: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def make(cls, count: int, now: datetime | None = None) -> "World":
        """So many payments in flows, and one receipt in a hundred is lost."""
        now = (now or datetime.now(UTC)).replace(microsecond=0)
        share = count / 100_000
        kinds = [kind for kind, number in (KINDS | HERE | NEVER).items() for _ in range(max(1, round(number * share)))]
        kinds += ["here"] * (count - len([kind for kind in kinds if kind not in OUTSIDE]))
        payments = []
        step = max(1, len(kinds) // 997)
        for number in range(len(kinds)):  # dealt out, so that each kind is in flows of every EC and day
            kind = (
                kinds[(number * (step * 2 + 1)) % len(kinds)] if _coprime(step * 2 + 1, len(kinds)) else kinds[number]
            )
            age = timedelta(days=1) if kind == "recent" else timedelta(days=12 + number % 10, minutes=number % 600)
            payments.append(Payment(number, ECS[number % 3], kind, now - age))
        world = cls(payments)
        world._deal(now)
        return world

    def _deal(self, now: datetime) -> None:
        """Deal the payments out over flows, of which some are published again without a payment or with one more."""
        for ec in ECS:
            of_ec = [one for one in self.payments if one.ec == ec and one.kind not in OUTSIDE]
            # Every EC's first flow is older than all payments: what was paid since is due in a flow.
            for place in range(0, len(of_ec), PER_FLOW):
                number = place // PER_FLOW
                lines = of_ec[place : place + PER_FLOW]
                day = now - timedelta(days=25) if number == 0 else now - timedelta(days=2 + number % 8, minutes=number)
                psp = PSPS[number % 3]
                flow = {
                    "org": ec, "fdr": f"{day:%Y-%m-%d}{psp}-S{number:09d}", "psp": psp, "revision": 1,
                    "published": _text(day + timedelta(hours=1)), "flow_date": _text(day),
                    "payments": [one.line() for one in lines if one.kind != "revised"],
                }  # fmt: skip
                self.flows.append(flow)
                if any(one.kind in ("revised", "dropped") for one in lines):
                    again = [one.line() for one in lines if one.kind != "dropped"]
                    self.revised.append(
                        flow | {"revision": 2, "published": _text(day + timedelta(hours=2)), "payments": again}
                    )

    def of(self, *kinds: str) -> Iterator[Payment]:
        return (one for one in self.payments if one.kind in kinds)

    @property
    def pushed(self) -> list[Payment]:
        """Whose receipts are here."""
        return list(self.of("here", *HERE))

    @property
    def gpd(self) -> list[dict[str, Any]]:
        return [one.in_gpd() for one in self.of(*IN_GPD)]

    @property
    def biz_events(self) -> list[dict[str, Any]]:
        return [one.in_biz_events() for one in self.of(*IN_BIZ_EVENTS)]

    @property
    def missing(self) -> set[tuple[str, str]]:
        """EC and IUR of what is to be named as missing before anything is fetched."""
        return {(one.ec, one.iur) for one in self.of(*KINDS) if one.kind not in ("stamp", "status 9")}

    @property
    def uncredited(self) -> set[tuple[str, str]]:
        """EC and receiptId of what is to be named as not credited."""
        return {(one.ec, one.receipt_id) for one in self.of("uncredited", "dropped")}

    @property
    def obtainable(self) -> set[tuple[str, str]]:
        """EC and receiptId of what GPD or BizEvents have, and a flow tells of."""
        return {(one.ec, one.receipt_id) for one in self.of(*IN_GPD, *IN_BIZ_EVENTS) if one.kind != "stamp"}

    def cents(self, ec: str, *, credited: bool) -> int:
        """The sum of an EC's flows in their latest revision; or of what is here and due and in none."""
        if not credited:
            return sum(one.cents for one in self.of("uncredited", "dropped") if one.ec == ec)
        latest = {(flow["org"], flow["fdr"]): flow for flow in (*self.flows, *self.revised)}
        lines = [line for flow in latest.values() if flow["org"] == ec for line in flow["payments"]]
        return sum(int(line["amount"].replace(".", "")) for line in lines)


# In no flow. (What a revision dropped was in one.)
OUTSIDE = ("stamp", "stamp here", "uncredited", "recent")


def euro(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
