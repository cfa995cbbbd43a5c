"""Signing in and out, by whatever the configuration names, and the user's own password."""

import json
import re
import secrets
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Request, abort, current_app, flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from station import config, log, store
from station.console import identity, local, proxy
from station.console.error_page import PROVIDER, page_of_error
from station.errors import ProviderUnavailableError, SignInError, UntrustedError
from station.store import users
from station.text import printable

_log = log.get(__name__)

pages = Blueprint("account", __name__)

_PENDING_MAX = 4  # sign-ins that a browser may have begun, one in each of its tabs
_BACK_MAX = 400  # as JSON has it: so many sign-ins must fit into one cookie
# A path of this console. Browsers take `//host` and `/\host` for another host, and leave out control characters.
_BACK = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]*")
_NOT_BACK = ("/accedi", "/esci", "/uscita")
_REFUSED = (
    "Accesso non riuscito",
    "Il servizio di accesso non ha confermato chi sei. Riprova; se non basta, rivolgiti a chi gestisce la console.",
)
_CANCELLED = ("Accesso annullato", "L'accesso non è stato completato. Puoi riprovare quando vuoi.")
_UNTRUSTED = (
    "Accesso non riuscito",
    "La console si raggiunge solo dall'indirizzo del tuo ente, che verifica chi sei. Rivolgiti a chi la gestisce.",
)
_PASSWORD_PROBLEMS = {
    "short": f"Almeno {local.LENGTH_MIN} caratteri.",
    "long": f"Al massimo {local.LENGTH_MAX} caratteri.",
    "name": "La password non deve contenere il nome utente.",
    "common": "Questa password è troppo comune: scegline un'altra, per esempio quattro parole senza legame tra loro.",
}


def user(settings: config.Settings, asked: Request) -> identity.User | None:
    """Return the user who asks, `None` where the user has to sign in.

    With `auth = "proxy"` the headers of each request say who it is: a request without them is answered 403, and a
    session that was another user's ends.
    """
    auth = settings.console.auth
    signed_in = identity.of_session(auth)
    if auth != "proxy":
        if signed_in is None and "user" in session:
            identity.sign_out()
        return signed_in
    try:
        found = proxy.user(settings.console, asked, by_proxy=g.by_proxy)
    except UntrustedError as error:
        _log.warning("console_untrusted", reason=str(error), address=g.address)
        abort(page_of_error(403, *_UNTRUSTED))
    if (signed_in is None or signed_in.name != found.name) and asked.endpoint != "account.signed_out":
        identity.sign_in(found, auth)
    return found


def address_to_sign_in() -> str:
    """Return where a browser without a user is sent, to come back afterwards."""
    back = request.full_path.rstrip("?") if request.method == "GET" else "/"
    return url_for("account.sign_in") + "?" + urlencode({"per": _back(back)})


def form_targets(settings: config.Settings) -> str:
    """Return other origins to which a form may lead, for the content-security policy: where signing out goes on."""
    provider = _app().provider
    return "" if provider is None else "".join(f" {origin}" for origin in provider.origins)


@pages.get("/accedi")
def sign_in() -> ResponseReturnValue:
    """Show the form, or send the browser to the identity provider."""
    back = _back(request.args.get("per", "/"))
    if g.user is not None:
        return redirect(back)
    if (provider := _app().provider) is None:
        return render_template("sign_in.html", name="", wrong=False)
    try:
        address, state, kept = provider.begin()
    except ProviderUnavailableError as error:
        return _without_provider(error)
    pending = list(_pending().items())[1 - _PENDING_MAX :]
    session["signing_in"] = dict([*pending, (state, {**kept, "back": back})])
    return redirect(address)


@pages.post("/accedi")
def sign_in_local() -> ResponseReturnValue:
    """Take the form with name and password."""
    settings = _app().settings
    if settings.console.auth != "local":
        abort(404)
    name = request.form.get("name", "").strip().lower()
    row = _app().passwords.check(name, request.form.get("password", ""), g.address)
    if row is None:
        return render_template("sign_in.html", name=name[:64], wrong=True), 403

    def confirm(connection: store.Connection) -> bool:
        return users.sign_in(connection, row.name, password_hash=row.password_hash, now=datetime.now(UTC))

    identity.sign_in(identity.User(row.name, row.display_name), "local", confirm=confirm)
    return redirect(_back(request.args.get("per", "/")))


@pages.get("/accedi/ritorno")
def callback() -> ResponseReturnValue:
    """Take what the identity provider sends the browser back with."""
    if (provider := _app().provider) is None:
        abort(404)
    pending = _pending()
    kept = pending.pop(request.args.get("state", ""), None)
    session["signing_in"] = pending
    if "error" in request.args:  # with no state, where the provider forgets it
        error = request.args["error"]
        _log.warning("console_sign_in_refused", reason=printable(error, 60), address=g.address)
        return page_of_error(403, *(_CANCELLED if error == "access_denied" else _REFUSED), again=True)
    if kept is None:  # begun in another browser, or too long ago
        return redirect("/") if g.user is not None else page_of_error(400, *_REFUSED, again=True)
    back = _back(kept["back"])
    try:
        found, id_token = provider.finish(request.args.get("code", ""), kept)
    except ProviderUnavailableError as error:
        return _without_provider(error)
    except SignInError as error:
        _log.warning("console_sign_in_refused", reason=printable(error, 200), address=g.address)
        return page_of_error(403, *_REFUSED, again=True)
    identity.sign_in(found, "oidc", id_token=id_token)
    return redirect(back)


@pages.post("/esci")
def sign_out() -> ResponseReturnValue:
    """End the session, and that at the identity provider, too."""
    id_token = session.get("id_token", "")
    identity.sign_out()
    provider = _app().provider
    address = provider.end(id_token) if provider is not None else None
    return redirect(address or url_for("account.signed_out"))


@pages.get("/uscita")
def signed_out() -> ResponseReturnValue:
    """Say that the session has ended. It leads to a new sign-in by a click only."""
    auth = _app().settings.console.auth
    if g.user is not None and auth != "proxy":
        return redirect("/")
    g.user = g.scope = None
    return render_template("signed_out.html", auth=auth)


@pages.route("/profilo", methods=["GET", "POST"])
def profile() -> ResponseReturnValue:
    """Let a user of the console's own change the password."""
    if _app().settings.console.auth != "local":
        abort(404)
    wrong = {} if request.method == "GET" else _change_password()
    if request.method == "POST" and not wrong:
        flash("La password è stata cambiata. Le altre sessioni sono terminate.", "success")
        return redirect(url_for("account.profile"), 303)
    return render_template("profile.html", wrong=wrong, length=local.LENGTH_MIN), 400 if wrong else 200


def _change_password() -> dict[str, str]:
    """Change the password as the form says, and return what is wrong with it, by field."""
    old, new, again = (request.form.get(field, "") for field in ("old", "new", "again"))
    if (why := local.problem(new, g.user.name)) is not None:
        return {"new": _PASSWORD_PROBLEMS[why]}
    if not secrets.compare_digest(new.encode(), again.encode()):
        return {"again": "Le due password sono diverse."}
    row = _app().passwords.check(g.user.name, old, g.address)
    if row is None:
        return {"old": "La password attuale non è corretta, oppure ci sono stati troppi tentativi: riprova più tardi."}
    hashed = _app().passwords.make(new)

    def confirm(connection: store.Connection) -> bool:
        now = datetime.now(UTC)
        return users.change_password(connection, row.name, password_hash=hashed, old_hash=row.password_hash, now=now)

    identity.sign_in(g.user, "local", confirm=confirm)
    return {}


def _without_provider(error: ProviderUnavailableError) -> ResponseReturnValue:
    _log.warning("console_provider_unavailable", reason=str(error))
    return page_of_error(503, *PROVIDER, again=True)


def _back(text: str) -> str:
    """Return where to go after a sign-in: a path of this console, whatever the address says."""
    fits = len(json.dumps(text)) <= _BACK_MAX and _BACK.fullmatch(text) and not text.startswith(_NOT_BACK)
    return text if fits else "/"


def _pending() -> dict[str, dict[str, str]]:
    """Return the sign-ins that this browser began, by state. They come from its own cookie."""
    held = session.get("signing_in")
    fields = ("nonce", "verifier", "back")
    return {
        state: {field: one[field] for field in fields}
        for state, one in (held.items() if isinstance(held, dict) else ())
        if isinstance(one, dict) and all(isinstance(one.get(field), str) for field in fields)
    }


def _app() -> Any:
    """Return the application, a `ConsoleApp`."""
    return current_app
