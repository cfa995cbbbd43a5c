"""Da controllare: what a person has to decide, each with its count and the way to its list."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from flask import Blueprint, abort, g, render_template, request, url_for

from station import store
from station.console import destinations, jobs
from station.console.ec_choice import ec_name, settings
from station.console.flags import SIGNS, TO_CHECK
from station.console.missing import number_missing
from station.console.pages import refused
from station.console.words import moment
from station.receipt import Flag
from station.store import credited, gauges

pages = Blueprint("attention", __name__)
pages.register_blueprint(refused.pages)

PAGE = 25
_FLAGGED_DAYS = 90
_SHOWN = 10  # of ECs, jobs and destinations that are named

# Why a receipt that pagoPA lists is not here (see store.runs): the reason's slug, and the words for it.
_REASONS = {
    "in_fdr": "È stata accreditata",
    "not_yet": "pagoPA non la fornisce ancora",
    "refused": "È arrivata, ma è stata rifiutata",
    "api_key_rejected": "pagoPA non accetta la chiave",
    "api_forbidden": "La chiave non vale per questa ricevuta",
}
_OTHER_REASON = "pagoPA non ha risposto come previsto"
_STATES = {"open": "viene richiesta ancora", "refused": "rifiutata", "given_up": "non viene più richiesta"}


class Matter(NamedTuple):
    """Something that waits for a person. `address` leads to its list; `named`: the first ones, where there is none."""

    title: str
    number: int
    kind: str  # danger or warning
    meaning: str
    address: str | None = None
    link: str = ""
    named: tuple[str, ...] = ()


@pages.get("/da-controllare")
def attention() -> str:
    """Show what waits for a person."""
    matters = [matter for matter in _matters() if matter.number]
    return render_template("attention.html", matters=matters, many=gauges.OPEN_COUNTED, days=_FLAGGED_DAYS)


def _matters() -> list[Matter]:
    scope, configured, now = g.scope, settings(), datetime.now(UTC)
    deliverer, served = destinations.status(configured, scope)
    with scope.reading() as connection:
        refusals = gauges.open_by_fault(connection, scope.ecs)
        missing = number_missing(connection, scope.ecs)
        since = now - timedelta(days=_FLAGGED_DAYS)
        flagged = gauges.flagged_since(connection, TO_CHECK, since, scope.ecs)
        late = [job for job in jobs.jobs(configured, connection, scope, now=now) if job.late]
        silent = [one for one in jobs.silences(configured, connection, scope, now=now) if one.is_silent]
    failing = [one for one in served if one.causes]
    found = [
        Matter(
            "Richieste rifiutate", sum(refusals.values()), "danger",
            "Ricevute arrivate da pagoPA che la stazione ha rifiutato e conservato. pagoPA non le invia di nuovo: per "
            "ognuna decidi se rielaborarla o scartarla.",
            url_for("attention.refused.refused"), "Vedi le richieste rifiutate",
        ),
        Matter(
            "Ricevute mancanti", missing, "danger",
            "Pagamenti che pagoPA elenca, o che sono già stati accreditati, di cui qui non c'è la ricevuta.",
            url_for("attention.missing"), "Vedi le ricevute mancanti",
        ),
    ]  # fmt: skip
    found += [_flagged(flag, flagged.get(flag, 0)) for flag in TO_CHECK]
    found.append(
        Matter(
            "Enti senza ricevute", len(silent), "warning",
            f"Da più di {jobs.SILENT_AFTER.days} giorni non arriva alcuna ricevuta nuova. Per un ente con pochi "
            "pagamenti può essere normale; altrimenti chiedi a chi gestisce la stazione di verificare il collegamento.",
            url_for("state.state"), "Vedi lo stato",
            tuple(f"{ec_name(one.id_pa) if one.id_pa else 'Tutti gli enti'}: ultima il {moment(one.last)}"
                  for one in silent[:_SHOWN]),
        )
    )  # fmt: skip
    found.append(
        Matter(
            "Consegne con problemi", len(failing), "danger",
            "Destinazioni a cui le ricevute non arrivano come dovrebbero.",
            url_for("deliveries.destinations"), "Vedi le consegne",
            tuple(f"{one.name}: {destinations.CAUSES[one.causes[0]]}" for one in failing[:_SHOWN]),
        )
    )  # fmt: skip
    stopped = ["Consegna delle ricevute: il servizio è fermo."] if deliverer.problem else []
    found.append(
        Matter(
            "Lavori in ritardo", len(late) + len(stopped), "danger",
            "Controlli automatici che non sono stati completati in tempo. Avvisa chi gestisce la stazione.",
            url_for("state.state"), "Vedi lo stato dei lavori",
            (*stopped, *(f"{job.name}, {ec_name(job.id_pa)}: "
                         + (f"l'ultima volta il {moment(job.last)}" if job.last else "mai completata")
                         for job in late[:_SHOWN])),
        )
    )  # fmt: skip
    return found


def _flagged(flag: str, count: int) -> Matter:
    sign = SIGNS[flag]
    title = "Pagamenti doppi" if flag == Flag.SECOND_RECEIPT else sign.title
    return Matter(
        title, count, "warning", f"{sign.meaning} {sign.to_do}", url_for("attention.flagged", flag=flag),
        "Vedi le ricevute",
    )  # fmt: skip


@pages.get("/da-controllare/segnalate/<flag>")
def flagged(flag: str) -> str:
    """List receipts with a flag, the latest first; of double payments with the other payments of each notice."""
    if flag not in SIGNS:
        abort(404)
    wanted = store.Filter(flag=flag, id_pas=g.scope.ecs)
    with g.scope.reading() as connection:
        found = store.list_receipts(connection, wanted, after=_place("received_at"), limit=PAGE + 1)
        rows = [
            row._asdict()
            | {
                "others": store.same_notice(connection, row._asdict(), limit=PAGE)
                if flag == Flag.SECOND_RECEIPT
                else []
            }
            for row in found[:PAGE]
        ]
    more = store.Cursor.of("received_at", found[PAGE - 1]).encode() if len(found) > PAGE else None
    return render_template("flagged.html", flag=flag, sign=SIGNS[flag], rows=rows, more=more)


@pages.get("/da-controllare/mancanti")
def missing() -> str:
    """List receipts that are known to exist and are not here, the longest missing first."""
    with g.scope.reading() as connection:
        after = _place("first_at")
        items = store.runs.list_items(connection, g.scope.ecs, after=after, of_flows=False, limit=PAGE + 1)
        paid = [] if after else credited.missing_payments(connection, g.scope.ecs, limit=PAGE + 1)
    more = store.Cursor.of("first_at", items[PAGE - 1], "iuv").encode() if len(items) > PAGE else None
    return render_template(
        "missing.html", items=items[:PAGE], paid=paid[:PAGE], more_paid=len(paid) > PAGE, more=more,
        first=after is None, reasons=_REASONS, other=_OTHER_REASON, states=_STATES,
    )  # fmt: skip


def _place(order: str) -> store.Cursor | None:
    """Return the place in the address where the page begins. Ends the request with 400 where it is none."""
    word = request.args.get("dopo", "")
    try:
        return store.Cursor.decode(word, (order,), str) if word else None
    except ValueError:
        abort(400)
