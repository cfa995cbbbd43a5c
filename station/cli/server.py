"""`station serve`, `station migrate`, `station check`."""

import os
from collections.abc import Iterator

import click

from station import config, pagopa, production, store
from station.cli import Context, cli
from station.cli.output import say
from station.deliver import check as deliver_check
from station.errors import (
    ApiError,
    ConfigError,
    ProviderUnavailableError,
    SchemaBehindError,
    SignInError,
    StoreError,
)
from station.http import server, tls
from station.production.console import problem as console_problem
from station.store import rights


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("gunicorn_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def serve(context: Context, gunicorn_options: tuple[str, ...]) -> None:
    """Serve the SOAP endpoint with gunicorn.

    Any gunicorn option may follow and overrides the station's default, as GUNICORN_CMD_ARGS does.

    \b
    Example:
      station serve
      station serve --workers 4 --bind 0.0.0.0:8080
    """
    context.settings  # noqa: B018  (sets up the log)
    if context.file is not None:
        os.environ["STATION_CONFIG"] = str(context.file.absolute())  # the workers read it again
    server.run(lambda: config.load(context.file), list(gunicorn_options))


@cli.command()
@click.option(
    "--grant", multiple=True, metavar="ROLE", help="Grant this PostgreSQL role the rights to run the station."
)
@click.pass_obj
def migrate(context: Context, grant: tuple[str, ...]) -> None:
    """Bring the database schema up to date. It is safe to run again, and beside a running server.

    It must run as the role that owns the tables. On SQLite it creates the file, which no other command does; SQLite has
    no roles, so --grant does nothing there.

    \b
    Example:
      station migrate
      station migrate --grant station_app
    """
    before, after = store.migrate(context.engine(check=False), grant=grant)
    say(f"schema at revision {after}" + (" already" if before == after else f" (was {before or 'none'})"))


@cli.command()
@click.option("--production", "going_live", is_flag=True, help="Also list what is missing before going live.")
@click.option("--offline", is_flag=True, help="Do not call the GPD receipts API, nor the DNS.")
@click.pass_obj
def check(context: Context, going_live: bool, offline: bool) -> None:
    """Show the configuration, with secrets masked, and its problems. Exits 1 if there are any.

    If there is a key, the GPD receipts API and the FdR API are called once, for the first EC that has one. Hosts of
    webhooks are looked up in the DNS, and into each folder a file is written and removed again.

    \b
    Example:
      station check
      station -c other.toml check --production
    """
    settings = context.settings
    for line in (*context.sources, *_configured(settings)):
        say(line)
    wrong, notes = _problems(context)
    wrong += deliver_check.problems(settings, offline=offline)
    if not offline:
        wrong += [*_gpd_problems(settings), *_fdr_problems(settings), *_provider_problems(settings)]
    for problem in wrong:
        say(f"WRONG  {problem}")
    engine = context.engine(check=False)
    if going_live:
        findings = production.findings(settings, engine)
    else:
        findings = [one._replace(unsure=True) for one in production.notes(settings, engine)]
    notes += [f"{finding.name}: {finding.what}; {finding.to_do}" for finding in findings if finding.unsure]
    for note in notes:
        say(f"NOTE   {note}")
    missing = [finding for finding in findings if not finding.unsure]
    for finding in missing:
        say(f"MISSING  {finding.name}: {finding.what}; {finding.to_do}")
    if wrong or missing:
        raise click.exceptions.Exit(1)
    say("ok")


def _configured(settings: config.Settings) -> list[str]:
    lines = [f"database.pool_size = {settings.connections}"]
    for section in (
        "server",
        "tls",
        "trust",
        "rules",
        "log",
        "journal",
        "retention",
        "gpd",
        "fdr",
        "biz_events",
        "pdf",
        "api",
        "console",
        "oidc",
    ):
        lines += [f"{section}.{name} = {_shown(value)}" for name, value in getattr(settings, section)]
    lines += [
        f"broker {broker.id}: stations {', '.join(broker.stations) or 'none'}{_keys(broker)}"
        for broker in settings.broker
    ]
    lines += [
        f"ec {ec.id}{f' {ec.name}' if ec.name else ''}: stations {', '.join(ec.stations) or 'any'}{_keys(ec)}"
        for ec in settings.ec
    ]
    for destination in settings.destination:
        shown = dict(destination)
        if isinstance(destination, config.Webhook):
            shown["url"] = destination.shown_url
        values = (
            f"{name} {_shown(value)}" for name, value in shown.items() if name != "name" and value not in (None, ())
        )
        lines.append(f"destination {destination.name}: {', '.join(values)}")
    lines += [
        f"grant {f'user {grant.user}' if grant.user else f'group {grant.group}'}: {grant.role} of "
        f"{'all ECs' if '*' in grant.ecs else ', '.join(grant.ecs)}"
        for grant in settings.grant
    ]
    for account in settings.account:
        values = (f"{name} {_shown(value)}" for name, value in account if name != "code" and value not in ("", ()))
        lines.append(f"account {account.code}: {', '.join(values)}")
    return lines


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _keys(entry: config.Broker | config.Ec) -> str:
    """Return the keys of a broker or an EC, masked."""
    return "".join(f", {name} {value}" for name, value in entry if name.endswith("_key") and value is not None)


def _gpd_problems(settings: config.Settings) -> list[str]:
    """Return problems with gpd.url or a key, found by one call: otherwise the first run would find them."""
    for ec in settings.ec:
        key = settings.api_key(ec.id, "gpd_key")
        if ec.reconcile and key is not None:
            try:
                pagopa.check_access(settings.gpd, ec.id, key)
            except ApiError as error:
                return [f"gpd.url, called for EC {ec.id}: {error}"]
            break
    return []


def _fdr_problems(settings: config.Settings) -> list[str]:
    """Return problems with fdr.url or a key, found by one call."""
    for ec in settings.ec:
        key = settings.api_key(ec.id, "fdr_key")
        if ec.fdr and key is not None:
            try:
                pagopa.check_fdr_access(settings.fdr, ec.id, key)
            except ApiError as error:
                return [f"fdr.url, called for EC {ec.id}: {error}"]
            break
    return []


def _provider_problems(settings: config.Settings) -> list[str]:
    """Return why users cannot sign in at the identity provider, found by one call, where the console is installed."""
    if settings.console.auth != "oidc" or not settings.grant or not (settings.oidc.issuer and settings.oidc.client_id):
        return []
    try:
        from station.console.oidc import Provider
    except ModuleNotFoundError:
        return []
    if settings.oidc.client_secret is None:
        return ["oidc.client_secret is not set here, so the identity provider is not asked, see docs/console.md"]
    try:
        Provider(settings).begin()
    except (ProviderUnavailableError, SignInError) as error:
        return [f"oidc.issuer: the identity provider cannot be used: {error}"]
    return []


def _console_problems(settings: config.Settings) -> Iterator[str]:
    """Yield what keeps the console from serving: its address, its certificate, its own database role."""
    console = settings.console
    if settings.grant and (wrong := console_problem(settings, with_secret=False)) is not None:
        yield wrong
    if settings.grant and console.certificate is not None:
        try:
            tls.create_context(console.certificate, console.key, None)
        except ConfigError as error:
            yield f"console: {error}"
    if console.database_url is None:
        return
    engine = store.connect(console.database_url.get_secret_value())
    try:
        with store.transaction(engine, readonly=True) as connection:
            missing = rights.missing_rights(connection, console=True)
    except StoreError as error:
        yield f"console.database_url: {error}"
        return
    finally:
        engine.dispose()
    if missing:
        role = engine.url.username or "ROLE"
        yield (
            f"console.database_url: the role lacks {', '.join(missing)}: the owner of the tables grants it with "
            f"`station grants {role} --console`, see docs/console.md"
        )


def _problems(context: Context) -> tuple[list[str], list[str]]:
    """Return what is wrong, and what may be meant but is worth a note."""
    settings = context.settings
    trusted, notes = server.problems(settings)
    wrong = []
    try:
        with store.transaction(context.engine(), readonly=True) as connection:
            if missing := rights.missing_rights(connection):
                role = context.engine().url.username or "ROLE"
                wrong.append(
                    f"database: the role lacks {', '.join(missing)}: the owner of the tables grants it with `station "
                    f"migrate --grant {role}`"
                )
    except (StoreError, SchemaBehindError) as error:
        wrong.append(str(error))
    wrong += _console_problems(settings)
    if settings.open_registry:
        notes.append("no [[broker]] and no [[ec]]: receipts for every idPA are accepted")
    elif not settings.ec:
        notes.append("no [[ec]]: receipts for every idPA are accepted under the configured brokers")
    elif not settings.broker:
        notes.append("no [[broker]]: receipts are accepted from every broker and station for the configured ECs")
    notes += [f"broker {broker.id} has no stations: each receipt from it is flagged unknown_station"
              for broker in settings.broker if not broker.stations]  # fmt: skip
    walked = [ec.id for ec in settings.ec if ec.fdr]
    without = [id_pa for id_pa in walked if settings.api_key(id_pa, "fdr_key") is None]
    if without and len(without) < len(walked):
        notes.append(f"no fdr_key for {', '.join(without)}: set it, or fdr = false")
    if settings.server.public_url is None:
        notes.append("server.public_url is not set: the WSDL names the address it was requested at")
    return wrong + trusted, notes
