"""`station grants`."""

import click

from station import store
from station.cli import cli
from station.cli.output import say


@cli.command()
@click.argument("role")
@click.option("--purge", is_flag=True, help="The rights for `station purge`, too: deletes what retention lets go.")
def grants(role: str, purge: bool) -> None:
    """Print the SQL that gives a PostgreSQL role the least rights to run the station.

    The owner of the tables runs it, after each `station migrate`. With the role the server, `reconcile` and `replay`
    work; it cannot delete a receipt, drop or alter a table, or create one.

    \b
    Example:
      station grants station_app | psql "$OWNER_URL"
    """
    for statement in store.grants(role, purge=purge):
        say(statement)
