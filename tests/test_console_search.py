"""Cerca: one box for whatever a clerk has in hand, and no person in an address."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import feed
import pytest
from build import EC, OTHER_EC, a_subject, a_transfer
from console import Site
from sqlalchemy import select, update

from station import export, store
from station.console import question
from station.console.pages.search import EXPORTS_MAX
from station.store import tables
from station.store.conditions import Filter

CODE = "PLLPNC80A01X000X"
GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
    {"user": "dora", "ecs": [EC, OTHER_EC], "role": "reader"},
]
ECS = {EC: "Comune di Prova", OTHER_EC: "Provincia di Altrove"}


def a_site(url):
    return Site(url, ec=[{"id": id_pa, "name": name} for id_pa, name in ECS.items()], grant=GRANTS)


@pytest.fixture
def site(database_url):
    site = a_site(database_url)
    yield site
    site.close()


@pytest.fixture
def small(sqlite_url):
    """The same on SQLite, for what no database decides."""
    site = a_site(sqlite_url)
    yield site
    site.close()


def push(site, **over):
    return feed.push(site.app.engine, **over)


def person(code, name="Mario Rossi"):
    """A debtor who pays."""
    subject = a_subject() | {"fullName": name}
    subject["uniqueIdentifier"] = {"entityUniqueIdentifierType": "F", "entityUniqueIdentifierValue": code}
    return {"debtor": subject, "payer": subject}


def look(browser, q="", **fields):
    """Send the form, and go where the answer leads. Return the address and the page."""
    answer = browser.post("/", q=q, **fields)
    assert answer.status == 303, answer.words
    address = answer.headers["Location"]
    return address, browser.get(address)


def opened(page):
    """The receipts that a page leads to."""
    return [link.rpartition("/")[2] for link in page.tree.xpath("//td/a/@href")]


def accesses(site):
    with store.transaction(site.app.engine, readonly=True) as connection:
        table = tables.console_access
        rows = connection.execute(select(table).order_by(table.c.at, table.c.id_pa)).mappings()
        return [{name: row[name] for name in ("username", "action", "id_pa", "subject", "found")} for row in rows]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("pllpnc80a01x000x", "persona", CODE),
        (" PLL PNC 80A01\tX000X ", "persona", CODE),
        ("PLLPNCULALMXLLLX", "persona", "PLLPNCULALMXLLLX"),  # letters for digits
        ("01234567890", "persona", "01234567890"),
        ("3010 0000 0000 0000 17", "avviso", "301000000000000017"),
        ("301000000000000017\u200b", "avviso", "301000000000000017"),
        ("01000000000000017", "iuv", "01000000000000017"),
        ("010000000000017", "iuv", "010000000000017"),
        ("rf18 5390 0754 7034", "iuv", "RF18539007547034"),
        ("/RFB/01000000000000017/120.50", "iuv", "01000000000000017"),
        ("64d17c29a7a84ae68f3d1e8f3e2b4c55", "ricevuta", "64d17c29a7a84ae68f3d1e8f3e2b4c55"),
        ("a/b.pdf?1", "ricevuta", "a/b.pdf?1"),
        ("12,50", "importo", Decimal("12.50")),
        ("12.50", "importo", Decimal("12.50")),
        ("€ 1.234,00", "importo", Decimal("1234.00")),
        ("1.234", "importo", Decimal(1234)),
        ("1.234.567,8 euro", "importo", Decimal("1234567.8")),
        ("EUR 50", "importo", Decimal(50)),
        ("120", "importo", Decimal(120)),
        (EC, "ente", (EC,)),
        ("comune di próva", "ente", (EC,)),
        ("Rossi D'Amico", "nome", "Rossi D'Amico"),
        ("3M Italia srl", "nome", "3M Italia srl"),
        ("<script>", "nome", "<script>"),
        ("/PUR/LGPE-RIVERSAMENTO/URI/2026-07-01ABI03069-S000001234", "bonifico", None),
        ("BONIFICO URI/2026-07-01ABI03069-S0000", "bonifico", None),
        ("2026-07-01ABI03069-S000001234", "bonifico", None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_first_reading(text, kind, value):
    """What is typed is read as a clerk means it."""
    first = question.readings(text, ECS)[0]
    assert first.kind == kind
    if value is not None:
        assert value in first.fields.values()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (EC, ["ente", "persona", "iuv", "ricevuta"]),
        ("010000000000017", ["iuv", "ricevuta"]),
        ("prova", ["ente", "nome", "iuv", "ricevuta"]),
        ("1234567890ABCDEF", ["iuv", "ricevuta", "persona"]),
        ("", []),
        ("\0 \u202e", []),
    ],
    ids=repr,
)
def test_other_readings(text, kinds):
    """What is ambiguous has other readings, each once."""
    assert [reading.kind for reading in question.readings(text, ECS)] == kinds


# --- what is found ----------------------------------------------------------------------------------------------------


def test_each_kind(site):
    """Each identifier finds its receipt, however it is written, and the page says how it was read."""
    push(site, **person("RSSMRA80A01H501U", "Mario Nicolò Rossi"), receiptId="wanted1", paymentAmount="1234.50",
         noticeNumber="301000000000000017", creditorReferenceId="01000000000000017")  # fmt: skip
    push(site, receiptId="other1")
    push(site, receiptId="other2", idPA=OTHER_EC, fiscalCode=OTHER_EC)
    dora = site.browser("dora")
    for text, words in {
        "rssmra80a01 h501u": "codice fiscale",
        "3010 0000 0000 0000 17": "numero avviso",
        "0100 0000 0000 0001 7": "IUV",
        "wanted1": "identificativo della ricevuta",
        "1.234,50 €": "importo",
        "rossi NICOLO": "nome",
        "/RFB/01000000000000017": "IUV",
    }.items():
        _, page = look(dora, text)
        assert opened(page) == ["wanted1"], text
        assert f"Cercato come {words}" in page.words
        assert "1 ricevuta, 1.234,50" in page.words
    _, page = look(dora, "Altrove")
    assert opened(page) == ["other2"]
    assert "ente creditore" in page.words


def test_no_person_in_an_address(site, capsys):
    """The code is in the session, not in the address, links, or log; each search is written down by EC."""
    code = "RSSMRA80A01H501U"
    push(site, **person(code))
    push(site, **person(code))
    push(site, **person(code), idPA=OTHER_EC, fiscalCode=OTHER_EC)
    dora = site.browser("dora")
    address, page = look(dora, code.lower())
    assert re.fullmatch(r"/\?ricerca=[\w-]{12}", address)
    assert len(opened(page)) == 3
    assert code not in "".join(page.tree.xpath("//@href | //@action"))
    row = {"username": "dora", "action": "search", "subject": code}
    assert accesses(site) == [row | {"id_pa": EC, "found": 2}, row | {"id_pa": OTHER_EC, "found": 1}]
    assert not opened(site.browser("anna").get(address))  # another's session
    asked = dora.get(f"/?q={code}")
    assert not opened(asked)
    assert "premi «Cerca»" in asked.words
    assert dora.get(f"/cerca.csv?q={code}").status == 400
    assert len(accesses(site)) == 2
    assert code not in capsys.readouterr().err.upper()


def test_nothing_found(site):
    """It says how it was read and where else to look; a person who was looked for in vain is written down."""
    anna = site.browser("anna")
    _, page = look(anna, CODE)
    assert "nessuna ricevuta" in page.words
    leads = [link for link in page.tree.xpath("//main//a/@href") if not link.startswith("#")]
    assert len(leads) == 3
    assert [anna.get(link).status for link in leads] == [200] * 3
    assert accesses(site) == [{"username": "anna", "action": "search", "id_pa": None, "subject": CODE, "found": 0}]
    address, page = look(anna, "01000000000000017")
    assert parse_qs(urlsplit(address).query) == {"q": ["01000000000000017"]}  # can be kept and passed on
    assert "IUV, identificativo della ricevuta: nessuna" in page.words
    assert len(accesses(site)) == 1


def test_scope(site):
    """A foreign EC's receipts are found by no reading, filter or file; a foreign EC is as one that is not there."""
    code = "RSSMRA80A01H501U"
    push(site, **person(code), idPA=OTHER_EC, fiscalCode=OTHER_EC, receiptId="foreign1", paymentAmount="77.70",
         noticeNumber="301000000000000017", creditorReferenceId="01000000000000017")  # fmt: skip
    anna = site.browser("anna")
    for text in (
        code,
        "301000000000000017",
        "01000000000000017",
        "foreign1",
        "77,70",
        "Mario Rossi",
        "Altrove",
        OTHER_EC,
    ):
        address, page = look(anna, text)
        assert "foreign1" not in page.text.replace('value="foreign1"', ""), text
        assert not opened(page)
        key = address.removeprefix("/")
        assert "foreign1" not in anna.get(f"/cerca.csv{key}").text.replace("?q=foreign1", "")
    assert not opened(anna.get("/"))
    foreign, none = (anna.get(f"/?ente={id_pa}") for id_pa in (OTHER_EC, "12345678901"))
    assert (foreign.status, foreign.text) == (none.status, none.text)
    assert foreign.status == 404
    assert anna.get(f"/cerca.csv?ente={OTHER_EC}").status == 404
    assert opened(site.browser("bruno").get(f"/?ente={OTHER_EC}")) == ["foreign1"]


def test_pages(site):
    """Every receipt once, the latest first; a page is small; number and sum are of all."""
    for number in range(52):
        push(site, receiptId=f"r{number:02}", paymentAmount="10.00")
    anna = site.browser("anna")
    assert opened(anna.get("/")) == [f"r{number:02}" for number in range(51, 26, -1)]
    _, page = look(anna, "10,00")
    assert "52 ricevute, 520,00" in page.words
    seen = []
    while True:
        assert page.status == 200
        assert len(page.content) < 30_000
        seen += opened(page)
        more = page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")
        if not more:
            break
        page = anna.get(more[0])
    assert seen == [f"r{number:02}" for number in range(51, -1, -1)]


def test_filters(site):
    """Days, amounts, PSP, flag and EC narrow what the box says, and do alone."""
    push(site, receiptId="july", paymentDateTime="2026-07-01T10:00:00", paymentAmount="20.00", idPSP="ABI11111")
    push(site, receiptId="june", paymentDateTime="2026-06-30T23:59:59", paymentAmount="30.00", standIn="true")
    push(site, receiptId="other", paymentDateTime="2026-07-01T10:00:00", idPA=OTHER_EC, fiscalCode=OTHER_EC)
    dora = site.browser("dora")
    for fields, expected in (
        ({"da": "2026-07-01", "a": "01/07/2026", "ente": EC}, ["july"]),
        ({"a": "2026-06-30"}, ["june"]),
        ({"importo_da": "20", "importo_a": "30,00"}, ["june", "july"]),
        ({"psp": "ABI11111"}, ["july"]),
        ({"segnalazione": "stand_in"}, ["june"]),
        ({"ente": OTHER_EC}, ["other"]),
        ({"q": "Pallino", "da": "2026-07-01", "a": "2026-07-31", "ente": EC}, ["july"]),
        ({"q": "30,00", "da": "2026-07-01"}, []),
    ):
        assert opened(look(dora, **fields)[1]) == expected, fields


def test_name_needs_days(site):
    """A name is looked for in the last 31 days, or in as many as are given; more is refused at the field."""
    push(site, receiptId="recent")
    push(site, receiptId="old")
    with store.transaction(site.app.engine) as connection:
        then = datetime.now(UTC) - timedelta(days=40)
        old = update(tables.receipt).filter_by(receipt_id="old")
        connection.execute(old.values(received_at=then, payment_date_time=then))
    anna = site.browser("anna")
    _, page = look(anna, "pallino")
    assert opened(page) == ["recent"]
    assert "ultimi 31 giorni" in page.words
    day = then.date().isoformat()
    assert opened(look(anna, "pallino", da=day, a=day)[1]) == ["old"]
    _, page = look(anna, "pallino", da=day)
    assert page.status == 400
    assert "al massimo 31 giorni" in page.words
    assert [row["subject"] for row in accesses(site)] == ["pallino"] * 2


def test_bank_line(small):
    """A line of the bank statement leads to its flow."""
    line = "/PUR/LGPE-RIVERSAMENTO/URI/2026-07-01ABI03069-S000001234"
    anna = small.browser("anna")
    _, page = look(anna, line)
    assert page.status == 302
    to = urlsplit(page.headers["Location"])
    assert (to.path, parse_qs(to.query)) == ("/accrediti", {"riga": [line]})


def test_start(site):
    """Where nothing is asked: what came last, and what needs attention."""
    anna = site.browser("anna")
    assert "Non è ancora arrivata" in anna.get("/").words
    push(site, receiptId="first")
    assert feed.push(site.app.engine, receiptId="wrong", paymentAmount="1") is not None  # refused
    page = anna.get("/")
    assert opened(page) == ["first"]
    assert "Da controllare: 1 richiesta rifiutata." in page.words
    listed = {"username": "anna", "action": "list", "id_pa": EC, "subject": None, "found": 1}
    assert accesses(site) == [listed]  # it names a debtor, like each list
    anna.get("/?q=120,50")
    assert accesses(site) == [listed] * 2


# --- CSV --------------------------------------------------------------------------------------------------------------


def read(page):
    assert page.status == 200
    return list(csv.DictReader(io.StringIO(page.content.decode("utf-8-sig")), delimiter=";"))


def test_csv(site, monkeypatch):
    """A line for each transfer of all that was found, in the export's form, in pages; written down."""
    monkeypatch.setattr(export, "BATCH", 2)
    for number in range(5):
        push(site, receiptId=f"r{number}", debtor__fullName="=1+1 \u0416", paymentAmount="120.50")
    anna = site.browser("anna")
    _, page = look(anna, CODE)
    [link] = page.tree.xpath("//a[contains(., 'CSV')]/@href")
    assert CODE not in link
    lines = read(anna.get(link))
    with store.transaction(site.app.engine, readonly=True) as connection:
        number = len(connection.execute(select(tables.transfer)).all())
    assert len(lines) == number == 10
    ids = [line["Identificativo ricevuta (receiptId)"].strip() for line in lines[::2]]
    assert ids == ["r4", "r3", "r2", "r1", "r0"]
    assert {line["Debitore: nome"] for line in lines} == {"'=1+1 \u0416"}
    assert sum(Decimal(line["Versamento: importo (euro)"].replace(",", ".")) for line in lines) == Decimal("602.50")
    told = [row for row in accesses(site) if row["action"] == "csv"]
    assert sum(row["found"] for row in told) == 10
    assert {(row["id_pa"], row["subject"]) for row in told} == {(EC, CODE)}
    monkeypatch.setattr("station.console.pages.search.CSV_LINES_MAX", 7)
    lines = read(anna.get(link))
    assert len(lines) == 8
    assert "ELENCO INTERROTTO dopo 7 righe" in next(iter(lines[-1].values()))
    assert "al massimo 7 righe" in look(anna, CODE)[1].words


def test_csv_in_part(small, monkeypatch):
    """A few files are sent at a time, one to a user; a browser that goes away makes room."""
    monkeypatch.setattr(export, "BATCH", 1)
    push(small)
    push(small)
    anna, dora = small.browser("anna"), small.browser("dora")
    path = f"/cerca.csv?ente={EC}"
    begun = [anna.client.get(path, base_url="https://localhost", buffered=False)]
    assert anna.get(path).status == 503
    begun.append(dora.client.get(path, base_url="https://localhost", buffered=False))
    assert [answer.status_code for answer in begun] == [200] * EXPORTS_MAX
    for answer in begun:
        next(answer.iter_encoded())
        answer.close()
    assert len(read(anna.get(path))) == 4


def test_csv_is_the_export(site, tmp_path):
    """The same values as `receipts export --italian --transfers`."""
    from station import columns

    for transfers in (1, 2):
        push(site, **{"transfers.1": a_transfer(2, transferAmount="1.00")} if transfers == 2 else {})
    sink = io.BytesIO()
    writer = export.CsvWriter(
        sink, columns.TRANSFER_ROW, titles=[*map(columns.title, columns.TRANSFER_ROW)], italian=True
    )
    for batch in export.batches(site.app.engine, Filter(id_pa=EC)):
        writer.write(export.transfers_of(batch))
    writer.close()
    page = site.browser("anna").get(f"/cerca.csv?ente={EC}")
    assert sorted(page.content.split(b"\r\n")) == sorted(sink.getvalue().split(b"\r\n"))
    assert page.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r"attachment; filename=ricevute-[0-9-]+\.csv", page.headers["Content-Disposition"])


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_wrong_input(small):
    """A message at the field, or a plain page; the address's fault is never the station's."""
    push(small)
    anna = small.browser("anna")
    for fields, told in (
        ({"q": "x" * 10_000}, "troppo lungo"),
        ({"q": "\0\u202e"}, "Scrivi un codice"),
        ({"da": "31/02/2026"}, "Scrivi un giorno"),
        ({"a": "9999-12-31"}, "Scrivi un giorno"),
        ({"da": "2026-07-02", "a": "2026-07-01"}, "prima dell'inizio"),
        ({"importo_da": "molto"}, "Scrivi un importo"),
        ({"importo_da": "9", "importo_a": "8"}, "prima dell'inizio"),
        ({"segnalazione": "x\0"}, "Scegli"),
        ({"psp": "p" * 200}, "troppo lungo"),
    ):
        page = anna.post("/", **fields)
        assert (page.status, told in page.words) == (400, True), (fields, page.words)
        assert page.tree.xpath("//*[@aria-invalid='true']"), fields
    for query in (
        "q=%00", "q=%ED%A0%80", "q=%ff", "q=12,50&dopo=x", "q=12,50&dopo=" + "A" * 4000, "q=12,50&come=persona",
        "q=12,50&come=%00", "ente=%00", "psp=%00", "psp=%ED%A0%80", "ricerca=", "ricerca=%00", "da=%00", "a=0001-01-01",
        "q=" + "%20" * 500, "q=&dopo=", "dopo=WyJ4IiwgMSwgMiwgM10", "q=1&q=2",
        "q=/URI/2026-07-01ABI03069-S1", "segnalazione=second_receipt&come=x",
    ):  # fmt: skip
        for path in ("/", "/cerca.csv"):
            page = anna.get(f"{path}?{query}")
            assert page.status in (200, 302, 400, 404), (path, query)


def test_searches_are_few(small):
    """A session keeps the last searches only, each once; an older one asks to be written again."""
    anna = small.browser("anna")
    first, _ = look(anna, CODE)
    for number in range(20):
        look(anna, f"RSSMRA80A01H{number:03}U")
    page = anna.get(first)
    assert page.status == 404
    assert "scrivila di nuovo" in page.words
    last, _ = look(anna, "RSSMRA80A01H000U")
    again, _ = look(anna, "RSSMRA80A01H000U")
    assert anna.get(last).status == 200  # where "back" leads
    assert again == last


def test_slow_search(small, monkeypatch):
    """A search that the database ends for its time says what to do."""
    from station.errors import StoreError

    def slow(*_args, **_named):
        raise StoreError(reason="QueryCanceled 57014")

    monkeypatch.setattr("station.store.queries.page", slow)
    _, page = look(small.browser("anna"), "Mario Rossi")
    assert page.status == 400
    assert "scegli meno giorni" in page.words
