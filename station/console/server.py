"""gunicorn as `station console` runs it."""

import os
from collections.abc import Callable
from contextlib import suppress

from station import config, log, store
from station.console import assets
from station.console.app import ConsoleApp, create_app
from station.errors import ConfigError, MissingRightsError
from station.http.service import ServiceServer
from station.production.console import problem
from station.store import rights

_log = log.get(__name__)

_NICE = 5  # pushes go first


def create_behind_pushes(settings: config.Settings) -> ConsoleApp:
    """Make the application of a worker process, which lets pushes go first."""
    with suppress(OSError):  # a unit may forbid it, and has a Nice= of its own
        os.nice(_NICE)
    return create_app(settings)


class ConsoleServer(ServiceServer):
    """gunicorn with the settings of [console]."""

    name = "console"
    create = staticmethod(create_behind_pushes)

    def database(self, settings: config.Settings) -> str:
        """Return the URL of its database, with its own role where there is one."""
        return (settings.console.database_url or settings.database.url).get_secret_value()

    def check_database(self, settings: config.Settings, engine: store.Engine) -> None:
        """Raise the `StationError` of a database that the workers could not use, also for want of rights."""
        own = settings.console.database_url is not None
        store.check_schema(engine, limited=own)
        with store.transaction(engine, readonly=True) as connection:
            missing = rights.missing_rights(connection, console=own)
        if missing:
            more = f" and {len(missing) - 3} other rights" if missing[3:] else ""
            denied = f"it has no {', '.join(missing[:3])}{more}"
            raise MissingRightsError(engine.url.username, denied, reason="rights missing")

    def examine(self) -> None:
        """Check the configuration. Raise the `StationError` that is wrong with it."""
        settings = self._load()
        assets.folder()
        if (wrong := problem(settings)) is not None:
            raise ConfigError(wrong)
        url = settings.console.url or ""
        if url.startswith("https:") and not settings.console.certificate and not settings.console.proxies:
            _log.warning(
                "console_proxies_missing",
                hint="a proxy ends TLS: name it in console.proxies, or all browsers seem to have the proxy's address",
            )
        if not settings.grant:
            raise ConfigError(
                "station console: there is no [[grant]], so it has no user to serve: add one, see docs/console.md"
            )
        super().examine()


def run(load: Callable[[], config.Settings]) -> None:
    """Serve until stopped. `load` reads the configuration, again at each reload.

    Raise the `StationError` that keeps it from starting.
    """
    load()  # gunicorn would end with a status of its own where this fails
    ConsoleServer(load).serve()
