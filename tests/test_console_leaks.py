"""An EC's staff never see another EC's data: every rule of the URL map, every role, every foreign object.

Each text of an EC's rows and configuration has its mark (see `console_world`), so whatever a page shows of another EC
is found. The addresses come from the URL map (see `console_addresses`): a route that is added is asked, too.
"""

import re
from dataclasses import replace

import psycopg
import pytest
from console import Site
from console_addresses import addresses
from console_world import Ec, ecs, fill, settings
from databases import DATABASE
from refusals import Door

from station import store
from station.console import app as console_app
from station.console.scope import Scope
from station.store import tables
from station.store.rights import grants

USERS = {"lettrice": ("zalfa",), "operatore": ("zalfa",), "capo": ("zalfa",), "due": ("zalfa", "zcarla")}


@pytest.fixture(scope="module")
def site(sqlite_migrated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("console")
    file = folder / "station.sqlite3"
    file.write_bytes(sqlite_migrated.read_bytes())
    url, world = f"sqlite:///{file}", ecs()
    fill(url, world)
    site = Site(url, **settings(folder, world))
    site.world = world
    yield site
    site.close()


def ghost(ec: Ec) -> Ec:
    """An EC that nothing knows, with keys of the same form."""
    mark = "z" + "q" * (len(ec.mark) - 1)
    other = replace(ec, id_pa="12312312312", mark=mark)
    other.receipts = [one.replace(ec.mark, mark) for one in ec.receipts]
    other.refused = [one[::-1] for one in ec.refused]
    other.numbers = [number + 1_000_000 for number in ec.numbers]
    other.iuvs = [one[::-1] for one in ec.iuvs]
    return other


def ask(browser, address):
    """The answer, or the page to which it sends the browser on."""
    data = {"csrf": browser.csrf, **address.form} if address.method == "POST" else None
    page = browser.ask(address.method, address.path, data=data)
    if page.status in (302, 303) and page.headers["Location"].startswith("/"):
        return browser.get(page.headers["Location"])
    return page


def told(page, browser, ec: Ec) -> tuple:
    """What an answer tells, without the form's token and without what the address itself said."""
    said = [ec.id_pa, ec.mark, *ec.receipts, *ec.refused, *ec.iuvs]
    text = page.content.decode().replace(browser.csrf, "")
    text = re.sub(r"ricerca=[\w-]+", "", text)  # a search that is kept has a random key
    text = re.sub(r".*suo elenco \(CSV\).*\r?\n", "", text)  # that this file was taken stands in the next one
    headers = [(name, value) for name, value in page.headers if name not in ("Set-Cookie", "Content-Length")]
    return page.status, re.sub("|".join(map(re.escape, said)), "", text, flags=re.IGNORECASE), headers


@pytest.mark.parametrize("user", USERS)
def test_foreign_objects(site, user):
    """What belongs to another EC is answered as what does not exist, to the byte, and no form changes it."""
    browser, door = site.browser(user), Door(site.app.engine)
    before = door.everything()
    wrong = []
    for mark, ec in site.world.items():
        if mark in USERS[user]:
            continue
        none = ghost(ec)
        for theirs, nothing in zip(addresses(site.app, ec), addresses(site.app, none), strict=True):
            answers = []
            for address, owner in ((theirs, ec), (nothing, none)):
                answers.append(told(ask(browser, address), browser, owner))
            if answers[0] != answers[1] or (theirs.names_object and answers[0][0] != 404):
                wrong.append(f"{theirs} {theirs.form or ''} {answers[0][0]}, of nothing {answers[1][0]}")
    assert not wrong, "\n".join(wrong)
    after = door.everything()
    for table in tables.metadata.sorted_tables:
        if table.name not in ("console_session", "console_access"):
            assert after[table.name] == before[table.name], table.name


@pytest.mark.parametrize("user", USERS)
def test_no_trace_of_others(site, user):
    """No page of one's own, file or header says anything of another EC."""
    browser = site.browser(user)
    foreign = [ec for mark, ec in site.world.items() if mark not in USERS[user]]
    statuses, wrong = set(), []
    for mark in USERS[user]:
        for address in addresses(site.app, site.world[mark]):
            if address.method != "GET":
                continue
            page = ask(browser, address)
            statuses.add(page.status)
            text = page.content.decode("utf-8", "replace") + str(page.headers)
            wrong += [f"{address} {page.status}: {one}" for ec in foreign for one in ec.traces(text)]
    for shared in ("/consegne/due-enti", "/consegne/tutti"):
        wrong += [f"{shared}: {one}" for ec in foreign for one in ec.traces(browser.get(shared).text)]
    assert not wrong, "\n".join(wrong)
    assert 200 in statuses
    assert 500 not in statuses


def test_the_marks_are_seen(site):
    """The user of all ECs sees the marks of each: pages would show them to others, too, if they were let."""
    browser = site.browser("tutto")
    for ec in site.world.values():
        shown = "".join(
            browser.get(one.path).content.decode("utf-8", "replace")
            for one in addresses(site.app, ec)
            if one.method == "GET"
        )
        assert ec.traces(shown)


@pytest.mark.parametrize("user", [None, "estranea"])
def test_without_rights(site, user):
    """Without a user, or with one without grants, no rule but the sign-in answers."""
    browser = site.browser(user)
    for address in addresses(site.app, site.world["zalfa"]):
        data = {"csrf": browser.csrf} if address.method == "POST" else None
        page = browser.ask(address.method, address.path, data=data)
        open_to_all = address.endpoint.startswith("account.")
        assert page.status in (302, 400, 401, 403) or open_to_all, (address, page.status)
        assert not any(ec.traces(page.text) for ec in site.world.values() if ec.mark != "zalfa"), address


# --- the second lock --------------------------------------------------------------------------------------------------

ROLE = "leaking_console"


class Careless(Scope):
    """A scope that pages forgot to ask: whatever they look for, they may."""

    def __init__(self, *of):
        super().__init__(*of)
        self.ecs = None

    def ecs_of(self, role):
        return None

    def is_all(self, role="reader"):
        return True

    def is_any(self, role):
        return True

    def has(self, id_pa, role="reader"):
        return True

    def require(self, id_pa, role="reader"):
        pass

    def require_any(self, role):
        pass


@pytest.fixture
def careless_site(postgres_server, tmp_path, monkeypatch):
    """A console whose role row-level security limits, and whose pages ask for all ECs. The configuration has no marks
    but the names of destinations."""
    owner_url = postgres_server.replace("/postgres?", "/leaks?")
    url = store.parse_url(owner_url).set(drivername="postgresql", username=ROLE).render_as_string(False)
    monkeypatch.setattr(console_app, "Scope", Careless)
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE leaks TEMPLATE {DATABASE}")
        server.execute(f"CREATE ROLE {ROLE} LOGIN")
        try:
            with psycopg.connect(owner_url, autocommit=True) as owner:
                for statement in grants(ROLE, console=True):
                    owner.execute(statement)
            world = ecs()
            fill(owner_url, world)
            held = settings(tmp_path, world)
            held |= {"ec": [{"id": ec.id_pa} for ec in world.values()], "account": []}
            site = Site(url, **held)
            site.world, site.owner = world, Door(store.connect(owner_url))
            yield site
            site.close()
            site.owner.engine.dispose()
        finally:
            server.execute("DROP DATABASE leaks WITH (FORCE)")
            server.execute(f"DROP ROLE {ROLE}")


def test_row_level_security(careless_site):
    """Where pages forget the scope, the database still shows and changes nothing of others."""
    site = careless_site
    browser = site.browser("operatore")
    configured = re.compile(r"z\w+-(?:erp|notte|portale)|z\w+\.example\.invalid|\d{11}")
    wrong, seen = [], ""
    before = site.owner.everything()
    for mark, ec in site.world.items():
        for address in addresses(site.app, ec):
            page = ask(browser, address)
            text = page.content.decode("utf-8", "replace").replace(browser.csrf, "")
            if mark == "zalfa":
                seen += text
            else:  # what the address itself said
                said = [ec.debtor, ec.iban, f"{ec.flow}-2", ec.flow, f"9/010{mark}/"]
                text = re.sub("|".join(map(re.escape, said)) + '|value="[^"]*"', "", text)
            for other in site.world.values():
                if other.mark != "zalfa":
                    wrong += [f"{address} {page.status}: {one}" for one in other.traces(configured.sub("", text))]
    assert not wrong, "\n".join(wrong)
    assert site.world["zalfa"].traces(seen)
    after = site.owner.everything()
    for table in tables.metadata.sorted_tables:
        if table.name not in ("console_session", "console_access", "destination"):
            theirs = [
                [row for row in held[table.name] if "zbrava" in row or "zcarla" in row] for held in (before, after)
            ]
            assert theirs[0] == theirs[1], table.name
