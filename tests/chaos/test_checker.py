"""The checker finds what it is there to find; the simulator gives up and sends again as the Nodo does."""

import shutil
import sqlite3
from copy import deepcopy
from hashlib import sha256

import pytest
from nodo_simulator import NodoSimulator, check
from nodo_simulator.payments import EC, REGISTRY, Payments
from process import free_port, running_server

# What is done to the database, and what the checker must say of it.
DAMAGE = {
    "a receipt lost": (
        "was answered OK and is not stored",
        "DELETE FROM transfer WHERE receipt_id = :id", "DELETE FROM receipt WHERE receipt_id = :id",
    ),
    "a receipt twice": (
        "is stored 2 times",
        "CREATE TABLE free AS SELECT * FROM receipt", "DROP TABLE receipt", "ALTER TABLE free RENAME TO receipt",
        "INSERT INTO receipt SELECT * FROM receipt WHERE receipt_id = :id",
    ),
    "a transfer lost": (
        "is stored with 1 of 2 transfers", "DELETE FROM transfer WHERE receipt_id = :id AND position = 1",
    ),
    "an orphan transfer": (
        "('77777777777', 'x') has rows in transfer and no receipt",
        "UPDATE transfer SET receipt_id = 'x' WHERE receipt_id = :id",
    ),
    "an orphan flag": (
        "('x', 'x') has rows in receipt_flag and no receipt",
        "INSERT INTO receipt_flag SELECT 'x', 'x', 'stand_in', received_at FROM receipt LIMIT 1",
    ),
    "an orphan route": (
        "('x', 'x') has rows in receipt_route and no receipt",
        "INSERT INTO receipt_route SELECT 'x', 'x', 'x', 'x', received_at, received_at FROM receipt LIMIT 1",
    ),
    "other bytes": (
        "is stored with bytes that were never sent", "UPDATE receipt SET raw = x'00' WHERE receipt_id = :id",
    ),
    "another amount": (
        "is stored with other values", "UPDATE receipt SET amount = amount + 1 WHERE receipt_id = :id",
    ),
    "never sent": ("is stored and was never sent", "UPDATE receipt SET receipt_id = 'x' WHERE receipt_id = :id"),
    "resends that were not": ("and has 1000 resends", "UPDATE receipt SET resends = 1000 WHERE receipt_id = :id"),
    "a number left out": ("are numbered [7]", "UPDATE receipt SET notice_ordinal = 7 WHERE receipt_id = :id"),
    "a flag too many": (
        "are flagged as second ones",
        "INSERT INTO receipt_flag SELECT id_pa, :id, 'second_receipt', received_at FROM receipt "
        "WHERE receipt_id = :id LIMIT 1",
    ),
    "a station forgotten": (
        "nothing tells that it came by",
        "DELETE FROM receipt_route", "UPDATE receipt SET id_station = 'x' WHERE receipt_id = :id",
    ),
    "a refusal lost": ("was answered KO and is not kept", "DELETE FROM refused"),
    "a refusal without its bytes": ("is kept without its bytes", "UPDATE refused SET raw = x''"),
    "a refusal with other bytes": ("is kept without its bytes", "UPDATE refused SET raw = x'00'"),
    "a refusal twice": ("is kept 2 times", "INSERT INTO refused SELECT 'x', * FROM (SELECT {but_id_pa} FROM refused)"),
    "a refusal of nothing": (
        "was never sent", "UPDATE refused SET raw_hash = x'00' WHERE rowid = (SELECT min(rowid) FROM refused)",
    ),
    "a receipt among the refusals": (
        "is a receipt to be stored",
        "UPDATE refused SET raw = (SELECT raw FROM receipt WHERE receipt_id = :id), raw_hash = "
        "(SELECT document_hash FROM journal WHERE receipt_id = :id AND outcome = 'stored') "
        "WHERE rowid = (SELECT min(rowid) FROM refused)",
    ),
    "refusals not counted": ("was answered more often than -1 resends", "UPDATE refused SET times = 0"),
    "a history lost": ("the history of refused", "DELETE FROM refused_history"),
    "a history of nothing": ("the history of refused", "DELETE FROM refused"),
    "a stored receipt not in the journal": (
        "is 0 times stored in the journal, not 1 to 1",
        "DELETE FROM journal WHERE receipt_id = :id AND outcome = 'stored'",
    ),
    "in the journal and not stored": (
        "is 1 times stored in the journal, not 0 to 0", "UPDATE journal SET receipt_id = 'x' WHERE receipt_id = :id",
    ),
    "a resend not in the journal": (
        "times duplicate in the journal", "DELETE FROM journal WHERE outcome = 'duplicate'",
    ),
    "a refusal not in the journal": ("times refused in the journal", "DELETE FROM journal WHERE outcome = 'refused'"),
}  # fmt: skip


@pytest.fixture(scope="module")
def sent(tmp_path_factory, sqlite_migrated):
    """A ledger and the database that fits it."""
    folder = tmp_path_factory.mktemp("sent")
    file = shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    with running_server(folder, f"sqlite:///{file}", config=REGISTRY) as server:
        settings = {"seed": 3, "payments": 60, "rate": 1000, "twice": 0, "leaving": 0.1, "pause": 0.1}
        nodo = NodoSimulator.start(folder, [server.url], **settings)
        nodo.process.wait(60)  # ends by itself when all payments are done
        ledger = nodo.finish()
    return ledger, folder / "station.sqlite3"


def test_nothing_wrong(sent):
    """What arrived whole is whole: OK and KO, copies for several recipients, and sends that were given up."""
    ledger, file = sent
    report = check(ledger, f"sqlite:///{file}")
    assert report.problems == []
    assert (report.lost, report.doubled) == (0, 0)
    assert ledger.results().keys() == {"OK", "KO", "left"}
    assert report.receipts > 40
    assert report.refused > 0
    assert report.resends > 0


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(sent, tmp_path, damage):
    """Each kind of damage to the database is named in the report."""
    ledger, file = sent
    named, *statements = DAMAGE[damage]
    copy = tmp_path / "damaged.sqlite3"
    with sqlite3.connect(file) as source, sqlite3.connect(copy) as connection:
        source.backup(connection)
        # One that came by one station only and has two transfers.
        (receipt_id,) = connection.execute(
            "SELECT receipt_id FROM transfer WHERE receipt_id NOT IN (SELECT receipt_id FROM receipt_route) "
            "AND receipt_id NOT IN (SELECT receipt_id FROM receipt_flag WHERE flag = 'second_receipt') "
            "GROUP BY receipt_id HAVING count(DISTINCT id_pa) = 1 AND min(id_pa) = :ec AND count(*) = 2 LIMIT 1",
            {"ec": EC},
        ).fetchone()
        columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(refused)") if name != "id_pa"]
        for statement in statements:
            known = {"id": receipt_id} if ":id" in statement else {}
            done = connection.execute(statement.replace("{but_id_pa}", ", ".join(columns)), known)
            assert done.rowcount != 0
    source.close()
    connection.close()
    problems = check(ledger, f"sqlite:///{copy}").problems
    assert [one for one in problems if named in one]


def test_wrong_answers_are_found(sent):
    """An answer that should have been another one is named, and so is a copy that has none."""
    ledger, file = deepcopy(sent[0]), sent[1]
    good = [one for one in ledger.copies.values() if not one.entry["refuse"]]
    bad = [one for one in ledger.copies.values() if one.entry["refuse"]]
    good[0].answers[-1]["r"] = "KO"
    bad[0].answers[-1]["r"] = "OK"
    good[1].answers.clear()
    problems = check(ledger, f"sqlite:///{file}").problems
    assert f"copy {good[0].entry['d']} of {good[0].key} was answered KO" in problems
    assert f"copy {bad[0].entry['d']} of {bad[0].key} was answered OK" in problems
    assert f"copy {good[1].entry['d']} of {good[1].key} is still on its way" in problems


def test_given_up(tmp_path, sqlite_migrated):
    """Where nobody answers, a copy is sent as often as the Nodo does, and then given up: that is a loss."""
    url = f"http://127.0.0.1:{free_port()}/paForNode"
    nodo = NodoSimulator.start(tmp_path, [url], payments=3, attempts=48, pause=0.001, twice=0, leaving=0, rate=1000)
    nodo.process.wait(60)
    ledger = nodo.finish()
    assert {len(copy.sent) for copy in ledger.copies.values()} == {48}
    assert ledger.results().keys() == {"broken"}
    report = check(ledger, f"sqlite:///{sqlite_migrated}")
    assert report.lost == len(ledger.copies)


def test_same_seed_same_bytes():
    """A seed and a number make a payment, byte for byte."""

    def digests(seed):
        payments = Payments(seed)
        return [sha256(copy.raw).hexdigest() for _ in range(50) for copy in payments.next()]

    assert digests(1) == digests(1)
    assert digests(1) != digests(2)
