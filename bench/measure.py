"""The figures of docs/performance.md: the station and the floors under it, in turns, five times, in one run.

Starts PostgreSQL and the station as an operator would, loads them, checks that every acknowledged receipt is stored
once, and writes table and chart into the documentation. Whatever else the machine does meets the floors as well as the
station, so the ratios hold where the rates do not.
"""

import argparse
import os
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import psycopg
from process import migrate

from bench import floors, load, report, service
from bench.documents import INVALID, STAMPS, TYPICAL, Kind


class Station:
    """One station on one database, and what it was measured at."""

    def __init__(self, stack: ExitStack, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.server = stack.enter_context(service.station(folder, url))
        self.acknowledged: list[str] = []
        self.seeds = 0
        self.memory = self.memory_mib()

    def memory_mib(self) -> float:
        """The resident memory of the largest worker."""
        return max(service.resident_mib(pid) for pid in service.workers(self.server))

    def push(self, kind: Kind, seconds: float, *, rate: float = 0) -> load.Load:
        """New receipts of a kind."""
        os.sync()
        self.seeds += 1
        seed = service.seed(self.seeds)
        if rate:
            gave = load.open_loop(self.folder, self.server.port, kind, seconds, seed=seed, rate=rate)
        else:
            gave = load.closed(self.folder, self.server.port, kind, seconds, seed=seed)
        self._account(gave, kind)
        return gave

    def again(self, of: load.Load, seconds: float) -> load.Load:
        """The receipts of the last push of typical ones once more; all of them were acknowledged."""
        os.sync()
        gave = load.closed(
            self.folder, self.server.port, TYPICAL, seconds, seed=service.seed(self.seeds),
            repeat=max(1, len(of.acknowledged) - 100),
        )  # fmt: skip
        self._account(gave, TYPICAL)
        return gave

    def _account(self, gave: load.Load, kind: Kind) -> None:
        if gave.errors:
            raise SystemExit(f"WRONG: {gave.errors} answers to {kind.name} requests were not what they should be")
        if kind is not INVALID:
            self.acknowledged += gave.acknowledged

    def check(self) -> None:
        """Every receipt that was ever acknowledged is stored once."""
        load.check_stored(self.url, self.acknowledged)


def measure(folder: Path, seconds: float, times: int) -> dict[str, list[float]]:
    """All figures, by name, one of each turn."""
    figures: dict[str, list[float]] = defaultdict(list)

    def note(name: str, value: float) -> None:
        figures[name].append(value)

    with ExitStack() as stack:
        url = stack.enter_context(service.postgres(folder / "postgres"))
        floor_url = _floor_database(url)
        sqlite_file = folder / "floor.sqlite3"
        migrate(f"sqlite:///{sqlite_file}")
        postgres = Station(stack, service.subfolder(folder, "on-postgres"), url)
        sqlite = Station(
            stack, service.subfolder(folder, "on-sqlite"), f"sqlite:///{folder / 'on-sqlite' / 'station.sqlite3'}"
        )
        for station in (postgres, sqlite):
            station.push(TYPICAL, seconds)  # caches and statements are warm after it
            load.analyze(station.url)
        for turn in range(times):
            print(f"turn {turn + 1} of {times}, {service.calm():.1f} cores busy with other things", flush=True)
            os.sync()  # what was written before does not slow down what is measured, here and below
            note("reading", floors.reading(1))
            note("pgbench bare", floors.pgbench(folder, floor_url, seconds, bare=True))
            os.sync()
            note("sqlite floor", floors.sqlite(sqlite_file, seconds))
            os.sync()
            before = floors.pgbench(folder, floor_url, seconds)
            for name, station in (("postgres", postgres), ("sqlite", sqlite)):
                new = station.push(TYPICAL, seconds)
                note(f"{name} new", new.rate)
                if station is postgres:
                    # On both sides of what is compared with it: the machine's own speed wanders within half a minute.
                    os.sync()
                    note("pgbench", (before + floors.pgbench(folder, floor_url, seconds)) / 2)
                    print(f"  pgbench {figures['pgbench'][-1]:.0f}", flush=True)
                note(f"{name} resends", station.again(new, seconds).rate)
                half = station.push(TYPICAL, seconds, rate=new.rate / 2)
                note(f"{name} half rate", half.rate)
                note(f"{name} p50", half.p50_ms)
                note(f"{name} p99", half.p99_ms)
                note(f"{name} refusals", station.push(INVALID, seconds).rate)
                note(f"{name} stamps", station.push(STAMPS, seconds).rate)
                station.check()
                print(f"  {name}: " + ", ".join(
                    f"{key.removeprefix(name).strip()} {values[-1]:.0f}"
                    for key, values in figures.items() if key.startswith(name)
                ), flush=True)  # fmt: skip
        for name, station in (("postgres", postgres), ("sqlite", sqlite)):
            note(f"{name} memory before", station.memory)
            note(f"{name} memory after", station.memory_mib())
            note(f"{name} acknowledged", len(station.acknowledged))
    return dict(figures)


def _floor_database(url: str) -> str:
    """A database of its own beside the station's, migrated."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE floor")
    floor_url = url.replace("/postgres?", "/floor?")
    migrate(floor_url)
    return floor_url


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=6, help="length of each measurement")
    parser.add_argument("--times", type=int, default=5, help="turns; the median of them counts")
    parser.add_argument("--folder", type=Path, help="where the databases are made (default: a temporary folder)")
    parser.add_argument("--wait", type=float, default=0, help="seconds to wait for the machine to be idle first")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the documentation alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-", dir=arguments.folder) as folder:
        Path(folder).chmod(0o755)  # PostgreSQL does not run as root
        service.calm(patience_s=arguments.wait)
        report.write(measure(Path(folder), arguments.seconds, arguments.times), dry_run=arguments.dry_run)


if __name__ == "__main__":
    main()
