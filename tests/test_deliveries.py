"""Destinations and deliveries as they stand in the database."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from station import store
from station.store import deliveries, tables

NOW = datetime(2026, 7, 1, 10, tzinfo=UTC)


@pytest.fixture
def connection(database_url, connect):
    with store.transaction(connect(database_url)) as connection:
        deliveries.register(connection, "erp", "webhook", position=0, at=NOW)
        yield connection


def numbers_due(connection, now=NOW, limit=100):
    return [row.number for row in deliveries.due(connection, "erp", now=now, limit=limit)]


def an_attempt(number, state="delivered", *, result=None, next_attempt_at=NOW, attempts=1, destination="erp"):
    settled = None if state == "open" else NOW
    result = result or state
    return deliveries.Attempt(
        destination, number, result, state, attempts, next_attempt_at, NOW, NOW, 200, None, settled
    )


def test_register(connection):
    """A destination is registered once, and stays where it stands."""
    assert not deliveries.register(connection, "erp", "webhook", position=50, at=NOW)
    row = deliveries.destinations(connection)["erp"]
    assert (row.kind, row.position, row.state, row.failures, row.first_at) == ("webhook", 0, "active", 0, NOW)


def test_claim(connection):
    """Numbers are claimed once, from the position that was read; what an operator asked for stays as it is."""
    deliveries.register(connection, "late", "webhook", position=3, at=NOW)
    assert deliveries.claim(connection, {"erp": [3, 1], "late": [3]}, position=0, to=5, at=NOW) == {"erp"}
    assert deliveries.claim(connection, {"erp": [7]}, position=0, to=9, at=NOW) == set()
    assert deliveries.claim(connection, {"erp": []}, position=5, to=8, at=NOW) == {"erp"}
    deliveries.write_results(connection, [an_attempt(3)], {})
    assert deliveries.claim(connection, {"erp": [3, 9]}, position=8, to=9, at=NOW)
    assert numbers_due(connection) == [1, 9]
    assert deliveries.destinations(connection)["erp"].position == 9


def test_due(connection):
    """In order of number; what was never tried is due, as is a time that no clock gave; others wait."""
    deliveries.claim(connection, {"erp": [1, 2, 3, 4, 5]}, position=0, to=5, at=NOW + timedelta(hours=1))
    later = [an_attempt(2, "open", next_attempt_at=NOW + timedelta(hours=26)),
             an_attempt(3, "open", next_attempt_at=NOW + timedelta(days=400)),
             an_attempt(4, "open", next_attempt_at=NOW)]  # fmt: skip
    deliveries.write_results(connection, later, {})
    assert numbers_due(connection) == [1, 3, 4, 5]
    assert numbers_due(connection, limit=2) == [1, 3]
    assert deliveries.names_due(connection, now=NOW) == {"erp"}
    assert deliveries.names_due(connection, now=NOW - timedelta(seconds=1)) == set()
    first = deliveries.due(connection, "erp", now=NOW, limit=3, untried_first=True)
    assert [row.number for row in first] == [1, 5, 3]
    deliveries.write_results(connection, [an_attempt(1, "open", attempts=0)], {})
    first = deliveries.due(connection, "erp", now=NOW, limit=3, untried_first=True, in_turn=True)
    assert [row.number for row in first] == [5, 1, 3]
    assert numbers_due(connection, NOW + timedelta(hours=26)) == [1, 2, 3, 4, 5]


def test_write_results(connection):
    """Results of several destinations, their counts, and what is known of the destinations' health."""
    deliveries.register(connection, "portal", "webhook", position=0, at=NOW)
    deliveries.claim(connection, {"erp": [1, 2], "portal": [1, 2]}, position=0, to=2, at=NOW)
    some = [an_attempt(1), an_attempt(2, "failed", result="refused"), an_attempt(1, destination="portal")]
    deliveries.write_results(connection, some, {"portal": {"failures": 2, "last_error": "timeout"}})
    deliveries.write_results(connection, [an_attempt(1, "open"), an_attempt(2, destination="portal")], {})
    states = select(*list(tables.delivery.c)[:3]).order_by(*list(tables.delivery.c)[:2])
    assert [tuple(row) for row in connection.execute(states)] == [
        ("erp", 1, "delivered"), ("erp", 2, "failed"), ("portal", 1, "delivered"), ("portal", 2, "delivered")
    ]  # fmt: skip
    assert deliveries.counts(connection) == {
        ("erp", "delivered"): 1, ("erp", "open"): 1, ("erp", "refused"): 1, ("portal", "delivered"): 2
    }  # fmt: skip
    assert deliveries.destinations(connection)["portal"].failures == 2


def test_pause_and_resume(connection):
    assert deliveries.pause(connection, "erp", "410")
    row = deliveries.destinations(connection)["erp"]
    assert (row.state, row.reason) == ("paused", "410")
    deliveries.change(connection, "erp", {"failures": 4, "next_attempt_at": NOW})
    assert deliveries.resume(connection, "erp")
    row = deliveries.destinations(connection)["erp"]
    assert (row.state, row.reason, row.failures, row.next_attempt_at) == ("active", None, 0, None)
    assert not deliveries.pause(connection, "other", "no such destination")


def test_resume_a_folder(connection):
    """Its file that waits for another try is due; the time of its next file stays."""
    later = NOW + timedelta(hours=20)
    deliveries.register(connection, "night", "folder", position=0, at=NOW)
    deliveries.change(connection, "night", {"next_attempt_at": later, "failures": 3})
    file = {"destination": "night", "planned_at": NOW, "name": "1.zip", "number_from": 1, "number_to": 2, "attempts": 3}
    connection.execute(tables.delivery_file.insert(), [file | {"state": "written", "next_attempt_at": later}])
    assert deliveries.resume(connection, "night")
    row = deliveries.destinations(connection)["night"]
    assert (row.failures, row.next_attempt_at) == (0, later)
    assert connection.execute(select(tables.delivery_file.c.next_attempt_at)).scalars().all() == [NOW]


def test_missing(connection):
    """A delivery of a receipt that is gone is skipped."""
    deliveries.claim(connection, {"erp": [1, 2]}, position=0, to=2, at=NOW)
    deliveries.settle_missing(connection, "erp", [1], at=NOW)
    assert numbers_due(connection) == [2]
