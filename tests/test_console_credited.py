"""Accrediti: what a bank line is made of, what is missing, what was not credited, and nothing of another EC."""

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from build import EC, OTHER_EC, a_request, a_transfer, an_envelope
from console import Page, Site
from refusals import Door
from sqlalchemy import select

from station import store
from station.flow_columns import ITALIAN, MISSING, PAYMENTS
from station.reconcile.matching import match
from station.store import credited, flows, tables
from station.store.flow_pages import find_flow, sums_of_flow
from station.store.paging import RowPlace
from station.store.rows import insert_rows

NOW = datetime.now(UTC).replace(microsecond=0)
FLOW = "2026-11-10ABI99999-S011516185"
CONFIG: dict[str, Any] = {"ec": [{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC, "name": "Provincia"}]}
GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "olga", "ecs": [EC], "role": "operator"},
    {"user": "dora", "ecs": [OTHER_EC], "role": "operator"},
    {"user": "carla", "ecs": ["*"], "role": "admin"},
]


@pytest.fixture
def site(database_url):
    site = Site(database_url, **CONFIG, grant=GRANTS)
    yield site
    site.close()


@pytest.fixture
def door(site):
    return Door(site.app.engine)


def publish(door: Door, name: str, lines: list[dict[str, Any]], ec: str = EC, **more: Any) -> None:
    """A flow as a walk stores it."""
    at = NOW - timedelta(days=20)
    flow = {
        "id_pa": ec, "fdr": name, "psp_id": "ABI99999", "revision": 1, "published": at, "flow_date": at,
        "listed_at": at, "fetched_at": at, "attempts": 0, "next_attempt_at": at, "superseded": False,
        "regulation": f"TRN{name[-6:]}", "regulation_date": at.date(), "psp_name": "Banca Immaginaria",
        "tot_payments": len(lines), "sum_payments": sum((Decimal(line["amount"]) for line in lines), Decimal()),
    } | more  # fmt: skip
    key = {column: flow[column] for column in ("id_pa", "fdr", "psp_id", "revision")}
    rows = [
        key | {"position": place, "superseded": False, "pay_date": at, "id_transfer": 1, "pay_status": 0}
        | line | {"amount": Decimal(line["amount"])}
        for place, line in enumerate(lines, start=1)
    ]  # fmt: skip
    with store.transaction(door.engine) as connection:
        insert_rows(connection, tables.fdr_flow, [flow])
        insert_rows(connection, tables.fdr_payment, rows)
        flows.set_watermark(connection, ec, NOW)
        flows.set_walked(connection, ec, NOW)


def line_of(request: Any, **over: Any) -> dict[str, Any]:
    return {"iuv": request["creditorReferenceId"], "iur": request["receiptId"],
            "amount": request["transfers.0.transferAmount"], **over}  # fmt: skip


def a_payment(ec: str = EC, **over: Any) -> Any:
    when = (NOW - timedelta(days=20)).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = a_request(idPA=ec, fiscalCode=ec, paymentDateTime=when, **over)
    request.receipt["transferList"]["transfer"] = [
        a_transfer(1, transferAmount=request["paymentAmount"], fiscalCodePA=ec)
    ]
    return request


def take(door: Door, *requests: Any) -> None:
    for request in requests:
        door.take(an_envelope(request), CONFIG)


def seen(page: Page) -> str:
    """The text that a reader sees, a blank between one element and the next."""
    return " ".join(" ".join(page.tree.xpath("//main//text()")).split())


def rows(page: Page) -> list[dict[str, str]]:
    assert page.status == 200, page.text
    return list(csv.DictReader(io.StringIO(page.content.decode("utf-8-sig")), delimiter=";"))


def address(fdr: str = FLOW, ec: str = EC, psp: str = "ABI99999", kind: str = "flusso", **more: Any) -> str:
    return f"/accrediti/{ec}/{kind}?{urlencode({'nome': fdr, 'psp': psp, **more})}"


def accesses(site: Site) -> list[Any]:
    with store.transaction(site.app.engine, readonly=True) as connection:
        return list(connection.execute(select(tables.console_access)))


@pytest.fixture
def story(door) -> list[Any]:
    """A flow of five: here, by IUV, missing, may never have one, and missing till just now."""
    requests = [a_payment() for _ in range(5)]
    here, by_iuv, missing, never, late = requests
    publish(door, FLOW, [
        line_of(here), line_of(by_iuv, iur="another"), line_of(missing), line_of(never, pay_status=9), line_of(late),
    ])  # fmt: skip
    take(door, here, by_iuv)
    match(door.engine, EC)
    take(door, late)
    return requests


def test_a_flow(site, door, story):
    """Each payment with its receipt or why there is none, sums that agree, and the words for both."""
    page = site.browser("anna").get(address())
    told = [" ".join(row.text_content().split()) for row in page.tree.xpath("//tbody/tr")]
    assert [
        words in row for words, row in zip(("c'è", "c'è, per IUV", "manca", "non prevista", "c'è"), told, strict=True)
    ]
    assert len(page.tree.xpath("//tbody//a[contains(., 'Apri')]")) == 3
    assert "Senza ricevuta 120,50 € in 1 pagamento" in seen(page)
    assert "il bonifico dovrebbe essere di 602,50 €" in seen(page)
    assert "TRN del bonifico TRN516185" in seen(page)
    assert "Pinco Pallino" not in page.text
    assert accesses(site) == []


def test_the_file_of_a_flow(site, door, story):
    """It has what `station fdr show --csv --italian` has, and who sent for it is written down."""
    found = rows(site.browser("anna").get(address(kind="flusso.csv")))
    assert list(found[0]) == [ITALIAN[name] for name in PAYMENTS]
    assert [row["Ricevuta"] for row in found] == ["presente", "per IUV", "MANCANTE", "non prevista", "presente"]
    assert found[0]["Debitore: nome"] == "Pinco Pallino"
    (row,) = accesses(site)
    assert (row.username, row.action, row.id_pa, row.found) == ("anna", "csv", EC, 3)


def test_sums_that_differ(site, door):
    """What the PSP, pagoPA and the payments say is compared, in the list, too."""
    publish(door, FLOW, [{"iuv": "1", "iur": "1", "amount": "10.00", "pay_status": 9}], sum_payments=Decimal("12.00"),
            computed_sum_payments=Decimal("10.00"), computed_tot_payments=2)  # fmt: skip
    publish(door, "2026-11-11ABI99999-1", [{"iuv": "2", "iur": "2", "amount": "1.00", "pay_status": 9}])
    match(door.engine, EC)
    anna = site.browser("anna")
    words = seen(anna.get(address()))
    assert "Le somme non coincidono." in words
    for told in ("calcolata da pagoPA.", "dei pagamenti elencati.", "Il numero di pagamenti dichiarato"):
        assert told in words
    listed = seen(anna.get("/accrediti?mostra=problemi"))
    assert FLOW in listed
    assert "2026-11-11" not in listed
    assert "somme diverse" in listed


def test_revisions_and_unread(site, door):
    """A revision that was replaced says so, and a flow that could not be read; both lead on."""
    line = {"iuv": "1", "iur": "1", "amount": "10.00"}
    publish(door, FLOW, [line], superseded=True)
    publish(door, FLOW, [line | {"amount": "11.00"}], revision=2)
    publish(door, "2026-11-12ABI99999-9", [], fetched_at=None, error="the API <b>failed</b>", attempts=3)
    publish(door, "2026-11-13ABI99999-9", [], published=None)
    anna = site.browser("anna")
    assert "11,00 €" in seen(anna.get(address()))
    old = anna.get(address(revisione=1))
    assert "Questa revisione è stata sostituita" in seen(old)
    assert old.tree.xpath("//a[contains(., 'revisione che vale')]")
    unread = anna.get(address("2026-11-12ABI99999-9"))
    assert "the API <b>failed</b>" in seen(unread)
    assert "3 tentativi" in seen(unread)
    listed = seen(anna.get("/accrediti"))
    assert "non ancora letto" in listed
    assert "2026-11-13" in listed
    assert anna.get(address(revisione=3)).status == 404


@pytest.mark.parametrize(
    "line",
    [
        f"/PUR/LGPE-RIVERSAMENTO/URI/{FLOW}",
        f"BON.DA BANCA /PUR/LGPE-RIVERSAMENTO/URI/{FLOW[:16]} {FLOW[16:]} /TXT/x",
        "/PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI999",
        FLOW,
        "TRN516185",
    ],
)
def test_a_bank_line(site, door, story, line):
    """The line as banks print it, the flow's name or the TRN leads to the flow."""
    page = site.browser("anna").get(f"/accrediti?riga={quote(line)}")
    assert (page.status, page.headers["Location"]) == (303, address())


def test_other_lines(site, door, story):
    """Several flows to choose from; a payment alone by its IUV; and what else to try."""
    publish(door, "2026-11-10ABI99999-S099", [{"iuv": "1", "iur": "1", "amount": "10.00"}])
    publish(door, "2026-11-10ABI00000-OTHER", [{"iuv": "1", "iur": "1", "amount": "10.00"}], ec=OTHER_EC)
    anna = site.browser("anna")
    several = anna.get("/accrediti?riga=2026-11-10ABI")
    assert "Ci sono più flussi" in seen(several)
    assert "OTHER" not in several.text
    here = story[0]
    for line in (f"/RFB/{here['creditorReferenceId']}/120.50", here["creditorReferenceId"]):
        alone = anna.get(f"/accrediti?riga={quote(line)}")
        assert "È un pagamento riversato da solo" in seen(alone)
        assert len(alone.tree.xpath("//tbody/tr")) == 1
    for line in ("STIPENDI", "'; DROP TABLE receipt; --", "/URI/2026-1", "\x1b[31m", "2026-11-10ABI00000-OTHER"):
        none = anna.get(f"/accrediti?riga={quote(line)}")
        assert none.status == 200
        assert "Non c'è un accredito" in seen(none)
    assert anna.get(f"/accrediti?riga={'x' * 1001}").status == 400
    assert anna.get("/accrediti?riga=a%00b").status == 400


def test_pages(site, door):
    """Flows and payments come page by page, each once, the same as all at once."""
    for number in range(60):
        name = "Banca B" if number % 7 == 0 else "Banca A"
        line = {"iuv": "1", "iur": "1", "amount": "1.00"}
        publish(door, f"2026-10-01X-{number:03}", [line], published=NOW - timedelta(hours=number // 3), psp_name=name)
    publish(door, FLOW, [{"iuv": str(n), "iur": str(n), "amount": "1.00"} for n in range(1, 61)])
    match(door.engine, EC)
    anna = site.browser("anna")
    flow_links = "//tbody//a[starts-with(@href, '/accrediti/')]/text() | //tbody//a/bdi/text()"
    for start, column, number in (("/accrediti", flow_links, 61), ("/accrediti?psp=banca+b", flow_links, 9),
                                  (address(), "//tbody/tr/td[1]/text()", 60),
                                  ("/accrediti/mancanti", "//tbody/tr/td[2]//bdi/text()", 120)):  # fmt: skip
        seen: list[str] = []
        at: str | None = start
        while at:
            page = anna.get(at)
            assert page.status == 200
            assert len(page.content) < 30_000
            found = page.tree.xpath(column)
            assert len(found) <= 25
            seen += found
            at = next(iter(page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")), None)
        assert len(seen) == number, start
        if start != "/accrediti/mancanti":
            assert len(set(seen)) == number
    assert len(rows(anna.get("/accrediti/flussi.csv"))) == 61
    assert len(rows(anna.get("/accrediti/mancanti.csv"))) == 120
    days = (NOW - timedelta(days=20)).date().isoformat()
    assert len(anna.get(f"/accrediti?da={days}").tree.xpath("//tbody/tr")) == 1


def test_missing_and_uncredited(site, door, story):
    """Both lists, their files, and the balance say the same as `station fdr` does."""
    lonely = a_payment(paymentAmount="33.00")
    take(door, lonely)
    match(door.engine, EC)
    anna = site.browser("anna")
    page = anna.get("/accrediti/mancanti")
    assert "120,50 € 1 pagamento" in seen(page)
    assert "non ancora chiesta" in seen(page)
    (row,) = rows(anna.get("/accrediti/mancanti.csv"))
    assert list(row) == [ITALIAN[name] for name in MISSING]
    assert row["IUV"].strip() == story[2]["creditorReferenceId"]
    assert accesses(site) == []
    page = anna.get("/accrediti/non-accreditati")
    assert "33,00 € 1 versamento" in seen(page)
    assert "Pinco Pallino" not in page.text
    (row,) = rows(anna.get("/accrediti/non-accreditati.csv"))
    assert (row["Importo (euro)"], row["Debitore: nome"]) == ("33,00", "Pinco Pallino")
    (written,) = accesses(site)
    assert (written.action, written.id_pa, written.found) == ("csv", EC, 1)
    words = seen(anna.get("/accrediti/saldi"))
    for told in ("Accreditato 602,50 €", "Con ricevuta 361,50 €", "Senza ricevuta 120,50 €", "Senza accredito 33,00 €"):
        assert told in words
    (row,) = rows(anna.get("/accrediti/saldi.csv"))
    assert row["Con ricevuta (euro)"] == "361,50"


def test_sums_of_a_flow(door, story):
    """The sums are those of the payments, told apart as the balance tells them apart."""
    with store.transaction(door.engine, readonly=True) as connection:
        flow = find_flow(connection, EC, FLOW, "ABI99999")
        assert flow is not None
        sums = sums_of_flow(connection, flow)
        assert (sums.number, sums.missing, sums.not_expected) == (5, 1, 1)
        balance = credited.balance(connection, EC, paid_to=None)
    assert (sums.amount, sums.missing_amount, sums.not_expected_amount) == (
        balance.credited, balance.missing, balance.not_expected,
    )  # fmt: skip


def test_a_gap(site, door):
    """An operator of the EC takes note of a gap; a reader cannot, and it is no one else's."""
    publish(door, FLOW, [])
    with store.transaction(door.engine) as connection:
        flows.note_gap(connection, EC, NOW - timedelta(days=90), NOW - timedelta(days=40))
    assert "Mancano i flussi" in seen(site.browser("anna").get("/accrediti/saldi"))
    assert "Prendo atto" not in seen(site.browser("anna").get("/accrediti/saldi"))
    assert "Mancano" not in seen(site.browser("dora").get("/accrediti/saldi"))
    form = f"/accrediti/{EC}/buco"
    assert [site.browser(user).post(form).status for user in ("anna", "dora")] == [403, 404]
    olga = site.browser("olga")
    assert olga.get("/accrediti/saldi").tree.xpath("//form[@method='post']/@action")[-1] == form
    done = olga.post(form)
    assert (done.status, done.headers["Location"]) == (303, f"/accrediti/saldi?ente={EC}")
    page = olga.get(done.headers["Location"])
    assert "Hai preso atto" in seen(page)
    assert "Mancano i flussi" not in seen(page)
    with store.transaction(door.engine, readonly=True) as connection:
        mark = flows.progress(connection, EC)
    assert mark is not None
    assert mark.gap_acknowledged_by == "console:olga"
    assert olga.post("/accrediti/12345678901/buco").status == 404


def test_foreign_ecs(site, door, story):
    """Another EC's flows, payments and receipts are not there: each page answers as for what does not exist."""
    dora = site.browser("dora")
    for kind in ("flusso", "flusso.csv"):
        foreign, unknown = dora.get(address(kind=kind)), dora.get(address(ec="12345678901", kind=kind))
        assert foreign.status == unknown.status == 404
        assert seen(foreign) == seen(unknown)
    for page in ("/accrediti", "/accrediti/flussi.csv", "/accrediti/mancanti", "/accrediti/mancanti.csv",
                 "/accrediti/non-accreditati", "/accrediti/non-accreditati.csv", "/accrediti/saldi",
                 "/accrediti/saldi.csv"):  # fmt: skip
        assert dora.get(f"{page}?ente={EC}").status == 404
        text = dora.get(page).text
        assert EC not in text
        assert FLOW not in text
    for line in (FLOW, "TRN516185", story[0]["creditorReferenceId"]):
        assert "Non c'è un accredito" in seen(dora.get(f"/accrediti?riga={line}"))


def test_a_receipt_of_another_ec(site, door):
    """A flow may be matched with another EC's copy: it is said to be there, and nothing of it is shown."""
    payment = a_payment(OTHER_EC, description="SEGRETO")
    publish(door, FLOW, [line_of(payment)], receiver_id=OTHER_EC)
    take(door, payment)
    match(door.engine, EC)
    page = site.browser("anna").get(address())
    assert "di un altro ente" in page.tree.xpath("string(//tbody)")
    assert payment["noticeNumber"] not in page.text
    assert not page.tree.xpath("//tbody//a")
    (row,) = rows(site.browser("anna").get(address(kind="flusso.csv")))
    assert row["Ricevuta"] == "di un altro ente"
    assert row["Debitore: nome"] == row["Oggetto del pagamento"] == ""
    both = site.browser("carla").get(address())
    assert both.tree.xpath("//tbody//a/@href") == [f"/ricevute/{OTHER_EC}/{payment['receiptId']}"]


@pytest.mark.parametrize("name", ["a/b c", "../x", "=1+1", "<b>x</b>", "fl\u202eow", "a%2Fb&c", "ü.csv"])
def test_hostile_names(site, door, name):
    """A flow's name may hold any characters: its page is found and shows them."""
    psp = name[::-1]
    publish(door, name, [{"iuv": "=1", "iur": "1", "amount": "1.00"}], psp_id=psp)
    anna = site.browser("anna")
    (link,) = anna.get("/accrediti").tree.xpath("//tbody//a/@href")
    page = anna.get(link)
    assert page.status == 200
    assert page.tree.xpath("string(//h1)") == f"Flusso {name}"
    (file,) = page.tree.xpath("//a[contains(., 'CSV')]/@href")
    assert rows(anna.get(file))[0]["IUV"] == "'=1"


def test_bad_addresses(site, door, story):
    """What no link leads to is told plainly."""
    anna, carla = site.browser("anna"), site.browser("carla")
    for place in ("x", RowPlace(("a",)).encode(), "é", "%00"):
        for page in ("/accrediti", "/accrediti/mancanti", "/accrediti/non-accreditati", address()):
            sign = "&" if "?" in page else "?"
            assert anna.get(f"{page}{sign}dopo={quote(place, safe='%')}").status == 400, (page, place)
    assert anna.get("/accrediti?da=x").status == anna.get("/accrediti?psp=%00").status == 400
    assert anna.get(address("%00")).status in (400, 404)
    assert anna.get(f"/accrediti/{EC}/flusso?nome=%00&psp=x").status == 400
    assert anna.get(f"/accrediti/{EC}/flusso").status == 404
    for ec in ("x", "%00", "1" * 1000):
        assert carla.get(f"/accrediti/{ec}/flusso?nome={FLOW}&psp=ABI99999").status == 404
        assert carla.get(f"/accrediti?ente={ec}").status == 404
    assert carla.get("/accrediti/saldi?dopo=%00").status == 200


def test_places():
    """A place comes back as it was, and a word that is none is refused."""
    place = RowPlace((NOW, "a", "é\u202e", 3))
    assert RowPlace.decode(place.encode(), datetime, str, str, int) == place
    for kinds in ((datetime, str, str), (datetime, str, str, str), (datetime, str, int, int)):
        with pytest.raises(ValueError):
            RowPlace.decode(place.encode(), *kinds)
    for value, kind in (("a\0", str), (NOW.replace(tzinfo=None), datetime), (-1, int), (2**63, int), (True, int),
                        (1.5, int), (None, str), ([], str)):  # fmt: skip
        with pytest.raises(ValueError):
            RowPlace.decode(RowPlace((value,)).encode(), kind)
