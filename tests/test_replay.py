"""Replay: what was refused is taken in once its cause is mended, files are taken in, stored receipts are read again."""

import io
import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import click
import pytest
from build import (
    ABSENT,
    EC,
    OTHER_EC,
    a_bare_request,
    a_gpd_document,
    a_request,
    a_stamp_transfer,
    a_transfer,
    a_verify_request,
    an_envelope,
)
from process import STATION, environment
from refusals import OURS, TOML, Door
from sqlalchemy import delete, update

from station import contract, intake, retry, store
from station.cli import Context
from station.cli.replay import replay as replay_command
from station.config import Settings
from station.errors import StoreError
from station.intake import Intake
from station.receipt import Flag, Source
from station.replay import Reading, Replay, Reread, UnpackLimits, Verdict
from station.store import tables


@pytest.fixture
def door(database_url, tmp_path):
    """The database behind its door; commands find the same configuration as `OURS`."""
    (tmp_path / "station.toml").write_text(TOML)
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


@pytest.fixture
def replay(door):
    """Replays refused requests in this process."""

    def replay(*, dry_run=False, reveal=False, replace=False, config=OURS, **wanted):
        replay = Replay(Intake(door.engine, Settings.model_validate(config)), "anna", dry_run, reveal, replace)
        return list(replay.refused(store.RefusedFilter(**{"state": "open", **wanted})))

    return replay


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- refused requests -------------------------------------------------------------------------------------------------


def test_accepted_after_the_cause_is_mended(door, run_station):
    """Refused requests are taken in by a replay; what is still refused says so by the exit status, with its reason."""
    requests = [a_request() for _ in range(3)]
    ids = [door.refuse(an_envelope(request)) for request in requests]
    raw = an_envelope(a_request(fee="1,50"))
    line = raw[: raw.index(b"<fee>")].count(b"\n") + 1
    broken = door.refuse(raw)
    done = run_station("replay", "--refused", STATION_OPERATOR="anna")
    assert done.returncode == 1, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[:4]] == [
        *(["stored", one] for one in ids),
        ["refused", broken],
    ]
    assert f"PAA_SINTASSI_EXTRAXSD: /paSendRTV2Request/receipt/fee (line {line}): the value is not" in done.stdout
    assert done.stdout.splitlines()[-1] == "stored 3, duplicate 0, replaced 0, refused 1, failed 0"
    for request, one in zip(requests, ids, strict=True):
        assert door.receipt(request)["raw"] == an_envelope(request)
        found = door.refused(one)
        assert (found["state"], found["settled_at"] is None, found["times"]) == ("accepted", False, 1)
        assert [(event["result"], event["source"], event["operator"]) for event in found["history"]] == [
            ("refused", "push", None),
            ("stored", "replay", "anna"),
        ]
    found = door.refused(broken)
    assert (found["state"], found["settled_at"], found["times"]) == ("open", None, 1)
    assert [(event["operator"], event["fault_code"]) for event in found["history"]] == [
        (None, "PAA_SINTASSI_EXTRAXSD"),
        ("anna", "PAA_SINTASSI_EXTRAXSD"),
    ]


def test_again(door, replay):
    """A second replay has only what is still refused before it, and makes no second row of it."""
    door.refuse(an_envelope(a_request()))
    broken = door.refuse(an_envelope(a_request(fee="1,50")))
    arrived = door.refused(broken)["last_at"]
    assert [item.verdict for item in replay()] == [Verdict.STORED, Verdict.REFUSED]
    again = replay()
    assert [(item.name, item.verdict, item.refused_id) for item in again] == [(broken, Verdict.REFUSED, broken)]
    assert len(door.rows(tables.refused)) == 2
    found = door.refused(broken)
    assert (found["state"], found["times"], found["last_at"]) == ("open", 1, arrived)
    assert [event["source"] for event in found["history"]] == ["push", "replay", "replay"]


def test_selection(door, replay, run_station):
    """By id, time, fault code and EC."""
    first = door.refuse(an_envelope(a_request()))
    door.refuse(an_envelope(a_request(idPA=OTHER_EC)))
    broken = door.refuse(an_envelope(a_request(fee="1,50")))
    with store.transaction(door.engine) as connection:
        old = datetime.now(UTC) - timedelta(days=9)
        connection.execute(update(tables.refused).filter_by(refused_id=first).values(received_at=old))

    def names(**wanted):
        return {item.name for item in replay(dry_run=True, **wanted)}

    assert len(names()) == 3
    assert names(fault_code="PAA_SINTASSI_EXTRAXSD") == {broken}
    assert names(id_pa=EC) == {first, broken}
    assert names(refused_ids=(broken, "0" * 16)) == {broken}
    done = run_station("replay", "--refused", "--since", "7d", "--id-pa", EC, "--dry-run", "--json")
    assert [line.get("item") for line in lines(done)] == [broken, None]


def test_beginning(door, run_station):
    """The beginning of an id will do, in either case, unless it fits several: then they are named."""
    ids = sorted(door.refuse(an_envelope(a_request())) for _ in range(17))
    shared = next(one[0] for one, other in pairwise(ids) if one[0] == other[0])
    done = run_station("replay", "--refused", "--id", ids[0][:8].upper(), "--id", shared)
    assert done.returncode == 2
    assert all(one in done.stderr for one in ids if one[0] == shared)
    with store.transaction(door.engine, readonly=True) as connection:
        assert [store.refused_ids(connection, prefix) for prefix in (ids[0][:8], f"{ids[0]}0")] == [[ids[0]], []]
        assert store.refused_ids(connection, "", limit=20) == ids


def test_killed_in_the_middle(database_url, door, run_station, tmp_path):
    """A replay of many that is killed and run again has taken in each one exactly once."""
    requests = [a_request() for _ in range(150)]
    ids = [door.refuse(an_envelope(request)) for request in requests]
    process = subprocess.Popen(
        [STATION, "replay", "--refused"],
        env=environment(database_url),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(20):
        assert process.stdout.readline().startswith(b"stored")
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process.stdout.close()
    assert 20 <= len(door.rows(tables.receipt)) < 150
    done = run_station("replay", "--refused")
    assert done.returncode == 0, done.stderr
    assert "refused 0, failed 0" in done.stdout
    assert sorted(row["receipt_id"] for row in door.rows(tables.receipt)) == sorted(
        request["receiptId"] for request in requests
    )
    for one in ids:
        found = door.refused(one)
        assert found["state"] == "accepted"
        assert [event["result"] in ("stored", "duplicate") for event in found["history"]] == [False, True]


def test_killed_between_receipt_and_history(door, replay):
    """What was stored when the process died, but not yet noted, is noted as a duplicate by the next run."""
    raw = an_envelope(a_request())
    refused_id = door.refuse(raw)
    door.take(raw, source=Source.REPLAY)
    assert door.refused(refused_id)["state"] == "open"
    assert [item.verdict for item in replay()] == [Verdict.DUPLICATE]
    found = door.refused(refused_id)
    assert (found["state"], [event["result"] for event in found["history"]]) == ("accepted", ["refused", "duplicate"])
    assert len(door.rows(tables.receipt)) == 1


def test_dry_run(door, run_station):
    """A dry run says what would happen and why, and writes nothing."""
    request = a_request()
    door.refuse(an_envelope(request))
    door.refuse(an_envelope(request, "crlf"))
    door.refuse(an_envelope(request.but(fee="9.99")))
    door.refuse(an_envelope(a_request(fee="1,50")))
    door.refuse(an_envelope(a_request(idStation="other")))
    stored = a_request()
    door.take(an_envelope(stored))
    door.refuse(an_envelope(stored))
    before = door.everything()
    done = run_station("replay", "--refused", "--dry-run", "--json")
    assert done.returncode == 1
    *items, summary = lines(done)
    assert [(item["result"], item["fault_code"], item["flags"]) for item in items] == [
        ("stored", None, []),
        ("duplicate", None, []),
        ("refused", "PAA_RECEIPT_DUPLICATA", []),
        ("refused", "PAA_SINTASSI_EXTRAXSD", []),
        ("stored", None, ["unknown_station"]),
        ("duplicate", None, []),
    ]
    assert items[3]["reason"].startswith("/paSendRTV2Request/receipt/fee (line ")
    assert summary == {
        "summary": {"stored": 2, "duplicate": 2, "replaced": 0, "refused": 2, "failed": 0},
        "dry_run": True,
        "complete": True,
    }
    assert door.everything() == before


def test_dry_run_foretells_second_receipt(door, replay):
    """The flag of a second receipt for a notice is foretold."""
    first = a_request()
    door.take(an_envelope(first))
    door.refuse(an_envelope(first.but(receiptId="f" * 32)))
    (item,) = replay(dry_run=True)
    assert (item.verdict, item.flags) == (Verdict.STORED, {Flag.SECOND_RECEIPT})
    assert [one.flags for one in replay()] == [item.flags]


def test_conflict(door, run_station, replay):
    """A conflict stays refused; the places that differ are shown, their personal data only when asked for."""
    request = a_request()
    door.take(an_envelope(request))
    other = request.but(
        debtor__fullName="Caio Sempronio", fee="2.00", payer=ABSENT, transfers=[a_transfer(1), a_transfer(2)]
    )
    refused_id = door.take(an_envelope(other)).refused_id
    done = run_station("replay", "--refused")
    assert done.returncode == 1
    shown = [line.strip() for line in done.stdout.splitlines()]
    assert f"refused    {refused_id}" in done.stdout
    assert "fee: stored 1.50, this one 2.00" in shown
    assert "debtor/fullName: stored *** (13 characters), this one *** (14 characters)" in shown
    assert "payer/fullName: stored *** (15 characters), this one nothing" in shown
    assert (
        "transferList/transfer[2]/companyName: stored Provincia di Chissadove, this one Comune di Vattelapesca" in shown
    )
    assert not any(name in done.stdout for name in ("Caio", "Pinco", "Tizia", "SMPTZI80A41X000X", "IT66Y"))
    (item,) = replay(reveal=True)
    assert ("debtor/fullName", "Pinco Pallino", "Caio Sempronio") in item.differences
    assert door.receipt(request)["raw"] == an_envelope(request)
    assert door.refused(refused_id)["state"] == "open"


def test_conflict_decided_for_the_refused_one(door, run_station, replay):
    """By an operator's decision the refused one takes the stored one's place, and what was stored is kept."""
    request = a_request()
    door.take(an_envelope(request))
    before = door.receipt(request)
    other = request.but(fee="2.00", standIn="true", transfers=[a_transfer(1, transferAmount="120.50")])
    refused_id = door.take(an_envelope(other)).refused_id
    assert [item.verdict for item in replay(dry_run=True, replace=True)] == [Verdict.REPLACED]
    assert door.receipt(request) == before
    done = run_station("replay", "--refused", "--id", refused_id, "--replace", "--operator", "bruno")
    assert done.returncode == 0, done.stdout
    after = door.receipt(request)
    assert (after["raw"], str(after["fee"]), after["flags"], len(after["transfers"])) == (
        an_envelope(other), "2.00", ["stand_in"], 1,
    )  # fmt: skip
    kept = ("received_at", "source", "resends", "notice_ordinal", "id_station")
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert [event["result"] for event in door.refused(refused_id)["history"]] == ["refused", "refused", "replaced"]
    (moved,) = [row for row in door.rows(tables.refused) if row["refused_id"] != refused_id]
    assert (moved["raw"], moved["state"]) == (an_envelope(request), "discarded")
    event = door.refused(moved["refused_id"])["history"][-1]
    assert (event["operator"], event["reason"]) == ("bruno", f"replaced by the refused request {refused_id}")
    assert door.take(an_envelope(other)).result == "duplicate"


def test_other_doors(door):
    """The same bytes again: a push counts them and opens what was discarded; reconciliation does not open it."""
    raw = an_envelope(a_request())
    refused_id = door.refuse(raw)
    found = door.refused(refused_id)
    with store.transaction(door.engine) as connection:
        assert store.discard(
            connection, found["id_pa"], found["raw_hash"], reason="test", operator="anna", at=datetime.now(UTC)
        )
    door.refuse(raw, Source.RECONCILE)
    found = door.refused(refused_id)
    assert (found["state"], found["times"], len(found["history"])) == ("discarded", 2, 2)
    door.refuse(raw)
    found = door.refused(refused_id)
    assert (found["state"], found["times"], found["settled_at"]) == ("open", 3, None)
    assert [event["result"] for event in found["history"]] == ["refused", "discarded", "refused"]
    door.take(raw, {"broker": [{"id": "1", "stations": []}]})
    found = door.refused(refused_id)
    assert (
        [event["fault_code"] for event in found["history"]][-1] == found["fault_code"] == "PAA_ID_INTERMEDIARIO_ERRATO"
    )


def test_one_bad_document_does_not_stop_the_rest(door, replay, monkeypatch):
    """A document on which the station itself fails is named, kept open, and the next ones are taken in."""
    bad, good = a_request(), a_request()
    bad_id = door.refuse(an_envelope(bad))
    door.refuse(an_envelope(good))
    read = contract.read

    def failing(request, **rules):
        if contract.identify(request).receipt_id == bad["receiptId"]:
            raise KeyError("a defect")
        return read(request, **rules)

    monkeypatch.setattr(intake.contract, "read", failing)
    first, second = replay()
    assert (first.verdict, first.name, "KeyError" in first.reason) == (Verdict.FAILED, bad_id, True)
    assert second.verdict is Verdict.STORED
    assert door.refused(bad_id)["state"] == "open"


def test_database_away_for_a_moment(door, replay, monkeypatch):
    """The database is waited for, and the document is read anew: nothing of it is lost by the second try."""
    raw = an_envelope(a_request(receipt__newElement="x"))
    expected = contract.read(contract.request_element(contract.parse(raw).root)).content_hash
    door.refuse(raw)
    save, failures = store.save_receipt, iter([StoreError(reason="away")])

    def flaky(*arguments, **over):
        for failure in failures:
            raise failure
        return save(*arguments, **over)

    monkeypatch.setattr(intake.store, "save_receipt", flaky)
    monkeypatch.setattr(retry, "_PAUSES_S", (0, 0))
    (item,) = replay()
    assert (item.verdict, item.flags) == (Verdict.STORED, {Flag.UNKNOWN_ELEMENTS})
    assert door.rows(tables.receipt)[0]["content_hash"] == expected


def test_database_stays_away(door, replay, monkeypatch):
    """A database that stays away ends the replay, after it was waited for; nothing is noted as judged."""
    door.refuse(an_envelope(a_request()))

    def away(*_arguments, **_over):
        raise StoreError(reason="away")

    monkeypatch.setattr(intake.store, "save_receipt", away)
    monkeypatch.setattr(retry, "_PAUSES_S", (0, 0))
    before = door.everything()
    with pytest.raises(StoreError):
        replay()
    assert door.everything() == before


def test_interrupted(door, tmp_path, database_url):
    """Ctrl-C ends it between two documents, with the sums so far and the word that it was not the end."""
    for _ in range(100):
        door.refuse(an_envelope(a_request()))
    process = subprocess.Popen(
        [STATION, "replay", "--refused", "--json"],
        env=environment(database_url),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Who starts the tests in the background has SIGINT ignored, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(rest.splitlines()[-1])["complete"] is False
    assert all(row["state"] in ("open", "accepted") for row in door.rows(tables.refused))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to replay"),
        (["--file"], "--file needs at least one PATH"),
        (["--refused", "x.xml"], "a PATH can be given only with --file"),
        (["--stored", "--fault-code", "X"], "--fault-code can be used only with --refused"),
        (["--refused", "--receipt-id", "X"], "--receipt-id can be used only with --stored"),
        (["--file", "x.xml", "--id-pa", EC], "--id-pa can be used only with --refused or --stored"),
        (["--refused", "--since", "yesterday"], "is not a time"),
        (["--refused", "--replace"], "--replace needs --id"),
    ],
)
def test_usage(arguments, words):
    """What does not fit together is refused before anything happens."""
    with pytest.raises(click.UsageError) as refused:
        replay_command.main(arguments, standalone_mode=False, obj=Context(None))
    assert words in refused.value.format_message()


# --- files ------------------------------------------------------------------------------------------------------------


def test_files(door, run_station, tmp_path):
    """Files, folders and standard input go through the same intake; each is stored, kept or named with a reason."""
    requests = [a_request(), a_request(version=1), a_request(), a_request(), a_request(version=1)]
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / "a.xml").write_bytes(an_envelope(requests[0], "utf-16"))
    (folder / "b" / "c.xml").write_bytes(a_bare_request(requests[1]))
    (folder / "d.xml").write_bytes(an_envelope(a_request(idPA="99999999999")))
    (folder / "e\x1b[2J\u202egnp.xml").write_bytes(an_envelope(a_verify_request()))
    (folder / "f.xml").write_bytes(b"<!DOCTYPE x><x/>")
    (folder / "g.xml").write_bytes(b"<x>")
    (tmp_path / "gpd.xml").write_bytes(a_gpd_document(requests[3]))
    (tmp_path / "gpd1.xml").write_bytes(a_gpd_document(requests[4]))
    (tmp_path / "stdin").write_bytes(a_gpd_document(requests[2]))
    files = ("in", "-", "gpd.xml", "gpd1.xml", "missing.xml")
    done = run_station("replay", "--file", *files, stdin=tmp_path / "stdin")
    assert done.returncode == 1, done.stderr
    shown = [line.split("  ") for line in done.stdout.splitlines()]
    assert [(line[0].strip(), line[-5:][-1] if "failed" in line[0] else None) for line in shown[:-1]] == [
        ("stored", None),
        ("stored", None),
        ("refused", None),
        ("failed", "not a receipt: the request is paVerifyPaymentNoticeReq"),
        ("failed", "a document type declaration (DTD) is not accepted"),
        ("failed", "not well-formed XML (line 1, column 4)"),
        ("stored", None),
        ("stored", None),
        ("stored", None),
        ("failed", "cannot be read (No such file or directory)"),
    ]
    assert r"in/e\x1b[2J\u202egnp.xml" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    (kept,) = door.rows(tables.refused)
    assert (kept["source"], kept["fault_code"], f"kept as {kept['refused_id']}" in done.stdout) == (
        "replay", "PAA_ID_DOMINIO_ERRATO", True,
    )  # fmt: skip
    assert [event["operator"] is not None for event in door.refused(kept["refused_id"])["history"]] == [True]
    for request in requests:
        assert door.receipt(request)["source"] == "replay"


@pytest.mark.parametrize("first", "pP")
@pytest.mark.parametrize("prefix", ["", "pafn:"])
def test_file_under_another_root(door, tmp_path, first, prefix):
    """A file's root may be spelt as in a push or as by the GPD API, with a namespace or without, in an envelope too."""
    raw = an_envelope(a_request(), "no_declaration").replace(b"pafn:paSendRTV2", f"{prefix}{first}aSendRTV2".encode())
    (tmp_path / "a.xml").write_bytes(raw)
    for dry_run, verdict in ((True, Verdict.STORED), (False, Verdict.STORED), (False, Verdict.DUPLICATE)):
        replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna", dry_run)
        (item,) = replay.files([str(tmp_path / "a.xml")], UnpackLimits(), io.BytesIO())
        assert item.verdict is verdict


def test_file_settles_the_refused_request(door, tmp_path):
    """A file with the bytes of a refused request that is taken in settles the refused request."""
    raw = an_envelope(a_request())
    refused_id = door.refuse(raw)
    (tmp_path / "a.xml").write_bytes(raw)
    replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna")
    path = str(tmp_path / "a.xml")
    items = list(replay.files([path, path], UnpackLimits(), io.BytesIO()))
    assert [item.verdict for item in items] == [Verdict.STORED, Verdict.DUPLICATE]
    found = door.refused(refused_id)
    assert (found["state"], [event["result"] for event in found["history"]]) == ("accepted", ["refused", "stored"])


# --- stored receipts --------------------------------------------------------------------------------------------------


@pytest.fixture
def aged(door):
    """Three receipts as an older parser might have read them: columns, a transfer and flags are wrong."""
    first = a_request(standIn="true", transfers=[a_transfer(1, transferAmount="104.50"), a_stamp_transfer(2)])
    second = first.but(receiptId="e" * 32)
    third = a_request(idStation="other")
    for request in (first, second, third):
        door.take(an_envelope(request))
    door.take(an_envelope(first))
    expected = [door.receipt(request) for request in (first, second, third)]
    key = {"id_pa": EC, "receipt_id": first["receiptId"]}
    with store.transaction(door.engine) as connection:
        old = {"debtor_name": "?", "fee": None, "metadata": [["KEY", "PLLPNC80A01X000X"]], "content_hash": b"0" * 32}
        connection.execute(update(tables.receipt).filter_by(**key).values(old))
        connection.execute(delete(tables.transfer).filter_by(**key, position=2))
        connection.execute(update(tables.transfer).filter_by(**key, position=1).values(amount=1))
        connection.execute(delete(tables.receipt_flag).filter_by(flag="stand_in"))
        connection.execute(
            tables.receipt_flag.insert(),
            {"id_pa": EC, "receipt_id": third["receiptId"], "flag": "outcome_ko", "received_at": datetime.now(UTC)},
        )
    return [first, second, third], expected


def test_stored(door, aged, run_station):
    """Columns, transfers and flags follow from the document again; its bytes and its history stay."""
    requests, expected = aged
    before = door.everything()
    dry = list(Reread(door.engine, dry_run=True).run())
    assert door.everything() == before
    done = run_station("replay", "--stored")
    assert done.returncode == 0, done.stderr
    assert [item.reading for item in dry] == [Reading.REBUILT] * 3
    assert sum(len(item.differences) for item in dry) == sum(
        line.startswith("    ") for line in done.stdout.splitlines()
    )
    assert done.stdout.splitlines()[-1] == "unchanged 0, rebuilt 3, purged 0, failed 0"
    for line in (
        "    debtor_name: stored *** (1 characters), its document *** (13 characters)",
        "    fee: stored nothing, its document 1.50",
        "    transfer 1 amount: stored 1.00, its document 104.50",
        "    transfer 2 digital_stamp: stored nothing, its document True",
        "    flag: stored nothing, its document stand_in",
        "    flag: stored outcome_ko, its document nothing",
    ):
        assert line in done.stdout.splitlines()
    assert not any(name in done.stdout for name in ("Pinco", "PLLPNC80A01X000X"))
    assert [door.receipt(request) for request in requests] == expected
    assert expected[1]["flags"] == ["second_receipt", "stand_in"]
    assert expected[2]["flags"] == ["unknown_station"]
    assert [item.reading for item in Reread(door.engine).run()] == [Reading.UNCHANGED] * 3


def test_stored_under_a_wrong_label(door, run_station):
    """What an earlier version read as ISO-8859-1, because it was labelled so, is read as the UTF-8 that it is."""
    request = a_request(debtor__fullName="Nicolò")
    door.take(an_envelope(request))
    before = door.receipt(request)
    wrong = {"charset": "iso-8859-1", "debtor_name": "NicolÃ²", "content_hash": bytes(32)}
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(wrong))
    assert door.take(an_envelope(request)).result == "duplicate"
    assert [item.reading for item in Reread(door.engine).run()] == [Reading.REBUILT]
    assert door.receipt(request) == {**before, "charset": "iso-8859-1", **_resent(door.receipt(request))}
    assert [item.reading for item in Reread(door.engine).run()] == [Reading.UNCHANGED]


def _resent(found):
    return {name: found[name] for name in ("resends", "last_resend_at")}


def test_stored_selection(door, aged):
    """One EC's, one receipt, or those since a time."""
    requests, _ = aged

    def names(**wanted):
        return [item.receipt_id for item in Reread(door.engine, dry_run=True).run(**wanted)]

    assert names() == [request["receiptId"] for request in requests]
    assert names(id_pa=OTHER_EC) == []
    assert names(receipt_id="e" * 32) == ["e" * 32]
    assert names(received_from=datetime.now(UTC)) == []


def test_stored_in_pages(door, monkeypatch):
    """More receipts than one page holds are all read, each once."""
    monkeypatch.setattr("station.replay.stored._PAGE", 3)
    requests = [a_request() for _ in range(7)]
    for request in requests:
        door.take(an_envelope(request))
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(received_at=datetime(2026, 7, 1, tzinfo=UTC)))
    items = list(Reread(door.engine).run())
    assert sorted(item.receipt_id for item in items) == sorted(request["receiptId"] for request in requests)


def test_stored_unreadable(door, aged):
    """A receipt whose document cannot be read, or lies about its key, or was purged, stays as it is and is named."""
    requests, _ = aged
    with store.transaction(door.engine) as connection:
        for request, raw in zip(requests, (b"<x/>", an_envelope(a_request()), b""), strict=True):
            connection.execute(update(tables.receipt).filter_by(receipt_id=request["receiptId"]).values(raw=raw))
    before = door.everything()
    items = list(Reread(door.engine).run())
    assert [item.reading for item in items] == [Reading.FAILED, Reading.FAILED, Reading.PURGED]
    assert "no longer readable" in items[0].reason
    assert "another key" in items[1].reason
    assert door.everything() == before


def test_stored_against_a_constraint(door):
    """A receipt that cannot be rebuilt because the database rejects it is named, and the others are rebuilt."""
    first, other = a_request(), a_request()
    second = a_request(noticeNumber=first["noticeNumber"])
    for request in (first, second, other):
        door.take(an_envelope(request))
    with store.transaction(door.engine) as connection:
        # As if an older parser had read its notice number wrong, so that it was nobody's second receipt.
        wrong = {"notice_number": "399999999999999999", "notice_ordinal": 0}
        connection.execute(update(tables.receipt).filter_by(receipt_id=second["receiptId"]).values(wrong))
        connection.execute(update(tables.receipt).filter_by(receipt_id=other["receiptId"]).values(fee=None))
    readings = {item.receipt_id: item.reading for item in Reread(door.engine).run()}
    assert readings == {
        first["receiptId"]: Reading.UNCHANGED,
        second["receiptId"]: Reading.FAILED,
        other["receiptId"]: Reading.REBUILT,
    }
    assert str(door.receipt(other)["fee"]) == "1.50"


def test_stored_beside_the_push(door):
    """While receipts are rebuilt others come, and the same ones again: none is missed, none is counted wrong."""
    requests = [a_request() for _ in range(6)]
    for request in requests:
        door.take(an_envelope(request))
    expected = [door.receipt(request) for request in requests]

    def push(number):
        for request in requests:
            assert door.take(an_envelope(request)).result == "duplicate"
            assert door.take(an_envelope(a_request())).result == "stored"
        return number

    with ThreadPoolExecutor(3) as pool:
        pushes = [pool.submit(push, number) for number in range(3)]
        rebuilt = 0
        while not all(one.done() for one in pushes):
            with store.transaction(door.engine) as connection:
                connection.execute(update(tables.receipt).values(debtor_name="?"))
                connection.execute(delete(tables.transfer).where(tables.transfer.c.position == 2))
            rebuilt += sum(item.reading is Reading.REBUILT for item in Reread(door.engine).run())
    list(Reread(door.engine).run())
    assert rebuilt >= 6
    assert [one.result() for one in pushes] == [0, 1, 2]
    for request, before in zip(requests, expected, strict=True):
        after = door.receipt(request)
        assert after["resends"] == 3
        assert {**after, "resends": 0, "last_resend_at": None} == before
    assert len(door.rows(tables.receipt)) == 6 + 18
    assert {row["debtor_name"] for row in door.rows(tables.receipt)} == {"Pinco Pallino"}
    assert len(door.rows(tables.transfer)) == 2 * (6 + 18)
