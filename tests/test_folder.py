"""The destination of kind `folder`: what its files hold, when they are written, and that none is lost or written twice.

The clock is the test's own. What the tables share with exports: test_export.
"""

import contextlib
import itertools
import os
import random
import resource
import signal
import stat
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest
from biz_events import a_biz_event
from build import EC, OTHER_EC, a_request, a_stamp_transfer, an_envelope
from folders import HOUR, NOON, PLACES, Station, Zip, incomplete, settings
from sqlalchemy import update
from structlog.testing import CapturingLogger

from station import columns, config, contract, store
from station.deliver import archive
from station.deliver import folder as deliver
from station.errors import ConfigError
from station.intake import Intake, Origin
from station.receipt import Source
from station.store import files, outgoing, tables


@pytest.fixture
def erp(database_url, tmp_path):
    """`erp(at="02:30")`: a station with that folder."""
    made = []

    def station(**over):
        made.append(Station(database_url, tmp_path / "erp", over))
        return made[-1]

    yield station
    for one in made:
        one.engine.dispose()


@pytest.fixture
def logged(monkeypatch):
    """The events that are logged, as (event, fields)."""
    log = CapturingLogger()
    monkeypatch.setattr(deliver, "_log", log)
    return lambda: [(call.args[0], call.kwargs) for call in log.calls]


# --- the schedule -----------------------------------------------------------------------------------------------------


def at(text):
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("schedule", "now", "then"),
    [
        ({"at": "02:30"}, "2026-11-28T01:00+01:00", "2026-11-28T02:30+01:00"),
        ({"at": "02:30"}, "2026-11-28T02:30+01:00", "2026-11-29T02:30+01:00"),
        ({"at": "00:00"}, "2026-11-28T23:59+01:00", "2026-11-29T00:00+01:00"),
        ({"at": "23:45"}, "2026-12-31T23:50+01:00", "2027-01-01T23:45+01:00"),
        # Clocks go forward from 2:00 to 3:00: there is no 2:30.
        ({"at": "02:30"}, "2026-03-28T12:00+01:00", "2026-03-29T03:30+02:00"),
        ({"at": "02:30"}, "2026-03-29T03:30+02:00", "2026-03-30T02:30+02:00"),
        # Clocks go back from 3:00 to 2:00: there are two.
        ({"at": "02:30"}, "2026-10-25T00:10+02:00", "2026-10-25T02:30+02:00"),
        ({"at": "02:30"}, "2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"),
        ({"every_minutes": 15}, "2026-11-28T10:07+01:00", "2026-11-28T10:15+01:00"),
        ({"every_minutes": 15}, "2026-11-28T10:15+01:00", "2026-11-28T10:30+01:00"),
        ({"every_minutes": 420}, "2026-11-28T22:00+01:00", "2026-11-29T00:00+01:00"),
        ({"every_minutes": 1440}, "2026-11-28T22:00+01:00", "2026-11-29T00:00+01:00"),
        ({"every_minutes": 60}, "2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00"),
        ({"every_minutes": 60}, "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00"),
        ({"every_minutes": 720}, "2026-10-25T01:00+02:00", "2026-10-25T11:00+01:00"),
        ({"every_minutes": 720}, "2026-10-25T12:00+01:00", "2026-10-25T23:00+01:00"),
    ],
)  # fmt: skip
def test_next_time(tmp_path, schedule, now, then):
    """The next time of a schedule, in Italian civil time, on the days when clocks change, too."""
    folder = settings(tmp_path, schedule).destinations["erp"]
    assert deliver.next_time(folder, at(now)) == at(then)


def test_times_of_a_year(tmp_path):
    """Each day of a year has one file at a time of day, and each file its own name at every hour."""
    moment, folder = datetime(2026, 1, 1, tzinfo=UTC), settings(tmp_path, {"at": "02:30"}).destinations["erp"]
    days = []
    while moment < datetime(2027, 1, 1, tzinfo=UTC):
        moment = deliver.next_time(folder, moment)
        days.append(moment.astimezone(deliver.ROME).date())
    assert len(days) == len(set(days)) == 366  # the last one is of the next year
    names = {deliver.file_name("erp", datetime(2026, 1, 1, tzinfo=UTC) + n * HOUR, 5, 4) for n in range(8760)}
    assert len(names) == 8760


def test_when(erp):
    """The first file comes at the first time of the schedule; a day on which nothing came has one, too; what was missed
    comes at once, as one file."""
    station = erp(at="02:30")
    station.take()
    station.take()
    assert station.serve(after=timedelta(hours=13))  # 01:00
    assert station.zips == []
    assert station.serve(after=timedelta(hours=2))
    assert station.serve()
    assert [one.range for one in station.zips] == [(1, 2)]
    assert station.zips[0].path.name == "erp_2026-11-29_030000_1-2.zip"
    station.serve(after=timedelta(days=1))
    (_, empty) = station.zips
    assert (empty.range, empty.receipts, empty.manifest["receipts"], empty.manifest["amount"]) == (
        (3, 2),
        [],
        0,
        "0.00",
    )
    assert empty.transfers == []
    assert set(empty.content) == {"receipts.csv", "transfers.csv", "manifest.json"}
    station.take()
    station.serve(after=timedelta(days=5, hours=3))
    station.serve(after=timedelta(hours=18))
    assert [one.range for one in station.zips] == [(1, 2), (3, 2), (3, 3)]
    station.serve(after=timedelta(hours=3))
    assert [one.range for one in station.zips][3:] == [(4, 3)]
    assert station.counts == {"delivered": 4}


def test_wrong_clock(erp):
    """A clock that was ahead by years, or a schedule that changed, does not stop the files; one that is set back writes
    none twice."""
    station = erp()
    station.take()
    station.serve(after=timedelta(days=3000))
    station.take()
    station.now = NOON
    station.serve()
    station.serve(after=HOUR)
    assert sorted(one.range for one in station.zips) == [(1, 1), (2, 2)]
    station.over = {"at": "14:00"}
    station.take()
    station.serve()
    assert station.destination["next_attempt_at"] == at("2026-11-28T14:00+01:00")
    station.serve(after=HOUR)
    assert sorted(one.range for one in station.zips)[2:] == [(3, 3)]
    station.now -= timedelta(hours=2)
    station.serve()
    station.take()
    station.serve(after=HOUR * 2)
    assert sorted(one.range for one in station.zips)[3:] == [(4, 4)]


# --- what a file holds ------------------------------------------------------------------------------------------------


def test_content(erp):
    """A line for each receipt and each transfer, the exact documents, and figures that agree with both."""
    station = erp()
    requests = [a_request(), a_request(idPA=OTHER_EC, paymentAmount="0.01")]
    raws = [
        an_envelope(request, style) for request, style in zip(requests, ("plain", "default_namespaces"), strict=True)
    ]
    for raw in raws:
        station.door.take(raw)
    station.take(a_request(**{"transfers.1": a_stamp_transfer(2)}))
    file = station.hourly()
    stored = {row["receipt_id"]: row for row in station.door.rows(tables.receipt)}
    assert file.range == (1, 3)
    assert list(file.receipts[0]) == list(columns.RECEIPTS_CSV)
    assert list(file.transfers[0]) == list(columns.TRANSFERS_CSV)
    assert [line["number"] for line in file.receipts] == ["1", "2", "3"]
    assert {line["event"] for line in file.receipts} == {"stored"}
    assert {line["receipt_id"] for line in file.receipts} == set(stored)
    for line in file.receipts:
        one = stored[line["receipt_id"]]
        assert file.content[line["document"]] == one["raw"]
        assert line["document"] == f"xml/{one['id_pa']}/{one['receipt_id']}.xml"
        assert Decimal(line["amount"]) == one["amount"]
    assert {file.content[f"xml/{r['idPA']}/{r['receiptId']}.xml"] for r in requests} == set(raws)
    transfers = station.door.rows(tables.transfer)
    assert sorted((line["receipt_id"], int(line["id_transfer"]), line["iban"]) for line in file.transfers) == sorted(
        (one["receipt_id"], one["id_transfer"], one["iban"] or "") for one in transfers
    )
    assert file.manifest["receipts"] == 3
    assert file.manifest["transfers"] == len(transfers) == len(file.transfers)
    assert Decimal(file.manifest["amount"]) == sum(one["amount"] for one in stored.values())
    assert file.manifest["without_document"] == []
    row = station.row
    assert (row["state"], row["receipts"], row["transfers"]) == ("done", 3, len(transfers))
    assert row["amount"] == Decimal(file.manifest["amount"])
    assert row["size"] == file.path.stat().st_size
    assert row["sha256"] == archive.sha256(file.path.read_bytes()).hexdigest()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o640
    assert file.path.read_bytes().count(b"manifest.json") == 2
    destination = station.destination
    assert (destination["position"], destination["failures"], destination["last_success_at"]) == (3, 0, station.now)


def test_chosen(erp):
    """A folder gets the receipts of its ECs and categories; the numbers between them are another's."""
    station = erp(ecs=[OTHER_EC], categories=["9/02"])
    station.take(
        a_request(),
        a_request(idPA=OTHER_EC),
        a_request(idPA=OTHER_EC, **{"transfers.1.transferCategory": "8/x", "transfers.0.transferCategory": "8/x"}),
        a_request(),
    )
    file = station.hourly()
    assert file.range == (1, 4)
    assert [(line["number"], line["id_pa"]) for line in file.receipts] == [("2", OTHER_EC)]


def test_columns(erp):
    """Columns are chosen and named, so that an old program gets the file that it reads."""
    station = erp(
        italian=True,
        exact=True,
        receipts_columns=["iuv=IUV", "amount=IMPORTO", "event"],
        transfers_columns=["number=N", "transfer_amount = IMPORTO VERSAMENTO", "iban=IBAN", "payment_date_time"],
    )
    request = a_request(creditorReferenceId="01000000000000017", paymentAmount="1234.50")
    station.take(request)
    file = station.hourly()
    assert file.content["receipts.csv"] == (
        b'\xef\xbb\xbf"IUV";"IMPORTO";"Evento"\r\n"01000000000000017";"1234,50";"stored"\r\n'
    )
    assert file.table("transfers", italian=True)[0] == {
        "N": "1",
        "IMPORTO VERSAMENTO": request["transfers.0.transferAmount"].replace(".", ","),
        "IBAN": request["transfers.0.IBAN"],
        "Data e ora del pagamento (ora italiana)": "01/07/2026 10:20:30",
    }


def test_italian(erp):
    """`italian` is what a spreadsheet set to Italian opens: titles, decimal commas, and numbers that are names kept as
    text."""
    station = erp(italian=True)
    station.take(a_request(description="=1+1", paymentAmount="1234.50"))
    file = station.hourly()
    (line,) = file.table("receipts", italian=True)
    assert list(line) == [columns.title(name) for name in columns.RECEIPTS_CSV]
    assert line["Importo (euro)"] == "1234,50"
    assert line["Causale"] == "'=1+1"
    assert line["IUV"].startswith("\t0")
    assert list(file.table("transfers", italian=True)[0]) == [columns.title(name) for name in columns.TRANSFERS_CSV]


HOSTILE = (
    "../../../etc/passwd", "/etc/passwd", "a/../b", "..", ".", "A", "a", "con", "nul.xml", "=1+1", "-2", "@SUM(1)",
    "x\ny\r\nz", "\u202eexe.lmx", "\u0430\u0410", "а", "a b", "a" * 71, "a" * 64, "A" * 64, "C:\\x", "id-0", "%2e%2e",
    "<r>",
)  # fmt: skip


@pytest.mark.parametrize("italian", [False, True])
def test_hostile_names(erp, italian):
    """Whatever a receiptId is, its document has a name of its own inside the ZIP, and its line cannot be run."""
    station = erp(italian=italian)
    for receipt_id in HOSTILE:
        request = a_request(debtor__fullName=f"{receipt_id[:40]}\x85|\u2028", description="+1;=2,\t@3")
        station.take(request)
        with store.transaction(station.engine) as connection:
            key = {"id_pa": EC, "receipt_id": request["receiptId"]}
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
            else:
                connection.exec_driver_sql("SET session_replication_role = replica")
            for table in (tables.receipt, tables.transfer, tables.receipt_flag, tables.outgoing):
                connection.execute(update(table).filter_by(**key).values(receipt_id=receipt_id))
    file = station.hourly()
    title = columns.title if italian else str
    lines = file.table("receipts", italian=italian)
    assert len(lines) == len(HOSTILE)
    documents = [line[title("document")].lstrip("\t") for line in lines]
    assert len({name.casefold() for name in documents}) == len(HOSTILE)
    assert set(documents) == {name for name in file.content if name.startswith("xml/")}
    marks = ("'", "\t") if italian else ("'",)
    found = [line[title("receipt_id")] for line in lines]
    assert [one[1:] if one.startswith(marks) else one for one in found] == list(HOSTILE)
    for line in lines:
        assert not any(cell.startswith(("=", "+", "-", "@", "\r", "\n")) for cell in line.values())
    for name in documents:
        assert name.count("/") == 2
        assert name.encode("ascii").decode() == name


def test_fuller_later(erp):
    """A receipt that became fuller is in a later file again, marked; one that became so before the file is there once,
    as it is."""
    station = erp()
    early, late = incomplete(), incomplete()
    station.take(early, late)
    station.complete(early)
    first = station.hourly()
    assert first.range == (1, 3)
    assert [(line["number"], line["event"], line["payment_note"]) for line in first.receipts] == [
        ("1", "stored", "carrello-0002"), ("2", "stored", ""),
    ]  # fmt: skip
    assert first.manifest["receipts"] == 2
    station.complete(late)
    station.take()
    second = station.hourly()
    assert [(line["number"], line["event"]) for line in second.receipts] == [("4", "completed"), ("5", "stored")]
    assert second.receipts[0]["payment_note"] == second.transfers[0]["payment_note"] == "carrello-0002"
    assert second.transfers[0]["event"] == "completed"


def test_purged(erp):
    """A document that was purged is named in the manifest; the lines are there."""
    station = erp()
    requests = [a_request(), a_request(), a_request()]
    station.take(*requests)
    emptied = {"raw": b"", "raw_purged_at": station.now}
    anonymous = emptied | {"anonymised_at": station.now, "debtor_name": "***"}
    with store.transaction(station.engine) as connection:
        for request, values in zip(requests, (emptied, anonymous), strict=False):
            its = tables.receipt.c.receipt_id == request["receiptId"]
            connection.execute(update(tables.receipt).where(its).values(**values))
    file = station.hourly()
    assert [line["document"] == "" for line in file.receipts] == [True, True, False]
    assert [one["receipt_id"] for one in file.manifest["without_document"]] == [r["receiptId"] for r in requests[:2]]
    assert [bool(one["anonymised_at"]) for one in file.manifest["without_document"]] == [False, True]
    assert file.manifest["receipts"] == 3


def test_provisional(erp):
    """JSON of BizEvents is no document of the ZIP; the receipt is in a later file once more when its document came."""
    station = erp()
    request = a_request()
    raw = a_biz_event(request)
    intake = Intake(station.engine, station.settings)
    intake.accept_provisional(raw, contract.read_provisional(raw, EC), Origin(Source.BIZEVENTS))
    station.take(a_request())
    file = station.hourly()
    told, _ = file.receipts
    assert (told["receipt_id"], told["document"], told["flags"]) == (request["receiptId"], "", "provisional")
    (without,) = file.manifest["without_document"]
    assert (without["receipt_id"], without["provisional"]) == (request["receiptId"], True)
    station.take(request)
    file = station.hourly()
    (line,) = file.receipts
    assert (line["receipt_id"], line["event"], file.manifest["without_document"]) == (
        request["receiptId"], "completed", [],
    )  # fmt: skip
    assert line["document"]


def test_many(erp, monkeypatch):
    """What is more than a file may hold follows at once in further files."""
    monkeypatch.setattr(deliver, "FILE_RECEIPTS_MAX", 3)
    monkeypatch.setattr(deliver, "_PAGE", 2)
    station = erp(ecs=[EC])
    station.take(*(a_request(idPA=OTHER_EC if number % 2 else EC) for number in range(14)))
    station.serve(after=HOUR)
    assert [(one.range, one.manifest["receipts"]) for one in station.zips] == [((1, 5), 3), ((6, 11), 3), ((12, 14), 1)]
    assert len({one["planned_at"] for one in station.rows}) == 3


def test_again(erp):
    """A range can be had again, beside the folder's own files."""
    station = erp()
    station.take(a_request(), a_request(), a_request())
    station.hourly()
    station.take()
    names = deliver.plan_again(station.engine, station.folder, 2, 99, now=station.now)
    assert station.serve()
    (again,) = [Zip(station.path / name) for name in names]
    assert (again.range, [line["number"] for line in again.receipts]) == ((2, 4), ["2", "3", "4"])
    assert again.path.name.endswith("_2-4_again.zip")
    assert station.hourly().range == (4, 4)
    assert deliver.plan_again(station.engine, station.folder, 9, 99, now=station.now) == []


def test_once(run_station, database_url, tmp_path):
    """`station deliver --once` writes a file if its time has come, and else none."""
    station = Station(database_url, tmp_path / "erp", now=datetime.now(UTC))
    toml = tmp_path / "station.toml"
    toml.write_text(f'[[destination]]\nname = "erp"\nkind = "folder"\npath = "{station.path}"\nat = "02:30"\n')

    def once():
        done = run_station("--config", str(toml), "deliver", "--once", "--quiet")
        assert done.returncode == 0, done.stderr
        return [one.range for one in station.zips]

    station.take()
    assert once() == []
    with store.transaction(station.engine) as connection:  # as if it were the next day
        connection.execute(update(tables.destination).values(next_attempt_at=station.now - HOUR))
    assert once() == once() == [(1, 1)]
    station.engine.dispose()


# --- crashes ----------------------------------------------------------------------------------------------------------

MARK = 'open("{0}/ran", "a").write(__import__("sys").argv[1] + "\\n")'


@pytest.mark.parametrize("place", PLACES)
def test_killed(erp, tmp_path, place):
    """After a kill at any place there is one file for the range, with the bytes that it would have had; the next one
    begins where it ends."""
    station = erp(after=[sys.executable, "-c", MARK.format(tmp_path)])
    station.take(a_request(), a_request(), a_request())
    station.now += HOUR
    station.killed(place)
    before = {file.name: file.read_bytes() for file in station.path.glob("*.zip")}
    assert bool(before) == (place in ("renamed", "written", "command ended"))
    station.take()
    assert station.serve(after=timedelta(minutes=1))
    (file,) = station.zips
    assert sorted(station.path.iterdir()) == [file.path]
    assert file.range == (1, 3)
    assert before in ({}, {file.path.name: file.path.read_bytes()})
    with BytesIO() as sink:
        turn = deliver._FolderTurn(station.settings, station.engine, station.folder, station.now, lambda: False)
        archive.write(sink, turn._pages(1, 3), station.folder, first=1, last=3, planned_at=station.row["planned_at"])
        assert sink.getvalue() == file.path.read_bytes()
    station.hourly()
    assert [one.range for one in station.zips] == [(1, 3), (4, 4)]
    assert [row["state"] for row in station.rows] == ["done", "done"]
    ran = (tmp_path / "ran").read_text().splitlines()
    assert ran == [str(file.path)] * (1 + (place == "command ended")) + [str(station.zips[1].path)]
    assert station.rows[0]["sha256"] == archive.sha256(file.path.read_bytes()).hexdigest()


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("seed", range(2))
def test_all_once(erp, monkeypatch, seed):
    """Whatever happens, in any order: all files together hold each revision of each receipt once, in ranges without gap
    or overlap."""
    monkeypatch.setattr(deliver, "_PAGE", 2)
    monkeypatch.setattr(deliver, "FILE_RECEIPTS_MAX", 5)
    chance, station, open_ = random.Random(seed), erp(), []
    crash = {"at": 0}

    def maybe(function):
        def crashing(*arguments, **named):
            crash["at"] -= 1
            if crash["at"] == 0:
                raise Crash
            ended = function(*arguments, **named)
            crash["at"] -= 1
            if crash["at"] == 0:
                raise Crash
            return ended

        return crashing

    monkeypatch.setattr(deliver, "write", maybe(deliver.write))
    monkeypatch.setattr(deliver, "read", maybe(deliver.read))
    monkeypatch.setattr(deliver, "_sync_folder", maybe(deliver._sync_folder))
    monkeypatch.setattr(Path, "replace", maybe(Path.replace))
    completed = 0
    for _ in range(30):
        match chance.randrange(5):
            case 0:
                open_.append(incomplete(idPA=chance.choice([EC, OTHER_EC])))
                station.take(open_[-1])
            case 1:
                station.take(*(a_request() for _ in range(chance.randrange(1, 9))))
            case 2 if open_:
                station.complete(open_.pop(chance.randrange(len(open_))))
                completed += 1
            case 3:
                crash["at"] = chance.randrange(1, 25)
                with contextlib.suppress(Crash):
                    station.serve(after=chance.choice([timedelta(0), HOUR, HOUR]))
                crash["at"] = 0
            case _:
                station.serve(after=chance.choice([timedelta(minutes=5), HOUR, -timedelta(minutes=30), HOUR * 30]))
    assert station.serve(after=HOUR * 30)
    ranges = sorted((row["number_from"], row["number_to"]) for row in station.rows)
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(ranges))
    last = ranges[-1][1]
    with store.transaction(station.engine, readonly=True) as connection:
        assert (ranges[0][0], last) == (1, outgoing.last_number(connection))
    files_ = station.zips
    assert len(files_) == len(list(station.path.iterdir())) == len(station.rows)
    outgoing_rows = {row["number"]: row for row in station.door.rows(tables.outgoing)}
    seen = []
    for file in files_:
        keys = set()
        for line in file.receipts:
            key = (line["id_pa"], line["receipt_id"])
            assert key not in keys
            keys.add(key)
            row = outgoing_rows[int(line["number"])]
            assert key == (row["id_pa"], row["receipt_id"])
            assert line["event"] == ("stored" if row["revision"] == 1 else "completed")
        within = [row for number, row in outgoing_rows.items() if file.range[0] <= number <= file.range[1]]
        assert keys == {(row["id_pa"], row["receipt_id"]) for row in within}
        seen += [(row["id_pa"], row["receipt_id"], row["revision"]) for row in within]
    assert len(seen) == len(set(seen)) == last == len(station.door.rows(tables.receipt)) + completed


def test_two_deliverers(erp):
    """Of two that plan the same file one does; who writes it second finds it there."""
    station = erp()
    station.take()
    with store.transaction(station.engine, readonly=True) as connection:
        seen = files.destination_of(connection, "erp")
    how = {"to": 1, "at": station.now, "next_at": station.now}
    with store.transaction(station.engine) as connection:
        assert files.plan(connection, seen, "one.zip", **how)
    with store.transaction(station.engine) as connection:
        assert not files.plan(connection, seen, "two.zip", **how)
        (planned,) = files.open_files(connection, "erp")
    turn = deliver._FolderTurn(station.settings, station.engine, station.folder, station.now, lambda: False)
    turn._write(planned)
    inode = Path(station.path, "one.zip").stat().st_ino
    turn._write(planned)
    assert Path(station.path, "one.zip").stat().st_ino == inode
    assert station.counts == {"delivered": 1}
    assert [row["name"] for row in station.rows] == ["one.zip"]


def test_stop(erp, monkeypatch):
    """A station that stops leaves a file to the next one, whole or not at all."""
    monkeypatch.setattr(deliver, "_PAGE", 1)
    station, asked = erp(), []
    station.take(a_request(), a_request())

    def stopping():
        asked.append(1)
        return len(asked) > 3

    assert not station.serve(after=HOUR, stopping=stopping)
    assert list(station.path.iterdir()) == []
    assert station.row["state"] == "planned"
    assert station.destination["failures"] == 0
    assert station.serve()
    assert [one.range for one in station.zips] == [(1, 2)]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_no_folder(erp, logged):
    """A folder that is away is tried again; when it is back the file comes first, and what others would have had comes
    in one."""
    station = erp()
    station.take()
    away = station.path.rename(station.path.with_name("away"))
    assert not station.serve(after=HOUR)
    assert not station.serve(after=timedelta(seconds=1))
    row, destination = station.row, station.destination
    assert (row["state"], row["attempts"]) == ("planned", 1)
    assert "No such file or directory" in row["error"]
    assert destination["last_error"] == row["error"]
    assert (destination["failures"], station.counts) == (1, {"unreachable": 1})
    assert [event for event, _ in logged()] == ["file_failed"]
    station.take()
    assert not station.serve(after=HOUR)
    assert station.row["attempts"] == 2
    away.rename(station.path)
    assert station.serve(after=HOUR * 26)
    assert [one.range for one in station.zips] == [(1, 1), (2, 2)]
    assert station.destination["failures"] == 0
    assert [row["error"] for row in station.rows] == [None, None]


@pytest.mark.parametrize("path", ["/proc/1", "/dev/null"])
def test_not_a_folder(erp, path):
    """A path at which no file can be made is told, and nothing else happens."""
    station = erp()
    station.take()
    station.over = {"path": path}
    assert not station.serve(after=HOUR)
    assert "cannot be written" in station.row["error"]
    station.over = {}
    assert station.serve(after=HOUR)
    assert station.zips[0].range == (1, 1)


@pytest.mark.parametrize("limit", [1000, 40_000, 80_000])
def test_full_disk(postgres_url, tmp_path, limit):
    """A disk that is full in the middle of a file leaves none, and no part of one."""
    station = Station(postgres_url, tmp_path / "erp")
    station.take(*(a_request(**{"transfers.1": a_stamp_transfer(2, 20_000)}) for _ in range(8)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        assert not station.serve(after=HOUR)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(station.path.iterdir()) == []
    assert "File too large" in station.row["error"]
    assert station.serve(after=HOUR)
    assert station.zips[0].path.stat().st_size > limit
    assert station.zips[0].range == (1, 8)
    station.engine.dispose()


# --- the command ------------------------------------------------------------------------------------------------------

SH = ("/bin/sh", "-c")


def test_command(erp, logged, monkeypatch):
    """The command gets the file's path, no shell, and no secret of the station; its output is logged, escaped."""
    monkeypatch.setenv("STATION_DATABASE_URL", "postgresql://station:hunter2@host/db")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    script = 'printf "%s\\n" "$0" "$#" "$1" > $1.seen; env >> $1.seen; printf "\\033[31mdone\\nforged"'
    station = erp(after=[*SH, script, "$(id); ls"])
    station.take()
    assert station.serve(after=HOUR)
    (file,) = station.zips
    seen = Path(f"{file.path}.seen").read_text()
    assert seen.splitlines()[:3] == ["$(id); ls", "1", str(file.path)]
    assert "PATH=" in seen
    assert "hunter2" not in seen
    assert dict(logged())["command_ended"]["output"] == r"\x1b[31mdone forged"
    assert station.row["state"] == "done"


def test_command_fails(erp, tmp_path):
    """Its exit status decides. It is tried again by the schedule, in order; files go on being written meanwhile."""
    station = erp(
        after=[
            *SH,
            f'test -e {tmp_path}/up && echo "$1" >> {tmp_path}/sent || {{ echo "no route" >&2; exit 3; }}',
            "sh",
        ]
    )
    station.take()
    assert not station.serve(after=HOUR)
    row = station.row
    assert (row["state"], row["attempts"]) == ("written", 1)
    assert row["error"] == "/bin/sh: exit status 3: no route"
    assert station.destination["failures"] == 1
    station.take()
    assert not station.serve(after=HOUR)
    assert [row["state"] for row in station.rows] == ["written", "written"]
    assert [row["attempts"] for row in station.rows] == [2, 0]
    assert len(station.zips) == 2
    (tmp_path / "up").touch()
    assert station.serve(after=HOUR * 26)
    assert (tmp_path / "sent").read_text().splitlines() == [str(one.path) for one in station.zips]
    assert len(station.zips) == 3
    assert station.counts == {"refused": 2, "delivered": 3}
    journal = [row for row in station.door.rows(tables.journal) if row["source"] == "deliver"]
    assert sorted((row["outcome"], row["fault_code"] or "") for row in journal) == [
        ("delivered", ""), ("delivered", ""), ("delivered", ""), ("failed", "refused"), ("failed", "refused"),
    ]  # fmt: skip
    assert {(row["operation"], row["peer_subject"]) for row in journal} == {("folder", "erp")}
    assert {row["request_id"] for row in journal} == {one.path.name for one in station.zips}
    assert station.destination["failures"] == 0


def test_command_moves(erp, tmp_path):
    """A command that moves the file and fails then has it again, whole, by the schedule."""
    station = erp(after=[*SH, f'mv "$1" {tmp_path}/sent.zip && test -e {tmp_path}/up', "sh"])
    station.take()
    assert not station.serve(after=HOUR)
    assert station.zips == []
    (tmp_path / "sent.zip").rename(tmp_path / "first.zip")
    assert not station.serve(after=timedelta(seconds=10))
    assert (station.row["state"], station.row["attempts"]) == ("written", 2)
    (tmp_path / "up").touch()
    assert station.serve(after=timedelta(minutes=10))
    assert station.row["state"] == "done"
    assert (tmp_path / "sent.zip").read_bytes() == (tmp_path / "first.zip").read_bytes()


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (["/nowhere/send"], "/nowhere/send: cannot be run: No such file or directory"),
        (["/dev/null"], "/dev/null: cannot be run: Permission denied"),
        ([*SH, "kill -TERM $$"], "/bin/sh: ended by signal 15"),
        ([*SH, "yes | head -c 3000000; echo; echo the end; exit 1"], "the end"),
    ],
)
def test_command_cannot(erp, after, reason):
    """A command that is missing, or ends by a signal, or says too much is a failure like any other."""
    station = erp(after=after)
    station.take()
    assert not station.serve(after=HOUR)
    assert station.row["error"].startswith(after[0])
    assert reason in station.row["error"]
    assert len(station.row["error"]) < 600


def test_command_too_long(erp, tmp_path):
    """A command that takes too long is killed with all that it started."""
    script = f"sleep 300 & echo $! > {tmp_path}/child; exec >&- 2>&-; wait"
    station = erp(after=[*SH, script, "sh"], after_timeout=1)
    station.take()
    assert not station.serve(after=HOUR)
    assert "not done after 1 s, and killed" in station.row["error"]
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_command_leaves_one_running(erp, tmp_path):
    """A command that has ended has ended, even if what it started holds its output."""
    station = erp(after=[*SH, f"sleep 300 & echo $! > {tmp_path}/child", "sh"])
    station.take()
    assert station.serve(after=HOUR)
    child = int((tmp_path / "child").read_text())
    assert _runs(child)
    os.kill(child, signal.SIGKILL)


def test_skip(erp):
    """A file that an operator gives up lets those behind it go on."""
    station = erp(after=[*SH, "exit 1"])
    station.take()
    assert not station.serve(after=HOUR)
    with store.transaction(station.engine) as connection:
        (file,) = files.open_files(connection, "erp")
        assert files.skip(connection, file, "by hand", at=station.now)
        assert not files.skip(connection, file, "by hand", at=station.now)
    assert (station.row["state"], station.row["error"]) == ("failed", "by hand")
    station.over = {}
    assert station.hourly().range == (2, 1)


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('at = "02:30"\nevery_minutes = 5', "set either at or every_minutes"),
        ("", "set either at or every_minutes"),
        ('at = "02:30Z"', "a time of day in Italy has no time zone"),
        ('at = "25:00"', "destination[0].folder.at"),
        ("every_minutes = 0", "destination[0].folder.every_minutes"),
        (
            'at = "02:30"\nreceipts_columns = ["iuv", "iban"]',
            "receipts_columns[1]: no such column; there are: number, ",
        ),
        ('at = "02:30"\ntransfers_columns = ["IUV"]', "transfer_metadata"),
        ('at = "02:30"\nreceipts_columns = ["resends"]', "no such column"),
        ('at = "02:30"\nreceipts_columns = ["iuv="]', "a title of 1 to 100 printable characters"),
        ('at = "02:30"\nreceipts_columns = ["iuv=a\\nb"]', "a title of 1 to 100 printable characters"),
        (
            'at = "02:30"\nreceipts_columns = ["iuv=N", "number=N"]',
            "receipts_columns: several columns have the title N",
        ),
        ('at = "02:30"\nafter = [""]', "after: the first entry is the command"),
    ],
)
def test_wrong_settings(tmp_path, lines, told):
    """A wrong setting is named, with what would be right."""
    file = tmp_path / "station.toml"
    file.write_text(f'[[destination]]\nname = "erp"\nkind = "folder"\npath = "/srv/erp"\n{lines}\n')
    with pytest.raises(ConfigError) as error:
        config.load(file, environ={})
    assert told in str(error.value)
