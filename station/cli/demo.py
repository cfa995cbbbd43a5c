"""`station demo`."""

import click

from station import demo as use_case
from station.cli import cli
from station.cli.output import say


@cli.command()
@click.option("--console", is_flag=True, help="Then serve the console with this data, until Ctrl-C.")
def demo(console: bool) -> None:
    """Show a station at work on this machine, in about a minute; nothing is left behind.

    Starts a station on SQLite in a temporary folder, with a simulated Nodo and GPD API, both on loopback:
    hundreds of receipts, resends, odd and bad ones, a connection that is cut; then reconciles and replays, and compares
    the payments with the stored receipts, and with those that a webhook received. No configuration is read, and nothing
    is left behind. Exits 1 unless the books balance.

    With --console it goes on: it prints an address of this machine, a user and a one-time password for the console.

    \b
    Example:
      station demo
      station demo --console
    """
    if not use_case.run(say, console=console):
        raise click.exceptions.Exit(1)
