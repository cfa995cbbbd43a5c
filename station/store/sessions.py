"""Sessions of the console: one row for each browser, by the hash of the token in its cookie. Nothing here commits."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select, update

from station.store.tables import console_session

_FORGET_MAX = 1000  # sessions that ended, at a time


def load_session(connection: Connection, token_hash: str, *, now: datetime, idle: timedelta) -> Any | None:
    """Return the session's row: `username`, `data`, `last_seen_at` and `expires_at`, `None` where it has ended."""
    table = console_session.c
    query = select(table.username, table.data, table.last_seen_at, table.expires_at)
    return connection.execute(
        query.where(table.token_hash == token_hash, table.expires_at > now, table.last_seen_at > now - idle)
    ).one_or_none()


def begin_session(
    connection: Connection, token_hash: str, *, username: str | None, data: str, now: datetime, expires_at: datetime
) -> None:
    """Write a new session."""
    values = {"token_hash": token_hash, "username": username, "data": data, "expires_at": expires_at}
    connection.execute(insert(console_session).values(**values, created_at=now, last_seen_at=now))


def change_session(connection: Connection, token_hash: str, *, data: str, now: datetime) -> None:
    """Write a session whose `data` (JSON) changed. One that was ended meanwhile stays so."""
    changed = update(console_session).where(console_session.c.token_hash == token_hash)
    connection.execute(changed.values(data=data, last_seen_at=now))


def touch_session(connection: Connection, token_hash: str, *, now: datetime) -> None:
    """Note that a session is used."""
    connection.execute(
        update(console_session).where(console_session.c.token_hash == token_hash).values(last_seen_at=now)
    )


def end_session(connection: Connection, token_hash: str) -> None:
    """End one session."""
    connection.execute(delete(console_session).where(console_session.c.token_hash == token_hash))


def end_sessions_of(connection: Connection, username: str) -> int:
    """End all sessions of a user, and return how many there were."""
    return connection.execute(delete(console_session).where(console_session.c.username == username)).rowcount


def end_oldest_of(connection: Connection, username: str | None, *, keep: int) -> None:
    """End the sessions of a user but those that were used last."""
    table = console_session.c
    newest = select(table.token_hash).where(table.username == username).order_by(table.last_seen_at.desc()).limit(keep)
    kept = list(connection.execute(newest).scalars())
    if len(kept) == keep:
        old = delete(console_session).where(table.username == username, table.token_hash.not_in(kept))
        connection.execute(old)


def forget_sessions(connection: Connection, *, now: datetime, idle: timedelta) -> None:
    """Delete sessions that have ended."""
    table = console_session.c
    old = select(table.token_hash).where(or_(table.expires_at <= now, table.last_seen_at <= now - idle))
    connection.execute(delete(console_session).where(table.token_hash.in_(old.limit(_FORGET_MAX))))
