"""What a user may see and do: the grants of the configuration, and the only way from a page to the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from flask import abort

from station import config, store
from station.console.identity import User
from station.errors import StoreError
from station.store.engine import ended_after
from station.store.limits import limit_to, limited

READER, OPERATOR, ADMIN = ROLES = get_args(config.Role)
TIMEOUT_S = 10  # for one statement, on SQLite for all that is read: a page that takes longer is no use


def timed_out(error: StoreError) -> bool:
    """Return whether a statement was ended because it took longer than a page may: it was asked for too much."""
    return error.reason.startswith("QueryCanceled") or error.reason.endswith("SQLITE_INTERRUPT")


class Scope:
    """The ECs of one user, by role. A role has what the ones before it have: reader, operator, admin.

    A foreign EC is answered as one that does not exist. On PostgreSQL each transaction also tells row-level security
    which ECs it may see, so that a query that forgets them still finds nothing of others.
    """

    def __init__(self, engine: store.Engine, grants: tuple[config.Grant, ...], user: User) -> None:
        own = [one for one in grants if one.user == user.name or (one.group is not None and one.group in user.groups)]
        self._engine = engine
        self._of_role = {role: _ecs(own, ROLES[number:]) for number, role in enumerate(ROLES)}
        self.ecs = self._of_role[READER]

    def ecs_of(self, role: config.Role) -> tuple[str, ...] | None:
        """Return the ECs for which the user has this role, `None` for all."""
        return self._of_role[role]

    @property
    def is_empty(self) -> bool:
        """Whether the user may see nothing at all."""
        return self._of_role[READER] == ()

    def is_any(self, role: config.Role) -> bool:
        """Return whether the user has this role for an EC: its pages are in the menu."""
        return self._of_role[role] != ()

    def is_all(self, role: config.Role = READER) -> bool:
        """Return whether the user has this role for all ECs, those too that are not configured."""
        return self._of_role[role] is None

    def has(self, id_pa: str | None, role: config.Role = READER) -> bool:
        """Return whether the user has this role for an EC; for `None` (none could be read): for all."""
        ecs = self._of_role[role]
        return ecs is None or id_pa in ecs

    def require(self, id_pa: str | None, role: config.Role = READER) -> None:
        """End the request with 404 where the EC is foreign, and with 403 where the role does not suffice."""
        if not self.has(id_pa):
            abort(404)
        if not self.has(id_pa, role):
            abort(403)

    def require_any(self, role: config.Role) -> None:
        """End the request with 403 where the user has this role for no EC."""
        if not self.is_any(role):
            abort(403)

    @contextmanager
    def reading(self) -> Iterator[store.Connection]:
        """Open a transaction that reads. Raises `StoreError`."""
        with store.transaction(self._engine, readonly=True, timeout=TIMEOUT_S) as connection:
            limit_to(connection, self._of_role[READER])
            with ended_after(connection, TIMEOUT_S):
                yield connection

    @contextmanager
    def writing(self) -> Iterator[store.Connection]:
        """Open a transaction that writes. Raises `StoreError`."""
        with store.transaction(self._engine, timeout=TIMEOUT_S) as connection:
            limit_to(connection, self._of_role[READER])
            yield connection

    @contextmanager
    def engine(self, role: config.Role = READER) -> Iterator[store.Engine]:
        """Give the database to a use case that opens transactions of its own, such as a replay.

        Row-level security shows each of them the ECs for which the user has this role. On SQLite there is no such lock:
        the caller checks beforehand which ECs the use case is about.
        """
        with limited(self._of_role[role]):
            yield self._engine


def _ecs(grants: list[config.Grant], roles: tuple[str, ...]) -> tuple[str, ...] | None:
    named = {id_pa for grant in grants if grant.role in roles for id_pa in grant.ecs}
    return None if "*" in named else tuple(sorted(named))
