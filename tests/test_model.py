"""The store beside a plain model: random sequences of documents, and then all rows of all tables.

Hypothesis draws the sequences: receipts of three payments (two of them of one notice), whole, fuller, poorer and
contradicting, in versions 1 and 2, by two stations and all three doors, one after the other and at once. `Model` says
in plain Python what must be in the database afterwards. Where documents arrive at once, the rows must be those of one
of their orders.

Deterministic by default; `STATION_MODEL_EXAMPLES=2000` runs as many random sequences on each database.
"""

import copy
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from typing import Any

import pytest
from build import ABSENT, BROKER, EC, OTHER_EC, STATION, Request, a_map, a_request, an_envelope
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import select
from trouble import sent_again

from station import contract, store
from station import intake as intake_module
from station.config import Settings
from station.intake import Intake, Origin
from station.receipt import Source
from station.store import tables

STATION_2 = "15376371009_02"
REGISTRY = {"broker": [{"id": BROKER, "stations": [STATION]}], "ec": [{"id": EC}, {"id": OTHER_EC}]}
BEGUN = datetime(2026, 7, 1, 8, tzinfo=UTC)

# --- what is sent -----------------------------------------------------------------------------------------------------


def payment(number: int) -> Request:
    """0 and 1 are payments of one notice, 2 has the receiptId of 0 and is for another EC."""
    request = a_request(
        receiptId=f"{number % 2}" * 32, creditorReferenceId="01000000000000043", noticeNumber="301000000000000043",
        idPA=OTHER_EC if number == 2 else EC,
    )  # fmt: skip
    return request.but(standIn=ABSENT)


def reversed_transfers(request: Request) -> dict[str, Any]:
    return {"receipt.transferList.transfer": list(reversed(request["receipt.transferList.transfer"]))}


# What a document may say otherwise than the whole one, by name.
CHANGES: dict[str, Any] = {
    "version 1": None,
    "station 2": {"idStation": STATION_2},
    "no office": {"officeName": ABSENT},
    "no payer": {"payer": ABSENT},
    "no street": {"debtor.streetName": ABSENT},
    "other street": {"debtor.streetName": "Via di Nessuno"},
    "no fee": {"fee": ABSENT},
    "fee of nothing": {"fee": "0.00"},
    "other fee": {"fee": "2.00"},
    "no note": {"paymentNote": ABSENT},
    "not stood in": {"standIn": "false"},
    "stood in": {"standIn": "true"},
    "date with zone": {"applicationDate": "2026-07-01Z"},
    "date in another notation": {"applicationDate": "2026-07-01+00:00"},
    "no date": {"applicationDate": ABSENT},
    "no metadata": {"metadata": ABSENT},
    "metadata in another order": {"metadata": a_map({"NOTIFICATION_FEE": "200", "TARI-TEFA-2": "TEFA"})},
    "more metadata": {"metadata": a_map({"TARI-TEFA-2": "TEFA", "NOTIFICATION_FEE": "200", "MORE": "1"})},
    "other metadata": {"metadata": a_map({"TARI-TEFA-2": "TEFU"})},
    "transfers in another order": reversed_transfers,
    "one transfer": {"transfers.1": ABSENT},
    "metadata of a transfer": {"transfers.0.metadata": a_map({"A": "1"})},
    "other description": {"description": "something else"},
    "a new element": {"newThing": "x"},
    "the same new element": {"newThing": "y"},
    "another new element": {"newerThing": "x"},
    "a new element of a transfer": {"transfers.0.newThing": "x"},
}


def a_document(number: int, changes: frozenset[str]) -> Request:
    request = payment(number)
    if "version 1" in changes:
        fields = copy.deepcopy(request.fields)
        whole = a_request(1).receipt
        fields["receipt"] = {name: value for name, value in fields["receipt"].items() if name in whole}
        for transfer in fields["receipt"]["transferList"]["transfer"]:
            transfer.pop("companyName")
        request = Request("paSendRTReq", fields)
    for name in sorted(changes - {"version 1"}):
        change = CHANGES[name](request) if callable(CHANGES[name]) else CHANGES[name]
        if request.version == 2 or "paymentNote" not in change:
            request = request.but(**change)
    return request


@dataclass(frozen=True)
class Sent:
    """A document on its way: when it arrives and by which door."""

    request: Request
    raw: bytes
    source: Source
    at: datetime
    ours: bool = True

    def __deepcopy__(self, _memo: Any) -> "Sent":
        return self

    @cached_property
    def states(self) -> tuple[dict[Any, str], dict[Any, str]]:
        return statements(self.request)

    @cached_property
    def content(self) -> tuple[Any, ...]:
        return content(self.request)


# --- what must become of it -------------------------------------------------------------------------------------------

COLUMNS = {
    "notice_number": "noticeNumber", "fiscal_code": "fiscalCode", "iuv": "creditorReferenceId", "outcome": "outcome",
    "description": "description",
    "company_name": "companyName", "office_name": "officeName",
    "debtor_type": "debtor.uniqueIdentifier.entityUniqueIdentifierType",
    "debtor_id": "debtor.uniqueIdentifier.entityUniqueIdentifierValue", "debtor_name": "debtor.fullName",
    "payer_type": "payer.uniqueIdentifier.entityUniqueIdentifierType",
    "payer_id": "payer.uniqueIdentifier.entityUniqueIdentifierValue", "payer_name": "payer.fullName",
    "id_psp": "idPSP", "psp_fiscal_code": "pspFiscalCode", "psp_partita_iva": "pspPartitaIVA",
    "psp_company_name": "PSPCompanyName", "id_channel": "idChannel", "channel_description": "channelDescription",
    "payment_method": "paymentMethod", "payment_note": "paymentNote", "id_bundle": "idBundle",
    "id_ci_bundle": "idCiBundle",
}  # fmt: skip
TRANSFER_COLUMNS = {
    "fiscal_code_pa": "fiscalCodePA", "company_name": "companyName", "iban": "IBAN",
    "remittance_information": "remittanceInformation", "transfer_category": "transferCategory",
}  # fmt: skip
UNKNOWN = ("newThing", "newerThing")


def euro(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def day(text: str | None) -> Any:
    return None if text is None else date.fromisoformat(text[:10])


def entries(metadata: Any) -> list[list[str]] | None:
    return [[one["key"], one["value"]] for one in metadata["mapEntry"]] if metadata else None


def content(request: Request) -> tuple[Any, ...]:
    """What tells one document from another, however they are written."""
    leaves = {path: text for path, text in request.leaves().items() if path.startswith("receipt.")}
    return tuple(
        (path, text.replace("+00:00", "Z") if path.endswith("Date") else text) for path, text in leaves.items()
    )


def statements(request: Request) -> tuple[dict[Any, str], dict[Any, str]]:
    """What a document states, place by place: what the schema knows, and what it does not."""
    known: dict[Any, str] = {}
    unknown: dict[Any, str] = {}

    def state(node: dict[str, Any], place: tuple[Any, ...]) -> None:
        for name, value in node.items():
            if name == "transfer":
                for one in value:
                    state(one, (*place, name, one["idTransfer"]))
            elif name == "mapEntry":
                for one in value:
                    state(one, (*place, name, one["key"]))
            elif isinstance(value, dict):
                state(value, (*place, name))
            elif name in UNKNOWN:
                unknown[*place, name] = value
            elif (name, value) not in (("fee", "0.00"), ("standIn", "false")):
                known[*place, name] = value.replace("+00:00", "Z") if name.endswith("Date") else value

    state(request.receipt, ())
    return known, unknown


@dataclass
class Kept:
    """A receipt of the model, with its documents in the order in which they were accepted."""

    documents: list[Sent]
    ordinal: int
    flags: set[str]
    resends: int = 0
    last_resend_at: datetime | None = None
    routes: dict[tuple[str, str], datetime] = field(default_factory=dict)

    @property
    def first(self) -> Sent:
        return self.documents[0]

    @property
    def fullest(self) -> Sent:
        """The document that states most, and the earliest of several that state as much."""
        return max(self.documents, key=lambda sent: tuple(map(len, sent.states)))

    def contradicts(self, sent: Sent) -> bool:
        known = sent.states[0]
        return any(known.get(place, value) != value for one in self.documents for place, value in one.states[0].items())

    def each(self) -> list[Request]:
        """The documents, the fullest first."""
        return [self.fullest.request, *(sent.request for sent in self.documents)]

    def get(self, path: str) -> Any:
        """The field of the first document that has it."""
        found = [value for request in self.each() if (value := request.get(path)) is not None]
        return next((value for value in found if value not in ("0.00", "false")), found[0] if found else None)

    def metadata(self, nodes: list[Any]) -> list[list[str]] | None:
        """The entries of the first one, then those of the others with keys of their own."""
        united: list[list[str]] = []
        for node in nodes:
            keys = {key for key, _ in united}
            united += [one for one in entries(node) or [] if one[0] not in keys]
        return united or None

    def transfers_by_id(self) -> dict[str, list[Any]]:
        """The transfers in order, each as the documents have it."""
        united: dict[str, list[Any]] = {}
        for request in self.each():
            for one in request["receipt.transferList.transfer"]:
                united.setdefault(one["idTransfer"], []).append(one)
        return united

    def flags_of_content(self) -> set[str]:
        flags = set()
        amounts = [Decimal(nodes[0]["transferAmount"]) for nodes in self.transfers_by_id().values()]
        if sum(amounts) != Decimal(self.get("paymentAmount")):
            flags.add("transfer_sum_differs")
        if self.get("idPA") != self.get("fiscalCode"):
            flags.add("secondary_beneficiary")
        if self.get("standIn") == "true":
            flags.add("stand_in")
        unknown = [sent.states[1] for sent in self.documents]
        if any(unknown):
            flags.add("unknown_elements")
        if any(
            one.get(place, value) != value
            for one, other in itertools.combinations(unknown, 2)
            for place, value in other.items()
        ):
            flags.add("unknown_content_differs")
        return flags

    def row(self) -> dict[str, Any]:
        return {column: self.get(path) for column, path in COLUMNS.items()} | {
            "id_pa": self.get("idPA"),
            "receipt_id": self.get("receiptId"),
            "id_broker_pa": self.first.request["idBrokerPA"],
            "id_station": self.first.request["idStation"],
            "notice_ordinal": self.ordinal,
            "amount": euro(self.get("paymentAmount")),
            "fee": euro(self.get("fee")),
            "primary_ci_incurred_fee": euro(self.get("primaryCiIncurredFee")),
            "payment_date_time": datetime(2026, 7, 1, 8, 20, 30, tzinfo=UTC),
            "application_date": day(self.get("applicationDate")),
            "transfer_date": day(self.get("transferDate")),
            "metadata": self.metadata([request.get("metadata") for request in self.each()]),
            "stand_in": {"true": True, "false": False, None: None}[self.get("standIn")],
            "digital_stamp": False,
            "version": self.fullest.request.version,
            "source": self.first.source.value,
            "received_at": self.first.at,
            "resends": self.resends,
            "last_resend_at": self.last_resend_at,
            "charset": None,
            "raw": self.fullest.raw,
            "raw_purged_at": None,
            "anonymised_at": None,
            "revision": len(self.documents),
        }

    def transfers(self) -> list[dict[str, Any]]:
        return [
            {
                column: next((one[path] for one in nodes if path in one), None)
                for column, path in TRANSFER_COLUMNS.items()
            }
            | {
                "id_pa": self.get("idPA"),
                "receipt_id": self.get("receiptId"),
                "position": position,
                "id_transfer": int(number),
                "amount": euro(nodes[0]["transferAmount"]),
                "digital_stamp": False,
                "metadata": self.metadata([one.get("metadata") for one in nodes]),
            }
            for position, (number, nodes) in enumerate(self.transfers_by_id().items(), start=1)
        ]

    def document_rows(self) -> list[dict[str, Any]]:
        if len(self.documents) == 1:
            return []
        return [
            {
                "id_pa": self.get("idPA"),
                "receipt_id": self.get("receiptId"),
                "number": number,
                "version": sent.request.version,
                "source": sent.source.value,
                "received_at": sent.at,
                "charset": None,
                "raw": sent.raw,
            }
            for number, sent in enumerate(self.documents, start=1)
        ]


@dataclass
class Refused:
    """A refused request of the model."""

    first: Sent
    fault_code: str
    times: int
    last_at: datetime
    history: int = 1


@dataclass
class Model:
    """What must be in the database."""

    receipts: dict[tuple[str, str], Kept] = field(default_factory=dict)
    refused: dict[bytes, Refused] = field(default_factory=dict)
    journal: list[tuple[Any, ...]] = field(default_factory=list)

    def take(self, sent: Sent) -> str:
        """What becomes of a document: stored, duplicate, or the fault's code."""
        outcome = self._judge(sent)
        fault_code = None if outcome in ("stored", "duplicate") else outcome
        if fault_code is not None:
            self._refuse(sent, fault_code)
        self.journal.append(
            (sent.at, sent.source.value, "refused" if fault_code else outcome, fault_code, sha256(sent.raw).digest())
        )
        return outcome

    def _judge(self, sent: Sent) -> str:
        request = sent.request
        if not sent.ours:
            return "PAA_ID_DOMINIO_ERRATO"
        if request.get("debtor") is None:
            return "PAA_SINTASSI_EXTRAXSD"
        key = (request["idPA"], request["receiptId"])
        kept = self.receipts.get(key)
        if kept is None:
            ordinal = sum(
                (one.first.request["idPA"], one.first.request["noticeNumber"]) == (key[0], request["noticeNumber"])
                for one in self.receipts.values()
            )
            self.receipts[key] = kept = Kept([sent], ordinal, {"second_receipt"} if ordinal else set())
            if request["idStation"] != STATION:
                kept.flags.add("unknown_station")
            return "stored"
        if sent.content not in [one.content for one in kept.documents]:
            if kept.contradicts(sent):
                return "PAA_RECEIPT_DUPLICATA"
            kept.documents.append(sent)
        if sent.source is Source.PUSH:
            kept.resends += 1
            kept.last_resend_at = sent.at
            if request["idStation"] != kept.first.request["idStation"]:
                kept.routes.setdefault((BROKER, request["idStation"]), sent.at)
        return "duplicate"

    def _refuse(self, sent: Sent, fault_code: str) -> None:
        known = self.refused.get(sent.raw)
        if known is None:
            self.refused[sent.raw] = Refused(sent, fault_code, 1, sent.at)
            return
        replayed = sent.source is Source.REPLAY
        if not replayed:
            known.times += 1
            known.last_at = sent.at
        known.history += replayed or known.fault_code != fault_code
        known.fault_code = fault_code

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        receipts = self.receipts.values()
        keys = [{"id_pa": id_pa, "receipt_id": receipt_id} for id_pa, receipt_id in self.receipts]
        both = list(zip(keys, receipts, strict=True))
        return {
            "receipt": [one.row() for one in receipts],
            "transfer": [row for one in receipts for row in one.transfers()],
            "receipt_flag": [
                key | {"flag": flag, "received_at": one.first.at}
                for key, one in both
                for flag in one.flags | one.flags_of_content()
            ],
            "receipt_route": [
                key | {"id_broker_pa": broker, "id_station": station, "first_at": at, "received_at": one.first.at}
                for key, one in both
                for (broker, station), at in one.routes.items()
            ],
            "receipt_document": [row for one in receipts for row in one.document_rows()],
            "outbox": [
                key | {"at": sent.at, "revision": revision}
                for key, one in both
                for revision, sent in enumerate(one.documents, start=1)
            ],
            "refused": [
                {
                    "raw": raw, "raw_hash": sha256(raw).digest(), "fault_code": one.fault_code, "times": one.times,
                    "state": "open", "received_at": one.first.at, "last_at": one.last_at,
                    "source": one.first.source.value, "id_pa": one.first.request["idPA"],
                    "receipt_id": one.first.request["receiptId"],
                }
                for raw, one in self.refused.items()
            ],
            "refused_history": [
                {"raw_hash": sha256(raw).digest(), "number": number}
                for raw, one in self.refused.items()
                for number in range(1, one.history + 1)
            ],
            "journal": [
                dict(zip(("at", "source", "outcome", "fault_code", "document_hash"), one, strict=True))
                for one in self.journal
            ],
        }  # fmt: skip


# --- both, side by side -----------------------------------------------------------------------------------------------

NOT_COMPARED = {"content_hash"}  # it is the content's, which the model compares by itself


def in_order(rows: list[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted(row.items())) for row in rows)


class Clock(threading.local):
    """A clock for each thread: a document arrives when the test says so."""

    at = BEGUN


CLOCK = Clock()


class Ticking(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return CLOCK.at


numbers = st.integers(0, 2)
changes = st.frozensets(st.sampled_from(sorted(CHANGES)), max_size=3)
sources = st.sampled_from([Source.PUSH, Source.PUSH, Source.RECONCILE, Source.REPLAY])
styles = st.sampled_from(["plain", "default_namespaces"])


def machine(engine: store.Engine) -> type[RuleBasedStateMachine]:
    """A state machine on that database."""

    class Station(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            with store.transaction(engine) as connection:
                for table in reversed(tables.metadata.sorted_tables):
                    connection.execute(table.delete())
            self.model = Model()
            self.sent: list[Sent] = []
            self.clock = 0

        def arrival(self, request: Request, source: Source, style: str = "plain", **more: Any) -> Sent:
            self.clock += 1
            raw = an_envelope(request, style)
            self.sent.append(Sent(request, raw, source, BEGUN + timedelta(seconds=self.clock), **more))
            return self.sent[-1]

        def take(self, sent: Sent) -> str:
            CLOCK.at = sent.at
            registry = REGISTRY if sent.ours else REGISTRY | {"ec": [{"id": "99999999999"}]}
            document = contract.parse(sent.raw)
            intake = Intake(engine, Settings.model_validate(registry))
            outcome = sent_again(intake.accept)(
                document, contract.request_element(document.root), Origin(sent.source, "127.0.0.1", "r-1")
            )
            return outcome.refusal.fault_code if outcome.refusal else outcome.result.value

        @rule(number=numbers, changes=changes, source=sources, style=styles)
        def arrives(self, number: int, changes: frozenset[str], source: Source, style: str) -> None:
            sent = self.arrival(a_document(number, changes), source, style)
            assert self.take(sent) == self.model.take(sent)

        @rule(which=st.integers(0, 50), source=sources)
        def arrives_again(self, which: int, source: Source) -> None:
            if self.sent:
                before = self.sent[which % len(self.sent)]
                sent = self.arrival(before.request, source, ours=before.ours)
                assert self.take(sent) == self.model.take(sent)

        @rule(number=numbers, ours=st.booleans(), source=sources)
        def is_refused(self, number: int, ours: bool, source: Source) -> None:
            request = a_document(number, frozenset())
            sent = self.arrival(request.but(debtor=ABSENT) if ours else request, source, ours=ours)
            assert self.take(sent) == self.model.take(sent)

        @rule(number=numbers, each=st.lists(changes, min_size=2, max_size=3), again=st.booleans())
        def arrive_at_once(self, number: int, each: list[frozenset[str]], again: bool) -> None:
            requests = [a_document(number, changes) for changes in each]
            if again:
                requests[1] = requests[0].but(idStation=STATION_2)
            together = [self.arrival(request, Source.PUSH) for request in requests]
            with ThreadPoolExecutor(len(together)) as pool:
                outcomes = list(pool.map(self.take, together))
            found = self.found()
            for order in itertools.permutations(range(len(together))):
                model = copy.deepcopy(self.model)
                expected = {which: model.take(together[which]) for which in order}
                if outcomes == [expected[which] for which in range(len(together))] and found == self.expected(model):
                    self.model = model
                    return
            raise AssertionError(f"no order of the documents explains {outcomes}")

        def teardown(self) -> None:
            found, expected = self.found(), self.expected(self.model)
            for name, rows in expected.items():
                assert found[name] == rows, name

        def expected(self, model: Model) -> dict[str, list[str]]:
            return {name: in_order(rows) for name, rows in model.rows().items()}

        def found(self) -> dict[str, list[str]]:
            compared = {name: set(rows[0]) if rows else set() for name, rows in self.model.rows().items()}
            with store.transaction(engine, readonly=True) as connection:
                rows = {
                    name: [dict(row) for row in connection.execute(select(tables.metadata.tables[name])).mappings()]
                    for name in compared
                }
            for name in ("receipt", "transfer", "receipt_flag", "receipt_route", "receipt_document", "outbox"):
                compared[name] = {column.name for column in tables.metadata.tables[name].c} - NOT_COMPARED
            compared["refused"] = {
                "raw", "raw_hash", "fault_code", "times", "state", "received_at", "last_at", "source", "id_pa",
                "receipt_id",
            }  # fmt: skip
            compared["refused_history"] = {"raw_hash", "number"}
            compared["journal"] = {"at", "source", "outcome", "fault_code", "document_hash"}
            return {
                name: in_order([{column: row[column] for column in compared[name]} for row in rows[name]])
                for name in compared
            }

    return Station


def test_store_and_model_agree(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes in whatever order, the rows are those of the model."""
    monkeypatch.setattr(intake_module, "datetime", Ticking)
    engine = store.connect(database_url, pool_size=4)
    examples = int(os.environ.get("STATION_MODEL_EXAMPLES", "0"))
    try:
        run_state_machine_as_test(
            machine(engine),
            settings=settings(
                max_examples=examples or 14,
                stateful_step_count=16,
                deadline=None,
                derandomize=not examples,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        engine.dispose()
