"""gunicorn for what is served beside the push server, each in a process of its own: the feed and the console.

With the push server's reload, log and TLS, and other workers.
"""

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from station import config, log, store
from station.errors import ConfigError, DatabaseUnfitError, MissingDatabaseError, MissingRightsError, StoreError
from station.http import tls
from station.http.server import LOGGER, StationServer, end_at_a_signal

_log = log.get(__name__)

_GRACE_S = 10  # for answers that are being made or sent; readers that wait are answered at once


class ServiceServer(StationServer):
    """gunicorn with the settings of the section `name`, such as [api]. `load` reads them, again at each reload.

    `create` makes the application of a worker process.
    """

    name: Literal["api", "console"]
    create: Callable[[config.Settings], Any]

    def __init__(self, load: Callable[[], config.Settings]) -> None:
        self._load = load
        super().__init__()

    def database(self, settings: config.Settings) -> str:
        """Return the URL of its database."""
        return settings.database.url.get_secret_value()

    def check_database(self, settings: config.Settings, engine: store.Engine) -> None:
        """Raise the `StationError` of a database that the workers could not use."""
        store.check_schema(engine)

    def load_config(self) -> None:
        """Read the configuration, again at each reload."""
        for name, value in self.options().items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Return the application, in a worker."""
        settings = self._load()
        log.configure(settings.log.format, settings.log.level)
        return self.create(settings)

    def examine(self) -> None:
        """Check the configuration. Raise the `StationError` that would keep a worker from starting."""
        settings = self._load()
        section: config.Api | config.Console = getattr(settings, self.name)
        if section.certificate:
            try:
                tls.create_context(section.certificate, section.key, None)
            except ConfigError as error:
                raise ConfigError(f"[{self.name}] {error}") from None
        engine = store.connect(self.database(settings))
        try:
            self.check_database(settings, engine)
        except (DatabaseUnfitError, MissingDatabaseError, MissingRightsError):
            raise
        except StoreError as error:
            _log.warning("database_unreachable", reason=str(error))  # the workers answer 503 until it is there
        finally:
            engine.dispose()

    def options(self) -> dict[str, Any]:
        """Return gunicorn's settings."""
        section: config.Api | config.Console = getattr(self._load(), self.name)
        certificate, key = (None if one is None else str(one) for one in (section.certificate, section.key))
        return {
            "bind": section.listen,
            "workers": section.workers,
            "worker_class": "station.http.service_worker.ServiceWorker",
            "worker_connections": 500,
            "keepalive": 75,
            "timeout": 60,
            "graceful_timeout": _GRACE_S,
            "umask": 0o007,
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "certfile": certificate,
            "keyfile": key,
            "ssl_context": lambda _cfg, _default: _Wrapping(section),
            "logger_class": LOGGER,
            "control_socket_disable": True,
            "proc_name": f"station {self.name}",
        }

    def serve(self) -> None:
        """Serve until stopped. Raise the `StationError` that keeps it from starting."""
        log.load()
        os.register_at_fork(after_in_child=end_at_a_signal)
        self.examine()
        self.run()


class _Wrapping:
    """In the place of a context: wraps each new connection with the certificate as its file is now.

    The worker does the handshakes: where gevent does them, it prints a trace for each that fails.
    """

    def __init__(self, section: config.Api | config.Console) -> None:
        self._renewing = tls.Renewing(Path(str(section.certificate)), section.key, None)

    def wrap_socket(self, connection: socket.socket, **options: Any) -> ssl.SSLSocket:
        return self._renewing.context.wrap_socket(connection, do_handshake_on_connect=False, **options)
