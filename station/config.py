"""The configuration: one TOML file, and environment variables over it. The only reader of `os.environ`.

`load` gives frozen `Settings` or a `ConfigError` that names each wrong value with its place. Every setting of a section
can be overridden by STATION_<SECTION>_<NAME>, and by STATION_<SECTION>_<NAME>_FILE with the path of a file that holds
the value (for secrets).
"""

import os
import re
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, field_validator
from pydantic import model_validator as check

from station.errors import ConfigError

DEFAULT_FILE = "station.toml"

EcId = Annotated[str, StringConstraints(pattern=r"^[0-9]{11}$")]
PagoPaId = Annotated[str, StringConstraints(min_length=1, max_length=35)]


class Section(BaseModel):
    """A part of the configuration: frozen, and a name it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Database(Section):
    """Where receipts are stored."""

    url: SecretStr = Field(
        SecretStr("sqlite:///station.sqlite3"),
        description="PostgreSQL (postgresql://user:password@host/database) or SQLite (sqlite:///file).",
    )
    pool_size: int = Field(0, ge=0, description="Connections per worker process at most; 0: one for each thread.")


class Server(Section):
    """The SOAP endpoint."""

    listen: str = Field("127.0.0.1:8080", description="Address and port to listen on, or unix:PATH.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="The endpoint's URL as the Nodo calls it; stands in the WSDL. Without it the request's own.",
    )
    path: str = Field("/paForNode", pattern=r"^/[^\s?#]*$", description="The endpoint's path on this server.")
    workers: int = Field(0, ge=0, le=64, description="Worker processes; 0: one on SQLite, one for each core otherwise.")
    threads: int = Field(8, ge=1, le=256, description="Threads of each worker process.")
    max_body: int = Field(1024 * 1024, ge=1024, description="Largest request body in bytes; more is answered 413.")
    station_id: PagoPaId | None = Field(
        None, description="The id in faults for requests without a readable idPA; otherwise the first broker's."
    )


class Rules(Section):
    """What is refused and what is stored and flagged."""

    unknown_elements: Literal["accept", "refuse"] = Field(
        "accept", description="A receipt with elements that the schema does not know: store and flag it, or refuse it."
    )
    strict_stations: bool = Field(
        False, description="Refuse a receipt that came by a station that is not configured, instead of flagging it."
    )


class Log(Section):
    """The log, on standard error."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="JSON lines, readable lines, or readable on a terminal and JSON elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level to be logged.")


class Broker(Section):
    """An intermediary (or the EC itself) that stations belong to."""

    id: PagoPaId = Field(description="idBrokerPA, a fiscal code.")
    stations: tuple[PagoPaId, ...] = Field((), description="Its stations (idStation).")


class Ec(Section):
    """An EC (ente creditore) that receipts are accepted for."""

    id: EcId = Field(description="idPA, the EC's fiscal code of 11 digits.")
    name: str = Field("", description="For people to read.")
    stations: tuple[PagoPaId, ...] = Field((), description="The stations it stands on; none: any of the brokers'.")


class Settings(Section):
    """The whole configuration."""

    database: Database = Database()
    server: Server = Server()
    rules: Rules = Rules()
    log: Log = Log()
    broker: tuple[Broker, ...] = ()
    ec: tuple[Ec, ...] = ()

    @field_validator("broker", "ec")
    @classmethod
    def _no_id_twice(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = [entry.id for entry in entries]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise ValueError(f"id {id_} stands there twice")
        return entries

    @check(mode="after")
    def _stations_known(self) -> Self:
        known = {station for broker in self.broker for station in broker.stations}
        for ec in self.ec:
            for station in ec.stations:
                if self.broker and station not in known:
                    raise ValueError(f"ec {ec.id}: station {station} belongs to no broker")
        return self

    @cached_property
    def brokers(self) -> dict[str, Broker]:
        """The brokers by id."""
        return {broker.id: broker for broker in self.broker}

    @cached_property
    def ecs(self) -> dict[str, Ec]:
        """The ECs by id."""
        return {ec.id: ec for ec in self.ec}

    @property
    def open_registry(self) -> bool:
        """Whether every idPA and broker is accepted, since none is configured."""
        return not self.broker and not self.ec

    @property
    def own_id(self) -> str:
        """The id this station answers with where the request has no idPA."""
        return self.server.station_id or (self.broker[0].id if self.broker else "station")


def load(file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the file (STATION_CONFIG, or station.toml where there is one) and the environment over it.

    Raises `ConfigError` that names every wrong value with its place; the values themselves are not repeated.
    """
    environ = os.environ if environ is None else environ
    named = file or environ.get("STATION_CONFIG")
    path = Path(named or DEFAULT_FILE)
    data: dict[str, Any] = {}
    if named or path.exists():
        data = _read_toml(path)
    overridden = _override(data, environ)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_places(error, path, overridden))) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Puts what the environment sets into `data`; returns which place was set by which variable."""
    overridden: dict[tuple[str, ...], str] = {}
    for section, field in Settings.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            continue
        for name in field.annotation.model_fields:
            variable = f"STATION_{section}_{name}".upper()
            value = environ.get(variable)
            if (secret_file := environ.get(f"{variable}_FILE")) is not None:
                if value is not None:
                    raise ConfigError(f"{variable} and {variable}_FILE are both set: keep one")
                variable += "_FILE"
                try:
                    value = Path(secret_file).read_text(encoding="utf-8").strip()
                except (OSError, UnicodeDecodeError) as error:
                    raise ConfigError(f"{variable}: cannot be read ({type(error).__name__})") from None
            if value is not None:
                held = data.setdefault(section, {})
                if isinstance(held, dict):
                    held[name] = value
                    overridden[(section, name)] = variable
    return overridden


def _places(error: ValidationError, path: Path, overridden: dict[tuple[str, ...], str]) -> list[str]:
    lines = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        place = tuple(str(step) for step in one["loc"])
        where = ".".join(place)
        where = re.sub(r"\.(\d+)", r"[\1]", where)
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "no such setting"
        variable = overridden.get(place[:2])
        lines.append(f"{variable}: {message}" if variable else f"{path}: {where}: {message}".replace(": : ", ": "))
    return lines
