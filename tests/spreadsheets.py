"""What the tests of spreadsheets share: receipts full of traps, and a reader of the cells of an Excel workbook."""

import re
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from build import a_request, an_envelope
from lxml import etree
from refusals import Door
from sqlalchemy import update

from station import store
from station.store import tables

# What spreadsheets make something else of, take for their own, or cannot hold.
TRAPS = [
    "01000000000000017", "301000000000000017", "1234E5", "12345678901234567890123456789e12", "007", "1/2", "5 marzo",
    "gen 26", "28/11/2026", "2026-11-28", "10:30", "50%", "5 €", "(5)", "-5", "+39 333 1234567", "1.234,50", "VERO",
    "falso", "#N/D", "#DIV/0!", " 0012 ", "\u00a0123", "=1+1", '=HYPERLINK("http://example.invalid";"x")', "@SUM(1)",
    " =1+1", "\u3000=1+1", "-2+3+cmd|' /C calc'!A0", "\uff1d1+1", "http://example.invalid/", "mailto:a@example.invalid",
    "<script>alert(1)</script> & <b>x</b>", "<r><t>x</t></r>", "<r>&<", "{=1}", "[red]markup[/red]", 'He said "no"; no',
    "a,b;c\td|e", "first\nsecond; third", "first\n5", "'quoted'", "_x0041_ _x000D_", "\u0085\u009b31m\u202etxt",
    "à" * 140, "Борис Годунов", "Ἀθηνᾶ", "安娜 5", "🙂" * 70, "TARI 2026", "NaN", "1e400", "0x1F", "True",
]  # fmt: skip
CONTROLS = "\x1b[31mred\x1b[0m\x07\x01"  # no XML document brings these

MOMENTS = [
    datetime(2026, 11, 28, 13, 5, 9, 700_000, tzinfo=UTC),  # winter: 14:05:09 in Italy
    datetime(2026, 7, 1, 22, 30, tzinfo=UTC),  # summer: the next day in Italy
    datetime(2026, 10, 25, 0, 30, tzinfo=UTC),  # the hour that comes twice, at first
    datetime(2026, 10, 25, 1, 30, tzinfo=UTC),  # and again
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 30, tzinfo=UTC),
    datetime(1900, 2, 28, 12, tzinfo=UTC),
    None,
]


def fill(door: Door) -> list[dict[str, Any]]:
    """Stores a receipt for each trap, in every text that a citizen or a PSP writes; returns all as they are stored."""
    keys = []
    for number, trap in enumerate([*TRAPS, CONTROLS]):
        request = a_request(paymentAmount=f"{number * 1111}.{number:02}" if number else "0.01")
        assert door.take(an_envelope(request)).refused_id is None
        keys.append((request["idPA"], request["receiptId"]))
        with store.transaction(door.engine) as connection:
            its = tables.receipt.c.receipt_id == request["receiptId"]
            texts = dict.fromkeys(("description", "debtor_name", "payer_name", "payment_note"), trap)
            texts |= {"debtor_id": trap[:16], "notice_number": trap[:18], "iuv": trap[:35]}
            paid = {"payment_date_time": MOMENTS[number % len(MOMENTS)], "metadata": [[trap, trap]]}
            connection.execute(update(tables.receipt).where(its).values(**texts, **paid))
            its = tables.transfer.c.receipt_id == request["receiptId"]
            connection.execute(update(tables.transfer).where(its).values(remittance_information=trap))
    with store.transaction(door.engine, readonly=True) as connection:
        found = [store.find(connection, *key) for key in keys]
    assert all(found)
    return found  # type: ignore[return-value]


# --- as the cells should be ------------------------------------------------------------------------------------------


def in_order(receipt: dict[str, Any], names: list[str]) -> list[Any]:
    """The values of a receipt in the order of a table's columns."""

    def value(name: str) -> Any:
        if name in receipt:
            return receipt[name]
        _, number, field = name.split("_", 2)
        transfers = receipt["transfers"]
        return transfers[int(number) - 1][field] if int(number) <= len(transfers) else None

    return list(map(value, names))


def in_italy(moment: datetime) -> datetime:
    """The wall clock's time, to the second."""
    try:
        return moment.astimezone(ZoneInfo("Europe/Rome")).replace(tzinfo=None, microsecond=0)
    except OverflowError:
        return moment.replace(tzinfo=None, microsecond=0)


def written(value: Any) -> str:
    """A list or hash in words."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return "; ".join(" = ".join(one) for one in value) if value and isinstance(value[0], list) else " ".join(value)
    return str(value)


def plain(text: str) -> str:
    """A text without the mark that keeps it text: a tab, or the apostrophe before a formula."""
    text = text.replace("\r\n", "\n")
    if re.match(r"'(\s*[=+\-@＝＋－＠]|[\t\r\n]|<r>)", text):
        return text[1:]
    return text.removeprefix("\t")


# --- as they are ------------------------------------------------------------------------------------------------------

_NS = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
Cell = tuple[str, Any]
_EPOCH = datetime(1899, 12, 30)  # noqa: DTZ001


def cells(path: Path, sheet: int = 1) -> list[dict[int, Cell]]:
    """The rows of a workbook's sheet: by column, from 0, the kind of a cell (text, number, date, truth, formula, error)
    and its value."""
    with zipfile.ZipFile(path) as book:
        root = etree.fromstring(book.read(f"xl/worksheets/sheet{sheet}.xml"))
        styles = etree.fromstring(book.read("xl/styles.xml"))
        shared = []
        if "xl/sharedStrings.xml" in book.namelist():
            shared = [_text(one) for one in etree.fromstring(book.read("xl/sharedStrings.xml")).iterfind("m:si", _NS)]
    assert root.find("m:hyperlinks", _NS) is None
    codes = {one.get("numFmtId"): one.get("formatCode") for one in styles.iterfind("m:numFmts/m:numFmt", _NS)}
    formats = [codes.get(one.get("numFmtId"), one.get("numFmtId")) for one in styles.iterfind("m:cellXfs/m:xf", _NS)]
    dates = {number for number, code in enumerate(formats) if _is_date(code)}
    return [
        {_column(cell.get("r")): _cell(cell, dates, shared) for cell in row.iterfind("m:c", _NS) if len(cell)}
        for row in root.iterfind("m:sheetData/m:row", _NS)
    ]


def _is_date(code: str) -> bool:
    return 14 <= int(code) <= 22 if code.isdecimal() else "yy" in code.lower()


def _column(reference: str) -> int:
    number = 0
    for letter in reference.rstrip("0123456789"):
        number = number * 26 + ord(letter) - 64
    return number - 1


def _cell(cell: Any, dates: set[int], shared: list[str]) -> Cell:
    formula = cell.findtext("m:f", namespaces=_NS)
    if formula and not (cell.get("t") == "b" and formula in ("TRUE()", "FALSE()")):  # LibreOffice's way to write these
        return "formula", formula
    value = cell.findtext("m:v", namespaces=_NS)
    match cell.get("t"):
        case "s":
            return "text", shared[int(value)]
        case "inlineStr":
            return "text", _text(cell.find("m:is", _NS))
        case "b":
            return "truth", value == "1"
        case "e" | "str":
            return "error", value
    if int(cell.get("s") or 0) in dates:
        days = float(value)
        return "date", _EPOCH + timedelta(seconds=round(days * 86400)) if days > 0 else value
    return "number", Decimal(value)


def _text(element: Any) -> str:
    whole = "".join(part.text or "" for part in element.iter(f"{{{_NS['m']}}}t"))
    return re.sub("_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), whole)
