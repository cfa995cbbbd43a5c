"""The asynchronous payment from the EC's front end to the bank: positions, receipts, flows and euro agree at last."""

import http.client
import json
from collections import Counter
from decimal import Decimal
from typing import Any, Protocol
from urllib.parse import urlsplit

from station.demo.payments import COMUNE, PROVINCIA, Copy, Ledger
from station.demo.platform import KEY, POSITIONS, Platform
from station.errors import StationError


class StoryError(StationError):
    """The story did not go as it should."""

    code = "demo_story_failed"


class Told(Protocol):
    """What the demonstration gives to the story: printing, commands and pushes."""

    def step(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def station(self, *arguments: str) -> str: ...
    def push(self, documents: list[bytes]) -> None: ...
    def exported(self) -> list[dict[str, Any]]: ...


def play(told: Told, platform: Platform, url: str, ledger: Ledger) -> None:
    """Tell the story and check it. Raises `StoryError`."""
    notices, cart, unpaid = ledger.notices, ledger.cart, ledger.unpaid
    told.step(
        f"The EC's front end asks GPD for {len(notices) + len(cart) + 1} debt positions (createDebtPosition with "
        "toPublish=true and validityDate=null)"
    )
    states = Counter(_create(url, copy)["status"] for copy in [*notices, *cart, unpaid])
    told.note(f"they can be paid at once: {states['VALID']} VALID")

    told.step(f"{len(notices)} notices are paid one by one, {len(cart)} in one cart; one is left unpaid")
    paid = [*notices, *cart]
    for copy in paid:
        platform.take_receipt(copy, listed=copy is not ledger.only_in_flow)
    platform.take_receipt(ledger.second_part, listed=False)
    told.note("each receipt goes to GPD, which closes the position (PAID), and to this station, a broadcast one")
    away = [*ledger.pushes_lost, ledger.only_in_flow]
    told.push([copy.envelope() for copy in paid if copy not in away])
    told.note(f"{len(away)} pushes fail, and that of the Provincia's part of one payment")

    told.step(f"station reconcile --positions fetches the {len(ledger.pushes_lost)} that GPD lists")
    fetched = json.loads(told.station("reconcile", "--positions", "--json"))["total"]
    told.note(f"fetched {fetched['fetched']}; GPD says of {fetched['positions']} positions that they are paid")
    told.note(f"of {fetched['not_yet']} paid position GPD has no receipt")
    _expect("fetched by reconcile", fetched["fetched"], len(ledger.pushes_lost))
    _expect("paid positions", fetched["positions"], len(paid))
    _expect("positions without a receipt", fetched["not_yet"], 1)

    told.step("The next day the PSP transfers the money, and pagoPA publishes what each bank transfer is made of (FdR)")
    line = platform.credit(COMUNE, paid)
    platform.credit(PROVINCIA, [ledger.second_part])
    total = json.loads(told.station("fdr", "--json"))["total"]
    told.note(f"{total['payments']} payments were credited; {total['provisional']} of them had no receipt here")
    told.note("BizEvents tells of these: they are stored, provisional until their documents come")
    _expect("told of by BizEvents", total["provisional"], 2)
    _expect("missing at the end", total["missing"], 0)

    told.step("The finance office asks who paid what is in a line of the bank statement")
    shown = told.station("fdr", "show", f"/PUR/LGPE-RIVERSAMENTO/URI/{line}").splitlines()
    for text in (*shown[:6], "...", *shown[-1:]):
        told.note(text)

    told.step("The documents come after all, and take the place of what BizEvents told")
    told.push([ledger.only_in_flow.envelope(), ledger.second_part.envelope()])

    told.step("Positions, receipts, flows and euro, one against the other")
    _agree(told, platform, paid, line)
    _expect("unpaid position", platform.positions[unpaid.iuv]["status"], "VALID")


def _create(url: str, copy: Copy) -> dict[str, Any]:
    """Create the debt position that a copy pays; return GPD's answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=15)
    body = {
        "iupd": f"{COMUNE}-{copy.number}", "type": "F", "fiscalCode": copy.debtor[1], "fullName": copy.debtor[0],
        "companyName": "Comune di Vattelapesca", "switchToExpired": False, "validityDate": None,
        "paymentOption": [
            {"iuv": copy.iuv, "nav": f"3{copy.iuv}", "amount": int(copy.amount * 100), "isPartialPayment": False,
             "description": copy.description, "dueDate": "2099-12-31T00:00:00"}
        ],
    }  # fmt: skip
    path = f"{POSITIONS}/organizations/{COMUNE}/debtpositions?toPublish=true"
    headers = {"Content-Type": "application/json", "Ocp-Apim-Subscription-Key": KEY}
    connection.request("POST", path, json.dumps(body), headers)
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def _agree(told: Told, platform: Platform, paid: list[Copy], line: str) -> None:
    positions = {iuv: one for iuv, one in platform.positions.items() if one["status"] == "PAID"}
    cents = sum(one["paymentOption"][0]["amount"] for one in positions.values())
    receipts = {row["iuv"]: row for row in told.exported() if row["iuv"] in positions and row["id_pa"] == COMUNE}
    flow = json.loads(told.station("fdr", "show", line, "--json"), parse_float=str)
    shares = sum((copy.part(PROVINCIA)[1] for copy in paid if copy.shared), Decimal(0))
    of: dict[str, tuple[int, Decimal]] = {
        "positions PAID": (len(positions), Decimal(cents).scaleb(-2)),
        "receipts": (len(receipts), sum((Decimal(row["amount"]) for row in receipts.values()), Decimal(0))),
        "credited, with the Provincia's part": (
            len(flow["payments"]), sum((Decimal(one["amount"]) for one in flow["payments"]), Decimal(0)) + shares,
        ),
    }  # fmt: skip
    for name, (number, euro) in of.items():
        told.note(f"{name}: {number}, {euro} euro")
    _expect("different sums", len(set(of.values())), 1)
    _expect("payments of the flow without a receipt", [one for one in flow["payments"] if one["receipt"] != "here"], [])
    _expect(
        "missing", json.loads(told.station("fdr", "--status", "--json"))["ecs"][0]["balance"]["payments_missing"], 0
    )


def _expect(name: str, got: object, wanted: object) -> None:
    if got != wanted:
        raise StoryError(f"{name}: {got} instead of {wanted}")
