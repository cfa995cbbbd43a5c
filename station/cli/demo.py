"""`station demo`."""

import click

from station import demo as use_case
from station.cli import cli
from station.cli.output import say


@cli.command()
def demo() -> None:
    """Show on this machine what a station does, in a minute and without a trace.

    Starts a station on SQLite in a temporary folder, with a Nodo and a GPD API that are simulated, both on loopback:
    hundreds of receipts, resends, odd and bad ones, a connection that is cut; then reconciles and replays, and compares
    what was paid with what is stored. No configuration is read, and nothing is left behind. Exits 1 unless the books
    balance.

    \b
    Example:
      station demo
    """
    if not use_case.run(say):
        raise click.exceptions.Exit(1)
