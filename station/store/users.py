"""The console's own users, by name. Nothing here commits.

A sign-in is counted as failed before its password is checked, and cleared afterwards where it was right: of guesses
that come at the same time no more are checked than of those that come one by one.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, case, delete, select, update

from station.store.rows import insert
from station.store.sessions import end_sessions_of
from station.store.tables import console_user

_USER = console_user.c
_NEVER_LOCKED: dict[str, Any] = {"failures": 0, "locked_until": None}


def add_user(connection: Connection, name: str, *, display_name: str, password_hash: str, now: datetime) -> bool:
    """Add a user. Return False where there is one of this name."""
    values: dict[str, Any] = {"name": name, "display_name": display_name, "password_hash": password_hash}
    values |= {"created_at": now, "changed_at": now, "disabled": False, **_NEVER_LOCKED}
    return bool(connection.execute(insert(connection, console_user).values(**values).on_conflict_do_nothing()).rowcount)


def load_user(connection: Connection, name: str) -> Any | None:
    """Return a user's row, `None` where there is none."""
    return connection.execute(select(console_user).where(_USER.name == name)).one_or_none()


def list_users(connection: Connection) -> list[Any]:
    """Return all users, by name, without their passwords."""
    columns = [column for column in _USER if column is not _USER.password_hash]
    return list(connection.execute(select(*columns).order_by(_USER.name)))


def begin_sign_in(connection: Connection, name: str, *, now: datetime, failures: int, lock: timedelta) -> Any | None:
    """Count a sign-in, and return the user's row: `None` for an unknown, disabled or locked user.

    With the last of `failures` that follow one another the user is locked for the time `lock`; `sign_in` takes that
    back where the password is right.
    """
    counted = case((_USER.locked_until.is_not(None), 1), else_=_USER.failures + 1)  # a lock that has ended
    attempt = (
        update(console_user)
        .where(_USER.name == name, ~_USER.disabled, _USER.locked_until.is_(None) | (_USER.locked_until <= now))
        .values(failures=counted, locked_until=case((counted >= failures, now + lock), else_=None))
        .returning(_USER.name, _USER.display_name, _USER.password_hash)
    )
    return connection.execute(attempt).one_or_none()


def sign_in(connection: Connection, name: str, *, password_hash: str, now: datetime) -> bool:
    """Note that the password was right. Return False where the user was changed or disabled meanwhile.

    The user's row stays locked until the end of the transaction: a change waits, and then finds the session to end.
    """
    done = (
        update(console_user)
        .where(_USER.name == name, _USER.password_hash == password_hash, ~_USER.disabled)
        .values(last_login_at=now, **_NEVER_LOCKED)
    )
    return bool(connection.execute(done).rowcount)


def change_password(
    connection: Connection, name: str, *, password_hash: str, now: datetime, old_hash: str | None = None
) -> bool:
    """Change a password, and end the user's sessions. Return False where there is no such user.

    With `old_hash` only while that is the password.
    """
    change = update(console_user).where(_USER.name == name)
    if old_hash is not None:
        change = change.where(_USER.password_hash == old_hash, ~_USER.disabled)
    return _changed(connection, name, change.values(password_hash=password_hash, changed_at=now, **_NEVER_LOCKED))


def set_disabled(connection: Connection, name: str, *, disabled: bool, now: datetime) -> bool:
    """Disable or enable a user, and end the sessions. Return False where there is no such user."""
    change = update(console_user).where(_USER.name == name).values(disabled=disabled, changed_at=now)
    return _changed(connection, name, change)


def remove_user(connection: Connection, name: str) -> bool:
    """Remove a user, and end the sessions. Return False where there is no such user."""
    return _changed(connection, name, delete(console_user).where(_USER.name == name))


def unlock_user(connection: Connection, name: str) -> bool:
    """Let a user sign in again who is locked. Return False where there is no such user."""
    unlock = update(console_user).where(_USER.name == name).values(**_NEVER_LOCKED)
    return bool(connection.execute(unlock).rowcount)


def _changed(connection: Connection, name: str, change: Any) -> bool:
    if not connection.execute(change).rowcount:
        return False
    end_sessions_of(connection, name)
    return True
