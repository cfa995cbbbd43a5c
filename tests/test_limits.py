"""Lists take the ECs that their reader may see: `None` means all, none of them nothing. And who looked up whom."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from refusals import Door
from sqlalchemy import insert

from station import store
from station.config import Settings
from station.reconcile import fdr_status
from station.reconcile import status as reconcile_status
from station.statistics import collect
from station.store import accesses, credited, delivery_list, flows, gauges, runs, statistics, tables
from station.store.journal import ExchangeFilter, list_exchanges
from station.store.paging import Cursor

NOW = datetime.now(UTC)
START, END = NOW - timedelta(days=1), NOW + timedelta(days=1)
LISTS = {
    "receipts": lambda c, ecs: store.list_receipts(c, store.Filter(id_pas=ecs)),
    "person": lambda c, ecs: store.list_receipts(c, store.Filter(id_pas=ecs, person_id="PLLPNC80A01X000X")),
    "refused": lambda c, ecs: store.list_refused(c, store.RefusedFilter(id_pas=ecs)),
    "journal": lambda c, ecs: list_exchanges(c, ExchangeFilter(id_pas=ecs)),
    "deliveries": lambda c, ecs: delivery_list.list_deliveries(c, "erp", id_pas=ecs),
    "missing": lambda c, ecs: credited.missing_payments(c, ecs, limit=9),
    "missing in all": credited.missing_totals,
    "flows": lambda c, ecs: [SimpleNamespace(**one) for one in credited.list_flows(c, ecs, limit=9)],
    "flows by name": lambda c, ecs: credited.flows_named(c, "2026-11-10", ecs, limit=9),
    "unread flows": lambda c, ecs: flows.unread_flows(c, ecs, limit=9),
    "gaps": flows.open_gaps,
    "items": lambda c, ecs: runs.list_items(c, ecs, limit=9),
    "items in all": runs.count_items,
    "hours": lambda c, ecs: list(statistics.by_hour(c, START, END, ecs)),
    "refusals": lambda c, ecs: list(statistics.refusals(c, START, END, ecs)),
    "delays": lambda c, ecs: list(statistics.delays(c, NOW - timedelta(days=9999), END, ecs)),
}


@pytest.fixture
def door(database_url, connect):
    """Of each of two ECs a receipt, a refused request, a delivery, flows, a missing receipt and a gap."""
    door = Door(connect(database_url))
    with store.transaction(door.engine) as connection:
        for number, ec in enumerate((EC, OTHER_EC), start=1):
            row = {"number": number, "id_pa": ec, "receipt_id": "x", "revision": 1, "numbered_at": NOW}
            connection.execute(insert(tables.outgoing).values(row))
            row = {"destination": "erp", "number": number, "state": "open", "attempts": 0, "next_attempt_at": NOW}
            connection.execute(insert(tables.delivery).values(row))
            for name in ("2026-11-10-read", "2026-11-11-unread"):
                key = {"id_pa": ec, "fdr": name, "psp_id": "P", "revision": 1}
                listed = {"published": NOW, "flow_date": NOW, "listed_at": NOW}
                flows.list_new(connection, [key | listed])
                if name.endswith("-read"):
                    payment = {"position": 1, "iuv": "1", "iur": "1", "id_transfer": 1, "amount": 1, "pay_status": 0}
                    flows.store_flow(connection, key, {"fetched_at": NOW, "credited": 1}, [payment])
            flows.note_gap(connection, ec, START, END)
            runs.write_item(
                connection,
                runs.ReconcileItem(ec, "2", "open", "not_yet", None, None, 1, NOW, NOW, NOW, "error", None),
            )
    for ec in (EC, OTHER_EC):
        request = a_request(idPA=ec, fiscalCode=ec)
        door.take(an_envelope(request))
        door.refuse(an_envelope(a_request(idPA=ec, fiscalCode=ec)))
    return door


@pytest.mark.parametrize("name", LISTS)
def test_lists(door, name):
    """Every list has the rows of these ECs and no others."""
    of = {None: {EC, OTHER_EC}, (EC,): {EC}, (EC, OTHER_EC): {EC, OTHER_EC}, (OTHER_EC, "1"): {OTHER_EC}, (): set()}
    with store.transaction(door.engine, readonly=True) as connection:
        for ecs, expected in of.items():
            found = LISTS[name](connection, ecs)
            assert {row.id_pa for row in found} == expected, ecs


def test_figures(door):
    """Counts and single look-ups keep to these ECs, too."""
    with store.transaction(door.engine, readonly=True) as connection:
        assert [sum(gauges.open_by_fault(connection, ecs).values()) for ecs in (None, (EC,), ())] == [2, 1, 0]
        assert list(gauges.last_pushes(connection, (EC,), NOW)) == [EC]
        assert gauges.last_pushes(connection, (), NOW) == {}
        assert statistics.seen_ecs(connection, (OTHER_EC,)) == [OTHER_EC]
        assert list(statistics.last_refused_pushes(connection, (OTHER_EC,))) == [OTHER_EC]
        foreign = store.list_refused(connection, store.RefusedFilter(id_pa=OTHER_EC))[0].refused_id
        assert store.find_refused(connection, foreign, id_pas=(EC,)) is None
        assert store.find_refused(connection, foreign, id_pas=(OTHER_EC,))["refused_id"] == foreign
        assert store.refused_ids(connection, foreign[:4], id_pas=(EC,)) == []
    found = collect(door.engine, Settings(), START, END, id_pas=(EC,))
    assert [ec.id_pa for ec in found.ecs] == [EC]
    assert collect(door.engine, Settings(), START, END, id_pas=()).ecs == []
    for status in (reconcile_status, fdr_status):
        assert [ec.id_pa for ec in status(Settings(), door.engine, (EC,)).ecs] == [EC]
        assert status(Settings(), door.engine, ()).ecs == []
    assert [item.id_pa for item in reconcile_status(Settings(), door.engine, (EC,)).items] == [EC]
    assert [flow["id_pa"] for flow in fdr_status(Settings(), door.engine, (EC,)).flows] == [EC]


def test_a_payment_of_another_ec(door):
    """A flow of one EC may hold a payment whose receipt is another one's: its reader is not told of that receipt."""
    request = a_request(idPA=OTHER_EC, fiscalCode=OTHER_EC)
    door.take(an_envelope(request))
    with store.transaction(door.engine) as connection:
        matched = {"matched_by": "iur", "receipt_id_pa": OTHER_EC, "receipt_id": request["receiptId"]}
        connection.execute(tables.fdr_payment.update().where(tables.fdr_payment.c.id_pa == EC).values(matched))
        [flow] = credited.flows_named(connection, "2026-11-10-read", (EC,), limit=2)
        [payment] = credited.payments_of(connection, flow)
        assert (payment.receipt_id, payment.debtor_name) == (request["receiptId"], "Pinco Pallino")
        [payment] = credited.payments_of(connection, flow, (EC,))
        assert (payment.receipt_id, payment.debtor_name) == (None, None)


def test_accesses(door):
    """Look-ups are listed newest first, page by page, by user, person, time and EC."""
    blank = {"address": "127.0.0.1", "action": "search", "receipt_id": None, "found": 1}
    rows = [
        blank | {"at": NOW - timedelta(minutes=i // 2), "username": ("anna", "bruno")[i % 2],
                 "id_pa": (EC, OTHER_EC, None)[i % 3], "subject": ("PLLPNC80A01X000X", "other")[i % 5 > 0]}
        for i in range(30)
    ]  # fmt: skip
    wanted = accesses.AccessFilter
    with store.transaction(door.engine) as connection:
        accesses.write_accesses(connection, [])
        accesses.write_accesses(connection, rows)
    with store.transaction(door.engine, readonly=True) as connection:

        def pages(filter_, size=4):
            found, after = [], None
            while page := accesses.list_accesses(connection, filter_, after=after, limit=size):
                found += page
                after = Cursor.decode(accesses.place_of(page[-1]).encode(), ("at",), int)
            assert [row.at for row in found] == sorted((row.at for row in found), reverse=True)
            assert len({row.access_id for row in found}) == len(found)
            return len(found)

        assert pages(wanted()) == 30
        assert pages(wanted(id_pas=(EC,))) == 10
        assert pages(wanted(id_pas=(EC, OTHER_EC))) == 20
        assert pages(wanted(id_pas=())) == 0
        assert pages(wanted(username="bruno")) == 15
        assert pages(wanted(subject="pllpnc80 a01x000x")) == 6
        assert pages(wanted(at_from=NOW - timedelta(minutes=4), at_to=NOW)) == 8
