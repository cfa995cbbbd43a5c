"""The order of delivery: each revision of a receipt gets one number once it is committed, and readers miss none."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from build import ABSENT, EC, OTHER_EC, a_request, an_envelope
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from refusals import OURS, Door
from sqlalchemy import delete, update

from station import contract, store
from station.config import Settings
from station.intake import Intake, Result
from station.receipt import Source
from station.replay import Replay
from station.store import outgoing, receipts, tables
from station.store.outgoing import Choice

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
EVERYTHING = Choice()


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=8)
    yield Door(engine)
    engine.dispose()


def number(door, limit=1000):
    with store.transaction(door.engine) as connection:
        return outgoing.number_outbox(connection, at=NOW, limit=limit)


def check(door, *, restart, limit=1000):
    with store.transaction(door.engine) as connection:
        return outgoing.number_unnumbered(connection, at=datetime.now(UTC), limit=limit, restart=restart)


def read(door, choice=EVERYTHING, after=0, limit=1000):
    """All pages behind `after`, as a reader goes through them."""
    items, more = [], True
    while more:
        with store.transaction(door.engine, readonly=True) as connection:
            page = outgoing.outgoing_page(connection, choice, after=after, limit=limit)
        assert len(page.items) <= limit
        assert not page.more or page.next > after
        items += page.items
        after, more = page.next, page.more
    return items


def keys(items):
    return [(item.number, item.receipt["receipt_id"], item.revision) for item in items]


def test_stored_and_fuller(door):
    """A new receipt and one that became fuller get a number; a resend, a conflict and a refusal get none."""
    request = a_request()
    poorer, fuller = an_envelope(request.but(paymentNote=ABSENT)), an_envelope(request)
    assert [door.take(poorer).result, number(door)] == [Result.STORED, 1]
    assert [door.take(poorer).result, number(door)] == [Result.DUPLICATE, 0]
    assert [door.take(fuller).result, number(door)] == [Result.DUPLICATE, 1]
    assert [door.take(fuller).result, number(door)] == [Result.DUPLICATE, 0]
    refused_id = door.take(an_envelope(request.but(description="something else"))).refused_id
    door.refuse(an_envelope(a_request()))
    assert number(door) == 0
    receipt_id = request["receiptId"]
    assert keys(read(door)) == [(1, receipt_id, 1), (2, receipt_id, 2)]
    (item, _) = read(door)
    assert item.receipt["payment_note"] == request["paymentNote"]
    assert [one["transfer_category"] for one in item.receipt["transfers"]]

    replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna", replace=True)
    list(replay.refused(store.RefusedFilter(refused_ids=(refused_id,))))
    assert number(door) == 1
    assert keys(read(door, after=2)) == [(3, receipt_id, 3)]
    assert read(door, after=2)[0].receipt["description"] == "something else"
    assert door.rows(tables.outbox) == []


def test_planners_at_once(door):
    """However many number at once while receipts come: numbers without gaps, each receipt one of them."""
    requests = [a_request() for _ in range(60)]
    with ThreadPoolExecutor(6) as pool:
        stored = pool.map(lambda request: door.take(an_envelope(request)).result, requests)
        given = [count.result() for count in [pool.submit(number, door, 7) for _ in range(20)]]
        assert {*stored} == {Result.STORED}
    while more := number(door, 7):
        given.append(more)
    rows = sorted(door.rows(tables.outgoing), key=lambda row: row["number"])
    assert [row["number"] for row in rows] == [*range(1, 61)]
    assert sum(given) == 60
    assert {row["receipt_id"] for row in rows} == {request["receiptId"] for request in requests}


def test_late_commit(postgres_url, connect):
    """A receipt that is committed late gets a number behind those that were readable before it."""
    door = Door(connect(postgres_url))
    late, early = a_request(), a_request()
    reading = contract.read_copy(an_envelope(late), None).receipt
    new = receipts.NewReceipt(reading, frozenset(), an_envelope(late), None, Source.PUSH, NOW)
    with door.engine.connect() as held:
        held.exec_driver_sql(receipts._SAVE, receipts._parameters(new, False))
        door.take(an_envelope(early))
        assert number(door) == 1
        assert keys(read(door)) == [(1, early["receiptId"], 1)]
        held.commit()
    assert number(door) == 1
    assert keys(read(door, after=1)) == [(2, late["receiptId"], 1)]


def test_without_outbox(door):
    """Receipts of before the outbox, and of an older version beside it, get their numbers in order of arrival."""
    requests = [a_request() for _ in range(7)]
    old, beside, new = requests[:4], requests[4], requests[5:]
    for request in old:
        door.take(an_envelope(request))
    with store.transaction(door.engine) as connection:
        connection.execute(delete(tables.outbox))
    door.take(an_envelope(new[0]))
    looked_at = [check(door, restart=place == 0, limit=2) for place in range(4)]
    assert looked_at == [(2, 2), (2, 2), (1, 0), (0, 0)]
    assert number(door) == 1
    assert check(door, restart=True) == (5, 0)

    door.take(an_envelope(beside))
    with store.transaction(door.engine) as connection:
        connection.execute(delete(tables.outbox))
    door.take(an_envelope(new[1]))
    assert check(door, restart=True, limit=1000)[1] == 1
    assert number(door) == 1
    assert [receipt_id for _, receipt_id, _ in keys(read(door))] == [
        request["receiptId"] for request in [*old, new[0], beside, new[1]]
    ]
    # One of an older version's that became fuller before it had a number has its row in the outbox, at a later time.
    request = a_request()
    door.take(an_envelope(request.but(paymentNote=ABSENT)))
    with store.transaction(door.engine) as connection:
        connection.execute(delete(tables.outbox))
    door.take(an_envelope(request))
    assert check(door, restart=True)[1] == 0
    assert number(door) == 1
    assert keys(read(door, after=7)) == [(8, request["receiptId"], 2)]
    assert check(door, restart=True)[1] == 0
    assert door.rows(tables.outbox) == []
    # What was looked at long ago is looked at no more.
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(received_at=NOW - timedelta(days=365)))
    assert check(door, restart=True) == (0, 0)


CATEGORIES = ("0101002IM", "0101100IM", "9/0105107TS/")
ECS = [EC, OTHER_EC, *(f"{70000000000 + number}" for number in range(60))]
Description = some.tuples(some.sampled_from(ECS[:3]), some.booleans(), some.sampled_from(CATEGORIES))
Choices = some.builds(
    Choice,
    some.sampled_from([(), tuple(ECS[:1]), tuple(ECS[:2]), tuple(ECS[1:])]),
    some.sampled_from([(), CATEGORIES[:1], ("0101",), CATEGORIES[1:], ("8",)]),
    some.booleans(),
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(descriptions=some.lists(Description, min_size=1, max_size=12), choices=some.lists(Choices, max_size=6))
def test_choice(door, descriptions, choices):
    """A destination reads what it chose and nothing else, in pages of any size."""
    begun = len(door.rows(tables.outgoing))
    expected = []
    for id_pa, is_copy, category in descriptions:
        request = a_request(
            idPA=id_pa, fiscalCode="99999999999" if is_copy else id_pa,
            **{"transfers.0.transferCategory": category, "transfers.1.transferCategory": "7"},
        )  # fmt: skip
        assert door.take(an_envelope(request), {}).result is Result.STORED
        expected.append((request["receiptId"], id_pa, is_copy, category))
    assert number(door) == len(descriptions)
    for choice in choices:
        wanted = [
            (number, receipt_id, 1)
            for number, (receipt_id, id_pa, is_copy, category) in enumerate(expected, start=begun + 1)
            if (not choice.ecs or id_pa in choice.ecs)
            and (choice.copies or not is_copy)
            and (not choice.categories or category.startswith(choice.categories))
        ]
        for limit in (1, 3, 1000):
            assert keys(read(door, choice, begun, limit)) == wanted
