"""Incassi: the same numbers as the export, whose they are, and the receipts behind them."""

import csv
import io
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from build import ABSENT, EC, OTHER_EC, a_request, a_stamp_transfer, a_transfer, an_envelope
from console import Page, Site
from refusals import Door
from sqlalchemy import event, update

from station import export, store
from station.clock import ROME, moment
from station.config import Account
from station.console.books import account_of
from station.store import Filter, tables

THIRD_EC, PROVINCE = "66666666666", "55555555555"
ECS = (EC, OTHER_EC, THIRD_EC)
CONFIG: dict[str, Any] = {"ec": [{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC}, {"id": THIRD_EC}]}
GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "bea", "ecs": [EC, OTHER_EC], "role": "reader"},
    {"user": "carla", "ecs": ["*"], "role": "reader"},
]
SEEN = {"anna": (EC,), "bea": (EC, OTHER_EC), "carla": ECS}
ACCOUNTS = [
    {"code": "301", "name": "TARI", "ecs": [EC], "categories": ["9/0201101"],
     "ibans": ["IT88 X000 0000 0000 0000 0000 001"]},
    {"code": "302", "name": "=TARI", "categories": ["9/0201101"]},
    {"code": "399", "ibans": ["IT66Y0000000000000000000002"]},
]  # fmt: skip
CATEGORIES = ("9/0201101IM/", "9/0201102TS/", "9/0301105AP/")
IBANS = ("IT88X0000000000000000000001", "IT66Y0000000000000000000002")
# Around the days on which Italy's clocks change, and midnights there that are another day in UTC.
MOMENTS = (
    "2026-03-28T23:59:59", "2026-03-29T00:00:00", "2026-03-29T01:59:59", "2026-03-29T03:00:00", "2026-03-29T23:59:59",
    "2026-03-30T00:00:00", "2026-10-24T23:30:00", "2026-10-25T00:00:00", "2026-10-25T02:30:00+02:00",
    "2026-10-25T02:30:00+01:00", "2026-10-25T23:59:59", "2026-10-26T00:00:00", "2026-10-31T12:00:00",
)  # fmt: skip
RANGES = (
    ("2026-03-29", "2026-03-29"), ("2026-03-28", "2026-03-30"), ("2026-10-25", "2026-10-25"),
    ("2026-10-24", "2026-10-26"), ("2026-10-01", "2026-10-31"), ("2026-01-01", "2026-12-31"),
)  # fmt: skip


def random_receipts(seed: int, count: int = 40) -> list[Any]:
    """Payments of several ECs, with other ECs' parts and stamps, and the copies that beneficiaries get of them."""
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        owner = dice.choice(ECS)
        transfers = []
        for number in range(1, dice.randint(2, 6)):
            money = f"{dice.randint(1, 99_999) / 100:.2f}"
            to = dice.choice((owner, owner, *ECS, PROVINCE))
            how = {"fiscalCodePA": to, "transferCategory": dice.choice(CATEGORIES), "transferAmount": money}
            if dice.random() < 0.15:
                transfers.append(a_stamp_transfer(number, 200, **how))
            else:
                transfers.append(a_transfer(number, IBAN=dice.choice(IBANS), **how))
        total = sum(Decimal(one["transferAmount"]) for one in transfers)
        request = a_request(
            idPA=owner, fiscalCode=owner, paymentAmount=str(total), paymentDateTime=dice.choice(MOMENTS),
            outcome="KO" if dice.random() < 0.1 else "OK",
        )  # fmt: skip
        request.receipt["transferList"] = {"transfer": transfers}
        found.append(request)
        others = {one["fiscalCodePA"] for one in transfers} & set(ECS) - {owner}
        found += [request.but(idPA=ec) for ec in sorted(others) if dice.random() < 0.7]
    return found


@pytest.fixture
def site(database_url):
    site = Site(database_url, **CONFIG, grant=GRANTS, account=ACCOUNTS)
    yield site
    site.close()


@pytest.fixture
def door(site):
    return Door(site.app.engine)


def take(door: Door, *requests: Any) -> None:
    for request in requests:
        door.take(an_envelope(request), CONFIG)


def rows(page: Page) -> list[dict[str, str]]:
    """A CSV file as Italian spreadsheet programs read it."""
    assert page.status == 200, page.text
    assert page.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(page.content.decode("utf-8-sig")), delimiter=";"))


def total(found: list[dict[str, str]]) -> tuple[int, Decimal]:
    numbers = sum(int(row["Versamenti"]) for row in found)
    return numbers, sum((Decimal(row["Importo (euro)"].replace(",", ".")) for row in found), Decimal("0.00"))


def exported(site: Site, first: str, last: str, ecs: tuple[str, ...], by: str = "paid") -> list[dict[str, Any]]:
    """What `station receipts export --transfers` writes for the same days and ECs."""
    times = {f"{by}_from": moment(first), f"{by}_to": moment(last, end=True)}
    return [
        row
        for ec in ecs
        for batch in export.batches(site.app.engine, Filter(id_pa=ec, **times))
        for row in export.transfers_of(batch)
    ]


def added(found: list[dict[str, Any]]) -> tuple[int, Decimal]:
    return len(found), sum((row["transfer_amount"] for row in found), Decimal("0.00"))


def sorted_out(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The export's rows by what they are for the EC, told apart here by hand."""
    kinds: dict[str, list[dict[str, Any]]] = {"righe": [], "altri": [], "marche": [], "ko": []}
    for row in found:
        if row["outcome"] == "KO":
            kinds["ko"].append(row)
        elif row["fiscal_code_pa"] != row["id_pa"]:
            kinds["altri"].append(row)
        else:
            kinds["marche" if row["transfer_digital_stamp"] else "righe"].append(row)
    return kinds


def test_equal_to_the_export(site, door):
    """Each table adds up to the export's rows of its kind, whatever the days and the user."""
    seed = random.randrange(10**6)
    take(door, *random_receipts(seed, 30))
    for user, seen in SEEN.items():
        browser = site.browser(user)
        ranges = RANGES if user == "bea" else RANGES[-1:]
        for (first, last), chosen in [(one, seen) for one in ranges] + [(RANGES[3], (ec,)) for ec in seen[1:]]:
            query = f"da={first}&a={last}" + (f"&ente={chosen[0]}" if len(chosen) == 1 else "")
            found = exported(site, first, last, chosen)
            kinds = sorted_out(found)
            for table, its in kinds.items():
                assert total(rows(browser.get(f"/incassi.csv?tabella={table}&{query}"))) == added(its), (
                    seed,
                    user,
                    query,
                )
            for table in ("conti", "enti"):
                assert total(rows(browser.get(f"/incassi.csv?tabella={table}&{query}"))) == added(kinds["righe"])
            page = browser.get(f"/incassi?{query}")
            assert page.status == 200
            assert euro(added(kinds["righe"])[1]) in page.words
            assert f"{euro(added(found)[1])} ({len(found)})" in page.words


def euro(amount: Decimal) -> str:
    return f"{amount:,.2f}".translate(str.maketrans(",.", ".,")) + " €"


def test_equal_to_the_command(site, door, run_station):
    """The same by the command itself, and by day of arrival."""
    take(door, *random_receipts(3, 15))
    long_ago = datetime.now(UTC) - timedelta(days=3)
    with store.transaction(site.app.engine) as connection:
        connection.execute(update(tables.receipt).values(received_at=long_ago))
    arrived = long_ago.astimezone(ROME).date().isoformat()
    for by, per, day in (("paid", "pagamento", "2026-10-25"), ("received", "arrivo", arrived)):
        given = (f"--{by}-from", day, f"--{by}-to", day, "--ec", EC)
        written = run_station("receipts", "export", "--transfers", *given, "-").stdout
        amounts = [Decimal(row["transfer_amount"]) for row in csv.DictReader(io.StringIO(written))]
        asked = f"da={day}&per={per}&ente={EC}"
        tables_ = [rows(site.browser("bea").get(f"/incassi.csv?tabella={one}&{asked}"))
                   for one in ("righe", "altri", "marche", "ko")]  # fmt: skip
        assert amounts
        assert total([row for table in tables_ for row in table]) == (len(amounts), sum(amounts))


def test_a_copy_counts_once(site, door):
    """A part of a payment is its beneficiary's takings, and stands apart for the EC that owns the payment."""
    owned = a_request(paymentAmount="100.00", paymentDateTime="2026-11-05T10:00:00")
    owned.receipt["transferList"]["transfer"] = [
        a_transfer(1, transferAmount="70.00"),
        a_transfer(2, transferAmount="30.00", fiscalCodePA=OTHER_EC, companyName="Provincia di Prova"),
    ]
    take(door, owned, owned.but(idPA=OTHER_EC))
    days = "da=2026-11-01&a=2026-11-30"
    both = site.browser("bea")
    assert total(rows(both.get(f"/incassi.csv?{days}"))) == (2, Decimal("100.00"))
    parts = rows(both.get(f"/incassi.csv?tabella=altri&{days}"))
    assert [(row["Beneficiario (codice fiscale)"].strip(), row["Importo (euro)"]) for row in parts] == [
        (OTHER_EC, "30,00"),
        (EC, "70,00"),
    ]
    assert [row["Di cui tra gli incassi del beneficiario (euro)"] for row in parts] == ["30,00", "70,00"]
    # A user of one EC sees the same parts, and nothing of what the other EC has.
    page = site.browser("anna").get(f"/incassi?{days}")
    assert "Incassi di Comune di Prova 70,00 € 1 versamento" in page.words
    assert "Provincia di Prova" in page.words
    (part,) = rows(site.browser("anna").get(f"/incassi.csv?tabella=altri&{days}"))
    assert part["Di cui tra gli incassi del beneficiario: versamenti"] == "0"


def test_receipts_behind(site, door, monkeypatch):
    """The receipts of each line, page by page, add up to it: none twice, none left out."""
    monkeypatch.setattr("station.console.pages.takings._ROWS", 3)
    take(door, *random_receipts(4, 25))
    carla = site.browser("carla")
    page = carla.get("/incassi?da=2026-01-01&a=2026-12-31")
    assert len(page.content) < 33_000
    links = page.tree.xpath("//main//a[starts-with(@href, '/incassi/ricevute')]")
    assert len(links) > 15
    expected = Counter(row["number"] for row in sums_of(page))
    numbers: Counter[int] = Counter()
    pages = 0
    for link in links:
        address, number = link.get("href"), 0
        while address:
            listed = carla.get(address)
            assert listed.status == 200
            assert len(listed.content) < 30_000
            cells = listed.tree.xpath("//tbody/tr/td[contains(@class, 'console-number')][1]")
            number += sum(int(cell.text_content()) for cell in cells)
            address = next(iter(listed.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")), None)
            pages += 1
        numbers[number] += 1
    assert pages > len(links)
    assert numbers == expected


def sums_of(page: Page) -> list[dict[str, int]]:
    """The number of transfers of each row that has a link to its receipts."""
    found = page.tree.xpath("//main//tr[.//a[starts-with(@href, '/incassi/ricevute')]]")
    return [{"number": int(row.xpath("td[contains(@class, 'console-number')]")[0].text_content())} for row in found]


def test_what_a_person_must_know(site, door):
    """Provisional receipts, those without a date, failed payments and stamps are named."""
    when = {"paymentDateTime": "2026-11-05T10:00:00"}
    provisional, ko = a_request(**when), a_request(**when, outcome="KO")
    stamp = a_request(**when, paymentAmount="16.00")
    stamp.receipt["transferList"]["transfer"] = [a_stamp_transfer(1, 200)]
    undated = a_request(paymentDateTime=ABSENT)
    for one in (provisional, ko, undated):
        one.receipt["transferList"]["transfer"] = [a_transfer(1, transferAmount="120.50")]
    take(door, provisional, ko, stamp, undated)
    with store.transaction(site.app.engine) as connection:
        of = tables.receipt.c.receipt_id
        connection.execute(update(tables.receipt).where(of == provisional["receiptId"]).values(source="bizevents"))
        connection.execute(
            update(tables.receipt).where(of == undated["receiptId"]).values(received_at=moment("2026-11-06"))
        )
    words = site.browser("anna").get("/incassi?da=2026-11-05&a=2026-11-06").words
    assert "1 versamento viene da ricevute provvisorie (120,50 €)" in words
    assert "1 ricevuta arrivata in questi giorni non ha la data del pagamento" in words
    assert "Marche da bollo digitali: non sono incassi" in words
    assert "Pagamenti non riusciti (esito KO): non sono incassi" in words
    assert "Incassi di Comune di Prova 120,50 €" in words


def test_accounts():
    """The first account that fits; EC, category and IBAN must each fit where they are named."""
    accounts = [Account.model_validate(one) for one in ACCOUNTS]

    def code(ec: str, category: str, iban: str | None) -> str | None:
        found = account_of(accounts, ec, category, iban)
        return found and found.code

    assert code(EC, "9/0201101IM/", IBANS[0]) == "301"
    assert code(OTHER_EC, "9/0201101IM/", IBANS[0]) == "302"
    assert code(EC, "9/0201101IM/", IBANS[1]) == "302"
    assert code(EC, "9/0301105AP/", IBANS[1]) == "399"
    assert code(EC, "9/0301105AP/", IBANS[0]) is None
    assert code(EC, "9/0301105AP/", None) is None


def test_days(site):
    """Yesterday without a question, a day alone, months; bad days are told at their field."""
    anna = site.browser("anna")
    yesterday = (datetime.now(ROME) - timedelta(days=1)).strftime("%d/%m/%Y")
    assert f"{yesterday}, per data del pagamento" in anna.get("/incassi").words
    assert "28/11/2026, per data" in anna.get("/incassi?da=28/11/2026").words
    month = anna.get("/incassi?da=2026-02-01&a=2026-02-28")
    assert "Dal 01/02/2026 al 28/02/2026" in month.words
    (before,) = month.tree.xpath("//a[contains(., 'Periodo precedente')]/@href")
    assert "da=2026-01-01&a=2026-01-31" in before
    for query, told in {
        "da=x": "Non è una data", "da=2026-02-30": "Non è una data", "a=9999-12-31": "Non è una data",
        "da=0001-01-01": "Non è una data", "da=" + "1" * 10_000: "Non è una data", "da=%00": "Non è una data",
        "da=2026-11-02&a=2026-11-01": "prima dell'inizio", "da=2025-01-01&a=2026-11-01": "al massimo 366",
    }.items():  # fmt: skip
        page = anna.get(f"/incassi?{query}")
        assert (page.status, told in page.words) == (400, True), query
        assert page.tree.xpath("//input[@aria-invalid='true']")
    for address in ("/incassi.csv?da=x", "/incassi.csv?tabella=x", "/incassi?per=x", "/incassi?pagina=-1",
                    "/incassi?pagina=0", "/incassi/ricevute?da=x", "/incassi/ricevute?tassonomia=%00",
                    "/incassi/ricevute?tipo=x", "/incassi/ricevute?dopo=x",
                    f"/incassi/ricevute?iban={'x' * 201}"):  # fmt: skip
        assert anna.get(address).status == 400, address


def test_foreign_ecs(site, door):
    """Another EC's takings are not found, by any of the pages."""
    take(door, a_request(idPA=OTHER_EC, paymentDateTime="2026-11-05T10:00:00"))
    anna = site.browser("anna")
    for page in ("/incassi", "/incassi.csv", "/incassi/ricevute"):
        foreign, unknown = (anna.get(f"{page}?da=2026-11-05&ente={ec}") for ec in (OTHER_EC, "12345678901"))
        assert foreign.status == unknown.status == 404
        assert foreign.words == unknown.words
        assert OTHER_EC not in anna.get(f"{page}?da=2026-11-05").text
    assert "Nessun incasso" in anna.get("/incassi?da=2026-11-05").words


def test_foreign_beneficiary(site, door):
    """A beneficiary has the receipt's name, and the configured one only for those who see that EC."""
    named = [one | {"name": "Provincia configurata"} if one["id"] == OTHER_EC else one for one in CONFIG["ec"]]
    site.app.settings = site.settings.model_validate({"ec": named, "grant": GRANTS})
    request = a_request(paymentAmount="2.00", paymentDateTime="2026-11-05T10:00:00")
    share = a_transfer(1, transferAmount="2.00", fiscalCodePA=OTHER_EC, companyName="Provincia della ricevuta")
    request.receipt["transferList"]["transfer"] = [share]
    take(door, request)
    for user, shown, hidden in (("anna", "della ricevuta", "configurata"), ("bea", "configurata", "della ricevuta")):
        for page in ("/incassi?da=2026-11-05", "/incassi.csv?da=2026-11-05&tabella=altri"):
            text = site.browser(user).get(page).text
            assert f"Provincia {shown}" in text
            assert f"Provincia {hidden}" not in text


def test_too_much(site, monkeypatch):
    """What takes too long says so, and that fewer days help."""
    engine = site.app.engine
    monkeypatch.setattr("station.console.scope.TIMEOUT_S", 0.05)
    of_sqlite = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1e8) SELECT max(x) FROM n"

    def slow(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if "FROM receipt AS r" not in statement:
            return statement, parameters
        return ("SELECT pg_sleep(2)", {}) if engine.dialect.name == "postgresql" else (of_sqlite, ())

    event.listen(engine, "before_cursor_execute", slow, retval=True)
    anna = site.browser("anna")
    for address in ("/incassi", "/incassi.csv", "/incassi/ricevute"):
        page = anna.get(address)
        assert page.status == 503
        assert "scegli meno giorni" in page.words


def test_hostile_values(site, door):
    """Categories and names of beneficiaries are shown as they are; formulas in the file are text."""
    hostile = '=HYPERLINK("x")<script>alert(1)</script>'
    request = a_request(paymentAmount="3.00", paymentDateTime="2026-11-05T10:00:00")
    request.receipt["transferList"]["transfer"] = [
        a_transfer(1, transferAmount="1.00", transferCategory=hostile[:100]),
        a_transfer(2, transferAmount="2.00", fiscalCodePA=PROVINCE, companyName=hostile),
    ]
    take(door, request)
    anna = site.browser("anna")
    page = anna.get("/incassi?da=2026-11-05")
    assert hostile in page.words
    assert "<script>alert" not in page.text
    assert rows(anna.get("/incassi.csv?da=2026-11-05"))[0]["Tassonomia"].startswith("'=")
    assert rows(anna.get("/incassi.csv?da=2026-11-05&tabella=altri"))[0]["Beneficiario"].startswith("'=")
    assert rows(anna.get("/incassi.csv?da=2026-11-05&tabella=conti"))[0]["Conto"] == "senza conto"
