"""The simulator as a test holds it: a process of its own, and its control endpoints as methods."""

import http.client
import json
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .service import CONTROL_BASE, CORE_BASE, RECEIPTS_BASE

_PATIENCE = 30  # seconds for the start and for a control call; loading a million receipts takes ten


class GpdSimulator:
    """A running simulator; use `start`, and `stop` or a `with` block."""

    package = Path(__file__).parent

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self.base_url = f"http://127.0.0.1:{port}"
        self.receipts_url = f"{self.base_url}{RECEIPTS_BASE}"
        self.core_url = f"{self.base_url}{CORE_BASE}"

    @classmethod
    def start(cls, tmp_path: Path, scenario: dict[str, Any] | None = None, port: int = 0) -> Self:
        """Starts a process and returns once it answers; its scenario and its standard error lie in `tmp_path`."""
        tmp_path = tmp_path.absolute()
        package = cls.package
        scenario_file = tmp_path / f"{package.name}.json"
        scenario_file.write_text(json.dumps(scenario or {}))
        command = [sys.executable, "-m", package.name, "--port", str(port), "--print-port", "--exit-with-stdin"]
        with (tmp_path / f"{package.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--scenario", str(scenario_file)],
                cwd=package.parent,
                stdin=subprocess.PIPE,  # never written to: its end tells the simulator that we are gone
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        with process.stdout as output:
            ready, _, _ = select.select([output], [], [], _PATIENCE)
            line = output.readline() if ready else b""
        if not line.strip().isdigit():
            _end(process, kill=True)
            log_text = (tmp_path / f"{package.name}.log").read_text(errors="replace")
            raise RuntimeError(f"the simulator did not start:\n{log_text}")
        return cls(process, int(line))

    def stop(self) -> None:
        """Ends the process; its port refuses connections afterwards. May be called again."""
        _end(self.process)

    def kill(self) -> None:
        """Ends the process the hard way."""
        _end(self.process, kill=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def control(self, what: str, body: Any = None, method: str | None = None) -> Any:
        """Calls a control endpoint, GET without a body and POST with one; ValueError if it was asked wrongly."""
        method = method or ("GET" if body is None else "POST")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request(method, CONTROL_BASE + what, None if body is None else json.dumps(body))
            response = connection.getresponse()
            result = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(result["error"])
        return result

    def load(self, **part: Any) -> dict[str, Any]:
        """Adds any part of a scenario: `receipts`, `generate`, `positions`, `settings`, `keys`, `faults`, ..."""
        return self.control("load", part)

    def reset(self, **scenario: Any) -> dict[str, Any]:
        """Forgets everything, counters too, and loads the scenario."""
        return self.control("reset", scenario)

    def settings(self, **values: Any) -> None:
        self.load(settings=values)

    def fault(self, **rule: Any) -> str:
        """Adds a fault (see `faults.Fault`) and returns its name."""
        return self.control("faults", rule)["faults"][0]

    def faults(self) -> dict[str, int]:
        """How often each fault has struck."""
        return {each["name"]: each["hits"] for each in self.control("faults")}

    def clear_faults(self, name: str | None = None) -> None:
        self.control(f"faults/{name}" if name else "faults", method="DELETE")

    def insert_while_paging(self, after: int, **order: Any) -> None:
        """Once `after` more lists (of `org`, if given) were answered: `receipts`, `generate`, `remove` (IUVs)."""
        self.load(insert_while_paging={"after": after, **order})

    def down(self, **rule: Any) -> None:
        """Every call fails until `up`, with an HTML 503 or as the fault says."""
        self.control("down", rule)

    def up(self) -> None:
        self.control("up", {})

    def pay(self, org: str, iuv: str) -> None:
        """Ends the 422 of a receipt that was loaded `unpaid`."""
        self.control("pay", {"org": org, "iuv": iuv})

    def remove(self, org: str, iuv: str) -> bool:
        return self.control("remove", {"org": org, "iuv": iuv})["removed"]

    def stats(self) -> dict[str, Any]:
        return self.control("stats")

    def clear_stats(self) -> None:
        self.control("stats", method="DELETE")

    def log(self) -> list[dict[str, Any]]:
        """The last 50,000 calls in the order of their answers."""
        return self.control("log")


def _end(process: subprocess.Popen[bytes], kill: bool = False) -> None:
    if process.poll() is None:
        process.kill() if kill else process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin and not process.stdin.closed:
        process.stdin.close()
