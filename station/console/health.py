"""What is wrong with the station, in one sentence, and the facts behind it, as a user may see them."""

import platform
import sqlite3
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from station import __version__, config, store
from station.console import destinations, jobs
from station.console.jobs import Job, Silence
from station.console.scope import Scope
from station.console.words import counted, moment
from station.http import certificate
from station.production import CERTIFICATE_DAYS_LEFT
from station.store import gauges, row_security

_LIBRARIES = ("SQLAlchemy", "psycopg", "lxml", "cryptography", "Flask", "gunicorn", "gevent", "spyne", "httpx", "typst")


class CertificateEnd(NamedTuple):
    """When a certificate ends; `end` is `None` where the console may not read its file."""

    name: str
    end: datetime | None
    is_near: bool


class StationState(NamedTuple):
    """The station's state. `problems`: a sentence each; empty: all is well."""

    problems: tuple[str, ...]
    jobs: tuple[Job, ...]
    silences: tuple[Silence, ...]
    certificates: tuple[CertificateEnd, ...]
    is_delivering: bool | None  # None: there is no destination
    database: str
    revision: str | None
    needed: str | None
    is_limited: bool  # by row-level security
    versions: tuple[tuple[str, str], ...]


def health(settings: config.Settings, scope: Scope) -> StationState:
    """Return the station's state, as far as the user may see it. Raise `StoreError`."""
    now = datetime.now(UTC)
    deliverer, served = destinations.status(settings, scope)
    with scope.engine() as engine:
        revision, needed = store.revisions(engine)
    with scope.reading() as connection:
        walks = sorted(jobs.jobs(settings, connection, scope, now=now), key=lambda job: not job.late)
        pushes = sorted(jobs.silences(settings, connection, scope, now=now), key=lambda one: not one.is_silent)
        clocks_differ = gauges.clock_problem(connection, now) is not None
        limited = row_security.rls_limits(connection)
        server = getattr(connection.dialect, "server_version_info", None)
        kind = connection.dialect.name
    ends = tuple(_ends(settings, now))
    problems = []
    if late := sum(job.late for job in walks):
        problems.append(f"{counted(late, 'lavoro è', 'lavori sono')} in ritardo.")
    if deliverer.problem:
        problems.append("Il servizio di consegna è fermo.")
    if failing := sum(bool(one.causes) for one in served):
        problems.append(f"{counted(failing, 'destinazione ha', 'destinazioni hanno')} problemi.")
    if silent := sum(one.is_silent for one in pushes):
        problems.append(f"Da {counted(silent, 'ente', 'enti')} non arrivano ricevute da giorni.")
    problems += [
        f"{one.name}: {_ending(one.end, now)} il {moment(one.end)}." for one in ends if one.end and one.is_near
    ]
    if clocks_differ:
        problems.append("L'orologio di questa macchina e quello della banca dati non concordano.")
    return StationState(
        tuple(problems), tuple(walks), tuple(pushes), ends,
        None if not settings.destination else deliverer.problem is None,
        _database(kind, server), revision, needed, limited, tuple(_versions()),
    )  # fmt: skip


def _ends(settings: config.Settings, now: datetime) -> list[CertificateEnd]:
    files: tuple[tuple[str, Path | None], ...] = (
        ("Certificato della stazione", settings.tls.certificate),
        ("CA dei certificati di chi invia", settings.tls.client_ca),
        ("Certificato del feed", settings.api.certificate),
        ("Certificato della console", settings.console.certificate),
    )
    found = [(name, certificate.first_end(file)) for name, file in files if file]
    near = timedelta(days=CERTIFICATE_DAYS_LEFT)
    return [CertificateEnd(name, end, end is not None and end - now < near) for name, end in found]


def _ending(end: datetime, now: datetime) -> str:
    return "è scaduto" if end < now else "scade"


def _database(kind: str, server: tuple[int, ...] | None) -> str:
    if kind == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    return f"PostgreSQL {'.'.join(map(str, (server or ())[:2]))}"


def _versions() -> list[tuple[str, str]]:
    """Return the versions of the station, Python and the main libraries that are installed."""
    found = [("Stazione", __version__), ("Python", platform.python_version())]
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
