"""What the simulator writes down: one JSON object a line, on its way to the file before a copy is sent and at once
after it was answered. Times `t` are of the monotonic clock, which all processes of a machine share."""

import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Writer:
    """Appends without any buffer of its own: what was written is there when the simulator is killed."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"t": round(time.monotonic(), 4), "e": event, **fields}, separators=(",", ":"))
        os.write(self._file, line.encode() + b"\n")


@dataclass
class Copied:
    """One copy as the ledger tells it."""

    entry: dict[str, Any]
    sent: list[float] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    given_up: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.entry["id_pa"], self.entry["receipt_id"]

    @property
    def outcomes(self) -> list[str]:
        """Every valid answer; more than one only where the Nodo did not get the first."""
        return [one["r"] for one in self.answers if one["r"] in ("OK", "KO")]


@dataclass
class Ledger:
    """All copies by id."""

    copies: dict[str, Copied]

    @property
    def answers(self) -> Iterator[dict[str, Any]]:
        for copy in self.copies.values():
            yield from copy.answers

    def results(self) -> dict[str, int]:
        """How often each result was had."""
        counts: dict[str, int] = defaultdict(int)
        for answer in self.answers:
            counts[answer["r"]] += 1
        return dict(counts)

    @property
    def open(self) -> int:
        return sum(1 for copy in self.copies.values() if not copy.outcomes and not copy.given_up)

    def first_outcome_after(self, moment: float) -> float | None:
        """Seconds from `moment` (monotonic) to the next valid answer."""
        times = [one["t"] for one in self.answers if one["r"] in ("OK", "KO") and one["t"] > moment]
        return round(min(times) - moment, 2) if times else None

    def slowest_ms(self) -> float:
        """Of what was answered at all, in whatever way."""
        return max((one["ms"] for one in self.answers if one["r"] not in ("timeout", "broken")), default=0.0)


def read(file: Path) -> Ledger:
    """Reads a ledger; a last line that was cut by a kill is left out."""
    copies: dict[str, Copied] = {}
    for line in file.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        match event["e"]:
            case "copy":
                copies[event["d"]] = Copied(event)
            case "send":
                copies[event["d"]].sent.append(event["t"])
            case "answer":
                copies[event["d"]].answers.append(event)
            case "given_up":
                copies[event["d"]].given_up = True
    return Ledger(copies)
