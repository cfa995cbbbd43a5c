"""Backups are taken while receipts arrive, the database is lost, and the backup is restored: what comes back by which
command, and what does not."""

import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from build import Request, a_gpd_document
from databases import DATABASE
from gpd_simulator import GpdSimulator
from nodo_simulator import check, read
from nodo_simulator.checker import rows
from nodo_simulator.payments import EC, REGISTRY, Copy, Payments
from postgres import BIN, Postgres, run, user
from process import STATION, environment

BACKUPS = ["sqlite_vacuum", "sqlite_backup", "pg_dump", "pg_basebackup"]


def take(how, rig, to):
    """The command that docs/backup.md names, while receipts arrive."""
    file = rig.url.removeprefix("sqlite:///")
    match how:
        case "sqlite_vacuum":  # what `sqlite3 station.sqlite3 "VACUUM INTO 'copy'"` runs, without the command
            script = (
                "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=60).execute('VACUUM INTO ?', sys.argv[2:])"
            )
            subprocess.run([sys.executable, "-c", script, file, to], check=True)
        case "sqlite_backup":
            script = (
                "import sqlite3, sys; a, b = map(sqlite3.connect, sys.argv[1:]); a.backup(b, pages=1000); b.close()"
            )
            subprocess.run([sys.executable, "-c", script, file, to], check=True)
        case "pg_dump":
            run("pg_dump", "--format=custom", f"--file={to}", rig.url)
        case "pg_basebackup":
            run("pg_basebackup", "-d", rig.url.rpartition("/")[0], "-D", to, "-X", "stream", "-c", "fast")


def restore(how, rig, backup, new_postgres):
    """The URL of a database made from the backup alone."""
    match how:
        case "sqlite_vacuum" | "sqlite_backup":
            shutil.copy(backup, rig.folder / "restored.sqlite3")
            return f"sqlite:///{rig.folder / 'restored.sqlite3'}"
        case "pg_dump":
            fresh = new_postgres()
            fresh.execute("CREATE DATABASE restored", database="postgres")
            url = fresh.url().replace(f"/{DATABASE}", "/restored")
            run("pg_restore", "--dbname", url, "--exit-on-error", backup)
            return url
        case "pg_basebackup":
            restored = Postgres(backup).start()
            rig.stack.callback(restored.remove)
            return restored.url()


def command(rig, url, *arguments, config=REGISTRY):
    file = rig.folder / "command.toml"
    file.write_text(config)
    done = subprocess.run(
        [STATION, "--config", file, *arguments], env=environment(url), cwd=rig.folder, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def the_copies(ledger, seed):
    """Every copy that was sent, made again from the seed."""
    payments = Payments(seed)
    found: dict[str, Copy] = {}
    while len(found) < len(ledger.copies):
        found |= {copy.id: copy for copy in payments.next() if copy.id in ledger.copies}
    return found


def beyond_loss(report):
    """What is wrong besides that something is missing: whole receipts, refusals, or that one came once more."""
    missing = ("is not stored", "is not kept", " resends")
    return [one for one in report.problems if not one.endswith(missing) and "nothing tells that it came by" not in one]


def listed_by_gpd(copy: Copy) -> bool:
    """The owner's copy, with a time of payment."""
    return not copy.refuse and copy.request["idPA"] == EC and copy.request.get("paymentDateTime") is not None


@pytest.mark.slow
@pytest.mark.parametrize("how", BACKUPS)
def test_backup_and_restore(request, how, new_postgres, tmp_path):
    """The backup is whole; then `reconcile` brings back what the API lists, and `replay` what documents there are."""
    rig = request.getfixturevalue("on_sqlite" if how.startswith("sqlite") else "on_postgres")
    if user() is not None:
        tmp_path.chmod(0o777)
    server = rig.serve()
    nodo = rig.nodo(server, rate=40)
    nodo.wait_for(200)
    answered = {copy.key for copy in nodo.ledger.copies.values() if "OK" in copy.outcomes}
    take(how, rig, tmp_path / "backup")
    nodo.wait_for(200)
    ledger = nodo.finish()
    server.kill()
    if rig.postgres:
        rig.postgres.remove()

    url = restore(how, rig, tmp_path / "backup", new_postgres)
    stored = {(row["id_pa"], row["receipt_id"]) for row in rows(url, "SELECT id_pa, receipt_id FROM receipt")}
    assert answered <= stored  # what was acknowledged before the backup began is in it
    lost = check(ledger, url)
    assert beyond_loss(lost) == []
    assert lost.lost > 0
    again = rig.serve(url)
    assert again.process.poll() is None

    copies = the_copies(ledger, rig.seed)
    gpd_rows = {copy.request["creditorReferenceId"]: copy.request for copy in copies.values() if listed_by_gpd(copy)}
    scenario = {"settings": {"rate_calls": 0}, "receipts": [as_row(one) for one in gpd_rows.values()]}
    with GpdSimulator.start(rig.folder, scenario) as gpd:
        config = f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "receipts-key"\nrate = 1000\n{REGISTRY}'
        command(rig, url, "reconcile", "--from", "2026-06-25", "--to", "2026-07-10", config=config)
    missing = [copy for copy in copies.values() if not copy.refuse and key(copy) not in stored_now(url)]
    # Not to be had from there: copies for other ECs, receipts without a time, and all but one receipt of an IUV.
    known = {(row["id_pa"], row["iuv"]) for row in rows(url, "SELECT id_pa, iuv FROM receipt")}
    assert [
        key(copy)
        for copy in missing
        if listed_by_gpd(copy) and (copy.request["idPA"], copy.request["creditorReferenceId"]) not in known
    ] == []
    reconciled = check(ledger, url)

    with zipfile.ZipFile(rig.folder / "documents.zip", "w") as archive:
        for copy in copies.values():
            if not copy.refuse:
                archive.writestr(f"{copy.id}.xml", copy.raw)
    command(rig, url, "replay", "--file", str(rig.folder / "documents.zip"))
    assert {key(copy) for copy in copies.values() if not copy.refuse} == stored_now(url)
    replayed = check(ledger, url)
    # What was refused after the backup is in no source: the Nodo takes a KO as final and sends it no more.
    assert [one for one in replayed.problems if one.endswith("is not stored")] == []
    rig.record(
        read(nodo.file), replayed, store_lost=True,
        lost_by_restore=lost.lost, lost_after_reconcile=reconciled.lost, lost_after_replay=replayed.lost,
    )  # fmt: skip


def key(copy: Copy) -> tuple[str, str]:
    return copy.request["idPA"], copy.request["receiptId"]


def stored_now(url: str) -> set[tuple[str, str]]:
    return {(row["id_pa"], row["receipt_id"]) for row in rows(url, "SELECT id_pa, receipt_id FROM receipt")}


def as_row(request: Request) -> dict[str, str]:
    return {
        "org": EC, "n": 1, "seed": request["receiptId"], "iuv": request["creditorReferenceId"],
        "receipt_id": request["receiptId"], "payment_date_time": request["paymentDateTime"],
        "xml": a_gpd_document(request).decode(),
    }  # fmt: skip


@pytest.mark.slow
def test_base_backup_and_archived_log(on_postgres, new_postgres, tmp_path):
    """A base backup and the archived log bring back everything up to the last segment that was archived."""
    rig, primary = on_postgres, on_postgres.postgres
    tmp_path.chmod(0o777)
    archive = tmp_path / "archive"
    archive.mkdir()
    archive.chmod(0o777)
    primary.stop()
    primary.settings |= {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    primary.start()
    nodo = rig.nodo(rig.serve(), rate=40)
    nodo.wait_for(100)
    run("pg_basebackup", "-d", rig.url.rpartition("/")[0], "-D", tmp_path / "base", "-X", "stream", "-c", "fast")
    nodo.wait_for(200)
    before = nodo.ledger
    last = primary.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")[0][0]
    primary.execute("SELECT pg_switch_wal()")
    while not (archive / last).exists():
        nodo.wait_for(1)
    primary.kill()
    shutil.rmtree(primary.data)  # the machine is gone, its disks with it
    nodo.stop()

    restored = Postgres(tmp_path / "base", restore_command=f"cp {archive}/%f %p")
    (restored.data / "recovery.signal").touch()
    if user() is not None:
        shutil.chown(restored.data / "recovery.signal", user())
    restored.start()
    rig.stack.callback(restored.remove)
    while restored.execute("SELECT pg_is_in_recovery()")[0][0]:
        time.sleep(0.1)
    stored = stored_now(restored.url())
    answered = {copy.key for copy in before.copies.values() if "OK" in copy.outcomes}
    assert answered <= stored
    report = check(nodo.ledger, restored.url(), open_ok=True)
    rig.record(nodo.ledger, report, store_lost=True)
    assert beyond_loss(report) == []


def test_the_commands_exist():
    """What docs/backup.md names is what the scenarios run."""
    text = (Path(__file__).parent.parent.parent / "docs" / "backup.md").read_text()
    for name in (
        "VACUUM INTO",
        "pg_dump --format=custom",
        "pg_restore",
        "pg_basebackup",
        "station reconcile",
        "station replay --file",
    ):
        assert name in text
    assert (BIN / "pg_dump").exists()
