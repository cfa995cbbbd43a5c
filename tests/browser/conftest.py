"""A real browser at a real console: one server, one Chromium, and a window for each user.

`make test-browser` runs these tests; `make test` does not. Chromium is Debian's, or what STATION_CHROMIUM names.
"""

import shutil
from collections.abc import Callable, Iterator

import pytest
from console import Site
from console_world import as_toml, ecs, fill, settings
from hostile import hostile_receipts
from playwright.sync_api import Browser, sync_playwright
from process import free_port
from windows import ARGUMENTS, Station, chromium_path, serving

_told: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show figures beside the results."""
    for line in _told:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tell() -> Callable[[str], None]:
    """Show a figure at the end of the run."""
    return _told.append


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    program = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*ARGUMENTS])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def station(chromium, sqlite_migrated, tmp_path_factory) -> Iterator[Station]:
    """A console with rows of every kind, 30 ordinary receipts and hostile ones for each EC."""
    folder = tmp_path_factory.mktemp("station")
    file = folder / "station.sqlite3"
    shutil.copy(sqlite_migrated, file)
    url, world = f"sqlite:///{file}", ecs()
    fill(url, world, receipts=30, more=hostile_receipts)
    held = settings(folder, world)
    site = Site(url, **held)
    config = folder / "station.toml"
    config.write_text(as_toml(held))
    with serving(folder, url, as_toml(held)) as origin:
        yield Station(site, world, origin, chromium, url, config)
    site.close()


@pytest.fixture(scope="session")
def without_database(chromium, tmp_path_factory) -> Iterator[str]:
    """The origin of a console whose database is away."""
    folder = tmp_path_factory.mktemp("away")
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/none"
    with serving(folder, url, as_toml(settings(folder, ecs()))) as origin:
        yield origin
