"""Who a user is, whatever says so: the station's own users, an identity provider, or the headers of a proxy."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flask import session

from station.console.session import Confirm


@dataclass(frozen=True, slots=True)
class User:
    """A user: the name that [[grant]] has, the name for display, and groups."""

    name: str
    display_name: str
    groups: tuple[str, ...] = ()


def sign_in(user: User, auth: str, *, confirm: Confirm | None = None, **more: Any) -> None:
    """Begin a session of this user: a new one, so that a token that was known before is worth nothing.

    `auth` is the way in, as in the configuration: a session ends where that changes. `confirm` is called in the
    transaction that writes the session; False keeps it from being written. `more` is kept in the session.
    """
    session.clear()
    session.renewed, session.confirm = True, confirm  # type: ignore[attr-defined]
    session["user"] = {"name": user.name, "display_name": user.display_name, "groups": list(user.groups)}
    session.update(auth=auth, signed_in_at=datetime.now(UTC).isoformat(), **more)


def sign_out() -> None:
    """End the session."""
    session.clear()


def of_session(auth: str) -> User | None:
    """Return the user who signed in, `None` without one."""
    held = session.get("user")
    if held is None or session.get("auth") != auth:
        return None
    return User(held["name"], held["display_name"], tuple(held["groups"]))
