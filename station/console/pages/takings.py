"""Incassi: totals by account, and the receipts that each is made of."""

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, g, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station.console.books import Books, account_of, keep_books
from station.console.csv_file import csv_file
from station.console.day_range import DayRange, month_of, read_days, today
from station.console.ec_choice import ec_options, read_ec, settings
from station.console.scope import timed_out
from station.errors import StoreError
from station.store import takings as sums
from station.store.paging import Cursor
from station.store.takings import TakingsKind, TakingsRange

pages = Blueprint("takings", __name__)

_ROWS = 25
_LINES = 25  # of a table
_BY = {"pagamento": "payment_date_time", "arrivo": "received_at"}
_KINDS = {"incassi": TakingsKind.OWN, "altri": TakingsKind.OTHER, "marche": TakingsKind.STAMP,
          "ko": TakingsKind.FAILED}  # fmt: skip
_TEXT_MAX = 200
_TOO_LONG = "Il conteggio richiede troppo tempo: scegli meno giorni, oppure un solo ente."
_TOO_MANY = "Ci sono troppe righe diverse: scegli meno giorni, oppure un solo ente."
# Of each table in CSV: its columns with their titles.
_CSV = {
    "conti": {"id_pa": "Ente (codice fiscale)", "code": "Conto", "account": "Conto: denominazione"},
    "righe": {
        "id_pa": "Ente (codice fiscale)", "code": "Conto", "account": "Conto: denominazione",
        "category": "Tassonomia", "iban": "IBAN",
    },
    "enti": {"id_pa": "Ente (codice fiscale)"},
    "altri": {
        "id_pa": "Ente della ricevuta (codice fiscale)", "owner": "Beneficiario (codice fiscale)",
        "name": "Beneficiario", "again_number": "Di cui tra gli incassi del beneficiario: versamenti",
        "again_amount": "Di cui tra gli incassi del beneficiario (euro)",
    },
    "marche": {"id_pa": "Ente (codice fiscale)", "category": "Tassonomia"},
    "ko": {"id_pa": "Ente (codice fiscale)"},
}  # fmt: skip
_DAYS_OF_CSV = {"first": "Dal", "last": "Al"}
_SUMS_OF_CSV = {"number": "Versamenti", "amount": "Importo (euro)"}
_TABLES = {"conti": "accounts", "righe": "lines", "enti": "ecs", "altri": "others", "marche": "stamps", "ko": "failed"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the address asks for: days, by which date, of which EC (`None`: all that the user may see)."""

    days: DayRange | None
    by: str
    ec: str | None
    wrong: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The fields that ask for the same again."""
        days = self.days.query if self.days else {}
        return {**days, "per": self.by, **({"ente": self.ec} if self.ec else {})}

    @property
    def range(self) -> TakingsRange:
        """The receipts."""
        assert self.days is not None  # noqa: S101  # the caller looked
        id_pas = (self.ec,) if self.ec else g.scope.ecs
        return TakingsRange(id_pas, _BY[self.by], self.days.start, self.days.end)


def _asked() -> _Asked:
    """Read the address; 404 for a foreign EC."""
    yesterday = today() - timedelta(days=1)
    days, wrong = read_days(request.args, DayRange(yesterday, yesterday))
    by = request.args.get("per", "pagamento")
    if by not in _BY:
        abort(400)
    return _Asked(days, by, read_ec(), wrong)


def _books(asked: _Asked) -> tuple[Books, int] | str:
    """Return the tables and the number of receipts without a date, or why there are none."""
    try:
        with g.scope.reading() as connection:
            groups = sums.add_up(connection, asked.range, g.scope.ecs)
            undated = sums.count_undated(connection, asked.range) if asked.by == "pagamento" else 0
    except StoreError as error:
        if not timed_out(error):
            raise
        return _TOO_LONG
    if len(groups) > sums.GROUPS_MAX:
        return _TOO_MANY
    books = keep_books(groups, settings().account)
    for row in books.others:
        own = settings().ecs.get(row["owner"]) if g.scope.has(row["owner"]) else None
        row["name"] = (own and own.name) or row["name"]
    return books, undated


@pages.get("/incassi")
def takings() -> ResponseReturnValue:
    """Show the totals of some days."""
    asked = _asked()
    page = request.args.get("pagina", "1")
    if not re.fullmatch(r"[0-9]{1,4}", page) or (first := (int(page) - 1) * _LINES) < 0:
        abort(400)
    found = _books(asked) if asked.days else ""
    books, undated = (None, 0) if isinstance(found, str) else found
    told: dict[str, Any] = {
        "asked": asked, "several": asked.ec is None, "trouble": found if isinstance(found, str) else "",
        "periods": _periods(), "books": books, "undated": undated, "options": ec_options(asked.ec),
        "rows_max": _LINES,
        "with_accounts": bool(settings().account),
        "behind": lambda **of: url_for("takings.behind") + "?" + urlencode(asked.query | of),
        "csv": lambda table: url_for("takings.csv_table") + "?" + urlencode(asked.query | {"tabella": table}),
    }  # fmt: skip
    if asked.days is not None:
        told |= {"before": _other(asked, -1), "next": _other(asked, 1)}
    if books is not None:
        told |= {"lines": books.lines[first : first + _LINES], "first": first, "page": int(page),
                 "more": len(books.lines) > first + _LINES}  # fmt: skip
    status = 400 if asked.wrong else 503 if found == _TOO_LONG else 200
    return render_template("takings.html", **told), status


def _other(asked: _Asked, by: int) -> str | None:
    """Return the address of the days before or after; `None` where these have not begun yet."""
    moved = asked.days.moved(by) if asked.days else None
    if moved is None or moved.first > today():
        return None
    return url_for("takings.takings") + "?" + urlencode(asked.query | moved.query)


def _periods() -> list[tuple[str, DayRange]]:
    now: date = today()
    yesterday, month = now - timedelta(days=1), month_of(now)
    last_month = month_of(month.first - timedelta(days=1))
    return [("Ieri", DayRange(yesterday, yesterday)), ("Oggi", DayRange(now, now)), ("Questo mese", month),
            ("Mese scorso", last_month), ("Quest'anno", DayRange(now.replace(month=1, day=1), now))]  # fmt: skip


@pages.get("/incassi.csv")
def csv_table() -> ResponseReturnValue:
    """Send one of the tables."""
    asked = _asked()
    table = request.args.get("tabella", "righe")
    if asked.days is None or table not in _CSV:
        abort(400)
    found = _books(asked)
    if isinstance(found, str):
        return render_template("takings.html", asked=asked, several=asked.ec is None, trouble=found, books=None,
                               periods=_periods(), options=ec_options(asked.ec)), 503  # fmt: skip
    days = {"first": asked.days.first, "last": asked.days.last}
    titles = _DAYS_OF_CSV | _CSV[table] | _SUMS_OF_CSV
    rows = (
        days | row | ({"code": row["code"] or "senza conto"} if "code" in row else {})
        for row in getattr(found[0], _TABLES[table])
    )
    return csv_file(f"incassi-{table}-{asked.days.first}-{asked.days.last}-{asked.by}", titles, rows)


@pages.get("/incassi/ricevute")
def behind() -> ResponseReturnValue:
    """List the receipts that a line is made of."""
    asked = _asked()
    given = {name: request.args.get(name) for name in ("tassonomia", "iban", "beneficiario")}
    kind = request.args.get("tipo", "incassi")
    texts = [value for value in given.values() if value is not None]
    if asked.days is None or kind not in _KINDS or any("\0" in one or len(one) > _TEXT_MAX for one in texts):
        abort(400)
    chosen, after = asked.range, None
    if word := request.args.get("dopo"):
        try:
            after = Cursor.decode(word, (chosen.by,), str)
        except ValueError:
            abort(400)
    try:
        with g.scope.reading() as connection:
            rows = sums.receipts_behind(
                connection, chosen, kind=_KINDS[kind], owner=given["beneficiario"], category=given["tassonomia"],
                iban=given["iban"], after=after, limit=_ROWS + 1,
            )  # fmt: skip
    except StoreError as error:
        if not timed_out(error):
            raise
        return render_template("takings_receipts.html", asked=asked, trouble=_TOO_LONG, rows=[], given=given), 503
    more = None
    if len(rows) > _ROWS:
        rows = rows[:_ROWS]
        following = Cursor.of(chosen.by, rows[-1]).encode()
        more = f"{request.path}?{urlencode({**request.args.to_dict(), 'dopo': following})}"
    account = None
    if kind == "incassi" and asked.ec and given["tassonomia"] is not None:
        account = account_of(settings().account, asked.ec, given["tassonomia"], given["iban"])
    return render_template(
        "takings_receipts.html", asked=asked, trouble="", rows=rows, given=given, kind=kind, more=more,
        account=account, back=url_for("takings.takings") + "?" + urlencode(asked.query),
    )  # fmt: skip
