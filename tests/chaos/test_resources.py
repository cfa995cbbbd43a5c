"""Memory ends, the disk is full, and the clock is wrong."""

import os
import resource
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from nodo_simulator.checker import rows
from postgres import reachable
from victims import workers

HOOKS = Path(__file__).parent / "hooks.py"


@pytest.mark.slow
def test_memory_ends(rig):
    """No process of the server gets more memory than it has: receipts are not refused for it, all comes in later."""
    server = rig.serve()
    nodo = rig.nodo(server, odd=0.9)
    for _ in range(6):
        nodo.wait_for(20)
        for worker in workers(server):
            size = worker.memory_info().vms + rig.chance.choice((0, 64 * 1024, 1024 * 1024))
            worker.rlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
        rig.pause(1, 3)
        with rig.trouble():
            for worker in workers(server):
                worker.rlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    nodo.wait_for(20)
    rig.done(nodo)


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


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_disk_full_under_postgresql(on_postgres, new_postgres, tmp_path):
    """PostgreSQL's disk is full, its data or its log: 503 until there is room, then all is well without help."""
    rig = on_postgres
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m,mode=777", "none", small], check=True)
    reachable(small)
    postgres = new_postgres(small, max_wal_size="64MB")
    try:
        server = rig.serve(postgres.url())
        nodo = rig.nodo(server)
        for left in (0, 300_000):
            nodo.wait_for(20)
            fill(small, left)
            time.sleep(6)
            with rig.trouble():
                (small / "filler").unlink()
            if not postgres.running:  # a full disk for its log stops PostgreSQL; its supervisor starts it again
                postgres.start()
        nodo.wait_for(20)
        rig.done(nodo, url=postgres.url())
    finally:
        postgres.remove()
        subprocess.run(["umount", "-l", small], check=True)
