"""Placeholder until the folder is merged."""

from collections.abc import Callable
from datetime import datetime

from station import config, store


def serve(
    settings: config.Settings,
    engine: store.Engine,
    folder: config.Folder,
    *,
    now: datetime,
    stopping: Callable[[], bool],
) -> bool:
    """Do what is due."""
    return True
