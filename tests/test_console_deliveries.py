"""Consegne: destinations as a user may see them, their deliveries and files, and what operators change."""

from datetime import timedelta

import pytest
from build import EC, OTHER_EC
from console import Site
from destinations import HOOK, NOW, receive, row_of, serve, states
from sqlalchemy import insert, select, update

from station import store
from station.store import tables

GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "otto", "ecs": [EC], "role": "operator"},
    {"user": "ada", "ecs": [EC], "role": "admin"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
]


@pytest.fixture
def site(database_url, tmp_path):
    destinations = [
        {"name": "erp", **HOOK},
        {"name": "only-a", "ecs": [EC], **HOOK},
        {"name": "only-b", "ecs": [OTHER_EC], **HOOK},
        {"name": "archive", "kind": "folder", "path": str(tmp_path / "secret-place"), "at": "02:30"},
        {"name": "reader", "kind": "feed", "ecs": [EC], "keys": ["sha256:" + "0" * 64]},
    ]
    ecs = [{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC, "name": "Altro Comune"}]
    site = Site(database_url, ec=ecs, grant=GRANTS, destination=destinations)
    yield site
    site.close()


def facts(page):
    """Return what the lists of properties of a page say."""
    return {one.findtext("dt"): one.find("dd").text_content() for one in page.tree.xpath("//dl/div")}


def page_of(browser, number):
    """Return the receiptId that the page of a delivery shows."""
    return facts(browser.get(f"/consegne/erp/{number}"))["Ricevuta"]


def test_without_destinations(database_url):
    """Where nothing is delivered the page says so."""
    site = Site(database_url, grant=[GRANTS[3]])
    assert "Non è configurata alcuna destinazione" in site.browser("bruno").get("/consegne").words
    site.close()


def test_destinations(site):
    """Each destination is listed with its state in words; a user sees those that serve an EC of theirs."""
    receive(site, 3)
    serve(site, "erp", states={1: "failed", 2: "open"}, position=2, state="paused", reason="by Anna Rossi: a: b")
    serve(site, "gone", position=2)
    page = site.browser("bruno").get("/consegne")
    assert page.status == 200
    names = [one.text_content() for one in page.tree.xpath("//tbody//a")]
    assert names == ["erp", "only-a", "only-b", "archive", "reader", "gone"]
    assert "Non più configurata" in page.words
    assert "Alcune consegne sono state abbandonate" in page.words
    assert "querykey" not in page.text
    names = [one.text_content() for one in site.browser("anna").get("/consegne").tree.xpath("//tbody//a")]
    assert names == ["erp", "only-a", "archive", "reader"]
    page = site.browser("bruno").get("/consegne/erp")
    assert "Sospesa da Anna Rossi: a: b" in page.words
    assert "erp.example.invalid" in page.words
    assert "querykey" not in page.text
    assert "Letta fino al numero" not in facts(page)
    serve(site, "reader", "feed", position=3, last_success_at=NOW)
    page = site.browser("anna").get("/consegne/reader")
    assert facts(page)["Letta fino al numero"] == "3"
    assert not page.tree.xpath("//main//form")


def test_pages_of_deliveries(site):
    """Deliveries are paged by number, the latest first, and filtered by state."""
    receive(site, 30)
    serve(
        site, "erp", states={number: "failed" if number == 7 else "delivered" for number in range(1, 31)}, position=30
    )
    anna, seen, address = site.browser("anna"), [], "/consegne/erp"
    while address:
        page = anna.get(address)
        assert page.status == 200
        assert len(page.content) < 30_000
        seen += page.tree.xpath("//tbody//a/@href")
        address = next(iter(page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")), None)
    assert seen == [f"/consegne/erp/{number}" for number in range(30, 0, -1)]
    assert anna.get("/consegne/erp?stato=failed").tree.xpath("//tbody//a/@href") == ["/consegne/erp/7"]
    exchange = {"id_pa": EC, "direction": "out", "source": "deliver", "operation": "x", "duration_ms": 12, "size": 0,
                "receipt_id": page_of(anna, 7)}  # fmt: skip
    with store.transaction(site.engine) as connection:
        for number, (name, code) in enumerate((("erp", "http_500"), ("erp", "timeout"), ("only-b", "tls"))):
            row = {"event_id": number, "at": NOW + timedelta(minutes=number), "peer_subject": name,
                   "outcome": "failed", "fault_code": code}  # fmt: skip
            connection.execute(insert(tables.journal), exchange | row)
    page = anna.get("/consegne/erp/7")
    assert page.status == 200
    cells = page.tree.xpath("//tbody/tr/td[2]/text()")
    assert cells == ["Nessuna risposta in tempo", "Risposta 500"]
    assert "the answer was 500" in page.words
    assert not page.tree.xpath("//main//form")


def test_not_all_is_well(site):
    """A destination to which something could not be delivered yet is not said to be in order."""
    receive(site, 3)
    serve(site, "erp", states={1: "delivered", 2: "delivered"}, position=2)
    assert "Tutto in ordine" in site.browser("bruno").get("/consegne/erp").words
    serve(site, "only-a", states={1: "open"}, position=2)
    words = site.browser("bruno").get("/consegne/only-a").words
    assert "Tutto in ordine" not in words
    assert "1 consegna è in attesa" in words


def test_again_and_skip(site):
    """One delivery is sent again, or skipped with a reason; a reader may not."""
    receive(site, 3)
    serve(site, "erp", states={1: "failed", 2: "open", 3: "delivered"}, position=3)
    otto = site.browser("otto")
    assert site.browser("anna").post("/consegne/erp/1/invia").status == 403
    assert otto.post("/consegne/erp/1/invia").status == 303
    assert "di nuovo in coda" in otto.get("/consegne/erp/1").words
    assert states(site) == {1: "open", 2: "open", 3: "delivered"}
    for reason in ("", " ", "x" * 201, "\0"):
        page = otto.post("/consegne/erp/2/salta", motivo=reason)
        assert (page.status, len(page.tree.xpath("//input[@aria-invalid='true']"))) == (400, 1)
    assert site.browser("anna").post("/consegne/erp/2/salta", motivo="x").status == 403
    assert otto.post("/consegne/erp/2/salta", motivo="già <b>registrata</b>").status == 303
    assert "skipped by console:otto: già <b>registrata</b>" in otto.get("/consegne/erp/2").words
    otto.post("/consegne/erp/2/salta", motivo="x")
    assert "già conclusa" in otto.get("/consegne/erp/2").words
    assert states(site) == {1: "open", 2: "skipped", 3: "delivered"}


def test_failed_again(site):
    """What was given up is sent again: of the ECs that the user operates."""
    receive(site, 2)
    receive(site, 2, idPA=OTHER_EC)
    serve(site, "erp", states=dict.fromkeys(range(1, 5), "failed"), position=4)
    assert site.browser("anna").post("/consegne/erp/invia-abbandonate").status == 403
    otto = site.browser("otto")
    assert otto.get("/consegne/erp").tree.xpath("//form[contains(@action, 'abbandonate')]")
    assert otto.post("/consegne/erp/invia-abbandonate").status == 303
    assert "2 consegne sono di nuovo in coda" in otto.get("/consegne/erp").words
    assert list(states(site).values()) == ["open", "open", "failed", "failed"]
    site.browser("bruno").post("/consegne/erp/invia-abbandonate")
    assert set(states(site).values()) == {"open"}


def test_pause_and_resume(site):
    """A destination is paused with a reason and resumed, by an operator of all ECs that it serves."""
    for name in ("erp", "only-a"):
        serve(site, name)
    serve(site, "reader", "feed")
    otto, bruno = site.browser("otto"), site.browser("bruno")
    assert otto.post("/consegne/only-a/pausa", motivo="").status == 400
    assert otto.post("/consegne/only-a/pausa", motivo="nuovo server").status == 303
    page = otto.get("/consegne/only-a")
    assert "Sospesa da console:otto: nuovo server" in page.words
    assert row_of(site, "only-a").state == "paused"
    assert otto.post("/consegne/only-a/riprendi").status == 303
    assert row_of(site, "only-a").state == "active"
    for user, name in ((otto, "erp"), (site.browser("anna"), "only-a"), (bruno, "reader")):
        assert user.post(f"/consegne/{name}/pausa", motivo="x").status == 403
        assert user.post(f"/consegne/{name}/riprendi").status == 403
    assert not otto.get("/consegne/erp").tree.xpath("//form[contains(@action, 'pausa')]")
    assert bruno.post("/consegne/erp/pausa", motivo="x").status == 303
    assert bruno.post("/consegne/archive/pausa", motivo="x").status == 303
    assert "non è mai stata servita" in bruno.get("/consegne/archive").words


def test_files(site):
    """The files of a folder are paged; who does not see all of its ECs learns nothing of what they hold."""
    receive(site, 1)
    serve(site, "archive", "folder", position=1)
    with store.transaction(site.engine) as connection:
        for number in range(30):
            at = NOW - timedelta(days=number)
            row = {"destination": "archive", "planned_at": at, "name": f"receipts-{number:02}.zip", "number_from": 1,
                   "number_to": 9, "state": "done" if number else "planned", "attempts": 1, "next_attempt_at": at,
                   "receipts": 4321, "amount": 99,
                   "error": "/secret-place: no room", "settled_at": at if number else None}  # fmt: skip
            connection.execute(insert(tables.delivery_file), row)
        connection.execute(update(tables.destination).values(last_error="/secret-place: no room"))
    bruno, seen, address = site.browser("bruno"), [], "/consegne/archive"
    while address:
        page = bruno.get(address)
        assert page.status == 200
        seen += page.tree.xpath("//tbody/tr/td[2]//text()")
        address = next(iter(page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")), None)
    assert "".join(seen).count("receipts-") == 30
    assert "4.321" in page.words
    assert "secret-place" in bruno.get("/consegne/archive").words
    page = site.browser("ada").get("/consegne/archive")
    assert page.status == 200
    assert "receipts-00.zip" in page.words
    assert "4.321" not in page.words
    assert "secret-place" not in page.text
    with store.transaction(site.engine, readonly=True) as connection:
        receipt = f"/ricevute/{EC}/{connection.execute(select(tables.receipt.c.receipt_id)).scalar_one()}"
    assert "secret-place" in bruno.get(receipt).words
    assert "file receipts-" in site.browser("ada").get(receipt).words
    assert "secret-place" not in site.browser("ada").get(receipt).text


def test_foreign(site):
    """Nothing of a foreign EC shows: its destinations, its deliveries, its counts are as what does not exist."""
    receive(site, 2)
    receive(site, 3, idPA=OTHER_EC, receiptId="foreignreceipt")
    receive(site, 3, idPA=OTHER_EC)
    serve(site, "erp", states={1: "open", 3: "failed", 4: "open"}, position=4)
    serve(site, "only-b", states={3: "failed"}, position=4)
    serve(site, "gone", states={3: "failed"}, position=4)
    otto = site.browser("otto")
    nothing = otto.get("/consegne/nothing")
    assert nothing.status == 404
    for name in ("only-b", "gone"):
        assert otto.get(f"/consegne/{name}").words == nothing.words
        for action in ("pausa", "riprendi", "invia-abbandonate", "3/invia", "3/salta"):
            page = otto.post(f"/consegne/{name}/{action}", motivo="x")
            assert (page.status, page.words) == (404, nothing.words)
    for number in (3, 99, 2**63 - 2, 2**64):
        assert otto.get(f"/consegne/erp/{number}").words == nothing.words
        for action in ("invia", "salta"):
            assert otto.post(f"/consegne/erp/{number}/{action}", motivo="x").status == 404
    page = otto.get("/consegne/erp")
    assert page.tree.xpath("//tbody//a/@href") == ["/consegne/erp/1"]
    counts = facts(page)
    assert counts["Consegne in attesa"] == "1"
    assert counts["Consegne abbandonate"] == counts["Ricevute ancora da esaminare"] == "0"
    for text in ("foreignreceipt", OTHER_EC, "Altro Comune", "Arrivata al numero"):
        assert text not in page.text
        assert text not in otto.get("/consegne").text
    assert states(site) == {1: "open", 3: "failed", 4: "open"}
    assert facts(site.browser("bruno").get("/consegne/erp"))["Consegne abbandonate"] == "1"


def test_bad_addresses(site):
    """What is no address of ours is a plain page."""
    serve(site, "erp")
    serve(site, "archive", "folder")
    bruno = site.browser("bruno")
    for address in (
        "erp?stato=x", "erp?prima=x", "erp?prima=-1", "erp?prima=" + "9" * 400, "erp?prima=%00", "archive?prima=x",
        "archive?prima=2026-01-01", "archive?prima=9999-12-31T23:59:59-23:00",
        "archive?prima=0001-01-01T00:00:00%2B23:00",
    ):  # fmt: skip
        assert bruno.get(f"/consegne/{address}").status == 400
