"""Ricevuta: everything that is stored of a receipt, its printed copy and its documents."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from flask import Blueprint, Response, abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.routing import BaseConverter, ValidationError

from station import pdf, store
from station.console import destinations, facts, flow_words, words
from station.console.access import write_down
from station.console.books import account_of
from station.console.ec_choice import settings
from station.console.flags import SIGNS
from station.console.scope import ADMIN
from station.deliver.trace import Trace, trace
from station.receipt import Source
from station.store import credited
from station.store.waiting import run_in_thread

pages = Blueprint("receipt", __name__)

_PDF_S = 30.0  # that a PDF may take: 10 to 30 ms where the machine has time
_OTHERS_MAX = 100  # payments of one notice that are listed
_CHARSET = re.compile(r"[\w.:-]{1,40}", re.ASCII)
_NO_PDF = (
    "Qui non si possono fare PDF: chi gestisce la console deve installare l'extra «pdf» (pip install "
    "'pagopa-receipt-station[pdf]')."
)

_DELIVERED = {
    "open": "in attesa",
    "delivered": "consegnata",
    "failed": "abbandonata: i tentativi sono finiti",
    "skipped": "saltata da un operatore",
    "planned": "in un file che è da scrivere",
    "written": "in un file scritto",
    "done": "in un file consegnato",
    "read": "letta",
    "waiting": "in attesa",
    "not chosen": "esclusa dalla configurazione",
    "unknown": "non si sa: è di prima, o la consegna è stata eliminata",
}


class ReceiptId(BaseConverter):
    """A receiptId in an address: itself where it is plain, otherwise `~` and its base64.

    It may hold what a path does not: slashes, dots alone, which browsers resolve even if they are encoded, or `.pdf`
    at its end. So a receiptId never has a dot or a slash in an address, and what follows it is the page's.
    """

    regex = "~?[A-Za-z0-9_-]+"

    def to_python(self, value: str) -> str:
        """Return the receiptId."""
        if not value.startswith("~"):
            return value
        try:
            text = urlsafe_b64decode(value[1:] + "=" * (-len(value[1:]) % 4)).decode()
        except ValueError:
            raise ValidationError from None
        if "\0" in text or self.to_url(text) != value:  # one address for each
            raise ValidationError
        return text

    def to_url(self, value: str) -> str:
        """Return how it stands in an address."""
        if re.fullmatch("[A-Za-z0-9_-]+", value):
            return value
        return "~" + urlsafe_b64encode(value.encode(errors="replace")).decode().rstrip("=")


@pages.record_once
def _prepare(state: Any) -> None:
    state.app.url_map.converters["receipt_id"] = ReceiptId


_ADDRESS = "/ricevute/<id_pa>/<receipt_id:receipt_id>"


@pages.get(_ADDRESS)
def receipt(id_pa: str, receipt_id: str) -> str:
    """Show a receipt."""
    _require(id_pa)
    with g.scope.reading() as connection:
        found = store.find(connection, id_pa, receipt_id) or abort(404)
        documents = store.documents_of(connection, id_pa, receipt_id)
        others = store.same_notice(connection, found, limit=_OTHERS_MAX)
        flows = credited.flows_of(connection, id_pa, receipt_id, g.scope.ecs)
    with g.scope.engine() as engine:
        traces = [_shown(one) for one in trace(settings(), engine, id_pa, receipt_id) if _concerns(one, id_pa)]
    _write_down("receipt", found)
    names = {ec: one.name for ec, one in settings().ecs.items()}
    return render_template(
        "receipt.html",
        receipt=found,
        groups=facts.groups(found, names),
        signs=SIGNS,
        accounts=_accounts(found),
        sources=words.SOURCES,
        documents=documents,
        has_xml=bool(found["raw"]) and found["source"] != Source.BIZEVENTS,
        is_provisional=found["source"] == Source.BIZEVENTS,
        others=others,
        flows=flows,
        status=flow_words.status,
        traces=traces,
        delivered=_DELIVERED,
        no_pdf=None if pdf.is_installed() else _NO_PDF,
    )


def _shown(traced: Trace) -> Trace:
    """Return a trace without the errors of a folder, which have paths of the machine, unless an admin asks."""
    hidden = traced.kind == "folder" and not destinations.is_whole(settings(), g.scope, traced.destination, ADMIN)
    return traced._replace(error=None) if hidden else traced


def _concerns(traced: Trace, id_pa: str) -> bool:
    """Return whether a destination serves the receipt's EC or has something of it: others are no one's but theirs."""
    destination = settings().destinations.get(traced.destination)
    if destination is None:
        return traced.attempts is not None or traced.file is not None
    return not destination.ecs or id_pa in destination.ecs


@pages.get(f"{_ADDRESS}.pdf")
def printed_copy(id_pa: str, receipt_id: str) -> ResponseReturnValue:
    """Send the printed copy: to be shown and printed, or with `copia` to be kept, the XML in it where there is one."""
    _require(id_pa)
    configured, is_copy = settings(), "copia" in request.args
    with g.scope.reading() as connection:
        found = store.find(connection, id_pa, receipt_id) or abort(404)
    if not pdf.is_installed():
        flash(_NO_PDF, "warning")
        return redirect(url_for("receipt.receipt", id_pa=id_pa, receipt_id=receipt_id), 303)
    attach = is_copy and bool(found["raw"]) and found["source"] != Source.BIZEVENTS
    try:
        written = run_in_thread(lambda: pdf.render(configured, found, attach_xml=attach), _PDF_S)
    except TimeoutError:
        abort(503)
    _write_down("pdf", found)
    return _file(written, "application/pdf", _name(found, "pdf"), is_download=is_copy)


@pages.get(f"{_ADDRESS}.xml")
def document(id_pa: str, receipt_id: str) -> ResponseReturnValue:
    """Send a document of the receipt, byte for byte: the fullest, or the one whose number is given."""
    _require(id_pa)
    number = request.args.get("documento")
    with g.scope.reading() as connection:
        found = store.find(connection, id_pa, receipt_id) or abort(404)
        documents = store.documents_of(connection, id_pa, receipt_id)
        wanted = [one for one in documents if (one["fullest"] if number is None else str(one["number"]) == number)]
        if not wanted or not wanted[0]["size"]:
            abort(404)
        raw, charset = store.document_bytes(connection, id_pa, receipt_id, wanted[0]["number"])
    _write_down("xml", found)
    if wanted[0]["source"] == Source.BIZEVENTS:
        return _file(raw, "application/json", _name(found, "json"))
    known = charset is not None and _CHARSET.fullmatch(charset)
    return _file(raw, f"application/xml; charset={charset}" if known else "application/xml", _name(found, "xml"))


def _accounts(found: dict[str, Any]) -> list[str]:
    """Return the account of each transfer, where the configuration has accounts; only the EC's own are booked."""
    accounts, configured = [], settings().account
    for one in found["transfers"] if configured else ():
        is_own = one["fiscal_code_pa"] == found["id_pa"] and not one["digital_stamp"]
        account = account_of(configured, found["id_pa"], one["transfer_category"], one["iban"]) if is_own else None
        accounts.append(f"{account.code} {account.name}".strip() if account else "")
    return accounts


def _require(id_pa: str) -> None:
    """End the request with 404 where the EC is foreign, or no EC can have this name."""
    if not id_pa.isprintable():
        abort(404)
    g.scope.require(id_pa)


def _write_down(action: str, found: dict[str, Any]) -> None:
    """Write down that the user looked at this receipt: a row for the debtor, and one for another payer."""
    people = {code for code in (found["debtor_id"], found["payer_id"]) if code and code != "ANONIMO"}
    if found["anonymised_at"]:
        people = set()
    key = {name: found[name] for name in ("id_pa", "receipt_id")}
    with g.scope.writing() as connection:
        write_down(connection, action, *(key | {"subject": code} for code in sorted(people) or [None]))


def _file(content: bytes, content_type: str, name: str, *, is_download: bool = True) -> Response:
    disposition = f"{'attachment' if is_download else 'inline'}; filename={name}"
    return Response(content, headers={"Content-Type": content_type, "Content-Disposition": disposition})


def _name(found: dict[str, Any], ending: str) -> str:
    """Return a file's name, in ASCII; the IUV is the receipt's for clerks and citizens."""
    return f"ricevuta-{re.sub('[^A-Za-z0-9_-]', '-', found['iuv'])}.{ending}"
