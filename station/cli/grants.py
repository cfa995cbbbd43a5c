"""`station grants`."""

import click

from station.cli import cli
from station.cli.output import say
from station.store import rights


@cli.command()
@click.argument("role")
@click.option("--purge", is_flag=True, help="Include the rights for `station purge`, which deletes by age.")
def grants(role: str, purge: bool) -> None:
    """Print the SQL that grants a PostgreSQL role the least rights to run the station.

    The owner of the tables runs it after each `station migrate`. The role can run the server, `reconcile` and `replay`;
    it cannot delete a receipt, nor drop, alter or create a table.

    \b
    Example:
      station grants station_app | psql "$OWNER_URL"
    """
    for statement in rights.grants(role, purge=purge):
        say(statement)
