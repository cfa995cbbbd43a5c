"""gunicorn as `station api` runs it, in a process of its own: the push server's reload, log and TLS, other workers."""

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from station import config, log, store
from station.api.app import FeedApp, create_app
from station.errors import ConfigError, DatabaseUnfitError, MissingDatabaseError, MissingRightsError, StoreError
from station.http import tls
from station.http.server import LOGGER, StationServer, end_at_a_signal

_log = log.get(__name__)

_GRACE_S = 10  # for answers that are being made or sent; readers that wait are answered at once


class FeedServer(StationServer):
    """gunicorn with the settings of [api]."""

    def __init__(self, load: Callable[[], config.Settings]) -> None:
        self._load = load
        super().__init__()

    def load_config(self) -> None:
        """Read the configuration, again at each reload."""
        for name, value in _options(self._load()).items():
            self.cfg.set(name, value)

    def load(self) -> FeedApp:
        """Return the application, in a worker."""
        settings = self._load()
        log.configure(settings.log.format, settings.log.level)
        return create_app(settings)

    def examine(self) -> None:
        """Check the configuration. Raise the `StationError` that would keep a worker from starting."""
        settings = self._load()
        if not settings.readers:
            raise ConfigError('station api: no [[destination]] has kind = "feed", so it has no reader to serve')
        if settings.api.certificate:
            tls.create_context(settings.api.certificate, settings.api.key, None)
        engine = store.connect(settings.database.url.get_secret_value())
        try:
            store.check_schema(engine)
        except (DatabaseUnfitError, MissingDatabaseError, MissingRightsError):
            raise
        except StoreError as error:
            _log.warning("database_unreachable", reason=str(error))  # the workers answer 503 until it is there
        finally:
            engine.dispose()


class _Wrapping:
    """In the place of a context: wraps each new connection with the certificate as its file is now.

    The worker does the handshakes: where gevent does them, it prints a trace for each that fails.
    """

    def __init__(self, api: config.Api) -> None:
        self._renewing = tls.Renewing(Path(str(api.certificate)), api.key, None)

    def wrap_socket(self, connection: socket.socket, **options: Any) -> ssl.SSLSocket:
        return self._renewing.context.wrap_socket(connection, do_handshake_on_connect=False, **options)


def run(load: Callable[[], config.Settings]) -> None:
    """Serve until stopped. `load` reads the configuration, again at each reload.

    Raise the `StationError` that keeps it from starting.
    """
    _options(load())  # gunicorn would end with a status of its own where this fails
    log.load()
    os.register_at_fork(after_in_child=end_at_a_signal)
    server = FeedServer(load)
    server.examine()
    server.run()


def _options(settings: config.Settings) -> dict[str, Any]:
    """Return gunicorn's settings."""
    api = settings.api
    certificate, key = (None if one is None else str(one) for one in (api.certificate, api.key))
    return {
        "bind": api.listen,
        "workers": api.workers,
        "worker_class": "station.api.worker.FeedWorker",
        "worker_connections": api.max_waiting + 500,
        "keepalive": 75,
        "timeout": 60,
        "graceful_timeout": _GRACE_S,
        "umask": 0o007,
        "forwarded_allow_ips": "",
        "forwarder_headers": "",
        "certfile": certificate,
        "keyfile": key,
        "ssl_context": lambda _cfg, _default: _Wrapping(api),
        "logger_class": LOGGER,
        "control_socket_disable": True,
        "proc_name": "station api",
    }
