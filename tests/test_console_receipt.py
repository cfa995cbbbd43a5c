"""Ricevuta: all that is stored of a receipt, its printed copy and its exact documents, for those who may."""

from datetime import UTC, date, datetime
from decimal import Decimal

import feed
import pytest
from biz_events import a_biz_event
from build import ABSENT, EC, OTHER_EC, a_request, an_envelope
from console import Site
from refusals import Door
from sqlalchemy import select, update

from station import config, contract, pdf, store
from station.console import words
from station.console.flags import SIGNS
from station.intake import Intake, Origin
from station.receipt import Flag, Source
from station.store import tables
from station.store.rows import insert_rows

GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
]
ECS = [{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC, "name": "Provincia di Altrove"}]
HOOK = {"kind": "webhook", "name": "erp", "url": "https://erp.example.invalid/", "secret": "whsec_" + "c3lu" * 8}
DEBTOR, PAYER = "PLLPNC80A01X000X", "SMPTZI80A41X000X"


def a_site(url, **settings):
    return Site(url, ec=ECS, grant=GRANTS, **settings)


@pytest.fixture
def settings():
    """More of the configuration."""
    return {}


@pytest.fixture
def site(database_url, settings):
    site = a_site(database_url, **settings)
    yield site
    site.close()


@pytest.fixture
def small(sqlite_url, settings):
    """The same on SQLite, for what no database decides."""
    site = a_site(sqlite_url, **settings)
    yield site
    site.close()


def push(site, **over):
    return feed.push(site.app.engine, **over)


def address(site, id_pa, receipt_id, endpoint="receipt", **query):
    with site.app.test_request_context(base_url="https://localhost"):
        from flask import url_for

        return url_for(f"receipt.{endpoint}", id_pa=id_pa, receipt_id=receipt_id, **query)


def find(site, id_pa, receipt_id):
    with store.transaction(site.app.engine, readonly=True) as connection:
        return store.find(connection, id_pa, receipt_id)


def change(site, **values):
    with store.transaction(site.app.engine) as connection:
        connection.execute(update(tables.receipt).values(**values))


def accesses(site):
    with store.transaction(site.app.engine, readonly=True) as connection:
        table = tables.console_access
        rows = connection.execute(select(table).order_by(table.c.at, table.c.subject)).all()
    return [(row.username, row.action, row.id_pa, row.receipt_id, row.subject) for row in rows]


def shown(value):
    """A value as the page shows it."""
    match value:
        case bool():
            return "sì" if value else "no"
        case Decimal():
            return words.euro(value).replace("\xa0", " ")
        case date():
            return words.moment(value)
        case bytes():
            return value.hex()
    return str(value)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_everything_is_shown(site):
    """Each value that is stored of the receipt, its transfers and its documents stands on the page."""
    key = push(site, metadata={"NOTIFICATION_FEE": "200"}, standIn="true")
    page = site.browser("anna").get(address(site, *key))
    assert page.status == 200
    found = find(site, *key)
    translated = {"outcome", "source", "debtor_type", "payer_type", "metadata", "raw", "flags", "transfers", "routes"}
    missing = [
        name
        for name, value in found.items()
        if value is not None and name not in translated and shown(value) not in page.words
    ]
    assert missing == []
    for transfer in found["transfers"]:
        for name, value in transfer.items():
            if value is not None and name not in ("position", "digital_stamp", "metadata"):
                assert shown(value) in page.words, name
    assert "NOTIFICATION_FEE = 200" in page.words
    assert SIGNS["stand_in"].meaning in page.words
    assert "pagamento eseguito (OK)" in page.words
    assert len(page.content) < 30_000
    assert accesses(site) == [("anna", "receipt", *key, DEBTOR), ("anna", "receipt", *key, PAYER)]


def test_flags_have_words():
    """Each flag is explained."""
    assert set(SIGNS) == set(Flag)
    assert set(words.SOURCES) == set(Source)


HOSTILE = [
    "<b>Carla</b><script>alert(1)</script>", "=HYPERLINK(\"http://x\")", "à" * 70, "Жанна Щукина", "{{ 7 * 7 }}{% x %}",
    "abc\u202edef\u2066", "&lt;i&gt; &amp;", "' onmouseover='x", "\u202e" * 3 + "x",
]  # fmt: skip


def test_hostile_text(small):
    """Names and reasons are text, in their own direction of writing, as they were sent; files, too."""
    anna = small.browser("anna")
    for name in HOSTILE:
        key = push(small, debtor__fullName=name, description=name, companyName=name)
        assert find(small, *key)["debtor_name"] == name
        page = anna.get(address(small, *key))
        texts = [one.text for one in page.tree.xpath("//bdi")]
        assert texts.count(name) >= 3, name
        assert not page.tree.xpath("//main//script | //main//b | //@onmouseover")
        assert anna.get(address(small, *key, "printed_copy")).content.startswith(b"%PDF")
    assert set(HOSTILE) <= {one.text for one in anna.get("/").tree.xpath("//bdi")}


ODD = ["a/b", "/a", "a//b", "a/", "..", ".", "a%2Fb", "a%25", "a?b#c", "a b+c", "è€", "a.xml", "a.pdf", "a;b=c", "~YQ",
       "~", "-", "_", "x" * 200, "\u202ea", "a\\b", "&copia=1", "<b>"]  # fmt: skip


def test_odd_receipt_ids(small):
    """A receiptId may hold anything: the list leads to its page, and the page to its files."""
    for receipt_id in ODD:
        push(small, receiptId=receipt_id)
    anna = small.browser("anna")
    links = anna.get("/").tree.xpath("//td/a/@href")
    found = []
    for link in links:
        assert "." not in link
        page = anna.get(link)
        assert page.status == 200, link
        [shown] = page.tree.xpath("//dt[contains(., 'receiptId')]/following-sibling::dd/bdi/text()")
        found.append(shown)
        files = {one.text_content().strip(): one.get("href") for one in page.tree.xpath("//main//a[@class]")}
        [xml] = [href for text, href in files.items() if text == "XML originale"]
        assert anna.get(xml).content == find(small, EC, shown)["raw"]
        [copy] = [href for text, href in files.items() if text.startswith("Stampa")]
        assert copy.endswith(".pdf")
    assert sorted(found) == sorted(ODD)
    # One address for each, and none for what can be no receiptId.
    for odd in ("~YQ", "~", "~!", "~AA", "~gA", "~" + "A" * 4001, "a%00", "%FF", "a.b", ""):
        assert anna.get(f"/ricevute/{EC}/{odd}").status == 404, odd
    assert site_admin_status(small, "/ricevute/a%00b/x") == 404
    assert site_admin_status(small, "/ricevute/" + "9" * 3000 + "/x") == 404


def site_admin_status(site, path):
    return site.browser("bruno").get(path).status


def test_foreign(site):
    """Another EC's receipt and its files are as what does not exist, and nothing is written down."""
    key = push(site, idPA=OTHER_EC, fiscalCode=OTHER_EC)
    own = push(site)
    anna, bruno = site.browser("anna"), site.browser("bruno")
    for endpoint in ("receipt", "printed_copy", "document"):
        answers = [
            anna.get(address(site, *one, endpoint)) for one in (key, (OTHER_EC, "none"), (EC, "none"), (EC, key[1]))
        ]
        assert {answer.status for answer in answers} == {404}
        assert len({answer.text for answer in answers}) == 1
        assert bruno.get(address(site, *key, endpoint)).status == 200
        assert site.browser().get(address(site, *own, endpoint)).status == 302
    assert {row[0] for row in accesses(site)} == {"bruno"}


def test_other_payments(site):
    """A notice that was paid twice: each receipt leads to the other."""
    request = a_request(receiptId="first")
    same = {name: request[name] for name in ("noticeNumber", "creditorReferenceId")}
    push(site, receiptId="first", **same)
    push(site, receiptId="a/b", **same)
    page = site.browser("anna").get(address(site, EC, "first"))
    [link] = page.tree.xpath("//h2[contains(., 'Altri pagamenti')]/following::table[1]//a/@href")
    assert link == address(site, EC, "a/b")
    page = site.browser("anna").get(link)
    assert SIGNS["second_receipt"].meaning in page.words


@pytest.mark.parametrize("settings", [{"destination": [HOOK]}])
def test_deliveries_and_flow(site):
    """Where the receipt went, and what it was credited by."""
    engine = site.app.engine
    key = push(site)
    feed.number(engine)
    now = datetime.now(UTC)
    flow = {"id_pa": EC, "fdr": "2026-07-01ABI99999-S1", "psp_id": "ABI99999", "revision": 1}
    with store.transaction(engine) as connection:
        insert_rows(connection, tables.fdr_flow, [flow | {
            "listed_at": now, "fetched_at": now, "attempts": 0, "next_attempt_at": now, "superseded": False,
            "regulation": "TRN123", "regulation_date": date(2026, 7, 2), "psp_name": "Banca Immaginaria",
        }])  # fmt: skip
        insert_rows(connection, tables.fdr_payment, [flow | {
            "position": 1, "iuv": "1", "iur": key[1], "id_transfer": 1, "amount": Decimal("115.50"), "pay_status": 0,
            "superseded": False, "matched_by": "iur", "receipt_id_pa": EC, "receipt_id": key[1],
        }])  # fmt: skip
    page = site.browser("anna").get(address(site, *key))

    def cells(heading):
        found = page.tree.xpath(f"//h2[. = '{heading}']/following::table[1]//td")
        return [" ".join(cell.text_content().split()) for cell in found]

    credit = ["1", "2026-07-01ABI99999-S1", "Banca Immaginaria", "TRN12302/07/2026", "Eseguito", "115,50 €"]
    assert cells("Accredito") == credit
    [link] = page.tree.xpath("//h2[. = 'Accredito']/following::table[1]//a/@href")
    assert site.browser("anna").get(link).status == 200
    assert cells("Consegne")[:2] == ["erp", "in attesa"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_files(site):
    """The printed copy is the one of `receipts pdf`, the document is what came; each is written down."""
    raw = an_envelope(a_request(receiptId="abc", creditorReferenceId="01000000000000017"), "iso-8859-1")
    document = contract.parse(raw, "iso-8859-1")
    Intake(site.app.engine, config.Settings()).accept(
        document, contract.request_element(document.root), Origin(Source.PUSH, "127.0.0.1", "r-1")
    )
    anna = site.browser("anna")
    page = anna.get(address(site, EC, "abc"))
    links = {
        one.text_content().strip(): one.get("href") for one in page.tree.xpath("//main//a[contains(@class, 'btn')]")
    }
    shown = anna.get(links["Stampa la ricevuta (PDF)"])
    assert shown.content == pdf.render(site.settings, find(site, EC, "abc"))
    assert shown.headers["Content-Disposition"] == "inline; filename=ricevuta-01000000000000017.pdf"
    assert shown.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    copy = anna.get(links["Copia per il cittadino (PDF con XML allegato)"])
    assert copy.content == pdf.render(site.settings, find(site, EC, "abc"), attach_xml=True)
    assert copy.headers["Content-Disposition"].startswith("attachment")
    xml = anna.get(links["XML originale"])
    assert xml.content == raw
    assert xml.headers["Content-Type"] == "application/xml; charset=iso-8859-1"
    assert xml.headers["Content-Disposition"] == "attachment; filename=ricevuta-01000000000000017.xml"
    told = accesses(site)
    assert [(row[1], row[4]) for row in told] == [
        (action, code) for action in ("receipt", "pdf", "pdf", "xml") for code in (DEBTOR, PAYER)
    ]
    assert anna.get(address(site, EC, "abc", "document", documento="2")).status == 404
    assert anna.get(address(site, EC, "abc", "document", documento="x\0")).status == 404


def test_several_documents(small):
    """Each document of a receipt has its own link, and the fullest says so."""
    request = a_request(receiptId="abc")
    door = Door(small.app.engine)
    first, second = an_envelope(request.but(paymentNote=ABSENT)), an_envelope(request)
    door.take(first)
    door.take(second)
    anna = small.browser("anna")
    page = anna.get(address(small, EC, "abc"))
    links = page.tree.xpath("//a[contains(., 'Scarica il documento')]/@href")
    assert [anna.get(link).content for link in links] == [first, second]
    assert page.words.count("il più completo") == 1


@pytest.mark.parametrize("settings", [{"account": [{"code": "E.1.01", "name": "TARI", "categories": ["9/0201101"]}]}])
def test_accounts(small, settings):
    """The account of the configuration stands beside each transfer that is the EC's own."""
    key = push(small)
    page = small.browser("anna").get(address(small, *key))
    rows = page.tree.xpath("//h2[. = 'Versamenti']/following::table[1]/tbody/tr")
    assert [row.xpath("string(td[6])") for row in rows] == ["E.1.01 TARI", "—"]


def test_provisional(site):
    """A receipt of BizEvents says so: no XML, its JSON as what it is, a printed copy without attachment."""
    raw = a_biz_event(a_request(receiptId="abc"))
    intake = Intake(site.app.engine, config.Settings())
    intake.accept_provisional(raw, contract.read_provisional(raw, EC), Origin(Source.BIZEVENTS))
    anna = site.browser("anna")
    page = anna.get(address(site, EC, "abc"))
    assert "Ricevuta provvisoria" in page.words
    assert "XML originale" not in page.words
    [copy] = page.tree.xpath("//a[contains(., 'Copia per il cittadino (PDF)')]/@href")
    assert anna.get(copy).content == pdf.render(site.settings, find(site, EC, "abc"))
    [link] = page.tree.xpath("//a[contains(., 'Scarica il documento 1')]/@href")
    file = anna.get(link)
    assert (file.content, file.headers["Content-Type"]) == (raw, "application/json")
    assert file.headers["Content-Disposition"].endswith(".json")


def test_purged_and_anonymised(site):
    """What the retention removed is said; what is left is shown and printed; nobody is written down as looked up."""
    key = push(site, receiptId="abc")
    change(site, raw=b"", raw_purged_at=datetime.now(UTC))
    anna = site.browser("anna")
    page = anna.get(address(site, *key))
    assert "Documento eliminato" in page.words
    assert "XML originale" not in page.words
    assert anna.get(address(site, *key, "document")).status == 404
    assert anna.get(address(site, *key, "printed_copy", copia=1)).content.startswith(b"%PDF")
    change(site, anonymised_at=datetime.now(UTC), debtor_id="***", debtor_name="***", payer_id=None)
    page = anna.get(address(site, *key))
    assert "Resa anonima" in page.words
    assert accesses(site)[-1] == ("anna", "receipt", *key, None)


def test_without_typst(small, monkeypatch):
    """Where PDFs cannot be made there is no button, and the extra is named."""
    key = push(small)
    monkeypatch.setattr(pdf, "is_installed", lambda: False)
    anna = small.browser("anna")
    page = anna.get(address(small, *key))
    assert "Stampa la ricevuta" not in page.words
    assert "pagopa-receipt-station[pdf]" in page.words
    answer = anna.get(address(small, *key, "printed_copy"))
    assert (answer.status, answer.headers["Location"]) == (303, address(small, *key))
    assert "XML originale" in page.words
