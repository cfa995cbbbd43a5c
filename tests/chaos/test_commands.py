"""Commands run, and are killed, beside a server that takes receipts."""

import json
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from build import a_bare_request, a_request
from gpd_simulator import GpdSimulator
from gpd_simulator.receipts import make_receipt
from nodo_simulator.checker import rows
from nodo_simulator.payments import EC, FOREIGN_EC, OTHER_EC, REGISTRY
from process import STATION, environment
from victims import kill, workers

ROOT = Path(__file__).parent.parent.parent
LAST_MONTH = {"start": str(date.today() - timedelta(days=30)), "end": str(date.today() - timedelta(days=3))}  # noqa: DTZ011


def start(rig, *arguments, config=REGISTRY):
    file = rig.folder / "command.toml"
    file.write_text(config)
    with (rig.folder / "command.log").open("ab") as log:
        return subprocess.Popen(
            [STATION, "--config", file, *arguments], env=environment(rig.url), cwd=rig.folder, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def killed_until_done(rig, nodo, rounds, arguments, progress, **how):
    """Runs a command, kills it `rounds` times, most of them when it has begun to take in, then lets it end.

    `progress` counts what it has taken in. Returns its last status."""
    begun = 0
    for _ in range(rounds):
        before = progress()
        process = start(rig, *arguments, **how)
        if begun > 1 and rig.chance.random() < 0.3:
            rig.pause(0.1, 1)
        else:
            while progress() == before and process.poll() is None:
                time.sleep(0.02)
            rig.pause(0, 0.3)
        with rig.trouble():
            process.kill()
            begun += process.wait() == -signal.SIGKILL and progress() > before
        nodo.wait_for(3)
    assert begun > 1  # in the midst of it
    return start(rig, *arguments, **how).wait(180)


def counted(rig, source):
    return lambda: rows(rig.url, f"SELECT count(*) AS n FROM receipt WHERE source = '{source}'")[0]["n"]


@pytest.mark.slow
def test_reconcile_killed(rig):
    """`station reconcile` is killed in the midst of fetching, again and again, while pushes go on: in the end
    everything is there once."""
    each = 400
    generate = [
        {"org": org, "count": each, "from": LAST_MONTH["start"], "to": LAST_MONTH["end"]} for org in (EC, OTHER_EC)
    ]
    scenario = {"settings": {"rate_calls": 0}, "generate": generate}
    with GpdSimulator.start(rig.folder, scenario) as gpd:
        config = f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "receipts-key"\nrate = 1000\nretries = 1\n{REGISTRY}'
        nodo = rig.nodo(rig.serve())
        nodo.wait_for(10)
        assert killed_until_done(rig, nodo, 8, ["reconcile"], counted(rig, "reconcile"), config=config) == 0
        nodo.wait_for(10)
        fetched = {
            (org, make_receipt(org, n, **LAST_MONTH)["receipt_id"]) for org in (EC, OTHER_EC) for n in range(each)
        }
        found = {(row["id_pa"], row["receipt_id"]) for row in rows(rig.url, "SELECT id_pa, receipt_id FROM receipt")}
        assert fetched <= found
        rig.done(nodo, others=fetched)


@pytest.mark.slow
def test_replay_killed(rig):
    """`station replay` is killed while it reads files and refused requests, while pushes go on: each is stored once."""
    nodo = rig.nodo(rig.serve(), refused=0.5, rate=40)
    nodo.wait_for(500)
    requests = [a_request() for _ in range(300)]
    folder = rig.folder / "documents"
    folder.mkdir()
    for number, request in enumerate(requests):
        (folder / f"{number}.xml").write_bytes(a_bare_request(request))
    ours = f'{REGISTRY}\n[[ec]]\nid = "{FOREIGN_EC}"\n'
    assert killed_until_done(rig, nodo, 5, ["replay", "--file", str(folder)], counted(rig, "replay")) == 0
    refused = ["replay", "--refused", "--fault-code", "PAA_ID_DOMINIO_ERRATO"]
    killed_until_done(rig, nodo, 5, refused, counted(rig, "replay"), config=ours)
    ledger = nodo.finish()
    assert start(rig, *refused, config=ours).wait(120) == 0
    states = {
        row["state"] for row in rows(rig.url, "SELECT state FROM refused WHERE fault_code = 'PAA_ID_DOMINIO_ERRATO'")
    }
    assert states == {"accepted"}
    foreign = {copy.key for copy in ledger.copies.values() if copy.entry["id_pa"] == FOREIGN_EC}
    replayed = {(request["idPA"], request["receiptId"]) for request in requests}
    found = {(row["id_pa"], row["receipt_id"]) for row in rows(rig.url, "SELECT id_pa, receipt_id FROM receipt")}
    assert foreign | replayed <= found
    rig.done(nodo, others=foreign | replayed)


@pytest.mark.slow
def test_migration_under_load(rig):
    """The schema goes back one or two versions and forward again while receipts arrive: 503 where it does not fit."""
    server = rig.serve()
    nodo = rig.nodo(server)
    for _ in range(3):
        nodo.wait_for(20)
        back = [sys.executable, "-m", "alembic", "downgrade", f"-{rig.chance.choice((1, 2))}"]
        for _ in range(20):  # no command of ours, which waits for nobody's locks
            if (
                subprocess.run(back, cwd=ROOT, env=environment(rig.url), capture_output=True, check=False).returncode
                == 0
            ):
                break
        else:
            pytest.fail("the schema does not go back")
        rig.pause(0, 1)
        with rig.trouble():
            assert start(rig, "migrate").wait(60) == 0
    nodo.wait_for(20)
    # On its way back the journal's table was dropped. What met a table that was not there may be kept as refused, and
    # was answered 503.
    rig.done(nodo, journal=False, defects_ok=True)


@pytest.mark.slow
def test_newer_schema_under_load(rig):
    """The schema is of a newer version: this one goes on, and so do workers that it starts now."""
    server = rig.serve()
    nodo = rig.nodo(server)
    nodo.wait_for(20)
    statements = [
        "ALTER TABLE receipt ADD COLUMN newer TEXT",
        "CREATE INDEX ix_receipt_newer ON receipt (newer)",
        "CREATE TABLE newer (n INTEGER)",
        "UPDATE alembic_version SET version_num = '9999'",
    ]
    if rig.postgres:
        rig.postgres.execute("SET lock_timeout = '5s'", *statements)
    else:
        import sqlite3

        with sqlite3.connect(rig.url.removeprefix("sqlite:///"), timeout=10) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
    for _ in range(3):
        nodo.wait_for(20)
        with rig.trouble():
            kill(rig.chance.choice(workers(server)))
    nodo.wait_for(20)
    assert server.process.poll() is None
    rig.done(nodo)


@pytest.mark.slow
def test_purge_and_lists_under_load(rig):
    """Lists, exports and purges run beside the load without harm."""
    nodo = rig.nodo(rig.serve())
    nodo.wait_for(50)
    deadline = time.monotonic() + 20
    config = f"[retention]\nraw_months = 1\nrefused_months = 1\n{REGISTRY}"
    while time.monotonic() < deadline:
        for arguments in (["purge"], ["receipts", "list"], ["refused", "list"], ["replay", "--stored", "--dry-run"]):
            process = start(rig, *arguments, config=config)
            if rig.chance.random() < 0.3:
                rig.pause(0.3, 1)
                process.send_signal(signal.SIGTERM)
                process.wait(60)
            else:
                assert process.wait(60) == 0
    ledger, _ = rig.done(nodo)
    assert ledger.results().keys() <= {"OK", "KO", "left"}
    assert "Traceback" not in (rig.folder / "command.log").read_text()
    assert json.dumps(ledger.results())
