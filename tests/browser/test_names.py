"""Names that are markup, formulas or letters of any kind are shown as they are, and nothing obeys them."""

import csv
import io
import re

from hostile import NAMES
from pdf_text import Pdf
from sqlalchemy import select
from test_tasks import Clerk
from windows import Station

from station import store
from station.store import tables

# The texts of a page, as elements that hold a value from outside have them.
_TEXTS = "() => [...document.querySelectorAll('bdi')].map((one) => one.textContent)"


def hostile(station: Station) -> list[dict[str, str]]:
    """The receipts of one EC whose texts are hostile, as they are stored."""
    table = tables.receipt.c
    texts = (
        "description",
        "debtor_name",
        "payer_name",
        "company_name",
        "office_name",
        "psp_company_name",
        "payment_note",
    )
    columns = [table[name] for name in ("id_pa", "receipt_id", *texts)]
    query = select(*columns).where(table.description.in_(NAMES), table.id_pa == station.world["zalfa"].id_pa)
    with store.transaction(station.site.app.engine, readonly=True) as connection:
        found = [dict(row) for row in connection.execute(query).mappings()]
    assert len(found) == len(NAMES)
    return found


def test_receipts(station):
    """Each text of a receipt is on its page, character by character; no dialog opens, no script runs."""
    window = station.window("tutto")
    for row in hostile(station):
        path = station.site.app.url_map.bind("x").build(
            "receipt.receipt", {"id_pa": row.pop("id_pa"), "receipt_id": row.pop("receipt_id")}
        )
        window.go(path)
        shown = set(window.page.evaluate(_TEXTS))
        for name, text in row.items():
            assert text in shown, (name, text)
    assert not window.take_faults()


def test_lists(station):
    """Nor in lists, which show them, too; the title of the window and fields hold what was typed."""
    window = station.window("tutto")
    window.go(f"/?ente={station.world['zalfa'].id_pa}")
    shown = set(window.page.evaluate(_TEXTS))
    assert {row["debtor_name"] for row in hostile(station)} <= shown
    for name in NAMES[:6]:
        clerk = Clerk(window)
        clerk.go("/")
        clerk.fill("Che cosa cerchi", name)
        clerk.enter()
        assert window.page.locator("#q").input_value() == name
    assert not window.take_faults()


def test_files(station):
    """In a CSV no name is a formula, and without the mark against that each is as it is stored; so it is in a PDF."""
    browser, rows = station.site.browser("tutto"), hostile(station)
    page = browser.get(f"/cerca.csv?ente={station.world['zalfa'].id_pa}")
    lines = list(csv.DictReader(io.StringIO(page.content.decode("utf-8-sig")), delimiter=";"))
    cells = {line["Causale"] for line in lines}
    assert not [cell for cell in cells if re.match(r"\s*[=@+\-]", cell)]
    bare = {cell.lstrip("\t'") for cell in cells}
    assert {row["description"] for row in rows} <= bare
    for row in rows:
        path = station.site.app.url_map.bind("x").build(
            "receipt.printed_copy", {"id_pa": row["id_pa"], "receipt_id": row["receipt_id"]}
        )
        answer = browser.get(path)
        assert answer.content.startswith(b"%PDF-")
        if row["debtor_name"].isascii():
            text = "".join(letter.text for letter in Pdf(answer.content).letters)
            assert "".join(row["debtor_name"].split()) in "".join(text.split())
