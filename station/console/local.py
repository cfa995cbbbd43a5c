"""The console's own users: what a password must be, and how one is checked without helping to guess it."""

import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any, Literal

from werkzeug.exceptions import ServiceUnavailable, TooManyRequests
from werkzeug.security import check_password_hash, generate_password_hash

from station import log, store
from station.store import users
from station.store.waiting import run_in_thread

_log = log.get(__name__)

NAME = re.compile("[a-z0-9][a-z0-9._@-]{0,63}")
LENGTH_MIN, LENGTH_MAX = 12, 200
FAILURES_MAX, LOCK = 5, timedelta(minutes=15)
_ADDRESS_MAX = 20  # wrong passwords from one address in the time of a lock: an office has one address, too
_ADDRESSES_MAX = 10_000
_CHECKS_MAX = 2  # at the same time, in a process: each takes 32 MiB and a core for 0.1 s
_WAIT_S, _CHECK_TIMEOUT_S = 10.0, 30.0
_METHOD = "scrypt:32768:8:1"
_OF_NONE = f"{_METHOD}${'0' * 16}${'0' * 128}"  # in the place of an unknown user's: to check it takes as long
_VARIED_MIN = 5  # different characters
_BESIDE_NAME_MIN = 5  # letters
# What the commonest passwords consist of, once digits and signs around them are gone.
_WORDS = """
    password passw0rd passwordpassword pagopa comune ricevute ricevuta tesoreria ragioneria tributi incassi console
    station amministratore amministrazione administrator admin administrador utente operatore segreteria benvenuto
    benvenuti welcome cambiami changeme letmein iloveyou tiamo tiamotanto amoremio juventus qwerty qwertyuiop
    qwertyuiopasdf qwertyqwerty asdfghjkl asdfghjklzx zxcvbnm abcdefghijkl abcdefghijklm segreto supersegreto
    segretissimo secret topsecret test prova provaprova testtest
"""
_COMMON = frozenset(_WORDS.split())
_RUNS = (
    *("0123456789" * 3, "9876543210" * 3, "abcdefghijklmnopqrstuvwxyz"),
    *("qwertyuiopasdfghjklzxcvbnm", "1q2w3e4r5t6y7u8i9o0p"),
)

Problem = Literal["short", "long", "name", "common"]


def problem(password: str, name: str) -> Problem | None:
    """Return why this may not be the password of that user, `None` where it may."""
    if len(password) < LENGTH_MIN:
        return "short"
    if len(password) > LENGTH_MAX:
        return "long"
    plain = password.casefold()
    letters, own = re.sub(r"[\W\d_]", "", plain), re.sub(r"[\W\d_]", "", name.casefold())
    if own and own in letters and len(letters.replace(own, "")) < _BESIDE_NAME_MIN:
        return "name"
    core = re.sub(r"^[\W\d_]+|[\W\d_]+$", "", plain)
    if len(set(plain)) < _VARIED_MIN or core in _COMMON or any(plain in run for run in _RUNS):
        return "common"
    return None


def make_hash(password: str) -> str:
    """Return the scrypt hash of a password. Takes 0.1 s."""
    return generate_password_hash(unicodedata.normalize("NFC", password), _METHOD)


class Passwords:
    """Checks passwords in one worker process: a few at a time, each as long for a name that does not exist."""

    def __init__(self, engine: store.Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._checks = threading.BoundedSemaphore(_CHECKS_MAX)
        self._failed: dict[str, list[float]] = {}  # by address

    def check(self, name: str, password: str, address: str | None) -> Any | None:
        """Return the user's row, with `display_name` and `password_hash`, `None` where name or password are wrong.

        A locked user is told nothing else, whatever the password: the answer would tell the right one to whom guesses
        it. Raises `TooManyRequests` for an address with too many wrong ones, and `ServiceUnavailable`.
        """
        source = _source(address)
        with self._checking():
            if len(self._recent(source)) >= _ADDRESS_MAX:
                _log.warning("console_sign_ins_stopped", address=address)
                raise TooManyRequests(retry_after=int(LOCK.total_seconds()))
            row = self._begin(name) if NAME.fullmatch(name) else None
            if self._is(row.password_hash if row is not None else _OF_NONE, password) and row is not None:
                return row
            failed = [*self._recent(source), self._clock()]
            self._failed.pop(source, None)  # the oldest stand first
            self._failed[source] = failed
            if len(self._failed) > _ADDRESSES_MAX:
                del self._failed[next(iter(self._failed))]
        _log.warning("console_sign_in_refused", user=None if row is None else name, address=address)
        return None

    def make(self, password: str) -> str:
        """Return the hash of a new password."""
        with self._checking():
            return run_in_thread(lambda: make_hash(password), _CHECK_TIMEOUT_S)

    def _begin(self, name: str) -> Any | None:
        with store.transaction(self._engine) as connection:
            now = datetime.now(UTC)
            return users.begin_sign_in(connection, name, now=now, failures=FAILURES_MAX, lock=LOCK)

    def _is(self, hashed: str, password: str) -> bool:
        """Check in a thread, since it takes a core for long: the event loop goes on."""
        plain = unicodedata.normalize("NFC", password)
        return run_in_thread(lambda: check_password_hash(hashed, plain), _CHECK_TIMEOUT_S)

    @contextmanager
    def _checking(self) -> Iterator[None]:
        if not self._checks.acquire(timeout=_WAIT_S):
            raise ServiceUnavailable
        try:
            yield
        finally:
            self._checks.release()

    def _recent(self, source: str) -> list[float]:
        since = self._clock() - LOCK.total_seconds()
        return [at for at in self._failed.get(source, ()) if at > since]


def _source(address: str | None) -> str:
    """Return what a bound is for: an IPv4 address, or the network of an IPv6 address, of which a client has many."""
    return str(ip_network(f"{address}/64", strict=False)) if address and ":" in address else address or ""
