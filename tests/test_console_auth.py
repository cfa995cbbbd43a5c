"""Who may in: the console's own users, an identity provider, a trusted proxy; and what becomes of their sessions."""

import base64
import json
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, urlsplit

import flask
import forked
import httpx
import pytest
import werkzeug.serving
from console import Site
from process import environment, free_port
from sqlalchemy import func, select, update
from werkzeug.security import generate_password_hash

from station import store
from station.console import local
from station.console.session import COOKIE
from station.store import sessions, tables, users

with warnings.catch_warnings():  # of Authlib, from which the provider takes its keys
    import authlib.deprecate  # noqa: F401  (which sets a filter)

    warnings.simplefilter("ignore")
    import oidc_provider_mock
    from oidc_provider_mock import User

# Of the provider, which is made for an older Authlib.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in ("get_jwt_config", "authlib.jose", "The httpx module", "Client.get_client", "Please")
]

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


HOSTILE_WAYS = (
    "//evil.example", "/\\evil.example", "https://evil.example/", "javascript:alert(1)", "\\\\evil.example",
    "/\t/evil.example", "/\n/evil.example", "evil.example", "", "/accedi?per=/accedi", "/esci", "/uscita",
    "/x\r\nSet-Cookie: a=b", "/" + "x" * 5000, " //evil.example", "/%0d%0a\x7f", "///evil.example",
)  # fmt: skip


def test_hostile_way_back(sqlite_url):
    """After the sign-in a browser never leaves the console, whatever the address said."""
    site = Site(sqlite_url, grant=GRANTS)
    with store.transaction(site.app.engine) as connection:
        users.add_user(connection, "anna", display_name="", password_hash=HASHED[PASSWORD], now=datetime.now(UTC))
    for hostile in HOSTILE_WAYS:
        page = sign_in(site.browser(), per=hostile)
        assert page.headers["Location"] == "/", hostile
        assert "evil" not in str(page.headers)
    site.close()


# --- an identity provider ---------------------------------------------------------------------------------------------

CLAIMS = {
    "name": "Anna Rossi",
    "preferred_username": "anna",
    "email": "anna@example.invalid",
    "groups": ["ragioneria", "tutti", 7],
    "realm_access": {"roles": ["ragioneria"]},
}


class Provider:
    """A real provider, whose answers a test may change: `broken[path] = function(environ) or (status, type, body)`."""

    def __init__(self, **tls):
        self.app = oidc_provider_mock.app(user_claims=[User(sub="u-1", claims=CLAIMS), User(sub="u-2")])
        self.app.debug = False
        self.broken, self.asked = {}, []
        self.server = werkzeug.serving.make_server("localhost", free_port(), self.answer, threaded=True, **tls)
        self.url = f"http{'s' if tls else ''}://localhost:{self.server.port}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, environ, start_response):
        self.asked.append(environ["PATH_INFO"])
        answer = self.broken.get(environ["PATH_INFO"])
        if callable(answer):
            answer = answer(environ)
        if answer is None:
            return self.app(environ, start_response)
        status, content_type, body = answer
        start_response(f"{status} X", [("Content-Type", content_type), ("Content-Length", str(len(body)))])
        return [body]

    def stop(self):
        if self._thread.is_alive():
            self.server.shutdown()
            self._thread.join()
            self.server.server_close()

    def says(self, **claims):
        """Let ID tokens say something else; `alg` and `key` are how they are signed."""

        def answer(environ):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            with self.app.test_client() as client:
                token = client.post(
                    "/oauth2/token", data=body, base_url=self.url, content_type=environ["CONTENT_TYPE"],
                    headers={"Authorization": environ["HTTP_AUTHORIZATION"]},
                ).json  # fmt: skip
            _, told, _ = token["id_token"].split(".")
            told = json.loads(base64.urlsafe_b64decode(told + "==")) | claims
            told = {name: value for name, value in told.items() if value is not None and name != "_key"}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from authlib.jose import jwt

                key = claims.get("_key") or self.key
                token["id_token"] = jwt.encode({"alg": "RS256", "kid": self.key.as_dict()["kid"]}, told, key).decode()
            return 200, "application/json", json.dumps(token).encode()

        self.broken["/oauth2/token"] = answer

    @property
    def key(self):
        [found] = [cell.cell_contents for cell in self._storages() if hasattr(cell.cell_contents, "jwk")]
        return found.jwk

    def _storages(self):
        for functions in self.app.before_request_funcs.values():
            for function in functions:
                yield from function.__closure__ or ()


@pytest.fixture(scope="module")
def one_provider():
    provider = Provider()  # its key takes a second
    yield provider
    provider.stop()


@pytest.fixture
def provider(one_provider):
    yield one_provider
    one_provider.broken, one_provider.asked = {}, []


def with_provider(database_url, provider, grants=GRANTS, **oidc):
    return Site(
        database_url,
        console={"auth": "oidc", "url": "https://localhost"},
        oidc={"issuer": provider.url, "client_id": "console", "client_secret": "a secret"} | oidc,
        grant=grants,
    )  # fmt: skip


def at_provider(address, action=None, **how):
    """Be the user at the provider: return where it sends the browser back to, as a path of the console."""
    data = {"action": action} if action else {"sub": "u-1"}
    answer = httpx.post(address, data=data, **how)
    assert answer.status_code == 302, answer.text
    return answer.headers["Location"].removeprefix("https://localhost")


def through(browser, per="/"):
    """Sign in by the provider, and return the last answer."""
    begun = browser.get(f"/accedi?per={quote(per)}")
    assert begun.status == 302, begun.text
    return browser.get(at_provider(begun.headers["Location"]))


def test_provider(database_url, provider):
    """Code with PKCE, state and nonce; claims name the user, and groups; signing out goes on at the provider."""
    site = with_provider(database_url, provider)
    browser = site.browser()
    begun = browser.get("/accedi?per=/incassi")
    asked = dict(parse_qsl(urlsplit(begun.headers["Location"]).query))
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "https://localhost/accedi/ritorno"
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    assert sessions_of(site) == 0
    came = at_provider(begun.headers["Location"])
    page = browser.get(came)
    assert (page.status, page.headers["Location"]) == (302, "/incassi")
    page = browser.get("/")
    assert page.status == 200  # by the group
    assert "Anna Rossi" in page.text
    assert f"form-action 'self' {provider.url};" in page.headers["Content-Security-Policy"]
    assert browser.get("/profilo").status == 404
    assert browser.get(came).headers["Location"] == "/"  # again: the state is used up
    assert site.browser().get(came).status == 400  # in another browser
    browser.csrf = csrf(page)
    out = browser.post("/esci").headers["Location"]
    ends = dict(parse_qsl(urlsplit(out).query))
    assert out.startswith(f"{provider.url}/oauth2/end_session?")
    assert ends["post_logout_redirect_uri"] == "https://localhost/uscita"
    assert ends["id_token_hint"].count(".") == 2
    gone = browser.get("/uscita")
    assert gone.status == 200  # and no way on but by a click
    assert "Sei uscito" in gone.words
    assert sessions_of(site) == 0
    site.close()


@pytest.mark.parametrize(
    ("oidc", "name", "groups"),
    [
        ({}, "u-1", ("ragioneria", "tutti", "7")),
        ({"user_claim": "preferred_username", "groups_claim": "realm_access.roles"}, "anna", ("ragioneria",)),
        ({"user_claim": "email", "groups_claim": "name"}, "anna@example.invalid", ("Anna Rossi",)),
        ({"user_claim": "email", "groups_claim": "no.such.claim"}, "anna@example.invalid", ()),
        ({"user_claim": "upn"}, None, ()),
        ({"user_claim": "groups"}, None, ()),
    ],
)
def test_claims(sqlite_url, provider, oidc, name, groups):
    site = with_provider(sqlite_url, provider, **oidc)
    browser = site.browser()
    page = through(browser)
    if name is None:
        assert page.status == 403
        assert "Accesso non riuscito" in page.words
        assert sessions_of(site) == 0
    else:
        with site.app.engine.connect() as connection:
            [row] = connection.execute(select(tables.console_session)).all()
        assert json.loads(row.data)["user"] == {"name": name, "display_name": "Anna Rossi", "groups": list(groups)}
    site.close()


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example.invalid"},
        {"aud": ["other"], "azp": "console"},
        {"aud": "other"},
        {"exp": 1_000_000_000},
        {"exp": None},
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": None, "nonce_supported": False},
        {"sub": None},
        {"sub": ["u-1"]},
        {"email_verified": False},
        {"_key": "other"},
    ],
    ids=str,
)
def test_wrong_id_token(sqlite_url, provider, claims):
    """An ID token of another issuer, for another audience, expired, or signed by another key signs nobody in."""
    site = with_provider(sqlite_url, provider, user_claim="email" if "email_verified" in claims else "sub")
    if "_key" in claims:
        claims = {"_key": type(provider.key).generate_key(is_private=True)}
    provider.says(**claims)
    page = through(site.browser())
    assert page.status == 403
    assert "Accesso non riuscito" in page.words
    assert page.tree.xpath("//main//a/@href") == ["/accedi"]
    assert sessions_of(site) == 0
    site.close()


def test_unsigned_id_token(sqlite_url, provider):
    """`none` and HMAC are no signatures, whatever the provider's configuration allows."""
    found = httpx.get(f"{provider.url}/.well-known/openid-configuration").json()
    found["id_token_signing_alg_values_supported"] = ["none", "HS256"]
    provider.broken["/.well-known/openid-configuration"] = (200, "application/json", json.dumps(found).encode())
    site = with_provider(sqlite_url, provider)

    def unsigned(environ):
        head, body = (
            {"alg": "none"},
            {"iss": provider.url, "aud": "console", "sub": "u-1", "exp": 4_000_000_000, "iat": 1},
        )
        parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in (head, body)]
        token = {"access_token": "x", "token_type": "Bearer", "id_token": ".".join([*parts, ""])}
        return 200, "application/json", json.dumps(token).encode()

    provider.broken["/oauth2/token"] = unsigned
    assert through(site.browser()).status == 403
    site.close()


def test_refused_by_the_provider(sqlite_url, provider):
    """A user who refuses, an error, and a return that nothing began are plain pages."""
    site = with_provider(sqlite_url, provider)
    browser = site.browser()
    page = browser.get(at_provider(browser.get("/accedi").headers["Location"], "deny"))
    assert page.status == 403
    assert "Accesso annullato" in page.words
    state = dict(parse_qsl(urlsplit(browser.get("/accedi").headers["Location"]).query))["state"]
    page = browser.get(f"/accedi/ritorno?state={state}&error=%1b%5b31m&error_description=<script>")
    assert page.status == 403
    assert "script>alert" not in page.text
    for query in ("", "?state=", "?state=x&code=y", f"?state={state}&code=y", "?code=%00&state=%ff"):
        assert browser.get(f"/accedi/ritorno{query}").status == 400
    page = browser.get("/accedi")
    state = dict(parse_qsl(urlsplit(page.headers["Location"]).query))["state"]
    assert browser.get(f"/accedi/ritorno?state={state}&code=no-such-code").status == 403
    assert browser.post("/accedi", name="anna", password=PASSWORD).status in (400, 404)
    site.close()


def test_tabs(sqlite_url, provider):
    """Sign-ins that are begun in several tabs end each; of very many the last ones, and the cookie stays small."""
    site = with_provider(sqlite_url, provider)
    browser = site.browser()
    begun = [browser.get(f"/accedi?per=/incassi?da={number}") for number in range(12)]
    assert len(cookie_of(begun[-1])) < 3500
    assert browser.get(at_provider(begun[-2].headers["Location"])).headers["Location"] == "/incassi?da=10"
    assert browser.get(at_provider(begun[-1].headers["Location"])).headers["Location"] == "/"  # is signed in already
    for letter, kept in (("x", 390), ("x", 590), ("%C3%A8", 60), ("%C3%A8", 590), ("%F0%9F%98%80", 590)):
        browser = site.browser()
        begun = [browser.get(f"/accedi?per=/{letter * kept}") for _ in range(5)]
        assert len(cookie_of(begun[-1])) < 3500
        assert browser.get(at_provider(begun[-1].headers["Location"])).status == 302, letter
    site.close()


@pytest.mark.parametrize(
    "broken",
    [
        {"/.well-known/openid-configuration": (500, "text/html", b"<h1>no</h1>")},
        {"/.well-known/openid-configuration": (200, "text/html", b"<h1>Manutenzione</h1>")},
        {"/.well-known/openid-configuration": (200, "application/json", b"[]")},
        {"/.well-known/openid-configuration": (200, "application/json", b'{"issuer": "https://other.invalid"}')},
        {"/oauth2/token": (500, "text/plain", b"no")},
        {"/oauth2/token": (200, "text/html", b"<h1>no</h1>")},
        {"/jwks": (503, "text/html", b"no")},
        None,
    ],
    ids=lambda broken: "stopped" if broken is None else " ".join(f"{path} {how[2]}" for path, how in broken.items()),
)
def test_provider_away(sqlite_url, provider, broken):
    """The page says so with 503; users who had signed in go on, and sign out; later it works by itself."""
    if broken is None:
        provider = Provider()
    site = with_provider(sqlite_url, provider)
    anna = site.browser("anna")
    assert anna.get("/").status == 200
    if broken is None:
        provider.stop()
    else:
        provider.broken = broken
    browser = site.browser()
    page = browser.get("/accedi")
    if page.status == 302:
        page = browser.get(at_provider(page.headers["Location"]))
    assert page.status == 503
    assert "Il servizio di accesso non risponde" in page.words
    assert page.headers["Retry-After"]
    assert anna.get("/").status == 200
    if broken is not None:
        provider.broken = {}
        assert through(browser).status == 302
    elif anna.get("/").status == 200:
        assert anna.post("/esci").headers["Location"] == "/uscita"
    site.close()


def test_claims_of_userinfo(sqlite_url, provider):
    """What is not in the ID token is asked of the userinfo endpoint, if that tells of the same user."""
    site = with_provider(sqlite_url, provider, user_claim="upn", groups_claim="member_of")
    more = {"sub": "u-1", "upn": "anna", "member_of": "ragioneria"}
    provider.broken["/userinfo"] = (200, "application/json", json.dumps(more).encode())
    assert through(site.browser()).status == 302
    provider.broken["/userinfo"] = (200, "application/json", json.dumps(more | {"sub": "u-2"}).encode())
    assert through(site.browser()).status == 403
    site.close()


# --- a trusted proxy --------------------------------------------------------------------------------------------------


def behind(database_url, **console):
    own = {"auth": "proxy", "proxies": ["127.0.0.1", "10.0.0.0/8"]} | console
    return Site(database_url, console=own, grant=GRANTS)


def test_proxy(database_url):
    """The proxy's headers name user, name and groups, in each request; a session is one user's."""
    site = behind(database_url)
    browser = site.browser()
    page = browser.get("/", **{"X-Remote-User": "anna", "X-Remote-Name": "Nicolò".encode().decode("latin-1")})
    assert page.status == 200
    assert "Nicolò" in page.text
    assert "Accessi" in page.text
    token, browser.csrf = cookie_of(page), csrf(page)
    page = browser.get("/", **{"X-Remote-User": "bruno", "X-Remote-Groups": "tutti, ragioneria"})
    assert page.status == 200
    assert "Accessi" not in page.text
    assert cookie_of(page) != token  # a session of its own, and the other one has ended
    assert sessions_of(site) == 1
    stale = browser.ask("POST", "/esci", data={"csrf": browser.csrf}, headers={"X-Remote-User": "bruno"})
    assert stale.status == 400
    assert browser.get("/", **{"X-Remote-User": "bruno"}).status == 403  # no group any more
    assert browser.get("/").status == 403
    for address in ("/accedi", "/accedi/ritorno", "/profilo"):
        assert browser.get(address, **{"X-Remote-User": "anna"}).status in (302, 404)
    page = browser.get("/", **{"X-Remote-User": "anna"})
    out = browser.ask("POST", "/esci", data={"csrf": csrf(page)}, headers={"X-Remote-User": "anna"})
    assert out.headers["Location"] == "/uscita"
    gone = browser.get("/uscita", **{"X-Remote-User": "anna"})
    assert "chiudi tutte le finestre" in gone.words
    assert sessions_of(site) == 0
    site.close()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Remote-User": ""},
        {"X-Remote-User": " "},
        {"X-Remote-User": "x" * 201},
        {"X-Remote-User": "anna\x1b[31m"},
        {"X-Remote-User": "anna\x85"},
        {"X-Remote-User": "anna", "X-Remote-Name": "x" * 300},
        {"X-Remote-User": "anna", "X-Remote-Groups": "," * 600},
        {"X-Remote-Name": "anna", "X-Remote-Groups": "ragioneria"},
        {"X-User": "anna"},
    ],
    ids=lambda headers: str(headers)[:50],
)
def test_proxy_without_user(sqlite_url, headers):
    """A request without a user who can be one is answered 403."""
    site = behind(sqlite_url)
    page = site.browser().get("/", **headers)
    site.close()
    assert page.status == 403
    assert "Accesso non riuscito" in page.words


@pytest.mark.parametrize("auth", ["proxy", "local"])
@pytest.mark.parametrize(
    ("peer", "forwarded", "address", "by_proxy"),
    [
        ("127.0.0.1", "", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.1", "192.0.2.1", True),
        ("127.0.0.1", "198.51.100.1, 192.0.2.1, 10.1.2.3", "192.0.2.1", True),
        ("127.0.0.1", "nonsense", None, True),
        ("::ffff:127.0.0.1", "2001:db8::1", "2001:db8::1", True),
        ("192.0.2.9", "198.51.100.1", "192.0.2.9", False),
    ],
)
def test_address(sqlite_url, auth, peer, forwarded, address, by_proxy):
    """The address is that of X-Forwarded-For where a proxy passes it on, as for pushes; others cannot name a user."""
    site = behind(sqlite_url, auth=auth)
    seen = []
    site.app.before_request_funcs[None].append(lambda: seen.append(flask.g.address))
    browser = site.browser(None if auth == "proxy" else "anna")
    browser.client.environ_base["REMOTE_ADDR"] = peer
    page = browser.get("/", **{"X-Remote-User": "anna", "X-Forwarded-For": forwarded})
    site.close()
    if auth == "proxy" and not by_proxy:
        assert page.status == 403
    else:
        assert page.status == 200
        assert seen == [address]


# --- sessions ---------------------------------------------------------------------------------------------------------


def test_visitors_write_nothing(site):
    """A flood of visitors leaves no row, and what they make up in their cookie is nothing."""
    for _ in range(50):
        assert site.browser().get("/accedi").status == 200
    for forged in ({"user": {"name": "anna", "display_name": "", "groups": []}, "auth": "local"}, ["x"], 7, {"csrf": 7},
                   {"csrf": "x", "signing_in": {"a": "b"}}, {"signing_in": [1]}, {"csrf": "\ud800"}):  # fmt: skip
        word = base64.urlsafe_b64encode(json.dumps(forged).encode()).decode().rstrip("=")
        for cookie in (f".{word}", word, f".{word[:-3]}", "." + "x" * 8000, ".\xff", "\x01", "x" * 50_000, "."):
            browser = site.browser()
            browser.client = site.app.test_client(use_cookies=False)
            headers = {"Cookie": f"{COOKIE}={cookie}"}
            for address, status in (("/", 302), ("/accedi", 200), ("/accedi/ritorno?state=a", 404), ("/esci", 400)):
                method = "POST" if address == "/esci" else "GET"
                assert browser.ask(method, address, headers=headers).status == status
    assert sessions_of(site) == 0


def test_sessions_of_one_user(sqlite_url, monkeypatch):
    """What asks without cookies, behind a proxy that names its user, fills no table: the oldest sessions end."""
    monkeypatch.setattr("station.console.session._SESSIONS_MAX", 3)
    site = behind(sqlite_url)
    for user in ["anna"] * 5 + ["bruno"]:
        site.browser().get("/profilo", **{"X-Remote-User": user})
    assert sessions_of(site) == 4
    site.close()


def test_token_is_new(site):
    """A token that an attacker knows, or gave to the browser, is worth nothing after the sign-in."""
    browser = site.browser()
    browser.client.set_cookie(COOKIE, "planted", secure=True)
    first = cookie_of(sign_in(browser))
    assert first != "planted"
    again = site.browser("anna")
    before = {cookie.value for cookie in again.client._cookies.values()}
    assert browser.get("/").status == 200
    assert before.isdisjoint({first})


def test_ends(sqlite_url):
    """A session ends where it is not used, and after its hours in any case; one that is used goes on."""
    site = Site(sqlite_url, console={"idle_minutes": 1, "session_hours": 1}, grant=GRANTS)
    table = tables.console_session

    def seen(**ago):
        with store.transaction(site.app.engine) as connection:
            connection.execute(update(table).values(last_seen_at=datetime.now(UTC) - timedelta(**ago)))

    anna = site.browser("anna")
    seen(seconds=30)
    assert anna.get("/").status == 200  # and notes it
    with site.app.engine.connect() as connection:
        assert datetime.now(UTC) - connection.execute(select(table.c.last_seen_at)).scalar_one() < timedelta(seconds=20)
    seen(seconds=61)
    assert anna.get("/").status == 302
    anna = site.browser("anna")
    with store.transaction(site.app.engine) as connection:
        connection.execute(update(table).values(expires_at=datetime.now(UTC)))
    assert anna.get("/").status == 302
    sign = site.browser("anna")
    other = Site(sqlite_url, console={"auth": "proxy", "proxies": ["127.0.0.1"]}, grant=GRANTS)
    other_browser = other.browser()
    other_browser.client = other.app.test_client()
    for cookie in sign.client._cookies.values():
        other_browser.client.set_cookie(COOKIE, cookie.value, secure=True)
    assert other_browser.get("/").status == 403  # of another way in
    other.close()
    site.close()


def test_stays_ended(site):
    """A request that began before its session ended does not write it again."""
    anna = site.browser("anna")

    def end():
        with store.transaction(site.app.engine) as connection:
            sessions.end_sessions_of(connection, "anna")
        flask.session["changed"] = True

    site.app.before_request_funcs[None].append(end)
    assert anna.get("/").status == 200
    site.app.before_request_funcs[None].remove(end)
    assert sessions_of(site) == 0
    assert anna.get("/").status == 302


def test_requests_at_once(site):
    """Requests of one session at the same time are all answered."""
    anna = site.browser("anna")
    cookies = [cookie.value for cookie in anna.client._cookies.values()]

    def ask(address):
        browser = site.browser()
        browser.client.set_cookie(COOKIE, cookies[0], secure=True)
        return browser.get(address).status

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(ask, ["/incassi", "/stato"] * 8)) == {200}
    assert sessions_of(site) == 1
