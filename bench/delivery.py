"""What deliveries by webhook do and cost: `python -m bench.delivery`, each figure beside its bar.

backlog: 100,000 receipts to a receiver on the same machine. latency: at 50 pushes a second, from arrival to the
receiver. twenty: what 18 destinations get a second beside one that is dead and one that takes 10 s for each answer,
against the same without these two, in turns. push: the highest rate of pushes with a deliverer and one destination,
against that without, in turns.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import many
from process import STATION, environment, free_port, migrate

from bench import load, service
from bench.documents import TYPICAL, registry
from bench.journal import cpu_seconds
from station import store
from station.store import outgoing

BACKLOG_RATE, LATE_S, WITHIN, PUSHES = 500, 3.0, 0.95, 0.97
_SECRET = "whsec_c3RhdGlvbi10ZXN0LXNlY3JldC0wMDAwMDAwMQ=="


class Sinks:
    """Receivers in a process of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.ports: list[int] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def figures(self) -> list[dict[str, Any]]:
        assert self._process.stdin
        print(file=self._process.stdin, flush=True)
        return list(json.loads(self._line()))

    def until(self, done: Callable[[list[dict[str, Any]]], bool], seconds: float) -> list[dict[str, Any]]:
        """The figures, once they are as they should be."""
        deadline = time.monotonic() + seconds
        while not done(figures := self.figures()):
            if time.monotonic() > deadline:
                raise SystemExit(f"WRONG: received {[one['count'] for one in figures]} only")
            time.sleep(0.5)
        return figures


@contextmanager
def sinks(*delays: float, elsewhere: bool = False) -> Iterator[Sinks]:
    """Start a receiver for each of `delays`. `elsewhere`: they stand for another machine, and take what is left."""
    command = service.python("bench.sink", *map(str, delays))
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    if elsewhere:
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        with suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text("19")
    try:
        yield Sinks(process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def deliverer(folder: Path, url: str, ports: Sequence[int], start: str = "beginning") -> Iterator[int]:
    """`station deliver` with a destination for each port, named by it."""
    file = folder / "deliver.toml"
    lines = [registry()]
    for port in ports:
        lines += ["[[destination]]", f'name = "to-{port}"', 'kind = "webhook"', f'url = "http://127.0.0.1:{port}/"',
                  f'secret = "{_SECRET}"', f'start = "{start}"']  # fmt: skip
    file.write_text("\n".join(lines))
    with (folder / "deliver.log").open("ab") as log:
        command = [STATION, "--config", file, "deliver"]
        process = subprocess.Popen(command, env=environment(url), stderr=log, start_new_session=True)
        with suppress(OSError):  # what CPUWeight=50 in deploy/systemd says: Linux shares among sessions first
            Path(f"/proc/{process.pid}/autogroup").write_text("3")
        try:
            yield process.pid
        finally:
            process.terminate()
            if process.wait(60):
                raise SystemExit(f"WRONG: it ended with {process.returncode}: {folder / 'deliver.log'}")


@contextmanager
def a_database(folder: Path, kind: str) -> Iterator[str]:
    if kind == "sqlite":
        url = f"sqlite:///{folder / 'station.sqlite3'}"
        migrate(url)
        yield url
    else:
        with service.postgres(folder / "postgres") as url:
            migrate(url)
            yield url


def backlog(folder: Path, url: str) -> bool:
    many.fill(url)
    with sinks(0) as receiver, deliverer(folder, url, receiver.ports) as pid:
        postgres = folder / "postgres" / "postmaster.pid"
        roots = {"deliverer": pid} | ({"PostgreSQL": int(postgres.read_text().split()[0])} if postgres.exists() else {})
        before = {name: cpu_seconds([root]) for name, root in roots.items()}
        figures = receiver.until(lambda found: found[0]["ids"] == many.COUNT, 1800)[0]
        spent = {name: (cpu_seconds([root]) - before[name]) / many.COUNT * 1000 for name, root in roots.items()}
    rate = many.COUNT / (figures["last"] - figures["first"])
    told = ", ".join(f"{name} {ms:.2f} ms" for name, ms in spent.items())
    print(f"  backlog: {rate:.0f}/s, {figures['count'] - many.COUNT} twice; processor time for each: {told} "
          f"(bar: {BACKLOG_RATE}/s)", flush=True)  # fmt: skip
    return rate >= BACKLOG_RATE


def latency(folder: Path, url: str, seconds: float) -> bool:
    with ExitStack() as stack:
        server = stack.enter_context(service.station(folder, url, STATION_LOG_LEVEL="warning"))
        receiver = stack.enter_context(sinks(0))
        stack.enter_context(deliverer(folder, url, receiver.ports))
        made = load.open_loop(folder, server.port, TYPICAL, seconds, seed=service.seed(1), rate=50)
        sent = len(made.acknowledged)
        late = sorted(receiver.until(lambda found: found[0]["ids"] >= sent, 120)[0]["late"])
    p95 = late[math.ceil(0.95 * len(late)) - 1]
    print(f"  latency at 50/s: 95 % within {p95:.2f} s, all {len(late)} within {late[-1]:.2f} s (bar: {LATE_S} s)",
          flush=True)  # fmt: skip
    return p95 <= LATE_S


def twenty(folder: Path, kind: str, turns: int, count: int) -> bool:
    ratios = []
    for turn in range(turns):
        rates = {}
        for dead_and_slow in (True, False) if turn % 2 else (False, True):
            with tempfile.TemporaryDirectory(dir=folder) as name, a_database(Path(name), kind) as url:
                Path(name).chmod(0o755)
                _number_some(url, count)
                with sinks(*[0.0] * 18, 10.0) as receiver:
                    ports = receiver.ports[:18] + ([receiver.ports[18], free_port()] if dead_and_slow else [])
                    with deliverer(Path(name), url, ports):
                        figures = receiver.until(
                            lambda found: all(one["ids"] == count for one in found[:18]), 1800
                        )[:18]  # fmt: skip
            took = max(one["last"] for one in figures) - min(one["first"] for one in figures)
            rates[dead_and_slow] = 18 * count / took
        ratios.append(rates[True] / rates[False])
        print(f"    {rates[True]:.0f}/s beside a dead and a slow one, {rates[False]:.0f}/s alone", flush=True)
    ratio = statistics.median(ratios)
    print(f"  twenty: {ratio:.3f} of the rate alone (bar: {WITHIN})", flush=True)
    return ratio >= WITHIN


def _number_some(url: str, count: int) -> None:
    """Keep the first `count` receipts of `many` in the order of delivery: the others are not delivered."""
    from datetime import UTC, datetime

    many.COUNT, whole = count, many.COUNT
    many.receipts.cache_clear()
    many.fill(url)
    many.COUNT = whole
    many.receipts.cache_clear()
    engine = store.connect(url)
    looked = 1
    while looked:
        with store.transaction(engine) as connection:
            looked, _ = outgoing.number_unnumbered(connection, at=datetime.now(UTC), limit=2000, restart=False)
    engine.dispose()


def push(folder: Path, kind: str, turns: int, seconds: float) -> bool:
    with ExitStack() as stack:
        sides = []
        for side in ("with", "without"):
            place = service.subfolder(folder, side)
            url = stack.enter_context(a_database(place, kind))
            server = stack.enter_context(service.station(place, url, STATION_LOG_LEVEL="warning"))
            sides.append((side, place, url, server))
        receiver = stack.enter_context(sinks(0, elsewhere=True))
        ratios = []
        for turn in range(-1, turns):
            rates = {}
            for side, place, url, server in sides if turn % 2 else reversed(sides):
                with ExitStack() as one:
                    if side == "with":
                        before = receiver.figures()[0]["count"]
                        one.enter_context(deliverer(place, url, receiver.ports))
                        if turn >= 0:
                            receiver.until(lambda found, before=before: found[0]["count"] > before, 60)
                    made = load.closed(place, server.port, TYPICAL, seconds, seed=service.seed(turn + 10))
                    rates[side] = made.rate
                    if made.errors:
                        raise SystemExit(f"WRONG: {made.errors} answers were not as expected")
                if turn < 0:
                    load.analyze(url)
            if turn >= 0:
                ratios.append(rates["with"] / rates["without"])
                print(f"    {rates['with']:.0f}/s with, {rates['without']:.0f}/s without: {ratios[-1]:.3f}", flush=True)
        delivered = receiver.figures()[0]["count"]
    ratio = statistics.median(ratios)
    print(f"  push: {ratio:.3f} of the rate without, {delivered} delivered meanwhile (bar: {PUSHES})", flush=True)
    return ratio >= PUSHES


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.delivery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append", help="default: both")
    parser.add_argument("--only", choices=["backlog", "latency", "twenty", "push"], action="append")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=8, help="of load, in each turn")
    parser.add_argument("--backlog", type=int, default=many.COUNT, help="receipts of the backlog")
    parser.add_argument("--count", type=int, default=2000, help="receipts for each of twenty destinations")
    arguments = parser.parse_args()
    many.COUNT = arguments.backlog
    only = arguments.only or ["backlog", "latency", "twenty", "push"]
    met = []
    for kind in arguments.database or ["sqlite", "postgresql"]:
        print(f"{kind} ({service.calm():.1f} cores busy with something else)", flush=True)
        with tempfile.TemporaryDirectory(prefix="station-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # PostgreSQL does not run as root
            for what, measure in (("backlog", backlog), ("latency", latency)):
                if what in only:
                    place = service.subfolder(folder, what)
                    with a_database(place, kind) as url:
                        more = (arguments.seconds * 4,) if what == "latency" else ()
                        met.append(measure(place, url, *more))
            if "twenty" in only:
                met.append(twenty(folder, kind, min(arguments.turns, 3), arguments.count))
            if "push" in only:
                met.append(push(service.subfolder(folder, "push"), kind, arguments.turns, arguments.seconds))
    sys.exit(0 if all(met) else "a bar is not met")


if __name__ == "__main__":
    main()
