"""The stage for the scenarios: a database, servers, the Nodo's load, and the comparison at the end.

CHAOS_SEED (default 1) chooses payments, moments and victims; CHAOS_REPORT names a file that gets a JSON line with the
figures of each scenario.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nodo_simulator import Ledger, NodoSimulator, Report, check
from nodo_simulator.payments import REGISTRY
from process import Server, migrate, running_server

sys.path.insert(0, str(Path(__file__).parent))

from postgres import Postgres, initialised

SEED = int(os.environ.get("CHAOS_SEED", "1"))
REPORT = os.environ.get("CHAOS_REPORT")


@dataclass
class Rig:
    """One scenario's stage."""

    name: str
    folder: Path
    url: str
    postgres: Postgres | None
    stack: ExitStack
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    config: str = REGISTRY
    troubles: list[float] = field(default_factory=list)  # when each of them was over
    begun: float = field(default_factory=time.monotonic)

    def serve(self, url: str | None = None, **over: Any) -> Server:
        """A server with the simulator's registry."""
        over.setdefault("config", self.config)
        return self.stack.enter_context(running_server(self.folder, url or self.url, **over))

    def nodo(self, *servers: Server | str, **settings: Any) -> NodoSimulator:
        """The Nodo's load, until `done`."""
        urls = [one if isinstance(one, str) else one.url for one in servers]
        settings = {"seed": SEED, "rate": 20} | settings
        return self.stack.enter_context(NodoSimulator.start(self.folder, urls, **settings))

    @contextmanager
    def trouble(self) -> Iterator[None]:
        """What goes on inside is trouble; from its end on the time to recovery is counted."""
        yield
        self.troubles.append(time.monotonic())

    def pause(self, least: float, most: float) -> None:
        """A moment at random."""
        time.sleep(self.chance.uniform(least, most))

    def done(
        self, nodo: NodoSimulator, *, timeout: float = 120, url: str | None = None, within: float = 15.0, **how: Any
    ) -> tuple[Ledger, Report]:
        """Ends the load when all is delivered, and compares: every promise must have been kept.

        `within`: the seconds in which everything that was answered must have been.
        """
        ledger = nodo.finish(timeout)
        report = check(ledger, url or self.url, **how)
        self.record(ledger, report)
        assert report.problems == []
        assert ledger.results().get("OK", 0) > 0
        assert "invalid" not in ledger.results()
        assert ledger.slowest_ms() < within * 1000
        return ledger, report

    def record(self, ledger: Ledger, report: Report, **more: Any) -> None:
        recoveries = [one for one in map(ledger.first_outcome_after, self.troubles) if one is not None]
        figures = {
            "scenario": self.name,
            "seed": SEED,
            "database": "postgresql" if self.postgres else "sqlite",
            "troubles": len(self.troubles),
            "copies": len(ledger.copies),
            "sends": sum(len(copy.sent) for copy in ledger.copies.values()),
            "receipts": report.receipts,
            "refused": report.refused,
            "lost": report.lost,
            "doubled": report.doubled,
            "recovery_median_s": sorted(recoveries)[len(recoveries) // 2] if recoveries else None,
            "recovery_worst_s": max(recoveries, default=None),
            "slowest_answer_ms": ledger.slowest_ms(),
            "results": ledger.results(),
            "seconds": round(time.monotonic() - self.begun, 1),
            **more,
        }
        sys.stdout.write(json.dumps(figures) + "\n")
        if REPORT:
            with Path(REPORT).open("a") as file:
                file.write(json.dumps(figures) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A scenario that failed shows the ends of the logs."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call" and report.failed and folder is not None:
        for log in sorted(folder.glob("*.log")):
            report.sections.append((log.name, "\n".join(log.read_text(errors="replace").splitlines()[-20:])))
    return report


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return initialised(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "station.sqlite3"
    migrate(f"sqlite:///{file}")
    return file


@pytest.fixture
def on_sqlite(sqlite_template: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    shutil.copy(sqlite_template, tmp_path / "station.sqlite3")
    with ExitStack() as stack:
        yield Rig(request.node.name, tmp_path, f"sqlite:///{tmp_path / 'station.sqlite3'}", None, stack)


@pytest.fixture
def new_postgres(postgres_template: Path, tmp_path: Path) -> Iterator[Callable[..., Postgres]]:
    """Makes PostgreSQL servers with an empty, migrated database `station`."""
    made: list[Postgres] = []

    def make(folder: Path = tmp_path, **settings: object) -> Postgres:
        made.append(Postgres.copy_of(postgres_template, folder, **settings))
        return made[-1].start()

    yield make
    for one in made:
        one.remove()


@pytest.fixture
def on_postgres(new_postgres: Callable[..., Postgres], tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    postgres = new_postgres()
    with ExitStack() as stack:
        yield Rig(request.node.name, tmp_path, postgres.url(), postgres, stack)


@pytest.fixture(params=["sqlite", "postgresql"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A stage on each kind of database."""
    return request.getfixturevalue("on_sqlite" if request.param == "sqlite" else "on_postgres")
