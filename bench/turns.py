"""Two versions of the station in turns, on one PostgreSQL or on two SQLite files: `python -m bench.turns OLD NEW`.

OLD and NEW are `station` commands, each of a virtual environment of its own. Prints for each turn the rate, the
processor time of the workers for each receipt and the slowest answer but 1 %, and in the end the medians of the ratios
within a turn, new to old. Every receipt that was acknowledged must be stored.
"""

import argparse
import os
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import psycopg

from bench import load, service
from bench.documents import TYPICAL

_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")


class Turn(NamedTuple):
    """What one side gave in one turn."""

    rate: float
    processor_us: float
    p99_ms: float


class Side:
    """One version of the station, serving."""

    def __init__(self, name: str, command: str, url: str, folder: Path, stack: ExitStack) -> None:
        self.name, self.url, self.folder = name, url, folder
        self.server = stack.enter_context(service.station(folder, url, command=(command,), STATION_LOG_LEVEL="warning"))
        self.turns: list[Turn] = []
        self.acknowledged: list[str] = []

    def push(self, seconds: float, connections: int, seed: int, rate: float = 0) -> Turn:
        """Push receipts for a time: at a rate, or each as soon as one is answered."""
        before = self._processor_us()
        place = self.folder, self.server.port, TYPICAL, seconds
        if rate:
            gave = load.open_loop(*place, seed=seed, rate=rate)
        else:
            gave = load.closed(*place, seed=seed, connections=connections)
        if gave.errors:
            raise SystemExit(f"WRONG: {self.name} did not acknowledge {gave.errors} receipts")
        self.acknowledged += gave.acknowledged
        return Turn(gave.rate, (self._processor_us() - before) / gave.requests, gave.p99_ms)

    def _processor_us(self) -> float:
        ticks = 0
        for worker in service.workers(self.server):
            fields = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks * _TICK_US


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0, help="receipts a second, over 64 connections")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as name, ExitStack() as stack:
        root = Path(name)
        root.chmod(0o755)  # PostgreSQL does not run as root
        postgres = stack.enter_context(service.postgres(root / "pg")) if arguments.database == "postgresql" else None
        sides = []
        for side, command in (("old", arguments.old), ("new", arguments.new)):
            folder = root / side
            folder.mkdir()
            url = f"sqlite:///{folder / 'station.sqlite3'}"
            if postgres:
                with psycopg.connect(postgres, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {side}")
                url = urlsplit(postgres)._replace(path=f"/{side}").geturl()
            sides.append(Side(side, str(Path(command).absolute()), url, folder, stack))
        for side in sides:  # plans for empty tables are of no use
            side.push(2, arguments.connections, 1)
            load.analyze(side.url)
        for number in range(arguments.turns):
            for side in sides if number % 2 else reversed(sides):
                side.turns.append(side.push(arguments.seconds, arguments.connections, number + 2, arguments.rate))
            told = [f"{side.name} {turn.rate:.0f}/s {turn.processor_us:.0f} us p99 {turn.p99_ms:.0f} ms"
                    for side in sides for turn in side.turns[-1:]]  # fmt: skip
            print(" | ".join(told), flush=True)
        old, new = sides
        for index, what in enumerate(Turn._fields):
            ratio = statistics.median(b[index] / a[index] for a, b in zip(old.turns, new.turns, strict=True))
            print(f"{what}: {ratio:.2f}")
        for side in sides:
            load.check_stored(side.url, side.acknowledged)


if __name__ == "__main__":
    main()
