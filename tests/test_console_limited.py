"""What people do in the console, with its own role on PostgreSQL: row-level security leaves them what is theirs."""

import psycopg
import pytest
from build import EC, OTHER_EC, a_request
from console import Site
from databases import DATABASE
from destinations import HOOK, receive, serve, states
from sqlalchemy import insert, select

from station import store
from station.console import replaying
from station.console.identity import User
from station.console.scope import Scope
from station.errors import StoreError
from station.store import deliveries, tables
from station.store.rights import grants

ROLE, NAME = "console_at_work", "console_work"
GRANTS = [{"user": "otto", "ecs": [EC], "role": "operator"}, {"user": "bruno", "ecs": ["*"], "role": "admin"}]


@pytest.fixture(scope="module")
def owner_url(postgres_server):
    """A migrated database in which row-level security limits the console's role."""
    url = postgres_server.replace("/postgres?", f"/{NAME}?")
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {NAME} TEMPLATE {DATABASE}")
        server.execute(f"CREATE ROLE {ROLE} LOGIN")
        with psycopg.connect(url, autocommit=True) as owner:
            for statement in grants(ROLE, console=True):
                owner.execute(statement)
        yield url
        server.execute(f"DROP DATABASE {NAME} WITH (FORCE)")
        server.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def site(owner_url):
    own = store.parse_url(owner_url).set(drivername="postgresql", username=ROLE).render_as_string(False)
    ecs = [{"id": EC, "name": "Comune di Prova", "reconcile": False}, {"id": OTHER_EC, "reconcile": False}]
    site = Site(owner_url, ec=ecs, grant=GRANTS, console={"database_url": own}, destination=[{"name": "erp", **HOOK}])
    with store.transaction(site.engine) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())
    yield site
    site.close()


def count(site, table):
    with store.transaction(site.engine, readonly=True) as connection:
        return len(connection.execute(select(table)).all())


def test_refused_requests(site):
    """Pages, dry run, replay, document and discard work as with a role without limits."""
    unknown, invalid = site.push(a_request(), known=False), site.push(a_request(outcome="MAYBE"))
    foreign = site.push(a_request(idPA=OTHER_EC), known=False)
    nameless = site.push(a_request(idPA="", outcome="MAYBE"))
    address = "/da-controllare/rifiutate"
    for user, own in (("otto", 2), ("bruno", 4)):
        browser = site.browser(user)
        assert f"Richieste rifiutate {own}" in browser.get("/da-controllare").words
        assert len(browser.get(address).tree.xpath("//tbody/tr")) == own
        page = browser.post(f"{address}/{EC}/{unknown.refused_id}/prova")
        assert "La ricevuta sarebbe memorizzata" in page.words
    otto, bruno = site.browser("otto"), site.browser("bruno")
    assert otto.get(f"{address}/{EC}/{invalid.refused_id}/documento").status == 200
    assert otto.post(f"{address}/{EC}/{unknown.refused_id}/rielabora").status == 303
    assert "La ricevuta è stata memorizzata" in otto.get("/da-controllare").text
    otto.post(f"{address}/{EC}/{invalid.refused_id}/rielabora")
    assert "ancora rifiutata" in otto.get(f"{address}/{EC}/{invalid.refused_id}").words
    assert otto.post(f"{address}/{EC}/{invalid.refused_id}/scarta", motivo="prova").status == 303
    assert otto.get(f"{address}/{OTHER_EC}/{foreign.refused_id}").status == 404
    assert otto.post(f"{address}/{OTHER_EC}/{foreign.refused_id}/rielabora").status == 404
    assert count(site, tables.receipt) == 1
    assert bruno.get(f"{address}/none/{nameless.refused_id}").status == 200
    assert bruno.post(f"{address}/none/{nameless.refused_id}/scarta", motivo="prova").status == 303
    assert bruno.post(f"{address}/{OTHER_EC}/{foreign.refused_id}/rielabora").status == 303
    assert count(site, tables.receipt) == 2
    assert "Nessuna richiesta" in bruno.get(address).words


def test_foreign_document_without_the_check(site, monkeypatch):
    """Where the check of what a document names is left out, the database still takes no receipt of a foreign EC."""
    foreign = site.push(a_request(idPA=OTHER_EC), known=False)
    with store.transaction(site.engine) as connection:
        row = connection.execute(select(tables.refused)).one()._asdict()
        connection.execute(insert(tables.refused), row | {"id_pa": EC})
    monkeypatch.setattr(replaying, "named_ecs", lambda raw, charset: set())
    page = site.browser("otto").post(f"/da-controllare/rifiutate/{EC}/{foreign.refused_id}/rielabora")
    assert page.status in (303, 503)
    assert count(site, tables.receipt) == 0


def test_deliveries(site):
    """Send again, skip, pause and resume work; another EC's delivery stays as it is, whatever is forgotten."""
    receive(site, 2)
    receive(site, 1, idPA=OTHER_EC)
    serve(site, "erp", states=dict.fromkeys((1, 2, 3), "failed"), position=3)
    otto, bruno = site.browser("otto"), site.browser("bruno")
    assert len(otto.get("/consegne/erp").tree.xpath("//tbody/tr")) == 2
    assert len(bruno.get("/consegne/erp").tree.xpath("//tbody/tr")) == 3
    assert otto.post("/consegne/erp/1/salta", motivo="prova").status == 303
    assert otto.post("/consegne/erp/1/invia").status == 303
    assert otto.post("/consegne/erp/3/invia").status == 404
    assert otto.post("/consegne/erp/invia-abbandonate").status == 303
    assert states(site) == {1: "open", 2: "open", 3: "failed"}
    scope = Scope(site.app.engine, site.settings.grant, User("otto", "otto"))
    with scope.engine() as engine, store.transaction(engine) as connection:
        assert deliveries.change(connection, "erp", {"failures": 1})
        connection.execute(tables.delivery.update().values(state="skipped"))
    assert states(site) == {1: "skipped", 2: "skipped", 3: "failed"}
    assert bruno.post("/consegne/erp/pausa", motivo="prova").status == 303
    assert bruno.post("/consegne/erp/riprendi").status == 303
    assert bruno.post("/consegne/erp/3/invia").status == 303
    assert states(site)[3] == "open"


def test_state(site):
    """The page says that the database keeps ECs apart, too, and the findings are those of all ECs."""
    site.push(a_request())
    page = site.browser("otto").get("/stato")
    assert "Anche nella banca dati" in page.words
    assert "Regolare" in page.words
    page = site.browser("bruno").get("/stato/controlli")
    assert page.status == 200
    assert "row_level_security_off" not in page.words


def test_nothing_without_a_scope(site):
    """A transaction that names no EC sees nothing: the role fails closed."""
    site.push(a_request())
    with store.transaction(site.app.engine, readonly=True) as connection:
        assert connection.execute(select(tables.receipt)).all() == []
    with pytest.raises(StoreError), store.transaction(site.app.engine) as connection:
        connection.execute(tables.receipt.delete())
