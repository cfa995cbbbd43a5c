"""Matching against ten million receipts, and the finance office's question there.

100,000 payments in 2,000 flows of one EC, which has more than a million of the receipts: one payment in a hundred has
no receipt, one in two hundred is named by another IUR. They are matched, then nothing new is matched, and bank lines
are looked up, whole and cut off. No statistics are collected before: the first run on a new station has none either.
"""

import argparse
import random
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import psycopg
from process import migrate

from bench import grow, report, service
from station import store
from station.reconcile.matching import match
from station.store import credited, matching, queries

EC = "70000000000"
PER_FLOW = 50
_TAKE = """
CREATE TEMPORARY TABLE taken AS SELECT row_number() OVER (ORDER BY received_at) - 1 AS n, receipt_id, iuv, amount
FROM (SELECT * FROM receipt WHERE id_pa = %(ec)s AND NOT digital_stamp ORDER BY received_at DESC LIMIT %(count)s) AS r
"""
_FLOWS = """
INSERT INTO fdr_flow (id_pa, fdr, psp_id, revision, published, flow_date, psp_name, regulation, sum_payments,
  tot_payments, listed_at, fetched_at, attempts, next_attempt_at)
SELECT %(ec)s, to_char(at, 'YYYY-MM-DD') || 'ABI99999-S' || lpad(flow::text, 9, '0'), 'ABI99999', 1, at, at, 'Banca',
  'TRN' || flow, sum, %(per)s, now(), now(), 0, now()
FROM (SELECT n / %(per)s AS flow, sum(amount) AS sum FROM taken GROUP BY 1) AS f,
  LATERAL (SELECT now() - make_interval(mins => (%(count)s / %(per)s - flow)::int * 45) AS at) AS t
"""
_PAYMENTS = """
INSERT INTO fdr_payment (id_pa, fdr, psp_id, revision, position, iuv, iur, id_transfer, amount, pay_status, pay_date)
SELECT %(ec)s, f.fdr, 'ABI99999', 1, n %% %(per)s + 1, CASE WHEN n %% 100 = 0 THEN 'gone' || n ELSE iuv END,
  CASE WHEN n %% 100 = 0 THEN 'gone' || n WHEN n %% 200 = 1 THEN 'other' || n ELSE receipt_id END, 1, amount, 0,
  f.flow_date
FROM taken JOIN fdr_flow AS f ON f.id_pa = %(ec)s AND f.regulation = 'TRN' || (n / %(per)s)
"""


def publish(url: str, count: int) -> None:
    """Write so many payments in flows, as walks would have."""
    given = {"ec": EC, "count": count, "per": PER_FLOW}
    with psycopg.connect(url) as connection:
        for table in ("fdr_awaited", "fdr_payment", "fdr_flow", "fdr_ec"):
            connection.execute(f"TRUNCATE {table} CASCADE")
        for statement in (_TAKE, _FLOWS, _PAYMENTS):
            connection.execute(statement, given)


def looked_up(engine: store.Engine, times: int = 100) -> tuple[list[float], list[float]]:
    """Milliseconds of `fdr show` for whole names, and for lines cut off with an amount to choose."""
    with queries.reading(engine) as connection:
        flows = credited.list_flows(connection, [EC], limit=2000)
    chance = random.Random(1)
    took: tuple[list[float], list[float]] = [], []
    for flow in chance.sample(flows, min(times, len(flows))):
        for place, name in enumerate((flow["fdr"], flow["fdr"][:20])):
            begun = time.perf_counter()
            with store.transaction(engine, readonly=True) as connection:
                found = credited.flows_named(connection, name, None, limit=21)
                fitting = [one for one in found if one.sum_payments == flow["sum_payments"]] or found
                rows = credited.payments_of(connection, fitting[0])
            took[place].append((time.perf_counter() - begun) * 1000)
            if len(rows) != PER_FLOW:
                raise SystemExit(f"WRONG: {len(rows)} payments instead of {PER_FLOW}")
    return took


def measure(folder: Path, count: int, payments: int) -> str:
    """Measure, check what was matched, and return the text for the documentation."""
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
            grow.grow(url, count, only_receipts=True)
        publish(url, payments)
        engine = store.connect(url)
        begun = time.perf_counter()
        with store.transaction(engine, timeout=None) as connection:
            matched = matching.match_payments(connection, EC, now=datetime.now(UTC))
        first = time.perf_counter() - begun
        if matched != payments - payments // 100:
            raise SystemExit(f"WRONG: {matched} payments were matched")
        begun = time.perf_counter()
        match(engine, EC)
        other_way = time.perf_counter() - begun
        begun = time.perf_counter()
        match(engine, EC)
        again = time.perf_counter() - begun
        with store.transaction(engine, readonly=True) as connection:
            balance = credited.balance(connection, EC, paid_to=datetime.now(UTC) - timedelta(days=7))
        if balance.payments_missing != payments // 100:
            raise SystemExit(f"WRONG: {balance.payments_missing} are missing")
        whole, cut = looked_up(engine)
        engine.dispose()
    return "\n".join([
        f"{payments:,} payments in {payments // PER_FLOW:,} flows of one EC, among {count:,} receipts; measured "
        f"{datetime.now(UTC):%Y-%m-%d}, `make bench-fdr`.",
        "",
        "| what | took | asked for |",
        "|---|---:|---:|",
        f"| match the payments with receipts | {first:.1f} s | 10 s |",
        f"| match the receipts of that time with flows, the first time | {other_way:.1f} s | |",
        f"| both again, with {payments // 100:,} payments still open | {again:.1f} s | |",
        f"| `fdr show`, the flow's name, median and slowest | {median(whole):.0f} and {max(whole):.0f} ms | 100 ms |",
        f"| `fdr show`, a line cut off and the amount | {median(cut):.0f} and {max(cut):.0f} ms | 100 ms |",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fdr", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000_000, help="receipts; ten million take 20 GB of disk")
    parser.add_argument("--payments", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keeps the database there for the next run (default: temporary)")
    parser.add_argument("--dry-run", action="store_true", help="print the text and leave the documentation alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        text = measure(folder, arguments.count, arguments.payments)
    print(text)
    if not arguments.dry_run:
        report.put(report.PAGE, "fdr", text)


if __name__ == "__main__":
    main()
