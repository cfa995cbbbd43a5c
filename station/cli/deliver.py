"""`station deliver`."""

import os
import sys
from contextlib import ExitStack, suppress

import click

from station import log
from station.cli import Context, cli
from station.cli.options import quiet_option, stop_on_signals
from station.errors import ConfigError
from station.text import printable


@cli.command()
@click.option("--once", is_flag=True, help="Do everything that is due, once, and end: for cron.")
@quiet_option
@click.pass_obj
def deliver(context: Context, /, once: bool) -> None:
    """Deliver stored receipts to the EC's own systems: webhooks and folders.

    It runs until it is stopped (SIGTERM, SIGINT), and waits while the database is away. One instance works at a time;
    a second one waits and takes over.

    With --once it exits 0 when all is delivered, 1 when something failed or is open, 2 for usage or configuration, 3
    while another instance runs.

    \b
    Example:
      station deliver
      station deliver --once
    """
    from station.deliver.run import Deliverer

    settings = context.settings
    if not settings.destination:
        raise ConfigError("no [[destination]] is configured: there is nothing to deliver to")
    engine = context.engine()
    if engine.dialect.name == "postgresql":
        _give_way()
    with ExitStack() as stack:
        bars = stack.enter_context(_DeliveryBars(context)) if sys.stderr.isatty() and not context.quiet else None
        complete = Deliverer(settings, engine, stop=stop_on_signals(), once=once, show=bars).run()
    raise click.exceptions.Exit(0 if complete or not once else 1)


def _give_way() -> None:
    """Let the processes that take receipts in go first, where the machine has less to give than all of them want.

    Not on SQLite: while it held the lock of the only writer and was not given a processor, they would wait, too.
    """
    # The unit in deploy/systemd sets this by itself, and forbids the call.
    with suppress(OSError):
        os.nice(10)


class _DeliveryBars:
    """Progress bars on a terminal for what takes long, one for each; they are left out where a run has little to do."""

    def __init__(self, context: Context) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self._settings = context.settings.log
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "_DeliveryBars":
        self._progress.start()
        log.configure(self._settings.format, self._settings.level)  # so that lines go above the bars
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        log.configure(self._settings.format, self._settings.level)

    def __call__(self, title: str, done: int, total: int | None) -> None:
        if title not in self._tasks:
            self._tasks[title] = self._progress.add_task(printable(title))
        self._progress.update(self._tasks[title], completed=done, total=total)
