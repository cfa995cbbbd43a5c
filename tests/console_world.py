"""Three ECs for the console's tests: rows of every kind for each, every text of which says whose they are.

`settings(folder)` is the configuration, as a mapping; `fill(url, folder)` writes the rows. What belongs to one EC is
made of its `Ec` and nothing else, so that a page of one EC shows nothing that `Ec.traces` finds of another one.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from build import ABSENT, BROKER, STATION, Request, a_request, a_stamp_transfer, a_subject, a_transfer, an_envelope
from refusals import Door

from station import store
from station.reconcile.matching import match
from station.store import accesses, deliveries, flows, outgoing, tables
from station.store.rows import insert_rows

NOW = datetime.now(UTC).replace(microsecond=0)
PAID = NOW - timedelta(days=1)
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
# A receiptId may hold all that an address may not.
ODD_ID = "{}/x y?a=1&b=%2F;#c.pdf"


@dataclass
class Ec:
    """One EC, and the keys of what is stored of it."""

    id_pa: str
    mark: str  # of small letters, in every text
    receipts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    iuvs: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"Comune di {self.mark.title()}"

    @property
    def debtor(self) -> str:
        """The fiscal code of the one who owes."""
        return f"{self.mark.upper():X<6.6}80A01X000X"

    @property
    def flow(self) -> str:
        return f"{PAID:%Y-%m-%d}ABI99999-{self.mark}"

    @property
    def iban(self) -> str:
        return f"IT00X{self.mark.upper():0<22.22}"

    def traces(self, text: str) -> list[str]:
        """What shows that a text has something of this EC."""
        return re.findall(f"(?i).{{0,40}}(?:{self.mark}|{self.id_pa}).{{0,20}}", text)

    def request(self, **over: Any) -> Request:
        """A receipt of it; every text has its mark."""
        mark = self.mark
        transfers = [
            a_transfer(number, fiscalCodePA=self.id_pa, companyName=self.name, IBAN=self.iban, transferAmount=amount,
                       remittanceInformation=f"/TXT/TARI {mark}", transferCategory=f"9/0{number}0{mark}/")
            for number, amount in ((1, "115.50"), (2, "5.00"))
        ]  # fmt: skip
        person = {"fullName": f"{mark.title()} Persona", "uniqueIdentifier__entityUniqueIdentifierValue": self.debtor,
                  "streetName": mark, "e_mail": f"{mark}@example.invalid"}  # fmt: skip
        texts = {
            "idPA": self.id_pa, "fiscalCode": self.id_pa, "description": f"TARI {mark}", "companyName": self.name,
            "officeName": f"Ufficio {mark}", "debtor": a_subject(**person), "payer": a_subject(**person),
            "transferList": {"transfer": transfers}, "PSPCompanyName": f"Banca {mark}", "paymentNote": mark,
            "channelDescription": mark, "metadata": {mark: mark}, "idBundle": mark, "idCiBundle": mark,
            "paymentDateTime": f"{PAID:%Y-%m-%dT%H:%M:%S}", "receiptId": f"{mark}{len(self.receipts):028x}",
        }  # fmt: skip
        return a_request(**texts | over)


def ecs() -> dict[str, Ec]:
    """The three ECs, by their marks."""
    made = [Ec("77777777777", "zalfa"), Ec("88888888888", "zbrava"), Ec("66666666666", "zcarla")]
    return {ec.mark: ec for ec in made}


# --- the configuration ------------------------------------------------------------------------------------------------


def settings(folder: Path, world: Mapping[str, Ec], **console: Any) -> dict[str, Any]:
    """The configuration: grants of every role, destinations of one EC, of two and of all."""
    each = list(world.values())
    for ec in each:
        (folder / ec.mark).mkdir(exist_ok=True)
    alfa, bravo, carlo = each
    return {
        "console": console,
        "broker": [{"id": BROKER, "stations": [STATION]}],
        "ec": [{"id": ec.id_pa, "name": ec.name} for ec in each],
        "account": [
            {"code": f"E.{ec.mark}.1", "name": f"TARI {ec.mark}", "ecs": [ec.id_pa], "categories": [f"9/010{ec.mark}"]}
            for ec in each
        ],
        "destination": [
            one
            for ec in each
            for one in (
                {"name": f"{ec.mark}-erp", "kind": "webhook", "ecs": [ec.id_pa], "secret": SECRET,
                 "url": f"https://{ec.mark}.example.invalid/x"},
                {"name": f"{ec.mark}-notte", "kind": "folder", "ecs": [ec.id_pa], "path": str(folder / ec.mark),
                 "at": "02:30"},
                {"name": f"{ec.mark}-portale", "kind": "feed", "ecs": [ec.id_pa],
                 "keys": [f"sha256:{sha256(ec.mark.encode()).hexdigest()}"]},
            )
        ]
        + [
            {"name": "due-enti", "kind": "webhook", "ecs": [bravo.id_pa, carlo.id_pa], "secret": SECRET,
             "url": "https://due.example.invalid/x"},
            {"name": "tutti", "kind": "webhook", "secret": SECRET, "url": "https://tutti.example.invalid/x"},
        ],
        "grant": [
            {"user": "lettrice", "ecs": [alfa.id_pa], "role": "reader"},
            {"user": "operatore", "ecs": [alfa.id_pa], "role": "operator"},
            {"user": "capo", "ecs": [alfa.id_pa], "role": "admin"},
            {"user": "due", "ecs": [alfa.id_pa, carlo.id_pa], "role": "reader"},
            {"user": "tutto", "ecs": ["*"], "role": "admin"},
        ],
    }  # fmt: skip


def as_toml(values: Mapping[str, Any]) -> str:
    """A configuration as the file has it."""
    lines = []
    for section, held in values.items():
        for one in held if isinstance(held, list) else [held]:
            lines.append(f"[[{section}]]" if isinstance(held, list) else f"[{section}]")
            lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in one.items()]
    return "\n".join(lines) + "\n"


# --- the rows ---------------------------------------------------------------------------------------------------------


def fill(
    url: str, world: Mapping[str, Ec], *, receipts: int = 3, more: Callable[[Ec], Iterable[Request]] | None = None
):
    """Write rows of every kind for each EC. `more` makes further receipts."""
    engine = store.connect(url, pool_size=4)
    door = Door(engine)
    ours = {"broker": [{"id": BROKER, "stations": [STATION]}], "ec": [{"id": ec.id_pa} for ec in world.values()]}
    for ec in world.values():
        requests = []

        def take(request: Request, ec: Ec = ec, requests: list[Request] = requests) -> None:
            outcome = door.take(an_envelope(request), ours)
            assert outcome.receipt is not None, outcome.refusal
            ec.receipts.append(outcome.receipt.receipt_id)
            ec.iuvs.append(request["creditorReferenceId"])
            requests.append(request)

        for _ in range(receipts):
            take(ec.request())
        take(ec.request(receiptId=ODD_ID.format(ec.mark)))
        take(ec.request(noticeNumber=requests[0]["noticeNumber"], standIn="true"))  # the same notice, paid twice
        stamp = a_stamp_transfer(3, fiscalCodePA=ec.id_pa, companyName=ec.name, remittanceInformation=ec.mark,
                                 transferCategory=f"9/030{ec.mark}/")  # fmt: skip
        take(ec.request(transfers__2=stamp, paymentAmount="136.50", idStation=f"{BROKER}_99"))
        for request in more(ec) if more else []:
            take(request)
        lost = [ec.request(receiptId=f"{ec.mark}-lost-{number}") for number in range(2)]
        refused = [
            (ec.request(receiptId=f"{ec.mark}-refused-1", idPSP=ABSENT), ours),
            (ec.request(receiptId=f"{ec.mark}-refused-2"), {"ec": [{"id": "99999999999"}]}),
            (requests[0].but(paymentAmount="999.00"), ours),
        ]
        for request, config in refused:
            refused_id = door.take(an_envelope(request), config).refused_id
            assert refused_id
            ec.refused.append(refused_id)
        with store.transaction(engine) as connection:
            _flow(connection, ec, [*requests, *lost])
            _reconcile(connection, ec, lost)
            _looked_up(connection, ec)
        match(engine, ec.id_pa)
        with store.transaction(engine) as connection:
            while outgoing.number_outbox(connection, at=NOW, limit=1000):
                pass
            last = outgoing.last_number(connection)
            ec.numbers = list(range(last - len(requests) + 1, last + 1))
            _deliveries(connection, ec)
    with store.transaction(engine) as connection:
        _shared_destinations(connection, world)
    engine.dispose()


def _flow(connection: store.Connection, ec: Ec, requests: list[Request]) -> None:
    at = NOW - timedelta(hours=20)
    flow = {
        "id_pa": ec.id_pa, "fdr": ec.flow, "psp_id": "ABI99999", "revision": 1, "published": at, "flow_date": at,
        "listed_at": at, "fetched_at": at, "attempts": 0, "next_attempt_at": at, "superseded": False,
        "regulation": f"TRN{ec.mark}", "regulation_date": at.date(), "psp_name": f"Banca {ec.mark}", "bic": ec.mark,
        "receiver_id": ec.mark, "receiver_name": ec.name, "sender_id": ec.mark, "tot_payments": len(requests),
        "sum_payments": Decimal(1),
    }  # fmt: skip
    unread = flow | {"fdr": f"{ec.flow}-2", "fetched_at": None, "error": f"HTTP 500 {ec.mark}", "attempts": 3}
    rows = [
        {name: flow[name] for name in ("id_pa", "fdr", "psp_id", "revision")}
        | {"position": place, "superseded": False, "pay_date": at, "id_transfer": 1, "pay_status": (0, 3, 4, 8, 9)[
            place % 5], "iuv": one["creditorReferenceId"], "iur": one["receiptId"][:35],
           "amount": Decimal(one["transfers.0"]["transferAmount"])}
        for place, one in enumerate(requests, start=1)
    ]  # fmt: skip
    insert_rows(connection, tables.fdr_flow, [flow, unread])
    insert_rows(connection, tables.fdr_payment, rows)
    flows.set_watermark(connection, ec.id_pa, NOW)
    flows.set_walked(connection, ec.id_pa, NOW)
    flows.note_gap(connection, ec.id_pa, NOW - timedelta(days=40), NOW - timedelta(days=35))


def _reconcile(connection: store.Connection, ec: Ec, lost: list[Request]) -> None:
    run = {column.name: 1 for column in tables.reconcile_run.c if not column.nullable} | {
        "id_pa": ec.id_pa, "run_id": f"{ec.mark}-run", "kind": "sweep", "outcome": "failed", "started_at": NOW,
        "error": f"HTTP 500 {ec.mark}",
    }  # fmt: skip
    walk = {column.name: 1 for column in tables.fdr_run.c if not column.nullable} | {
        "id_pa": ec.id_pa, "run_id": f"{ec.mark}-walk", "kind": "walk", "outcome": "failed", "started_at": NOW,
        "error": f"HTTP 500 {ec.mark}",
    }  # fmt: skip
    items = [
        {"id_pa": ec.id_pa, "iuv": one["creditorReferenceId"], "state": "open", "reason": "api_unavailable",
         "notice_number": one["noticeNumber"], "amount": Decimal("120.50"), "attempts": 3, "first_at": PAID,
         "last_at": NOW, "next_attempt_at": NOW + timedelta(hours=1), "last_error": f"HTTP 500 {ec.mark}"}
        for one in lost
    ]  # fmt: skip
    insert_rows(connection, tables.reconcile_run, [run])
    insert_rows(connection, tables.fdr_run, [walk])
    insert_rows(connection, tables.reconcile_item, items)
    progress = {"id_pa": ec.id_pa, "watermark": PAID, "walked_at": PAID, "swept_at": PAID}
    insert_rows(connection, tables.reconcile_ec, [progress])


def _looked_up(connection: store.Connection, ec: Ec) -> None:
    row = {"at": NOW, "username": f"{ec.mark}.rossi", "address": "127.0.0.1", "action": "receipt", "id_pa": ec.id_pa,
           "receipt_id": ec.receipts[0], "subject": ec.debtor, "found": None}  # fmt: skip
    accesses.write_accesses(connection, [row, row | {"action": "search", "receipt_id": None, "found": 3}])


def _deliveries(connection: store.Connection, ec: Ec) -> None:
    for kind, name in (("webhook", "erp"), ("folder", "notte"), ("feed", "portale")):
        deliveries.register(connection, f"{ec.mark}-{name}", kind, position=ec.numbers[-1], at=PAID)
    error = f"HTTP 400 {ec.mark}"
    _sent(connection, f"{ec.mark}-erp", ec)
    values = {"failures": 3, "last_error": "HTTP 400", "last_attempt_at": NOW, "last_success_at": PAID}
    deliveries.change(connection, f"{ec.mark}-erp", values)
    file = {
        "destination": f"{ec.mark}-notte", "planned_at": PAID, "name": f"{ec.mark}-1.csv",
        "number_from": ec.numbers[0], "number_to": ec.numbers[-1], "receipts": 2, "transfers": 2,
        "amount": Decimal(241), "size": 1000, "sha256": "0" * 64, "attempts": 1,
        "next_attempt_at": PAID, "last_at": PAID,
    }  # fmt: skip
    files = [
        file | {"state": "done", "error": None, "settled_at": PAID},
        file | {"state": "failed", "error": error, "settled_at": PAID, "planned_at": NOW, "name": f"{ec.mark}-2.csv"},
        file | {"state": "planned", "error": error, "settled_at": None, "name": f"{ec.mark}-3.csv",
                "planned_at": NOW + timedelta(hours=1), "next_attempt_at": NOW},
    ]  # fmt: skip
    insert_rows(connection, tables.delivery_file, files)


def _sent(connection: store.Connection, destination: str, ec: Ec) -> None:
    states = ("delivered", "failed", "open", "skipped")
    rows = [
        {"destination": destination, "number": number, "state": states[place % 4], "attempts": 3,
         "next_attempt_at": NOW, "first_at": PAID, "last_at": NOW, "status": 400, "error": f"HTTP 400 {ec.mark}",
         "settled_at": None if states[place % 4] == "open" else NOW}
        for place, number in enumerate(ec.numbers)
    ]  # fmt: skip
    insert_rows(connection, tables.delivery, rows)


def _shared_destinations(connection: store.Connection, world: Mapping[str, Ec]) -> None:
    for name, served in (("due-enti", ("zbrava", "zcarla")), ("tutti", tuple(world))):
        last = max(ec.numbers[-1] for ec in world.values())
        deliveries.register(connection, name, "webhook", position=last, at=PAID)
        for mark in served:
            _sent(connection, name, world[mark])
    deliveries.pause(connection, "due-enti", "manutenzione")
