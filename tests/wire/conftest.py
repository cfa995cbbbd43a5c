"""A running station of each kind of database, shared by a module's tests. Imports nothing from the station."""

import json
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from build import BROKER, EC, OTHER_EC, STATION
from lxml import etree
from process import Server, running_server
from psycopg.rows import dict_row

REGISTRY = f"""
[server]
max_body = 200000

[[broker]]
id = "{BROKER}"
stations = ["{STATION}", "{BROKER}_02"]

[[ec]]
id = "{EC}"
name = "Comune di Vattelapesca"

[[ec]]
id = "{OTHER_EC}"
"""
NS = {"soap": "http://schemas.xmlsoap.org/soap/envelope/", "p": "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"}


@dataclass
class Answer:
    """An HTTP answer, read as SOAP where it is."""

    http: httpx.Response

    @property
    def status(self) -> int:
        return self.http.status_code

    @property
    def body(self) -> Any:
        """The element in the SOAP Body."""
        return etree.fromstring(self.http.content).find("soap:Body", NS)[0]

    @property
    def outcome(self) -> str | None:
        return self.body.findtext("outcome")

    def fault(self, name: str = "faultCode") -> str | None:
        return self.body.findtext(f"fault/{name}")

    @property
    def soap_fault(self) -> str:
        """Client or Server."""
        assert self.body.tag == f"{{{NS['soap']}}}Fault"
        return str(self.body.findtext("faultcode")).partition(":")[2]


@dataclass
class Running:
    """A running station, a client with a connection to it, and its database."""

    server: Server
    client: httpx.Client
    database_url: str

    def push(self, raw: bytes, **headers: str) -> Answer:
        headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '"paSendRTV2"'} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return Answer(self.client.post(self.server.url, content=raw, headers=headers))

    def raw(self, data: bytes) -> bytes:
        """Sends these bytes on a connection of their own and reads until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as connection:
            connection.sendall(data)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def rows(self, sql: str, *parameters: object) -> list[dict[str, Any]]:
        """Asks the database, past the station. `?` marks parameters."""
        return query(self.database_url, sql, *parameters)

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.server.log.splitlines()]


def query(database_url: str, sql: str, *parameters: object) -> list[dict[str, Any]]:
    if database_url.startswith("sqlite"):
        with sqlite3.connect(database_url.removeprefix("sqlite:///")) as connection:
            connection.row_factory = sqlite3.Row
            found = [dict(row) for row in connection.execute(sql, parameters)]
        connection.close()
        return found
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        return connection.execute(sql.replace("?", "%s"), parameters).fetchall()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def station(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A station with a registry."""
    folder = tmp_path_factory.mktemp("station")
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_migrated"), folder / "station.sqlite3")
        url = f"sqlite:///{folder / 'station.sqlite3'}"
    else:
        url = request.getfixturevalue("postgres_migrated")
    with running_server(folder, url, config=REGISTRY, fork=True) as server, httpx.Client(timeout=20) as client:
        yield Running(server, client, url)


@pytest.fixture
def connect(serve: Callable[..., Server]) -> Iterator[Callable[..., Running]]:
    """Starts a station of the test's own: `connect(database_url, config=..., **env)`."""
    clients = []

    def start(database_url: str, **over: Any) -> Running:
        client = httpx.Client(timeout=20)
        clients.append(client)
        return Running(serve(database_url, **over), client, database_url)

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def data() -> Path:
    return Path(__file__).parent.parent / "data"
