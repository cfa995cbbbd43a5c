"""Who looked up whom in the console. Nothing here commits."""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, insert

from station.store.tables import console_access


def write_accesses(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write down look-ups: `at`, `username`, `address`, `action`, `id_pa`, `receipt_id`, `subject`, `found`."""
    if numbered := [{**row, "access_id": secrets.randbits(63)} for row in rows]:
        connection.execute(insert(console_access), numbered)
