"""Server-side sessions: the browser has a random token, the database its hash and all that is known of it."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import SessionInterface, SessionMixin

from station import config, store
from station.store import sessions

COOKIE = "__Host-station"  # of this host only, by TLS only (or on this machine), for every path
_TOKEN_BYTES = 32
_TOUCH = timedelta(minutes=1)  # a session that is used is written once a minute
_ANONYMOUS = timedelta(minutes=15)  # to sign in


class StoredSession(dict[str, Any], SessionMixin):
    """What is known of a browser. Written where it changed."""

    def __init__(self, token: str | None = None, held: dict[str, Any] | None = None) -> None:
        super().__init__(held or {})
        self.token = token
        self.before = json.dumps(held or {}, sort_keys=True)
        self.renewed = False  # the token changes: at a sign-in
        self.touch = False

    @property
    def username(self) -> str | None:
        """The user who signed in."""
        return self["user"]["name"] if "user" in self else None


class StoredSessions(SessionInterface):
    """Flask's sessions, kept in the database. Raises `StoreError` where it is away."""

    def __init__(self, engine: store.Engine, settings: config.Console) -> None:
        self._engine = engine
        self._idle = timedelta(minutes=settings.idle_minutes)
        self._lasts = timedelta(hours=settings.session_hours)

    def open_session(self, app: Flask, request: Request) -> StoredSession:
        """Return the session of the request's cookie, or a new one that is not kept until something is in it."""
        token = request.cookies.get(COOKIE, "")
        # Files and probes have no need of one, and are answered while the database is away. (The endpoint is not known
        # yet.)
        if not token or request.path.startswith(app.config["WITHOUT_SESSION"]):
            return StoredSession()
        now = datetime.now(UTC)
        with store.transaction(self._engine, readonly=True) as connection:
            row = sessions.load_session(connection, _hash(token), now=now, idle=self._idle)
        if row is None:
            return StoredSession()
        session = StoredSession(token, json.loads(row.data))
        session.touch = now - row.last_seen_at >= _TOUCH
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Write the session where it changed, and give the browser its token."""
        if not isinstance(session, StoredSession):
            return  # none could be opened, and the answer says so
        now = datetime.now(UTC)
        data = json.dumps(session, sort_keys=True)
        if not session:
            if session.token is not None:
                with store.transaction(self._engine) as connection:
                    sessions.end_session(connection, _hash(session.token))
                response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
            return
        if data == session.before and not session.renewed:
            if session.touch and session.token is not None:
                with store.transaction(self._engine) as connection:
                    sessions.touch_session(connection, _hash(session.token), now=now)
            return
        token = session.token
        with store.transaction(self._engine) as connection:
            if token is not None and not session.renewed:
                sessions.change_session(connection, _hash(token), data=data, now=now)
                return
            if token is not None:
                sessions.end_session(connection, _hash(token))
            token = secrets.token_urlsafe(_TOKEN_BYTES)
            lasts = self._lasts if session.username else _ANONYMOUS
            sessions.begin_session(
                connection, _hash(token), username=session.username, data=data, now=now, expires_at=now + lasts
            )
            sessions.forget_sessions(connection, now=now, idle=self._idle)
        response.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="Lax")


def _hash(token: str) -> str:
    return sha256(token.encode()).hexdigest()
