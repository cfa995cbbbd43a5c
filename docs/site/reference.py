"""Writes the pages that are generated from the code: docs/configuration.md and docs/commands.md (`make docs` runs it).

The tests fail while a page is not what this would write.
"""

import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from station import config
from station.cli import cli

DOCS = Path(__file__).parent.parent

_CONFIGURATION = """# Configuration

<!-- Written by docs/site/reference.py from station/config: change it there. -->

One TOML file: `station.toml` in the working folder, or the one named by `--config` or `STATION_CONFIG`. Every value
is checked at start, and each invalid one is reported with its place. `station check` shows the configuration, with
secrets masked, and `station check --production` also what is missing before going live.

Each setting of a section can be set by `STATION_<SECTION>_<NAME>` in the environment, which takes precedence over the
file, and by `STATION_<SECTION>_<NAME>_FILE` with the path of a file that holds the value, which is better for
secrets. In the environment, lists are separated by commas. The keys of an EC or broker in the file are set by
`STATION_EC_<ID>_<NAME>` and `STATION_BROKER_<ID>_<NAME>`, the secrets of a destination by
`STATION_DESTINATION_<NAME>_SECRET` and `STATION_DESTINATION_<NAME>_PREVIOUS_SECRET`.

`station serve` also accepts any gunicorn option, and `GUNICORN_CMD_ARGS`; both take precedence over the file. Nothing
of gunicorn's own request handling is used: its access log, its hooks `pre_request` and `post_request`, and
`--forwarded-allow-ips` have no effect (`server.public_url` is the address at which the station is reached). SIGHUP
makes it reload the configuration: new worker processes take over while the old ones finish their requests. A
configuration that cannot be loaded is refused, with a line in the log, and the old one stays in use.
"""

_COMMANDS = """# Commands

<!-- Written by docs/site/reference.py from station/cli: change it there. -->

`station [--config FILE] COMMAND`. Exit status: 0 done, 1 something failed or is still refused, 2 usage or
configuration, 3 another run is active.
"""


def configuration() -> str:
    """Return the page about the configuration."""
    parts = [_CONFIGURATION]
    for name, field in config.Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, config.Section):
            parts.append(f"## [{name}]\n\n{model.__doc__}\n\n{_table(name, model)}")
    for name, model in (
        ("broker", config.Broker), ("ec", config.Ec),
        ("destination", config.Webhook), ("destination", config.Folder), ("destination", config.Feed),
    ):  # fmt: skip
        parts.append(f"## [[{name}]]\n\n{model.__doc__} May occur any number of times.\n\n{_table(name, model)}")
    return "\n".join(parts)


def _table(section: str, model: type[config.Section]) -> str:
    lines = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        what = f"{_cell(field.description or '')}{_bounds(field)}"
        lines.append(f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {what} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"(<[^>]*>)", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "must be set"
    value = field.default.get_secret_value() if isinstance(field.default, SecretStr) else field.default
    if value is None or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`" if value != "" else "empty"


def _bounds(field: Any) -> str:
    words = {"ge": "at least {}", "gt": "more than {}", "le": "at most {}"}
    found = {name: value for one in field.metadata for name in words if (value := getattr(one, name, None)) is not None}
    parts = [text.format(f"{found[name]:,}") for name, text in words.items() if name in found]
    return f" ({', '.join(parts)})" if parts else ""


def _kind(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{one}`" if one != "" else "empty" for one in parts)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in parts if one is not type(None)))
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    names = {str: "text", SecretStr: "secret", bool: "true or false", int: "number", float: "number", Path: "file"}
    return names.get(kind) or {"IPv4Network": "network", "IPv6Network": "network"}.get(kind.__name__, kind.__name__)


def commands() -> str:
    """Return the page about the commands."""
    return "\n".join([_COMMANDS, *_each(cli, "station")])


def _each(command: click.Command, name: str) -> Iterator[str]:
    context = click.Context(command, info_name=name, max_content_width=80, terminal_width=80)
    if isinstance(command, click.Group):
        if command.invoke_without_command:
            yield _help(command, name, context)
        for word in command.list_commands(context):
            if found := command.get_command(context, word):
                yield from _each(found, f"{name} {word}")
        return
    yield _help(command, name, context)


def _help(command: click.Command, name: str, context: click.Context) -> str:
    return f"## {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"


PAGES = {"configuration.md": configuration, "commands.md": commands}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (DOCS / page).write_text(write(), encoding="utf-8")
