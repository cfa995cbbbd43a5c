"""The house's rules: each library has one user, imports point one way, a name stands for one thing."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

STATION = Path(__file__).parent.parent / "station"

# Who may import what is not the standard library's: the module, or the folder with the module's name.
ONLY_USER = {
    "sqlalchemy": ["station.store"],
    "alembic": ["station.store"],
    "httpx": ["station.pagopa"],
    "httpcore": ["station.deliver"],
    "spyne": ["station.soap"],
    "gevent": ["station.http.worker", "station.http.tls", "station.store.waiting", "station.http.service_worker"],
    "gunicorn": ["station.http.server", "station.http.worker", "station.http.service_worker"],
    "click": ["station.cli"],
    "rich": ["station.cli"],
    "pyarrow": ["station.export"],
    "xlsxwriter": ["station.export"],
    "typst": ["station.pdf"],
    "pydantic": ["station.config"],
    "structlog": ["station.log"],
    "prometheus_client": ["station.http.metrics"],
    "httptools": ["station.http.request"],
    "flask": ["station.console"],
    "werkzeug": ["station.console"],
    "authlib": ["station.console"],
}

# A module may import only what stands before it.
ORDER = [
    "station.errors", "station.token_bucket", "station.text", "station.clock", "station.folder", "station.media_type",
    "station.retry_after", "station.receipt", "station.columns", "station.flow_columns", "station.config",
    "station.log",
    "station.contract", "station.masking",
    "station.journal", "station.store", "station.retry", "station.export", "station.stamps", "station.statistics",
    "station.pdf",
    "station.deliver", "station.pagopa", "station.intake", "station.soap", "station.reconcile",
    "station.replay", "station.purge", "station.http", "station.app", "station.wsgi",
    "station.http.worker", "station.http.server", "station.http.service_worker", "station.http.service", "station.api",
    "station.production", "station.console", "station.demo", "station.cli",
]  # fmt: skip

# Only the configuration reads the environment; `serve` hands the configuration's place to its workers, and libpq takes
# two settings of a session from nowhere else.
READS_ENVIRONMENT = {"station.config", "station.cli.server", "station.http.server", "station.store.postgres"}


def inside(name: str, of: str) -> bool:
    """Return whether a dotted name is that module or in it."""
    return name == of or name.startswith(f"{of}.")


def imported(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Each module by its dotted name."""
    return {
        ".".join(["station", *file.relative_to(STATION).with_suffix("").parts]).removesuffix(".__init__"): ast.parse(
            file.read_text()
        )
        for file in STATION.rglob("*.py")
    }


@pytest.fixture(scope="module")
def imports(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """What each module imports."""
    return {module: imported(tree) for module, tree in modules.items()}


def room(name: str) -> str:
    """Return the longest entry of ORDER that the module is in."""
    return max((one for one in ORDER if inside(name, one)), key=len)


@pytest.mark.parametrize("library", ONLY_USER)
def test_only_user(imports, library):
    """Each library has one room that uses it."""
    users = {module for module, names in imports.items() if any(inside(name, library) for name in names)}
    assert users
    assert {user for user in users if not any(inside(user, one) for one in ONLY_USER[library])} == set()


def test_one_way(modules, imports):
    """Imports point one way, and every module has its place."""
    place = {one: number for number, one in enumerate(ORDER)}
    wrong = [
        (module, name)
        for module, names in imports.items()
        for name in names
        if module != "station" and name.startswith("station.") and any(inside(name, one) for one in ORDER)
        if room(module) != room(name) and place[room(name)] > place[room(module)]
    ]
    assert wrong == []
    assert {room(module) for module in modules if module != "station"} == set(ORDER)


def test_environment(modules):
    """The environment is read in few places."""
    readers = {
        module
        for module, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ"
    }
    assert any(inside(reader, "station.config") for reader in readers)
    assert {one for one in readers if not any(inside(one, allowed) for allowed in READS_ENVIRONMENT)} == set()


def test_class_names(modules):
    """A class name stands for one thing in the whole project."""
    names = Counter(node.name for tree in modules.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert len(names) > 50
    assert {name for name, times in names.items() if times > 1} == set()


def test_subjects():
    """A sentence names its subject."""
    pronouns = re.compile("whoever|nobody|somebody|anybody|everybody", re.IGNORECASE)
    found = [
        f"{file.relative_to(STATION)}:{number}: {line.strip()}"
        for file in sorted(STATION.rglob("*.py"))
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pronouns.search(line)
    ]
    assert found == []


def test_benchmarks_load():
    """What the benchmarks take from the tests and the station is there."""
    names = [file.stem for file in sorted((STATION.parent / "bench").glob("*.py")) if file.stem != "stock"]
    code = f"import importlib\nfor name in {names}: importlib.import_module(f'bench.{{name}}')"
    subprocess.run([sys.executable, "-c", code], cwd=STATION.parent, check=True)
