"""The station with ten million receipts stored, beside an empty one on the same PostgreSQL.

Pushes go to both in turns, so that whatever the machine does meets both. Then every documented filter of the list and
every look-up is timed as an operator's command runs it, with common and with rare values: once as the caches happen to
be, then three times; and the comparison of the reconciliation. The plans that carry them go into the documentation with
the figures.
"""

import argparse
import itertools
import os
import random
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from process import migrate
from psycopg.rows import dict_row
from sqlalchemy import event

from bench import grow, load, report, service
from bench.documents import BROKER, STATION, TYPICAL
from station import store
from station.store import delivery_list, outgoing

PAGE = 100  # IUVs that the reconciliation compares at once: a page of the GPD API's list


def push_rates(
    stack: ExitStack, folder: Path, urls: dict[str, str], seconds: float, times: int, warm_up: float
) -> tuple[float, list[float]]:
    """Rates of the large station as ratios to those of the empty one: the first, and those after the warm-up.

    A page of an index that was not used since the start is read from the disk first, and goes into the log as a whole.
    There are half a million of them, and a receipt meets ten: `warm_up` seconds of pushes are for a server that has run
    for a while.
    """
    stations = {
        name: stack.enter_context(service.station(service.subfolder(folder, f"on-{name}"), url))
        for name, url in urls.items()
    }
    numbers = itertools.count()

    def push(name: str, seconds: float) -> float:
        os.sync()
        gave = load.closed(folder, stations[name].port, TYPICAL, seconds, seed=service.seed(next(numbers)))
        if gave.errors:
            raise SystemExit(f"WRONG: {gave.errors} receipts were not acknowledged")
        return gave.rate

    ratios = []
    for turn in range(times + 1):
        rates = {name: push(name, seconds) for name in sorted(stations, reverse=bool(turn % 2))}
        print(f"  push: empty {rates['empty']:.0f}/s, large {rates['large']:.0f}/s", flush=True)
        ratios.append(rates["large"] / rates["empty"])
        if not turn:
            load.analyze(urls["empty"])
            print(f"  warm-up: {push('large', warm_up):.0f}/s", flush=True)
    return ratios[0], ratios[1:]


class Timed:
    """Runs searches on one engine, times them, and keeps the statements of the slowest."""

    def __init__(self, url: str) -> None:
        self.engine = store.connect(url)
        self.statements: list[tuple[str, Any]] = []
        event.listen(self.engine, "before_cursor_execute", self._heard)

    def _heard(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        self.statements.append((statement, parameters))

    def run(self, work: Callable[[store.Connection], Any]) -> tuple[float, list[tuple[str, Any]]]:
        """Milliseconds, and what was asked of the database."""
        self.statements.clear()
        begun = time.perf_counter()
        with store.transaction(self.engine, readonly=True) as connection:
            work(connection)
        return (time.perf_counter() - begun) * 1000, list(self.statements)

    def plan(self, statements: list[tuple[str, Any]]) -> str:
        """The plan of the last of the statements that read receipts in order, shortened."""
        statement, parameters = next(one for one in reversed(statements) if "receipt" in one[0])
        with self.engine.connect() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) {statement}", parameters)
            lines = [row[0] for row in rows]
        kept = [
            re.sub(r"\(actual time=[\d.]+\.\.([\d.]+) rows=([\d.]+) loops=(\d+)\)", r"(\1 ms, \2 rows, \3 times)", line)
            for line in lines
            if not re.search(r"Buffers:|Planning|Sort Method|Memory|Heap Blocks|Index Searches|Sort Key", line)
        ]
        return "\n".join(line[:140] for line in kept)


def filters(connection: psycopg.Connection[dict[str, Any]]) -> dict[str, list[store.Filter]]:
    """Every filter of `station receipts list`, by name, with common and rare values."""
    chance = random.Random(1)
    now = datetime.now(UTC)
    rows = []
    for _ in range(20):
        moment = now - timedelta(days=chance.uniform(1, 1000))
        rows += connection.execute(
            "SELECT * FROM receipt WHERE received_at >= %s ORDER BY received_at LIMIT 1", (moment,)
        ).fetchall()
    days = [now - timedelta(days=age) for age in (1, 30, 400, 1000)]

    def each(name: str) -> list[store.Filter]:
        return [store.Filter(**{name: row[name]}) for row in rows]

    def values(name: str, *given: Any) -> list[store.Filter]:
        return [store.Filter(**{name: value}) for value in given]

    big, small = "70000000000", "70000004999"
    return {
        "no filter": [store.Filter()],
        "receipt_id": each("receipt_id"),
        "iuv": each("iuv"),
        "notice_number": each("notice_number"),
        "id_pa": values("id_pa", big, "70000000007", small, "79999999999"),
        "debtor_id": each("debtor_id"),
        "payer_id": [store.Filter(payer_id=row["payer_id"] or "X") for row in rows],
        "person_id": [store.Filter(person_id=row["debtor_id"]) for row in rows],
        "id_psp": values("id_psp", "ABI10000", "ABI10063", "ABI99998"),
        "id_broker_pa": values("id_broker_pa", BROKER, "99999999999"),
        "id_station": values("id_station", STATION, f"{BROKER}_02", f"{BROKER}_03", "nowhere"),
        "flag": values("flag", "secondary_beneficiary", "transfer_sum_differs", "second_receipt"),
        "source": values("source", "push", "reconcile", "replay"),
        "digital_stamp": [store.Filter(digital_stamp=True)],
        "amount": [
            store.Filter(amount_from=Decimal(low), amount_to=Decimal(high))
            for low, high in (("16", "16"), ("123.45", "123.45"), ("10", "900"), ("899.90", "900"), ("5000", "9999"))
        ],
        "received": [store.Filter(received_from=day, received_to=day + timedelta(days=1)) for day in days],
        "paid": [store.Filter(paid_from=day, paid_to=day + timedelta(days=1)) for day in days],
        "EC and amount": [store.Filter(id_pa=one, amount_from=Decimal(800)) for one in (big, "70000000200", small)],
        "EC and a day": [
            store.Filter(id_pa=one, received_from=days[2], received_to=days[2] + timedelta(days=1))
            for one in (big, "70000000200", small)
        ],
        "EC and flag": [store.Filter(id_pa=one, flag="transfer_sum_differs") for one in (big, "70000000200", small)],
        "station and a month": [
            store.Filter(id_station=f"{BROKER}_02", received_from=days[2], received_to=days[1]),
        ],
    }  # fmt: skip


def search(timed: Timed, url: str) -> tuple[list[str], list[str]]:
    """The table of searches, and the plans of those that are slowest or looked up most."""
    lines = ["| search | median | slowest | slowest at first | asked for |", "|---|---:|---:|---:|---|"]
    plans = []
    with psycopg.connect(url, row_factory=dict_row) as connection:
        wanted = filters(connection)
    timed.run(lambda connection: store.list_receipts(connection, store.Filter()))
    for name, each in wanted.items():
        first, took = [], []
        for one in each:
            tries = [timed.run(lambda connection, one=one: store.list_receipts(connection, one)) for _ in range(4)]
            first.append(tries[0][0])
            took.append((median(milliseconds for milliseconds, _ in tries[1:]), tries[0][1], one))
        slowest = max(took, key=lambda each: each[0])
        goal = 5 if name in ("receipt_id", "iuv", "notice_number") else 50
        figures = (median(one[0] for one in took), slowest[0], max(first))
        lines.append(f"| {name} | {' | '.join(f'{one:.1f} ms' for one in figures)} | {goal} ms |")
        print(" ", lines[-1], _given(slowest[2]) if slowest[0] > goal else "", flush=True)
        if name in (
            "iuv",
            "id_pa",
            "debtor_id",
            "id_station",
            "flag",
            "digital_stamp",
            "amount",
            "EC and amount",
            "EC and flag",
        ):
            plans.append(f"{name}:\n\n```\n{timed.plan(slowest[1])}\n```")
    return lines, plans


def _given(wanted: store.Filter) -> dict[str, Any]:
    return {name: value for name, value in asdict(wanted).items() if value}


def comparison(timed: Timed, url: str, count: int = 100_000) -> float:
    """Seconds in which the reconciliation finds out which of so many listed receipts of one EC are here."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT iuv FROM receipt WHERE id_pa = '70000000000' AND fiscal_code = id_pa "
            "ORDER BY received_at DESC LIMIT %s",
            (count,),
        ).fetchall()
    iuvs = sorted(row[0] for row in rows)
    begun = time.perf_counter()
    for first in range(0, len(iuvs), PAGE):
        page = iuvs[first : first + PAGE]
        with store.transaction(timed.engine, readonly=True) as connection:
            if store.runs.known_iuvs(connection, "70000000000", page) != set(page):
                raise SystemExit("WRONG: a stored receipt was not found")
    return time.perf_counter() - begun


OUTBOX = """
INSERT INTO outbox (at, id_pa, receipt_id, revision)
SELECT now() + n * interval '1 us', id_pa, receipt_id, 2 FROM (
  SELECT id_pa, receipt_id, row_number() OVER () AS n FROM receipt ORDER BY receipt_id LIMIT %s) AS chosen
"""


def delivery(timed: Timed, url: str) -> list[str]:
    """The table of what delivery asks for: numbers for a batch, pages of the feed, figures of the destinations."""
    chance = random.Random(2)
    now = datetime.now(UTC)
    many = tuple(f"{70_000_000_000 + number}" for number in range(60))
    choices = {
        "all": outgoing.Choice(),
        "without copies": outgoing.Choice(copies=False),
        "a large EC": outgoing.Choice(("70000000000",)),
        "a small EC": outgoing.Choice(("70000004999",)),
        "40 ECs": outgoing.Choice(many[:40]),
        "60 ECs": outgoing.Choice(many),
        "an EC without receipts": outgoing.Choice(("79999999999",)),
        "a category that all have": outgoing.Choice(categories=("9/02",)),
        "a category that none has": outgoing.Choice(categories=("9/03",)),
    }
    lines = ["| delivery | median | slowest | asked for |", "|---|---:|---:|---:|"]

    def tell(name: str, took: list[float]) -> None:
        lines.append(f"| {name} | {median(took):.1f} ms | {max(took):.1f} ms | 50 ms |")
        print(" ", lines[-1], flush=True)

    with psycopg.connect(url) as connection:
        [(last,)] = connection.execute("SELECT max(number) FROM outgoing").fetchall()
    places = [0, last - 50, *(chance.randrange(last) for _ in range(18))]
    for name, choice in choices.items():

        def ask(connection: store.Connection, after: int, choice: outgoing.Choice = choice) -> Any:
            return outgoing.outgoing_page(connection, choice, after=after, limit=100)

        tell(f"a page of 100, {name}", [timed.run(lambda one, after=after: ask(one, after))[0] for after in places])
    tell("the last number", [timed.run(outgoing.last_number)[0] for _ in places])
    tell("figures of all destinations", [timed.run(delivery_list.figures)[0] for _ in places])
    took = []
    for count in (10, 100, 1000) * 3:
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM outbox")
            connection.execute(OUTBOX, [count])
            connection.commit()
            with store.transaction(timed.engine) as planner:
                begun = time.perf_counter()
                if outgoing.number_outbox(planner, at=now, limit=2000) != count:
                    raise SystemExit("WRONG: a receipt got no number")
                took.append((time.perf_counter() - begun) * 1000)
            connection.execute("DELETE FROM outgoing WHERE number > %s", [last])
            connection.commit()
    for place, count in enumerate((10, 100, 1000)):
        tell(f"numbers for {count} receipts", took[place::3])
    return lines


def sizes(url: str) -> list[str]:
    """What takes the room, largest first."""
    query = """
        SELECT relname, pg_relation_size(oid), pg_total_relation_size(oid), reltuples FROM pg_class
        WHERE relkind = 'r' AND relname = ANY(%s) ORDER BY 3 DESC"""
    with psycopg.connect(url) as connection:
        rows = connection.execute(query, (list(grow.TABLES),)).fetchall()
    lines = ["| table | rows | data | with its indexes |", "|---|---:|---:|---:|"]
    return lines + [
        f"| {name} | {count / 1e6:.1f} m | {data / 1e9:.1f} GB | {total / 1e9:.1f} GB |"
        for name, data, total, count in rows
    ]


def measure(folder: Path, count: int, seconds: float, times: int, warm_up: float) -> tuple[str, str]:
    """Measure. Return the text for the documentation, and the plans of the slowest searches for the notes."""
    with ExitStack() as stack:
        server = stack.enter_context(service.postgres(folder / "postgres"))
        urls = {name: _database(server, name) for name in ("empty", "large")}
        with psycopg.connect(urls["large"]) as connection:
            (stored,) = connection.execute("SELECT reltuples FROM pg_class WHERE relname = 'receipt'").fetchone() or (
                0,
            )
        if stored < count * 0.9:
            grow.grow(urls["large"], count)
        load.empty(urls["empty"])
        taken = sizes(urls["large"])
        started, ratios = push_rates(stack, folder, urls, seconds, times, warm_up) if times else (0.0, [0.0])
        timed = Timed(urls["large"])
        lines, plans = search(timed, urls["large"])
        compared = comparison(timed, urls["large"])
        delivered = delivery(timed, urls["large"])
    text = "\n".join([
        f"{count:,} receipts over three years for {grow.ECS:,} ECs, documents of {grow.RAW} bytes, shared_buffers "
        f"{service.POSTGRES_SETTINGS['shared_buffers']}; measured {datetime.now(UTC):%Y-%m-%d}, `make bench-growth`.",
        "",
        f"Push rate: **{median(ratios):.2f}** of that of an empty database on the same server (asked for: 0.9), median "
        f"of {len(ratios)} turns after {warm_up:.0f} s of pushes; {started:.2f} before them. "
        f"Comparison of 100,000 listed receipts by the reconciliation: **{compared:.1f} s** (asked for: 10 s).",
        "", *taken, "", *lines, "", *delivered,
    ])  # fmt: skip
    return text, "\n\n".join(plans)


def _database(server: str, name: str) -> str:
    url = server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
            connection.execute(f"CREATE DATABASE {name}")
    migrate(url)
    return url


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000_000, help="receipts; ten million take 30 GB of disk")
    parser.add_argument("--seconds", type=float, default=6, help="length of each push")
    parser.add_argument("--times", type=int, default=5, help="turns of pushes; their median counts; 0: no pushes")
    parser.add_argument("--warm-up", type=float, default=60, help="seconds of pushes before them")
    parser.add_argument("--folder", type=Path, help="keeps the databases there for the next run (default: temporary)")
    parser.add_argument("--dry-run", action="store_true", help="print the text and leave the documentation alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        text, plans = measure(folder, arguments.count, arguments.seconds, arguments.times, arguments.warm_up)
    print(text, plans, sep="\n\n")
    if not arguments.dry_run:
        report.put(report.PAGE, "growth", text)
        report.put(report.NOTES, "plans", plans)


if __name__ == "__main__":
    main()
