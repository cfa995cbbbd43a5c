"""The console with the demonstration's data in it, for a browser on this machine."""

import secrets
import signal
from contextlib import AbstractContextManager
from threading import Event
from typing import Protocol

from station.demo.payments import COMUNE, PROVINCIA, Ledger
from station.demo.platform import Platform
from station.demo.receiver import CHOOSY, SECRET

USER, _DISPLAY_NAME = "anna", "Anna Esposito"


class Stage(Protocol):
    """What the demonstration gives to the office: printing, commands, pushes and processes."""

    def step(self, text: str) -> None: ...
    def note(self, text: str) -> None: ...
    def station(self, *arguments: str, given: str = "") -> str: ...
    def push(self, documents: list[bytes], expected: dict[str, int] | None = None) -> None: ...
    def serving(self, command: str, port: int) -> AbstractContextManager[None]: ...
    def delivering(self) -> AbstractContextManager[None]: ...


def configuration(port: int, receiver: str, folder: str) -> list[str]:
    """Return the sections of the configuration that the console's pages have something from."""
    accounts = (
        ("E.1.01.01.51.001", "TARI", "9/0201101IM/"), ("E.3.01.02.01.008", "Mensa scolastica", "9/0301109AP/"),
        ("E.3.02.02.01.001", "Sanzioni", "9/0401101SA/"), ("E.1.01.01.60.001", "TEFA", "9/0201102TS/"),
    )  # fmt: skip
    return [
        f'[console]\nlisten = "127.0.0.1:{port}"\nworkers = 1',
        f'[[grant]]\nuser = "{USER}"\necs = ["*"]\nrole = "admin"',
        *(
            f'[[account]]\ncode = "{code}"\nname = "{name}"\ncategories = ["{category}"]'
            for code, name, category in accounts
        ),
        '[[destination]]\nname = "register"\nkind = "webhook"\nstart = "beginning"\n'
        f'url = "{receiver.rsplit("/", 1)[0]}{CHOOSY}"\nsecret = "{SECRET}"',
        f'[[destination]]\nname = "treasury"\nkind = "folder"\npath = "{folder}"\nevery_minutes = 1\nitalian = true\n'
        'start = "beginning"',
    ]


def open_office(stage: Stage, ledger: Ledger, platform: Platform, ports: tuple[int, int]) -> None:
    """Add what waits for a person, serve the console, and wait until Ctrl-C. `ports`: station's health, console's."""
    health, port = ports
    with stage.serving("serve", health), stage.delivering():
        stage.step("A notice is paid twice, and a bank transfer has a payment of which no one sends a receipt")
        stage.push([ledger.paid_twice.envelope()])
        platform.credit(COMUNE, [*ledger.ordinary[:12], ledger.never_heard_of])
        platform.credit(PROVINCIA, [copy for copy in ledger.ordinary if copy.id_pa == PROVINCIA][:5])
        stage.station("fdr", "--json")
        password = secrets.token_urlsafe(12)
        stage.station("console", "user", "add", USER, "--display-name", _DISPLAY_NAME, given=f"{password}\n")
        with stage.serving("console", port):
            stage.step("The console is open, for the staff of both ECs at once")
            stage.note(f"address   http://127.0.0.1:{port}/")
            stage.note(f"user      {USER}")
            stage.note(f"password  {password}")
            stage.note("Ctrl-C ends it, and nothing is left behind.")
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            try:
                Event().wait()
            except KeyboardInterrupt:
                stage.note("ended")
