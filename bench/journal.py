"""What the event journal costs: receipts a second with it and without it, as a ratio of the same run.

Two stations serve one database, one with the journal and one without, and are loaded in turns, so that whatever the
machine does meanwhile meets both. The order within a turn alternates. Beside the rates stands the processor time that
the station and PostgreSQL spent on a receipt, which a busy machine changes less. `make bench-journal` runs it.
"""

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from bench import load, service
from bench.documents import TYPICAL

ALLOWED = 0.10


@dataclass(frozen=True)
class Side:
    """What one station did in one turn: receipts acknowledged a second, and processor time for each, in ms."""

    rate: float
    cpu_ms: float


def measure(
    database_url: str, folder: Path, turns: int, seconds: float, seed: int, postmaster: int | None
) -> list[tuple[Side, Side]]:
    """(with, without) for each turn. Ends the run where a receipt or a row is missing."""
    sides = []
    journaled: set[str] = set()
    acknowledged: set[str] = set()
    with ExitStack() as stack:
        servers = {}
        for name in ("on", "off"):
            place = folder / name
            place.mkdir()
            enabled = "true" if name == "on" else "false"
            servers[name] = stack.enter_context(
                service.station(place, database_url, STATION_JOURNAL_ENABLED=enabled, STATION_LOG_LEVEL="warning")
            )
        for turn in range(-1, turns):
            given = {}
            for name in ("on", "off") if turn % 2 else ("off", "on"):
                seed += 1
                roots = [servers[name].process.pid, *([postmaster] if postmaster else [])]
                before = cpu_seconds(roots)
                made = load.closed(folder, servers[name].port, TYPICAL, 2 if turn < 0 else seconds, seed=seed)
                if made.errors:
                    raise SystemExit(f"WRONG: {made.errors} answers were not as expected")
                spent = cpu_seconds(roots) - before
                given[name] = Side(made.rate, spent / len(made.acknowledged) * 1000)
                acknowledged |= set(made.acknowledged)
                if name == "on":
                    journaled |= set(made.acknowledged)
            if turn >= 0:
                on, off = given["on"], given["off"]
                sides.append((on, off))
                print(f"  {on.rate:6.0f}/s with, {off.rate:6.0f}/s without: {on.rate / off.rate:.3f};"
                      f"  {on.cpu_ms:.2f} ms with, {off.cpu_ms:.2f} ms without", flush=True)  # fmt: skip
    _check(database_url, journaled)
    load.check_stored(database_url, sorted(acknowledged))
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
    """Each receipt that the station with the journal acknowledged has its row, and hardly any other: the load
    generator goes away with answers under way."""
    with load._connect(database_url).connect() as connection:
        found = list(connection.execute(text("SELECT receipt_id FROM journal")).scalars())
    if len(found) != len(set(found)) or journaled - set(found):
        raise SystemExit(f"WRONG: {len(journaled - set(found))} receipts without a row, {len(found)} rows")
    if len(found) > len(journaled) * 1.05 + 100:
        raise SystemExit(f"WRONG: {len(found)} rows for {len(journaled)} receipts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append", help="default: both")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=8, help="of load, for each of the two in each turn")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    too_much = False
    for database in arguments.database or ["sqlite", "postgresql"]:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder, postmaster = Path(name), None
            if database == "sqlite":
                url = f"sqlite:///{folder / 'station.sqlite3'}"
            else:
                url = stack.enter_context(service.postgres(folder / "postgres"))
                postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
            print(f"{database} ({service.calm():.1f} cores busy with something else)")
            sides = measure(url, folder, arguments.turns, arguments.seconds, arguments.seed, postmaster)
        ratio = statistics.median(on.rate / off.rate for on, off in sides)
        rates = [statistics.median(one.rate for one in side) for side in zip(*sides, strict=True)]
        spent = [statistics.median(one.cpu_ms for one in side) for side in zip(*sides, strict=True)]
        print(f"{database}: {rates[0]:.0f} receipts/s with the journal, {rates[1]:.0f} without, median of ratios "
              f"{ratio:.3f}; {spent[0]:.2f} ms of processor time each with, {spent[1]:.2f} ms without")  # fmt: skip
        too_much |= ratio < 1 - ALLOWED
    sys.exit("the journal costs more than a tenth" if too_much else 0)


if __name__ == "__main__":
    main()
