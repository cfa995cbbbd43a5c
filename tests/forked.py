"""`station` as a process of its own that needs no time to import: forked from one that has imported everything.

`python -X importtime` finds half a second of imports in each `station`; a suite that runs it hundreds of times would
do little else. The fork server imports once and knows nothing of the tests.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("station.cli.server", "station.cli.receipts", "station.cli.reconcile", "station.cli.fdr", "pytest"),
        *("station.cli.journal", "station.cli.purge", "station.cli.refused", "station.cli.replay", "station.cli.stats"),
        *("station.cli.deliver", "station.cli.deliveries", "station.deliver.status", "station.deliver.webhook"),
        # What commands import where they use it.
        *("station.config", "station.log", "station.intake", "station.replay", "station.masking", "alembic.command"),
        *(f"station.store.{name}" for name in ("queries", "refused", "journal", "purge", "runs", "schema")),
        # What a worker takes longest to import. Not station.app: prometheus_client wants to know from the environment,
        # when it is imported, where the workers share their metrics.
        *("station.soap", "station.http.server", "gunicorn.workers.base", "station.cli.api", "station.api.server"),
        *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"),
    ]
)


def _become(arguments: list[str], env: dict[str, str], folder: str, out: str, err: str, given: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    file = os.open(given, os.O_RDONLY)
    os.dup2(file, 0)
    os.close(file)
    os.setsid()
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
    sys.argv = ["station", *arguments]
    from station.cli import main

    main()


@dataclass
class Forked:
    """A running command, in the words of `subprocess.Popen`; its output goes to files."""

    process: Any
    out: Path
    err: Path

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("station", timeout or 0)
        return self.returncode

    def finish(self, timeout: float) -> None:
        try:
            self.wait(timeout)
        finally:
            if self.returncode is None:
                self.process.kill()

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        self.finish(timeout)
        return self.out.read_text(), self.err.read_text()


def station(arguments: list[str], env: dict[str, str], folder: Path) -> Forked:
    """Starts `station` with these arguments; its output lies in `folder`."""
    output = folder / f"station-{len(list(folder.glob('station-*.out')))}"
    return start(arguments, env, folder, output.with_suffix(".out"), output.with_suffix(".err"))


def run(
    arguments: Sequence[str], env: dict[str, str], folder: Path, *, stdin: Path | None = None, text: bool = True
) -> subprocess.CompletedProcess[Any]:
    """Runs `station` in `folder` to its end, as `subprocess.run` does: its output is kept elsewhere."""
    with TemporaryDirectory() as outputs:
        process = start(arguments, env, folder, Path(outputs, "out"), Path(outputs, "err"), stdin)
        process.finish(120)
        out, err = (file.read_text() if text else file.read_bytes() for file in (process.out, process.err))
    return subprocess.CompletedProcess(arguments, process.returncode or 0, out, err)


def start(
    arguments: Sequence[str], env: dict[str, str], folder: Path, out: Path, err: Path, stdin: Path | None = None
) -> Forked:
    """Starts `station` in a session of its own; its output is added to the files `out` and `err`."""
    for file in (out, err):  # they are there even if it is killed at once
        file.touch()
    files = (str(out), str(err), str(stdin or os.devnull))
    process = _context.Process(target=_become, args=(list(map(str, arguments)), env, str(folder), *files))
    process.start()
    return Forked(process, out, err)
