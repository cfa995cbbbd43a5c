"""Destinations with deliveries in any state, for tests of the console: `site` is one of `console.Site`."""

from datetime import UTC, datetime

from build import a_request
from sqlalchemy import insert, select

from station import store
from station.store import deliveries, outgoing, tables

NOW = datetime.now(UTC).replace(microsecond=0)
HOOK = {
    "kind": "webhook",
    "url": "https://erp.example.invalid/x?key=querykey",
    "secret": "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
}


def receive(site, count, **over):
    """Store receipts, and give them numbers."""
    for _ in range(count):
        site.push(a_request(**over))
    with store.transaction(site.engine) as connection:
        outgoing.number_outbox(connection, at=NOW, limit=100)


def serve(site, name, kind="webhook", *, position=0, states=None, **values):
    """Register a destination, with deliveries in these states by number."""
    with store.transaction(site.engine) as connection:
        deliveries.register(connection, name, kind, position=position, at=NOW)
        for number, state in (states or {}).items():
            row = {"destination": name, "number": number, "state": state, "attempts": 2, "next_attempt_at": NOW,
                   "first_at": NOW, "last_at": NOW, "status": 500, "error": "the answer was 500",
                   "settled_at": None if state == "open" else NOW}  # fmt: skip
            connection.execute(insert(tables.delivery), row)
        if values:
            deliveries.change(connection, name, values)


def states(site, name="erp"):
    with store.transaction(site.engine, readonly=True) as connection:
        rows = connection.execute(
            select(tables.delivery).filter_by(destination=name).order_by(tables.delivery.c.number)
        ).all()
        return {row.number: row.state for row in rows}


def row_of(site, name):
    with store.transaction(site.engine, readonly=True) as connection:
        return deliveries.destinations(connection)[name]
