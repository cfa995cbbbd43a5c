"""`station reconcile` as a process against the simulator: nothing missing, nothing twice, whatever goes wrong."""

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import forked
import pytest
from gpd_simulator import GpdSimulator, make_position, make_receipt, soap_envelope
from gpd_simulator.receipts import headline
from process import STATION, environment
from sqlalchemy import text

from station import config, store
from station.errors import ConfigError
from station.reconcile import run, walk
from station.reconcile.windows import italian_day, padded, windows
from station.store import tables
from station.store.run_lock import only_run

EC, OTHER_EC, THIRD_EC = "77777777777", "88888888888", "66666666666"
TODAY = italian_day(datetime.now(UTC))


def ago(days: int) -> str:
    return str(TODAY - timedelta(days=days))


LAST_WEEKS = {"start": ago(40), "end": ago(2)}
GENERATED = {"from": LAST_WEEKS["start"], "to": LAST_WEEKS["end"]}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpdSimulator]:
    with GpdSimulator.start(tmp_path_factory.mktemp("gpd")) as simulator:
        yield simulator


@pytest.fixture
def gpd(running: GpdSimulator) -> Iterator[GpdSimulator]:
    running.reset(settings={"rate_calls": 0})
    yield running
    stats = running.stats()
    assert stats["errors"] == []
    assert stats["over_30_days"] == 0
    assert stats["without_request_id"] == stats["repeated_request_ids"] == 0


@dataclass
class Job:
    """The command with a configuration, and what is in its database."""

    gpd: GpdSimulator
    url: str
    folder: Path
    settings: dict[str, Any]
    ecs: tuple[str, ...] = (EC,)
    more: str = ""

    def prepare(self, arguments: tuple[str, ...], env: dict[str, str]) -> tuple[list[str], dict[str, str]]:
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items() if value is not None]
        file = self.folder / "reconcile.toml"
        file.write_text("\n".join(["[gpd]", *lines, *(f'[[ec]]\nid = "{ec}"' for ec in self.ecs), self.more]))
        return ["--config", str(file), "reconcile", *arguments], environment(self.url, **env)

    def start(self, *arguments: str, **env: str) -> forked.Forked:
        """The command as a process of its own, to be waited for or killed."""
        command, environ = self.prepare(arguments, env)
        return forked.station(command, environ, self.folder)

    def run(self, *arguments: str, expect: int = 0, **env: str) -> "Ran":
        """The same from its beginning to its end."""
        return ended(self.start(*arguments, **env), expect)

    def on_terminal(self, terminal: int, *arguments: str) -> subprocess.Popen[str]:
        """The installed command, started on a terminal."""
        command, environ = self.prepare(arguments, {})
        return subprocess.Popen(
            [STATION, *command], env=environ, cwd=self.folder, stdout=terminal, stderr=terminal, text=True
        )

    def json(self, *arguments: str, expect: int = 0, **env: str) -> dict[str, Any]:
        ran = self.run(*arguments, "--json", expect=expect, **env)
        [line] = ran.out.splitlines()
        return json.loads(line)

    def rows(self, query: str, **values: Any) -> list[Any]:
        engine = store.connect(self.url)
        with engine.begin() as connection:
            result = connection.execute(text(query), values)
            found = list(result) if result.returns_rows else []
        engine.dispose()
        return found

    def stored(self, ec: str = EC) -> list[str]:
        """The IUVs of all receipts of an EC, one for each row."""
        return sorted(row.iuv for row in self.rows("SELECT iuv FROM receipt WHERE id_pa = :ec", ec=ec))

    def items(self) -> dict[str, Any]:
        return {row.iuv: row for row in self.rows("SELECT * FROM reconcile_item")}

    def ledger(self) -> list[Any]:
        return self.rows("SELECT * FROM reconcile_run ORDER BY started_at")

    def free(self) -> bool:
        """Whether no run has the lock."""
        engine = store.connect(self.url)
        with only_run(engine, "reconcile") as held:
            engine.dispose()
            return held is not None

    def make_due(self) -> None:
        """As if the pauses of all open items were over."""
        self.rows("UPDATE reconcile_item SET next_attempt_at = first_at, last_at = first_at")


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.err.splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == name]


def ended(process: subprocess.Popen[str] | forked.Forked, expect: int) -> Ran:
    out, err = process.communicate(timeout=120)
    assert process.returncode == expect, f"{out}\n{err}"
    assert "Traceback" not in err
    return Ran(process.returncode, out, err)


def a_job(gpd: GpdSimulator, url: str, folder: Path) -> Job:
    settings = {"url": gpd.receipts_url, "positions_url": gpd.core_url, "key": "receipts-key", "rate": 10_000}
    return Job(gpd, url, folder, settings | {"retries": 1, "retry_pause": 0.05, "timeout": 30})


@pytest.fixture
def job(gpd: GpdSimulator, sqlite_url: str, tmp_path: Path) -> Job:
    """A job on SQLite."""
    return a_job(gpd, sqlite_url, tmp_path)


@pytest.fixture
def either(gpd: GpdSimulator, database_url: str, tmp_path: Path) -> Job:
    """A job on SQLite and one on PostgreSQL."""
    return a_job(gpd, database_url, tmp_path)


def made(count: int, ec: str = EC, first: int = 0, version: str = "v2") -> list[dict[str, Any]]:
    """The receipts that `generate` makes."""
    return [make_receipt(ec, n, version=version, **LAST_WEEKS) for n in range(first, first + count)]


def listed(count: int) -> list[dict[str, Any]]:
    """What a list shows of them, for when they are many."""
    found = (headline(EC, n, **LAST_WEEKS)[:2] for n in range(count))
    return [
        {"iuv": iuv, "payment_date_time": at, "receipt_id": f"r{iuv}", "notice_number": f"3{iuv}"} for iuv, at in found
    ]


def iuvs(receipts: list[dict[str, Any]]) -> list[str]:
    return sorted(receipt["iuv"] for receipt in receipts)


def generate(gpd: GpdSimulator, count: int, ec: str = EC, **more: Any) -> list[dict[str, Any]]:
    gpd.load(generate={"org": ec, "count": count, **GENERATED, **more})
    return made(count, ec, more.get("first", 0), more.get("version", "v2"))


def fill(url: str, ec: str, receipts: list[dict[str, Any]]) -> None:
    """Puts receipts into the database without the way through the station, for they are many."""
    blank = {
        column.name: "" for column in tables.receipt.columns if not column.nullable and column.type.python_type is str
    }
    engine = store.connect(url)
    with engine.begin() as connection:
        connection.execute(
            tables.receipt.insert(),
            [
                blank
                | {"id_pa": ec, "receipt_id": one["receipt_id"], "iuv": one["iuv"], "fiscal_code": ec}
                | {"notice_number": one["notice_number"], "notice_ordinal": 0, "amount": 1, "version": 2, "resends": 0}
                | {"received_at": datetime.now(UTC), "content_hash": b"", "raw": b"", "source": "push"}
                for one in receipts
            ],
        )
    engine.dispose()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def promised(receipts: list[dict[str, Any]], first: date, last: date) -> int:
    """List calls for receipts that are listed from `first` to `last`: what docs/reconciliation.md promises."""
    calls = 0
    for window in windows(first, last, 30):
        low, high = window.first.isoformat(), window.last.isoformat()
        inside = sum(low <= receipt["payment_date_time"] <= high for receipt in receipts)
        calls += max(1, -(-inside // 100))
    return calls


def first_window() -> tuple[date, date]:
    """The days of an EC's first run: three months."""
    month = TODAY.month - 3 + 12 * (TODAY.month <= 3)
    year = TODAY.year - (TODAY.month <= 3)
    for day in range(TODAY.day, 0, -1):
        try:
            start = date(year, month, day)
            break
        except ValueError:
            continue
    return padded(min(start, TODAY - timedelta(days=90)), TODAY, TODAY)


# --- what is missing --------------------------------------------------------------------------------------------------


def test_three_thousand_of_which_42_are_missing(either):
    """All that is missing is found, once, with as many requests as promised; the next run asks for nothing."""
    either.gpd.load(generate={"org": EC, "count": 3_000, "version": "mixed", **GENERATED})
    receipts = listed(3_000)
    missing = receipts[::73]
    assert len(missing) == 42
    here = [receipt for number, receipt in enumerate(receipts) if number % 73]
    fill(either.url, EC, here)

    ran = either.json()
    assert either.stored() == iuvs(receipts)
    assert ran["complete"]
    counts = {name: ran["total"][name] for name in ("listed", "here", "fetched", "not_yet", "waiting", "failed")}
    assert counts == {"listed": 3_000, "here": 2_958, "fetched": 42, "not_yet": 0, "waiting": 0, "failed": 0}
    stats = either.gpd.stats()
    assert stats["by_endpoint"]["receipt"] == 42
    assert stats["by_endpoint"]["list"] == promised(receipts, *first_window())
    assert ran["total"]["requests"] == stats["calls"]

    either.gpd.clear_stats()
    again = either.json()
    assert (again["total"]["fetched"], again["ecs"][0]["kind"]) == (0, "window")
    first, last = padded(TODAY - timedelta(days=7), TODAY, TODAY)
    assert either.gpd.stats()["by_endpoint"]["list"] == promised(receipts, first, last)
    assert either.gpd.stats()["by_endpoint"]["receipt"] == 0
    assert either.stored() == iuvs(receipts)


def test_fetched_receipts_are_kept_as_they_came(either):
    """What is fetched is a receipt like a pushed one, of either version: exact bytes, transfers, its source."""
    receipts = generate(either.gpd, 20, version="mixed")
    either.run()
    rows = {row.iuv: row for row in either.rows("SELECT iuv, receipt_id, raw, source, version FROM receipt")}
    assert {row.version for row in rows.values()} == {1, 2}
    for receipt in receipts:
        row = rows[receipt["iuv"]]
        assert (bytes(row.raw), row.receipt_id, row.source) == (receipt["xml"], receipt["receipt_id"], "reconcile")
    transfers = sum(len(receipt["fields"]["receipt"]["transferList"]["transfer"]) for receipt in receipts)
    assert either.rows("SELECT count(*) AS n FROM transfer")[0].n == transfers


def test_short_pages_in_between(job):
    """Pages that are short or empty in the middle, and lists that are filtered after paging, hide nothing."""
    job.gpd.settings(date_filter="after_paging")
    receipts = generate(job.gpd, 450, hidden_range=[90, 210])
    hidden = set(iuvs(receipts)[90:210])
    job.run()
    assert job.stored() == [iuv for iuv in iuvs(receipts) if iuv not in hidden]


def test_rows_inserted_while_paging(job):
    """Rows that come in while pages are read push no other out of sight, and are there after the next run at last."""
    receipts = generate(job.gpd, 450)
    job.gpd.insert_while_paging(5, org=EC, generate={"org": EC, "count": 200, "first": 450, **GENERATED})
    ran = job.json()
    assert set(iuvs(receipts)) <= set(job.stored())
    assert ran["total"]["fetched"] == len(job.stored()) == job.gpd.stats()["by_endpoint"]["receipt"]
    job.rows("UPDATE reconcile_ec SET swept_at = NULL")
    job.run()
    assert job.stored() == iuvs(made(650))


def test_rows_removed_while_paging(job):
    """A list that became shorter while it was read is read again: rows have moved to pages that were read before."""
    receipts = sorted(generate(job.gpd, 201), key=lambda receipt: receipt["iuv"])
    job.gpd.reset(settings={"rate_calls": 0})
    paid_at = f"{ago(3)}T10:00:00"
    job.gpd.load(receipts=[{"org": EC, "n": one["n"], "payment_date_time": paid_at} for one in receipts])
    gone = receipts[0]["iuv"]
    first, last = padded(date.fromisoformat(ago(5)), date.fromisoformat(ago(1)), TODAY)
    assert len(list(windows(first, last, 30))) == 1
    job.gpd.insert_while_paging(1, org=EC, remove=[gone])
    ran = job.run("--from", ago(5), "--to", ago(1))
    assert len(ran.events("list_shrank")) == 1
    assert set(job.stored()) == {receipt["iuv"] for receipt in receipts[1:]} | set(job.stored()) & {gone}


def test_edges_of_windows(job):
    """Payments at the very edges of days and calls are found: with fractions, or in another zone."""
    start, end = TODAY - timedelta(days=60), TODAY - timedelta(days=5)
    border = next(windows(*padded(start, end, TODAY), 30)).last.date()
    before = start - timedelta(days=1)
    edges = [
        f"{border}T23:59:59.5", f"{border}T23:59:59.999999", f"{border}T00:00:00", f"{border}T23:59:59Z",
        f"{border + timedelta(days=1)}T00:00:00", f"{start}T00:00:00", f"{before}T23:30:00Z", f"{end}T23:59:59.9",
        f"{end}T23:59:00", f"{end + timedelta(days=1)}T00:30:00+02:00",
    ]  # fmt: skip
    job.gpd.load(receipts=[{"org": EC, "n": n, "payment_date_time": at} for n, at in enumerate(edges)])
    ran = job.json("--from", str(start), "--to", str(end))
    assert job.stored() == iuvs(made(len(edges)))
    assert ran["total"]["listed"] == len(edges)


def copy_for(ec: str, owner: str, iuv: str) -> dict[str, Any]:
    """A receipt of another EC's payment, as `ec` gets it because it is a beneficiary."""
    receipt = make_receipt(owner, 1, iuv=iuv, **LAST_WEEKS)
    return receipt | {"fields": receipt["fields"] | {"idPA": ec}}


def test_copy_of_anothers_receipt_with_the_same_iuv(either, serve):
    """A copy for a secondary beneficiary says nothing of the EC's own payment with that IUV: it is missing, fetched."""
    [receipt] = generate(either.gpd, 1)
    either.settings |= {"positions_key": "core-key"}
    either.gpd.load(positions=[{"org": EC, "n": 0, **LAST_WEEKS}])
    assert ">OK<" in push(serve(either.url).url, copy_for(EC, OTHER_EC, receipt["iuv"]))
    assert [one["iuv"] for one in either.json("--dry-run")["missing"]] == [receipt["iuv"]]
    ran = either.json("--positions")
    assert (ran["total"]["fetched"], ran["total"]["here"]) == (1, 0)
    owners = either.rows("SELECT fiscal_code FROM receipt WHERE iuv = :iuv ORDER BY 1", iuv=receipt["iuv"])
    assert [row.fiscal_code for row in owners] == [EC, OTHER_EC]
    ran = either.json("--positions", "--from", ago(41))
    assert (ran["total"]["fetched"], ran["total"]["here"]) == (0, 1)


def test_copy_of_anothers_receipt_by_positions(either, serve):
    """Nor does it hide a payment that only the second opinion names, or one that is fetched by hand."""
    receipt = make_receipt(EC, 0, **LAST_WEEKS)
    either.settings |= {"positions_key": "core-key"}
    either.gpd.load(positions=[{"org": EC, "n": 0, **LAST_WEEKS}])
    assert ">OK<" in push(serve(either.url).url, copy_for(EC, OTHER_EC, receipt["iuv"]))
    assert either.json("--positions")["total"]["not_yet"] == 1
    either.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "hidden": True}])
    assert either.json("--iuv", receipt["iuv"])["total"]["fetched"] == 1


def test_copy_of_anothers_receipt_closes_no_item(either, serve):
    """An open item stays open when such a copy comes, in the status and in the next run."""
    [receipt] = made(1)
    either.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    either.run()
    assert ">OK<" in push(serve(either.url).url, copy_for(EC, OTHER_EC, receipt["iuv"]))
    status = either.json("--status")
    assert (status["items_total"], [item["iuv"] for item in status["items"]]) == (1, [receipt["iuv"]])
    assert status["ecs"][0]["open_items"] == 1
    either.run()
    assert list(either.items()) == [receipt["iuv"]]


# --- windows and watermarks -------------------------------------------------------------------------------------------


def test_first_run_and_the_next(job):
    """The first run covers three months and the wide sweep, the next ones the overlap behind the watermark."""
    first = job.json()["ecs"][0]
    start, end = first_window()
    assert (first["window_from"], first["window_to"], first["kind"]) == (str(start), str(end), "sweep")
    second = job.json()["ecs"][0]
    assert (second["window_from"], second["kind"]) == (ago(8), "window")


def test_configured_start(job):
    """The first run can start where the configuration says, and the sweep goes back further."""
    job.settings |= {"start": None, "sweep_days": 0}
    job.more = ""
    ran = job.json(STATION_GPD_START=ago(100))["ecs"][0]
    assert ran["window_from"] == ago(101)


def test_late_receipts(job):
    """A receipt that shows up behind the watermark is found: within the overlap by the next run, else by the sweep."""
    job.run()
    near, far = (make_receipt(EC, n, payment_date_time=f"{ago(days)}T10:00:00") for n, days in ((1, 6), (2, 80)))
    for receipt in (near, far):
        part = {"iuv": receipt["iuv"], "payment_date_time": receipt["payment_date_time"], "n": receipt["n"]}
        job.gpd.load(receipts=[{"org": EC, **part}])
    job.run()
    assert job.stored() == [near["iuv"]]
    yesterday = str(datetime.now(UTC) - timedelta(hours=25))[:19]
    job.rows("UPDATE reconcile_ec SET swept_at = :yesterday", yesterday=yesterday)
    ran = job.json()
    assert ran["ecs"][0]["kind"] == "sweep"
    assert job.stored() == iuvs([near, far])
    assert job.json()["ecs"][0]["kind"] == "window"


def test_sweep_counts_each_receipt_once(job):
    """The sweep shares its last day with the watermark's window, and windows share days: each receipt counts once."""
    times = [f"{ago(days)}T{at}" for days in (7, 8, 9, 37, 38, 39, 80) for at in ("00:00:00", "12:30:00", "23:59:59.5")]
    job.gpd.load(receipts=[{"org": EC, "n": n, "payment_date_time": at} for n, at in enumerate(times)])
    assert job.json()["total"]["listed"] == len(times)
    yesterday = str(datetime.now(UTC) - timedelta(hours=25))[:19]
    job.rows("UPDATE reconcile_ec SET swept_at = :yesterday", yesterday=yesterday)
    ran = job.json()
    assert (ran["ecs"][0]["kind"], ran["ecs"][0]["window_from"] < ago(80)) == ("sweep", True)
    assert (ran["total"]["listed"], ran["total"]["here"]) == (len(times), len(times))


def test_watermark_moves_for_a_whole_window_only(job):
    """A run that could not read all leaves the watermark where it was; one over given days as well."""
    generate(job.gpd, 300)
    job.run("--from", ago(5))
    assert job.rows("SELECT * FROM reconcile_ec") == []
    job.gpd.fault(endpoint="list", skip=1, status=500)
    ran = job.json(expect=1)
    assert "500" in ran["ecs"][0]["error"]
    assert job.rows("SELECT * FROM reconcile_ec") == []
    job.gpd.clear_faults()
    job.run()
    [mark] = job.rows("SELECT * FROM reconcile_ec")
    # The next one fails in the wide sweep: its own window was walked, the sweep was not.
    job.rows("UPDATE reconcile_ec SET swept_at = NULL")
    job.gpd.fault(endpoint="list", skip=1, status=500)
    job.run(expect=1)
    [after] = job.rows("SELECT * FROM reconcile_ec")
    assert after.watermark > mark.watermark
    assert after.swept_at is None


def test_watermark_waits_for_the_last_receipts(job):
    """The watermark does not move while receipts are on their way: what ends the walk then counts."""
    generate(job.gpd, 5)
    job.gpd.fault(endpoint="receipt", status=401, delay=0.2)
    assert job.json(expect=1)["ecs"][0]["outcome"] == "failed"
    assert job.rows("SELECT * FROM reconcile_ec") == []


# --- lists that cannot be read ----------------------------------------------------------------------------------------


def in_one_hour(first: int, count: int, day: str) -> list[dict[str, Any]]:
    """Receipts that no window can tell apart."""
    return [{"org": EC, "n": n, "payment_date_time": f"{day}T10:30:07"} for n in range(first, first + count)]


def numbers(*parts: list[dict[str, Any]]) -> list[str]:
    return sorted(make_receipt(EC, one["n"])["iuv"] for part in parts for one in part)


def test_page_that_stays_an_error(either):
    """All other pages and windows are read, the error says which was not, and the watermark does not move."""
    busy, before, after = in_one_hour(0, 250, ago(20)), in_one_hour(300, 3, ago(50)), in_one_hour(400, 3, ago(3))
    either.gpd.load(receipts=[*busy, *before, *after])
    lost = numbers(busy)[100:200]
    either.gpd.fault(endpoint="list", page=1, status=500)
    ran = either.json(expect=1)
    assert set(numbers(busy, before, after)) - set(either.stored()) <= set(lost)
    assert either.stored() != numbers(busy, before, after)
    [ec] = ran["ecs"]
    assert ec["outcome"] == "failed"
    assert f"{ago(20)} 10:" in ec["error"] or f"{ago(20)} 09:" in ec["error"]
    assert "page 1: 500" in ec["error"]
    assert (ec["listed"], ec["fetched"], ec["failed"]) == (len(either.stored()), len(either.stored()), 0)
    [row] = either.ledger()
    assert (row.outcome, row.error) == ("failed", ec["error"])
    assert either.rows("SELECT * FROM reconcile_ec") == []
    assert ec["error"] in either.run("--status", expect=1).out
    either.gpd.clear_faults()
    either.run()
    assert either.stored() == numbers(busy, before, after)
    assert len(either.rows("SELECT * FROM reconcile_ec")) == 1


def test_page_that_stays_an_error_everywhere(job):
    """Where a page fails in each window, none of the others is left out, and the walk ends soon."""
    parts = [in_one_hour(300 * n, 210, ago(days)) for n, days in enumerate((60, 4))]
    job.gpd.load(receipts=[one for part in parts for one in part])
    job.gpd.fault(endpoint="list", page=1, status=500)
    ran = job.json(expect=1)
    assert set(job.stored()) >= {iuv for part in parts for iuv in numbers(part)[:100] + numbers(part)[200:]}
    for days in (60, 4):
        assert ago(days) in ran["ecs"][0]["error"]
    assert job.gpd.stats()["by_endpoint"]["list"] < 300


def test_first_page_that_stays_an_error(job):
    """The first page is a page like the others."""
    part = in_one_hour(0, 250, ago(20))
    job.gpd.load(receipts=part)
    job.gpd.fault(endpoint="list", page=0, since="2016", status=500)
    ran = job.json("--from", ago(20), "--to", ago(20), expect=1)
    assert job.stored() == numbers(part)[100:]
    assert "page 0: 500" in ran["ecs"][0]["error"]


def test_faulty_position(either):
    """One that makes each list an error with which it is keeps its own hour away, and nothing else."""
    generate(either.gpd, 60)
    at = next(
        f"{ago(20)}T{hour:02d}:30:00"
        for hour in range(2, 22)
        if not any(
            f"{ago(20)}T{hour - 1:02d}" <= one["payment_date_time"] <= f"{ago(20)}T{hour + 2:02d}" for one in made(60)
        )
    )
    either.gpd.load(receipts=[{"org": EC, "n": 900, "payment_date_time": at, "faulty": True}])
    ran = either.json(expect=1)
    assert either.stored() == iuvs(made(60))
    assert (ran["total"]["listed"], ran["total"]["fetched"]) == (60, 60)
    assert "500" in ran["ecs"][0]["error"]
    assert f"{ago(20)} " in ran["ecs"][0]["error"]
    assert either.rows("SELECT * FROM reconcile_ec") == []
    assert either.gpd.stats()["by_endpoint"]["list"] < 150
    assert len(either.json("--dry-run", expect=1)["missing"]) == 0


def test_hour_that_stays_an_error_in_the_sweep(job):
    """It costs the sweep, and not the watermark, whose own days were read."""
    job.run()
    [mark] = job.rows("SELECT * FROM reconcile_ec")
    job.rows("UPDATE reconcile_ec SET swept_at = :then", then=str(datetime.now(UTC) - timedelta(days=3))[:19])
    job.gpd.load(receipts=[{"org": EC, "n": 1, "payment_date_time": f"{ago(70)}T10:00:00", "faulty": True}])
    ran = job.json(expect=1)
    assert ran["ecs"][0]["kind"] == "sweep"
    [after] = job.rows("SELECT * FROM reconcile_ec")
    assert after.watermark > mark.watermark
    assert instant(after.swept_at) < instant(mark.swept_at)


def test_dry_run_of_what_cannot_be_read(job):
    """It names each missing receipt once, though windows are read again narrower, and fails as a run does."""
    busy = in_one_hour(0, 250, ago(20))
    job.gpd.load(receipts=busy)
    job.gpd.fault(endpoint="list", page=1, status=500)
    ran = job.json("--dry-run", expect=1)
    assert sorted(one["iuv"] for one in ran["missing"]) == sorted(numbers(busy)[:100] + numbers(busy)[200:])
    assert ran["total"]["missing"] == 150
    assert job.rows("SELECT * FROM reconcile_ec") == job.ledger() == []


def test_slow_windows_are_narrowed(either):
    """A window that the API cannot list in time is narrowed; what fits is remembered, and grows where it may."""
    receipts = generate(either.gpd, 240)
    either.settings |= {"timeout": 1.0, "sweep_days": 0, "start": ago(45)}
    either.gpd.settings(slow_rows=150)  # a month of them takes 3 s
    ran = either.json()
    assert either.stored() == iuvs(receipts)
    assert ran["total"]["fetched"] == 240
    [mark] = either.rows("SELECT * FROM reconcile_ec")
    assert 1 <= mark.window_hours < 720
    # The next one asks for no more at once, and for more as soon as the API is quick again.
    either.gpd.settings(slow_rows=0)
    either.rows("UPDATE reconcile_ec SET watermark = :then, swept_at = NULL", then=f"{ago(40)} 00:00:00")
    either.settings["timeout"] = 30
    either.gpd.clear_stats()
    either.run()
    asked = [hours_of(call) for call in either.gpd.log() if call["endpoint"] == "list"]
    assert asked[0] <= mark.window_hours
    assert max(asked) > asked[0]
    assert either.rows("SELECT window_hours FROM reconcile_ec")[0].window_hours in (
        None,
        *range(mark.window_hours + 1, 720),
    )


def hours_of(call: dict[str, Any]) -> float:
    low, high = call["params"]["from"], call["params"]["to"]
    start = datetime.fromisoformat(low)
    end = datetime.fromisoformat(high if "T" in high else f"{high}T23:59:59")
    return (end - start).total_seconds() / 3600


@pytest.mark.parametrize("path", ["/no-such-path", "/../v9"])
def test_wrong_address(job, path):
    """An address where the API is not says so for each EC, whatever 404 it gives; nothing counts as walked."""
    job.settings["url"] = job.gpd.receipts_url + path
    ran = job.json(expect=1)
    assert "check gpd.url" in ran["ecs"][0]["error"]
    assert job.rows("SELECT * FROM reconcile_ec") == []
    assert job.gpd.stats()["calls"] == 1


def test_wrong_address_of_positions(job):
    """The same for GPD-Core's."""
    job.settings |= {"positions_key": "core-key", "positions_url": f"{job.gpd.core_url}/x"}
    ran = job.json("--positions", expect=1)
    assert "check gpd.positions_url" in ran["ecs"][0]["error"]


def test_position_pages_that_stay_an_error(job):
    """The other pages and states are read, and the error names the one that was not."""
    job.settings |= {"positions_key": "core-key"}
    job.gpd.load(positions=[{"org": EC, "n": n, **LAST_WEEKS} for n in range(120)])
    job.gpd.fault(endpoint="positions", page=1, status=500)
    ran = job.json("--positions", "--from", ago(29), "--to", ago(2), expect=1)
    assert "PAID positions, page 1" in ran["ecs"][0]["error"]
    assert ran["total"]["positions"] > 0
    assert ran["total"]["not_yet"] == ran["total"]["positions"]


def test_receipt_at_a_wrong_address(job):
    """A 404 for a receipt that the service did not write is a failure that is said, and not "not there yet"."""
    [receipt] = generate(job.gpd, 1)
    spring = {"timestamp": "2026-11-29T10:00:00Z", "status": 404, "error": "Not Found", "path": "/x"}
    job.gpd.fault(endpoint="receipt", status=404, json=spring)
    ran = job.json(expect=1)
    assert (ran["total"]["failed"], ran["total"]["not_yet"]) == (1, 0)
    item = job.items()[receipt["iuv"]]
    assert (item.reason, "check gpd.url" in item.last_error) == ("api_address_wrong", True)
    assert job.json("--iuv", receipt["iuv"], expect=1)["total"]["failed"] == 1


def test_check_asks_the_api_once(job):
    """`station check` finds a wrong address or key by one call, which can be left out."""

    def check(*arguments: str, expect: int) -> str:
        command, environ = job.prepare((), {})
        job.gpd.clear_stats()
        return ended(forked.station([*command[:-1], "check", *arguments], environ, job.folder), expect).out

    assert "WRONG" not in check(expect=0)
    assert job.gpd.stats()["calls"] == 1
    check("--offline", expect=0)
    assert job.gpd.stats()["calls"] == 0
    job.settings["key"] = "another-key"
    assert f"WRONG  gpd.url, called for EC {EC}: 401" in check(expect=1)
    job.settings |= {"key": "receipts-key", "url": f"{job.gpd.receipts_url}/x"}
    assert "check gpd.url" in check(expect=1)
    assert job.gpd.stats()["calls"] == 1
    job.more = ""
    job.ecs = ()
    check(expect=0)  # nobody to ask for
    assert job.gpd.stats()["calls"] == 0


# --- a clock that was wrong -------------------------------------------------------------------------------------------


def test_run_a_year_ahead(job, monkeypatch):
    """One run by such a clock, and the next one by the right clock finds what is missing."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=365)

    receipts = generate(job.gpd, 5)
    command, environ = job.prepare((), {})
    settings, engine = config.load(Path(command[1]), environ), store.connect(job.url)
    with monkeypatch.context() as patch:
        for module in (run, walk):
            patch.setattr(module, "datetime", Ahead)
        assert run.reconcile(settings, engine, run.Order()).complete
    engine.dispose()
    assert job.stored() == []
    assert job.json("--status", expect=1)["late"]
    job.run("--from", ago(3), "--to", ago(3))  # mends nothing
    assert job.json("--status", expect=1)["late"]
    assert job.json()["total"]["fetched"] == 5
    assert job.stored() == iuvs(receipts)
    assert not job.json("--status")["late"]
    assert job.json()["ecs"][0]["error"] is None


def test_clock_that_was_ahead(either):
    """What a run wrote whose clock was a year ahead is said, shown as late, and mended by the next run."""
    ahead = str(datetime.now(UTC) + timedelta(days=365))[:19]
    receipts = generate(either.gpd, 5)
    either.gpd.load(receipts=[{"org": EC, "n": 9, **LAST_WEEKS, "unpaid": {"listed": True}}])
    either.run()
    waiting = make_receipt(EC, 9, **LAST_WEEKS)["iuv"]
    either.rows("UPDATE reconcile_ec SET watermark = :ahead, walked_at = :ahead, swept_at = :ahead", ahead=ahead)
    either.rows("UPDATE reconcile_run SET started_at = :ahead, finished_at = :ahead", ahead=ahead)
    either.rows(
        "UPDATE reconcile_item SET first_at = :ahead, last_at = :ahead, next_attempt_at = :ahead, state = 'given_up'",
        ahead=ahead,
    )
    either.rows("DELETE FROM transfer WHERE receipt_id = :id", id=receipts[0]["receipt_id"])
    either.rows("DELETE FROM receipt_flag WHERE receipt_id = :id", id=receipts[0]["receipt_id"])
    either.rows("DELETE FROM receipt WHERE receipt_id = :id", id=receipts[0]["receipt_id"])
    assert [ec["late"] for ec in either.json("--status", expect=1)["ecs"]] == [True]
    assert "IN THE FUTURE" in either.run("--status", expect=1).out

    ran = either.run("--json")
    [ec] = json.loads(ran.out)["ecs"]
    assert (ec["outcome"], ec["kind"], ec["fetched"]) == ("done", "sweep", 1)
    assert "a clock was ahead: its watermark was" in ec["error"]
    assert len(ran.events("clock_was_ahead")) == 4
    assert either.stored() == iuvs(receipts)
    assert either.items()[waiting].state == "open"
    assert instant_utc(either.items()[waiting].next_attempt_at) < datetime.now(UTC) + timedelta(days=2)
    [mark] = either.rows("SELECT * FROM reconcile_ec")
    assert max(map(instant_utc, (mark.watermark, mark.walked_at, mark.swept_at))) <= datetime.now(UTC)
    old, new = either.ledger()
    assert (old.outcome, "its clock was ahead" in old.error, new.outcome) == ("failed", True, "done")
    status = either.json("--status")
    assert [run["outcome"] for run in status["ecs"][0]["runs"]] == ["done"]
    again = either.json()
    assert (again["ecs"][0]["error"], again["ecs"][0]["kind"]) == (None, "window")


def test_clock_that_was_ahead_goes_on_from_the_last_whole_walk(job):
    """The walk starts where the ledger last says so, with the overlap: not from a run that saw one day only."""
    job.settings["sweep_days"] = 0
    job.run()
    ahead = str(datetime.now(UTC) + timedelta(days=365))[:19]
    job.rows("UPDATE reconcile_run SET started_at = :then", then=f"{ago(20)} 12:00:00")
    job.rows("UPDATE reconcile_ec SET watermark = :ahead", ahead=ahead)
    job.rows(
        "INSERT INTO reconcile_run SELECT id_pa, 'later', kind, outcome, :day, :day, :at, :at, listed, here, fetched, "
        "not_yet, waiting, failed, requests, error FROM reconcile_run",
        day=ago(1), at=f"{ago(1)} 12:00:00",
    )  # fmt: skip
    assert job.json()["ecs"][0]["window_from"] == ago(28)


def instant_utc(value: Any) -> datetime:
    at = instant(value)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# --- things go wrong --------------------------------------------------------------------------------------------------


def test_killed_in_the_middle(either):
    """A run that is killed keeps what it stored; the next one starts at once, says so, and nothing is twice."""
    receipts = generate(either.gpd, 300)
    either.gpd.fault(endpoint="receipt", skip=60, delay=60)  # the run waits there until it is killed
    process = either.start()
    until(lambda: either.gpd.stats()["by_endpoint"]["receipt"] > 60, "60 receipts fetched")
    process.kill()
    process.communicate()
    stored = either.stored()
    assert 0 < len(stored) < 300
    assert either.rows("SELECT * FROM reconcile_ec") == []
    either.gpd.clear_faults()
    # The server may need a moment to notice that the session, and with it the lock, is gone.
    until(lambda: either.free(), "the lock is free")
    either.run()
    assert either.stored() == iuvs(receipts)
    assert [row.outcome for row in either.ledger()] == ["aborted", "done"]


def test_terminated_in_the_middle(either):
    """SIGTERM ends a run after the receipts in hand, each stored and counted; the next run goes on."""
    receipts = generate(either.gpd, 300)
    either.gpd.fault(endpoint="receipt", skip=60, delay=1)  # slow from here on: the signal comes long before the end
    process = either.start("--json")
    until(lambda: either.gpd.stats()["by_endpoint"]["receipt"] > 60, "60 receipts fetched")
    process.send_signal(signal.SIGTERM)
    ran = json.loads(ended(process, 1).out)
    assert ran["ecs"][0]["outcome"] == "stopped"
    assert ran["total"]["fetched"] == len(either.stored()) < 300
    assert ran["total"]["fetched"] == either.gpd.stats()["by_endpoint"]["receipt"]
    [row] = either.ledger()
    assert (row.outcome, row.fetched) == ("stopped", ran["total"]["fetched"])
    either.gpd.clear_faults()
    either.run()
    assert either.stored() == iuvs(receipts)


def test_api_down_for_half_of_the_run(either):
    """An outage ends the run early and says so; what was fetched stays, and the next run finds the rest."""
    receipts = generate(either.gpd, 200)
    either.settings |= {"again_after": 0}
    either.gpd.fault(name="outage", skip=60, status=503, style="html")
    ran = either.json(expect=1)
    assert ran["ecs"][0]["outcome"] == "failed"
    assert "503" in ran["ecs"][0]["error"]
    assert ran["total"]["requests"] < 60 + 30
    assert 0 < len(either.stored()) < 200
    assert either.rows("SELECT * FROM reconcile_ec") == []
    either.gpd.clear_faults()
    either.run()
    assert either.stored() == iuvs(receipts)
    assert either.items() == {}


def test_some_receipts_always_fail(job):
    """Receipts that end in a server error every time do not keep the others away."""
    receipts = generate(job.gpd, 60)
    broken = {receipt["iuv"] for receipt in receipts[::3]}
    for iuv in broken:
        job.gpd.fault(endpoint="receipt", iuv=iuv, status=500)
    ran = job.json(expect=1)
    assert ran["ecs"][0]["outcome"] == "done"
    assert (ran["total"]["fetched"], ran["total"]["failed"]) == (40, 20)
    assert set(job.stored()) == set(iuvs(receipts)) - broken
    assert {item.reason for item in job.items().values()} == {"api_unavailable"}
    assert set(job.items()) == broken


def test_one_wrong_key_among_three(job):
    """An EC whose key is wrong is asked for once and named; the others are walked."""
    job.ecs = (EC, OTHER_EC, THIRD_EC)
    for ec in job.ecs:
        generate(job.gpd, 30, ec)
    ran = job.run("--json", expect=1, STATION_EC_88888888888_GPD_KEY="wrong")
    outcomes = {ec["id_pa"]: ec["outcome"] for ec in json.loads(ran.out)["ecs"]}
    assert outcomes == {EC: "done", OTHER_EC: "failed", THIRD_EC: "done"}
    assert [len(job.stored(ec)) for ec in job.ecs] == [30, 0, 30]
    assert job.gpd.stats()["by_org"][OTHER_EC] == {"list": 1}
    [failed] = ran.events("ec_failed")
    assert failed["id_pa"] == OTHER_EC
    assert "the key is wrong" in failed["error"]
    assert "wrong" not in json.dumps(ran.events("reconcile_started"))
    # With its key the EC is walked alone, and all are up to date.
    job.run("--ec", OTHER_EC)
    assert job.stored(OTHER_EC) == iuvs(made(30, OTHER_EC))


@pytest.mark.parametrize("fault", [{"body": "<html>", "content_type": "text/html"}, {"huge": 20_000_000}])
def test_nonsense_instead_of_a_list(job, fault):
    """What is no list ends the EC's walk with an error that says what came."""
    generate(job.gpd, 10)
    job.gpd.fault(endpoint="list", **fault)
    ran = job.json(expect=1)
    assert ran["ecs"][0]["error"].startswith(("200 with content type text/html", "an answer larger than"))
    assert job.ledger()[0].error == ran["ecs"][0]["error"]


def test_unreadable_rows(job):
    """A row that says nothing usable is counted as failed and hides no other."""
    [receipt] = generate(job.gpd, 1)
    good = {"iuv": receipt["iuv"], "organizationFiscalCode": EC, "paymentDateTime": receipt["payment_date_time"]}
    page = {"currentPageNumber": 0, "length": 2, "totalPages": 1, "results": [{"iuv": None}, good]}
    job.gpd.fault(endpoint="list", json=page)
    ran = job.json("--from", ago(3), expect=1)
    assert (ran["total"]["fetched"], ran["total"]["failed"]) == (1, 1)


def test_hostile_rows(job):
    """A row with control characters is named in the log, written out, and the others of its page are fetched."""
    [receipt] = generate(job.gpd, 1)
    good = {"iuv": receipt["iuv"], "organizationFiscalCode": EC, "paymentDateTime": receipt["payment_date_time"]}
    bad = [{"iuv": "01\x1b[31m\nFORGED"}, {"iuv": "02\ud800"}, {"iuv": "03[/red]", "organizationFiscalCode": EC}]
    job.gpd.fault(endpoint="list", json={"currentPageNumber": 0, "length": 4, "totalPages": 1, "results": [*bad, good]})
    ran = job.run("--from", ago(3), expect=1)
    named = ran.events("row_unreadable")
    assert [line["row"] for line in named] == [1, 2]
    assert r"\x1b[31m" in named[0]["reason"]
    assert r"\ud800" in named[1]["reason"]
    assert job.rows("SELECT iuv FROM receipt") == [(receipt["iuv"],)]
    assert "03[/red]" in job.run("--status", expect=1).out


def test_rate_limited(job):
    """Where the gateway refuses calls the run waits as it says, in any form, and finds everything."""
    receipts = generate(job.gpd, 30)
    job.settings |= {"retries": 10}
    job.gpd.fault(name="limit", status=429, every=12, headers={"Retry-After": "0"})
    job.gpd.fault(name="silent", status=429, every=17)
    job.run()
    assert job.stored() == iuvs(receipts)
    assert job.gpd.stats()["rate_limited"] > 3


# --- both ways at once ------------------------------------------------------------------------------------------------


def push(url: str, receipt: dict[str, Any]) -> str:
    request = urllib.request.Request(url, soap_envelope(receipt), {"Content-Type": "text/xml", "SOAPAction": ""})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read().decode()


def test_pushed_while_fetched(either, serve):
    """A receipt that is pushed before, while or after it is fetched is one row, and every push is answered OK."""
    receipts = generate(either.gpd, 40, version="mixed")
    server = serve(either.url)
    for receipt in receipts[:5]:
        assert ">OK<" in push(server.url, receipt)
    either.gpd.fault(endpoint="receipt", delay=0.03)
    process = either.start("--json")
    until(lambda: either.gpd.stats()["by_endpoint"]["receipt"] >= 1, "a receipt asked for")
    answers: list[str] = []
    pushers = [
        threading.Thread(target=lambda part: answers.extend(push(server.url, one) for one in part), args=(part,))
        for part in (receipts[::2], receipts[1::2])
    ]
    for pusher in pushers:
        pusher.start()
    for pusher in pushers:
        pusher.join()
    ran = json.loads(ended(process, 0).out)
    for receipt in receipts:
        answers.append(push(server.url, receipt))
    assert len(answers) == 80
    assert all("<outcome>OK</outcome>" in answer for answer in answers)
    assert either.stored() == iuvs(receipts)
    by_source = {row.source: row.n for row in either.rows("SELECT source, count(*) AS n FROM receipt GROUP BY source")}
    assert by_source.get("reconcile", 0) == ran["total"]["fetched"]
    assert sum(by_source.values()) == 40
    assert either.rows("SELECT * FROM refused") == []


def test_two_runs_at_once(either):
    """The second run says that another is active and ends with 3, asking for nothing; looking is allowed."""
    receipts = generate(either.gpd, 20)
    name = either.gpd.fault(endpoint="list", delay=5, times=1)
    first = either.start()
    until(lambda: either.gpd.faults()[name] == 1, "the first run lists")
    first.send_signal(signal.SIGSTOP)  # so that it takes as long as the others need
    second = either.run(expect=3)
    assert "Another `station reconcile` is running" in second.err
    assert either.run("--quiet", expect=3).err == ""
    assert either.gpd.stats()["calls"] == 1
    by_hand = either.json("--iuv", receipts[0]["iuv"])
    assert by_hand["total"]["fetched"] == 1
    status = either.json("--status", expect=1)
    assert status["ecs"][0]["runs"][0]["outcome"] == "done"  # the one by hand came later
    assert len(either.json("--dry-run")["missing"]) == 19
    first.send_signal(signal.SIGCONT)
    ended(first, 0)
    assert either.stored() == iuvs(receipts)
    either.run()


# --- open items -------------------------------------------------------------------------------------------------------


def test_not_there_yet(either):
    """A receipt that is listed and not to be had yet is asked for again when it is due, later each time."""
    [receipt] = made(1)
    iuv = receipt["iuv"]
    either.settings |= {"again_after": 3000}
    either.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    assert either.json()["total"]["not_yet"] == 1
    pauses = []
    for attempts in (1, 2, 3):
        item = either.items()[iuv]
        assert (item.attempts, item.reason, item.state) == (attempts, "not_yet", "open")
        assert "422" in item.last_error
        pauses.append(instant(item.next_attempt_at) - instant(item.last_at))
        either.gpd.clear_stats()
        ran = either.json("--from", ago(41))  # not due: listed, and left alone
        assert (ran["total"]["waiting"], either.gpd.stats()["by_endpoint"]["receipt"]) == (1, 0)
        either.make_due()
        either.gpd.clear_stats()
        # Asked for again though the window does not list it, and once though it does.
        ran = either.json() if attempts % 2 else either.json("--from", ago(41))
        assert (ran["total"]["not_yet"], either.gpd.stats()["by_endpoint"]["receipt"]) == (1, 1)
    assert [round(pause.total_seconds()) for pause in pauses] == [3000, 6000, 12000]
    either.gpd.pay(EC, iuv)
    either.make_due()
    assert either.json()["total"]["fetched"] == 1
    assert either.stored() == [iuv]
    assert either.items() == {}


def test_document_in_another_dress(job):
    """What the API hands out is a receipt under any root of the contract, and UTF-8 whatever its media type says."""
    receipts = made(2)
    for receipt, root in zip(receipts, ("paSendRTV2Request", "PaSendRTV2Request"), strict=True):
        xml = re.sub("<fullName>[^<]*<", "<fullName>Nicolò D'Àngelo<", receipt["xml"].decode())
        xml = xml.replace("PaSendRTV2Request", root)
        if root.startswith("p"):
            envelope = (
                "<s:Envelope xmlns:s='http://schemas.xmlsoap.org/soap/envelope/'><s:Body>{}</s:Body></s:Envelope>"
            )
            xml = envelope.format(xml.partition("?>")[2])
        job.gpd.load(receipts=[{"org": EC, "n": receipt["n"], **LAST_WEEKS, "xml": xml}])
    job.gpd.fault(endpoint="receipt", content_type="application/xml; charset=ISO-8859-1")
    assert job.json()["total"]["fetched"] == 2
    assert {row.debtor_name for row in job.rows("SELECT debtor_name FROM receipt")} == {"Nicolò D'Àngelo"}


def test_once_in_a_run(job):
    """Without any pause an open item that is listed as well is asked for once in each run."""
    job.settings |= {"again_after": 0}
    job.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    for runs in (1, 2, 3):
        job.rows("UPDATE reconcile_ec SET swept_at = NULL")
        job.run()
        assert job.gpd.stats()["by_endpoint"]["receipt"] == runs


def instant(value: Any) -> datetime:
    """A time as either database gives it."""
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)


def test_given_up(job):
    """After the configured days an item is not asked for any more and stays visible; by hand it can be fetched."""
    [receipt] = made(1)
    iuv = receipt["iuv"]
    job.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    job.run()
    job.make_due()
    job.rows("UPDATE reconcile_item SET first_at = '2020-01-01 00:00:00', last_at = '2020-01-01 00:00:00'")
    assert len(job.run().events("receipt_given_up")) == 1
    job.gpd.clear_stats()
    job.rows("UPDATE reconcile_item SET next_attempt_at = '2020-01-01 00:00:00'")
    assert job.json("--from", ago(41))["total"]["waiting"] == 1
    assert job.gpd.stats()["by_endpoint"]["receipt"] == 0
    assert "given_up" in job.run("--status").out
    job.json("--iuv", iuv, expect=1)
    job.gpd.pay(EC, iuv)
    assert job.json("--iuv", iuv)["total"]["fetched"] == 1
    assert job.items() == {}


def test_item_arrives_by_push(job, serve):
    """An open item whose receipt is pushed meanwhile is closed without a call."""
    [receipt] = made(1)
    job.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    job.run()
    assert ">OK<" in push(serve(job.url).url, receipt)
    assert job.json("--status")["items"] == []
    job.make_due()
    job.gpd.clear_stats()
    job.run()
    assert job.items() == {}
    assert job.gpd.stats()["by_endpoint"]["receipt"] == 0


def test_documents_that_are_not_stored(either):
    """What breaks the schema is kept as refused; what is another EC's, another IUV's or no receipt is an open item."""
    receipts = made(5)
    broken = (
        receipts[0]["xml"].replace(b"<description>", b"<descriptions>").replace(b"</description>", b"</descriptions>")
    )
    broken = receipts[0]["xml"].replace(b"<outcome>OK</outcome>", b"")
    documents = [
        broken,
        make_receipt(OTHER_EC, 1, iuv=receipts[1]["iuv"])["xml"],
        make_receipt(EC, 9, **LAST_WEEKS)["xml"],
        b"<PaSendRTV2Request><idPA>",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><html>&b;</html>",
    ]
    for n, document in enumerate(documents):
        either.gpd.load(receipts=[{"org": EC, "n": n, **LAST_WEEKS, "xml": document.decode()}])
    either.ecs = (EC, OTHER_EC)
    ran = either.json("--ec", EC, expect=1)
    assert (ran["total"]["failed"], ran["total"]["fetched"], ran["ecs"][0]["outcome"]) == (5, 0, "done")
    assert either.stored() == either.stored(OTHER_EC) == []
    [refused] = either.rows("SELECT id_pa, iuv, raw, source, fault_code, request_id FROM refused")
    assert (refused.id_pa, refused.iuv, bytes(refused.raw)) == (EC, receipts[0]["iuv"], broken)
    assert (refused.source, refused.fault_code) == ("reconcile", "PAA_SINTASSI_EXTRAXSD")
    reasons = {iuv: item.reason for iuv, item in either.items().items()}
    assert [reasons[receipt["iuv"]] for receipt in receipts] == [
        "refused", "gpd_mismatch", "gpd_mismatch", "document_malformed", "document_malformed",
    ]  # fmt: skip
    ids = {call["request_id"] for call in either.gpd.log()}
    assert {item.request_id for item in either.items().values()} <= ids
    assert refused.request_id in ids
    # They wait like anything else that is not there: another run on the same day asks for none of them.
    either.gpd.clear_stats()
    assert either.json("--from", ago(41), "--ec", EC)["total"]["waiting"] == 5
    assert either.gpd.stats()["by_endpoint"]["receipt"] == 0
    # When due they are asked for again, but for the refused one, whose document is here to be replayed.
    either.make_due()
    assert either.json("--ec", EC, expect=1)["total"]["failed"] == 4
    assert either.rows("SELECT times FROM refused")[0].times == 1
    assert either.json("--status", expect=1)["ecs"][0]["refused_items"] == 1


# --- by hand, and looking ---------------------------------------------------------------------------------------------


def test_dry_run(job):
    """A dry run says what is missing, and fetches and writes nothing."""
    receipts = generate(job.gpd, 30)
    fill(job.url, EC, receipts[:10])
    ran = job.run("--dry-run")
    assert sorted(line.split("\t")[1] for line in ran.out.splitlines()) == iuvs(receipts[10:])
    assert job.gpd.stats()["by_endpoint"]["receipt"] == 0
    assert job.ledger() == job.rows("SELECT * FROM reconcile_ec") == list(job.items()) == []
    as_json = job.json("--dry-run")
    assert sorted(one["iuv"] for one in as_json["missing"]) == iuvs(receipts[10:])


def test_by_hand(job):
    """One receipt is fetched by hand, whatever the list says; what the API does not have is an error."""
    [receipt] = made(1)
    job.gpd.load(receipts=[{"org": EC, "n": 0, **LAST_WEEKS, "hidden": True}])
    job.run("--iuv", receipt["iuv"])
    assert job.stored() == [receipt["iuv"]]
    assert job.json("--iuv", receipt["iuv"])["total"]["here"] == 1
    assert job.json("--iuv", "01999999999999999", expect=1)["total"]["not_yet"] == 1
    assert job.gpd.stats()["by_endpoint"] == {"list": 0, "receipt": 3, "positions": 0, "other": 0}
    assert [row.kind for row in job.ledger()] == ["iuv"] * 3


def test_quiet(job):
    """For cron nothing is printed unless something is wrong, and then which EC and why."""
    generate(job.gpd, 3)
    done = job.run("--quiet")
    assert (done.out, done.err) == ("", "")
    status = job.run("--status", "--quiet")
    assert (status.out, status.err) == ("", "")
    job.gpd.fault(endpoint="list", status=401)
    failed = job.run("--quiet", expect=1)
    assert EC in failed.out
    assert "ec_failed" in failed.err


def test_cron_and_terminal(job):
    """In cron there are log lines only, on standard error; on a terminal a table at the end."""
    generate(job.gpd, 5)
    ran = job.run()
    assert ran.out == ""
    assert all(json.loads(line) for line in ran.err.splitlines())
    assert len(ran.events("receipt_fetched")) == 5
    ours, theirs = pty.openpty()
    process = job.on_terminal(theirs, "--from", ago(41))
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # what Linux says when the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait(60) == 0
    [line] = [line.split() for line in shown.decode().splitlines() if line.startswith(f"{EC} ")]
    assert line[:4] == [EC, "done", "5", "5"]


def test_status(job):
    """The status tells runs, open items, and which ECs are late, with an exit status for monitoring."""
    job.ecs = (EC, OTHER_EC)
    generate(job.gpd, 3)
    job.gpd.load(receipts=[{"org": OTHER_EC, "n": 0, **LAST_WEEKS, "unpaid": {"listed": True}}])
    before = job.json("--status", expect=1)
    assert [(ec["id_pa"], ec["late"], ec["walked_at"]) for ec in before["ecs"]] == [
        (EC, True, None),
        (OTHER_EC, True, None),
    ]
    job.run()
    status = job.json("--status")
    assert [ec["late"] for ec in status["ecs"]] == [False, False]
    assert status["ecs"][0]["runs"][0]["fetched"] == 3
    assert [(item["id_pa"], item["reason"]) for item in status["items"]] == [(OTHER_EC, "not_yet")]
    shown = job.run("--status").out
    assert "not_yet" in shown
    assert "LATE" not in shown
    job.rows("UPDATE reconcile_ec SET walked_at = '2020-01-01 00:00:00' WHERE id_pa = :ec", ec=EC)
    shown = job.run("--status", expect=1).out
    assert shown.count("LATE") == 1
    assert max(map(len, shown.splitlines())) <= 80


def test_ledger_is_kept_for_its_time(job):
    """Runs older than configured leave the ledger; their ECs' watermarks stay."""
    job.run()
    job.rows("UPDATE reconcile_run SET started_at = '2020-01-01 00:00:00'")
    job.run()
    assert len(job.ledger()) == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (("--to", "2026-01-01"), {}, "--to needs --from"),
        (("--from", "2026-02-01", "--to", "2026-01-01"), {}, "--from is after --to"),
        (("--from", "30/02/2026"), {}, "is not a day"),
        (("--iuv", "01", "--positions"), {}, "--iuv can be combined only with one --ec"),
        (("--iuv", "0" * 36), {}, "1 to 35 characters"),
        (("--ec", "99999999999"), {}, "not configured"),
        ((), {"key": None}, "STATION_GPD_KEY"),
        (("--positions",), {}, "STATION_GPD_POSITIONS_KEY"),
        ((), {"rate": 0}, "gpd.rate"),
        ((), {"window_days": 31}, "gpd.window_days"),
        ((), {"ca_file": "no-such.pem"}, "gpd.ca_file"),
    ],
)
def test_usage(job, arguments, settings, message):
    """Wrong usage and wrong configuration end with 2 before anything is asked, and say what is wrong."""
    job.settings |= settings
    ran = job.run(*arguments, expect=2)
    assert message in ran.err
    assert job.gpd.stats()["calls"] == 0


def test_id_of_no_ec():
    """Where no EC is configured, only a fiscal code of 11 digits is asked for."""
    assert run.selected(config.Settings(), [EC, EC]) == [EC]
    with pytest.raises(ConfigError, match="11 digits"):
        run.selected(config.Settings(), ["EC"])


def test_ec_left_out(job):
    """An EC can be left out of the runs."""
    job.ecs = (EC,)
    job.more = f'[[ec]]\nid = "{OTHER_EC}"\nreconcile = false\n'
    assert [ec["id_pa"] for ec in job.json()["ecs"]] == [EC]
    assert [ec["late"] for ec in job.json("--status")["ecs"]] == [False, False]


# --- the second opinion -----------------------------------------------------------------------------------------------


def test_positions(either):
    """Paid positions name payments that nobody listed: fetched if they are to be had, else an open item with amount."""
    either.settings |= {"positions_key": "core-key"}
    either.gpd.load(generate={"org": EC, "count": 60, **GENERATED, "positions": True})
    unlisted = make_receipt(EC, 100, **LAST_WEEKS)
    nowhere = make_position(EC, 101, **LAST_WEEKS)["paymentOption"][0]
    either.gpd.load(
        receipts=[{"org": EC, "n": 100, **LAST_WEEKS, "hidden": True}],
        positions=[
            {"org": EC, "n": n, **LAST_WEEKS, "status": status} for n, status in ((100, "REPORTED"), (101, "PAID"))
        ],
    )
    ran = either.json("--positions")
    assert either.stored() == iuvs([*made(60), unlisted])
    [item] = either.items().values()
    assert (item.iuv, item.notice_number, item.reason) == (nowhere["iuv"], nowhere["nav"], "not_yet")
    [shown] = either.json("--status")["items"]
    assert shown["amount"] == f"{nowhere['amount'] / 100:.2f}"
    assert ran["total"]["fetched"] == 61
    # Again: nothing is asked for twice but the lists.
    either.gpd.clear_stats()
    either.run("--positions", "--from", ago(41))
    assert either.gpd.stats()["by_endpoint"]["receipt"] == 0


def test_positions_without_right(job):
    """Where GPD-Core rejects the key the EC fails, after its receipts were walked."""
    generate(job.gpd, 3)
    ran = job.json("--positions", expect=1, STATION_GPD_POSITIONS_KEY="wrong")
    assert ran["ecs"][0]["outcome"] == "failed"
    assert job.stored() == iuvs(made(3))
    assert len(job.rows("SELECT * FROM reconcile_ec")) == 1


def test_check_masks_keys(job):
    """`station check` shows whose keys are set, and none of them."""
    job.more = f'[[ec]]\nid = "{OTHER_EC}"\ngpd_key = "secret-of-an-ec"\n'
    job.settings |= {"key": "secret-of-all", "proxy": "http://user:secret-of-proxy@127.0.0.1:9"}
    command, environ = job.prepare((), {"STATION_EC_77777777777_GPD_POSITIONS_KEY": "secret-of-core"})
    ran = ended(forked.station([*command[:-1], "check", "--offline"], environ, job.folder), 0)
    assert "secret-" not in ran.out + ran.err
    assert "gpd.key = **********" in ran.out
    assert f"ec {EC}: stations any, gpd_positions_key **********" in ran.out
    assert f"ec {OTHER_EC}: stations any, gpd_key **********" in ran.out
