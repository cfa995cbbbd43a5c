"""Destinations as a user may see them: one that serves other ECs, too, with the deliveries of the user's ECs only.

A user who sees all of its ECs sees its position and its files' figures; an operator of all of them may pause it.
"""

from station import config
from station.console.scope import READER, Scope
from station.deliver import status as deliver
from station.deliver.status import DeliveryStatus, DestinationStatus

KINDS = {"webhook": "Invio diretto (webhook)", "folder": "Cartella (file ZIP)", "feed": "Lettore (feed)"}
STATES = {
    "active": "Attiva",
    "paused": "In pausa",
    "never served": "Mai servita",
    "not configured": "Non più configurata",
}
CAUSES = {
    "never_served": "È configurata, ma non è mai stata servita: il servizio di consegna è avviato?",
    "never_asked": "È configurata, ma il suo lettore non ha mai chiesto ricevute.",
    "other_kind": "Nella configurazione ha cambiato tipo, e non viene servita: le serve un altro nome.",
    "paused": "È in pausa: quello che arriva attende, e nulla va perso.",
    "given_up": "Alcune consegne sono state abbandonate dopo molti tentativi: inviale di nuovo.",
    "file_late": "Un file attende da oltre un'ora di essere completato.",
    "no_file": "Da troppo tempo non viene completato alcun file.",
    "late": "Le ricevute attendono da troppo tempo.",
}


def all_ecs(settings: config.Settings, name: str) -> tuple[str, ...] | None:
    """Return the ECs that a destination serves; `None`: all that there may be."""
    configured = settings.destinations.get(name)
    if configured is None:
        return None
    return configured.ecs or (tuple(settings.ecs) or None)


def is_seen(settings: config.Settings, scope: Scope, name: str) -> bool:
    """Return whether the user sees an EC that a destination serves."""
    ecs = all_ecs(settings, name)
    if name not in settings.destinations:
        return scope.is_all()
    return ecs is None or any(scope.has(id_pa) for id_pa in ecs)


def is_whole(settings: config.Settings, scope: Scope, name: str, role: config.Role = READER) -> bool:
    """Return whether the user has the role for all ECs that a destination serves."""
    ecs = all_ecs(settings, name)
    return scope.is_all(role) or (ecs is not None and all(scope.has(id_pa, role) for id_pa in ecs))


def status(settings: config.Settings, scope: Scope) -> tuple[DeliveryStatus, list[DestinationStatus]]:
    """Return the deliverer's status, and the destinations that the user sees, with the figures of the user's ECs.

    Raise `StoreError`.
    """
    with scope.engine() as engine:
        found = deliver.status(settings, engine, id_pas=scope.ecs)
    return found, [one for one in found.destinations if is_seen(settings, scope, one.name)]
