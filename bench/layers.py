"""What the station could reach if a layer cost nothing: the same load, in turns, on less and less of the station.

Beside the whole station: the station without its database (everything else is done, and nothing is stored), its HTTP
server alone (requests are read and answered, and nobody looks at them), and the libraries as they come (`bench.stock`:
gunicorn's threads, Spyne's WSGI server, lxml validating; nothing is stored either). And pgbench, which only stores.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from process import free_port, migrate, wait_for_answer

from bench import floors, load, report, service
from bench.documents import ROOT, TYPICAL, Kind
from station import cli, store
from station.app import Station

WITHOUT = ("database", "application")


def serve_without(what: str, arguments: list[str]) -> None:
    """`station serve` with a hole in it."""
    if what == "database":
        store.save_receipt = lambda _engine, new, **_: (store.Saved.STORED, new.flags)
    else:
        Station.__call__ = _answer_ok  # type: ignore[assignment,method-assign]
    sys.argv = ["station", *arguments]
    cli.main()


def _answer_ok(_station: Station, environ: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    answer = TYPICAL.answer
    headers = [("X-Request-Id", environ["HTTP_X_REQUEST_ID"]), ("Content-Length", str(len(answer)))]
    start("200 OK", headers)
    return [answer]


@contextmanager
def stock(folder: Path) -> Iterator[int]:
    """The libraries as they come, with as many processes and threads as the station has; their port."""
    port = free_port()
    file = folder / "stock.log"
    with file.open("wb") as log:
        process = subprocess.Popen(
            [*service.python("gunicorn"), "--workers", "2", "--worker-class", "gthread", "--threads", "8",
             "--keep-alive", "75", "--bind", f"127.0.0.1:{port}", "bench.stock:application"],
            cwd=ROOT, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        wait_for_answer(port, process, file)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def measure(folder: Path, seconds: float, times: int) -> dict[str, list[float]]:
    """Rates by name, one of each turn."""
    figures: dict[str, list[float]] = defaultdict(list)
    # Spyne writes another prefix into its answer.
    of_stock = replace(TYPICAL, answer=b"outcome>OK</")

    def note(name: str, value: float) -> None:
        figures[name].append(value)
        print(f"  {name}: {value:.0f}/s", flush=True)

    with service.postgres(folder / "postgres") as url:
        migrate(url)
        load.analyze(url)
        for turn in range(times):
            print(f"turn {turn + 1} of {times}", flush=True)
            note("pgbench", floors.pgbench(folder, url, seconds))
            with stock(folder) as port:
                note("stock", _rate(folder, port, seconds, of_stock))
            for without in (*reversed(WITHOUT), ""):
                command = service.python("bench.layers", "--serve-without", without, "--") if without else []
                how = {"command": command, "PYTHONPATH": str(ROOT)} if without else {}
                with service.station(folder, url, **how) as server:
                    note(f"without {without}" if without else "station", _rate(folder, server.port, seconds, TYPICAL))
    return dict(figures)


def _rate(folder: Path, port: int, seconds: float, kind: Kind) -> float:
    load.closed(folder, port, kind, 1, seed=service.seed(next(_numbers)))
    gave = load.closed(folder, port, kind, seconds, seed=service.seed(next(_numbers)))
    if gave.errors:
        raise SystemExit(f"WRONG: {gave.errors} answers were not what they should be")
    return gave.rate


_numbers = itertools.count()


TITLES = {
    "pgbench": "pgbench: PostgreSQL commits the row of a receipt",
    "without application": "the station's HTTP server alone",
    "stock": "the libraries as they come, and no database",
    "without database": "the station without its database",
    "station": "the station",
}


def table(figures: dict[str, list[float]]) -> str:
    """Medians, and ratios to pgbench in the same turn."""
    lines = ["| what | a second | of pgbench |", "|---|---:|---:|"]
    for name, title in TITLES.items():
        ratio = median(rate / floor for rate, floor in zip(figures[name], figures["pgbench"], strict=True))
        lines.append(f"| {title} | {median(figures[name]):,.0f} | {ratio:.2f} |")
    turns = len(figures["pgbench"])
    return f"Measured {datetime.now(UTC):%Y-%m-%d}, median of {turns} turns.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.layers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5, help="length of each measurement")
    parser.add_argument("--times", type=int, default=5, help="turns; the median of them counts")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the documentation alone")
    parser.add_argument("--serve-without", choices=WITHOUT, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_without:
        serve_without(arguments.serve_without, arguments.arguments)
        return
    with tempfile.TemporaryDirectory(prefix="station-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        figures = measure(folder, arguments.seconds, arguments.times)
    text = table(figures)
    print(text)
    if not arguments.dry_run:
        report.put(report.PAGE, "layers", text)


if __name__ == "__main__":
    main()
