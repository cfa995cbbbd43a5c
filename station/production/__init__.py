"""What is missing before a public body's receipts can be taken: findings about the configuration and the database."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from station import reconcile, store
from station.clock import shown
from station.config import NODO_NAMES, Settings
from station.deliver import status as deliver
from station.errors import SchemaBehindError, StoreError
from station.http import certificate
from station.http.trust import host_and_port, is_loopback
from station.production import console
from station.production.finding import Finding, is_for, is_public, is_wide, open_without_tls
from station.store import gauges, rights

CERTIFICATE_DAYS_LEFT = 30
_CLOCK_SKEW_MAX_S = 2.0


def findings(settings: Settings, engine: store.Engine) -> list[Finding]:
    """Return all that is missing. A database that does not answer is no part of it: `station check` reports that."""
    gaps = [
        *_registry(settings), *_senders(settings), *_address(settings), *_certificates(settings), *_storage(settings),
        *_reconciliation(settings), *_feed(settings), *console.findings(settings),
    ]  # fmt: skip
    with suppress(StoreError):
        gaps += _database(settings, engine)
    with suppress(StoreError):
        gaps += console.database_findings(settings)
    return [*gaps, *notes(settings, engine)]


def notes(settings: Settings, engine: store.Engine) -> list[Finding]:
    """Return what is odd in daily use, too: a destination that is late, a grant without effect."""
    found = delivery_findings(settings, engine)
    with suppress(StoreError, SchemaBehindError):
        found += console.grant_findings(settings, engine)
    return found


def delivery_findings(settings: Settings, engine: store.Engine) -> list[Finding]:
    """Return what is missing before receipts reach the EC's own systems, and what is late."""
    if not settings.destination:
        return []
    with suppress(StoreError, SchemaBehindError):
        return list(_delivery(settings, engine))
    return []


def _registry(settings: Settings) -> Iterator[Finding]:
    if not settings.ec:
        yield Finding("registry_open", "receipts for every idPA are accepted", "name each EC in an [[ec]]")
    if not settings.broker:
        yield Finding(
            "brokers_open",
            "receipts from every broker and station are accepted",
            "name yours in a [[broker]], with its stations",
        )


def _senders(settings: Settings) -> Iterator[Finding]:
    tls, trust = settings.tls, settings.trust
    wide = [str(network) for network in trust.proxy_networks if is_wide(network)]
    if wide:
        yield Finding(
            "proxies_too_wide",
            f"headers with a sender's certificate and address are trusted from {_some(wide)}",
            "name the proxy's own addresses in trust.proxies",
        )
    if not tls.certificate and not trust.proxies:
        yield Finding("no_tls", "TLS is not configured", "set tls.certificate, or name the TLS proxy in trust.proxies")
    if not tls.client_ca and not trust.proxy_certificate:
        yield Finding(
            "no_mutual_tls",
            "senders are not identified by a certificate",
            'set tls.client_ca (or trust.proxies and trust.proxy_certificate) and trust.nodo = "production"',
        )
        return
    if "*" in trust.names:
        yield Finding(
            "any_certificate",
            "every certificate of the CA is admitted, and the CA has other customers",
            "replace * with the names to admit",
        )
    if set(NODO_NAMES["uat"]) & set(trust.names):
        yield Finding(
            "test_let_in", "pagoPA's test environment may store receipts here", 'set trust.nodo = "production"'
        )
    pinned = any(name.startswith("sha256:") for name in trust.names)
    if not pinned and not set(NODO_NAMES["production"]) & set(trust.names):
        yield Finding(
            "nodo_not_let_in",
            "the certificate of pagoPA's production forwarder is not admitted",
            'set trust.nodo = "production"',
        )


def _address(settings: Settings) -> Iterator[Finding]:
    url = settings.server.public_url
    if url is None:
        yield Finding("no_public_url", "server.public_url is not set", "set it to the URL registered with pagoPA")
        return
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme != "https":
        yield Finding("public_url_http", "server.public_url is not https", "register and set an https URL")
    if not _is_fqdn(host):
        yield Finding("public_url_no_name", "server.public_url has no full host name", "pagoPA calls an FQDN: use one")
    elif settings.tls.certificate and not is_for(settings.tls.certificate, host):
        yield Finding(
            "certificate_other_name",
            f"tls.certificate is not for {host}, the host in server.public_url",
            "get a certificate for that name, or correct the URL",
        )


def _is_fqdn(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return "." in host
    return False


def _certificates(settings: Settings) -> Iterator[Finding]:
    files: dict[str, Path | None] = {
        "tls.certificate": settings.tls.certificate,
        "tls.client_ca": settings.tls.client_ca,
        "api.certificate": settings.api.certificate if settings.readers else None,
        "console.certificate": settings.console.certificate if settings.grant else None,
    }
    for name, file in files.items():
        end = certificate.first_end(file) if file else None
        if end and end - datetime.now(UTC) < timedelta(days=CERTIFICATE_DAYS_LEFT):
            when = f"{'expired' if end < datetime.now(UTC) else 'expires'} on {shown(end)} (Italy)"
            yield Finding(
                "certificate_ends",
                f"a certificate in {name} {when}",
                "replace the file: the station then reloads it",
            )


def _storage(settings: Settings) -> Iterator[Finding]:
    url = store.parse_url(settings.database.url.get_secret_value())
    sqlite = url.get_backend_name() == "sqlite"
    if "url" not in settings.database.model_fields_set:
        yield Finding(
            "sqlite_by_default",
            "no database is configured, so each command uses an SQLite file in its current folder",
            "set database.url, or STATION_DATABASE_URL_FILE",
        )
    elif sqlite and not Path(str(url.database)).is_absolute():
        yield Finding(
            "sqlite_relative",
            "database.url is a relative path, which means a different file in each folder",
            "use an absolute path: sqlite:////var/lib/station/station.sqlite3",
        )
    if sqlite:
        yield Finding(
            "backup_unseen",
            "the station cannot see whether the SQLite file is backed up",
            "make a backup every night and test a restore: see docs/backup.md",
            unsure=True,
        )
    if sqlite and settings.server.workers > 2:
        yield Finding(
            "sqlite_workers",
            f"{settings.server.workers} worker processes on SQLite, which has one writer",
            "set server.workers to 0 (two at most), or use PostgreSQL",
        )
    if not settings.journal.enabled:
        yield Finding(
            "no_journal", "the event journal is off, but pagoPA asks for 24 months of it", "set journal.enabled = true"
        )
    if all(value is None for _, value in settings.retention):
        yield Finding(
            "no_retention",
            "no retention period for personal data is configured",
            "set the periods in [retention], and run `station purge` daily",
        )
    if not settings.server.health_listen:
        yield Finding("not_watched", "health and metrics are not served", "set server.health_listen")
    elif is_public(host_and_port(settings.server.health_listen)[0]):
        yield Finding(
            "health_public",
            f"health and metrics are open to every machine that can reach {settings.server.health_listen}",
            "set server.health_listen to 127.0.0.1 or to this machine's private address",
        )


def _reconciliation(settings: Settings) -> Iterator[Finding]:
    without = [ec.id for ec in settings.ec if ec.reconcile and settings.api_key(ec.id, "gpd_key") is None]
    if without:
        yield Finding(
            "no_reconcile_key",
            f"no key for the GPD receipts API for {_some(without)}",
            "set gpd.key, or gpd_key of the broker or EC, or reconcile = false for an EC without access to the API",
        )
    walked = [ec.id for ec in settings.ec if ec.fdr]
    without = [id_pa for id_pa in walked if settings.api_key(id_pa, "fdr_key") is None]
    if without:
        yield Finding(
            "no_fdr_key",
            f"no key for the FdR API for {_some(without)}: nothing proves that no receipt is missing",
            "set fdr.key, or fdr_key of the broker or EC, or fdr = false for an EC without access to the API",
        )
    for section in ("gpd", "fdr", "biz_events"):
        for name, value in getattr(settings, section):
            if not name.endswith("url"):
                continue
            if ".uat." in value:
                yield Finding(
                    f"{section}_test",
                    f"{section}.{name} points to the test environment",
                    f"remove {section}.{name}: the default is production",
                )
            parts = urlsplit(value)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                yield Finding(
                    "api_http",
                    f"{section}.{name} is plain http: keys and citizens' data would travel unencrypted",
                    "use an https URL; plain http is for 127.0.0.1 only",
                )


def _feed(settings: Settings) -> Iterator[Finding]:
    if settings.readers and (private := open_without_tls(settings.api)) is not None:
        yield Finding(
            "feed_no_tls",
            f"the feed listens on {settings.api.listen} without TLS: keys and citizens' data would travel unencrypted",
            "set api.certificate, or let it listen on 127.0.0.1 behind a proxy with TLS",
            unsure=private,  # a proxy may share a network of their own with it, as in deploy/compose
        )


def _database(settings: Settings, engine: store.Engine) -> Iterator[Finding]:
    with store.transaction(engine, readonly=True) as connection:
        before = datetime.now(UTC)
        database_time = gauges.clock(connection)
        after = datetime.now(UTC)
        role, excess = rights.excessive_rights(connection)
        durability = gauges.durability(connection)
    if excess:
        yield Finding(
            "role_may_too_much",
            f"the service's database role {role} has the right to {', '.join(excess)}",
            "let another role own the tables, and run the service as one that got its rights from `station migrate "
            "--grant ROLE`",
        )
    if durability:
        yield from _durability(durability)
    if database_time is not None:
        apart = max((before - database_time).total_seconds(), (database_time - after).total_seconds())
        if apart > _CLOCK_SKEW_MAX_S:
            yield Finding(
                "clock_skew",
                f"this machine's clock and the database's differ by {apart:.0f} s",
                "synchronise both (NTP): receipts and the journal are timed by this machine's clock",
            )
    late = [ec.id_pa for ec in reconcile.status(settings, engine).ecs if ec.late and ec.id_pa in settings.ecs]
    if late:
        yield Finding(
            "not_reconciled",
            f"`station reconcile` has not checked {_some(late)} for {settings.gpd.late_hours:g} hours",
            "run it, and schedule it once a day (see deploy/)",
        )
    walked = reconcile.fdr_status(settings, engine)
    late = [ec.id_pa for ec in walked.ecs if ec.late and ec.id_pa in settings.ecs]
    if late:
        yield Finding(
            "fdr_not_walked",
            f"`station fdr` has not walked {_some(late)} for {settings.fdr.late_hours:g} hours",
            "run it, and schedule it once a day (see deploy/)",
        )
    gaps = [ec.id_pa for ec in walked.ecs if ec.gap_from is not None]
    if gaps:
        yield Finding(
            "fdr_gap",
            f"flows of {_some(gaps)} were never listed, and cannot be any more",
            "see `station fdr --status`, ask pagoPA for them, then run `station fdr acknowledge`",
        )


def _delivery(settings: Settings, engine: store.Engine) -> Iterator[Finding]:
    status = deliver.status(settings, engine)
    never = [one.name for one in status.destinations if one.state == "never served"]
    if never:
        yield Finding(
            "destination_never_served",
            f"{_some(never)}: configured, and no receipt was ever delivered or asked for",
            "run `station deliver` (for a feed: `station api`, and a reader that asks), see docs/delivery.md",
        )
    if status.problem:
        yield Finding("deliverer_not_running", status.problem, "start `station deliver`, and look at its log")
    late = [one for one in status.destinations if one.problem and one.name not in never]
    if late:
        yield Finding(
            "destination_late",
            "; ".join(f"{one.name}: {one.problem}" for one in late[:3]),
            "see `station deliveries status`",
        )


def _durability(durability: gauges.Durability) -> Iterator[Finding]:
    if durability.settings_off:
        yield Finding(
            "not_durable",
            f"{', '.join(durability.settings_off)} off: PostgreSQL may lose acknowledged receipts",
            "turn it on in postgresql.conf (or ALTER ROLE ... RESET)",
        )
    if durability.archive_failing:
        yield Finding(
            "archive_failing",
            "PostgreSQL's last attempt to archive its log failed",
            "see its log, and archive_command",
        )
    if not durability.archiving and not durability.standbys:
        yield Finding(
            "backup_unseen",
            "PostgreSQL does not archive its log (archive_mode) and has no standby: losing the disk would lose all "
            "receipts since the last dump, and the Nodo does not send them again",
            "see docs/backup.md; the station cannot see other kinds of backup",
            unsure=True,
        )


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
