"""Accrediti: what pagoPA credited, what a bank line is made of, and what is missing."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station import store
from station.console import flow_words
from station.console.access import write_down
from station.console.csv_file import csv_file
from station.console.day_range import read_days
from station.console.ec_choice import ec_options, read_ec, require_ec
from station.console.pages import credited_lists
from station.flow_columns import FLOWS, ITALIAN, PAYMENTS, RECEIPT_IN_ITALIAN, payment_row
from station.reconcile.bank_line import bank_line
from station.store import credited, flow_pages
from station.store.paging import RowPlace

pages = Blueprint("credited", __name__)
pages.add_url_rule("/accrediti/mancanti", "missing", credited_lists.missing)
pages.add_url_rule("/accrediti/mancanti.csv", "missing_csv", credited_lists.missing_csv)
pages.add_url_rule("/accrediti/non-accreditati", "uncredited", credited_lists.uncredited)
pages.add_url_rule("/accrediti/non-accreditati.csv", "uncredited_csv", credited_lists.uncredited_csv)
pages.add_url_rule("/accrediti/saldi", "balances", credited_lists.balances)
pages.add_url_rule("/accrediti/saldi.csv", "balances_csv", credited_lists.balances_csv)
pages.add_url_rule("/accrediti/<id_pa>/buco", "acknowledge", credited_lists.acknowledge, methods=["POST"])

_ROWS = 25
_CSV_FLOWS_MAX = 5000
_CSV_PAYMENTS_MAX = 100_000
_BATCH = 1000
_LINE_MAX = 1000
_NAME_MIN = len("2026-11-10")
_NAMED = 20  # flows to choose from
_ID_MAX = 35
_KINDS = (datetime, str, str, str, int)  # of a place in the list of flows


@pages.get("/accrediti")
def flows() -> ResponseReturnValue:
    """List flows, and take the box: a bank line, the name of a flow, a TRN or an IUV."""
    line = request.args.get("riga", "").strip()
    if line:
        return _of_line(line)
    ec = read_ec()
    days, wrong = read_days(request.args, None)
    psp = request.args.get("psp", "").strip()
    if "\0" in psp or len(psp) > _ID_MAX * 2:
        wrong["psp"] = "Scrivi l'identificativo del PSP o una parte del nome."
    after = _place(request.args.get("dopo"))
    chosen: dict[str, Any] = {"psp": psp or None, "only_problems": request.args.get("mostra") == "problemi"}
    if days is not None:
        chosen |= {"published_from": days.start, "published_to": days.end}
    ecs = (ec,) if ec else g.scope.ecs
    found: list[dict[str, Any]] = []
    more = walked = None
    if not wrong:
        with g.scope.reading() as connection:
            if after is None and days is None:
                found = flow_pages.page_of_flows(connection, ecs, **chosen, dated=False, limit=_ROWS)
            dated = flow_pages.page_of_flows(connection, ecs, **chosen, after=after, limit=_ROWS + 1)
            walked = credited_lists.last_walk(connection, ec)
        if len(dated) > _ROWS:
            dated = dated[:_ROWS]
            more = RowPlace(tuple(dated[-1][name] for name in flow_pages.ORDER)).encode()
        found += dated
    csv = url_for("credited.flows_csv") + "?" + urlencode(request.args.to_dict())
    return render_template(
        "credited/flows.html", found=found, days=days, wrong=wrong, psp=psp, ec=ec, options=ec_options(ec),
        only_problems=chosen["only_problems"], problems=flow_words.problems, csv=csv, address=_address, more=more,
        walked=walked,
    ), 400 if wrong else 200  # fmt: skip


@pages.get("/accrediti/flussi.csv")
def flows_csv() -> ResponseReturnValue:
    """Send the list of flows."""
    ec = read_ec()
    days, wrong = read_days(request.args, None)
    psp = request.args.get("psp", "").strip()
    if wrong or "\0" in psp or len(psp) > _ID_MAX * 2:
        abort(400)
    with g.scope.reading() as connection:
        found = flow_pages.page_of_flows(
            connection, (ec,) if ec else g.scope.ecs, psp=psp or None,
            published_from=days.start if days else None, published_to=days.end if days else None,
            only_problems=request.args.get("mostra") == "problemi", limit=_CSV_FLOWS_MAX,
        )  # fmt: skip
    rows = ({**flow, "payments": flow["tot_payments"]} for flow in found)
    return csv_file("flussi", {name: ITALIAN[name] for name in FLOWS}, rows)


def _place(word: str | None) -> RowPlace | None:
    try:
        return RowPlace.decode(word, *_KINDS) if word else None
    except ValueError:
        abort(400)


def _address(flow: Any, revision: int | None = None, endpoint: str = "credited.flow") -> str:
    """Return the address of a flow's page. Its name and PSP may hold any characters."""
    row = flow if isinstance(flow, dict) else flow._asdict()
    fields = {"nome": row["fdr"], "psp": row["psp_id"]} | ({"revisione": revision} if revision is not None else {})
    return url_for(endpoint, id_pa=row["id_pa"]) + "?" + urlencode(fields)


# --- the box ----------------------------------------------------------------------------------------------------------


def _of_line(line: str) -> ResponseReturnValue:
    """Go to the flow that a line of the bank statement names, or show what it may mean."""
    if len(line) > _LINE_MAX or "\0" in line:
        wrong = "La riga è troppo lunga o non è testo."
        return render_template("credited/line.html", line="", wrong=wrong), 400
    told: dict[str, Any] = {"flows": [], "payments": [], "name": "", "iuv": ""}
    with g.scope.reading() as connection:
        try:
            readings = bank_line(line)
        except ValueError:
            word = "".join(line.split())
            told["flows"] = flow_pages.flows_with_trn(connection, word, g.scope.ecs, limit=_NAMED + 1)
            if not told["flows"] and re.fullmatch(r"[0-9A-Za-z]{1,35}", word):
                readings = [(None, word.upper())]
            else:
                readings = [(word, None)]
        for name, iuv in readings:
            if told["flows"] or told["payments"]:
                break
            if name is not None:
                told["name"] = told["name"] or name
                if len(name) >= _NAME_MIN:
                    told["flows"] = credited.flows_named(connection, name, g.scope.ecs, limit=_NAMED + 1)
                    told["flows"] = told["flows"] or flow_pages.unread_named(
                        connection, name, g.scope.ecs, limit=_NAMED + 1
                    )
            elif iuv is not None:
                told["iuv"] = told["iuv"] or iuv
                told["payments"] = credited.paid_with_iuv(connection, iuv, g.scope.ecs, limit=_NAMED)
        walked = credited_lists.last_walk(connection, None)
    if len(told["flows"]) == 1:
        return redirect(_address(told["flows"][0]), 303)
    told["many"] = len(told["flows"]) > _NAMED
    told["flows"] = told["flows"][:_NAMED]
    return render_template("credited/line.html", line=line, walked=walked, address=_address, **told)


# --- one flow ---------------------------------------------------------------------------------------------------------


def _flow(connection: store.Connection, id_pa: str) -> Any:
    """Return the flow of the address; 404 where there is none."""
    fields = {name: request.args.get(name, "") for name in ("nome", "psp", "revisione")}
    if any("\0" in value or len(value) > _ID_MAX for value in fields.values()):
        abort(400)
    revision = fields["revisione"]
    if revision and not re.fullmatch(r"[0-9]{1,9}", revision):
        abort(400)
    found = flow_pages.find_flow(connection, id_pa, fields["nome"], fields["psp"], int(revision) if revision else None)
    if found is None:
        abort(404)
    return found


@pages.get("/accrediti/<id_pa>/flusso")
def flow(id_pa: str) -> ResponseReturnValue:
    """Show what a bank line is made of."""
    require_ec(id_pa)
    after = request.args.get("dopo", "")
    if after and not re.fullmatch(r"[0-9]{1,9}", after):
        abort(400)
    with g.scope.reading() as connection:
        found = _flow(connection, id_pa)
        sums = flow_pages.sums_of_flow(connection, found)
        payments = credited.payments_of(
            connection, found, g.scope.ecs, after=int(after) if after else -1, limit=_ROWS + 1
        )
        revisions = flow_pages.revisions_of(connection, found)
    more = None
    if len(payments) > _ROWS:
        payments = payments[:_ROWS]
        query = urlencode({**request.args.to_dict(), "dopo": payments[-1].position})
        more = f"{request.path}?{query}"
    rows = [payment_row(row) | {"status": flow_words.status(row.pay_status)} for row in payments]
    return render_template(
        "credited/flow.html", flow=found, sums=sums, rows=rows, more=more, is_first=not after,
        revisions=revisions, receipts=flow_words.RECEIPTS, statuses=flow_words.STATUSES,
        disagreements=flow_words.disagreements(found._asdict()), address=_address,
        is_trimmed=sums.number > _CSV_PAYMENTS_MAX,
    )  # fmt: skip


@pages.get("/accrediti/<id_pa>/flusso.csv")
def flow_csv(id_pa: str) -> ResponseReturnValue:
    """Send the payments of a flow with who paid: a look-up of persons, which is written down."""
    require_ec(id_pa)
    shown: Counter[str] = Counter()
    name = re.sub(r"[^0-9A-Za-z._-]", "_", f"flusso-{request.args.get('nome', '')}")
    answer = csv_file(name, {name: ITALIAN[name] for name in PAYMENTS}, _payments(id_pa, shown))
    if shown:
        with g.scope.writing() as connection:
            write_down(connection, "csv", *({"id_pa": ec, "found": number} for ec, number in shown.items()))
    return answer


def _payments(id_pa: str, shown: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the flow's file, and count those with a receipt by its EC."""
    after = -1
    for _ in range(_CSV_PAYMENTS_MAX // _BATCH):
        with g.scope.reading() as connection:
            batch = credited.payments_of(connection, _flow(connection, id_pa), g.scope.ecs, after=after, limit=_BATCH)
        for row in map(payment_row, batch):
            if row["receipt_id"] is not None:
                shown[row["receipt_id_pa"]] += 1
            yield row | {"receipt": RECEIPT_IN_ITALIAN[row["receipt"]]}
        if len(batch) < _BATCH:
            return
        after = batch[-1].position
