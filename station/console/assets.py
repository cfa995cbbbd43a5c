"""Bootstrap-italia's CSS, fonts and icons: files of an installed package, which is never imported."""

from importlib.util import find_spec
from pathlib import Path

from station.errors import MissingExtraError

_PACKAGE = "bootstrap_italia_template"  # of design-django-theme; importing it would need Django
# What the pages use: nothing else of the package is served.
ALLOWED = ("css/", "fonts/", "svg/")


def folder() -> Path:
    """Return the folder with the files. Raises `MissingExtraError` where the package is not installed."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("The console", "console")
    return Path(spec.origin).parent / "static"
