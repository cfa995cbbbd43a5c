"""Each look-up of a person is written down, for the data-protection officer: who, when, whom, and what was shown."""

from datetime import UTC, datetime
from typing import Any

from flask import g

from station import store
from station.store.accesses import write_accesses


def operator() -> str:
    """Return the user who asks, as the station's histories name who did something: 64 characters at most."""
    return f"console:{g.user.name}"[:64]


def who_asks() -> dict[str, Any]:
    """Return the user of this request and the address that it came from, for what goes on after the request."""
    return {"username": g.user.name, "address": g.address}


def write_down(
    connection: store.Connection, action: str, *rows: dict[str, Any], by: dict[str, Any] | None = None
) -> None:
    """Write look-ups of the user who asks (`by`: of `who_asks`), in the transaction that serves them (a writing one).

    `action` is search, list, receipt, pdf, xml, csv or accesses. Each row has what there is of `id_pa`, `receipt_id`,
    `subject` (a fiscal code: the one that was looked for, or of the person whose receipt is shown) and `found`, a
    number.
    """
    blank = {"id_pa": None, "receipt_id": None, "subject": None, "found": None}
    told = {"at": datetime.now(UTC), "action": action} | (by or who_asks())
    write_accesses(connection, [blank | row | told for row in rows])
