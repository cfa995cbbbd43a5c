"""An EC's staff never see another EC's data: every rule of the URL map, every role, every foreign object.

Each text of an EC's rows and configuration has its mark (see `console_world`), so whatever a page shows of another EC
is found. The addresses come from the URL map (see `console_addresses`): a route that is added is asked, too.
"""

import re
from dataclasses import replace

import pytest
from console import Site
from console_addresses import addresses
from console_world import Ec, ecs, fill, settings
from refusals import Door

from station.store import tables

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
    for ec in site.world.values():
        for address in addresses(site.app, ec):
            data = {"csrf": browser.csrf} if address.method == "POST" else None
            page = browser.ask(address.method, address.path, data=data)
            open_to_all = address.endpoint.startswith("account.")
            assert page.status in (302, 400, 401, 403) or open_to_all, (address, page.status)
            for other in site.world.values():
                if other is not ec:
                    assert not other.traces(page.content.decode()), address
