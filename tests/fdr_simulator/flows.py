"""What is published: flows in revisions, their payments, and the receipts that BizEvents has. Callers hold the lock."""

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from gpd_simulator.receipts import make_receipt

PSP = "ABI99999"
STATUSES = ("EXECUTED", "REVOKED", "STAND_IN", "STAND_IN_NO_RPT", "NO_RPT")
_MORE = ("regulation", "receiver", "sender", "disabled", "extra", "lost")
_FLOW_WORDS = {*("org", "fdr", "psp", "revision", "published", "flow_date", "payments"), *_MORE}
_PAYMENT_WORDS = {"iuv", "iur", "amount", "id_transfer", "status", "date"}
_GENERATE_WORDS = {"org", "flows", "payments", "first", "days", "psp", "seed"}


def make_payment(org: str, flow: int, number: int, seed: int | str = 0) -> dict[str, Any]:
    """Payment `number` of flow `flow`, the same whenever the arguments are the same."""
    digest = hashlib.sha256(f"{org} {flow} {number} {seed}".encode()).hexdigest()
    cents = int(digest[:6], 16) % 50_000 + 1
    return {
        "iuv": f"{int(digest[6:20], 16) % 10**17:017d}",
        "iur": digest[:32],
        "amount": f"{cents // 100}.{cents % 100:02d}",
        "id_transfer": 1,
        "status": "EXECUTED",
    }


def make_flow(
    org: str, number: int, payments: int, *, published: datetime, psp: str = PSP, seed: int | str = 0
) -> dict[str, Any]:
    """Flow `number` of an organisation with so many payments, as `flows` of a scenario has it."""
    return {
        "org": org,
        "fdr": f"{published:%Y-%m-%d}{psp}-S{number:09d}",
        "psp": psp,
        "revision": 1,
        "published": _text(published),
        "flow_date": _text(published - timedelta(hours=6)),
        "payments": [make_payment(org, number, index, seed) for index in range(payments)],
    }


def biz_body(receipt: dict[str, Any]) -> dict[str, Any]:
    """What BizEvents says of a receipt (`fields["receipt"]` of `make_receipt`): less, and numbers as floats."""

    def subject(told: dict[str, Any] | None) -> dict[str, Any] | None:
        if told is None:
            return None
        email = {"email": told["e-mail"]} if "e-mail" in told else {}
        return {**told["uniqueIdentifier"], "fullName": told["fullName"], **email}

    transfers = [
        {
            "idTransfer": int(told["idTransfer"]),
            "transferAmount": float(told["transferAmount"]),
            **{name: told[name] for name in ("fiscalCodePA", "remittanceInformation", "transferCategory")},
            "iban": told.get("IBAN"),
            "mbdAttachment": None,
        }
        for told in receipt["transferList"]["transfer"]
    ]
    names = (
        *("receiptId", "noticeNumber", "fiscalCode", "creditorReferenceId", "description", "companyName", "officeName"),
        *("idPSP", "pspFiscalCode", "pspPartitaIVA", "idChannel", "channelDescription", "paymentMethod"),
        *("applicationDate", "transferDate"),
    )
    body = {
        **{name: receipt.get(name) for name in names},
        "outcome": "OK",
        "paymentAmount": float(receipt["paymentAmount"]),
        "pspCompanyName": receipt["PSPCompanyName"],
        "debtor": subject(receipt["debtor"]),
        "payer": subject(receipt.get("payer")),
        "transferList": transfers,
        "fee": float(receipt["fee"]) if "fee" in receipt else None,
        "paymentDateTime": receipt.get("paymentDateTime", "")[:10] or None,
    }
    return {name: value for name, value in body.items() if value is not None}


@dataclass
class Published:
    """One revision of a flow."""

    org: str
    fdr: str
    psp: str
    revision: int
    published: datetime
    flow_date: datetime
    payments: list[dict[str, Any]]
    more: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, value: dict[str, Any]) -> "Published":
        if unknown := set(value) - _FLOW_WORDS:
            raise ValueError(f"flow: unknown {', '.join(sorted(unknown))}")
        for payment in value.get("payments", ()):
            if unknown := set(payment) - _PAYMENT_WORDS:
                raise ValueError(f"payment: unknown {', '.join(sorted(unknown))}")
        published = datetime.fromisoformat(value["published"])
        return cls(
            value["org"],
            value["fdr"],
            value.get("psp", PSP),
            value.get("revision", 1),
            published,
            datetime.fromisoformat(value.get("flow_date", value["published"])),
            value.get("payments", []),
            {name: value[name] for name in _MORE if name in value},
        )

    def listed(self) -> dict[str, Any]:
        return {
            "fdr": self.fdr,
            "pspId": self.psp,
            "revision": self.revision,
            "published": _text(self.published),
            "flowDate": _text(self.flow_date),
        }

    def detail(self) -> dict[str, Any]:
        """The flow without its payments. Its sum is of floats, as the server's is."""
        total = sum(float(payment["amount"]) for payment in self.payments)
        return {
            "status": "PUBLISHED",
            "revision": self.revision,
            "created": _text(self.published - timedelta(minutes=5)),
            "updated": _text(self.published),
            "fdr": self.fdr,
            "fdrDate": _text(self.flow_date),
            "regulation": self.more.get("regulation", f"TRN{hashlib.sha256(self.fdr.encode()).hexdigest()[:16]}"),
            "regulationDate": f"{self.flow_date:%Y-%m-%d}",
            "bicCodePouringBank": "IMMAITRRXXX",
            "sender": {
                "type": "LEGAL_PERSON",
                "id": "IMMAITRR",
                "pspId": self.psp,
                "pspName": "Banca Immaginaria S.p.A.",
                "pspBrokerId": "99999999990",
                "channelId": "99999999990_01",
                **self.more.get("sender", {}),
            },
            "receiver": self.more.get(
                "receiver",
                {"id": self.org, "organizationId": self.org, "organizationName": "Comune di Roccacannuccia"},
            ),
            "published": _text(self.published),
            "computedTotPayments": len(self.payments),
            "computedSumPayments": total,
            "totPayments": len(self.payments),
            "sumPayments": total,
            **self.more.get("extra", {}),
        }

    def rows(self) -> list[dict[str, Any]]:
        kept = len(self.payments) - self.more.get("lost", 0)
        return [
            {
                "index": index,
                "iuv": payment["iuv"],
                "iur": payment["iur"],
                "idTransfer": payment.get("id_transfer", 1),
                "pay": float(payment["amount"]),
                "payStatus": payment.get("status", "EXECUTED"),
                "payDate": payment.get("date", _text(self.flow_date)),
            }
            for index, payment in enumerate(self.payments[:kept], start=1)
        ]


class Shelf:
    """All flows, and the receipts of BizEvents."""

    def __init__(self) -> None:
        self.flows: dict[str, dict[tuple[str, str], dict[int, Published]]] = {}
        self.receipts: dict[str, tuple[frozenset[str], bytes]] = {}

    def load(self, part: dict[str, Any], now: datetime) -> dict[str, int]:
        for value in part.get("flows", ()):
            self.publish(Published.read(value))
        orders = part.get("generate", [])
        for order in [orders] if isinstance(orders, dict) else orders:
            self._generate(order, now)
        for value in part.get("receipts", ()):
            self._receipt(value)
        return {"flows": sum(map(len, self.flows.values())), "receipts": len(self.receipts)}

    def publish(self, flow: Published) -> None:
        self.flows.setdefault(flow.org, {}).setdefault((flow.fdr, flow.psp), {})[flow.revision] = flow

    def _generate(self, order: dict[str, Any], now: datetime) -> None:
        if unknown := set(order) - _GENERATE_WORDS:
            raise ValueError(f"generate: unknown {', '.join(sorted(unknown))}")
        count, first, days = order["flows"], order.get("first", 0), order.get("days", 20)
        for number in range(first, first + count):
            published = now - timedelta(days=days) * ((number - first) / max(count, 1)) - timedelta(minutes=1)
            psp = order.get("psp", PSP)
            made = make_flow(
                order["org"], number, order["payments"], published=published, psp=psp, seed=order.get("seed", 0)
            )
            self.publish(Published.read(made))

    def _receipt(self, value: dict[str, Any]) -> None:
        if "body" in value:
            self.receipts[value["iur"]] = frozenset(value["ecs"]), json.dumps(value["body"]).encode()
            return
        ecs = value.pop("ecs", ())
        made = make_receipt(**value)
        receipt = made["fields"]["receipt"]
        transfers = [one["fiscalCodePA"] for one in receipt["transferList"]["transfer"]]
        body = json.dumps(biz_body(receipt)).encode()
        self.receipts[made["receipt_id"]] = frozenset([*ecs, *transfers, receipt["fiscalCode"]]), body

    def latest(self, org: str, published_after: datetime, dated_after: datetime, psp: str | None) -> list[Published]:
        """The flows that a list has: the latest revision of each, in the order of flow date and name."""
        found = []
        for (_, flow_psp), revisions in self.flows.get(org, {}).items():
            flow = revisions[max(revisions)]
            if flow.published > published_after and flow.flow_date > dated_after and psp in (None, flow_psp):
                found.append(flow)
        return sorted(found, key=lambda flow: (flow.flow_date, flow.fdr, flow.psp))

    def find(self, org: str, fdr: str, psp: str, revision: int) -> Published | None:
        return self.flows.get(org, {}).get((fdr, psp), {}).get(revision)

    def remove(self, org: str, fdr: str) -> bool:
        flows = self.flows.get(org, {})
        gone = [key for key in flows if key[0] == fdr]
        for key in gone:
            del flows[key]
        return bool(gone)


def _text(moment: datetime) -> str:
    """An Instant as Java writes it."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
