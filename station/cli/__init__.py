"""The `station` command: argument parsing and printing, nothing else.

Exit status: 0 done, 1 something failed, 2 usage or configuration, 3 another run is active.
"""

import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import click

from station import __version__, config, log, store
from station.errors import (
    AnotherRunError,
    ConfigError,
    DatabaseUnfitError,
    MissingExtraError,
    SchemaBehindError,
    StationError,
)

_STATUS = {ConfigError: 2, MissingExtraError: 2, SchemaBehindError: 2, DatabaseUnfitError: 2, AnotherRunError: 3}


@dataclass
class Context:
    """What every command can ask for: the settings and the engine, read when first asked for."""

    file: Path | None
    _settings: config.Settings | None = field(default=None, init=False)

    @property
    def settings(self) -> config.Settings:
        """The configuration; the log is set up with it."""
        if self._settings is None:
            self._settings = config.load(self.file)
            log.configure(self._settings.log.format, self._settings.log.level)
        return self._settings

    def engine(self, *, check: bool = True, pool_size: int = 8) -> store.Engine:
        """The database. Raises `SchemaBehindError` unless its schema fits (or `check` is off)."""
        database = self.settings.database
        engine = store.connect(database.url.get_secret_value(), pool_size=pool_size, prepare=database.prepare)
        if check:
            store.check_schema(engine)
        return engine


_MODULES = {
    "check": "server",
    "demo": "demo",
    "grants": "grants",
    "journal": "journal",
    "migrate": "server",
    "purge": "purge",
    "receipts": "receipts",
    "reconcile": "reconcile",
    "refused": "refused",
    "replay": "replay",
    "serve": "server",
    "stats": "stats",
}


class _Commands(click.Group):
    """The commands, each loaded when it is called: an operator's loop over many of them waits for one, not for all."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _MODULES:
            import_module(f"station.cli.{_MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
@click.option(
    "--config",
    "-c",
    "file",
    type=click.Path(path_type=Path),
    help="The configuration file. Default: STATION_CONFIG, or station.toml where there is one.",
)
@click.pass_context
def cli(ctx: click.Context, file: Path | None) -> None:
    """The receipt station for pagoPA: receives payment receipts and keeps them."""
    ctx.obj = Context(file)


def main() -> None:
    """The entry point. Our errors become one clear line and an exit status."""
    try:
        # Without standalone mode click returns the status of an Exit instead of ending with it.
        sys.exit(cli(standalone_mode=False) or 0)
    except click.exceptions.Abort:
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`station receipts list | head`): no error, and nothing left to flush.
        sys.stderr.close()
        sys.exit(0)
    except StationError as error:
        click.echo(f"station: {error}", err=True)
        sys.exit(_STATUS.get(type(error), 1))
