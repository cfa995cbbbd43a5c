"""Several servers over one PostgreSQL: each receipt is stored once, whichever of them it is sent to, and how often."""

import getpass
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest
from build import STATION, a_request, an_envelope
from process import Server, free_port
from sqlalchemy import text

from station import contract, store
from station.receipt import Source

OK = b"<outcome>OK</outcome>"


def send(client: httpx.Client, server: Server, raw: bytes) -> bool:
    """Whether the receipt was acknowledged. Without an answer it was not; after a 503 it is sent again."""
    for _ in range(100):
        try:
            answer = client.post(server.url, content=raw, headers={"Content-Type": "text/xml; charset=utf-8"})
        except httpx.TransportError:
            return False
        if answer.status_code != 503:
            break
    return answer.status_code == 200 and OK in answer.content


def stored(url: str, table: str = "receipt", columns: str = "receipt_id, resends") -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT {columns} FROM {table}").fetchall()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as client:
        yield client


def test_mixed_resends(postgres_url, serve, client):
    """Receipts sent again and again to either of two servers, by two stations, are stored once; each time counts."""
    servers = [serve(postgres_url), serve(postgres_url)]
    times = 8
    sends = []
    for _ in range(25):
        request = a_request()
        by_other_station = request.but(idStation=f"{STATION[:-1]}2")
        for number in range(times):
            raw = an_envelope(by_other_station if number % 3 == 2 else request, "compact" if number % 2 else "plain")
            sends.append((request.receipt["receiptId"], servers[number % 2], raw))
    random.Random(7).shuffle(sends)
    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(lambda one: send(client, *one[1:]), sends))
    expected = sorted({(receipt_id, times - 1) for receipt_id, _server, _raw in sends})
    assert sorted(stored(postgres_url)) == expected
    transfers = stored(postgres_url, "transfer", "receipt_id, position")
    assert sorted(transfers) == sorted((receipt_id, position) for receipt_id, _ in expected for position in (1, 2))
    assert len(stored(postgres_url, "receipt_route", "receipt_id")) == len(
        expected
    )  # one station each beside its first
    journal = stored(postgres_url, "journal", "receipt_id, outcome")
    assert sum(outcome == "stored" for _, outcome in journal) == len(expected)
    assert len(journal) == len(sends)


def test_one_of_two_is_killed(postgres_url, serve, client):
    """One of two servers is killed while it receives; what it did not acknowledge is sent to the other: stored once."""
    first, second = serve(postgres_url), serve(postgres_url)
    receipts = [a_request() for _ in range(120)]
    acknowledged = []

    def push(number: int) -> None:
        if number == 40:
            first.kill()
        raw = an_envelope(receipts[number])
        if send(client, (first, second)[number % 2], raw) or send(client, second, raw):
            acknowledged.append(receipts[number].receipt["receiptId"])

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(push, range(len(receipts))))
    assert len(acknowledged) == len(receipts)
    assert sorted(receipt_id for receipt_id, _ in stored(postgres_url)) == sorted(acknowledged)


# --- a pooler in between ----------------------------------------------------------------------------------------------


def test_nothing_stays_in_a_session(postgres_url):
    """A pooler gives each transaction another session: without `prepare` a transaction leaves nothing in its own."""
    left = text(
        "SELECT (SELECT count(*) FROM pg_prepared_statements) AS statements, "
        "(SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks, "
        "(SELECT count(*) FROM pg_cursors WHERE is_holdable) AS cursors, "
        "(SELECT string_agg(name, ' ') FROM pg_settings WHERE source = 'session') AS settings"
    )
    found = {}
    for prepare in (True, False):
        engine = store.connect(postgres_url, pool_size=1, prepare=prepare)
        for _ in range(10):
            raw = an_envelope(a_request())
            receipt = contract.read(contract.request_element(contract.parse(raw).root))
            for _ in range(2):
                new = store.NewReceipt(receipt, receipt.flags, raw, None, Source.PUSH, datetime.now(UTC))
                store.save_receipt(engine, new, until=time.monotonic() + 8)
            with store.transaction(engine, readonly=True) as connection:
                store.list_receipts(connection, store.Filter(receipt_id=receipt.receipt_id))
        with store.transaction(engine, readonly=True) as connection:
            found[prepare] = connection.execute(left).one()._mapping
        engine.dispose()
    assert found[True]["statements"] > 0
    assert found[False] == {"statements": 0, "locks": 0, "cursors": 0, "settings": found[True]["settings"]}
    # Of the transaction that asks, and of a session that is the station's own (`test_sessions.py` has a pooler's).
    assert set((found[False]["settings"] or "").split()) <= {"transaction_isolation", "synchronous_commit"}


@pytest.fixture
def pooled_url(postgres_url, tmp_path) -> Iterator[str]:
    """The database behind a PgBouncer in transaction mode, of three sessions; where none is installed, the database."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        yield postgres_url
        return
    host = re.search(r"host=([^&]+)", postgres_url)[1]
    port = free_port()
    file = Path(tmp_path) / "pgbouncer.ini"
    file.write_text(
        f"[databases]\npostgres = host={host} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        "pool_mode = transaction\ndefault_pool_size = 3\nignore_startup_parameters = options\n"
    )
    # It refuses to be root: it runs as PostgreSQL does, and gets the file, which that user may not read, opened.
    owner = Path(host).owner()
    with (tmp_path / "pgbouncer.log").open("wb") as log, file.open("rb") as settings:
        process = subprocess.Popen(
            [program, "/dev/stdin"], stdin=settings, stdout=log, stderr=log,
            user=owner if owner != getpass.getuser() else None,
        )  # fmt: skip
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        _answers(url, process, tmp_path / "pgbouncer.log")
        yield url
    finally:
        process.kill()
        process.wait(60)


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PgBouncer does not answer:\n{log.read_text()}")
            time.sleep(0.05)


def test_behind_pgbouncer(pooled_url, postgres_url, serve, client):
    """Two servers share three sessions: receipts are stored once, resends are counted, refusals are kept."""
    servers = [serve(pooled_url, STATION_DATABASE_PREPARE="false") for _ in range(2)]
    requests = [a_request() for _ in range(40)]
    invalid = [an_envelope(a_request(paymentAmount="1,5")) for _ in range(10)]
    sends = [(servers[number % 2], an_envelope(request)) for request in requests for number in range(4)]
    refused = [(servers[number % 2], raw) for number, raw in enumerate(invalid)]
    random.Random(7).shuffle(sends)
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda one: send(client, *one), sends))
        assert not any(pool.map(lambda one: send(client, *one), refused))
    assert sorted(stored(postgres_url)) == sorted((request.receipt["receiptId"], 3) for request in requests)
    assert len(stored(postgres_url, "refused", "refused_id")) == len(invalid)
