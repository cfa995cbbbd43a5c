"""The frame of the console: who gets in, what every answer carries, and plain pages where something is away."""

from pathlib import Path

import pytest
from build import EC, OTHER_EC
from console import Site

GRANTS = [
    {"user": "anna", "ecs": [EC], "role": "reader"},
    {"user": "bruno", "ecs": ["*"], "role": "admin"},
    {"group": "ragioneria", "ecs": [OTHER_EC], "role": "operator"},
]


@pytest.fixture
def site(database_url):
    site = Site(database_url, ec=[{"id": EC, "name": "Comune di Prova"}, {"id": OTHER_EC}], grant=GRANTS)
    yield site
    site.close()


def test_without_a_user(site):
    """Every page sends to the sign-in, what does not exist, too; a form is refused."""
    browser = site.browser()
    for address in ("/", "/incassi", "/no-such-page"):
        page = browser.get(address)
        assert (page.status, page.headers["Location"].partition("?")[0]) == (302, "/accedi")
    assert browser.post("/esci").status == 400


def test_menu(site):
    """The menu is by role."""
    anna, bruno = site.browser("anna").get("/"), site.browser("bruno").get("/")
    assert anna.status == bruno.status == 200
    assert "Accessi" not in anna.text
    assert "Accessi" in bruno.text
    assert "Comune di Prova" in anna.text


def test_without_grant(site):
    """A user without a grant sees that there is none, and can leave."""
    carla = site.browser("carla")
    page = carla.get("/")
    assert page.status == 403
    assert "Nessuna autorizzazione" in page.words
    assert carla.post("/esci").status == 302
    assert carla.get("/").headers["Location"].startswith("/accedi")


def test_forms_need_their_token(site):
    """A form without its token, with another one, or sent by another site changes nothing."""
    anna = site.browser("anna")
    for data, headers in (
        ({}, {}),
        ({"csrf": "x"}, {}),
        ({"csrf": anna.csrf}, {"Sec-Fetch-Site": "cross-site"}),
    ):
        page = anna.ask("POST", "/esci", data=data, headers=headers)
        assert page.status == 400
        assert "scaduta" in page.words
    assert anna.get("/").status == 200


def test_pages_of_other_sites(site):
    """They may lead here, and no more: what they embed or frame would be a look-up in the user's name."""
    anna = site.browser("anna")

    def status(fetch_site, mode, dest="document"):
        headers = {"Sec-Fetch-Site": fetch_site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
        return anna.ask("GET", "/", headers=headers).status

    for other in ("cross-site", "same-site"):
        assert status(other, "navigate") == 200
        assert status(other, "navigate", "iframe") == status(other, "no-cors", "image") == 403
    assert status("none", "navigate") == status("same-origin", "cors", "empty") == 200


def test_one_user_leaves_slots(site, monkeypatch):
    """A user whose requests take long has half of the slots at most: the others' pages come."""
    monkeypatch.setattr("station.console.app._SLOT_TIMEOUT_S", 0.01)
    slots = site.app.slots
    assert [slots.take("anna", 0) for _ in range(3)] == [True, True, False]
    assert site.browser("anna").get("/stato").status == 503
    assert site.browser("bruno").get("/stato").status == 200
    slots.give_back("anna")
    assert site.browser("anna").get("/stato").status == 200


def test_headers(site):
    """Nothing of a page is kept, framed, or loaded from elsewhere; files are kept."""
    page = site.browser("anna").get("/")
    assert page.headers["Cache-Control"] == "no-store"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    sources = page.tree.xpath("//@src | //link/@href")
    assert len(sources) >= 4
    for address in sources:
        file = site.browser().get(address)
        assert file.status == 200
        assert "max-age" in file.headers["Cache-Control"]


def test_cookie(site):
    """The cookie is this host's, by TLS, out of reach of scripts."""
    page = site.browser().get("/accedi")
    cookie = page.headers["Set-Cookie"]
    assert cookie.startswith("__Host-station=")
    assert all(word in cookie for word in ("Secure", "HttpOnly", "Path=/", "SameSite=Lax"))
    assert "Domain" not in cookie


def test_database_away(tmp_path, sqlite_url):
    """A plain page says so, also to a user who signs in or had signed in; files are served as ever."""
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    site = Site(sqlite_url, grant=GRANTS)
    anna = site.browser("anna")
    assert anna.get("/").status == 200
    site.app.engine.dispose()
    file.rename(tmp_path / "elsewhere")
    visitor = site.browser()
    visitor.csrf = visitor.get("/accedi").tree.xpath("string(//input[@name='csrf']/@value)")
    for page in (anna.get("/"), visitor.post("/accedi", name="anna", password="a password of hers")):
        assert page.status == 503
        assert "La banca dati non risponde" in page.words
        assert page.headers["Retry-After"]
    assert anna.get("/ready").status == 503
    assert anna.get("/live").status == 200
    assert anna.get("/static/console.css").status == 200
    site.close()
