"""`station console` and `station console user ...`."""

import sys
from datetime import UTC, datetime
from typing import Any

import click

from station import config, store
from station.cli import Context, cli
from station.cli.options import SHOWN_TIMES
from station.cli.output import say, say_json, table
from station.clock import shown
from station.errors import MissingExtraError, StationError

_PROBLEMS = {
    "short": "the password is too short: at least 12 characters",
    "long": "the password is too long: at most 200 characters",
    "name": "the password is little more than the user's name",
    "common": "this password is among the commonest: choose another, such as four words that have nothing in common",
}


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
    if (own := context.settings.console.database_url) is not None:
        context.sources = [
            f"database: {store.shown_url(own.get_secret_value())} (console.database_url)",
            *context.sources[1:2],
        ]
    try:
        from station.console import server
    except ModuleNotFoundError as error:
        raise _extra(error) from None

    server.run(lambda: config.load(context.file))


@console.group()
def user() -> None:
    """Manage the console's own users, for console.auth = "local".

    What a user may see stands in [[grant]].
    """


@user.command()
@click.argument("name")
@click.option("--display-name", help="The name that the pages show. Default: NAME.")
@click.pass_obj
def add(context: Context, name: str, display_name: str | None) -> None:
    """Add a user; the password is asked for, or read from standard input.

    \b
    Examples:
      station console user add anna.rossi --display-name "Anna Rossi"
      printf '%s\\n' "$PASSWORD" | station console user add anna.rossi
    """
    name = _name(name)
    display_name = (display_name or name).strip()
    if not display_name.isprintable() or len(display_name) > 200:
        raise click.UsageError("--display-name: one line of at most 200 printable characters")
    engine = context.engine()
    hashed = _password(name)
    from station.store import users

    with store.transaction(engine) as connection:
        now = datetime.now(UTC)
        added = users.add_user(connection, name, display_name=display_name, password_hash=hashed, now=now)
    if not added:
        raise click.ClickException(f"there is a user {name} already: `station console user password {name}`")
    say(f"Added {name}.")
    if not any(grant.user == name for grant in context.settings.grant):
        say(f'No [[grant]] names this user yet: without one it sees nothing. user = "{name}"')
    if context.settings.console.auth != "local":
        say(f'console.auth is "{context.settings.console.auth}": these users cannot sign in until it is "local".')


@user.command()
@click.argument("name")
@click.pass_obj
def password(context: Context, name: str) -> None:
    """Give a user another password; it is asked for, or read from standard input. The user's sessions end.

    \b
    Example:
      station console user password anna.rossi
    """
    name = _name(name)
    engine = context.engine()
    from station.store import users

    with store.transaction(engine, readonly=True) as connection:
        _found(name, users.load_user(connection, name) is not None)
    hashed = _password(name)
    with store.transaction(engine) as connection:
        _found(name, users.change_password(connection, name, password_hash=hashed, now=datetime.now(UTC)))
    say(f"The password of {name} is changed, and the sessions have ended.")


@user.command("list", epilog=SHOWN_TIMES)
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each user.")
@click.pass_obj
def list_(context: Context, as_json: bool) -> None:
    """List the users: when they last signed in, and who is disabled or locked.

    \b
    Example:
      station console user list
    """
    from station.store import users

    with store.transaction(context.engine(), readonly=True) as connection:
        rows = users.list_users(connection)
    if as_json:
        for row in rows:
            say_json(row._asdict())
        return
    now = datetime.now(UTC)
    lines = [
        (row.name, row.display_name, shown(row.created_at), shown(row.last_login_at) or "never", _state(row, now))
        for row in rows
    ]
    if lines:
        table(("name", "display name", "added", "last sign-in", "state"), lines)
    else:
        say("There are no users: `station console user add NAME`.")


@user.command()
@click.argument("name")
@click.pass_obj
def disable(context: Context, name: str) -> None:
    """Keep a user from signing in; the user's sessions end at once.

    \b
    Example:
      station console user disable anna.rossi
    """
    _set_disabled(context, name, disabled=True)


@user.command()
@click.argument("name")
@click.pass_obj
def enable(context: Context, name: str) -> None:
    """Let a user sign in again who was disabled.

    \b
    Example:
      station console user enable anna.rossi
    """
    _set_disabled(context, name, disabled=False)


@user.command()
@click.argument("name")
@click.pass_obj
def remove(context: Context, name: str) -> None:
    """Remove a user; the user's sessions end at once. What the user looked up stays written down.

    \b
    Example:
      station console user remove anna.rossi
    """
    from station.store import users

    name = _name(name)
    with store.transaction(context.engine()) as connection:
        _found(name, users.remove_user(connection, name))
    say(f"{name} is removed, and the sessions have ended. Remove its [[grant]], too: it would serve the next {name}.")


@user.command()
@click.argument("name")
@click.pass_obj
def unlock(context: Context, name: str) -> None:
    """Let a user sign in again who is locked after wrong passwords.

    \b
    Example:
      station console user unlock anna.rossi
    """
    from station.store import users

    name = _name(name)
    with store.transaction(context.engine()) as connection:
        _found(name, users.unlock_user(connection, name))
    say(f"{name} may sign in again.")


def _set_disabled(context: Context, name: str, *, disabled: bool) -> None:
    from station.store import users

    name = _name(name)
    with store.transaction(context.engine()) as connection:
        _found(name, users.set_disabled(connection, name, disabled=disabled, now=datetime.now(UTC)))
    say(f"{name} is disabled, and the sessions have ended." if disabled else f"{name} may sign in.")


def _state(row: Any, now: datetime) -> str:
    if row.disabled:
        return "disabled"
    return f"locked until {shown(row.locked_until)}" if row.locked_until and row.locked_until > now else ""


def _name(given: str) -> str:
    """Return a user's name as it is kept. A usage error for what cannot be one."""
    local = _local()
    name = given.strip().lower()
    if not local.NAME.fullmatch(name):
        raise click.UsageError(
            "NAME: letters from a to z, digits, . _ @ and -, at most 64, the first a letter or digit"
        )
    return name


def _found(name: str, found: bool) -> None:
    if not found:
        raise click.ClickException(f"there is no user {name}: see `station console user list`")


def _password(name: str) -> str:
    """Return the hash of a password from the terminal, asked for twice, or the first line of standard input."""
    local = _local()
    try:
        if sys.stdin.isatty():
            text = click.prompt("Password", hide_input=True, confirmation_prompt="Password again")
            text.encode()
        else:
            text = sys.stdin.buffer.readline(local.LENGTH_MAX * 8).decode().rstrip("\r\n")
    except UnicodeError:
        raise click.ClickException("the password is not UTF-8") from None
    if (why := local.problem(text, name)) is not None:
        raise click.ClickException(_PROBLEMS[why])
    hashed: str = local.make_hash(text)
    return hashed


def _local() -> Any:
    try:
        from station.console import local
    except ModuleNotFoundError as error:
        raise _extra(error) from None
    return local


def _extra(error: ModuleNotFoundError) -> StationError:
    """Return what to tell where the extra is missing. Raises the error where something of ours is."""
    if (error.name or "").startswith("station"):
        raise error
    return MissingExtraError("The console", "console")
