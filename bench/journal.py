"""What the event journal costs: receipts a second with it and without it, as a ratio of the same run.

Two stations, one with the journal and one without, each with a database of its own, are loaded in turns; the order
within a turn alternates. On a machine that others use as well, `--at-once` loads both at the same time instead: they
share what is left evenly, and the ratio of what they do is the same. Beside the rates stands the processor time that
station and PostgreSQL spent on a receipt. `make bench-journal` runs it.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import text

from bench import load, service
from bench.documents import TYPICAL
from bench.service import Server

ALLOWED = 0.10


@dataclass(frozen=True)
class Side:
    """What one station did in one turn: receipts acknowledged a second, and processor time for each, in ms."""

    rate: float
    cpu_ms: float


@dataclass
class Under:
    """A station under test: its server, its database, the processes that work for it, and what it acknowledged."""

    server: Server
    url: str
    folder: Path
    roots: list[int]
    acknowledged: list[str] = field(default_factory=list)

    def load(self, seconds: float, seed: int) -> Side:
        before = cpu_seconds(self.roots)
        made = load.closed(self.folder, self.server.port, TYPICAL, seconds, seed=seed)
        if made.errors:
            raise SystemExit(f"WRONG: {made.errors} answers were not as expected")
        self.acknowledged += made.acknowledged
        return Side(made.rate, (cpu_seconds(self.roots) - before) / len(made.acknowledged) * 1000)


@contextmanager
def station(folder: Path, database: str, enabled: bool) -> Iterator[Under]:
    """A station with a database of its own."""
    folder.mkdir()
    with ExitStack() as stack:
        roots = []
        if database == "sqlite":
            url = f"sqlite:///{folder / 'station.sqlite3'}"
        else:
            url = stack.enter_context(service.postgres(folder / "postgres"))
            roots.append(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]))
        env = {"STATION_JOURNAL_ENABLED": str(enabled).lower(), "STATION_LOG_LEVEL": "warning"}
        server = stack.enter_context(service.station(folder, url, **env))
        yield Under(server, url, folder, [server.process.pid, *roots])


def measure(on: Under, off: Under, turns: int, seconds: float, at_once: bool) -> list[tuple[Side, Side]]:
    """(with, without) for each turn. Ends the run where a receipt or a row is missing."""
    sides = []
    with ThreadPoolExecutor(2 if at_once else 1) as pool:
        for turn in range(-1, turns):
            order = (on, off) if turn % 2 else (off, on)
            # The same receipts for both: one seed.
            loads = [pool.submit(one.load, seconds if turn >= 0 else 2, turn + 10) for one in order]
            made = dict(zip(map(id, order), [one.result() for one in loads], strict=True))
            if turn < 0:
                for one in order:
                    load.analyze(one.url)
            else:
                with_, without = made[id(on)], made[id(off)]
                sides.append((with_, without))
                print(f"  {with_.rate:6.0f}/s with, {without.rate:6.0f}/s without: {with_.rate / without.rate:.3f};"
                      f"  {with_.cpu_ms:.2f} ms with, {without.cpu_ms:.2f} ms without", flush=True)  # fmt: skip
    _check(on.url, set(on.acknowledged))
    _check(off.url, set())
    for one in (on, off):
        load.check_stored(one.url, one.acknowledged)
    return sides


def cpu_seconds(roots: list[int]) -> float:
    """Processor time that these processes and their children have spent."""
    parents, spent = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(file.parent.name)] = int(fields[1])
        spent[int(file.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return sum(time for pid, time in spent.items() if pid in roots or parents[pid] in roots)


def _check(database_url: str, journaled: set[str]) -> None:
    """Each receipt that was acknowledged has its row, and hardly any other has: the load generator goes away with
    answers under way."""
    with load._connect(database_url).connect() as connection:
        found = list(connection.execute(text("SELECT receipt_id FROM journal")).scalars())
    if len(found) != len(set(found)) or journaled - set(found):
        raise SystemExit(f"WRONG: {len(journaled - set(found))} receipts without a row, {len(found)} rows")
    if len(found) > len(journaled) * 1.05 + 100 or (found and not journaled):
        raise SystemExit(f"WRONG: {len(found)} rows for {len(journaled)} receipts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append", help="default: both")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=8, help="of load, for each of the two in each turn")
    parser.add_argument("--at-once", action="store_true", help="load both at the same time, on a busy machine")
    arguments = parser.parse_args()
    too_much = False
    for database in arguments.database or ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as name:
            on, off = (station(Path(name) / side, database, side == "on") for side in ("on", "off"))
            with on as with_, off as without:
                print(f"{database} ({service.calm():.1f} cores busy with something else)")
                sides = measure(with_, without, arguments.turns, arguments.seconds, arguments.at_once)
        ratio = statistics.median(on.rate / off.rate for on, off in sides)
        rates = [statistics.median(one.rate for one in side) for side in zip(*sides, strict=True)]
        spent = [statistics.median(one.cpu_ms for one in side) for side in zip(*sides, strict=True)]
        print(f"{database}: {rates[0]:.0f} receipts/s with the journal, {rates[1]:.0f} without, median of ratios "
              f"{ratio:.3f}; {spent[0]:.2f} ms of processor time each with, {spent[1]:.2f} ms without")  # fmt: skip
        too_much |= ratio < 1 - ALLOWED
    sys.exit("the journal costs more than a tenth" if too_much else 0)


if __name__ == "__main__":
    main()
