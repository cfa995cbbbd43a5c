"""Each look-up of a person is written down, for the data-protection officer: who, when, whom, and what was shown."""

from datetime import UTC, datetime
from typing import Any

from flask import g

from station import store
from station.store.accesses import write_accesses


def write_down(connection: store.Connection, action: str, *rows: dict[str, Any]) -> None:
    """Write look-ups of the user who asks, in the transaction that serves them (a writing one).

    `action` is search, receipt, pdf, xml or csv. Each row has what there is of `id_pa`, `receipt_id`, `subject` (a
    fiscal code: the one that was looked for, or of the person whose receipt is shown) and `found`, a number.
    """
    blank = {"id_pa": None, "receipt_id": None, "subject": None, "found": None}
    by = {"at": datetime.now(UTC), "username": g.user.name, "address": g.address, "action": action}
    write_accesses(connection, [{**blank, **row, **by} for row in rows])
