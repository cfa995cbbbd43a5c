"""Da controllare, richieste rifiutate: what came and was refused, and what a person does about it."""

import re
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station import store
from station.console import faults, replaying
from station.console.access import operator, write_down
from station.console.ec_choice import settings
from station.console.scope import OPERATOR, READER
from station.console.words import counted
from station.errors import ReceiptConflictError
from station.store import gauges

pages = Blueprint("refused", __name__, url_prefix="/da-controllare/rifiutate")

_PAGE = 25
_NO_EC = "none"  # in addresses: no EC that could be read, or one that no address can have
_EC = re.compile("[0-9A-Za-z]{1,35}")
_ID = re.compile("[0-9a-f]{16}")
_CODE = re.compile("[A-Z0-9_]{1,40}")
_REASON_MAX = 500
_STATES = {"open": "Da decidere", "accepted": "Accolta", "discarded": "Scartata"}
_RESULTS = {
    "refused": "Rifiutata",
    "stored": "Memorizzata",
    "duplicate": "Era già memorizzata",
    "replaced": "Ha sostituito la ricevuta memorizzata",
    "discarded": "Scartata",
}
_DOORS = {
    "push": "invio di pagoPA",
    "reconcile": "riconciliazione",
    "replay": "rielaborazione",
    "bizevents": "BizEvents",
}


@pages.get("")
def refused() -> str:
    """List refused requests, the latest first: by state, fault code and EC."""
    args = request.args
    state, code, id_pa = args.get("stato", "open"), args.get("motivo", ""), args.get("ente", "")
    if state not in (*_STATES, "tutte") or (code and not _CODE.fullmatch(code)) or (id_pa and not _EC.fullmatch(id_pa)):
        abort(400)
    if id_pa:
        g.scope.require(id_pa)
    wanted = store.RefusedFilter(
        state=None if state == "tutte" else state, fault_code=code or None, id_pa=id_pa or None, id_pas=g.scope.ecs
    )
    with g.scope.reading() as connection:
        after = _place(args.get("dopo", ""))
        found = store.list_refused(connection, wanted, after=after, newest_first=True, limit=_PAGE + 1)
        by_fault = gauges.open_by_fault(connection, g.scope.ecs)
    rows = [{**row._mapping, "address": _segment(row.id_pa), "reason": faults.reason(row.reason)}
            for row in found[:_PAGE]]  # fmt: skip
    more = None
    if len(found) > _PAGE:
        last = found[_PAGE - 1]
        more = store.Cursor("received_at", last.received_at, last.id_pa, last.raw_hash.hex()).encode()
    again = [row for row in rows if row["state"] != store.RefusedState.ACCEPTED]
    return render_template(
        "refused_list.html", rows=rows, more=more, state=state, code=code, id_pa=id_pa, states=_STATES,
        by_fault=by_fault, fault=faults.fault, ids=[f"{row['address']}/{row['refused_id']}" for row in again],
        may_replay=bool(again) and all(g.scope.has(row["id_pa"] or None, OPERATOR) for row in again),
    )  # fmt: skip


def _place(word: str) -> store.Cursor | None:
    """Return the place where the page begins; the key in its word is the hash in hex. 400 where it is none."""
    try:
        cursor = store.Cursor.decode(word, ("received_at",), str) if word else None
        return cursor and cursor._replace(key=bytes.fromhex(str(cursor.key)))
    except ValueError:
        abort(400)


def _segment(id_pa: str) -> str:
    return id_pa if _EC.fullmatch(id_pa) and id_pa != _NO_EC else _NO_EC


def _load(id_pa: str, refused_id: str, role: Any = READER) -> dict[str, Any]:
    """Return a refused request. Ends the request with 404 unless it, and what its document names, is the user's."""
    if not _ID.fullmatch(refused_id):
        abort(404)
    g.scope.require(None if id_pa == _NO_EC else id_pa)
    with g.scope.reading() as connection:
        row = store.find_refused(connection, refused_id, id_pas=None if id_pa == _NO_EC else (id_pa,))
    if row is None or _segment(row["id_pa"]) != id_pa:
        abort(404)
    replaying.require(g.scope, row, role)
    return row


@pages.get("/<id_pa>/<refused_id>")
def one(id_pa: str, refused_id: str) -> str:
    """Show one refused request."""
    return _page(_load(id_pa, refused_id))


def _page(row: dict[str, Any], *, tried: replaying.Tried | None = None, wrong: str = "", given: str = "") -> str:
    reason = faults.reason(row["reason"])
    return render_template(
        "refused.html", row=row, address=_segment(row["id_pa"]), size=len(row["raw"]), reason=reason, tried=tried,
        fault=faults.fault(row["fault_code"]), states=_STATES, results=_RESULTS, doors=_DOORS, faults=faults,
        may_change=g.scope.has(row["id_pa"] or None, OPERATOR), wrong=wrong, given=given,
        is_conflict=row["fault_code"] == ReceiptConflictError.fault_code,
        document=replaying.shown_document(row, at=reason.path, remark=f"QUI: {reason.rule}"),
    )  # fmt: skip


@pages.get("/<id_pa>/<refused_id>/documento")
def document(id_pa: str, refused_id: str) -> ResponseReturnValue:
    """Give the exact bytes that came, and write down who took them: they hold a person's data."""
    row = _load(id_pa, refused_id)
    with g.scope.writing() as connection:
        write_down(
            connection, "xml",
            {"id_pa": row["id_pa"] or None, "receipt_id": row["receipt_id"], "subject": replaying.subject(row)},
        )  # fmt: skip
    headers = {"Content-Disposition": f"attachment; filename=richiesta-{refused_id}.xml"}
    return Response(row["raw"], headers=headers, content_type="application/octet-stream")


@pages.post("/<id_pa>/<refused_id>/prova")
def try_one(id_pa: str, refused_id: str) -> str:
    """Say what a replay would do now; nothing changes."""
    row = _load(id_pa, refused_id)
    (tried,) = _replay([row], dry_run=True)
    return _page(row, tried=tried)


@pages.post("/<id_pa>/<refused_id>/rielabora")
def replay_one(id_pa: str, refused_id: str) -> ResponseReturnValue:
    """Send the request through the intake again."""
    row = _load(id_pa, refused_id, OPERATOR)
    (tried,) = _replay([row], dry_run=False)
    flash(" ".join([tried.text, *_why(tried)]), tried.kind)
    return redirect(url_for(".one", id_pa=id_pa, refused_id=refused_id), 303)


@pages.post("/<id_pa>/<refused_id>/scarta")
def discard(id_pa: str, refused_id: str) -> ResponseReturnValue:
    """Note the decision that a request is no receipt of ours; nothing is deleted."""
    row = _load(id_pa, refused_id, OPERATOR)
    reason = " ".join(request.form.get("motivo", "").split())
    if not reason or len(reason) > _REASON_MAX or not reason.isprintable():
        wrong = "Scrivi perché la richiesta viene scartata (al massimo 500 caratteri): resta nella sua storia."
        return _page(row, wrong=wrong, given=reason[:_REASON_MAX]), 400
    with g.scope.writing() as connection:
        done = store.discard(
            connection, row["id_pa"], row["raw_hash"], reason=reason, operator=operator(), at=datetime.now(UTC)
        )
    if done:
        flash("La richiesta è stata scartata. Il documento resta conservato.", "success")
    else:
        flash("La richiesta era già chiusa: non è cambiato nulla.", "warning")
    return redirect(url_for(".one", id_pa=id_pa, refused_id=refused_id), 303)


@pages.post("/rielabora")
def replay_listed() -> ResponseReturnValue:
    """Replay the requests of a page of the list, or (`prova`) say what would happen."""
    names = [name.partition("/") for name in request.form.getlist("richiesta")]
    if not 0 < len(names) <= _PAGE:
        abort(400)
    dry_run = "prova" in request.form
    rows = [_load(id_pa, refused_id, READER if dry_run else OPERATOR) for id_pa, _, refused_id in names]
    rows.sort(key=lambda row: row["received_at"])
    tried = _replay(rows, dry_run=dry_run)
    if dry_run:
        shown = [(row, _segment(row["id_pa"]), one) for row, one in zip(rows, tried, strict=True)]
        return render_template("refused_tried.html", shown=shown, ids=["/".join((at, row["refused_id"]))
                               for row, at, _ in shown], faults=faults,
                               may_replay=all(g.scope.has(row["id_pa"] or None, OPERATOR) for row in rows))  # fmt: skip
    good = sum(one.kind == "success" for one in tried)
    told = [counted(good, "richiesta accolta", "richieste accolte")] if good else []
    told += [f"{counted(len(tried) - good, 'resta rifiutata', 'restano rifiutate')}"] if good < len(tried) else []
    flash(", ".join(told).capitalize() + ".", "success" if good == len(tried) else "danger")
    return redirect(url_for(".refused"), 303)


def _replay(rows: list[dict[str, Any]], *, dry_run: bool) -> list[replaying.Tried]:
    return list(replaying.replay(g.scope, settings(), rows, operator=operator(), dry_run=dry_run))


def _why(tried: replaying.Tried) -> list[str]:
    """Return why a request is still refused, in words."""
    if tried.item.fault_code is None:
        return [tried.item.reason] if tried.item.reason else []
    return [
        f"{faults.fault(tried.item.fault_code).title}.",
        *filter(None, [faults.reason(tried.item.reason or "").text]),
    ]
