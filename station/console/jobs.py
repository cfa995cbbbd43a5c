"""The station's jobs, and the ECs, as a user may see them: when each last ran, and whether it is late."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from station import config, reconcile, store
from station.console.scope import Scope
from station.store import flows

SILENT_AFTER = timedelta(days=3)  # as the alert rule StationEcSilent has it


class Job(NamedTuple):
    """A job for one EC. `last`: the end of its last complete run; `due`: when the next one must have been."""

    name: str
    id_pa: str
    last: datetime | None
    due: datetime | None
    late: bool
    error: str | None = None


class Silence(NamedTuple):
    """When an EC's last receipt came by push; `is_silent`: longer ago than usual. Empty `id_pa`: of any EC."""

    id_pa: str
    last: datetime | None
    is_silent: bool


RECONCILE, FDR = "Riconciliazione delle ricevute", "Lettura dei flussi di rendicontazione"
_ERRORS_SHOWN = 10


def jobs(settings: config.Settings, connection: store.Connection, scope: Scope, *, now: datetime) -> list[Job]:
    """Return the jobs that walk pagoPA's lists, for each EC that the user may see. Of late ones with the last error."""
    walked = store.runs.watermarks(connection)
    listed = flows.all_progress(connection)
    found = []
    for id_pa in dict.fromkeys([*settings.ecs, *sorted({*walked, *listed})]):
        if not scope.has(id_pa):
            continue
        mark, late = walked.get(id_pa), reconcile.is_late(settings, id_pa, walked.get(id_pa), now=now)
        if mark is not None or late:
            found.append(_job(RECONCILE, id_pa, mark, settings.gpd.late_hours, late=late))
        mark, late = listed.get(id_pa), reconcile.is_fdr_late(settings, id_pa, listed.get(id_pa), now=now)
        if mark is not None or late:
            found.append(_job(FDR, id_pa, mark, settings.fdr.late_hours, late=late))
    late_jobs = [job for job in found if job.late][:_ERRORS_SHOWN]
    for job in late_jobs:
        of = store.runs if job.name == RECONCILE else flows
        for run in of.latest_runs(connection, job.id_pa, limit=1):
            if run.error:
                found[found.index(job)] = job._replace(error=run.error)
    return found


def _job(name: str, id_pa: str, mark: Any, late_hours: float, *, late: bool) -> Job:
    last = mark.walked_at if mark is not None else None
    return Job(name, id_pa, last, last and last + timedelta(hours=late_hours), late)


def silences(settings: config.Settings, connection: store.Connection, scope: Scope, *, now: datetime) -> list[Silence]:
    """Return when each EC that the user may see had its last push; without a registry of ECs, the last of all."""
    ecs: list[str] | None = [id_pa for id_pa in settings.ecs if scope.has(id_pa)]
    if not settings.ecs:
        ecs = None if scope.ecs is None else list(scope.ecs)
    pushes = store.last_pushes(connection, ecs, now)
    return [Silence(id_pa, at, at is not None and now - at > SILENT_AFTER) for id_pa, at in pushes.items()]
