"""Memory ends, the disk is full, and the clock is wrong."""

import os
import resource
import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import trouble
from nodo_simulator.checker import rows
from postgres import reachable
from victims import workers

HOOKS = Path(__file__).parent / "hooks.py"


@pytest.mark.slow
def test_memory_ends(rig):
    """The memory limit is reached: receipts are not refused for it, all comes in later."""
    server = rig.serve()
    nodo = rig.nodo(server, odd=0.9, rate=60, connections=40)
    for _ in range(6):
        nodo.wait_for(20)
        for worker in workers(server):
            # What it has written to, and not its addresses: threads have 64 MB of those each, to grow into.
            size = worker.memory_info().data + rig.chance.choice((0, 64 * 1024, 1024 * 1024))
            worker.rlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))
        rig.pause(1, 3)
        with rig.trouble():
            for worker in workers(server):
                worker.rlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo, defects_ok=True)
    assert "MemoryError" in server.log or ledger.results().keys() - {"OK", "KO", "left"}  # there was trouble indeed


@pytest.mark.slow
def test_memory_ends_anywhere(sqlite_url):
    """Each allocation of a push fails in one of its own: nothing stays held, nothing hangs, the next one is stored."""
    assert trouble.memory_ends(sqlite_url, step=1) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("shift", [-3600 * 24, 3600 * 24 * 40, -90], ids=["back", "forward", "a_little_back"])
def test_clock(rig, shift):
    """The worker's clock jumps and jumps back: nothing hangs, nothing is refused, times are as wrong as the clock."""
    server = rig.serve(options=("--config", str(HOOKS)))
    nodo = rig.nodo(server)
    for _ in range(3):
        nodo.wait_for(20)
        (rig.folder / "clock").write_text(str(shift))
        nodo.wait_for(20)
        with rig.trouble():
            (rig.folder / "clock").write_text("0")
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results().keys() <= {"OK", "KO", "left"}
    days = Counter(str(row["received_at"])[:13] for row in rows(rig.url, "SELECT received_at FROM receipt"))
    if abs(shift) > 3600:
        assert len(days) > 1  # the clock was wrong indeed


def fill(folder, left):
    """Leaves so many bytes of a file system free."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 * 1024))
    with (folder / "filler").open("r+b") as file:
        file.truncate(max(0, file.seek(0, os.SEEK_END) - left))


@pytest.fixture
def small(tmp_path):
    """A file system of its own, of 150 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts a small file system")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m,mode=777", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_disk_full_under_postgresql(on_postgres, new_postgres, small):
    """PostgreSQL's disk is full, its data or its log: 503 until there is room, then all is well without help."""
    rig = on_postgres
    reachable(small)
    postgres = new_postgres(small, max_wal_size="64MB")
    nodo = rig.nodo(rig.serve(postgres.url()))
    for left in (0, 300_000):
        nodo.wait_for(20)
        fill(small, left)
        time.sleep(6)
        with rig.trouble():
            (small / "filler").unlink()
        if not postgres.running:  # a full disk for its log stops PostgreSQL; its supervisor starts it again
            postgres.start()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo, url=postgres.url())
    assert ledger.results()["http 503"] > 0
    postgres.remove()


@pytest.mark.slow
def test_disk_read_only_under_postgresql(on_postgres):
    """PostgreSQL's disk turns read-only, which stops it in the end: 503 until it can write and is started again."""
    rig, postgres = on_postgres, on_postgres.postgres
    nodo = rig.nodo(rig.serve())
    for _ in range(3):
        nodo.wait_for(10)
        rig.pause(0, 0.5)
        if subprocess.run(["chattr", "-R", "+i", postgres.data], check=False).returncode:
            pytest.skip("only root makes files immutable, where the file system can")
        try:
            rig.pause(2, 6)
        finally:
            subprocess.run(["chattr", "-R", "-i", postgres.data], check=True)
        with rig.trouble():
            if not postgres.running:
                postgres.start()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0


@pytest.mark.slow
def test_disk_full_under_sqlite(on_sqlite, small):
    """SQLite's disk is full, at whatever point of a transaction: 503 until there is room, then all is well."""
    rig = on_sqlite
    shutil.move(rig.url.removeprefix("sqlite:///"), small / "station.sqlite3")
    url = f"sqlite:///{small / 'station.sqlite3'}"
    nodo = rig.nodo(rig.serve(url))
    for left in (0, 10_000, 50_000, 300_000):
        nodo.wait_for(20)
        fill(small, left)
        time.sleep(3)
        with rig.trouble():
            (small / "filler").unlink()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo, url=url)
    assert ledger.results()["http 503"] > 0
