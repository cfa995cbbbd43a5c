"""Refused requests go through the intake again in the name of a user, where all that they name is the user's.

The EC that a request is kept under was read from it as it came, and what a replay stores goes by what the document says
now: both must be ECs for which the user has the role.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from station import config, contract, masking
from station.console.scope import OPERATOR, READER, Scope
from station.errors import DocumentError, RefusalError
from station.intake import Intake
from station.replay import Replay, ReplayItem, Verdict

_LINES_MAX = 400  # of a document that is shown
_LINE_MAX = 300
_DOCUMENT_MAX = 256 * 1024  # bytes of a document that is shown

VERDICTS = {
    Verdict.STORED: ("success", "La ricevuta è stata memorizzata.", "La ricevuta sarebbe memorizzata."),
    Verdict.DUPLICATE: (
        "success",
        "La ricevuta era già memorizzata: la richiesta è chiusa.",
        "La ricevuta è già memorizzata: la richiesta sarebbe chiusa.",
    ),
    Verdict.REPLACED: ("success", "La ricevuta è stata sostituita.", "La ricevuta sarebbe sostituita."),
    Verdict.REFUSED: ("danger", "La richiesta è ancora rifiutata.", "La richiesta sarebbe ancora rifiutata."),
    Verdict.FAILED: ("danger", "La richiesta non può essere rielaborata.", "La richiesta non può essere rielaborata."),
}


class Tried(NamedTuple):
    """The outcome of a replay or of a dry run, in words; `item` tells the rest."""

    kind: str
    text: str
    item: ReplayItem


def named_ecs(raw: bytes, charset: str | None) -> set[str | None]:
    """Return the ECs that a document names: the idPA under which it would be refused, and stored. `None`: none."""
    try:
        document = contract.parse(raw, charset)
        request = contract.request_element(document.root)
    except DocumentError:
        return set()
    found: set[str | None] = {contract.identify(request).id_pa}
    with suppress(RefusalError, DocumentError):
        found.add(contract.read(request).id_pa)
    return found


def require(scope: Scope, row: dict[str, Any], role: config.Role = READER) -> None:
    """End the request with 404 or 403 unless a refused request, and what its document names, is the user's."""
    for id_pa in (row["id_pa"], *named_ecs(row["raw"], row["charset"])):
        scope.require(id_pa or None, role)


def replay(
    scope: Scope, settings: config.Settings, rows: list[dict[str, Any]], *, operator: str, dry_run: bool
) -> Iterator[Tried]:
    """Replay refused requests (see `store.find_refused`) in this order, or say what would happen. Raise `StoreError`.

    Ends the request with 404 or 403, and nothing is done, unless all of them are the user's. It is safe to do again.
    """
    role = READER if dry_run else OPERATOR
    for row in rows:
        require(scope, row, role)
    with scope.engine(role) as engine:
        replayed = Replay(Intake(engine, settings), operator, dry_run)
        for row in rows:
            item = replayed.document(row["refused_id"], row["raw"], row["charset"])
            kind, done, would = VERDICTS[item.verdict]
            yield Tried(kind, would if dry_run else done, item)


def shown_document(row: dict[str, Any], *, at: str | None, remark: str) -> list[str]:
    """Return a document's lines, personal data masked; empty where it is unreadable or too long to be looked at."""
    if len(row["raw"]) > _DOCUMENT_MAX:
        return []
    try:
        lines = masking.pretty(contract.parse(row["raw"], row["charset"]), at=at, remark=remark)
    except DocumentError:
        return []
    shown = [line[:_LINE_MAX] for line in lines[:_LINES_MAX]]
    return [*shown, "..."] if len(lines) > _LINES_MAX else shown


def subject(row: dict[str, Any]) -> str | None:
    """Return the fiscal code of the debtor that a document names, to write down who saw it."""
    with suppress(DocumentError):
        request = contract.request_element(contract.parse(row["raw"], row["charset"]).root)
        found = request.findtext("receipt/debtor/uniqueIdentifier/entityUniqueIdentifierValue")
        return found.strip()[:64] or None if found else None
    return None
