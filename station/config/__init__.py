"""The configuration: one TOML file, and environment variables over it. The only reader of `os.environ`.

`load` gives frozen `Settings` or a `ConfigError` that names each wrong value with its place. Every setting of a section
can be overridden by STATION_<SECTION>_<NAME>, and by STATION_<SECTION>_<NAME>_FILE with the path of a file that holds
the value (for secrets). The keys of one [[broker]] or [[ec]] are set in the same way by STATION_BROKER_<ID>_<NAME> and
STATION_EC_<ID>_<NAME>, and the secrets of a [[destination]] by STATION_DESTINATION_<NAME>_SECRET and _PREVIOUS_SECRET,
for those that the file names.
"""

import os
import pwd
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from station.config.apis import BizEvents, Fdr, Gpd, KeyName, RestApi
from station.config.console import Account, Console, Grant, Oidc, Role
from station.config.destinations import Destination, Feed, Folder, Webhook
from station.config.ground import Network, Section
from station.config.settings import NODO_NAMES, Api, Broker, Ec, Journal, Retention, Settings, Tls, Trust
from station.errors import ConfigError
from station.text import printable

__all__ = [
    "NODO_NAMES", "Account", "Api", "BizEvents", "Broker", "Console", "Destination", "Ec", "Fdr", "Feed", "Folder",
    "Gpd", "Grant", "Journal", "KeyName", "Network", "Oidc", "RestApi", "Retention", "Role", "Section", "Settings",
    "Tls", "Trust", "Webhook", "environment_for_commands", "environment_without_settings", "load", "operator",
    "sources",
]  # fmt: skip

DEFAULT_FILE = "station.toml"


def load(file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read `file` (default: STATION_CONFIG, or station.toml if it exists) and the environment over it.

    Raises `ConfigError` that names every wrong value with its place; the values themselves are not repeated.
    """
    environ = os.environ if environ is None else environ
    path = _file(file, environ)
    data = {} if path is None else _read_toml(path)
    overridden = _override(data, environ)
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_messages(error, path or Path(DEFAULT_FILE), overridden))) from None


def sources(settings: Settings, file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return lines that name the configuration file and the database's setting, for errors and `station check`."""
    environ = os.environ if environ is None else environ
    path = _file(file, environ)
    configuration = f"none (no --config, no STATION_CONFIG, and there is no {Path(DEFAULT_FILE).absolute()})"
    database = "database.url" if "url" in settings.database.model_fields_set else "the default, as none is configured"
    variables = (name for name in ("STATION_DATABASE_URL", "STATION_DATABASE_URL_FILE") if name in environ)
    return [
        f"configuration file: {path.absolute() if path else configuration}",
        f"database chosen by: {next(variables, database)}",
    ]


def operator(environ: Mapping[str, str] | None = None) -> str:
    """Return who runs a command, for the history: STATION_OPERATOR, else sudo's caller, else this system's user."""
    environ = os.environ if environ is None else environ
    for name in ("STATION_OPERATOR", "SUDO_USER"):
        if named := environ.get(name, "").strip():
            return named[:64]
    try:
        return pwd.getpwuid(os.getuid()).pw_name[:64]
    except KeyError:  # a container's user needs no name
        return f"uid {os.getuid()}"


def environment_without_settings(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the variables that configure a station or its server (for the demo)."""
    environ = os.environ if environ is None else environ
    prefixes = ("STATION_", "GUNICORN_", "PROMETHEUS_")
    return {name: value for name, value in environ.items() if not name.startswith(prefixes)}


# What programs need to find others, files, keys and words. Not the rest: a password may be among it.
_FOR_COMMANDS = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "SSH_AUTH_SOCK")


def environment_for_commands(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a command that the operator configured: nothing in it that the station is told alone,
    such as the database's password."""
    environ = os.environ if environ is None else environ
    return {name: value for name, value in environ.items() if name in _FOR_COMMANDS or name.startswith("LC_")}


def _file(file: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration file: a named one must exist, the default one may be missing."""
    if named := file or environ.get("STATION_CONFIG"):
        return Path(named)
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(printable(f"{path}: cannot be read ({error.strerror})")) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise ConfigError(printable(f"{path}: not valid TOML: {error}")) from None


def _override(data: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Put the environment's values into `data`. Return the variable that set each place."""
    overridden: dict[tuple[str, ...], str] = {}

    def override(held: dict[str, Any], names: Iterable[str], prefix: str, *place: str) -> None:
        for name in names:
            variable, value = _from_environment(f"{prefix}_{name}".upper(), environ)
            if value is not None:
                held[name] = value
                overridden[*place, name] = variable

    for section, field in Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, Section):
            held = data.get(section, {})
            if isinstance(held, dict):
                override(held, model.model_fields, f"STATION_{section}", section)
                data |= {section: held} if held else {}
    secrets: dict[str, list[str]] = {
        section: [name for name in model.model_fields if name.endswith("_key")]
        for section, model in (("broker", Broker), ("ec", Ec))
    }
    for section, keys in (secrets | {"destination": ["secret", "previous_secret"]}).items():
        entries = data.get(section)
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                id_ = re.sub(r"\W", "_", str(entry.get("name" if section == "destination" else "id")))
                override(entry, keys, f"STATION_{section}_{id_}", section, str(number))
    return overridden


def _from_environment(variable: str, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the variable that sets a value, itself or its _FILE, and the value, None where neither is set."""
    value = environ.get(variable)
    if (secret_file := environ.get(f"{variable}_FILE")) is None:
        return variable, value
    if value is not None:
        raise ConfigError(f"{variable} and {variable}_FILE are both set: remove one")
    variable += "_FILE"
    try:
        return variable, Path(secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{variable}: cannot be read ({type(error).__name__})") from None


def _messages(error: ValidationError, path: Path, overridden: dict[tuple[str, ...], str]) -> list[str]:
    """Return a line for each wrong value: the variable or the place in the file that set it, and the reason."""
    lines = []
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        place = tuple(str(step) for step in one["loc"])
        where = re.sub(r"\.(\d+)", r"[\1]", ".".join(place))
        message = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            message = "no such setting"
        variable = overridden.get(place[:2]) or overridden.get(place[:3])
        # A message may list all the names that would have been right.
        lines.append(printable(f"{variable or f'{path}: {where}'}: {message}".replace(": : ", ": "), 2000))
    return lines
