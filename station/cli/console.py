"""`station console`."""

import click

from station import config
from station.cli import Context, cli


@cli.group(invoke_without_command=True)
@click.pass_context
def console(click_context: click.Context) -> None:
    """Serve the console: pages for the EC's staff, in Italian.

    It is a process of its own beside `station serve`. SIGHUP makes it read the configuration again.

    \b
    Example:
      station console
    """
    if click_context.invoked_subcommand is not None:
        return
    context: Context = click_context.obj
    context.settings  # noqa: B018  (sets up the log)
    try:
        from station.console import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("station"):
            raise
        from station.errors import MissingExtraError

        raise MissingExtraError("The console", "console") from None

    server.run(lambda: config.load(context.file))
