"""What happens in the demonstration, step by step, and whether the books balance in the end."""

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

from station import config
from station.demo import gpd
from station.demo.nodo import Nodo, copies
from station.demo.payments import BROKER, COMUNE, NEIGHBOUR, PROVINCIA, STATION, Ledger
from station.errors import StationError

Say = Callable[[str], None]

_PATH = "/paForNode"
_START_S = 30.0


class DemoError(StationError):
    """A step of the demonstration did not go as it should."""

    code = "demo_failed"


def run(say: Say) -> bool:
    """Runs it, tells each step, and returns whether the books balance. Leaves nothing behind. Raises `DemoError`."""
    ledger = Ledger(datetime.now(ZoneInfo("Europe/Rome")))
    with TemporaryDirectory(prefix="station-demo-") as name, gpd.serving(ledger.listed) as api:
        return _Demo(Path(name), say, ledger, api).run()


class _Demo:
    def __init__(self, folder: Path, say: Say, ledger: Ledger, api: str) -> None:
        self._folder = folder
        self._tell = say
        self._ledger = ledger
        self._api = api
        self._step = 0
        self._port, self._health = _free_ports()

    def run(self) -> bool:
        self._configure((COMUNE, PROVINCIA))
        self._say("A new station: SQLite in a temporary folder, two ECs, a broker with one station")
        self._station("migrate")
        with self._serving():
            nodo = Nodo(self._port, _PATH)
            self._push(nodo)
            self._cut(nodo)
            self._push_odd(nodo)
            self._push_bad(nodo)
            self._reconcile()
            self._replay()
            self._watch()
        return self._balance()

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _push(self, nodo: Nodo) -> None:
        ordinary = self._ledger.ordinary
        self._say(f"The Nodo pushes {len(ordinary)} receipts, some of them to two ECs that share a payment")
        self._answers(nodo.push(copies(ordinary)), {"OK": len(ordinary)})

    def _cut(self, nodo: Nodo) -> None:
        cut = self._ledger.cut
        self._say(
            f"The connection is cut {len(cut)} times, after the request and before the answer: the Nodo sends again"
        )
        nodo.push_and_cut(copies(cut))
        self._answers(nodo.push(copies(cut)), {"OK": len(cut)})
        again = self._ledger.ordinary[:40]
        self._say(f"The Nodo sends {len(again)} receipts again that were already answered")
        self._answers(nodo.push(copies(again)), {"OK": len(again)})

    def _push_odd(self, nodo: Nodo) -> None:
        odd = self._ledger.odd
        self._say("Odd receipts are stored, and flagged")
        for what in odd:
            self._note(what)
        self._answers(nodo.push(copies(odd.values())), {"OK": len(odd)})
        flags = Counter(flag for one in self._exported() for flag in one["flags"])
        self._note(", ".join(f"{number} {flag}" for flag, number in sorted(flags.items())))

    def _push_bad(self, nodo: Nodo) -> None:
        ledger = self._ledger
        conflict = ledger.ordinary[0].other_content()
        self._say(
            "Bad ones are refused and kept: an EC that is not configured, a broken schema, other content, no XML at all"
        )
        bad = [*copies(ledger.for_neighbour), *copies(ledger.broken), conflict.envelope(), b"this is no XML"]
        self._answers(
            nodo.push(bad),
            {"KO PAA_ID_DOMINIO_ERRATO": len(ledger.for_neighbour), "KO PAA_SINTASSI_EXTRAXSD": len(ledger.broken),
             "KO PAA_RECEIPT_DUPLICATA": 1, "HTTP 400": 1},
        )  # fmt: skip

    def _reconcile(self) -> None:
        lost = len(self._ledger.lost)
        self._say(f"{lost} receipts never arrived: station reconcile finds them in the list of the GPD API")
        summary = json.loads(self._station("reconcile", "--json"))
        fetched = summary["total"]["fetched"]
        self._note(f"fetched {fetched} of {lost}")
        if fetched != lost:
            raise DemoError(f"reconcile fetched {fetched} receipts instead of {lost}")

    def _replay(self) -> None:
        number = len(self._ledger.for_neighbour)
        self._say("The operator adds the missing EC, and station replay accepts its receipts")
        self._configure((COMUNE, PROVINCIA, NEIGHBOUR))
        self._station("replay", "--refused", "--fault-code", "PAA_ID_DOMINIO_ERRATO")
        taken = sum(one["source"] == "replay" or one["id_pa"] == NEIGHBOUR for one in self._exported())
        self._note(f"accepted {taken} of {number}")
        still = json.loads("[" + ",".join(self._station("refused", "list", "--json").splitlines()) + "]")
        self._note(f"{len(still)} refused requests stay open for the operator to decide (station refused list)")
        if len(still) != len(self._ledger.broken) + 1:
            raise DemoError(f"{len(still)} refused requests are open instead of {len(self._ledger.broken) + 1}")

    def _watch(self) -> None:
        self._say(f"What Prometheus would read at http://127.0.0.1:{self._health}/metrics, for example:")
        connection = http.client.HTTPConnection("127.0.0.1", self._health, timeout=15)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        for line in re.findall(r"^station_requests_total.*$", text, re.MULTILINE):
            self._note(line)

    def _balance(self) -> bool:
        expected = {copy.key: copy for copy in self._ledger.expected}
        self._say("The books: what was paid against what is stored, receipt by receipt")
        rows = self._exported()
        stored = Counter((row["id_pa"], row["receipt_id"]) for row in rows)
        missing = expected.keys() - stored.keys()
        unknown = stored.keys() - expected.keys()
        twice = [key for key, number in stored.items() if number > 1]
        paid, kept = (sum(amounts, Decimal(0)) for amounts in (
            (copy.amount for copy in expected.values()), (Decimal(row["amount"]) for row in rows)))  # fmt: skip
        sample = self._ledger.ordinary[0]
        same = (
            self._station("receipts", "show", sample.receipt_id, "--ec", COMUNE, "--xml").encode() == sample.envelope()
        )
        self._note(f"paid   {len(expected):4} receipts, {paid:>12} euro")
        self._note(f"stored {len(rows):4} receipts, {kept:>12} euro")
        self._note(f"missing {len(missing)}, unknown {len(unknown)}, stored twice {len(twice)}")
        self._note(f"one of them byte by byte: {'as it was sent' if same else 'DIFFERS'}")
        balanced = not (missing or unknown or twice) and paid == kept and same
        self._tell("The books balance." if balanced else "THE BOOKS DO NOT BALANCE.")
        return balanced

    # --- how ----------------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._step += 1
        self._tell(f"{self._step}. {text}")

    def _note(self, text: str) -> None:
        self._tell(f"   {text}")

    def _answers(self, came: Counter[str], expected: dict[str, int]) -> None:
        self._note("answers: " + ", ".join(f"{number} {answer}" for answer, number in sorted(came.items())))
        if came != expected:
            raise DemoError(f"the answers should have been {expected}")

    def _configure(self, ecs: tuple[str, ...]) -> None:
        lines = [
            f'[database]\nurl = "sqlite:///{self._folder}/station.sqlite3"',
            f'[server]\nlisten = "127.0.0.1:{self._port}"\nhealth_listen = "127.0.0.1:{self._health}"',
            f'[gpd]\nurl = "{self._api}"\nkey = "{gpd.KEY}"\nrate = 1000',
            f'[[broker]]\nid = "{BROKER}"\nstations = ["{STATION}"]',
            *(f'[[ec]]\nid = "{id_pa}"' for id_pa in ecs),
        ]
        (self._folder / "station.toml").write_text("\n".join(lines))

    def _command(self, *arguments: str) -> list[str]:
        entry = "import sys; from station.cli import main; sys.argv[0] = 'station'; main()"
        return [sys.executable, "-c", entry, "--config", str(self._folder / "station.toml"), *arguments]

    def _station(self, *arguments: str) -> str:
        """Runs one command as an operator would, without whatever else is configured on this machine."""
        self._note(f"$ station {' '.join(arguments)}")
        ended = subprocess.run(  # noqa: S603  (our own command)
            self._command(*arguments), cwd=self._folder, env=config.environment_without_settings(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode not in (0, 1):
            raise self._failed(f"station {arguments[0]} ended with {ended.returncode}", ended.stderr)
        return ended.stdout

    def _failed(self, what: str, told: str) -> DemoError:
        for line in told.strip().splitlines():
            self._note(line)
        return DemoError(what)

    def _exported(self) -> list[dict[str, Any]]:
        file = self._folder / "receipts.jsonl"
        self._station("receipts", "export", "receipts.jsonl", "--overwrite")
        return [json.loads(line, parse_float=str) for line in file.read_text().splitlines()]

    @contextmanager
    def _serving(self) -> Iterator[None]:
        self._note("$ station serve")
        log_file = self._folder / "station.log"
        with log_file.open("wb") as log:
            server = subprocess.Popen(  # noqa: S603  (our own command)
                self._command("serve"), cwd=self._folder, env=config.environment_without_settings(),
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            until = time.monotonic() + _START_S
            while not self._ready():
                if server.poll() is not None or time.monotonic() > until:
                    raise self._failed("the station did not start", log_file.read_text()[-2000:])
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait()

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._health, timeout=5)
        try:
            connection.request("GET", "/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]
