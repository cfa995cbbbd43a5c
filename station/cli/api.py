"""`station api`."""

import click

from station import config
from station.cli import Context, cli


@cli.command()
@click.pass_obj
def api(context: Context) -> None:
    """Serve the feed: receipts as JSON, for the readers in [[destination]] of kind "feed".

    It is a process of its own beside `station serve`. SIGHUP makes it read the configuration again.

    \b
    Example:
      station api
    """
    context.settings  # noqa: B018  (sets up the log)
    from station.api import server

    server.run(lambda: config.load(context.file))
