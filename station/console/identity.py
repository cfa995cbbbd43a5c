"""Who a user is, whatever says so: the station's own users, an identity provider, or the headers of a proxy."""

from dataclasses import dataclass
from datetime import UTC, datetime

from flask import session


@dataclass(frozen=True, slots=True)
class User:
    """A user: the name that [[grant]] has, the name for display, and groups."""

    name: str
    display_name: str
    groups: tuple[str, ...] = ()


def sign_in(user: User) -> None:
    """Begin a session of this user: a new one, so that a token that was known before is worth nothing."""
    session.clear()
    session.renewed = True  # type: ignore[attr-defined]
    session["user"] = {"name": user.name, "display_name": user.display_name, "groups": list(user.groups)}
    session["signed_in_at"] = datetime.now(UTC).isoformat()


def sign_out() -> None:
    """End the session."""
    session.clear()


def of_session() -> User | None:
    """Return the user who signed in, `None` without one."""
    held = session.get("user")
    return None if held is None else User(held["name"], held["display_name"], tuple(held["groups"]))
