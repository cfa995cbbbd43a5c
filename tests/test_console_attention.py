"""Da controllare: what waits for a person, and refused requests with dry run, replay and discard."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from console import Site
from sqlalchemy import insert, select, update

from station import store
from station.console import faults, jobs
from station.errors import RefusalError
from station.store import tables

GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "otto", "ecs": [EC], "role": "operator"},
    {"user": "bruno", "ecs": ["*"], "role": "operator"},
    {"user": "carla", "ecs": [OTHER_EC], "role": "admin"},
]
ECS = [{"id": EC, "name": "Comune di Prova", "reconcile": False}, {"id": OTHER_EC, "reconcile": False}]
REFUSED = "/da-controllare/rifiutate"


@pytest.fixture
def site(database_url):
    site = Site(database_url, ec=ECS, grant=GRANTS)
    yield site
    site.close()


def arrived(site, outcome, at):
    """Have a receipt arrive at another time."""
    with store.transaction(site.engine) as connection:
        its = update(tables.receipt).filter_by(receipt_id=outcome.receipt.receipt_id)
        connection.execute(its.values(received_at=at))


def rows(site, table):
    with store.transaction(site.engine, readonly=True) as connection:
        return connection.execute(select(table)).all()


def invalid(id_pa=EC):
    return a_request(idPA=id_pa, outcome="MAYBE")


def test_nothing_to_do(site):
    """Without anything to decide the page is calm."""
    site.push(a_request())
    page = site.browser("anna").get("/da-controllare")
    assert page.status == 200
    assert "Tutto in ordine" in page.words
    assert not page.tree.xpath("//main//h2")


def test_matters(site):
    """Each matter has its count, its meaning and a link that leads to its list; only the user's ECs count."""
    site.push(invalid())
    site.push(invalid())
    site.push(invalid(OTHER_EC))
    first = a_request()
    site.push(first)
    site.push(first.but(receiptId="anothertoken"))
    site.push(a_request(noticeNumber="301000000000000017", creditorReferenceId="99999999999999999"))
    now = datetime.now(UTC)
    item = {"state": "open", "reason": "not_yet", "attempts": 3, "first_at": now, "last_at": now,
            "next_attempt_at": now, "last_error": "404", "request_id": "abc"}  # fmt: skip
    with store.transaction(site.engine) as connection:
        its = [{"id_pa": EC, "iuv": "0100", "amount": 12}, {"id_pa": OTHER_EC, "iuv": "0200", "amount": 5}]
        connection.execute(insert(tables.reconcile_item), [item | one for one in its])
    page = site.browser("anna").get("/da-controllare")
    titles = {" ".join(one.text_content().split()) for one in page.tree.xpath("//main//h2")}
    assert titles == {
        "Richieste rifiutate 2", "Ricevute mancanti 1", "Pagamenti doppi 1", "IUV diverso dall'avviso 1",
    }  # fmt: skip
    assert "Richieste rifiutate 3" in site.browser("bruno").get("/da-controllare").words
    start = site.browser("anna").get("/").words
    assert "Da controllare: 2 richieste rifiutate, 1 ricevuta mancante." in start
    for address in page.tree.xpath("//ul[@class='console-matters']//a/@href"):
        listed = site.browser("anna").get(address)
        assert listed.status == 200
        assert "0200" not in listed.text
        assert OTHER_EC not in listed.text
        assert len(listed.tree.xpath("//main//tbody/tr")) in (1, 2)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("This element is not expected. Expected is ( idPSP ).",
         "il campo non è previsto in questa posizione, dove ci si aspetta «Codice del PSP»"),
        ("Missing child element(s). Expected is one of ( debtor, payer ).",
         "manca un campo obbligatorio: «Debitore», «Versante»"),
        ("something new", "il campo non rispetta le regole"),
    ],
)  # fmt: skip
def test_reason_names_what_is_expected(rule, words):
    """A field in a wrong place is where another is missing: the reason names that one."""
    told = faults.reason(f"/paSendRTV2Request/receipt/PSPCompanyName (line 1): {rule}").text
    assert told == f"Nel campo «Nome del PSP» (riga 1 del documento): {words}."


def test_silence_is_that_of_the_alert():
    """An EC counts as silent after the time that the alert rule has."""
    rules = (Path(__file__).parent.parent / "deploy/prometheus/alerts.yml").read_text()
    days = re.search(r"station_last_push_timestamp_seconds\) > (\d+) \* 86400", rules)
    assert timedelta(days=int(days[1])) == jobs.SILENT_AFTER


def test_silent_ecs_and_late_jobs(database_url):
    """An EC without pushes and a job that has not run are told, to those who may see the EC."""
    site = Site(database_url, ec=[{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC}], grant=GRANTS)
    arrived(site, site.push(a_request()), datetime.now(UTC) - timedelta(days=4))
    arrived(site, site.push(a_request(idPA=OTHER_EC)), datetime.now(UTC) - timedelta(days=4))
    words = site.browser("anna").get("/da-controllare").words
    assert "Enti senza ricevute 1" in words
    assert "Comune di Prova: ultima il" in words
    assert "Lavori in ritardo 1" in words
    assert "Riconciliazione delle ricevute, Comune di Prova: mai completata" in words
    assert OTHER_EC not in words
    assert "Lavori in ritardo 2" in site.browser("bruno").get("/da-controllare").words
    site.close()


def test_refused_request(site):
    """The page says in Italian which rule was broken and what to do, and shows the document without personal data."""
    outcome = site.push(a_request(outcome="MAYBE", debtor__fullName="Rossi <b>Mario</b>"))
    anna = site.browser("anna")
    (link,) = anna.get(REFUSED).tree.xpath("//main//tbody//a/@href")
    page = anna.get(link)
    assert page.status == 200
    assert link == f"{REFUSED}/{EC}/{outcome.refused_id}"
    assert "Nel campo «Esito»" in page.words
    assert "il valore non è tra quelli ammessi" in page.words
    assert "Che cosa fare" in page.words
    assert "Rossi" not in page.text
    assert "<!-- QUI:" in page.tree.xpath("string(//pre)")
    assert "Scarta" not in page.words  # a reader looks
    assert "Scarta la richiesta" in site.browser("otto").get(link).words
    assert len(page.content) < 30_000


def test_hostile_request(site):
    """What a sender wrote stands on the pages as text."""
    hostile = "<script>alert(1)</script>\u202e=1+1\u0430"
    request = a_request(receiptId=hostile, noticeNumber=hostile, creditorReferenceId=hostile, idStation=hostile[:35])
    outcome = site.push(request)
    anna = site.browser("anna")
    for address in (REFUSED, f"{REFUSED}/{EC}/{outcome.refused_id}"):
        page = anna.get(address)
        assert page.status == 200
        assert not page.tree.xpath("//main//script")
        assert hostile in {one.text for one in page.tree.xpath("//main//bdi")}


@pytest.mark.parametrize("fault", [RefusalError, *RefusalError.__subclasses__()])
def test_faults_have_words(fault):
    """Each fault code has words of its own, and tells what to do."""
    found = faults.fault(fault.fault_code)
    assert found.to_do
    assert found is not faults.fault("UNKNOWN")


def test_document_is_written_down(site):
    """The exact bytes are a download, and who took them is written down with the debtor."""
    request = invalid()
    outcome = site.push(request)
    page = site.browser("anna").get(f"{REFUSED}/{EC}/{outcome.refused_id}/documento")
    assert page.content == an_envelope(request)
    assert page.headers["Content-Disposition"].startswith("attachment")
    (access,) = rows(site, tables.console_access)
    assert (access.username, access.action, access.id_pa) == ("anna", "xml", EC)
    assert access.subject == request["receipt.debtor.uniqueIdentifier.entityUniqueIdentifierValue"]


def test_dry_run_and_replay(site):
    """A dry run changes nothing; a replay stores the receipt, in the name of the user."""
    # Refused while the EC was not configured.
    outcome = site.push(a_request(), known=False)
    address = f"{REFUSED}/{EC}/{outcome.refused_id}"
    page = site.browser("anna").post(f"{address}/prova")
    assert (page.status, rows(site, tables.receipt)) == (200, [])
    assert "La ricevuta sarebbe memorizzata" in page.words
    assert site.browser("anna").post(f"{address}/rielabora").status == 403
    otto = site.browser("otto")
    page = otto.post(f"{address}/rielabora")
    assert (page.status, page.headers["Location"]) == (303, address)
    page = otto.get(address)
    assert "La ricevuta è stata memorizzata" in page.words
    assert "console:otto" in page.words
    assert "Accolta" in page.words
    assert len(rows(site, tables.receipt)) == 1
    assert [row.operator for row in rows(site, tables.refused_history)] == [None, "console:otto"]
    assert "Nessuna richiesta" in otto.get(REFUSED).words


def test_conflict(site):
    """Where a request contradicts the stored receipt, the dry run shows in what, without personal data."""
    request = a_request()
    site.push(request)
    other = site.push(request.but(PSPCompanyName="Another PSP", debtor__fullName="Verdi Anna"))
    page = site.browser("anna").post(f"{REFUSED}/{EC}/{other.refused_id}/prova")
    assert "sarebbe ancora rifiutata" in page.words
    assert "Another PSP" in page.words
    assert "Verdi" not in page.text


def test_replay_of_a_page(site):
    """The requests of a page are tried, and replayed, together."""
    for _ in range(3):
        site.push(a_request(), known=False)
    site.push(invalid())
    otto = site.browser("otto")
    ids = otto.get(REFUSED).tree.xpath("//input[@name='richiesta']/@value")
    assert len(ids) == 4
    assert not otto.get(f"{REFUSED}?motivo=PAA_ID_DOMINIO_ERRATO&stato=discarded").tree.xpath("//tbody/tr")
    page = otto.post(f"{REFUSED}/rielabora", richiesta=ids, prova="1")
    assert page.words.count("La ricevuta sarebbe memorizzata") == 3
    assert rows(site, tables.receipt) == []
    assert site.browser("anna").post(f"{REFUSED}/rielabora", richiesta=ids).status == 403
    page = otto.post(f"{REFUSED}/rielabora", richiesta=ids)
    assert page.status == 303
    assert "3 richieste accolte, 1 resta rifiutata" in otto.get("/").text.lower()
    assert len(rows(site, tables.receipt)) == 3
    for wrong in ([], ["x"], ids * 7):
        assert otto.post(f"{REFUSED}/rielabora", richiesta=wrong).status in (400, 404)


def test_discard(site):
    """A request is discarded with a reason, in the name of an operator, and can be accepted later."""
    outcome = site.push(invalid())
    address = f"{REFUSED}/{EC}/{outcome.refused_id}"
    otto = site.browser("otto")
    for reason in ("", "  ", "x" * 501, "a\0b"):
        page = otto.post(f"{address}/scarta", motivo=reason)
        assert page.status == 400
        assert page.tree.xpath("//input[@aria-invalid='true']")
    assert site.browser("anna").post(f"{address}/scarta", motivo="test").status == 403
    assert otto.post(f"{address}/scarta", motivo="Prova del <b>PSP</b>, ticket 4711").status == 303
    page = otto.get(address)
    assert "Prova del <b>PSP</b>, ticket 4711" in page.words
    assert "console:otto" in page.words
    assert "Scarta la richiesta" not in page.words
    otto.post(f"{address}/scarta", motivo="again")
    assert "era già chiusa" in otto.get(address).words


def test_pages_of_refused_requests(site):
    """All requests are on some page, each once, the latest first."""
    for _ in range(30):
        site.push(invalid())
    anna, seen, address = site.browser("anna"), [], REFUSED
    while address:
        page = anna.get(address)
        assert page.status == 200
        assert len(page.content) < 30_000
        seen += page.tree.xpath("//main//tbody//a/@href")
        address = next(iter(page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")), None)
    assert len(seen) == len(set(seen)) == 30


def test_bad_addresses(site):
    """What is no address of ours is a plain page."""
    bruno = site.browser("bruno")
    for address in (
        f"{REFUSED}?dopo=x", f"{REFUSED}?dopo=%00", f"{REFUSED}?dopo=" + "a" * 5000, f"{REFUSED}?motivo=%00",
        f"{REFUSED}?motivo=%ED%A0%80", f"{REFUSED}?stato=x", f"{REFUSED}?ente=a%00", "/da-controllare/mancanti?dopo=x",
        "/da-controllare/segnalate/second_receipt?dopo=W10",
    ):  # fmt: skip
        assert bruno.get(address).status == 400
    assert bruno.get("/da-controllare/segnalate/nothing").status == 404


def test_foreign(site):
    """A foreign request is as one that does not exist, in every way."""
    outcome = site.push(invalid(OTHER_EC))
    without = site.push(a_request(idPA=""))
    foreign = [(OTHER_EC, outcome.refused_id), ("none", without.refused_id), ("none", outcome.refused_id),
               (EC, outcome.refused_id)]  # fmt: skip
    otto = site.browser("otto")
    for id_pa, refused_id in foreign:
        address = f"{REFUSED}/{id_pa}/{refused_id}"
        nothing = otto.get(f"{REFUSED}/{EC}/0123456789abcdef")
        for page in (otto.get(address), otto.get(f"{address}/documento"), otto.post(f"{address}/prova"),
                     otto.post(f"{address}/rielabora"), otto.post(f"{address}/scarta", motivo="x"),
                     otto.post(f"{REFUSED}/rielabora", richiesta=f"{id_pa}/{refused_id}")):  # fmt: skip
            assert (page.status, page.words) == (404, nothing.words)
    assert site.browser("otto").get(f"{REFUSED}?ente={OTHER_EC}").status == 404
    assert "Nessuna richiesta" in otto.get(f"{REFUSED}?stato=tutte").words
    bruno = site.browser("bruno")
    assert "Non leggibile" in bruno.get(f"{REFUSED}/none/{without.refused_id}").words
    assert bruno.get(f"{REFUSED}/{OTHER_EC}/{outcome.refused_id}").status == 200
    assert len(rows(site, tables.refused_history)) == 2


def test_document_that_names_another_ec(site):
    """Whatever EC a request is kept under, what its document names decides: no foreign receipt is shown or written."""
    outcome = site.push(a_request(idPA=OTHER_EC), known=False)
    with store.transaction(site.engine) as connection:
        refused = connection.execute(select(tables.refused)).one()._asdict()
        connection.execute(insert(tables.refused), refused | {"id_pa": EC})
    address = f"{REFUSED}/{EC}/{outcome.refused_id}"
    otto = site.browser("otto")
    for page in (otto.get(address), otto.get(f"{address}/documento"), otto.post(f"{address}/prova"),
                 otto.post(f"{address}/rielabora"),
                 otto.post(f"{REFUSED}/rielabora", richiesta=f"{EC}/{outcome.refused_id}")):  # fmt: skip
        assert page.status == 404
    assert rows(site, tables.receipt) == []
    assert site.browser("bruno").post(f"{REFUSED}/{OTHER_EC}/{outcome.refused_id}/rielabora").status == 303
    assert len(rows(site, tables.receipt)) == 1
