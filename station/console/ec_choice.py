"""The EC that a page is about, where the user may see several: `ente` in the address, and the choice in a form."""

import re

from flask import abort, current_app, g, request

from station import config
from station.console.scope import READER

_EC = re.compile(r"[0-9]{11}")
_CHOICES_MAX = 200  # of more ECs, the code is written


def settings() -> config.Settings:
    """Return the configuration that the request is served by."""
    found: config.Settings = current_app.settings  # type: ignore[attr-defined]
    return found


def ec_name(id_pa: str) -> str:
    """Return an EC's name, or its code: of an EC that the user does not see, not even that it is configured."""
    ec, scope = settings().ecs.get(id_pa), g.get("scope")
    return (ec.name if ec is not None and scope is not None and scope.has(id_pa) else "") or id_pa


def read_ec() -> str | None:
    """Return the EC of the address, or the user's only one; `None`: all that the user sees. 404 for a foreign one."""
    ec = request.args.get("ente", "").strip()
    if ec:
        require_ec(ec)
        return ec
    return str(g.scope.ecs[0]) if g.scope.ecs is not None and len(g.scope.ecs) == 1 else None


def require_ec(id_pa: str, role: config.Role = READER) -> None:
    """End the request where an EC of a path is foreign or none (404), or the role does not suffice (403)."""
    if not _EC.fullmatch(id_pa):
        abort(404)
    g.scope.require(id_pa, role)


def ec_options(chosen: str | None) -> list[tuple[str, str]] | None:
    """Return what a form offers, codes and names; nothing where there is no choice, `None` where there are too many."""
    if g.scope.ecs is not None and len(g.scope.ecs) == 1:
        return []
    mine = [ec for ec in settings().ecs if g.scope.has(ec)]
    codes = dict.fromkeys([*mine, *(g.scope.ecs or ()), *filter(None, [chosen])])
    if len(codes) > _CHOICES_MAX:
        return None
    return [("", "Tutti"), *sorted(((ec, ec_name(ec)) for ec in codes), key=lambda one: one[1].casefold())]
