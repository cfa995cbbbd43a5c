"""The folders shipped with the code: inside the installed package, or beside it in a checkout."""

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `name`."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parent.parent / name
