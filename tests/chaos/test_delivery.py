"""Deliverers, readers, receivers, the station and its database are killed: what was stored reaches each destination."""

import csv
import hashlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
import pytest
from process import STATION, environment, free_port
from receiver import SECRET

HERE = Path(__file__).parent
KEY = "a-reader-of-the-feed"
ROUNDS = [
    pytest.param("postgresql", 5, id="postgresql-5"),
    pytest.param("postgresql", 50, id="postgresql-50", marks=pytest.mark.slow),
    pytest.param("sqlite", 50, id="sqlite-50", marks=pytest.mark.slow),
]
HELD_S = {5: 5, 50: 150}

CONFIG = """
[api]
listen = "127.0.0.1:{api}"

[[destination]]
name = "webhook"
kind = "webhook"
url = "http://127.0.0.1:{hook}/hook"
secret = "{secret}"
start = "beginning"

[[destination]]
name = "folder"
kind = "folder"
path = "{folder}"
every_minutes = 1
start = "beginning"

[[destination]]
name = "feed"
kind = "feed"
keys = ["sha256:{key}"]
"""


class Victim:
    """A process that is killed and started again."""

    def __init__(self, name: str, folder: Path, command: list[Any], env: dict[str, str]) -> None:
        self.name, self.folder, self.command, self.env = name, folder, command, env
        self.start()

    def start(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=self.env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


class Reader(threading.Thread):
    """Reads the feed for as long as the test runs, as an integrator would: what came and `next` are kept together."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}/api/v1/receipts"
        self.after = self.began = 0
        self.numbers: list[int] = []
        self.answers: Counter[str] = Counter()
        self.stop = threading.Event()
        self.problem: str | None = None

    def went_on(self) -> bool:
        return self.after > self.began

    def run(self) -> None:
        while not self.stop.is_set():
            asked = Request(
                f"{self.url}?after={self.after}&limit=50&wait=2", headers={"Authorization": f"Bearer {KEY}"}
            )
            try:
                with urlopen(asked, timeout=30) as answer:
                    page = json.load(answer)
            except HTTPError as error:
                self.answers[str(error.code)] += 1
                if error.code < 500:
                    self.problem = f"{error.code} {error.read()!r}"
                    return
            except (OSError, HTTPException, ValueError) as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers["200"] += 1
                self.numbers += [item["number"] for item in page["items"]]
                self.after = page["next"]
                continue
            self.stop.wait(0.2)


def rows(rig: Any, query: str) -> list[Any]:
    if rig.postgres:
        with psycopg.connect(rig.url) as connection:
            return connection.execute(query).fetchall()
    with closing(sqlite3.connect(rig.folder / "station.sqlite3", timeout=60)) as connection:
        return connection.execute(query).fetchall()


def wait_until(what: Callable[[], bool], why: str, timeout: float = 300) -> None:
    deadline = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < deadline, why
        time.sleep(0.3)


def files(folder: Path) -> list[tuple[int, int, list[str]]]:
    """The files in order of their numbers: from, to, and the receipts in each."""
    found = []
    for path in folder.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            lines = list(csv.DictReader(io.StringIO(archive.read("receipts.csv").decode())))
            for one in manifest["files"]:
                assert hashlib.sha256(archive.read(one["name"])).hexdigest() == one["sha256"], one["name"]
        assert manifest["receipts"] == len(lines)
        found.append((manifest["number_from"], manifest["number_to"], [line["receipt_id"] for line in lines]))
    return sorted(found)


# A receipt that is committed when readers have passed its place long since: the rows of another one, with a new id.
HELD = """
WITH one AS (SELECT * FROM receipt ORDER BY received_at LIMIT 1),
held AS (
    INSERT INTO receipt SELECT changed.* FROM one, jsonb_populate_record(
        NULL::receipt, to_jsonb(one) || jsonb_build_object(
            'receipt_id', 'held-back', 'notice_number', '399999999999999999', 'received_at', now()
        )
    ) AS changed
    RETURNING id_pa, receipt_id, received_at
),
its_transfers AS (
    INSERT INTO transfer SELECT changed.* FROM transfer JOIN one USING (id_pa, receipt_id),
    jsonb_populate_record(NULL::transfer, to_jsonb(transfer) || '{"receipt_id": "held-back"}') AS changed
)
INSERT INTO outbox (at, id_pa, receipt_id, revision) SELECT received_at, id_pa, receipt_id, 1 FROM held
"""


@pytest.mark.parametrize(("rig", "rounds"), ROUNDS, indirect=["rig"])
def test_delivery_killed(rig, rounds):
    """SIGKILL of deliverers, feed, receiver, station and database, a late commit, the clock set back: all arrives"""
    hook, api, out = free_port(), free_port(), rig.folder / "out"
    out.mkdir()
    key = hashlib.sha256(KEY.encode()).hexdigest()
    rig.config += CONFIG.format(hook=hook, api=api, folder=out, secret=SECRET, key=key)
    server = rig.serve(options=("--config", str(HERE / "hooks.py")))
    toml = rig.folder / "delivery.toml"
    toml.write_text(rig.config)
    env = environment(rig.url) | {"PYTHONPATH": str(HERE.parent)}
    deliver = [sys.executable, HERE / "deliver_by_clock.py", "--config", toml, "deliver"]
    victims = [
        Victim("deliver-1", rig.folder, deliver, env),
        Victim("deliver-2", rig.folder, deliver, env),
        Victim("api", rig.folder, [STATION, "--config", toml, "api"], env),
        Victim(
            "receiver", rig.folder, [sys.executable, HERE.parent / "receiver.py", str(hook), rig.folder / "taken"], env
        ),
    ]
    for victim in victims:
        rig.stack.callback(victim.kill)
    reader = Reader(api)
    reader.start()
    nodo = rig.nodo(server, rate=8, pause=3)
    nodo.wait_for(20)
    killed: Counter[str] = Counter()
    names = [*(victim.name for victim in victims), "station", *(["database"] if rig.postgres else [])]
    late_at, late = rig.chance.randrange(rounds // 2), None
    late_since = 0.0
    for number in range(rounds):
        if number == late_at and rig.postgres:
            late = psycopg.connect(rig.url)
            late.execute(HELD)
            late_since, reader.began = time.monotonic(), reader.after
        if number == rounds // 2:
            (rig.folder / "clock").write_text("-7200")
        if number == rounds * 3 // 4:
            (rig.folder / "clock").write_text("0")
        # The first rounds take one of each. The database is left alone while a commit is held back: it would be undone.
        name = names[number] if number < len(names) else rig.chance.choice(names)
        if name == "database" and late:
            name = "deliver-1"
        killed[name] += 1
        rig.pause(0.2, 2.0)
        with rig.trouble():
            if name == "station":
                server.kill()
                server.start()
            elif name == "database":
                rig.postgres.kill()
                rig.pause(0, 1)
                rig.postgres.start()
            else:
                victim = next(one for one in victims if one.name == name)
                victim.kill()
                victim.start()
        nodo.wait_for(2)
        if late and time.monotonic() - late_since > HELD_S[rounds]:
            wait_until(reader.went_on, "the reader did not go on")
            late.commit()
            late.close()
            late = None
    if late:
        time.sleep(max(0, HELD_S[rounds] - (time.monotonic() - late_since)))
        wait_until(reader.went_on, "the reader did not go on")
        late.commit()
        late.close()
    if rig.postgres:  # all commits wait for a standby that is not there
        rig.postgres.execute("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        time.sleep(HELD_S[rounds] / 2)
        rig.postgres.execute("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    ledger = nodo.finish(300)

    stored = {f"{id_pa}/{receipt_id}" for id_pa, receipt_id in rows(rig, "SELECT id_pa, receipt_id FROM receipt")}
    assert len(stored) > 20
    wait_until(lambda: rows(rig, "SELECT count(*) FROM outbox")[0][0] == 0, "the outbox is not empty")
    outgoing = rows(rig, "SELECT number, id_pa, receipt_id, revision FROM outgoing ORDER BY number")
    assert [row[0] for row in outgoing] == [*range(1, len(outgoing) + 1)]
    assert {f"{row[1]}/{row[2]}" for row in outgoing if row[3] == 1} == stored

    def taken() -> list[list[str]]:
        with suppress(FileNotFoundError):
            return [line.split(" ", 2) for line in (rig.folder / "taken").read_text().splitlines()]
        return []

    everything = [row[0] for row in outgoing]
    wait_until(lambda: {int(line[0]) for line in taken()} == {*everything}, "the webhook is not complete")
    wait_until(lambda: reader.after == everything[-1] or bool(reader.problem), "the feed is not complete")
    wait_until(lambda: bool(found := files(out)) and found[-1][1] == everything[-1], "the files are not complete")
    reader.stop.set()
    reader.join(60)

    assert reader.problem is None
    assert reader.numbers == everything  # exactly once, strictly growing
    of_number = {}
    for number, event_id, subject in taken():
        assert of_number.setdefault(number, (event_id, subject)) == (event_id, subject)
    assert {subject for _, subject in of_number.values()} == stored
    found = files(out)
    assert [first for first, _, _ in found] == [1, *(last + 1 for _, last, _ in found[:-1])]
    of_files = [receipt_id for _, _, some in found for receipt_id in some]
    assert sorted(of_files) == sorted(row[2] for row in outgoing)  # no receipt became fuller: each is there once
    assert not list(out.glob("*.part"))
    rig.figures = {
        "database": "postgresql" if rig.postgres else "sqlite", "killed": dict(killed), "copies": len(ledger.copies),
        "results": ledger.results(), "receipts": len(stored), "delivered": len(taken()), "files": len(found),
        "answers": dict(reader.answers), "troubles": rounds, "lost": 0, "doubled": 0,
        "store_lost": False, "recovery_median_s": None, "recovery_worst_s": None,
        "sends": sum(len(copy.sent) for copy in ledger.copies.values()), "workers": 2,
        "seconds": round(time.monotonic() - rig.begun, 1),
    }  # fmt: skip
