"""Matching of flows and receipts: any set of both, in any order of arrival, matches as a plain model says."""

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from refusals import Door
from sqlalchemy import delete, update

from station import store
from station.reconcile.matching import match
from station.store import tables
from station.store.rows import insert_rows

NOW = datetime.now(UTC).replace(microsecond=0)
ECS = (EC, OTHER_EC)


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=4)
    yield Door(engine)
    engine.dispose()


# --- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A transfer of a payment."""

    id_transfer: int
    amount: Decimal
    ec: str
    stamp: bool


@dataclass(frozen=True)
class Paid:
    """A payment as its receipts tell of it: the copies for the ECs of its parts are the same."""

    receipt_id: str
    iuv: str
    parts: tuple[Part, ...]
    days_ago: int

    def rows(self, ec: str, base: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        key = {"id_pa": ec, "receipt_id": self.receipt_id}
        at = NOW - timedelta(days=self.days_ago)
        receipt = base["receipt"] | key | {
            "iuv": self.iuv, "notice_number": f"3{self.receipt_id:0>17}", "payment_date_time": at,
            "received_at": datetime.now(UTC), "metadata": None,
        }  # fmt: skip
        transfers = [
            base["transfer"] | key | {
                "position": place, "id_transfer": part.id_transfer, "amount": part.amount, "fiscal_code_pa": part.ec,
                "digital_stamp": part.stamp, "metadata": None,
            }
            for place, part in enumerate(self.parts, start=1)
        ]  # fmt: skip
        return receipt, transfers


@dataclass(frozen=True)
class Line:
    """A payment that a flow lists."""

    iur: str
    iuv: str
    id_transfer: int
    amount: Decimal
    status: int = 0


@dataclass(frozen=True)
class Flow:
    """A revision of a flow; its number is given as it arrives."""

    ec: str
    name: str
    receiver: str
    lines: tuple[Line, ...]
    days_ago: int


amounts = st.sampled_from([Decimal("1.00"), Decimal("2.50")])


@st.composite
def payments(draw: st.DrawFn) -> list[Paid]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        ecs = draw(st.lists(st.sampled_from(ECS), min_size=1, max_size=2))
        parts = tuple(Part(place, draw(amounts), ec, draw(st.integers(0, 5)) == 0) for place, ec in enumerate(ecs, 1))
        found.append(Paid(f"{number}", draw(st.sampled_from(["01", "02"])), parts, draw(st.integers(1, 5))))
    return found


@st.composite
def stories(draw: st.DrawFn) -> list[Any]:
    """Receipts and flows in any order, with matching now and then, and at the end."""
    paid = draw(payments())
    copies = [(one, ec) for one in paid for ec in {part.ec for part in one.parts}]
    alone = draw(st.booleans())  # only the first EC has flows, and they may name the other one as the receiver

    def line(ec: str) -> Line | None:
        parts = [(one, part) for one in paid for part in one.parts if part.ec == ec]
        if not parts:
            return None
        one, part = draw(st.sampled_from(parts))
        id_transfer, amount = part.id_transfer, part.amount
        if len({each.ec for each in one.parts}) == 1 and draw(st.integers(0, 4)) == 0:
            id_transfer, amount = draw(st.sampled_from([1, 2])), draw(amounts)
        iur = draw(st.sampled_from([one.receipt_id, one.receipt_id, f"x{draw(st.integers(0, 2))}"]))
        return Line(iur, one.iuv, id_transfer, amount, draw(st.sampled_from([0, 0, 0, 3, 8, 9])))

    flows = []
    for _ in range(draw(st.integers(1, 5))):
        ec = EC if alone else draw(st.sampled_from(ECS))
        receiver = draw(st.sampled_from(ECS)) if alone else ec
        lines = [line(receiver if alone else ec) for _ in range(draw(st.integers(0, 4)))]
        name = f"{ec}-{receiver}-{draw(st.integers(0, 1))}"
        flows.append(Flow(ec, name, receiver, tuple(filter(None, lines)), draw(st.integers(0, 4))))
    kept = draw(st.lists(st.sampled_from(copies), unique=True, max_size=len(copies)))
    steps = draw(st.permutations([*kept, *flows, *["match"] * draw(st.integers(0, 3))]))
    return [*steps, "match"]


# --- the database -----------------------------------------------------------------------------------------------------


@dataclass
class World:
    """The database, and what a model has to know of it."""

    door: Door
    base: dict[str, Any]
    copies: set[tuple[Paid, str]] = field(default_factory=set)
    latest: dict[tuple[str, str], tuple[int, Flow]] = field(default_factory=dict)
    seen: list[tuple[int, Flow]] = field(default_factory=list)

    def play(self, story: list[Any]) -> None:
        for step in story:
            match step:
                case "match":
                    for ec in ECS:
                        match_(self.door, ec)
                case Flow():
                    self.add_flow(step)
                case (paid, ec):
                    self.copies.add(step)
                    receipt, transfers = paid.rows(ec, self.base)
                    with store.transaction(self.door.engine) as connection:
                        insert_rows(connection, tables.receipt, [receipt])
                        insert_rows(connection, tables.transfer, transfers)

    def add_flow(self, flow: Flow) -> None:
        """What a walk does in one transaction: the revision with its payments, the earlier ones marked."""
        revision = self.latest[flow.ec, flow.name][0] + 1 if (flow.ec, flow.name) in self.latest else 1
        self.latest[flow.ec, flow.name] = revision, flow
        self.seen.append((revision, flow))
        at = NOW - timedelta(days=flow.days_ago)
        key = {"id_pa": flow.ec, "fdr": flow.name, "psp_id": "PSP"}
        row = key | {
            "revision": revision, "receiver_id": flow.receiver, "receiver_organization_id": flow.ec, "flow_date": at,
            "published": at, "listed_at": at, "fetched_at": at, "superseded": False, "attempts": 1,
            "next_attempt_at": at,
        }  # fmt: skip
        lines = [
            key | {
                "revision": revision, "position": number, "iuv": line.iuv, "iur": line.iur,
                "id_transfer": line.id_transfer, "amount": line.amount, "pay_status": line.status, "pay_date": at,
                "superseded": False,
            }
            for number, line in enumerate(flow.lines, start=1)
        ]  # fmt: skip
        with store.transaction(self.door.engine) as connection:
            for table in (tables.fdr_flow, tables.fdr_payment):
                connection.execute(update(table).filter_by(**key).values(superseded=True))
            insert_rows(connection, tables.fdr_flow, [row])
            insert_rows(connection, tables.fdr_payment, lines)


def match_(door: Door, ec: str) -> None:
    match(door.engine, ec)


# --- the model --------------------------------------------------------------------------------------------------------


def expected_by_iur(world: World) -> dict[tuple[str, str, int], tuple[str, str]]:
    """The receipt of each payment whose IUR one has, by the payment's EC, flow and position."""
    found = {}
    for (ec, name), (_, flow) in world.latest.items():
        for position, line in enumerate(flow.lines, start=1):
            fitting = [
                id_pa
                for id_pa in (ec, flow.receiver)
                for paid, of in world.copies
                if (of, paid.receipt_id) == (id_pa, line.iur)
                and not any(
                    (part.id_transfer, part.amount) == (line.id_transfer, line.amount) and part.ec != of
                    for part in paid.parts
                )
            ]
            if fitting:
                found[ec, name, position] = (fitting[0], line.iur)
    return found


def check(world: World) -> None:
    lines = {
        (ec, name, position): (flow, line)
        for (ec, name), (_, flow) in world.latest.items()
        for position, line in enumerate(flow.lines, start=1)
    }
    stored = [row for row in world.door.rows(tables.fdr_payment) if not row["superseded"]]
    by = {(row["id_pa"], row["fdr"], row["position"]): row for row in stored}
    assert by.keys() == lines.keys()
    by_iur = expected_by_iur(world)
    assert {
        key: (row["receipt_id_pa"], row["receipt_id"]) for key, row in by.items() if row["matched_by"] == "iur"
    } == by_iur

    # By IUV: as many of those that look alike as there are payments and receipts left, and each receipt once.
    taken = {(*by_iur[key], lines[key][1].id_transfer) for key in by_iur}
    wanted = Counter(
        ({key[0], flow.receiver} == {key[0]}, flow.receiver, line.iuv, line.id_transfer, line.amount)
        for key, (flow, line) in lines.items()
        if key not in by_iur
    )
    there = Counter(
        (of, paid.iuv, part.id_transfer, part.amount)
        for paid, of in world.copies
        for part in paid.parts
        if part.ec == of and (of, paid.receipt_id, part.id_transfer) not in taken
    )
    found: Counter[Any] = Counter()
    used = Counter()
    for key, row in by.items():
        if row["matched_by"] == "iuv":
            flow, line = lines[key]
            found[flow.receiver, line.iuv, line.id_transfer, line.amount] += 1
            used[row["receipt_id_pa"], row["receipt_id"], line.id_transfer] += 1
    assert not [one for one, times in used.items() if times > 1 or one in taken]
    groups = Counter()
    for (_, receiver, *rest), number in wanted.items():
        groups[receiver, *rest] += number
    if {flow.receiver == ec for (ec, _), (_, flow) in world.latest.items()} == {True}:
        assert found == +Counter({group: min(number, there[group]) for group, number in groups.items()})

    # The other way: what no flow has, of what was paid since the first flow.
    credited = set()
    for paid, of in world.copies:
        rows = [row for row in stored if (row["receipt_id_pa"], row["receipt_id"]) == (of, paid.receipt_id)]
        own = Counter(part.amount for part in paid.parts if part.ec == of and not part.stamp)
        of_amount = Counter(row["amount"] for row in rows)
        credited |= {
            (of, paid.receipt_id, part.id_transfer)
            for part in paid.parts
            if part.id_transfer in [row["id_transfer"] for row in rows] or of_amount[part.amount] >= own[part.amount]
        }
    since = {ec: max((flow.days_ago for _, flow in world.seen if flow.ec == ec), default=-1) for ec in ECS}
    awaited = {(row["id_pa"], row["receipt_id"], row["id_transfer"]) for row in world.door.rows(tables.fdr_awaited)}
    assert (
        awaited
        == {
            (of, paid.receipt_id, part.id_transfer)
            for paid, of in world.copies
            for part in paid.parts
            if part.ec == of and not part.stamp and paid.days_ago <= since[of]
        }
        - credited
    )
    for row in world.door.rows(tables.fdr_flow):
        amounts = [one["amount"] for one in world.door.rows(tables.fdr_payment) if _of(one) == _of(row)]
        assert row["credited"] == sum(amounts, Decimal(0))


def _of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("id_pa", "fdr", "psp_id", "revision"))


@pytest.mark.parametrize("dated", [datetime(1, 1, 1, tzinfo=UTC), None])
def test_odd_flow_dates(door, dated):
    """A flow that is dated two thousand years ago, or not at all, is matched, and costs no look at all days since."""
    request = a_request()
    door.take(an_envelope(request))
    own = {"id_pa": EC, "fdr": "f", "psp_id": "p", "revision": 1}
    row = own | {"listed_at": NOW, "fetched_at": NOW, "flow_date": dated, "attempts": 0, "next_attempt_at": NOW}
    payment = own | {
        "position": 1, "iuv": request["creditorReferenceId"], "iur": request["receiptId"], "id_transfer": 1,
        "amount": Decimal(request["transfers.0.transferAmount"]), "pay_status": 0,
    }  # fmt: skip
    with store.transaction(door.engine) as connection:
        insert_rows(connection, tables.fdr_flow, [row | {"superseded": False}])
        insert_rows(connection, tables.fdr_payment, [payment | {"superseded": False}])
    match(door.engine, EC)
    assert [row["matched_by"] for row in door.rows(tables.fdr_payment)] == ["iur"]
    (progress,) = door.rows(tables.fdr_ec)
    assert NOW - progress["awaited_from"] <= timedelta(days=62)


def test_as_the_model_says(door):
    """Receipts, flows and revisions in any order, matched now and then, end as they would if matched once."""
    request = a_request()
    door.take(an_envelope(request))
    base = {"receipt": door.rows(tables.receipt)[0], "transfer": door.rows(tables.transfer)[0]}

    @given(stories())
    @hypothesis_settings(
        max_examples=int(os.environ.get("STATION_MATCHING_EXAMPLES", "40")), derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def play(story: list[Any]) -> None:
        with store.transaction(door.engine) as connection:
            for table in reversed(tables.metadata.sorted_tables):
                if table.name.startswith("fdr_") or table.name in ("receipt", "transfer", "receipt_flag", "outbox"):
                    connection.execute(delete(table))
        world = World(door, base)
        world.play(story)
        check(world)

    play()
