"""Accessi: who looked up whom, for admins, of their ECs only; and a look-up in it is one, too."""

import csv
import io
from datetime import UTC, datetime, timedelta

import pytest
from build import EC, OTHER_EC
from console import Site
from sqlalchemy import select

from station import store
from station.store import tables
from station.store.accesses import write_accesses

GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "admin"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
    {"user": "carla", "ecs": [EC], "role": "operator"},
]
PERSON, FOREIGN = "RSSMRA80A01H501U", "BNCLRA80A41H501X"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


@pytest.fixture
def site(database_url):
    site = Site(database_url, ec=[{"id": EC}, {"id": OTHER_EC}], grant=GRANTS)
    rows = [
        {"id_pa": id_pa, "subject": subject, "username": user, "action": action, "receipt_id": receipt, "found": 1,
         "address": "192.0.2.1", "at": NOW - timedelta(minutes=number)}
        for number, (id_pa, subject, user, action, receipt) in enumerate(
            [
                (EC, PERSON, "dario", "search", None), (EC, PERSON, "=dario", "receipt", "<b>x/y</b>.pdf"),
                (OTHER_EC, FOREIGN, "elena", "pdf", "foreign"), (None, FOREIGN, "elena", "search", None),
                *((EC, None, f"user{number}", "csv", None) for number in range(40)),
            ]
        )
    ]  # fmt: skip
    with store.transaction(site.app.engine) as connection:
        write_accesses(connection, rows)
    yield site
    site.close()


def written(site):
    with site.app.engine.connect() as connection:
        table = tables.console_access.c
        rows = connection.execute(select(table.username, table.id_pa, table.subject, table.found).where(
            table.action == "accesses").order_by(table.id_pa)).all()  # fmt: skip
        return [tuple(row) for row in rows]


def test_list(site):
    """Newest first, a page at a time, of the user's ECs; those without an EC are for admins of all."""
    anna, bruno = site.browser("anna"), site.browser("bruno")
    page = anna.get("/accessi")
    assert len(page.tree.xpath("//tbody/tr")) == 25
    assert len(page.content) < 30_000
    assert PERSON in page.text
    assert "<b>x" not in page.text
    [more] = page.tree.xpath("//a[contains(., 'Pagina successiva')]/@href")
    second = anna.get(more)
    assert len(second.tree.xpath("//tbody/tr")) == 17
    for text in (page.text, second.text, anna.get("/accessi.csv").content.decode()):
        assert FOREIGN not in text
        assert "elena" not in text
    assert anna.get(f"/accessi?ente={OTHER_EC}").status == 404
    assert bruno.get("/accessi").text.count(FOREIGN) == 2
    assert bruno.get(f"/accessi?ente={OTHER_EC}").text.count(FOREIGN) == 1
    for address in ("/accessi", "/accessi.csv"):
        assert site.browser("carla").get(address).status == 403
    assert len(written(site)) == 1  # the file


def test_person(site):
    """A person's look-ups are found, the address does not have the fiscal code, and the look-up is written down."""
    bruno = site.browser("bruno")
    sent = bruno.post("/accessi", soggetto="rssmra 80a01h501u", utente="dario")
    assert sent.status == 303
    assert "rssmra" not in sent.headers["Location"].lower()
    page = bruno.get(sent.headers["Location"])
    assert len(page.tree.xpath("//tbody/tr")) == 1
    assert written(site) == [("bruno", EC, "rssmra 80a01h501u", 1)]
    [link] = page.tree.xpath("//a[contains(., 'Scarica')]/@href")
    assert len(list(csv.reader(io.StringIO(bruno.get(link).content.decode("utf-8-sig")), delimiter=";"))) == 2
    none = bruno.get(bruno.post("/accessi", soggetto="VRDLGI80A01H501X").headers["Location"])
    assert "Nessun accesso corrisponde" in none.words
    assert ("bruno", None, "VRDLGI80A01H501X", 0) in written(site)
    assert site.browser("bruno").get(sent.headers["Location"]).status == 404  # another session


def test_filters(site):
    """Days are Italian; what is no day, and other nonsense, is told at the field."""
    anna = site.browser("anna")
    assert len(anna.get("/accessi?da=28/11/2026&a=28/11/2026&utente=user7").tree.xpath("//tbody/tr")) == 1
    assert "Nessun accesso corrisponde" in anna.get("/accessi?da=29/11/2026").words
    assert anna.get("/accessi?da=29/11/2026").tree.xpath("//input[@type='date']/@value") == ["2026-11-29", ""]
    for query, field in (
        ("da=x", "da"),
        ("a=99999999999", "a"),
        ("utente=%00", "utente"),
        ("utente=" + "x" * 200, "utente"),
    ):
        page = anna.get(f"/accessi?{query}")
        assert page.status == 400
        assert page.tree.xpath("//input[@aria-invalid]/@name") == [field]
    for query in ("dopo=x", "dopo=W10", "dopo=%ff", "ente=%00"):
        assert anna.get(f"/accessi?{query}").status in (400, 404)
    assert anna.post("/accessi", soggetto="x" * 200).status == 400


def test_csv(site):
    """The file has Italian titles and times, and a formula in it is none."""
    lines = list(
        csv.reader(io.StringIO(site.browser("anna").get("/accessi.csv").content.decode("utf-8-sig")), delimiter=";")
    )
    assert lines[0][:4] == ["Quando", "Utente", "Indirizzo di rete", "Operazione"]
    assert len(lines) == 43
    assert lines[1][0] == "28/11/2026 13:00:00"
    assert lines[2][1] == "'=dario"
    taken = site.browser("anna").get("/accessi").tree.xpath("//tbody/tr")
    assert any("CSV" in row.text_content() and "anna" in row.text_content() for row in taken)  # and is written down
