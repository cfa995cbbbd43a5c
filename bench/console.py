"""The console with ten million receipts stored: searches by fiscal code, and what ten clerks cost the pushes.

A search is what a clerk waits for: the form is sent, and the page that it leads to is read. The fiscal codes are those
of random receipts, each asked for once, so that the caches know little of them. Then pushes are sent in turns, without
and with ten sessions, each of which searches, opens the first receipt found and thinks for `--pause` seconds. The
console has a role of its own, which row-level security limits to half of the ECs.
"""

import argparse
import json
import random
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from html import unescape
from http.client import HTTPConnection
from pathlib import Path
from statistics import median, quantiles
from subprocess import Popen
from urllib.parse import urlencode

import psycopg
from process import STATION, environment, free_port, migrate

from bench import grow, load, report, service
from bench.documents import TYPICAL
from station import store
from station.store import rights, sessions

_ROLE = "station_console"
_ECS = [f"{70000000000 + number}" for number in range(0, grow.ECS, 2)]
_USER = "clerk"


class Browser:
    """A signed-in session over one kept-alive connection."""

    def __init__(self, engine: store.Engine, port: int) -> None:
        token, self.csrf, now = secrets.token_hex(), secrets.token_hex(), datetime.now(UTC)
        user = {"name": _USER, "display_name": _USER, "groups": []}
        data = json.dumps({"user": user, "auth": "local", "csrf": self.csrf})
        with store.transaction(engine) as connection:
            sessions.begin_session(
                connection, sha256(token.encode()).hexdigest(), username=_USER, data=data, now=now,
                expires_at=now + timedelta(hours=9),
            )  # fmt: skip
        self._cookie = {"Cookie": f"__Host-station={token}"}
        self._connection = HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, method: str, address: str, **fields: str) -> tuple[int, str, str]:
        """Return status, body and where it leads."""
        headers = {**self._cookie, **({"Content-Type": "application/x-www-form-urlencoded"} if fields else {})}
        self._connection.request(method, address, urlencode(fields) if fields else None, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers.get("Location", "")

    def search(self, code: str) -> tuple[float, str]:
        """Search for a fiscal code. Return the milliseconds, and the page."""
        begun = time.perf_counter()
        status, page, leads = self.ask("POST", "/", csrf=self.csrf, q=code)
        if status == 303:
            status, page, _ = self.ask("GET", leads)
        took = (time.perf_counter() - begun) * 1000
        if status != 200 or "Cercato come" not in page:
            raise SystemExit(f"WRONG: a search was answered {status}")
        return took, page


@contextmanager
def console(folder: Path, url: str) -> Iterator[int]:
    """`station console` with its defaults and a role of its own; yields its port."""
    with psycopg.connect(url, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_ROLE,)).fetchone():
            connection.execute(f"CREATE ROLE {_ROLE} LOGIN")
        for statement in rights.grants(_ROLE, console=True):
            connection.execute(statement)
    port = free_port()
    own = re.sub(r"://[^@/]*@", f"://{_ROLE}@", url)
    (folder / "station.toml").write_text(
        f'[console]\nlisten = "127.0.0.1:{port}"\ndatabase_url = "{own}"\n'
        f'[[grant]]\nuser = "{_USER}"\necs = {json.dumps(_ECS)}\nrole = "operator"\n'
    )
    with (folder / "console.log").open("wb") as log:
        process = Popen([STATION, "console"], cwd=folder, env=environment(url), stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/live")
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit((folder / "console.log").read_text()[-3000:]) from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def codes(url: str, number: int) -> list[str]:
    """Fiscal codes of debtors of random receipts."""
    chance, found = random.Random(3), []
    with psycopg.connect(url) as connection:
        for _ in range(number):
            moment = datetime.now(UTC) - timedelta(days=chance.uniform(1, 1000))
            found += (
                connection.execute(
                    "SELECT debtor_id FROM receipt WHERE received_at >= %s ORDER BY received_at LIMIT 1", (moment,)
                ).fetchone()
                or ()
            )
    return found


@contextmanager
def clerks(engine: store.Engine, port: int, number: int, pause: float, asked: list[str]) -> Iterator[list[float]]:
    """Sessions that search, open what they find, and think; yields the milliseconds of their searches."""
    over, took = threading.Event(), []

    def work(seed: int) -> None:
        browser, chance = Browser(engine, port), random.Random(seed)
        while not over.wait(chance.uniform(0.5, 1.5) * pause):
            milliseconds, page = browser.search(chance.choice(asked))
            took.append(milliseconds)
            if found := re.search(r'href="(/ricevute/[^"]+)"', page):
                browser.ask("GET", unescape(found[1]))

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield took
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def measure(folder: Path, count: int, searches: int, times: int, seconds: float, pause: float) -> str:
    """Measure, and return the text for the documentation."""
    with ExitStack() as stack:
        server = stack.enter_context(service.postgres(folder / "postgres"))
        url = server.replace("/postgres?", "/large?")
        with psycopg.connect(server, autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'large'").fetchone():
                connection.execute("CREATE DATABASE large")
        migrate(url)
        with psycopg.connect(url) as connection:
            (stored,) = connection.execute("SELECT reltuples FROM pg_class WHERE relname = 'receipt'").fetchone() or (
                0,
            )
        if stored < count * 0.9:
            grow.grow(url, count)
        asked = codes(url, searches)
        engine = store.connect(url)
        stack.callback(engine.dispose)
        with console(service.subfolder(folder, "console"), url) as port:
            browser = Browser(engine, port)
            took = [browser.search(code)[0] for code in asked]
            p95 = quantiles(took, n=20)[-1]
            print(f"  search: median {median(took):.0f} ms, p95 {p95:.0f} ms, slowest {max(took):.0f} ms", flush=True)
            ratios, beside = _pushes(stack, folder, url, engine, port, asked, times, seconds, pause)
    return (
        f"{stored:,.0f} receipts on PostgreSQL, the console's role limited by row-level security to {len(_ECS):,} ECs; "
        f"measured {datetime.now(UTC):%Y-%m-%d}, `make bench-console`. A search by fiscal code, from the form to the "
        f"page, over {len(took)} codes: median {median(took):.0f} ms, **95 % within {p95:.0f} ms**, slowest "
        f"{max(took):.0f} ms. Ten sessions, each with a search and a receipt about every {pause:.0f} s, leave the "
        f"pushes **{median(ratios):.2f}** of their rate (median of {len(ratios)} turns, {min(ratios):.2f} to "
        f"{max(ratios):.2f}); their searches then have a median of {median(beside):.0f} ms."
    )


def _pushes(
    stack: ExitStack, folder: Path, url: str, engine: store.Engine, port: int, asked: list[str], times: int,
    seconds: float, pause: float,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Return the ratios of push rates with and without ten sessions, and the milliseconds of their searches."""
    station = stack.enter_context(service.station(service.subfolder(folder, "station"), url))

    def push(number: int) -> float:
        gave = load.closed(folder, station.port, TYPICAL, seconds, seed=service.seed(number))
        if gave.errors:
            raise SystemExit(f"WRONG: {gave.errors} receipts were not acknowledged")
        return gave.rate

    ratios: list[float] = []
    beside: list[float] = []
    for turn in range(times + 1):
        rates = {}
        for with_clerks in (True, False) if turn % 2 else (False, True):
            if with_clerks:
                with clerks(engine, port, 10, pause, asked) as took:
                    rates[True] = push(2 * turn)
                beside += took
            else:
                rates[False] = push(2 * turn + 1)
        print(f"  push: alone {rates[False]:.0f}/s, beside ten sessions {rates[True]:.0f}/s", flush=True)
        if turn:  # the first one is a warm-up
            ratios.append(rates[True] / rates[False])
    return ratios, beside


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.console", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000_000, help="receipts; ten million take 30 GB of disk")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument("--times", type=int, default=5, help="turns of pushes; their median counts")
    parser.add_argument("--seconds", type=float, default=10, help="length of each push")
    parser.add_argument("--pause", type=float, default=10, help="seconds that a session thinks between its searches")
    parser.add_argument("--folder", type=Path, help="keeps the database there for the next run (default: temporary)")
    parser.add_argument("--dry-run", action="store_true", help="print the text and leave the documentation alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        text = measure(folder, given.count, given.searches, given.times, given.seconds, given.pause)
    print(text)
    if not given.dry_run:
        report.put(report.PAGE, "console", text)


if __name__ == "__main__":
    main()
