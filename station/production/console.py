"""The console: what keeps it from serving, grants without effect, and what is missing before it is used."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from station import store
from station.config import Console, Settings
from station.http.trust import host_and_port, is_loopback
from station.production.finding import Finding, is_for, open_without_tls
from station.store import row_security, users

_PROXY_ADDRESSES_MAX = 256


def problem(settings: Settings, *, with_secret: bool = True) -> str | None:
    """Return what keeps the console from serving, and no other process; `None` if nothing does.

    with_secret: the provider's secret, too, which other processes are not given.
    """
    return _address_problem(settings.console) or _provider_problem(settings, with_secret=with_secret)


def _provider_problem(settings: Settings, *, with_secret: bool) -> str | None:
    if settings.console.auth != "oidc":
        return None
    lacking = [name for name in ("issuer", "client_id") if not getattr(settings.oidc, name)]
    if lacking:
        return f'console: auth = "oidc" needs {" and ".join(lacking)} in [oidc]'
    if with_secret and settings.oidc.client_secret is None:
        return (
            'console: auth = "oidc" needs the secret of the client: set STATION_OIDC_CLIENT_SECRET_FILE (or '
            "STATION_OIDC_CLIENT_SECRET, or oidc.client_secret), see docs/console.md"
        )
    return None


def _address_problem(console: Console) -> str | None:
    """Return why browsers of other machines could not use the console at its address."""
    if console.url is None:
        if console.listen.startswith("unix:") or is_loopback(host_and_port(console.listen)[0]):
            return None
        return "console: it listens for other machines: set console.url to the address they call"
    parts = urlsplit(console.url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        return (
            "console.url is http, and browsers keep the console's cookie by HTTPS only, so that no user could sign in: "
            "put TLS before it, see docs/console.md, and write https"
        )
    return None


def findings(settings: Settings) -> Iterator[Finding]:
    """Tell what is missing before the EC's staff use the console."""
    console = settings.console
    if not settings.grant:
        return
    if (private := open_without_tls(console)) is not None:
        yield Finding(
            "console_no_tls",
            f"the console listens on {console.listen} without TLS: passwords and citizens' data would travel "
            "unencrypted",
            "set console.certificate, or let it listen on 127.0.0.1 behind a proxy with TLS",
            unsure=private,  # a proxy may share a network of their own with it, as in deploy/compose
        )
    parts = urlsplit(console.url or "")
    if console.certificate and parts.hostname and not is_for(console.certificate, parts.hostname):
        yield Finding(
            "console_certificate_other_name",
            f"console.certificate is not for {parts.hostname}, the host in console.url",
            "get a certificate for that name, or correct the URL",
            unsure=bool(console.proxies),  # browsers see the proxy's
        )
    if parts.scheme == "https" and not console.certificate and not console.proxies:
        yield Finding(
            "console_proxies_missing",
            "a proxy ends TLS for the console and is not named: all browsers seem to have its address, in the log, in "
            "Accessi and for the bound on wrong passwords",
            "name it in console.proxies",
        )
    networks = [one for one in console.proxies if one != "unix"]
    if wide := [one for one in networks if one.num_addresses > _PROXY_ADDRESSES_MAX]:
        yield Finding(
            "console_proxies_too_wide",
            f"the console believes headers from {', '.join(map(str, wide[:3]))}"
            + (": each machine there could name itself any user" if console.auth == "proxy" else ""),
            "name the proxy's own addresses in console.proxies",
            unsure=all(one.is_private for one in wide),  # as of the pods of an ingress
        )
    issuer = urlsplit(settings.oidc.issuer or "")
    if console.auth == "oidc" and issuer.scheme == "http" and not is_loopback(issuer.hostname or ""):
        yield Finding(
            "oidc_http",
            "oidc.issuer is plain http: an attacker in between could sign in as any user",
            "use the provider's https address",
        )
    everything = [grant.group for grant in settings.grant if grant.group and "*" in grant.ecs]
    if everything and len(settings.ec) > 1:
        yield Finding(
            "grant_all_ecs",
            f"all users of {', '.join(everything[:3])} see the receipts of all {len(settings.ec)} ECs",
            "if that is not meant, name each group's ECs in [[grant]]",
            unsure=True,
        )
    if settings.retention.access_months is None:
        yield Finding(
            "no_access_retention",
            "who looked up whom in the console is kept for ever",
            "set retention.access_months, and run `station purge` daily",
        )


def grant_findings(settings: Settings, engine: store.Engine) -> Iterator[Finding]:
    """Tell of grants without effect, and of users without one. Raises `StoreError` and `SchemaBehindError`."""
    if settings.console.auth != "local" or not settings.grant:
        return
    groups = [grant.group for grant in settings.grant if grant.group]
    if groups:
        yield Finding(
            "grant_of_group",
            f"{', '.join(groups[:3])}: the console's own users have no groups, so these [[grant]] give nothing",
            'name users in [[grant]], or use console.auth = "oidc" or "proxy"',
            unsure=True,
        )
    with store.transaction(engine, readonly=True) as connection:
        known = {user.name for user in users.list_users(connection)}
    granted = dict.fromkeys(grant.user for grant in settings.grant if grant.user)
    if missing := [name for name in granted if name not in known]:
        yield Finding(
            "grant_of_unknown_user",
            f"{', '.join(missing[:3])}{f' and {len(missing) - 3} more' if missing[3:] else ''}: named in [[grant]], "
            "and the console has no such user (their names are in small letters)",
            "correct the name, or `station console user add NAME`",
            unsure=True,
        )
    if without := sorted(known - granted.keys()):
        yield Finding(
            "user_without_grant",
            f"{', '.join(without[:3])}{f' and {len(without) - 3} more' if without[3:] else ''}: may sign in, and sees "
            "nothing",
            "name the user in a [[grant]], or `station console user remove NAME`",
            unsure=True,
        )


def database_findings(settings: Settings) -> Iterator[Finding]:
    """Tell of a console's role that sees all ECs, where a user may see some of them only. Raises `StoreError`."""
    url = (settings.console.database_url or settings.database.url).get_secret_value()
    if store.parse_url(url).get_backend_name() == "sqlite" or all("*" in grant.ecs for grant in settings.grant):
        return
    engine = store.connect(url)
    try:
        with store.transaction(engine, readonly=True) as connection:
            limited = row_security.rls_limits(connection)
    finally:
        engine.dispose()
    if not limited:
        yield Finding(
            "row_level_security_off",
            "the console's database role sees the receipts of all ECs: only the console's own queries keep a user to "
            "theirs",
            "make a role for it (`station grants ROLE --console`) and name it in console.database_url",
        )
