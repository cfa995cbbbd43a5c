"""Sessions: of a user who signed in the browser has a random token, and the database its hash and all that is known.

Before that, what the sign-in needs lies in the browser's own cookie: a flood of visitors writes nothing.
"""

import json
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
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
_SESSIONS_MAX = 50  # of one user: what asks without cookies, behind a proxy that names the user, begins one each time
_ANONYMOUS_S = 15 * 60  # to sign in
_VISITORS = frozenset({"csrf", "signing_in"})  # what a visitor's own cookie may hold
_VISITOR_MARK, _VISITOR_MAX = ".", 3500  # no token begins with a point; browsers keep 4096 bytes of a cookie

Confirm = Callable[[store.Connection], bool]


class StoredSession(dict[str, Any], SessionMixin):
    """What is known of a browser. Written where it changed."""

    def __init__(self, token: str | None = None, held: dict[str, Any] | None = None) -> None:
        super().__init__(held or {})
        self.token = token
        self.before = json.dumps(held or {}, sort_keys=True)
        self.renewed = False  # the token changes: at a sign-in
        self.confirm: Confirm | None = None  # called in the transaction that writes it, which it may refuse
        self.touch = False

    @property
    def username(self) -> str | None:
        """The user who signed in."""
        return self["user"]["name"] if "user" in self else None


class StoredSessions(SessionInterface):
    """Flask's sessions. Raises `StoreError` where the database is away."""

    def __init__(self, engine: store.Engine, settings: config.Console) -> None:
        self._engine = engine
        self._idle = timedelta(minutes=settings.idle_minutes)
        self._lasts = timedelta(hours=settings.session_hours)
        self._touch = min(_TOUCH, self._idle / 4)

    def open_session(self, app: Flask, request: Request) -> StoredSession:
        """Return the session of the request's cookie, or a new one that is not kept until something is in it."""
        token = request.cookies.get(COOKIE, "")
        # Files and probes have no need of one, and are answered while the database is away. (The endpoint is not known
        # yet.)
        if not token or request.path.startswith(app.config["WITHOUT_SESSION"]):
            return StoredSession()
        if token.startswith(_VISITOR_MARK):
            return StoredSession(held=_visitor(token))
        now = datetime.now(UTC)
        with store.transaction(self._engine, readonly=True) as connection:
            row = sessions.load_session(connection, _hash(token), now=now, idle=self._idle)
        if row is None:
            return StoredSession()
        session = StoredSession(token, json.loads(row.data))
        session.touch = now - row.last_seen_at >= self._touch
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Write the session where it changed, and give the browser its token."""
        if not isinstance(session, StoredSession):
            return  # none could be opened, and the answer says so
        now = datetime.now(UTC)
        data = json.dumps(session, sort_keys=True)
        if not session.username:
            if session.token is not None:
                with store.transaction(self._engine) as connection:
                    sessions.end_session(connection, _hash(session.token))
            if data != session.before or session.token is not None:
                _keep_visitor(response, session)
        elif session.renewed or session.token is None:
            if (token := self._begin(session, data, now)) is not None:
                response.set_cookie(COOKIE, token, secure=True, httponly=True, samesite="Lax")
        elif data != session.before:
            with store.transaction(self._engine) as connection:
                sessions.change_session(connection, _hash(session.token), data=data, now=now)
        elif session.touch:
            with store.transaction(self._engine) as connection:
                sessions.touch_session(connection, _hash(session.token), now=now)

    def _begin(self, session: StoredSession, data: str, now: datetime) -> str | None:
        """Write a new session of a user, and return its token: `None` where it was not confirmed."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        with store.transaction(self._engine) as connection:
            if session.token is not None:
                sessions.end_session(connection, _hash(session.token))
            sessions.forget_sessions(connection, now=now, idle=self._idle)
            if session.confirm is not None and not session.confirm(connection):
                return None
            sessions.end_oldest_of(connection, session.username, keep=_SESSIONS_MAX - 1)
            sessions.begin_session(
                connection, _hash(token), username=session.username, data=data, now=now, expires_at=now + self._lasts
            )
        return token


def _hash(token: str) -> str:
    return sha256(token.encode(errors="replace")).hexdigest()


def _visitor(cookie: str) -> dict[str, Any]:
    """Return what a visitor's cookie holds: text from outside, of which nothing says who the visitor is."""
    with suppress(ValueError, RecursionError):
        held = json.loads(urlsafe_b64decode(cookie[1 : _VISITOR_MAX + 1].encode() + b"=="))
        json.dumps(held, ensure_ascii=False).encode()  # no half of a surrogate pair, which no page could hold
        if isinstance(held, dict) and isinstance(held.get("csrf", ""), str):
            return {name: value for name, value in held.items() if name in _VISITORS}
    return {}


def _keep_visitor(response: Response, session: StoredSession) -> None:
    """Give a visitor the cookie with what the sign-in needs, or take it away.

    It needs no signature: a cookie with this prefix comes from this host, and its owner gains nothing by a change.
    """
    held = {name: value for name, value in session.items() if name in _VISITORS}
    if not held:
        response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
        return
    word = _VISITOR_MARK + urlsafe_b64encode(json.dumps(held).encode()).decode().rstrip("=")
    response.set_cookie(COOKIE, word, max_age=_ANONYMOUS_S, secure=True, httponly=True, samesite="Lax")
