"""Placeholder."""

from datetime import datetime

from station import config, store


def serve(settings: config.Settings, engine: store.Engine, destination: config.Folder, *, now: datetime) -> bool:
    """Do what is due."""
    return True
