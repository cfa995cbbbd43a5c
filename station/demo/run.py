"""The demonstration's steps, and whether the books balance in the end."""

import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from station import config
from station.clock import ROME
from station.demo import office
from station.demo.nodo import Nodo
from station.demo.payments import BROKER, COMUNE, NAMES, NEIGHBOUR, PROVINCIA, STATION, Copy, Ledger
from station.demo.platform import BIZ_EVENTS, FDR, KEY, POSITIONS, RECEIPTS, Platform, serving
from station.demo.receiver import SECRET, Receiver, receiving
from station.demo.story import play
from station.errors import MissingExtraError, StationError

Say = Callable[[str], None]

_PATH = "/paForNode"
_START_S = 30.0
_DELIVERY_S = 30.0


class DemoError(StationError):
    """A step of the demonstration did not go as it should."""

    code = "demo_failed"


def run(say: Say, *, console: bool = False) -> bool:
    """Run the demonstration, print each step, and return whether the books balance. Raises `DemoError`.

    console: then serve the console with its data until Ctrl-C; raises `MissingExtraError` where it is not installed.
    """
    if console and any(find_spec(library) is None for library in ("flask", "bootstrap_italia_template")):
        raise MissingExtraError("The console", "console")
    ledger = Ledger(datetime.now(ROME))
    platform = Platform(ledger.listed)
    with (
        TemporaryDirectory(prefix="station-demo-") as name,
        serving(platform) as api,
        receiving() as receiver,
    ):
        demo = _Demo(Path(name), say, ledger, platform, api, receiver)
        balanced = demo.run()
        if balanced and console:
            demo.open_console()
        return balanced


class _Demo:
    def __init__(
        self, folder: Path, say: Say, ledger: Ledger, platform: Platform, api: str, receiver: Receiver
    ) -> None:
        self._folder = folder
        self._print = say
        self._ledger = ledger
        self._platform = platform
        self._api = api
        self._receiver = receiver
        self._steps = 0
        self._port, self._health, self._console = _free_ports()
        self._nodo = Nodo(self._port, _PATH)

    def run(self) -> bool:
        self._configure(COMUNE, PROVINCIA)
        self.step("A new station: SQLite in a temporary folder, two ECs, a broker with one station")
        self.station("migrate")
        with self.serving("serve", self._health), self.delivering():
            self._push_ordinary()
            self._show_webhook()
            self._push_and_cut()
            self._push_odd()
            self._push_bad()
            self._reconcile()
            self._replay()
            play(self, self._platform, self._api, self._ledger)
            self._show_metrics()
            # What was stored last is on its way.
            self._receiver.wait_for(len(self._ledger.expected), _DELIVERY_S)
        return self._balance()

    def open_console(self) -> None:
        """Serve the console with what the demonstration left, and more, until Ctrl-C."""
        (self._folder / "treasury").mkdir()
        more = office.configuration(self._console, self._receiver.url, str(self._folder / "treasury"))
        self._configure(COMUNE, PROVINCIA, NEIGHBOUR, more=more)
        office.open_office(self, self._ledger, self._platform, (self._health, self._console))

    # --- the steps ----------------------------------------------------------------------------------------------------

    def _push_ordinary(self) -> None:
        ordinary = self._ledger.ordinary
        self.step(f"The Nodo pushes {len(ordinary)} receipts, some of them to two ECs that share a payment")
        self.push(_envelopes(ordinary))

    def _show_webhook(self) -> None:
        self.step("Each receipt is sent to the EC's accounting, a webhook on loopback, which verifies the signature")
        count = len(self._ledger.ordinary)
        self._receiver.wait_for(count, _DELIVERY_S)
        receipts = self._receiver.receipts
        if len(receipts) != count:
            raise DemoError(f"{len(receipts)} of {count} receipts arrived at the webhook")
        first = receipts[0]
        self.note(f"{first['type']} {first['subject']}, {first['data']['receipt']['amount']} euro")
        self.note(f"{count} receipts arrived, numbers {first['data']['number']} to {receipts[-1]['data']['number']}")

    def _push_and_cut(self) -> None:
        cut, again = self._ledger.cut, self._ledger.ordinary[:40]
        self.step(
            f"The connection is cut {len(cut)} times, after the request and before the answer: the Nodo sends again"
        )
        self._nodo.push_and_cut(_envelopes(cut))
        self.push(_envelopes(cut))
        self.step(f"The Nodo sends {len(again)} receipts again that were already answered")
        self.push(_envelopes(again))

    def _push_odd(self) -> None:
        odd = self._ledger.odd
        self.step("Odd receipts are stored, and flagged")
        for oddity in odd:
            self.note(oddity)
        self.push(_envelopes(odd.values()))
        flags = Counter(flag for receipt in self.exported() for flag in receipt["flags"])
        self.note(", ".join(f"{number} {flag}" for flag, number in sorted(flags.items())))

    def _push_bad(self) -> None:
        ledger = self._ledger
        self.step(
            "Bad ones are refused and kept: an EC that is not configured, a broken schema, other content, no XML at all"
        )
        conflict = ledger.ordinary[0].other_content()
        bad = _envelopes([*ledger.for_neighbour, *ledger.broken, conflict])
        answers = {
            "KO PAA_ID_DOMINIO_ERRATO": len(ledger.for_neighbour),
            "KO PAA_SINTASSI_EXTRAXSD": len(ledger.broken),
            "KO PAA_RECEIPT_DUPLICATA": 1,
            "HTTP 400": 1,
        }
        self.push([*bad, b"this is no XML"], answers)

    def _reconcile(self) -> None:
        lost = len(self._ledger.lost)
        self.step(f"{lost} receipts never arrived: station reconcile finds them in the list of the GPD API")
        fetched = json.loads(self.station("reconcile", "--json"))["total"]["fetched"]
        self.note(f"fetched {fetched} of {lost}")
        if fetched != lost:
            raise DemoError(f"reconcile fetched {fetched} receipts instead of {lost}")

    def _replay(self) -> None:
        self.step("The operator adds the missing EC, and station replay accepts its receipts")
        self._configure(COMUNE, PROVINCIA, NEIGHBOUR)
        self.station("replay", "--refused", "--fault-code", "PAA_ID_DOMINIO_ERRATO")
        accepted = sum(receipt["id_pa"] == NEIGHBOUR for receipt in self.exported())
        self.note(f"accepted {accepted} of {len(self._ledger.for_neighbour)}")
        still_open = len(self.station("refused", "list", "--json").splitlines())
        self.note(f"{still_open} refused requests stay open for the operator to decide (station refused list)")
        if still_open != len(self._ledger.broken) + 1:
            raise DemoError(f"{still_open} refused requests are open instead of {len(self._ledger.broken) + 1}")

    def _show_metrics(self) -> None:
        self.step(f"What Prometheus would read at http://127.0.0.1:{self._health}/metrics, for example:")
        _, text = self._get("/metrics", self._health)
        for line in re.findall(r"^station_requests_total.*$", text, re.MULTILINE):
            self.note(line)

    def _balance(self) -> bool:
        self.step("The books: what was paid against what is stored, receipt by receipt")
        expected = {copy.key: copy.amount for copy in self._ledger.expected}
        rows = self.exported()
        stored = Counter((row["id_pa"], row["receipt_id"]) for row in rows)
        missing, unknown = expected.keys() - stored.keys(), stored.keys() - expected.keys()
        twice = [key for key, number in stored.items() if number > 1]
        paid, kept = sum(expected.values(), Decimal(0)), sum((Decimal(row["amount"]) for row in rows), Decimal(0))
        sample = self._ledger.ordinary[0]
        document = self.station("receipts", "show", sample.receipt_id, "--ec", COMUNE, "--xml").encode()
        same = document == sample.envelope()
        self.note(f"paid   {len(expected):4} receipts, {paid:>12} euro")
        self.note(f"stored {len(rows):4} receipts, {kept:>12} euro")
        self.note(f"missing {len(missing)}, unknown {len(unknown)}, stored twice {len(twice)}")
        self.note(f"one of them byte by byte: {'as it was sent' if same else 'DIFFERS'}")
        delivered = {tuple(one["subject"].split("/", 1)) for one in self._receiver.receipts}
        self.note(f"delivered by webhook {len(delivered)}, with a wrong signature {self._receiver.forged}")
        balanced = not (missing or unknown or twice) and paid == kept and same
        balanced = balanced and delivered == stored.keys() and not self._receiver.forged
        self._print("The books balance." if balanced else "THE BOOKS DO NOT BALANCE.")
        return balanced

    # --- what the steps are made of -----------------------------------------------------------------------------------

    def step(self, text: str) -> None:
        self._steps += 1
        self._print(f"{self._steps}. {text}")

    def note(self, text: str) -> None:
        self._print(f"   {text}")

    def push(self, documents: list[bytes], expected: dict[str, int] | None = None) -> None:
        """Push documents and check the answers, which are all OK where no others are expected."""
        answers = self._nodo.push(documents)
        self.note("answers: " + ", ".join(f"{number} {answer}" for answer, number in sorted(answers.items())))
        expected = expected or {"OK": len(documents)}
        if answers != expected:
            raise DemoError(f"the answers should have been {expected}")

    def _configure(self, *ecs: str, more: Iterable[str] = ()) -> None:
        lines = [
            f'[database]\nurl = "sqlite:///{self._folder}/station.sqlite3"',
            f'[server]\nlisten = "127.0.0.1:{self._port}"\nhealth_listen = "127.0.0.1:{self._health}"',
            '[[destination]]\nname = "accounting"\nkind = "webhook"\nstart = "beginning"',
            f'url = "{self._receiver.url}"\nsecret = "{SECRET}"',
            f'[gpd]\nurl = "{self._api}{RECEIPTS.removesuffix("/payments")}"\nkey = "{KEY}"\nrate = 1000',
            f'positions_url = "{self._api}{POSITIONS}"\npositions_key = "{KEY}"',
            f'[fdr]\nurl = "{self._api}{FDR}"\nkey = "{KEY}"\nrate = 1000',
            f'[biz_events]\nurl = "{self._api}{BIZ_EVENTS}"\nkey = "{KEY}"\nrate = 1000',
            f'[[broker]]\nid = "{BROKER}"\nstations = ["{STATION}"]',
            *(f'[[ec]]\nid = "{id_pa}"\nname = "{NAMES[id_pa]}"' for id_pa in ecs),
            *more,
        ]
        (self._folder / "station.toml").write_text("\n".join(lines))

    def _start(self, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        """Start one command as an operator would, but with no other setting of this machine."""
        self.note(f"$ station {' '.join(arguments)}")
        entry = "import sys; from station.cli import main; sys.argv[0] = 'station'; main()"
        return subprocess.Popen(  # noqa: S603  (our own command)
            [sys.executable, "-c", entry, "--config", str(self._folder / "station.toml"), *arguments],
            cwd=self._folder, env=config.environment_without_settings(), text=True, **options,
        )  # fmt: skip

    def station(self, *arguments: str, given: str = "") -> str:
        """Run one command and return what it printed. `given` is its standard input."""
        pipe = subprocess.PIPE
        with self._start(*arguments, stdin=pipe, stdout=pipe, stderr=pipe) as command:
            printed, errors = command.communicate(given)
        if command.returncode not in (0, 1):
            raise self._failed(f"station {arguments[0]} ended with {command.returncode}", errors)
        return printed

    def _failed(self, message: str, output: str) -> DemoError:
        for line in output.strip().splitlines():
            self.note(line)
        return DemoError(message)

    def exported(self) -> list[dict[str, Any]]:
        self.station("receipts", "export", "receipts.jsonl", "--overwrite")
        lines = (self._folder / "receipts.jsonl").read_text().splitlines()
        return [json.loads(line, parse_float=str) for line in lines]

    @contextmanager
    def serving(self, command: str, port: int) -> Iterator[None]:
        """Run a server, which says at `port` whether it is ready."""
        log_file = self._folder / f"{command}.log"
        with log_file.open("wb") as log:
            server = self._start(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + _START_S
            while self._get("/ready", port)[0] != 200:
                if server.poll() is not None or time.monotonic() > until:
                    raise self._failed(f"station {command} did not start", log_file.read_text()[-2000:])
                time.sleep(0.05)
            yield
        finally:
            server.terminate()
            server.wait()

    @contextmanager
    def delivering(self) -> Iterator[None]:
        self.station("deliveries", "test", "accounting")
        with (
            (self._folder / "deliver.log").open("wb") as log,
            self._start("deliver", stdout=log, stderr=log) as process,
        ):
            try:
                yield
            finally:
                process.terminate()

    def _get(self, path: str, port: int) -> tuple[int | None, str]:
        """Return status and text of a page; no status where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return None, ""
        finally:
            connection.close()


def _envelopes(copies: Iterable[Copy]) -> list[bytes]:
    return [copy.envelope() for copy in copies]


def _free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return [one.getsockname()[1] for one in sockets]
