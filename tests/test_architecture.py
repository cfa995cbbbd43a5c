"""The house's rules that an import can break."""

import ast
from functools import cache
from pathlib import Path

import pytest

STATION = Path(__file__).parent.parent / "station"
MODULES = {
    ".".join(["station", *file.relative_to(STATION).with_suffix("").parts]).removesuffix(".__init__"): file
    for file in STATION.rglob("*.py")
}

# Who may import what is not the standard library's: the module, or the folder with the module's name.
ONLY_USER = {
    "sqlalchemy": ["station.store"],
    "alembic": ["station.store"],
    "httpx": ["station.pagopa"],
    "spyne": ["station.soap"],
    "six": ["station.soap"],
    "greenlet": ["station.loop"],
    "gunicorn": ["station.http.server", "station.http.worker"],
    "click": ["station.cli"],
    "rich": ["station.cli"],
    "pyarrow": ["station.export"],
    "xlsxwriter": ["station.export"],
    "pydantic": ["station.config"],
    "structlog": ["station.log"],
    "prometheus_client": ["station.http.metrics"],
    "httptools": ["station.http.request"],
}

# A module may import only what stands before it.
ORDER = [
    "station.errors", "station.token_bucket", "station.text", "station.clock", "station.folder", "station.media_type",
    "station.receipt", "station.config",
    "station.log", "station.threads", "station.loop",
    "station.contract", "station.masking",
    "station.journal", "station.store", "station.retry", "station.export", "station.stamps", "station.statistics",
    "station.pagopa", "station.intake", "station.soap", "station.reconcile",
    "station.replay", "station.purge", "station.http", "station.app", "station.wsgi",
    "station.http.worker", "station.http.server", "station.production", "station.demo", "station.cli",
]  # fmt: skip


@cache
def imports(module: str) -> set[str]:
    tree = ast.parse(MODULES[module].read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(module: str) -> str:
    """The longest entry of ORDER that the module is in."""
    return max((one for one in ORDER if module == one or module.startswith(f"{one}.")), key=len, default=module)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_user(module):
    """Each library has one room that uses it."""
    for library, rooms in ONLY_USER.items():
        uses = any(name == library or name.startswith(f"{library}.") for name in imports(module))
        assert not uses or any(module == one or module.startswith(f"{one}.") for one in rooms), library


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"station"}))
def test_one_way(module):
    """Imports point one way."""
    place = ORDER.index(room(module))
    for name in imports(module):
        if name.startswith("station.") and room(name) in ORDER and room(name) != room(module):
            assert ORDER.index(room(name)) < place, name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_environment(module):
    """Only the configuration reads the environment; `serve` hands the configuration's place to its workers, and libpq
    takes two settings of a session from nowhere else."""
    reads = "environ" in {
        node.attr
        for node in ast.walk(ast.parse(MODULES[module].read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
    }
    assert not reads or module in (
        "station.config",
        "station.cli.server",
        "station.http.server",
        "station.store.postgres",
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_opens_with_what_lives_there(module):
    """Each module opens with what lives there."""
    assert MODULES[module].read_text().startswith('"""') or module == "station"
