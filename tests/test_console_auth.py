"""Who may in: the console's own users, an identity provider, a trusted proxy; and what becomes of their sessions."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import forked
import pytest
from console import Site
from process import environment
from sqlalchemy import func, select, update
from werkzeug.security import generate_password_hash

from station import store
from station.console import local
from station.console.session import COOKIE
from station.store import tables, users

GRANTS = [{"user": "anna", "ecs": ["*"], "role": "admin"}, {"group": "ragioneria", "ecs": ["*"], "role": "reader"}]
PASSWORD = "cavallo batteria graffetta"
OTHER = "quattro parole senza legame"
QUICK = "scrypt:1024:8:1"  # as it is in use it takes 0.1 s
HASHED = {word: generate_password_hash(word, QUICK) for word in (PASSWORD, OTHER)}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Hashes are made with little work."""
    monkeypatch.setattr(local, "_METHOD", QUICK)
    monkeypatch.setattr(local, "_OF_NONE", generate_password_hash("", QUICK))


def sessions_of(site):
    with site.app.engine.connect() as connection:
        return connection.execute(select(func.count()).select_from(tables.console_session)).scalar_one()


def csrf(page):
    return page.tree.xpath("string(//input[@name='csrf']/@value)")


def cookie_of(page):
    return re.search(rf"{COOKIE}=([^;]*)", page.headers.get("Set-Cookie", ""))[1]


@pytest.fixture
def site(database_url):
    site = Site(database_url, grant=GRANTS)
    with store.transaction(site.app.engine) as connection:
        for name in ("anna", "bruno"):
            users.add_user(
                connection, name, display_name=name.title(), password_hash=HASHED[PASSWORD], now=datetime.now(UTC)
            )
    yield site
    site.close()


def sign_in(browser, name="anna", password=PASSWORD, per=""):
    """Fill in the form, and return the answer."""
    address = f"/accedi?per={quote(per)}" if per else "/accedi"
    browser.csrf = csrf(browser.get(address))
    page = browser.post(address, name=name, password=password)
    if page.status == 302:
        browser.csrf = csrf(browser.get("/profilo"))
    return page


# --- the console's own users ------------------------------------------------------------------------------------------


def test_sign_in(site):
    """Name and password lead to where the visitor wanted to go, with a new token; the database has only its hash."""
    browser = site.browser()
    asked = browser.get("/incassi?da=2026-11-01")
    assert asked.headers["Location"] == "/accedi?per=%2Fincassi%3Fda%3D2026-11-01"
    page = sign_in(browser, " Anna ", per="/incassi?da=2026-11-01")
    assert (page.status, page.headers["Location"]) == (302, "/incassi?da=2026-11-01")
    token = cookie_of(page)
    with site.app.engine.connect() as connection:
        [row] = connection.execute(select(tables.console_session)).all()
        assert row.username == "anna"
        assert token not in str(row)
        assert users.load_user(connection, "anna").last_login_at is not None
    assert "Anna" in browser.get("/").text
    assert browser.get("/accedi").headers["Location"] == "/"
    assert browser.post("/esci").headers["Location"] == "/uscita"
    assert "Sei uscito" in browser.get("/uscita").words
    assert sessions_of(site) == 0
    browser.client.set_cookie(COOKIE, token, secure=True)
    assert browser.get("/").status == 302  # the token is worth nothing any more


def test_wrong(site):
    """A wrong name, a wrong password, a disabled and a locked user look the same; the lock ends by itself."""
    with store.transaction(site.app.engine) as connection:
        users.set_disabled(connection, "bruno", disabled=True, now=datetime.now(UTC))
    for _ in range(local.FAILURES_MAX):
        assert sign_in(site.browser(), "anna", "wrong").status == 403
    answers = {
        re.sub(r'value="[^"]*"', "", sign_in(site.browser(), name, password).text)
        for name, password in (("anna", "wrong"), ("anna", PASSWORD), ("bruno", PASSWORD), ("carla", PASSWORD),
                               ("x" * 9000, "\0\ud800".encode("utf-8", "replace").decode()), ("'; --", ""))
    }  # fmt: skip
    [answer] = answers
    assert "riprova più tardi" in answer
    with store.transaction(site.app.engine) as connection:
        ends = users.load_user(connection, "anna").locked_until
        assert timedelta(minutes=14) < ends - datetime.now(UTC) <= local.LOCK
        connection.execute(update(tables.console_user).values(locked_until=datetime.now(UTC)))
    assert sign_in(site.browser()).status == 302
    with site.app.engine.connect() as connection:
        assert users.load_user(connection, "anna").failures == 0


def test_guesses_at_once(site, monkeypatch):
    """Of guesses that come at the same time no more are checked than of those that come one by one."""
    checked = []
    monkeypatch.setattr(local, "check_password_hash", lambda hashed, _: checked.append(hashed) or False)
    passwords = local.Passwords(site.app.engine)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: passwords.check("anna", f"guess {number}", "192.0.2.1"), range(16)))
    assert answers == [None] * 16
    assert checked.count(HASHED[PASSWORD]) == local.FAILURES_MAX


def test_one_address(site, monkeypatch):
    """Who tries one password of many names is stopped, other addresses go on; it ends by itself."""
    now = [1000.0]
    monkeypatch.setattr(local, "check_password_hash", lambda *_: False)
    site.app.passwords = local.Passwords(site.app.engine, lambda: now[0])
    browser = site.browser()
    found = [sign_in(browser, f"user{number}").status for number in range(25)]
    assert found == [403] * 20 + [429] * 5
    browser.client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    assert sign_in(browser, "another").status == 403
    browser.client.environ_base["REMOTE_ADDR"] = "127.0.0.1"
    now[0] += local.LOCK.total_seconds()
    assert sign_in(browser, "another").status == 403


def test_many_addresses(site, monkeypatch):
    """What is kept of addresses has a bound, and an IPv6 client has one network, not many addresses."""
    monkeypatch.setattr(local, "check_password_hash", lambda *_: False)
    monkeypatch.setattr(local, "_ADDRESSES_MAX", 3)
    passwords = local.Passwords(site.app.engine)
    for number in range(9):
        passwords.check("carla", "x", f"192.0.2.{number}")
        passwords.check("carla", "x", f"2001:db8::{number}")
    assert len(passwords._failed) == 3
    assert len(passwords._failed["2001:db8::/64"]) == 9


@pytest.mark.parametrize("change", ["password", "disable", "remove"])
def test_changed_user(site, run_station, change):
    """A user whose password is changed, who is disabled or removed, is out with the next request."""
    anna, bruno = site.browser(), site.browser()
    sign_in(anna)
    sign_in(bruno, "bruno")
    arguments = {"stdin": None}
    if change == "password":
        with store.transaction(site.app.engine) as connection:
            assert users.change_password(connection, "anna", password_hash=HASHED[OTHER], now=datetime.now(UTC))
    else:
        assert run_station("console", "user", change, "anna", **arguments).returncode == 0
    assert anna.get("/").status == 302
    assert bruno.get("/profilo").status == 200
    assert sign_in(site.browser()).status == 403
    assert sign_in(site.browser(), password=OTHER).status == (302 if change == "password" else 403)


def test_disabled_while_signing_in(site, monkeypatch):
    """A user who is disabled while the password is checked has no session afterwards."""
    check = local.check_password_hash

    def slow(hashed, password):
        with store.transaction(site.app.engine) as connection:
            users.set_disabled(connection, "anna", disabled=True, now=datetime.now(UTC))
        return check(hashed, password)

    monkeypatch.setattr(local, "check_password_hash", slow)
    browser = site.browser()
    browser.csrf = csrf(browser.get("/accedi"))
    browser.post("/accedi", name="anna", password=PASSWORD)
    assert sessions_of(site) == 0
    assert browser.get("/").status == 302


def test_own_password(site):
    """A user changes the own password: it is asked for, checked, and ends the other sessions."""
    anna, elsewhere = site.browser(), site.browser()
    sign_in(anna)
    sign_in(elsewhere)
    for fields, field in (
        ({"old": "wrong", "new": OTHER, "again": OTHER}, "old"),
        ({"old": PASSWORD, "new": "short", "again": "short"}, "new"),
        ({"old": PASSWORD, "new": "anna12345678", "again": "anna12345678"}, "new"),
        ({"old": PASSWORD, "new": OTHER, "again": OTHER + "x"}, "again"),
    ):
        page = anna.post("/profilo", **fields)
        assert page.status == 400
        assert page.tree.xpath("//input[@aria-invalid]/@name") == [field]
        assert OTHER not in page.text
    page = anna.post("/profilo", old=PASSWORD, new=OTHER, again=OTHER)
    assert (page.status, page.headers["Location"]) == (303, "/profilo")
    assert "La password è stata cambiata" in anna.get("/profilo").words
    assert elsewhere.get("/").status == 302
    assert sign_in(site.browser()).status == 403
    assert sign_in(site.browser(), password=OTHER).status == 302


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("undici11111", "short"),
        ("x" * 201, "long"),
        ("anna.rossi12", "name"),
        ("1AnnaRossi2026!", "name"),
        ("Anna.Rossi!", "short"),
        ("aaaaaaaaaaaaaa", "common"),
        ("1234567890123", "common"),
        ("Password1234!", "common"),
        ("2026comune2026", "common"),
        ("qwertyuiopas", "common"),
        (PASSWORD, None),
        ("Nicolò è già qui", None),
    ],
)
def test_passwords(password, why):
    assert local.problem(password, "anna.rossi") == why


def test_commands(sqlite_url, tmp_path):
    """Users are added, listed, locked and unlocked on the command line; the password is never an argument."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def run(*arguments):
        return forked.run(
            ["console", "user", *arguments], environment(sqlite_url), tmp_path, stdin=tmp_path / "password"
        )

    added = run("add", "Anna", "--display-name", "Anna Rossi")
    assert (added.returncode, added.stdout.splitlines()[0]) == (0, "Added anna.")
    assert "[[grant]]" in added.stdout
    assert "already" in run("add", "anna").stderr
    assert run("add", "anna/../x").returncode == 2
    assert run("add", "dario", "--display-name", "a\nb").returncode == 2
    engine = store.connect(sqlite_url)
    with store.transaction(engine) as connection:
        for _ in range(5):
            users.begin_sign_in(connection, "anna", now=datetime.now(UTC), failures=5, lock=local.LOCK)
    assert "locked until" in run("list").stdout
    assert run("unlock", "anna").returncode == 0
    assert "locked" not in run("list").stdout
    (tmp_path / "password").write_text(f"{OTHER}\n")
    assert run("password", "anna").returncode == 0
    with engine.connect() as connection:
        assert local.check_password_hash(users.load_user(connection, "anna").password_hash, OTHER)
    engine.dispose()
    (tmp_path / "password").write_text("anna\n")
    assert "too short" in run("password", "anna").stderr
    (tmp_path / "password").write_bytes(b"\xff\xfe" * 10)
    assert "UTF-8" in run("password", "anna").stderr
    for command in ("password", "disable", "enable", "remove", "unlock"):
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        assert "no user carla" in run(command, "carla").stderr


# --- where a sign-in leads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hostile",
    ["//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "\\\\evil.example",
     "/\t/evil.example", "/\n/evil.example", "evil.example", "", "/accedi?per=/accedi", "/esci", "/uscita",
     "/x\r\nSet-Cookie: a=b", "/" + "x" * 5000, " //evil.example", "/%0d%0a\x7f", "///evil.example"],
)  # fmt: skip
def test_hostile_way_back(sqlite_url, monkeypatch, hostile):
    """After the sign-in a browser never leaves the console, whatever the address said."""
    site = Site(sqlite_url, grant=GRANTS)
    with store.transaction(site.app.engine) as connection:
        users.add_user(connection, "anna", display_name="", password_hash=HASHED[PASSWORD], now=datetime.now(UTC))
    page = sign_in(site.browser(), per=hostile)
    site.close()
    assert page.headers["Location"] == "/"
    assert "evil" not in str(page.headers)
