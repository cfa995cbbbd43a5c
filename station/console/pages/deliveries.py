"""Consegne: how receipts reach the EC's own systems, and what operators do about it."""

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station import config, log
from station.console import destinations
from station.console.access import operator
from station.console.ec_choice import settings
from station.console.scope import ADMIN, OPERATOR
from station.console.words import counted
from station.deliver import decisions
from station.deliver.status import DestinationStatus
from station.store import deliveries, delivery_list
from station.store.journal import ExchangeFilter, list_exchanges

pages = Blueprint("deliveries", __name__)
_log = log.get(__name__)

_PAGE = 25
_REASON_MAX = 200
_AGAIN_MAX = 5000  # deliveries that one request makes due again
_STATES = {"open": "In attesa", "failed": "Abbandonata", "delivered": "Consegnata", "skipped": "Saltata"}
_FILE_STATES = {
    "planned": "In preparazione",
    "written": "Scritto: il comando che segue non è ancora riuscito",
    "done": "Completato",
    "failed": "Abbandonato",
}
_KINDS = {"open": "warning", "failed": "danger", "delivered": "success", "done": "success", "planned": "warning",
          "written": "warning", "active": "success", "paused": "warning", "never served": "danger"}  # fmt: skip
_FAILURES = {
    "timeout": "Nessuna risposta in tempo",
    "no_connection": "Connessione non riuscita",
    "unknown_host": "Nome del server sconosciuto",
    "address_forbidden": "Indirizzo del server non consentito",
    "tls": "Certificato del server non valido",
    "protocol": "Risposta non valida",
}
_ONE = "/consegne/<name>/<int(max=9223372036854775806):number>"
_BY = re.compile(r"by (?P<name>.+?)(?:: (?P<reason>.*))?", re.DOTALL)


@pages.get("/consegne", endpoint="destinations")
def list_destinations() -> str:
    """List the destinations that the user sees."""
    found, served = destinations.status(settings(), g.scope)
    whole = {one.name for one in served if _is_whole(one.name)}
    return render_template(
        "deliveries.html", served=served, stopped=found.problem is not None, whole=whole, kinds=_KINDS,
        words=destinations,
    )  # fmt: skip


@pages.get("/consegne/<name>")
def destination(name: str) -> str:
    """Show a destination, with its deliveries or files, the latest first."""
    return _page(_find(name))


def _page(one: DestinationStatus, *, wrong: str = "", given: str = "") -> str:
    state = request.args.get("stato", "")
    if state and state not in _STATES:
        abort(400)
    configured = settings().destinations.get(one.name)
    whole = _is_whole(one.name)
    rows: list[Any] = []
    with g.scope.reading() as connection:
        if one.kind == "folder":
            rows = list(delivery_list.list_files(connection, one.name, before=_moment(), limit=_PAGE + 1))
        elif one.kind == "webhook":
            rows = list(
                delivery_list.list_deliveries(
                    connection, one.name, state=state or None, before=_number(), id_pas=g.scope.ecs, limit=_PAGE + 1
                )
            )
    more = None
    if len(rows) > _PAGE:
        last = rows[_PAGE - 1]
        more = last.planned_at.isoformat() if one.kind == "folder" else last.number
    ecs = destinations.all_ecs(settings(), one.name)
    return render_template(
        "destination.html", one=one, rows=rows[:_PAGE], more=more, state=state, states=_STATES, kinds=_KINDS,
        file_states=_FILE_STATES, whole=whole, words=destinations, reason=_reason(one), wrong=wrong, given=given,
        ecs=None if whole and ecs is None else [id_pa for id_pa in ecs or () if g.scope.has(id_pa)],
        host=urlsplit(configured.url).hostname if isinstance(configured, config.Webhook) and whole else None,
        error=one.last_error if _may_see_errors(one) else None,
        may_change=_is_whole(one.name, OPERATOR), may_send=_may_send(one), may_see_errors=_may_see_errors(one),
    )  # fmt: skip


@pages.get(_ONE)
def delivery(name: str, number: int) -> str:
    """Show one delivery of a webhook."""
    return _delivery_page(*_delivery(name, number))


def _delivery_page(one: DestinationStatus, row: Any, *, wrong: str = "", given: str = "") -> str:
    told = ExchangeFilter(id_pa=row.id_pa, receipt_id=row.receipt_id, source="deliver")
    with g.scope.reading() as connection:
        exchanges = list_exchanges(connection, told, newest_first=True, limit=4 * _PAGE)
    attempts = [exchange for exchange in exchanges if exchange.peer_subject == one.name][:_PAGE]
    return render_template(
        "delivery.html", attempts=attempts, why=_why, one=one, row=row, states=_STATES, kinds=_KINDS, wrong=wrong,
        given=given, may_send=_may_send(one) and g.scope.has(row.id_pa, OPERATOR),
    )  # fmt: skip


# --- what operators change --------------------------------------------------------------------------------------------


@pages.post(_ONE + "/invia")
def again(name: str, number: int) -> ResponseReturnValue:
    """Send one delivery again."""
    webhook = _operated(*_delivery(name, number))
    with g.scope.engine(OPERATOR) as engine:
        count = decisions.send_again(
            engine, webhook, first=number, last=number, dry_run=False, operator=operator(), show=lambda _: None
        )
    if count:
        flash("La consegna è di nuovo in coda: parte tra pochi secondi.", "success")
    else:
        flash("La configurazione della destinazione non prevede più questa ricevuta.", "warning")
    return redirect(url_for(".delivery", name=name, number=number), 303)


@pages.post(_ONE + "/salta")
def skip(name: str, number: int) -> ResponseReturnValue:
    """Give up one delivery that is open or failed, with a reason."""
    one, row = _delivery(name, number)
    webhook = _operated(one, row)
    reason = _given_reason()
    if not reason:
        wrong = f"Scrivi perché non va consegnata (al massimo {_REASON_MAX} caratteri)."
        return _delivery_page(one, row, wrong=wrong), 400
    with g.scope.engine(OPERATOR) as engine:
        count = decisions.skip(
            engine, webhook, first=number, last=number, reason=reason, operator=operator(), show=lambda _: None
        )
    flash("La consegna è stata saltata." if count else "La consegna era già conclusa: non è cambiato nulla.",
          "success" if count else "warning")  # fmt: skip
    return redirect(url_for(".delivery", name=name, number=number), 303)


@pages.post("/consegne/<name>/invia-abbandonate")
def again_failed(name: str) -> ResponseReturnValue:
    """Send again what was given up, of the ECs that the user operates."""
    one = _find(name)
    configured = settings().destinations.get(name)
    if not _may_send(one) or not isinstance(configured, config.Webhook):
        abort(403)
    with g.scope.engine(OPERATOR) as engine:
        count = decisions.send_failed_again(
            engine, configured, dry_run=False, operator=operator(), id_pas=g.scope.ecs_of(OPERATOR), most=_AGAIN_MAX
        )
    text = counted(count, "consegna è di nuovo in coda", "consegne sono di nuovo in coda") + "."
    if count >= _AGAIN_MAX:
        text += " Ce ne possono essere altre: ripeti l'operazione."
    flash(text, "success")
    return redirect(url_for(".destination", name=name), 303)


@pages.post("/consegne/<name>/pausa")
def pause(name: str) -> ResponseReturnValue:
    """Send a destination nothing more, with a reason."""
    one = _find(name)
    _require_change(one)
    reason = _given_reason()
    if not reason:
        wrong = f"Scrivi perché la consegna va sospesa (al massimo {_REASON_MAX} caratteri)."
        return _page(one, wrong=wrong), 400
    with g.scope.writing() as connection:
        done = deliveries.pause(connection, name, f"by {operator()}: {reason}")
    return _changed(name, "paused" if done else None, "La destinazione è in pausa. Quello che arriva attende.")


@pages.post("/consegne/<name>/riprendi")
def resume(name: str) -> ResponseReturnValue:
    """Serve a paused destination again, or one that is away at once."""
    _require_change(_find(name))
    with g.scope.writing() as connection:
        done = deliveries.resume(connection, name)
    return _changed(name, "resumed" if done else None, "La destinazione viene servita di nuovo.")


def _changed(name: str, verb: str | None, text: str) -> ResponseReturnValue:
    if verb is None:
        flash("La destinazione non è mai stata servita: non è cambiato nulla.", "warning")
    else:
        _log.info(f"destination_{verb}", destination=name, operator=operator())
        flash(text, "success")
    return redirect(url_for(".destination", name=name), 303)


# --- who may ----------------------------------------------------------------------------------------------------------


def _is_whole(name: str, role: Any = "reader") -> bool:
    return destinations.is_whole(settings(), g.scope, name, role)


def _find(name: str) -> DestinationStatus:
    """Return a destination that the user sees. Ends the request with 404 where there is none."""
    _, served = destinations.status(settings(), g.scope)
    found = next((one for one in served if one.name == name), None)
    return found or abort(404)


def _delivery(name: str, number: int) -> tuple[DestinationStatus, Any]:
    """Return a destination and one of its deliveries, of an EC that the user sees. Ends the request with 404 else."""
    one = _find(name)
    if one.kind != "webhook":
        abort(404)
    with g.scope.reading() as connection:
        row = delivery_list.find_delivery(connection, name, number, id_pas=g.scope.ecs)
    return one, row or abort(404)


def _operated(one: DestinationStatus, row: Any) -> config.Webhook:
    """Return the settings of a webhook. Ends the request with 403 unless the user operates the delivery's EC."""
    g.scope.require(row.id_pa, OPERATOR)
    configured = settings().destinations.get(one.name)
    if not isinstance(configured, config.Webhook):
        abort(403)
    return configured


def _may_send(one: DestinationStatus) -> bool:
    """Return whether the user may send deliveries again, of some EC that the destination serves."""
    ecs = destinations.all_ecs(settings(), one.name)
    is_any = g.scope.is_any(OPERATOR) if ecs is None else any(g.scope.has(id_pa, OPERATOR) for id_pa in ecs)
    return is_any and isinstance(settings().destinations.get(one.name), config.Webhook) and one.position is not None


def _require_change(one: DestinationStatus) -> None:
    if not _is_whole(one.name, OPERATOR) or one.kind == "feed":
        abort(403)


def _may_see_errors(one: DestinationStatus) -> bool:
    """Return whether errors are shown: those of a folder have paths of the machine, which admins see."""
    return _is_whole(one.name, ADMIN if one.kind == "folder" else "reader")


# --- what is given ----------------------------------------------------------------------------------------------------


def _given_reason() -> str:
    """Return the reason of the form; empty where it is none."""
    reason = " ".join(request.form.get("motivo", "").split())
    return reason if reason.isprintable() and len(reason) <= _REASON_MAX else ""


def _number() -> int | None:
    """Return the number in the address before which the page begins. Ends the request with 400 where it is none."""
    word = request.args.get("prima", "")
    if not word:
        return None
    if not re.fullmatch("[0-9]{1,18}", word):
        abort(400)
    return int(word)


def _moment() -> datetime | None:
    """Return the time in the address before which the page begins. Ends the request with 400 where it is none."""
    word = request.args.get("prima", "")
    try:
        found = datetime.fromisoformat(word) if word else None
        if found is not None and (found.tzinfo is None or not 1900 < found.year < 9000):
            abort(400)
    except ValueError:
        abort(400)
    return found


def _why(fault_code: str | None) -> str:
    """Return in words why an attempt failed (see `deliver.webhook.WebhookAnswer`)."""
    if fault_code is None:
        return "Consegnata"
    if fault_code.startswith("http_"):
        return f"Risposta {fault_code.removeprefix('http_')}"
    return _FAILURES.get(fault_code, "Non riuscito")


def _reason(one: DestinationStatus) -> tuple[str, str] | None:
    """Return by whom a destination was paused, and why; an empty name where the station did it by itself."""
    if one.reason is None:
        return None
    by = _BY.fullmatch(one.reason)
    return (by["name"], by["reason"] or "") if by else ("", one.reason)
