"""Stato: whether all is well, jobs, last pushes, certificates and versions."""

from flask import Blueprint, abort, g, render_template

from station import production
from station.console.ec_choice import settings
from station.console.health import health
from station.console.scope import ADMIN

pages = Blueprint("state", __name__)

_ROWS_MAX = 50  # of a table; what needs attention comes first


@pages.get("/stato")
def state() -> str:
    """Show the station's state, as far as it concerns the user's ECs."""
    found = health(settings(), g.scope)
    return render_template(
        "state.html", state=found, rows_max=_ROWS_MAX, is_admin=g.scope.is_any(ADMIN), sees_all=g.scope.is_all(ADMIN)
    )


@pages.get("/stato/controlli")
def findings() -> str:
    """Show what `station check --production` finds, to admins of all ECs: it names paths and addresses."""
    if not g.scope.is_all(ADMIN):
        abort(404)
    with g.scope.engine(ADMIN) as engine:
        found = production.findings(settings(), engine)
    return render_template("findings.html", findings=found)
