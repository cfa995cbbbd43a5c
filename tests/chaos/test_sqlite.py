"""SQLite is locked by somebody else, full, read-only."""

import resource
import sqlite3
import subprocess
import time

import pytest
from nodo_simulator import check
from victims import workers


@pytest.mark.parametrize("rounds", [pytest.param(1, id="1"), pytest.param(8, id="8", marks=pytest.mark.slow)])
def test_locked(on_sqlite, rounds):
    """Another process locks SQLite: pushes wait, and are answered 503 where it takes too long."""
    rig = on_sqlite
    nodo = rig.nodo(rig.serve())
    for _ in range(rounds):
        nodo.wait_for(10)
        other = sqlite3.connect(rig.url.removeprefix("sqlite:///"), isolation_level=None, timeout=10)
        other.execute("BEGIN IMMEDIATE")
        with rig.trouble():
            rig.pause(1, 9 if rounds > 1 else 4)
            other.execute("ROLLBACK")
        other.close()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_busy_writer(on_sqlite):
    """Another process writes to SQLite all the time: in transactions of half a second, pushes come in between."""
    rig = on_sqlite
    nodo = rig.nodo(rig.serve())
    nodo.wait_for(10)
    other = sqlite3.connect(rig.url.removeprefix("sqlite:///"), isolation_level=None, timeout=10)
    other.execute("CREATE TABLE busy (n INTEGER)")
    deadline = time.monotonic() + 20
    with rig.trouble():
        while time.monotonic() < deadline:
            other.execute("BEGIN IMMEDIATE")
            other.execute("INSERT INTO busy VALUES (1)")
            time.sleep(0.5)
            other.execute("COMMIT")
    other.close()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.parametrize("rounds", [pytest.param(1, id="1"), pytest.param(8, id="8", marks=pytest.mark.slow)])
def test_full(on_sqlite, rounds):
    """No file of SQLite can grow: 503 until there is room, and whatever was half written is gone."""
    rig = on_sqlite
    server = rig.serve()
    nodo = rig.nodo(server)
    for _ in range(rounds):
        nodo.wait_for(10)
        size = rig.chance.randrange(4096, 300_000)
        for worker in workers(server):
            worker.rlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        with rig.trouble():
            rig.pause(1, 3)
            for worker in workers(server):
                worker.rlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0


@pytest.mark.slow
def test_turned_read_only(on_sqlite):
    """SQLite turns read-only, the files that are open too: 503, and OK when they can again."""
    rig = on_sqlite
    nodo = rig.nodo(rig.serve())
    for _ in range(4):
        nodo.wait_for(10)
        rig.pause(0, 0.5)
        files = sorted(rig.folder.glob("station.sqlite3*"))
        if subprocess.run(["chattr", "+i", *files], check=False).returncode:
            pytest.skip("only root makes files immutable, where the file system can")
        with rig.trouble():
            try:
                rig.pause(1, 6)
            finally:
                subprocess.run(["chattr", "-i", *files], check=True)
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0


@pytest.mark.slow
def test_readonly(on_sqlite):
    """SQLite is read-only for one of two servers: it answers 503, the other one takes it all."""
    rig = on_sqlite
    server = rig.serve(f"sqlite:///file:{rig.url.removeprefix('sqlite:///')}?mode=ro&uri=true")
    other = rig.serve()
    nodo = rig.nodo(server, other)
    nodo.wait_for(30)
    with rig.trouble():
        server.stop()
    nodo.stop()
    again = rig.nodo(other, name="again", seed=rig.seed + 1)
    again.wait_for(30)
    again.finish()
    rig.healthy()
    ledger = nodo.ledger
    ledger.copies |= {f"again {name}": copy for name, copy in again.ledger.copies.items()}
    report = check(ledger, rig.url, open_ok=True)
    rig.record(ledger, report)
    assert report.problems == []
    assert ledger.results()["http 503"] > 0


@pytest.mark.slow
def test_long_reader(on_sqlite):
    """Another process reads SQLite for so long that the write-ahead log cannot be folded back: pushes go on."""
    rig = on_sqlite
    nodo = rig.nodo(rig.serve())
    nodo.wait_for(10)
    other = sqlite3.connect(rig.url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM receipt").fetchall()
    nodo.wait_for(300)
    with rig.trouble():
        other.execute("ROLLBACK")
        other.close()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results().keys() <= {"OK", "KO", "left"}
