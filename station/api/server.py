"""gunicorn as `station api` runs it."""

from collections.abc import Callable
from typing import Any

from station import config
from station.api.app import create_app
from station.errors import ConfigError
from station.http.service import ServiceServer


class FeedServer(ServiceServer):
    """gunicorn with the settings of [api]."""

    name = "api"
    create = staticmethod(create_app)

    def options(self) -> dict[str, Any]:
        """Return gunicorn's settings. Readers that wait are connections, too."""
        options = super().options()
        options["worker_connections"] += self._load().api.max_waiting
        return options

    def examine(self) -> None:
        """Check the configuration, which has to name a reader. Raise the `StationError` that is wrong with it."""
        if not self._load().readers:
            raise ConfigError('station api: no [[destination]] has kind = "feed", so it has no reader to serve')
        super().examine()


def run(load: Callable[[], config.Settings]) -> None:
    """Serve until stopped. `load` reads the configuration, again at each reload.

    Raise the `StationError` that keeps it from starting.
    """
    load()  # gunicorn would end with a status of its own where this fails
    FeedServer(load).serve()
