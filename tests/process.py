"""The station's processes, started as an operator would. Imports nothing from the station."""

import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import forked
import pytest

_ports = itertools.count()

Process = subprocess.Popen[bytes] | forked.Forked
STATION = Path(sys.executable).parent / "station"


def environment(database_url: str, **over: str) -> dict[str, str]:
    """An environment for the station's processes that holds nothing of this one's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STATION_", "GUNICORN_"))}
    # The health door's port is one for the whole machine: tests that ask for it choose one of their own.
    ours = {"STATION_DATABASE_URL": database_url, "STATION_LOG_FORMAT": "json", "STATION_SERVER_HEALTH_LISTEN": ""}
    return kept | ours | over


def migrate(database_url: str) -> None:
    """`station migrate`, as the benchmarks begin."""
    subprocess.run([STATION, "migrate"], env=environment(database_url), check=True, capture_output=True)


def free_port() -> int:
    """A port that no other process of this run is given: of two servers that were, one would answer for both.

    Below those that the kernel gives to clients. Each process begins at a place of its own and goes on from there.
    """
    while True:
        port = 10_000 + (os.getpid() * 997 + next(_ports)) % 22_000
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass
class Server:
    """A running `station serve`."""

    url: str
    port: int
    process: Process
    log_file: Path
    _restart: Callable[[], Process] = field(repr=False)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)

    def kill(self) -> None:
        """SIGKILL to the master and its workers at once."""
        os.killpg(self.process.pid, 9)
        self.process.wait(60)

    def start(self) -> None:
        """Starts it again, on the same port and database."""
        self.process = self._restart()


@contextmanager
def running_server(
    folder: Path,
    database_url: str,
    *,
    config: str = "",
    options: tuple[str, ...] = (),
    command: Sequence[str] = (str(STATION),),
    fork: bool = False,
    **env: str,
) -> Iterator[Server]:
    """`station serve` as an operator would start it, its files in `folder`. `command` is what takes its arguments.

    `fork` spares it the time for imports (see `forked`): not for a test whose hooks change a module before it is used.
    """
    port = free_port()
    file = folder / f"station-{port}.toml"
    file.write_text(config)
    log_file = folder / f"station-{port}.log"
    arguments = ["--config", str(file), "serve", "--bind", f"127.0.0.1:{port}", *options]

    def launch() -> Process:
        process: Process
        environ = environment(database_url, **env)
        if fork:
            process = forked.start(arguments, environ, folder, log_file, log_file)
        else:
            with log_file.open("ab") as log:
                process = subprocess.Popen(
                    [*command, *arguments], env=environ, cwd=folder, stderr=log, stdout=log, start_new_session=True
                )
        wait_for_answer(port, process, log_file)
        return process

    server = Server(f"http://127.0.0.1:{port}/paForNode", port, launch(), log_file, launch)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def wait_for_answer(port: int, process: Process, log_file: Path) -> None:
    """Until a worker answers: the master listens before any worker does."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"station serve ended with {process.returncode}:\n{log_file.read_text()}")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(b"GET /ready HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                connection.recv(1)  # an answer, or the end where it wants TLS: a worker is there
                return
        except OSError:
            time.sleep(0.05)
    pytest.fail(f"station serve did not answer:\n{log_file.read_text()}")
