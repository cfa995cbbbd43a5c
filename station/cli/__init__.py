"""The `station` command: argument parsing and printing, nothing else.

A module imports at its top only what all of its commands need: `--help` and a look-up are typed by people, and imports
would take most of a second.

Exit status: 0 done, 1 something failed, 2 usage, configuration or a database that `station migrate` has not prepared,
3 another run is active.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

import click

from station import __version__, store
from station.cli.output import say
from station.errors import (
    AnotherRunError,
    ConfigError,
    DatabaseUnfitError,
    MissingDatabaseError,
    MissingExtraError,
    SchemaBehindError,
    StationError,
    StoreError,
)

if TYPE_CHECKING:
    from station import config

_STATUS = {
    ConfigError: 2,
    MissingExtraError: 2,
    MissingDatabaseError: 2,
    SchemaBehindError: 2,
    DatabaseUnfitError: 2,
    AnotherRunError: 3,
}


@contextmanager
def _loading() -> Iterator[None]:
    """Import with Python's garbage collector paused, and freeze the imported objects.

    They are never freed: scanning them, in between and when the command ends, took a third of a look-up's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


@dataclass
class Context:
    """The settings and the engine, for every command; read when first used."""

    file: Path | None = None
    quiet: bool = False
    _settings: "config.Settings | None" = field(default=None, init=False)
    _engines: "list[store.Engine]" = field(default_factory=list, init=False)
    sources: list[str] = field(default_factory=list, init=False)  # where the settings came from, for errors

    @property
    def settings(self) -> "config.Settings":
        """The configuration; the log is set up with it."""
        if self._settings is None:
            with _loading():
                from station import config, log

            self._settings = config.load(self.file)
            # Now, and not when an error is printed: gunicorn may change the folder.
            database = store.shown_url(self._settings.database.url.get_secret_value())
            self.sources = [f"database: {database}", *config.sources(self._settings, self.file)]
            log.configure(self._settings.log.format, "error" if self.quiet else self._settings.log.level)
        return self._settings

    def engine(self, *, check: bool = True, pool_size: int = 8) -> "store.Engine":
        """Connect to the database. Raises `SchemaBehindError` unless its schema fits (or `check` is off)."""
        database = self.settings.database
        with _loading():
            engine = store.connect(database.url.get_secret_value(), pool_size=pool_size, prepare=database.prepare)
        self._engines.append(engine)
        if check:
            store.check_schema(engine)
        return engine

    def close(self) -> None:
        """Close the connections: the last one to an SQLite file folds the write-ahead log into it."""
        for engine in self._engines:
            engine.dispose()


# Each command, its module, and its line in `station --help`.
_COMMANDS = {
    "api": ("api", 'Serve the feed: receipts as JSON, for the readers in [[destination]] of kind "feed".'),
    "check": ("server", "Show the configuration, with secrets masked, and its problems."),
    "console": ("console", "Serve the console: pages for the EC's staff, in Italian."),
    "deliver": ("deliver", "Deliver stored receipts to the EC's own systems: webhooks and folders."),
    "deliveries": ("deliveries", "Show how receipts are delivered to the EC's own systems; send again, pause, skip."),
    "demo": ("demo", "Show a station at work on this machine, in about a minute; nothing is left behind."),
    "fdr": ("fdr_reports", "Compare what pagoPA says was credited (FdR) with the receipts that are stored."),
    "grants": ("grants", "Print the SQL that grants a PostgreSQL role the least rights to run the station."),
    "journal": ("journal", "List and export the event journal (giornale degli eventi)."),
    "migrate": ("server", "Bring the database schema up to date."),
    "purge": ("purge", "Remove data that is older than [retention] allows."),
    "receipts": ("receipts", "List, show and export stored receipts."),
    "reconcile": ("reconcile", "Fetch receipts that the push missed from the GPD receipts API."),
    "refused": ("refused", "List, show and discard refused requests."),
    "replay": ("replay", "Process documents again as if they had just been pushed."),
    "serve": ("server", "Serve the SOAP endpoint with gunicorn."),
    "stats": ("stats", "Count receipts and refusals per day and EC."),
}


class _Commands(click.Group):
    """The commands, each loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            with _loading():
                import_module(f"station.cli.{_COMMANDS[cmd_name][0]}")
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in sorted(_COMMANDS.items())])


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
    """Receive payment receipts from pagoPA and keep them.

    Times are Italian in everything printed for people, and UTC in JSON and in CSV for machines.
    """
    ctx.ensure_object(Context).file = file


def main() -> None:
    """Run the command line. Our errors become clear lines and an exit status."""
    # A terminal that is not UTF-8 gets escapes for characters that it cannot show; otherwise the command would fail.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    context = Context()
    try:
        # Without standalone mode click returns the status of an Exit instead of ending with it.
        sys.exit(cli(standalone_mode=False, obj=context) or 0)
    except click.exceptions.Abort:
        sys.exit(1)
    except click.ClickException as error:
        message = StringIO()
        error.show(message)
        for line in message.getvalue().removesuffix("\n").split("\n"):
            say(line, err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader went away (`station receipts list | head`): no error, and nothing left to flush.
        sys.stderr.close()
        sys.exit(0)
    except StationError as error:
        # A `ConfigError` has a line for each setting. In any other error a line break came from outside.
        lines = f"station: {error}".split("\n") if isinstance(error, ConfigError) else [f"station: {error}"]
        if isinstance(error, StoreError | SchemaBehindError):
            lines += [f"  {line}" for line in context.sources]
        if not (context.quiet and isinstance(error, AnotherRunError)):
            for line in lines:
                say(line, err=True)
        sys.exit(_STATUS.get(type(error), 1))
    finally:
        context.close()
