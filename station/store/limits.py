"""Which ECs a reader may see: as a condition of each query, and on PostgreSQL as what row-level security goes by.

The second holds where the first was forgotten: for a role that got its rights from `station grants ROLE --console`,
policies hide the rows of all ECs but those that the transaction names, and all rows where it names none.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import ColumnElement, Connection, text

ALL = "*"
# The setting of a transaction that the policies read, see `rights`: ECs separated by commas, or `ALL`.
SETTING = "station.ecs"

_current: ContextVar[str | None] = ContextVar("ecs", default=None)
current = _current.get
"""Return the value of the setting for transactions that are opened here; `None`: they are not limited."""


def among(column: Any, id_pas: Sequence[str] | None) -> list[ColumnElement[bool]]:
    """Return the conditions for a column to name one of these ECs: `None` means all of them, an empty sequence none."""
    if id_pas is None:
        return []
    return [column == id_pas[0]] if len(id_pas) == 1 else [column.in_(id_pas)]


def _value(ecs: Sequence[str] | None) -> str:
    return ALL if ecs is None else ",".join(ec for ec in ecs if ec and "," not in ec and ec != ALL)


@contextmanager
def limited(ecs: Sequence[str] | None) -> Iterator[None]:
    """Limit each transaction that is opened inside to the rows of these ECs; `None`: of all.

    For use cases that open transactions of their own, too, such as a replay. On SQLite nothing enforces it.
    """
    token = _current.set(_value(ecs))
    try:
        yield
    finally:
        _current.reset(token)


def limit_to(connection: Connection, ecs: Sequence[str] | None) -> None:
    """Limit the rest of a transaction to the rows of these ECs; `None`: of all. Nothing on SQLite."""
    set_limit(connection, _value(ecs))


def set_limit(connection: Connection, value: str) -> None:
    """Put a value of `current` into the setting of a transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT set_config('{SETTING}', :ecs, true)"), {"ecs": value})


def is_limited(connection: Connection) -> bool:
    """Return whether the transaction was limited, be it to all ECs."""
    if connection.dialect.name != "postgresql":
        return False
    return bool(connection.execute(text(f"SELECT current_setting('{SETTING}', true)")).scalar())
