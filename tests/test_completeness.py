"""The whole proof: what flows have and we lack is named, fetched and matched, to the cent."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from completeness import BROKER, ECS, IN_BIZ_EVENTS, STATION, World
from fdr_simulator import FdrSimulator
from gpd_simulator import GpdSimulator
from refusals import Door
from sqlalchemy import select

from station import store
from station.config import Settings
from station.receipt import Source
from station.reconcile import FdrOrder, FdrSummary, walk_flows
from station.reconcile.matching import match
from station.store import credited, tables


@pytest.fixture(scope="module")
def gpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpdSimulator]:
    with GpdSimulator.start(tmp_path_factory.mktemp("gpd")) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fdr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FdrSimulator]:
    with FdrSimulator.start(tmp_path_factory.mktemp("fdr")) as simulator:
        yield simulator


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=12)
    yield Door(engine)
    engine.dispose()


def settings(fdr: FdrSimulator | None, gpd: GpdSimulator | None, **over: Any) -> Settings:
    """Of three ECs; without a simulator no key for it. `over` are settings of [biz_events]."""
    quick = {"rate": 1_000_000, "retries": 1, "retry_pause": 0.02}
    return Settings.model_validate(
        {
            "broker": [{"id": BROKER, "stations": [STATION]}],
            "ec": [{"id": ec} for ec in ECS],
            "fdr": quick | ({"url": fdr.fdr_url, "key": "fdr-key"} if fdr else {}),
            "biz_events": quick | ({"url": fdr.biz_url, "key": "biz-key"} if fdr else {}) | over,
            "gpd": quick | ({"url": gpd.receipts_url, "key": "receipts-key"} if gpd else {}),
        }
    )


def push(door: Door, world: World) -> None:
    ours = settings(None, None).model_dump()
    registry = {"broker": ours["broker"], "ec": [{"id": ec} for ec in ECS]}
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda one: door.take(one.envelope(), registry), world.pushed))
    assert {outcome.refusal for outcome in outcomes} == {None}


def publish(fdr: FdrSimulator, world: World) -> None:
    fdr.reset()
    for flows in (world.flows, world.revised):
        for start in range(0, len(flows), 100):
            fdr.load(flows=flows[start : start + 100])
    fdr.load(receipts=world.biz_events)


def walk(door: Door, configured: Settings) -> FdrSummary:
    summary = walk_flows(configured, door.engine, FdrOrder())
    assert [(ec_run.outcome, ec_run.error) for ec_run in summary.ec_runs] == [("done", None)] * len(ECS)
    return summary


def columns(door: Door, *chosen: Any) -> set[tuple[Any, ...]]:
    """The values of some columns of a table."""
    with store.transaction(door.engine, readonly=True) as connection:
        return {tuple(row) for row in connection.execute(select(*chosen).distinct()).all()}


def named(door: Door, configured: Settings) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """What is named as missing and as not credited, by EC and IUR or receiptId."""
    with store.transaction(door.engine, readonly=True) as connection:
        missing = credited.missing_payments(connection, None, limit=10_000)
        late = [
            row
            for ec in ECS
            for row in credited.uncredited(
                connection, ec, paid_to=credited.due_before(connection, ec, configured.fdr.due_days), limit=10_000
            )
        ]
    assert len({(row.id_pa, row.fdr, row.position) for row in missing}) == len(missing)
    return {(row.id_pa, row.iur) for row in missing}, {(row.id_pa, row.receipt_id) for row in late}


def prove(door: Door, fdr: FdrSimulator, gpd: GpdSimulator, world: World, *, walked_revisions: bool) -> None:
    """Walk, name, fetch, and hold all of it against the world."""
    push(door, world)
    fdr.reset()
    gpd.reset()
    if walked_revisions:  # the first revisions are here before the later ones come
        fdr.load(flows=world.flows)
        walk(door, settings(fdr, None, url="http://127.0.0.1:9", key=None))
    publish(fdr, world)
    # Without keys for the services that fetch, only names.
    only_fdr = settings(fdr, None, url="http://127.0.0.1:9", key=None)
    walk(door, only_fdr)
    missing, uncredited = named(door, only_fdr)
    assert (missing - world.missing, world.missing - missing) == (set(), set())  # false, overlooked
    assert (uncredited - world.uncredited, world.uncredited - uncredited) == (set(), set())

    gpd.load(receipts=world.gpd)
    configured = settings(fdr, gpd)
    total = walk(door, configured).total
    receipt, flag = tables.receipt.c, tables.receipt_flag.c
    here = columns(door, receipt.id_pa, receipt.receipt_id)
    assert world.obtainable <= here
    assert total["fetched"] + total["provisional"] == len(world.obtainable)
    provisional = {key[:2] for key in columns(door, flag.id_pa, flag.receipt_id, flag.flag) if key[2] == "provisional"}
    assert provisional == {(one.ec, one.receipt_id) for one in world.of(*IN_BIZ_EVENTS)}
    assert named(door, configured) == (set(), world.uncredited)
    balance(door, configured, world)
    assert [row["reason"] for row in door.rows(tables.reconcile_item)] == ["not_expected"] * len(
        list(world.of("status 9 never"))
    )

    # The documents of the provisional ones come at last: OK, and all is as it was.
    with ThreadPoolExecutor(4) as pool:
        registry = {"ec": [{"id": ec} for ec in ECS]}
        late = list(world.of(*IN_BIZ_EVENTS))
        outcomes = list(pool.map(lambda one: door.take(one.envelope(), registry), late))
    assert {outcome.refusal for outcome in outcomes} == {None}
    assert (Source.BIZEVENTS,) not in columns(door, receipt.source)
    for ec in ECS:
        match(door.engine, ec)
    assert named(door, configured) == (set(), world.uncredited)
    balance(door, configured, world)


def balance(door: Door, configured: Settings, world: World) -> None:
    """The ledger of each EC, to the cent."""
    for ec in ECS:
        with store.transaction(door.engine, readonly=True) as connection:
            due = credited.due_before(connection, ec, configured.fdr.due_days)
            ledger = credited.balance(connection, ec, paid_to=due)
        never = sum(one.cents for one in world.of("status 9 never") if one.ec == ec)
        recent = sum(one.cents for one in world.of("recent") if one.ec == ec)
        assert ledger.credited == Decimal(world.cents(ec, credited=True)).scaleb(-2)
        assert ledger.with_receipt + ledger.missing + ledger.not_expected == ledger.credited
        assert (ledger.missing, ledger.not_expected) == (0, Decimal(never).scaleb(-2))
        assert ledger.uncredited == Decimal(world.cents(ec, credited=False)).scaleb(-2)
        assert ledger.not_yet == Decimal(recent).scaleb(-2)


@pytest.mark.parametrize(
    "walked_revisions",
    [pytest.param(False, id="at once", marks=pytest.mark.slow), pytest.param(True, id="revised later")],
)
def test_proof(door, fdr, gpd, walked_revisions):
    """2,000 payments in flows of three ECs: exactly what is missing is named, then fetched, and the euro balance."""
    prove(door, fdr, gpd, World.make(2000), walked_revisions=walked_revisions)


def test_size_of_the_bar():
    """The world of the bar is as issue and documentation say."""
    world = World.make(100_000)
    lines = sum(len(flow["payments"]) for flow in world.flows)
    assert len(world.flows) in range(1998, 2004)
    assert lines + len(list(world.of("revised"))) == 100_000
    lost = [one for one in world.payments if one.kind in
            ("secondary", "other iur", "revised", "status 9", "stamp", "only biz", "lost")]  # fmt: skip
    assert len(lost) == 1000
    assert len(world.obtainable) == 980
    assert len(world.missing) == 950
    assert re.fullmatch(r"[0-9a-f]{32}", world.payments[0].receipt_id)
