"""What the tests of folders share: a station with one folder, whose files are read back, and that can be killed."""

import csv
import hashlib
import io
import json
import os
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import forked
from build import ABSENT, Request, a_request, an_envelope
from refusals import OURS, Door

from station import config, store
from station.config import Settings
from station.deliver import folder as deliver
from station.store import deliveries, outgoing, tables

NOON = datetime(2026, 11, 28, 11, tzinfo=UTC)  # 12:00 in Italy
HOUR = timedelta(hours=1)


@dataclass
class Station:
    """A folder `erp` that gets a file each hour, and a clock of its own."""

    url: str
    path: Path
    over: dict[str, Any] = field(default_factory=dict)
    now: datetime = NOON

    def __post_init__(self) -> None:
        self.engine = store.connect(self.url)
        self.door = Door(self.engine)
        self.path.mkdir(exist_ok=True)
        with store.transaction(self.engine) as connection:
            deliveries.register(connection, "erp", "folder", position=0, at=self.now)
        self.serve()

    @property
    def settings(self) -> Settings:
        return settings(self.path, self.over)

    @property
    def folder(self) -> config.Folder:
        return self.settings.destinations["erp"]  # type: ignore[return-value]

    def take(self, *requests: Request) -> None:
        for request in requests or (a_request(),):
            assert self.door.take(an_envelope(request)).refused_id is None
        with store.transaction(self.engine) as connection:
            outgoing.number_outbox(connection, at=self.now, limit=1000)

    def complete(self, request: Request) -> None:
        """The same receipt again, in a document that says more; `request` came without its note."""
        self.take(request.but(paymentNote="carrello-0002"))

    def serve(self, *, after: timedelta = timedelta(0), **how: Any) -> bool:
        self.now += after
        return deliver.serve(self.settings, self.engine, self.folder, now=self.now, **how)

    def hourly(self) -> "Zip":
        """The file of the next hour."""
        before = set(self.path.glob("*"))
        assert self.serve(after=HOUR)
        (new,) = set(self.path.glob("*")) - before
        return Zip(new)

    @property
    def zips(self) -> list["Zip"]:
        """All files, in order."""
        return [Zip(self.path / row["name"]) for row in self.rows if (self.path / row["name"]).exists()]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return sorted(self.door.rows(tables.delivery_file), key=lambda row: row["planned_at"])

    @property
    def row(self) -> dict[str, Any]:
        """The last file."""
        return self.rows[-1]

    @property
    def destination(self) -> dict[str, Any]:
        return self.door.rows(tables.destination)[0]

    @property
    def counts(self) -> dict[str, int]:
        return {row["result"]: row["count"] for row in self.door.rows(tables.delivery_count)}

    def killed(self, place: str) -> None:
        """Serve it in a process that is killed at a place of `PLACES`."""
        process = forked._context.Process(target=_be_killed, args=(self.url, self.path, self.over, self.now, place))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL


def settings(path: Path, over: dict[str, Any]) -> Settings:
    folder = {"name": "erp", "kind": "folder", "path": str(path), "every_minutes": 60} | over
    if "at" in over:
        del folder["every_minutes"]
    return Settings.model_validate(OURS | {"destination": [folder]})


@dataclass
class Zip:
    """A file of a folder. Each check that every reader could make is made."""

    path: Path

    def __post_init__(self) -> None:
        with ZipFile(self.path) as archive:
            assert archive.testzip() is None
            self.content = {name: archive.read(name) for name in archive.namelist()}
            assert len(self.content) == len(archive.namelist())
        assert all(
            name.islower() and ".." not in name and not name.startswith("/") and "\\" not in name
            for name in self.content
        )
        self.manifest = json.loads(self.content["manifest.json"])
        listed = {one["name"]: one for one in self.manifest["files"]}
        assert set(listed) == set(self.content) - {"manifest.json"}
        for name, one in listed.items():
            assert one["sha256"] == hashlib.sha256(self.content[name]).hexdigest()
            assert one["size"] == len(self.content[name])

    @property
    def range(self) -> tuple[int, int]:
        return self.manifest["number_from"], self.manifest["number_to"]

    def table(self, name: str, *, italian: bool = False) -> list[dict[str, str]]:
        text = self.content[f"{name}.csv"].decode("utf-8-sig" if italian else "utf-8")
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if italian else ","))

    @property
    def receipts(self) -> list[dict[str, str]]:
        return self.table("receipts")

    @property
    def transfers(self) -> list[dict[str, str]]:
        return self.table("transfers")


def incomplete(**over: Any) -> Request:
    """A receipt that a later document can make fuller."""
    return a_request(paymentNote=ABSENT, **over)


# --- kills ------------------------------------------------------------------------------------------------------------


def _kill(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _be_killed(url: str, path: Path, over: dict[str, Any], now: datetime, place: str) -> None:
    turn, command = deliver._FolderTurn, deliver.command
    deliver._PAGE = 1
    match place:
        case "planned":
            turn._write = _kill  # type: ignore[method-assign]
        case "half written":
            read, pages = outgoing.outgoing_page, []

            def page(*arguments: Any, **named: Any) -> Any:
                pages.append(1)
                return read(*arguments, **named) if len(pages) < 3 else _kill()

            outgoing.outgoing_page = page
        case "on the disk":
            Path.replace = _kill  # type: ignore[method-assign,assignment]
        case "renamed":
            deliver._sync_folder = _kill
        case "written":
            command.run = _kill  # type: ignore[assignment]
        case "command ended":
            run = command.run
            command.run = lambda *arguments, **named: (run(*arguments, **named), _kill())[0]
    engine = store.connect(url)
    configured = settings(path, over)
    deliver.serve(configured, engine, configured.destinations["erp"], now=now)  # type: ignore[arg-type]


PLACES = ("planned", "half written", "on the disk", "renamed", "written", "command ended")
