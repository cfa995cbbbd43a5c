"""The door for those who run the station: is it alive, can it store, what did it do.

Its own listener, never the public one.
"""

import time
from ipaddress import ip_address
from typing import Any, NamedTuple

from station import store
from station.config import Settings
from station.errors import SchemaBehindError, StoreError
from station.http.metrics import CONTENT_TYPE, Metrics
from station.http.trust import host_and_port, read_address

_READY_FOR_S = 1.0  # one question to the database answers everybody who asks within this time


class Report(NamedTuple):
    """An answer: status line, text, and what kind of text."""

    status: str
    text: str
    content_type: str = "text/plain; charset=utf-8"


def is_health_door(settings: Settings, local: Any) -> bool:
    """Whether a connection to the `local` address, as its socket has it, came in by this door."""
    if not settings.server.health_listen or not isinstance(local, tuple):
        return False
    host, port = host_and_port(settings.server.health_listen)
    return port == local[1] and (ip_address(host).is_unspecified or read_address(local[0]) == ip_address(host))


class Health:
    """Answers on the health door."""

    def __init__(self, engine: store.Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._asked = -_READY_FOR_S
        self._ready = Report("503 Service Unavailable", "not checked yet")
        self.draining = False  # told to stop: what has begun is answered, and nothing new should be sent here

    def answer(self, path: str) -> Report:
        """`/live`: the process serves. `/ready`: it is not stopping, and the database answers with a schema that fits.

        `/metrics`: what it did.
        """
        match path:
            case "/live":
                return Report("200 OK", "alive")
            case "/ready":
                return self._readiness()
            case "/metrics":
                return Report("200 OK", self._metrics.text(), CONTENT_TYPE)
        return Report("404 Not Found", "ask for /live, /ready or /metrics")

    def _readiness(self) -> Report:
        if self.draining:
            return Report("503 Service Unavailable", "stopping")
        if time.monotonic() - self._asked >= _READY_FOR_S:
            try:
                store.check_schema(self._engine)
                self._ready = Report("200 OK", "ready")
            except SchemaBehindError as error:
                self._ready = Report("503 Service Unavailable", str(error))
            except StoreError as error:
                self._ready = Report("503 Service Unavailable", f"the database does not respond ({error.reason})")
            self._asked = time.monotonic()
        return self._ready
