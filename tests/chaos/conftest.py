"""The stage for the scenarios: a database, servers, the Nodo's load, and the comparison at the end.

CHAOS_SEED (default 1) chooses payments, moments and victims; CHAOS_REPORT names a file that gets a JSON line with the
figures of each scenario.
"""

import json
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from nodo_simulator import Ledger, NodoSimulator, Report, check
from nodo_simulator.payments import REGISTRY
from process import Server, free_port, running_server

sys.path.insert(0, str(Path(__file__).parent))

from postgres import Postgres
from victims import workers

SEED = int(os.environ.get("CHAOS_SEED", "1"))
REPORT = os.environ.get("CHAOS_REPORT")

# Worker processes of a server, on both databases: as many as it has by default on two cores.
WORKERS = 2

# Far more than it should take, far less than somebody who helps: the times themselves are in the report.
_RECOVERED_S = 30.0
# The Nodo waits for 15 s. `make chaos` has the machine to itself; `make test` may share it with anything.
_ANSWERED_S = 15.0 if REPORT else 90.0
_HEALTHY_S = 180.0
_HELD = re.compile(r"^station_(requests_pending|database_connections_in_use) (\S+)$", re.MULTILINE)


@dataclass
class Rig:
    """One scenario's stage. `what`: what its test says of itself."""

    name: str
    what: str
    folder: Path
    url: str
    postgres: Postgres | None
    stack: ExitStack
    seed: int = SEED
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    config: str = REGISTRY
    troubles: list[float] = field(default_factory=list)  # when each of them was over
    begun: float = field(default_factory=time.monotonic)
    servers: list[tuple[Server, int]] = field(default_factory=list)  # and the port of its health door
    figures: dict[str, Any] = field(default_factory=dict)

    def serve(self, url: str | None = None, **over: Any) -> Server:
        """A server with the simulator's registry."""
        health = free_port()
        over = {
            "config": self.config,
            "fork": True,
            "STATION_SERVER_HEALTH_LISTEN": f"127.0.0.1:{health}",
            "STATION_SERVER_WORKERS": str(WORKERS),
        } | over
        server: Server = self.stack.enter_context(running_server(self.folder, url or self.url, **over))
        self.servers.append((server, health))
        return server

    def nodo(self, *servers: Server | str, **settings: Any) -> NodoSimulator:
        """The Nodo's load, until `done`."""
        urls = [one if isinstance(one, str) else one.url for one in servers]
        settings = {"seed": self.seed, "rate": 20, "timeout": _ANSWERED_S} | settings
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
        self, nodo: NodoSimulator, *, timeout: float = 300, url: str | None = None, within: float = 15.0, **how: Any
    ) -> tuple[Ledger, Report]:
        """Ends the load when all is delivered, and compares: every promise must have been kept.

        `within`: the seconds in which everything that was answered must have been.
        """
        ledger = nodo.finish(timeout)
        self.healthy()
        report = check(ledger, url or self.url, **how)
        recoveries = self.record(ledger, report)
        assert report.problems == []
        assert ledger.results().get("OK", 0) > 0
        assert "invalid" not in ledger.results()
        assert len(recoveries) == len(self.troubles)
        if REPORT:
            assert ledger.slowest_ms() < within * 1000
            assert max(recoveries, default=0.0) < _RECOVERED_S
        if not how.get("defects_ok"):
            assert not [server for server, _ in self.servers if "unexpected_error" in server.log]
        return ledger, report

    def healthy(self) -> None:
        """Every server that runs says so by itself: ready, all its workers there, no request and no connection held."""
        for server, port in self.servers:
            if server.process.poll() is None:
                deadline = time.monotonic() + _HEALTHY_S
                while trouble := _unhealthy(server, port):
                    assert time.monotonic() < deadline, trouble
                    time.sleep(0.3)

    def record(self, ledger: Ledger, report: Report, *, store_lost: bool = False, **more: Any) -> list[float]:
        """Writes the figures down; `store_lost`: the database itself was lost, with what no copy of it had yet.

        Returns the seconds from the end of each trouble to the next receipt taken in.
        """
        recoveries = [one for one in map(ledger.first_outcome_after, self.troubles) if one is not None]
        self.figures = {
            "store_lost": store_lost,
            "database": "postgresql" if self.postgres else "sqlite",
            "workers": WORKERS,
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
        return recoveries

    def report(self, *, passed: bool) -> None:
        """Appends the figures to the file that CHAOS_REPORT names."""
        if REPORT:
            told = {"scenario": self.name, "what": self.what, "seed": self.seed, "passed": passed} | self.figures
            with Path(REPORT).open("a") as file:
                file.write(json.dumps(told) + "\n")


def _unhealthy(server: Server, port: int) -> str | None:
    """What is wrong with a server after the load, as its health door tells it."""

    def ask(path: str) -> str:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:  # an answer 503 raises
            return str(answer.read().decode())

    try:
        ask("/ready")
        told = dict(_HELD.findall(ask("/metrics")))
    except (OSError, HTTPException) as error:
        return f"not ready: {error!r}"
    if any(float(value) for value in told.values()) or len(told) != 2:
        return f"still held: {told}"
    if len(workers(server)) != WORKERS:
        return f"{len(workers(server))} workers"
    return None


_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A scenario that failed shows the ends of the logs."""
    report = yield
    folder = getattr(item, "funcargs", {}).get("tmp_path")
    if report.when == "call":
        item.stash[_PASSED] = not report.failed
    if report.when == "call" and report.failed and folder is not None:
        for log in sorted(folder.glob("*.log")):
            report.sections.append((log.name, "\n".join(log.read_text(errors="replace").splitlines()[-20:])))
    return report


@contextmanager
def _stage(request: pytest.FixtureRequest, folder: Path, url: str, postgres: Postgres | None) -> Iterator[Rig]:
    with ExitStack() as stack:
        rig = Rig(request.node.name, request.node.function.__doc__, folder, url, postgres, stack)
        yield rig
    passed = request.node.stash.get(_PASSED, False)
    if rig.figures or not passed:  # a scenario that was skipped has none
        rig.report(passed=passed)


@pytest.fixture
def on_sqlite(sqlite_migrated: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Rig]:
    shutil.copy(sqlite_migrated, tmp_path / "station.sqlite3")
    with _stage(request, tmp_path, f"sqlite:///{tmp_path / 'station.sqlite3'}", None) as rig:
        yield rig


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
    with _stage(request, tmp_path, postgres.url(), postgres) as rig:
        yield rig


@pytest.fixture(params=["sqlite", "postgresql"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """A stage on each kind of database."""
    return request.getfixturevalue("on_sqlite" if request.param == "sqlite" else "on_postgres")
