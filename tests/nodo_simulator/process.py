"""The simulator as a test holds it: a process of its own."""

import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .ledger import Ledger, read

_PACKAGE = Path(__file__).parent


class NodoSimulator:
    """A running simulator; use `start`, and `finish` or a `with` block."""

    def __init__(self, process: subprocess.Popen[str], file: Path, log: Path) -> None:
        self.process = process
        self.file = file
        self.log = log

    @classmethod
    def start(cls, folder: Path, urls: list[str], *, name: str = "nodo", **settings: Any) -> Self:
        """Starts sending to `urls`; `settings` are those of `sender.Settings`."""
        folder = folder.absolute()
        file, log = folder / f"{name}.jsonl", folder / f"{name}.log"
        command = [sys.executable, "-m", _PACKAGE.name, "--ledger", str(file), "--exit-with-stdin"]
        command += [part for url in urls for part in ("--url", url)]
        command += [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=_PACKAGE.parent, stdin=subprocess.PIPE, stdout=output, stderr=output, text=True
            )
        return cls(process, file, log)

    @property
    def ledger(self) -> Ledger:
        """What was sent and answered so far."""
        return read(self.file)

    def wait_for(self, outcomes: int, timeout: float = 300) -> None:
        """Returns when so many more copies than now have been answered OK or KO."""
        wanted = self._outcomes() + outcomes
        deadline = time.monotonic() + timeout
        while self._outcomes() < wanted:
            if self.process.poll() is not None:
                raise RuntimeError(f"the simulator ended:\n{self.log.read_text()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {outcomes} more answers in {timeout} s: {self.ledger.results()}")
            time.sleep(0.05)

    def _outcomes(self) -> int:
        if not self.file.exists():
            return 0
        data = self.file.read_bytes()
        return data.count(b'"r":"OK"') + data.count(b'"r":"KO"')

    def finish(self, timeout: float = 300) -> Ledger:
        """No more payments; waits until every copy is final or given up. May be called again."""
        assert self.process.stdin is not None
        if self.process.poll() is None:
            self.process.stdin.write("stop\n")
            self.process.stdin.flush()
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.ledger.open} copies are still on their way: {self.ledger.results()}") from None
        self.process.stdin.close()
        if status != 0:
            raise RuntimeError(f"the simulator ended with {status}:\n{self.log.read_text()}")
        return self.ledger

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
