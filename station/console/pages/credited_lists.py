"""Accrediti: payments without a receipt, receipts without a credit, and balances. `credited` has the addresses."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from flask import abort, flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station import store
from station.console import flow_words
from station.console.access import operator, write_down
from station.console.csv_file import csv_file
from station.console.ec_choice import ec_options, read_ec, require_ec, settings
from station.console.scope import OPERATOR
from station.flow_columns import ITALIAN, MISSING, STATUS_NAMES, UNCREDITED
from station.reconcile import acknowledge as acknowledge_gap
from station.store import credited
from station.store import flows as progress
from station.store.paging import RowPlace

_ROWS = 25
_ECS = 10  # of a page of balances
_CSV_MAX = 10_000
_BALANCE = {
    "credited": "Accreditato (euro)", "with_receipt": "Con ricevuta (euro)", "missing": "Senza ricevuta (euro)",
    "not_expected": "Senza ricevuta, non prevista (euro)", "not_yet": "Non ancora accreditato (euro)",
    "uncredited": "Non accreditato oltre i termini (euro)", "payments_missing": "Pagamenti senza ricevuta",
    "transfers_uncredited": "Versamenti non accreditati oltre i termini",
}  # fmt: skip


def last_walk(connection: store.Connection, ec: str | None) -> datetime | None:
    """Return when the flows of an EC, or of any that the user sees, were last read completely."""
    marks = progress.all_progress(connection)
    mine = [row.walked_at for id_pa, row in marks.items() if g.scope.has(id_pa) and ec in (None, id_pa)]
    return max(filter(None, mine), default=None)


def _place(*kinds: type) -> RowPlace | None:
    try:
        return RowPlace.decode(request.args["dopo"], *kinds) if request.args.get("dopo") else None
    except ValueError:
        abort(400)


def _more(place: RowPlace) -> str:
    return f"{request.path}?{urlencode({**request.args.to_dict(), 'dopo': place.encode()})}"


# --- missing ----------------------------------------------------------------------------------------------------------


def missing() -> ResponseReturnValue:
    """List payments that were credited and have no receipt."""
    ec = read_ec()
    ecs = (ec,) if ec else g.scope.ecs
    after = _place(datetime, str, str, str, int, int)
    with g.scope.reading() as connection:
        rows = credited.missing_payments(connection, ecs, after=after, limit=_ROWS + 1)
        totals = credited.missing_totals(connection, ecs)
        walked = last_walk(connection, ec)
    more = None
    if len(rows) > _ROWS:
        rows = rows[:_ROWS]
        names = ("since", "id_pa", "fdr", "psp_id", "revision", "position")
        more = _more(RowPlace(tuple(getattr(rows[-1], name) for name in names)))
    number = sum(total.number for total in totals)
    amount = sum((total.amount for total in totals), Decimal("0.00"))
    return render_template(
        "credited/missing.html", rows=rows, ec=ec, options=ec_options(ec), number=number, amount=amount, more=more,
        status=flow_words.status, requests=flow_words.REQUESTS, walked=walked, csv_max=_CSV_MAX,
    )  # fmt: skip


def missing_csv() -> ResponseReturnValue:
    """Send the list, for a ticket to pagoPA. It names no person."""
    ec = read_ec()
    with g.scope.reading() as connection:
        found = credited.missing_payments(connection, (ec,) if ec else g.scope.ecs, limit=_CSV_MAX)
    rows = (row._asdict() | {"pay_status": STATUS_NAMES.get(row.pay_status)} for row in found)
    return csv_file("accreditati-senza-ricevuta", {name: ITALIAN[name] for name in MISSING}, rows)


# --- not credited -----------------------------------------------------------------------------------------------------


def _ecs() -> list[str]:
    """Return the ECs whose flows are, or were, walked, as far as the user sees them."""
    with g.scope.reading() as connection:
        marks = progress.all_progress(connection)
    configured = (ec.id for ec in settings().ec if ec.fdr)
    return sorted(id_pa for id_pa in {*configured, *marks} if g.scope.has(id_pa))


def uncredited() -> ResponseReturnValue:
    """List transfers that receipts tell of, that are due, and that no flow has: of one EC."""
    ec = read_ec()
    after = _place(datetime, str, int)
    if ec is None:
        ecs = _ecs()
        if len(ecs) != 1:
            return render_template("credited/uncredited.html", ec=None, rows=[], ecs=ecs[:200], many=len(ecs) > 200,
                                   options=ec_options(None))  # fmt: skip
        (ec,) = ecs
    days = settings().fdr.due_days
    rows: list[Any] = []
    sums = None
    with g.scope.reading() as connection:
        due = credited.due_before(connection, ec, days)
        if due is not None:
            rows = credited.uncredited(connection, ec, paid_to=due, after=after, limit=_ROWS + 1)
            sums = credited.balance(connection, ec, paid_to=due)
        walked = last_walk(connection, ec)
    more = None
    if len(rows) > _ROWS:
        rows = rows[:_ROWS]
        more = _more(RowPlace((rows[-1].paid_at, rows[-1].receipt_id, rows[-1].position)))
    return render_template(
        "credited/uncredited.html", ec=ec, rows=rows, due=due, days=days, sums=sums, more=more, walked=walked,
        options=ec_options(ec), ecs=[], csv_max=_CSV_MAX,
    )  # fmt: skip


def uncredited_csv() -> ResponseReturnValue:
    """Send the list with who paid: a look-up of persons, which is written down."""
    ec = read_ec()
    if ec is None:
        abort(400)
    found: list[Any] = []
    with g.scope.reading() as connection:
        if (due := credited.due_before(connection, ec, settings().fdr.due_days)) is not None:
            found = credited.uncredited(connection, ec, paid_to=due, limit=_CSV_MAX)
    if found:
        with g.scope.writing() as connection:
            write_down(connection, "csv", {"id_pa": ec, "found": len(found)})
    titles = {name: ITALIAN[name] for name in UNCREDITED}
    return csv_file(f"non-accreditati-{ec}", titles, (row._asdict() for row in found))


# --- balances ---------------------------------------------------------------------------------------------------------


def _balances(ecs: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the state and the euro of these ECs, as `station fdr --status` shows them."""
    now, asked = datetime.now(UTC), settings()
    with g.scope.reading() as connection:
        marks, unread = progress.all_progress(connection), progress.count_unread(connection)
        for id_pa in ecs:
            mark = marks.get(id_pa)
            walked_at = mark.walked_at if mark else None
            due = credited.due_before(connection, id_pa, asked.fdr.due_days)
            gap = mark is not None and mark.gap_from is not None and mark.gap_acknowledged_at is None
            yield {
                "id_pa": id_pa, "walked_at": walked_at, "due": due, "gap": mark if gap else None,
                "late": walked_at is None or now - walked_at > timedelta(hours=asked.fdr.late_hours),
                "unread": unread.get(id_pa, 0),
                "balance": credited.balance(connection, id_pa, paid_to=due),
            }  # fmt: skip


def balances() -> ResponseReturnValue:
    """Show each EC's euro: credited, with and without receipts, not credited."""
    ec = read_ec()
    after = request.args.get("dopo", "")
    ecs = [ec] if ec else [one for one in _ecs() if one > after]
    rows = list(_balances(ecs[:_ECS]))
    more = f"{request.path}?{urlencode({'dopo': ecs[_ECS - 1]})}" if len(ecs) > _ECS else None
    return render_template(
        "credited/balances.html", rows=rows, ec=ec, options=ec_options(ec), more=more, days=settings().fdr.due_days,
        OPERATOR=OPERATOR,
    )  # fmt: skip


def balances_csv() -> ResponseReturnValue:
    """Send the balances."""
    ec = read_ec()
    rows = (
        {"id_pa": row["id_pa"], "walked_at": row["walked_at"],
         **{name: getattr(row["balance"], name) for name in _BALANCE}}
        for row in _balances([ec] if ec else _ecs()[:_CSV_MAX])
    )  # fmt: skip
    titles = {"id_pa": ITALIAN["id_pa"], "walked_at": "Flussi letti il (ora italiana)", **_BALANCE}
    return csv_file("saldi", titles, rows)


def acknowledge(id_pa: str) -> ResponseReturnValue:
    """Note that an operator knows of a time whose flows were never listed."""
    require_ec(id_pa, OPERATOR)
    if settings().ec and id_pa not in settings().ecs:
        abort(404)
    with g.scope.engine(OPERATOR) as engine:
        gaps = acknowledge_gap(settings(), engine, [id_pa], operator())
    if gaps:
        flash("Hai preso atto del periodo senza flussi.", "success")
    else:
        flash("Non c'è alcun periodo di cui prendere atto.", "danger")
    return redirect(url_for("credited.balances", ente=id_pa), 303)
