"""`station receipts list` and `show`: every filter finds what it should, by an index, page after page."""

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import many
import pytest
from build import BROKER, EC, OTHER_EC, a_request, an_envelope
from process import STATION, environment
from refusals import Door
from sqlalchemy import event, update

from station import store
from station.store import tables
from station.store.search import FEW


def station(url, *arguments, text=True, cwd=None):
    """One command as a process."""
    return subprocess.run(
        [STATION, *arguments], env=environment(url), capture_output=True, text=text, timeout=120, check=False, cwd=cwd
    )


def listed(url, *arguments):
    """The JSON lines of a list."""
    done = station(url, "receipts", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- many receipts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def receipts():
    """The receipts that are in the database, with what else the filters ask for."""
    found = []
    for i in range(many.COUNT):
        one = many.receipt(i)
        one["flags"] = {row["flag"] for row in many.flags(i)}
        one["stations"] = {one["id_station"], *(row["id_station"] for row in many.routes(i))}
        one["stamp"] = any(row["digital_stamp"] for row in many.transfers(i))
        found.append(one)
    return found


def at(minutes):
    return many.START + timedelta(minutes=minutes)


F = store.Filter
WIDE = {"paid_from": at(1000), "paid_to": at(90_000)}
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
    "stamp": (F(digital_stamp=True), lambda r: r["stamp"]),
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
    "rare amount": (F(amount_from=Decimal(10_999), amount_to=Decimal(10_999)), lambda r: r["amount"] == 10_999),
    "amounts": (
        F(amount_from=Decimal(100), amount_to=Decimal("200.5")),
        lambda r: 100 <= r["amount"] <= Decimal("200.5"),
    ),
    "high amounts": (F(amount_from=Decimal(100_000)), lambda r: r["amount"] >= 100_000),
    "arrival": (F(received_from=at(5000), received_to=at(9440)), lambda r: at(5000) <= r["received_at"] < at(9440)),
    "old arrival": (F(received_to=at(20_000)), lambda r: r["received_at"] < at(20_000)),
    "payment": (F(paid_from=at(5000), paid_to=at(6440)), lambda r: at(5000) <= r["payment_date_time"] < at(6440)),
    "long time of payment": (F(**WIDE), lambda r: at(1000) <= r["payment_date_time"] < at(90_000)),
    "EC and debtor": (
        F(id_pa=many.BIG_EC, debtor_id="DEBTOR0000000007"),
        lambda r: (r["id_pa"], r["debtor_id"]) == (many.BIG_EC, "DEBTOR0000000007"),
    ),
    "EC and payment": (
        F(id_pa=many.BIG_EC, **WIDE),
        lambda r: r["id_pa"] == many.BIG_EC and at(1000) <= r["payment_date_time"] < at(90_000),
    ),
    "EC and amounts": (
        F(id_pa=many.OTHER_EC, amount_from=Decimal(100), amount_to=Decimal(200)),
        lambda r: r["id_pa"] == many.OTHER_EC and 100 <= r["amount"] <= 200,
    ),
    "EC, arrival and door": (
        F(id_pa=many.BIG_EC, source="reconcile", received_from=at(1000), received_to=at(60_000)),
        lambda r: (r["id_pa"], r["source"]) == (many.BIG_EC, "reconcile") and at(1000) <= r["received_at"] < at(60_000),
    ),
    "flag of the old and EC": (
        F(flag="unknown_station", id_pa=many.BIG_EC),
        lambda r: "unknown_station" in r["flags"] and r["id_pa"] == many.BIG_EC,
    ),
    "flag and payment": (
        F(flag="stand_in", **WIDE),
        lambda r: "stand_in" in r["flags"] and at(1000) <= r["payment_date_time"] < at(90_000),
    ),
}


@pytest.fixture(scope="module")
def engine(many_url):
    engine = store.connect(many_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("name", FILTERS)
def test_filter(engine, receipts, name):
    """A filter finds the receipts it names and no others, latest first, with no gap and no repetition between pages."""
    wanted, fits = FILTERS[name]
    order = wanted.order
    expected = sorted(
        ((r[order], r["id_pa"], r["receipt_id"]) for r in receipts if fits(r)), key=lambda place: place[0], reverse=True
    )
    found, after = [], None
    with store.transaction(engine, readonly=True) as connection:
        planned = store.plan(connection, wanted)
        while rows := store.page(connection, planned, store.LISTED, after=after, limit=2499):
            found += [(getattr(row, order), row.id_pa, row.receipt_id) for row in rows]
            after = store.Cursor.of(order, rows[-1])
            if len(found) >= 6_000:  # the others are as these
                break
    assert [place[0] for place in found] == [place[0] for place in expected[: len(found)]]
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)
    assert len(found) == len(expected) or len(found) >= 6_000


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


# Up to FEW are counted by index and up to FEW are looked up, for each condition; a walk of the table is 100,000 rows. A
# row costs SQLite about 10 steps.
@pytest.fixture
def allowed(engine):
    return 8 * FEW * (10 if engine.dialect.name == "sqlite" else 1)


@pytest.mark.parametrize("name", FILTERS)
def test_first_page_effort(engine, name, allowed):
    """No filter walks the whole table for its first page, however rare, common or old what it asks for is."""
    with store.transaction(engine, readonly=True) as connection, Effort(engine) as effort:
        store.list_receipts(connection, FILTERS[name][0])
    assert effort.measured() < allowed


@pytest.mark.parametrize("name", ["all", "big EC", "common flag", "long time of payment", "broker", "person"])
def test_deep_page_effort(engine, name):
    """A page far behind costs what the first one costs."""
    wanted = FILTERS[name][0]
    with store.transaction(engine, readonly=True) as connection:
        planned = store.plan(connection, wanted)
        with Effort(engine) as first:
            rows = store.page(connection, planned, store.LISTED, limit=50)
        place = store.Cursor(wanted.order, at(5000), rows[-1].id_pa, rows[-1].receipt_id)
        with Effort(engine) as deep:
            store.page(connection, planned, store.LISTED, limit=50, after=place)
    assert deep.measured() <= 3 * first.measured() + 1000


def test_pages_of_the_command(many_url):
    """Each page of the command tells the next one's cursor on standard error, the last one none."""
    found, more, pages = [], [], 0
    while pages < 10:
        done = station(many_url, "receipts", "list", "--ec", many.SMALL_EC, "--limit", "2", "--json", *more)
        assert done.returncode == 0, done.stderr
        found += [json.loads(line)["iuv"] for line in done.stdout.splitlines()]
        pages += 1
        if not (told := re.fullmatch(r"more: (--after) (\S+)\n", done.stderr)):
            break
        more = list(told.groups())
    assert found == [f"{i:017}" for i in (80_007, 60_007, 40_007, 20_007, 7)]
    assert (pages, done.stderr) == (3, "")


def test_cursor_in_json(many_url):
    """Each JSON line carries the cursor of what stands behind it; a cursor of a list in another order is refused."""
    first = listed(many_url, "--limit", "3")
    assert [one["iuv"] for one in listed(many_url, "--limit", "1", "--after", first[1]["cursor"])] == [first[2]["iuv"]]
    other = station(many_url, "receipts", "list", "--after", first[1]["cursor"], "--paid-from", "2025-07-01")
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


# --- one receipt ------------------------------------------------------------------------------------------------------


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


HOSTILE = "=cmd|'/C calc'!A0 [bold]x[/none] \u009b31m"


def test_hostile_text(door, database_url):
    """What a receiptId holds is not run by a spreadsheet, not taken for markup, and not obeyed by a terminal."""
    request = a_request(receiptId=HOSTILE)
    door.take(an_envelope(request))
    csv = station(database_url, "receipts", "list", "--csv")
    assert f"'{HOSTILE}" in csv.stdout
    for arguments in (["list"], ["show", "--iuv", request["creditorReferenceId"]]):
        shown = station(database_url, "receipts", *arguments)
        assert shown.returncode == 0, shown.stderr
        assert "[bold]x[/none] \\x9b31m" in shown.stdout
        assert "\u009b" not in shown.stdout


def test_days_are_italian(door, database_url):
    """A payment half an hour after midnight in Italy belongs to the new day, although in UTC it is the day before."""
    door.take(an_envelope(a_request(paymentDateTime="2026-07-01T00:30:00")))
    assert len(listed(database_url, "--paid-from", "2026-07-01", "--paid-to", "2026-07-01")) == 1
    assert listed(database_url, "--paid-to", "2026-06-30") == []
    assert len(listed(database_url, "--paid-from", "2026-06-30T22:30:00Z", "--paid-to", "2026-07-01T00:31")) == 1


def test_show(door, database_url):
    """`show` tells everything that is known: people, transfers, flags, resends, and the other ways it came by."""
    request = a_request(paymentAmount="9.99")
    door.take(an_envelope(request))
    door.take(an_envelope(request.but(idStation="15376371009_77")))
    done = station(database_url, "receipts", "show", "--notice", request["noticeNumber"])
    assert done.returncode == 0, done.stderr
    for text in ("Pinco Pallino", "IT88X0000000000000000000001", "15376371009_77", "9.99", "TARI-TEFA-2 = TEFA"):
        assert text in done.stdout
    found = json.loads(station(database_url, "receipts", "show", request["receiptId"], "--json").stdout)
    assert found["resends"] == 1
    assert found["payer_id"] == request["payer.uniqueIdentifier.entityUniqueIdentifierValue"]
    assert [route["id_station"] for route in found["routes"]] == ["15376371009_77"]
    assert found["transfers"][0]["amount"] == request["transfers.0.transferAmount"]
    assert set(found) == {column.name for column in tables.receipt.c} - {"raw"} | {"transfers", "flags", "routes"}


def test_show_xml(door, database_url):
    """`show --xml` gives the exact bytes; where they were purged it says so."""
    raw = an_envelope(a_request(receiptId="r1"), "everything")
    door.take(raw)
    done = station(database_url, "receipts", "show", "r1", "--xml", text=False)
    assert done.stdout == raw
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b"", raw_purged_at=at(0)))
    done = station(database_url, "receipts", "show", "r1", "--xml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "purged at 2025-07-01 02:00:00" in done.stderr


def test_where_else(database_url):
    """Where no receipt has a notice number, the commands that look further are told, with its IUV."""
    done = station(database_url, "receipts", "list", "--notice", "3010 0000 0000 0000 17", "--ec", EC)
    assert (done.returncode, done.stdout) == (0, "")
    assert "station refused list --state all --notice 301000000000000017" in done.stderr
    assert f"station reconcile --iuv 01000000000000017 --ec {EC}" in done.stderr


def test_show_which(door, database_url):
    """Where several receipts fit, they are named; where none does, or none is asked for, that is said."""
    first = a_request()
    door.take(an_envelope(first))
    door.take(an_envelope(first.but(idPA=OTHER_EC)))
    door.take(an_envelope(a_request(noticeNumber=first["noticeNumber"])))
    several = station(database_url, "receipts", "show", "--notice", first["noticeNumber"])
    assert several.returncode == 2
    assert several.stderr.count("--ec") == 3
    assert station(database_url, "receipts", "show", first["receiptId"], "--ec", EC).returncode == 0
    none = station(database_url, "receipts", "show", "--iuv", "nowhere")
    assert (none.returncode, none.stdout) == (1, "")
    assert "station refused list" in none.stderr
    assert station(database_url, "receipts", "show").returncode == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--paid-from", "yesterday"], "is no time"),
        (["--received-from", "2026-07-02", "--received-to", "2026-07-01"], "before --received-from"),
        (["--amount", "1.234,56"], "is no amount"),
        (["--after", "abc"], "no cursor"),
    ],
)
def test_usage(tmp_path, options, told):
    """What cannot be understood is a usage error that names it, before any database is asked."""
    done = station(f"sqlite:///{tmp_path}/none", "receipts", "list", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
