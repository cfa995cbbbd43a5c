"""The checker finds what it is there to find; the simulator gives up and sends again as the Nodo does."""

import sqlite3
from hashlib import sha256

import pytest
from nodo_simulator import check

DAMAGE = {
    "a receipt lost": ("DELETE FROM transfer WHERE receipt_id = :id", "DELETE FROM receipt WHERE receipt_id = :id"),
    "a transfer lost": ("DELETE FROM transfer WHERE receipt_id = :id AND position = 1",),
    "an orphan transfer": ("UPDATE transfer SET receipt_id = 'x' WHERE receipt_id = :id",),
    "other bytes": ("UPDATE receipt SET raw = x'00' WHERE receipt_id = :id",),
    "another amount": ("UPDATE receipt SET amount = amount + 1 WHERE receipt_id = :id",),
    "never sent": ("UPDATE receipt SET receipt_id = 'x' WHERE receipt_id = :id",),
    "resends that were not": ("UPDATE receipt SET resends = 1000 WHERE receipt_id = :id",),
    "a number left out": ("UPDATE receipt SET notice_ordinal = 7 WHERE receipt_id = :id",),
    "a flag too many": ("INSERT INTO receipt_flag SELECT id_pa, :id, 'second_receipt', received_at FROM receipt "
                        "WHERE receipt_id = :id LIMIT 1",),
    "a station forgotten": ("DELETE FROM receipt_route", "UPDATE receipt SET id_station = 'x' WHERE receipt_id = :id"),
    "a refusal lost": ("DELETE FROM refused",),
    "a refusal without its bytes": ("UPDATE refused SET raw = x''",),
}  # fmt: skip


@pytest.fixture(scope="module")
def sent(tmp_path_factory, sqlite_template):
    """A ledger and the database that fits it."""
    import shutil

    from nodo_simulator import NodoSimulator
    from nodo_simulator.payments import REGISTRY
    from process import running_server

    folder = tmp_path_factory.mktemp("sent")
    file = shutil.copy(sqlite_template, folder / "station.sqlite3")
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
    """Each kind of damage to the database is a problem in the report."""
    ledger, file = sent
    copy = tmp_path / "damaged.sqlite3"
    with sqlite3.connect(file) as source, sqlite3.connect(copy) as connection:
        source.backup(connection)
        # One that came by one station only and has more than one transfer.
        (receipt_id,) = connection.execute(
            "SELECT receipt_id FROM transfer WHERE receipt_id NOT IN (SELECT receipt_id FROM receipt_route) "
            "AND receipt_id NOT IN (SELECT receipt_id FROM receipt_flag WHERE flag = 'second_receipt') "
            "GROUP BY receipt_id HAVING count(DISTINCT id_pa) = 1 AND count(*) > 1 LIMIT 1"
        ).fetchone()
        for statement in DAMAGE[damage]:
            assert connection.execute(statement, {"id": receipt_id} if ":id" in statement else {}).rowcount > 0
    source.close()
    connection.close()
    assert check(ledger, f"sqlite:///{copy}").problems != []


def test_given_up(tmp_path, sqlite_template):
    """Where nobody answers, a copy is sent as often as the Nodo does, and then given up: that is a loss."""
    from nodo_simulator import NodoSimulator
    from process import free_port

    url = f"http://127.0.0.1:{free_port()}/paForNode"
    nodo = NodoSimulator.start(tmp_path, [url], payments=3, attempts=48, pause=0.001, twice=0, leaving=0, rate=1000)
    nodo.process.wait(60)
    ledger = nodo.finish()
    assert {len(copy.sent) for copy in ledger.copies.values()} == {48}
    assert ledger.results().keys() == {"broken"}
    report = check(ledger, f"sqlite:///{sqlite_template}")
    assert report.lost == len(ledger.copies)


def test_same_seed_same_bytes():
    """A seed and a number make a payment, byte for byte."""
    from nodo_simulator.payments import Payments

    def digests(seed):
        payments = Payments(seed)
        return [sha256(copy.raw).hexdigest() for _ in range(50) for copy in payments.next()]

    assert digests(1) == digests(1)
    assert digests(1) != digests(2)
