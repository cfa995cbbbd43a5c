"""The command as a process of its own that needs no time to import: forked from one that has imported everything.

`python -X importtime` finds half a second of imports in each `station`; a suite that runs it hundreds of times would
do little else. The fork server imports once and knows nothing of the tests.
"""

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("station.cli.server", "station.cli.receipts", "station.cli.reconcile", "pytest"),
        *("sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql.psycopg", "psycopg"),
    ]
)


def _become(arguments: list[str], env: dict[str, str], folder: str, out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
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
        return self.process.pid

    def wait(self, timeout: float) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise subprocess.TimeoutExpired("station", timeout)
        return self.process.exitcode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()


def station(arguments: list[str], env: dict[str, str], folder: Path) -> Forked:
    """Starts `station` with these arguments; its output lies in `folder`."""
    number = len(list(folder.glob("station-*.out")))
    out, err = folder / f"station-{number}.out", folder / f"station-{number}.err"
    out.touch()
    process = _context.Process(target=_become, args=(arguments, env, str(folder), str(out), str(err)))
    process.start()
    return Forked(process, out, err)
