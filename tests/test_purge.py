"""`station purge`: what is older than the retention goes; receipts stay as rows and are still told apart."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import forked
import pytest
from build import a_request, a_transfer, an_envelope
from process import environment
from refusals import Door
from sqlalchemy import text, update
from trouble import sent_again

from station import store
from station.cli import Context
from station.cli.purge import purge as purge_command
from station.clock import months_before
from station.config import Retention, load
from station.errors import ConfigError, StoreError
from station.purge import purge
from station.store import accesses, flows, tables
from station.store.purge import Part

NOW = datetime.now(UTC)
OLD = NOW - timedelta(days=800)


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


def age(door, table, **values):
    with store.transaction(door.engine) as connection:
        connection.execute(update(table).values(values))


def run(door, *, dry_run=False, batch=500, **months):
    """Rows of each part that were purged."""
    done = {}
    for one in purge(door.engine, Retention(**months), dry_run=dry_run, batch=batch):
        done[one.part] = done.get(one.part, 0) + one.count
    return done


def test_command(door, run_station, tmp_path):
    """The configured ages count, options go before them; a dry run counts and writes nothing; then nothing is left."""
    old, new = a_request(), a_request()
    door.take(an_envelope(old))
    settled, opened = door.refuse(an_envelope(a_request())), door.refuse(an_envelope(a_request()))
    discard(door, settled)
    age(door, tables.receipt, received_at=OLD)
    age(door, tables.refused, received_at=OLD, last_at=OLD)
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.refused).filter_by(refused_id=settled).values(settled_at=OLD))
    door.take(an_envelope(new))
    (tmp_path / "station.toml").write_text("[retention]\nraw_months = 120\nrefused_months = 24\n")
    before = door.everything()
    dry = run_station("purge", "--dry-run", "--raw-months", "24", "--json")
    assert dry.returncode == 0, dry.stderr
    assert [{**json.loads(line), "before": None} for line in dry.stdout.splitlines()] == [
        {"part": "raw", "before": None, "rows": 1, "kept_open": 0, "dry_run": True},
        {"part": "refused", "before": None, "rows": 1, "kept_open": 1, "dry_run": True},
    ]
    assert door.everything() == before
    done = run_station("purge", "--raw-months", "24")
    assert done.returncode == 0, done.stderr
    assert [line.partition(" from before ")[0] + line[-10:] for line in done.stdout.splitlines()[:2]] == [
        "raw documents of receipts: 1 purged",
        "refused requests, accepted or discarded: 1 purged",
    ]
    assert "1 open request of that age was kept" in done.stdout
    assert (door.receipt(old)["raw"], door.receipt(new)["raw"]) == (b"", an_envelope(new))
    assert [row["refused_id"] for row in door.rows(tables.refused)] == [opened]
    assert [row["result"] for row in door.rows(tables.refused_history)] == ["refused"]
    assert set(run(door, raw_months=24, refused_months=24).values()) == {0}


def discard(door, refused_id):
    found = door.refused(refused_id)
    with store.transaction(door.engine) as connection:
        store.discard(connection, found["id_pa"], found["raw_hash"], reason="test", operator="anna", at=OLD)


def test_raw(door):
    """A raw document becomes empty; everything else of the receipt stays."""
    request = a_request()
    door.take(an_envelope(request))
    age(door, tables.receipt, received_at=OLD)
    before = door.receipt(request)
    assert run(door, raw_months=24) == {Part.RAW: 1}
    after = door.receipt(request)
    assert after["raw_purged_at"] > NOW
    assert {**after, "raw": None, "raw_purged_at": None} == {**before, "raw": None}


def test_personal(door):
    """Personal columns go, and the document with them; keys, hashes, amounts, dates and the EC's names stay."""
    request = a_request(transfers__0=a_transfer(1, transferAmount="115.50", metadata={"IBANAPPOGGIO": "IT66Y"}))
    raw = an_envelope(request)
    door.take(raw)
    age(door, tables.receipt, received_at=OLD)
    before = door.receipt(request)
    assert run(door, personal_months=24) == {Part.PERSONAL: 1}
    after = door.receipt(request)
    gone = "description debtor_id debtor_name payer_id payer_name payment_note metadata raw raw_purged_at anonymised_at"
    for name in before.keys() - {*gone.split(), "transfers"}:
        assert after[name] == before[name], name
    assert {after[name] for name in ("description", "debtor_id", "debtor_name")} == {"***"}
    assert {after[name] for name in ("payer_id", "payer_name", "payment_note", "metadata")} == {None}
    assert after["anonymised_at"] == after["raw_purged_at"] > NOW
    for one, was in zip(after["transfers"], before["transfers"], strict=True):
        assert one == {**was, "iban": None, "remittance_information": "***", "metadata": None}
    everything = repr(door.everything())
    for word in ("Pallino", "PLLPNC80A01X000X", "SMPTZI80A41X000X", "Tizia", "IT66Y", "IT88X", "TARI", "carrello"):
        assert word not in everything


@pytest.mark.parametrize("part", ["raw_months", "personal_months"])
def test_all_documents(door, part):
    """Of a receipt with several documents all become empty, and each of them is still a duplicate."""
    request = a_request()
    raws = [an_envelope(request), an_envelope(request.but(newThing="x"))]
    for raw in raws:
        door.take(raw)
    assert sorted(row["raw"] for row in door.rows(tables.receipt_document)) == sorted(raws)
    age(door, tables.receipt, received_at=OLD)
    run(door, **{part: 24})
    assert [row["raw"] for row in door.rows(tables.receipt_document)] == [b"", b""]
    assert door.receipt(request)["raw"] == b""
    assert [door.take(raw).result for raw in raws] == ["duplicate", "duplicate"]


def test_still_told_apart(door):
    """A receipt that was purged is a duplicate when it comes again, and a conflict with other content."""
    request = a_request()
    door.take(an_envelope(request))
    age(door, tables.receipt, received_at=OLD)
    run(door, personal_months=24)
    assert door.take(an_envelope(request, "crlf")).result == "duplicate"
    assert door.take(an_envelope(request.but(fee="9.00"))).refusal.fault_code == "PAA_RECEIPT_DUPLICATA"
    assert door.receipt(request)["resends"] == 1


def test_refused_by_the_decision(door):
    """The age of a refused request counts from the decision, not from the arrival; open ones are kept for ever."""
    ids = [door.refuse(an_envelope(a_request())) for _ in range(3)]
    discard(door, ids[0])
    discard(door, ids[1])
    age(door, tables.refused, received_at=OLD, last_at=OLD)
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.refused).filter_by(refused_id=ids[0]).values(settled_at=NOW))
    assert run(door, refused_months=12) == {Part.REFUSED: 1}
    assert {row["refused_id"] for row in door.rows(tables.refused)} == {ids[0], ids[2]}


def test_journal(door):
    """The journal goes by age, but nobody can have less than 24 months of it."""
    with store.transaction(door.engine) as connection:
        events = [event(1, OLD), event(2, NOW - timedelta(days=700)), event(3, NOW)]
        connection.execute(tables.journal.insert(), events)
    with pytest.raises(click.UsageError, match="not in the range"):
        purge_command.main(["--journal-months", "23"], standalone_mode=False, obj=Context(None))
    with pytest.raises(ConfigError, match="STATION_RETENTION_JOURNAL_MONTHS"):
        load(environ={"STATION_RETENTION_JOURNAL_MONTHS": "23"})
    assert run(door, journal_months=24) == {Part.JOURNAL: 1}
    assert [row["event_id"] for row in door.rows(tables.journal)] == [2, 3]


def test_delivery(door):
    """Deliveries go by when they were settled: open ones stay, and so do numbers, counts and the list of files."""
    with store.transaction(door.engine) as connection:
        row = {"destination": "erp", "attempts": 1, "next_attempt_at": OLD, "first_at": OLD, "last_at": OLD}
        states = (("delivered", OLD), ("skipped", OLD), ("failed", OLD), ("delivered", NOW), ("open", None))
        for number, (state, settled_at) in enumerate(states, start=1):
            values = row | {"number": number, "state": state, "settled_at": settled_at}
            connection.execute(tables.delivery.insert(), [values])
            key = {"id_pa": "77777777777", "receipt_id": f"r{number}", "revision": 1}
            connection.execute(tables.outgoing.insert(), [key | {"number": number, "numbered_at": OLD}])
        file = {"destination": "night", "planned_at": OLD, "name": "x.zip", "number_from": 1, "number_to": 5}
        file |= {"state": "done", "attempts": 1, "next_attempt_at": OLD, "settled_at": OLD}
        connection.execute(tables.delivery_file.insert(), [file])
        connection.execute(tables.delivery_count.insert(), [{"destination": "erp", "result": "delivered", "count": 9}])
    before = door.everything()
    assert run(door, delivery_months=12, dry_run=True) == {Part.DELIVERY: 3}
    assert door.everything() == before
    assert run(door, delivery_months=12, batch=2) == {Part.DELIVERY: 3}
    assert [row["number"] for row in door.rows(tables.delivery)] == [4, 5]
    kept = (tables.outgoing, tables.delivery_file, tables.delivery_count)
    assert [len(door.rows(table)) for table in kept] == [5, 1, 1]


def test_flows(door):
    """Flows go with their payments by the time of publication, and stay for three months at least."""
    ages = {"old": 200, "new": 20}
    with store.transaction(door.engine) as connection:
        for name, days in ages.items():
            key = {"id_pa": "77777777777", "fdr": name, "psp_id": "P", "revision": 1}
            listed = {"published": NOW - timedelta(days=days), "flow_date": None, "listed_at": NOW}
            flows.list_new(connection, [key | listed])
            payment = {"position": 1, "iuv": "1", "iur": "1", "id_transfer": 1, "amount": 1, "pay_status": 0}
            flows.store_flow(connection, key, {"fetched_at": NOW}, [payment])
    with pytest.raises(ConfigError, match="STATION_RETENTION_FLOWS_MONTHS"):
        load(environ={"STATION_RETENTION_FLOWS_MONTHS": "2"})
    assert run(door, flows_months=3) == {Part.FLOWS: 1}
    assert [row["fdr"] for row in door.rows(tables.fdr_flow)] == ["new"]
    assert [row["fdr"] for row in door.rows(tables.fdr_payment)] == ["new"]


def test_accesses(door):
    """Who looked up whom is forgotten by the time of the look-up, after six months at least."""
    row = {"username": "anna", "address": None, "action": "search", "id_pa": None, "receipt_id": None, "found": 0}
    with store.transaction(door.engine) as connection:
        for name, days in {"old": 400, "new": 200}.items():
            accesses.write_accesses(connection, [row | {"at": NOW - timedelta(days=days), "subject": name}])
    with pytest.raises(ConfigError, match="STATION_RETENTION_ACCESS_MONTHS"):
        load(environ={"STATION_RETENTION_ACCESS_MONTHS": "5"})
    assert run(door, access_months=12, dry_run=True) == {Part.ACCESS: 1}
    assert run(door, access_months=12) == {Part.ACCESS: 1}
    assert [row["subject"] for row in door.rows(tables.console_access)] == ["new"]


def event(number, at):
    values = {"id_pa": "77777777777", "at": at, "event_id": number, "direction": "in", "source": "push"}
    return values | {"operation": "paSendRTV2", "outcome": "stored", "duration_ms": 1, "size": 1}


def test_batches_and_a_stop(door, monkeypatch):
    """It goes batch by batch; stopped after one it goes on where it was, and what was done is not walked again."""
    requests = [a_request() for _ in range(7)]
    for number, request in enumerate(requests):
        door.take(an_envelope(request))
        key = {"receipt_id": request["receiptId"]}
        with store.transaction(door.engine) as connection:
            at = OLD + timedelta(seconds=number // 3)  # several at the same time
            connection.execute(update(tables.receipt).filter_by(**key).values(received_at=at))
    batches = purge(door.engine, Retention(raw_months=24), batch=2)
    assert [next(batches).count, next(batches).count] == [2, 2]
    batches.close()
    assert sum(row["raw"] == b"" for row in door.rows(tables.receipt)) == 4
    assert run(door, dry_run=True, raw_months=24) == {Part.RAW: 3}
    assert run(door, batch=2, raw_months=24) == {Part.RAW: 3}
    assert {row["raw"] for row in door.rows(tables.receipt)} == {b""}
    # Another part has its own place; a row that was done already counts once.
    assert run(door, batch=3, raw_months=24, personal_months=25) == {Part.RAW: 0, Part.PERSONAL: 7}


def test_two_at_once_beside_the_push(door):
    """Two purges and the push beside each other: each receipt is purged once, and none that comes is touched."""
    old = [a_request() for _ in range(40)]
    for request in old:
        door.take(an_envelope(request))
    age(door, tables.receipt, received_at=OLD)

    def push(request):
        return door.take(an_envelope(request)).result

    new = [a_request() for _ in range(20)]
    with ThreadPoolExecutor(4) as pool:
        purges = [pool.submit(run, door, batch=3, personal_months=24) for _ in range(2)]
        pushed = list(pool.map(sent_again(push), [request for pair in zip(old, new, strict=False) for request in pair]))
        assert sum(one.result()[Part.PERSONAL] for one in purges) == 40
    assert pushed == ["duplicate", "stored"] * 20
    assert all(door.receipt(request)["debtor_name"] == "Pinco Pallino" for request in new)
    assert all(door.receipt(request)["debtor_name"] == "***" for request in old)
    assert sum(row["resends"] for row in door.rows(tables.receipt)) == 20


def test_killed(door, database_url, run_station, tmp_path):
    """Killed in the middle and run again, it has purged everything, and the database is whole."""
    for _ in range(60):
        door.take(an_envelope(a_request()))
    age(door, tables.receipt, received_at=OLD)
    command = ["purge", "--personal-months", "24", "--batch", "1"]
    process = forked.station(command, environment(database_url), tmp_path)
    while not any(row["anonymised_at"] for row in door.rows(tables.receipt)):
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    rows = door.rows(tables.receipt)
    assert {(row["anonymised_at"] is None, row["debtor_name"] == "***") for row in rows} <= {
        (True, False),
        (False, True),
    }
    assert run_station(*command).returncode == 0
    assert {row["debtor_name"] for row in door.rows(tables.receipt)} == {"***"}
    assert {row["remittance_information"] for row in door.rows(tables.transfer)} == {"***"}


def test_nothing_left_in_the_file(sqlite_url):
    """On SQLite what was purged is not to be found in the database file's free pages either."""
    door = Door(store.connect(sqlite_url))
    for _ in range(5):
        door.take(an_envelope(a_request(debtor__fullName="Unmistakable Name")))
    discard(door, door.refuse(an_envelope(a_request(debtor__fullName="Unmistakable Name"))))
    file = Path(sqlite_url.removeprefix("sqlite:///"))

    def written():
        with door.engine.connect().execution_options(station_readonly=True) as connection:
            connection.commit()
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
        return file.read_bytes()

    age(door, tables.receipt, received_at=OLD)
    assert b"Unmistakable" in written()
    run(door, personal_months=24, refused_months=24)
    assert b"Unmistakable" not in written()
    door.engine.dispose()


def test_quiet(door, run_station):
    """For cron nothing is printed while nothing is wrong."""
    done = run_station("purge", "--raw-months", "24", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_nothing_configured(sqlite_url, tmp_path):
    """Without any age nothing is purged, and the configuration is to blame."""
    door = Door(store.connect(sqlite_url))
    door.take(an_envelope(a_request()))
    age(door, tables.receipt, received_at=OLD)
    done = forked.run(["purge"], environment(sqlite_url), tmp_path)
    assert (done.returncode, "raw_months" in done.stderr) == (2, True)
    assert door.rows(tables.receipt)[0]["raw"]
    door.engine.dispose()


@pytest.mark.parametrize(
    ("moment", "months", "before"),
    [
        ("2026-07-15", 1, "2026-06-15"),
        ("2026-03-31", 1, "2026-02-28"),
        ("2024-03-31", 1, "2024-02-29"),
        ("2026-01-31", 2, "2025-11-30"),
        ("2026-12-31", 24, "2024-12-31"),
        ("2026-01-01", 1200, "1926-01-01"),
        ("2026-05-31", 3, "2026-02-28"),
        ("2026-02-10", 3, "2025-11-10"),
    ],
)
def test_months_before(moment, months, before):
    """Months are calendar months; a day that the earlier month lacks is its last."""
    assert months_before(datetime.fromisoformat(moment), months) == datetime.fromisoformat(before)
    assert months_before(date.fromisoformat(moment), months) == date.fromisoformat(before)


def test_database_stays_away(monkeypatch, connect):
    """A database that cannot be had ends the purge with an error, after it was waited for."""
    monkeypatch.setattr("station.retry._PAUSES_S", (0, 0, 0))
    engine = connect("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreError):
        list(purge(engine, Retention(raw_months=1)))
