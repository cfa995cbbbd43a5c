"""Cerca: one box for whatever a clerk has in hand. How a question is read and kept stands in `searches`."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from flask import (
    Blueprint,
    Response,
    abort,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue

from station import columns, export, store
from station.console import question, searches, words
from station.console.access import who_asks, write_down
from station.console.ec_choice import ec_options, settings
from station.console.flags import SIGNS
from station.console.missing import number_missing
from station.console.scope import Scope, timed_out
from station.console.searches import Question
from station.console.slots import Slots
from station.errors import StoreError
from station.export.italian import wall_time
from station.store import gauges, queries
from station.store import search as planner
from station.store.conditions import ORDERS, Filter
from station.store.paging import Cursor

pages = Blueprint("search", __name__)

PAGE = 25
CSV_LINES_MAX = 100_000
# A request that sends a file has given its slot for the database back: so many files at a time have to do with the
# connection that is left; one of a user, who may read it slowly.
EXPORTS_MAX = 2
_LISTED = (*queries.LISTED, "description")
_exports = Slots(EXPORTS_MAX)


@dataclass
class Found:
    """What a reading of a question found: a page of it. `total` is number and euro, where it costs little."""

    reading: question.QuestionReading
    filter: Filter
    rows: list[dict[str, Any]]
    next: str | None
    total: tuple[int, Decimal] | None


@pages.get("/")
def search() -> ResponseReturnValue:
    """Show what was asked for; where nothing was, what came last."""
    values = _values()
    if values is None:
        return _page(Question.of({}, _ecs()), lost=True), 404
    asked = Question.of(values, _ecs())
    if asked.errors:
        return _page(asked), 400
    if "id_pa" in asked.fields:
        g.scope.require(asked.fields["id_pa"])
    if asked.is_personal and "ricerca" not in request.args:
        return _page(asked, confirm=True)
    if asked.is_empty:
        return _start(asked)
    if asked.readings[0].kind == question.LINE:
        return redirect(url_for("credited.flows", riga=asked.values["q"]))
    try:
        return _answer(asked)
    except StoreError as error:
        if timed_out(error):
            asked.errors["q"] = "La ricerca richiede troppo tempo: scegli meno giorni, o un ente."
            return _page(asked), 400
        raise


@pages.post("/")
def ask() -> ResponseReturnValue:
    """Take the form, and send the browser to an address that names no person."""
    asked = Question.of(request.form, _ecs())
    if asked.errors:
        return _page(asked), 400
    if asked.is_personal:
        return redirect(url_for("search.search", ricerca=searches.keep(session, asked.values)), 303)
    return redirect(_address("search.search", asked.values), 303)


def _address(endpoint: str, query: dict[str, str]) -> str:
    given = urlencode({name: value for name, value in query.items() if value})
    return f"{url_for(endpoint)}?{given}" if given else url_for(endpoint)


def _ecs() -> dict[str, str]:
    """Return the names of the ECs that the user sees, by fiscal code."""
    return {id_pa: ec.name for id_pa, ec in settings().ecs.items() if g.scope.has(id_pa)}


def _values() -> dict[str, str] | None:
    """Return what the address asks for; `None` where it names a search that is kept no more."""
    if (key := request.args.get("ricerca")) is not None:
        return searches.kept(session, key)
    return request.args.to_dict()


def _page(asked: Question, **more: Any) -> str:
    return render_template(
        "search.html",
        asked=asked,
        kinds=question.KINDS,
        signs=SIGNS,
        flag_options=[(flag, sign.title) for flag, sign in SIGNS.items()],
        ecs=ec_options(ec if (ec := asked.values.get("ente")) and g.scope.has(ec) else None),
        **more,
    )


def _start(asked: Question) -> str:
    """Show the receipts that came last, and what needs attention."""
    ecs = g.scope.ecs
    with g.scope.reading() as connection:
        wanted = Filter(id_pas=ecs)
        rows = _with_flags(connection, _rows(connection, planner.plan(connection, wanted), None, PAGE))
        refused = sum(gauges.open_by_fault(connection, ecs).values())
        missing = number_missing(connection, ecs)
    _write_down([], _by_ec(rows))
    return _page(asked, latest=rows, refused=refused, missing=missing)


# --- what is found ----------------------------------------------------------------------------------------------------


def _answer(asked: Question) -> ResponseReturnValue:
    """Try the readings of a question in their order, until one finds something."""
    chosen = _chosen(asked)
    tried: list[Found] = []
    with g.scope.reading() as connection:
        for reading in chosen:
            wanted = asked.filter(reading, g.scope.ecs, datetime.now(UTC))
            if wanted is None:
                if not tried:
                    asked.errors["da"] = f"Per cercare un nome scegli al massimo {searches.NAME_DAYS} giorni."
                    return _page(asked), 400
                continue
            tried.append(_found(connection, reading, wanted))
            if tried[-1].rows:
                break
    found = tried[-1]
    searched = [row for one in tried if one.reading.is_personal for row in _looked_up(one)]
    _write_down(searched, [] if found.reading.is_personal else _by_ec(found.rows))
    return _page(
        asked,
        found=found,
        tried=[one.reading.kind for one in tried],
        others=[one.kind for one in asked.readings if one.kind not in [other.reading.kind for other in tried]],
        name_days=searches.NAME_DAYS if found.reading.kind == question.NAME and not _has_days(found.filter) else None,
        csv=_address("search.csv", request.args.to_dict() | {"come": found.reading.kind, "dopo": ""}),
        csv_max=CSV_LINES_MAX,
    )


def _has_days(wanted: Filter) -> bool:
    return bool(wanted.paid_from or wanted.paid_to)


def _chosen(asked: Question) -> list[question.QuestionReading]:
    """Return the readings to try: all, or the one that the address names."""
    if not (kind := request.args.get("come")):
        return asked.readings
    return [reading for reading in asked.readings if reading.kind == kind] or abort(400)


def _found(connection: store.Connection, reading: question.QuestionReading, wanted: Filter) -> Found:
    after = _cursor(wanted.order)
    rows = _rows(connection, planner.plan(connection, wanted), after, PAGE + 1)
    more, rows = len(rows) > PAGE, rows[:PAGE]
    total = None
    if after is None:
        total = queries.total(connection, wanted) if more else (len(rows), sum((row.amount for row in rows), Decimal()))
    place = Cursor.of(wanted.order, rows[-1]).encode() if more else None
    return Found(reading, wanted, _with_flags(connection, rows), place, total)


def _cursor(order: str) -> Cursor | None:
    if (word := request.args.get("dopo")) is None:
        return None
    try:
        cursor = Cursor.decode(word, ORDERS, str)
    except ValueError:
        abort(400)
    return cursor if cursor.order == order else abort(400)


def _rows(connection: store.Connection, planned: planner.Plan, after: Cursor | None, limit: int) -> list[Any]:
    return list(queries.page(connection, planned, _LISTED, after=after, limit=limit))


def _with_flags(connection: store.Connection, rows: list[Any]) -> list[dict[str, Any]]:
    flags = queries.flags_of(connection, [(row.id_pa, row.receipt_id) for row in rows])
    return [row._asdict() | {"flags": flags.get((row.id_pa, row.receipt_id), [])} for row in rows]


def _looked_up(found: Found) -> list[dict[str, Any]]:
    """Return what to write down of a search for a person: a row for each EC that is shown, or one without an EC."""
    subject = found.filter.person_id or (found.filter.name or "")[:100]
    return [row | {"subject": subject} for row in _by_ec(found.rows) or [{"found": 0}]]


def _by_ec(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the number of rows by EC, as it is written down."""
    return [{"id_pa": id_pa, "found": number} for id_pa, number in Counter(row["id_pa"] for row in rows).items()]


def _write_down(searched: list[dict[str, Any]], listed: list[dict[str, Any]]) -> None:
    """Write down searches for a person, and lists that show debtors although none was looked for."""
    if searched or listed:
        with g.scope.writing() as connection:
            write_down(connection, "search", *searched)
            write_down(connection, "list", *listed)


# --- CSV --------------------------------------------------------------------------------------------------------------


@pages.get("/cerca.csv")
def csv() -> ResponseReturnValue:
    """Send a line for each transfer of what was found, in the Italian form, as it is read."""
    values = _values()
    asked = Question.of(values or {}, _ecs())
    if asked.is_empty or asked.errors or (asked.is_personal and "ricerca" not in request.args):
        abort(404 if values is None else 400)
    if "id_pa" in asked.fields:
        g.scope.require(asked.fields["id_pa"])
    reading = _chosen(asked)[0]
    if reading.kind == question.LINE:
        abort(400)
    wanted = asked.filter(reading, g.scope.ecs, datetime.now(UTC)) or abort(400)
    lines = _lines(g.scope, who_asks(), wanted)
    stream = _joined(next(lines), lines)  # what fails at once becomes a page
    name = f"ricevute-{wall_time(datetime.now(UTC)):%Y-%m-%d-%H%M}.csv"
    headers = {"Content-Disposition": f"attachment; filename={name}"}
    return Response(stream, content_type="text/csv; charset=utf-8", headers=headers)


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _lines(scope: Scope, by: dict[str, Any], wanted: Filter) -> Iterator[bytes]:
    """Yield the parts of the file. Each page is written down before it is sent, and holds nothing back meanwhile."""
    if not _exports.take(by["username"], 0):
        abort(503)
    try:
        yield from _pages_of(scope, by, wanted)
    finally:
        _exports.give_back(by["username"])


def _pages_of(scope: Scope, by: dict[str, Any], wanted: Filter) -> Iterator[bytes]:
    sink = io.BytesIO()
    titles = [*map(columns.title, columns.TRANSFER_ROW)]
    writer = export.CsvWriter(sink, columns.TRANSFER_ROW, titles=titles, italian=True)
    with scope.reading() as connection:
        planned = planner.plan(connection, wanted)
    subject = {"subject": wanted.person_id or wanted.name}
    after: Cursor | None = None
    count, is_cut = 0, False
    while True:
        with scope.reading() as connection:
            rows = queries.page(connection, planned, queries.EXPORTED, after=after, limit=export.BATCH)
            receipts = queries.with_children(connection, rows)
        lines = export.transfers_of(receipts)
        is_cut = count + len(lines) > CSV_LINES_MAX
        lines = lines[: CSV_LINES_MAX - count]
        count += len(lines)
        if lines or not count:
            told = _by_ec(lines) or [{"found": 0}]
            with scope.writing() as connection:
                write_down(connection, "csv", *(row | subject for row in told), by=by)
        writer.write(lines)
        if is_cut or len(rows) < export.BATCH:
            break
        after = Cursor.of(wanted.order, rows[-1])
        yield sink.getvalue()
        sink.seek(0)
        sink.truncate()
    if is_cut:
        blank = dict.fromkeys(columns.TRANSFER_ROW)
        writer.write([blank | {"id_pa": f"ELENCO INTERROTTO dopo {words.number(count)} righe", "flags": []}])
    writer.close()
    yield sink.getvalue()
