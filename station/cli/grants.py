"""`station grants`."""

import click

from station.cli import cli
from station.cli.output import say
from station.store import rights
from station.text import printable


@cli.command()
@click.argument("role")
@click.option("--purge", is_flag=True, help="Include the rights for `station purge`, which deletes by age.")
@click.option("--console", is_flag=True, help="For a role of the console alone, limited to its users' ECs.")
def grants(role: str, purge: bool, console: bool) -> None:
    """Print the SQL that grants a PostgreSQL role the least rights to run the station.

    The owner of the tables runs it after each `station migrate`. The role can run the server, `reconcile` and `replay`;
    it cannot delete a receipt, nor drop, alter or create a table. With --console it can read, replay and discard, and
    send again, and row-level security shows it the rows of the ECs that the console's user may see; all other roles
    that have rights on the tables see all rows as before.

    \b
    Example:
      station grants station_app | psql "$OWNER_URL"
      station grants station_console --console | psql --set=ON_ERROR_STOP=1 "$OWNER_URL"
    """
    if purge and console:
        raise click.UsageError("--purge and --console are for two roles: the console purges nothing")
    # A line break in the name would make lines of its own.
    for statement in rights.grants(printable(role), purge=purge, console=console):
        for line in statement.splitlines():
            say(line, length=None)
