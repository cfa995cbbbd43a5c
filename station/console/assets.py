"""Bootstrap-italia's CSS, fonts and icons: files of an installed package, which is never imported."""

import gzip
from functools import cache
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path

from lxml import etree
from markupsafe import Markup, escape

from station import __version__
from station.console.styles import reduced
from station.errors import MissingExtraError

_DISTRIBUTION, _PACKAGE = "design-django-theme", "bootstrap_italia_template"  # importing it would need Django
CSS = "css/bootstrap-italia.min.css"
ALLOWED = (CSS, "fonts/Titillium_Web/", "fonts/Roboto_Mono/")  # what the pages use; nothing else is served
_SVG = "{http://www.w3.org/2000/svg}"


@cache
def folder() -> Path:
    """Return the folder with the files. Raises `MissingExtraError` where the package is not installed."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError("The console", "console")
    return Path(spec.origin).parent / "static"


@cache
def address(name: str) -> str:
    """Return the address of a file; with the versions of package and station, since browsers keep it."""
    return f"/bi/{name}?v={installed(_DISTRIBUTION)}-{__version__}"


def own_address(name: str) -> str:
    """Return the address of a file in `static`; with the station's version."""
    return f"/static/{name}?v={__version__}"


@cache
def style_sheet() -> bytes:
    """Return what the pages need of the style sheet."""
    return reduced((folder() / CSS).read_text()).encode()


@cache
def packed_style_sheet() -> bytes:
    """Return it compressed. The fonts are compressed already."""
    return gzip.compress(style_sheet(), mtime=0)


@cache
def _icons() -> dict[str, tuple[str, str]]:
    """Return each icon's view box and shapes: of 180 a page has ten, and the file with all is 94 KB."""
    root = etree.parse(folder() / "svg/sprites.svg").getroot()
    etree.cleanup_namespaces(root)
    found = {}
    for symbol in root.iterfind(f"{_SVG}symbol"):
        shapes = "".join(etree.tostring(shape, encoding="unicode") for shape in symbol)
        found[symbol.get("id", "")] = (
            symbol.get("viewBox", ""),
            shapes.replace(' xmlns="http://www.w3.org/2000/svg"', ""),
        )
    return found


def icon(name: str, classes: str = "icon-sm") -> Markup:
    """Return an icon as part of the page, such as `icon("it-search")`. It says nothing to a screen reader."""
    box, shapes = _icons()[name]
    fields = f'class="icon {escape(classes)}" viewBox="{escape(box)}" aria-hidden="true" focusable="false"'
    return Markup(f"<svg {fields}>{shapes}</svg>")  # noqa: S704  # the shapes are the package's


def prepare() -> None:
    """Read and compress what every page needs, before the first request."""
    packed_style_sheet()
    _icons()
