"""Health and metrics, on a listener of their own and never on the public one."""

import time
from ipaddress import ip_address
from typing import Any

from station import store
from station.config import Settings
from station.errors import SchemaBehindError, StoreError
from station.http.answer import Answer
from station.http.metrics import CONTENT_TYPE, Metrics
from station.http.trust import host_and_port, read_address

_READY_FOR_S = 1.0  # how long an answer of the database to /ready is used again


def is_health_listener(settings: Settings, local: Any) -> bool:
    """Return whether a connection to the `local` address, as its socket has it, came by this listener."""
    if not settings.server.health_listen or not isinstance(local, tuple):
        return False
    host, port = host_and_port(settings.server.health_listen)
    return port == local[1] and (ip_address(host).is_unspecified or read_address(local[0]) == ip_address(host))


class Health:
    """Answers on the health listener."""

    def __init__(self, engine: store.Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._asked = -_READY_FOR_S
        self._ready = Answer("503 Service Unavailable", "not checked yet")
        self.draining = False  # told to stop: requests that have begun are answered, and no new ones should be sent

    def answer(self, path: str) -> Answer:
        """Return the answer for a path.

        - `/live`: the process serves.
        - `/ready`: it is not stopping, and the database answers with a schema that fits.
        - `/metrics`: the metrics of all workers.
        """
        match path:
            case "/live":
                return Answer("200 OK", "alive")
            case "/ready":
                return self._readiness()
            case "/metrics":
                return Answer("200 OK", self._metrics.text(), CONTENT_TYPE)
        return Answer("404 Not Found", "ask for /live, /ready or /metrics")

    def _readiness(self) -> Answer:
        if self.draining:
            return Answer("503 Service Unavailable", "stopping")
        if time.monotonic() - self._asked >= _READY_FOR_S:
            try:
                store.check_schema(self._engine)
                self._ready = Answer("200 OK", "ready")
            except SchemaBehindError as error:
                self._ready = Answer("503 Service Unavailable", str(error))
            except StoreError as error:
                self._ready = Answer("503 Service Unavailable", f"the database does not respond ({error.reason})")
            self._asked = time.monotonic()
        return self._ready
