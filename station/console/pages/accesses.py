"""Accessi: who looked up whom, for who answers for data protection."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from station import clock
from station.console import searches
from station.console.access import write_down
from station.console.csv_file import csv_file
from station.console.ec_choice import settings
from station.console.scope import ADMIN
from station.store.accesses import AccessFilter, list_accesses, place_of
from station.store.paging import Cursor

pages = Blueprint("accesses", __name__)

ACTIONS = {
    "search": "ricerca di una persona",
    "list": "elenco con i debitori mostrato",
    "receipt": "ricevuta mostrata",
    "pdf": "ricevuta stampata (PDF)",
    "xml": "documento originale (XML)",
    "csv": "elenco scaricato (CSV)",
    "accesses": "ricerca in questo registro, o suo elenco (CSV)",
}
_COLUMNS = {
    "at": "Quando", "username": "Utente", "address": "Indirizzo di rete", "action": "Operazione", "id_pa": "Ente",
    "receipt_id": "Identificativo ricevuta", "subject": "Persona", "found": "Trovate",
}  # fmt: skip
_PAGE, _CSV_PAGE, _CSV_MAX = 25, 1000, 20_000
_FIELDS = ("utente", "ente", "da", "a", "soggetto")
_TEXT_MAX = 100


@pages.get("/accessi")
def accesses() -> ResponseReturnValue:
    """Show look-ups, newest first."""
    g.scope.require_any(ADMIN)
    values = _values()
    wanted, wrong = _filter(values)
    after = _cursor(request.args.get("dopo"))
    if wrong:
        return _page(values, wrong=wrong), 400
    rows = _found(wanted, after, _PAGE + 1)
    more = place_of(rows[_PAGE - 1]).encode() if len(rows) > _PAGE else None
    rows = rows[:_PAGE]
    if wanted.subject is not None:
        _write_down(wanted, rows)
    return _page(values, rows=rows, more=more, is_asked=any(values.values()))


@pages.post("/accessi")
def ask() -> ResponseReturnValue:
    """Take the form. A person's fiscal code goes into the session and not into the address, which others read."""
    g.scope.require_any(ADMIN)
    values = {name: request.form.get(name, "").strip() for name in _FIELDS}
    _, wrong = _filter(values)
    if wrong:
        return _page(values, wrong=wrong), 400
    query = {name: value for name, value in values.items() if value and name != "soggetto"}
    if values["soggetto"]:
        query["ricerca"] = searches.keep(session, {"soggetto": values["soggetto"]})
    return redirect(url_for("accesses.accesses") + (f"?{urlencode(query)}" if query else ""), 303)


@pages.get("/accessi.csv")
def csv() -> ResponseReturnValue:
    """Send the look-ups as a file, in the Italian form."""
    g.scope.require_any(ADMIN)
    wanted, wrong = _filter(_values())
    if wrong:
        abort(400)
    rows: list[Any] = []
    after: Cursor | None = None
    while len(rows) < _CSV_MAX:
        page = _found(wanted, after, _CSV_PAGE)
        rows += page
        if len(page) < _CSV_PAGE:
            break
        after = place_of(page[-1])
    _write_down(wanted, rows)
    shown = (row._asdict() | {"action": ACTIONS.get(row.action, row.action)} for row in rows)
    return csv_file("accessi", _COLUMNS, shown)


def _values() -> dict[str, str]:
    """Return what the address asks for; the person is kept in the session."""
    values = {name: request.args.get(name, "").strip() for name in _FIELDS if name != "soggetto"}
    key = request.args.get("ricerca")
    kept = {} if key is None else searches.kept(session, key)
    if kept is None:
        abort(404)
    return values | {"soggetto": kept.get("soggetto", "")}


def _filter(values: Mapping[str, str]) -> tuple[AccessFilter, dict[str, str]]:
    """Return the filter, and what is wrong by the field's name. A foreign EC is answered 404."""
    wrong: dict[str, str] = {}
    times: dict[str, Any] = {}
    for name, column in (("da", "at_from"), ("a", "at_to")):
        if values[name]:
            try:
                times[column] = clock.moment(clock.day(values[name]).isoformat(), end=name == "a")
            except (ValueError, OverflowError):
                wrong[name] = "Scrivi un giorno, per esempio 28/11/2026."
    for name in ("utente", "soggetto"):
        if len(values[name]) > _TEXT_MAX or not values[name].isprintable():
            wrong[name] = "Il testo non è valido."
    wanted = AccessFilter(
        id_pas=g.scope.ecs_of(ADMIN), username=values["utente"] or None, subject=values["soggetto"] or None, **times
    )
    if values["ente"]:
        g.scope.require(values["ente"], ADMIN)
        wanted = replace(wanted, id_pas=(values["ente"],))
    return wanted, wrong


def _iso(text: str) -> str:
    """Return a day as a form takes it; empty for what is none."""
    try:
        return clock.day(text).isoformat() if text else ""
    except ValueError:
        return ""


def _cursor(word: str | None) -> Cursor | None:
    try:
        return None if word is None else Cursor.decode(word, ("at",), int)
    except ValueError:
        abort(400)


def _found(wanted: AccessFilter, after: Cursor | None, limit: int) -> list[Any]:
    with g.scope.reading() as connection:
        return list(list_accesses(connection, wanted, after=after, limit=limit))


def _write_down(wanted: AccessFilter, rows: list[Any]) -> None:
    """Write down that a person was looked for in here, or a list of them taken: a row for each EC that is shown."""
    of_ec = Counter(row.id_pa for row in rows)
    told = [{"id_pa": id_pa, "found": number} for id_pa, number in of_ec.items()] or [{"found": 0}]
    with g.scope.writing() as connection:
        write_down(connection, "accesses", *(one | {"subject": wanted.subject} for one in told))


def _page(values: Mapping[str, str], **more: Any) -> str:
    mine = [(id_pa, ec.name or id_pa) for id_pa, ec in settings().ecs.items() if g.scope.has(id_pa, ADMIN)]
    query = {name: request.args[name] for name in (*_FIELDS, "ricerca") if request.args.get(name)}
    return render_template(
        "accesses.html",
        values=values,
        days={name: _iso(values[name]) for name in ("da", "a")},
        ecs=mine,
        actions=ACTIONS,
        csv=url_for("accesses.csv", **query),  # type: ignore[arg-type]
        csv_max=_CSV_MAX,
        months=settings().retention.access_months,
        **({"rows": [], "more": None, "wrong": {}, "is_asked": True} | more),
    )
