"""The Flask application of the console: what every request meets before its page, and what every answer carries."""

import secrets
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import (
    Flask,
    Request,
    Response,
    abort,
    current_app,
    g,
    redirect,
    render_template,
    request,
    send_from_directory,
    session,
)
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, ServiceUnavailable

from station import config, log, store
from station.console import assets, local, proxy, words
from station.console.ec_choice import ec_name
from station.console.error_page import page_of_error
from station.console.pages import (
    accesses,
    account,
    attention,
    credited,
    deliveries,
    receipt,
    search,
    state,
    takings,
)
from station.console.scope import ADMIN, OPERATOR, READER, Scope, timed_out
from station.console.session import StoredSessions
from station.console.slots import Slots
from station.errors import MissingRightsError, StoreError, StoreRejectedError, out_of_resource
from station.http.answer import Answer

if TYPE_CHECKING:
    from station.console import oidc

_log = log.get(__name__)

_PAGES = (search, receipt, takings, credited, attention, deliveries, state, accesses, account)
# Endpoints that need no database: they work while it is away.
_WITHOUT_SESSION = frozenset({"static", "assets", "live", "ready"})
# And those that need no user.
_OPEN = _WITHOUT_SESSION | {"account.sign_in", "account.sign_in_local", "account.callback", "account.signed_out"}
# And those that wait for a provider or a password's check, with bounds of their own: others go on meanwhile.
_WITHOUT_SLOT = frozenset({"account.sign_in", "account.sign_in_local", "account.callback", "account.sign_out"})
_SLOT_TIMEOUT_S = 10.0  # a request that gets no connection to the database within this time is answered 503
_FORM_MAX = 64 * 1024
_FILES_LAST_S = 365 * 86_400  # their addresses have the version
_GROUPS_LOGGED = 20
_LABEL = "Ricevute pagoPA"

_MENU = (
    ("search.search", "Cerca", READER),
    ("takings.takings", "Incassi", READER),
    ("credited.flows", "Accrediti", READER),
    ("attention.attention", "Da controllare", READER),
    ("deliveries.destinations", "Consegne", READER),
    ("state.state", "Stato", READER),
    ("accesses.accesses", "Accessi", ADMIN),
)


class ConsoleApp(Flask):
    """The application of one worker process. Pages find it as `current_app`."""

    def __init__(self, settings: config.Settings, engine: store.Engine) -> None:
        super().__init__("station.console")
        self.settings = settings
        self.engine = engine
        self.slots = Slots(settings.console.threads)
        self.passwords = local.Passwords(engine)
        self.provider = _provider(settings)
        self.headers_once = proxy.headers_once(settings.console)
        self.stopping = False

    def log_exception(self, *_: object, **__: object) -> None:
        """Log nothing: Flask's line would have the address, and `_failure` has logged the error."""

    def stop(self) -> None:
        """Note that the process is about to end: load balancers are told."""
        self.stopping = True

    def problem(self, status: int, code: str, detail: str) -> Answer:
        """Return the answer to what is no request."""
        return Answer(f"{status} {code}", f"{detail}\n")


def _provider(settings: config.Settings) -> "oidc.Provider | None":
    if settings.console.auth != "oidc":
        return None
    from station.console import oidc  # Authlib takes 20 MiB of a process

    return oidc.Provider(settings)


def create_app(settings: config.Settings, engine: store.Engine | None = None) -> ConsoleApp:
    """Make the application of a worker process. Raises `MissingExtraError`."""
    store.load()
    own = settings.console.database_url or settings.database.url
    if engine is None:
        engine = store.connect(
            own.get_secret_value(), pool_size=settings.console.threads + 1, prepare=settings.database.prepare
        )
    app = ConsoleApp(settings, engine)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(),  # nothing is signed with it
        MAX_CONTENT_LENGTH=_FORM_MAX,
        MAX_FORM_MEMORY_SIZE=_FORM_MAX,
        MAX_FORM_PARTS=100,
        SEND_FILE_MAX_AGE_DEFAULT=_FILES_LAST_S,
        WITHOUT_SESSION=("/static/", "/bi/", "/live", "/ready"),
    )
    app.session_interface = StoredSessions(engine, settings.console)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(moment=words.moment, euro=words.euro, number=words.number, notice=words.notice)
    app.jinja_env.globals.update(
        icon=assets.icon, counted=words.counted, with_query=words.with_query, csrf_token=csrf_token, label=_LABEL,
        bi=assets.address, static=assets.own_address, READER=READER, OPERATOR=OPERATOR, ADMIN=ADMIN,
    )  # fmt: skip
    app.before_request(_begin)
    app.after_request(_finish)
    app.teardown_request(_give_back)
    app.context_processor(_for_every_page)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)
    app.add_url_rule("/bi/<path:name>", "assets", _asset)
    app.add_url_rule("/live", "live", lambda: ("alive\n", {"Content-Type": "text/plain; charset=utf-8"}))
    app.add_url_rule("/ready", "ready", _ready)
    for page in _PAGES:
        app.register_blueprint(page.pages)
    assets.prepare()
    return app


def csrf_token() -> str:
    """Return the token that each form of this session sends along."""
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    token: str = session["csrf"]
    return token


def _begin() -> ResponseReturnValue | None:
    """Check what asks, before its page does anything."""
    app = _app()
    g.begun, g.user, g.scope = time.monotonic(), None, None
    g.address, g.by_proxy = proxy.origin(app.settings.console, request)
    g.slot_of = None
    if request.endpoint in _WITHOUT_SESSION:  # probes call a machine by its address
        return None
    if app.settings.console.url and request.host != urlsplit(app.settings.console.url).netloc:
        abort(400, "host")
    if request.method in ("GET", "HEAD"):
        _check_origin(request)
    g.user = account.user(app.settings, request)
    if request.method not in ("GET", "HEAD"):
        _check_form(request)
    if g.user is None:
        if request.endpoint in _OPEN:
            return None
        if request.method == "GET":
            return redirect(account.address_to_sign_in())
        abort(401)
    if request.endpoint not in _WITHOUT_SLOT:
        if not app.slots.take(g.user.name, _SLOT_TIMEOUT_S):
            raise ServiceUnavailable("overloaded")
        g.slot_of = g.user.name
    g.scope = Scope(app.engine, app.settings.grant, g.user)
    if g.scope.is_empty and request.endpoint not in _OPEN | {"account.sign_out", "account.profile"}:
        _log.warning("console_without_grant", user=g.user.name, groups=g.user.groups[:_GROUPS_LOGGED])
        return Response(render_template("without_grant.html"), 403)
    return None


def _check_origin(asked: Request) -> None:
    """End what another site's page asks for, but not where it leads: look-ups would be written down as the user's."""
    sent = asked.headers
    leads = sent.get("Sec-Fetch-Mode") == "navigate" and sent.get("Sec-Fetch-Dest", "document") == "document"
    if sent.get("Sec-Fetch-Site", "none") not in ("same-origin", "none") and not leads:
        abort(403)


def _check_form(asked: Request) -> None:
    """End a request that another site had the browser send, or whose session has ended."""
    token = session.get("csrf", "")
    given = asked.form.get("csrf", "")
    if not token or not secrets.compare_digest(token.encode(), given.encode()):
        abort(400, "csrf")
    if asked.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        abort(400, "csrf")


def _finish(response: Response) -> Response:
    """Add what every answer carries, and log the request: no address of a page, since people look for persons by it."""
    headers = response.headers
    if request.endpoint not in ("static", "assets") or response.status_code >= 400:
        headers["Cache-Control"] = "no-store"
    headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'self'; script-src 'self'; font-src 'self'; img-src 'self' data:; "
        f"form-action 'self'{account.form_targets(_app().settings)}; frame-ancestors 'none'; base-uri 'none'"
    )
    if response.mimetype == "application/pdf":  # Chromium's viewer is a page of its own, which the rest would blank
        headers["Content-Security-Policy"] = "frame-ancestors 'none'"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Opener-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=(), payment=()"
    if (_app().settings.console.url or "").startswith("https:"):
        headers["Strict-Transport-Security"] = "max-age=31536000"
    if request.endpoint not in _WITHOUT_SESSION:
        user = g.get("user")
        _log.info(
            "console_answered",
            endpoint=request.endpoint,
            method=request.method,
            status=response.status_code,
            user=None if user is None else user.name,
            duration_ms=round((time.monotonic() - g.get("begun", time.monotonic())) * 1000, 1),
        )
    return response


def _give_back(_error: BaseException | None) -> None:
    if (user := g.pop("slot_of", None)) is not None:
        _app().slots.give_back(user)


def _for_every_page() -> dict[str, Any]:
    """Return what the frame of every page shows."""
    scope, settings = g.get("scope"), _app().settings
    ecs = settings.ecs
    mine = [ecs[id_pa] for id_pa in ecs if scope is not None and scope.has(id_pa)]
    menu = [(endpoint, text) for endpoint, text, role in _MENU if scope is not None and scope.is_any(role)]
    return {
        "menu": menu if scope is not None and not scope.is_empty else [],
        "user": g.get("user"),
        "scope": scope,
        "organization": mine[0].name or mine[0].id if len(mine) == 1 else f"{len(mine)} enti" if mine else "",
        "ec_name": ec_name,
        "my_ecs": mine,
        "own_password": settings.console.auth == "local",
    }


# --- errors -----------------------------------------------------------------------------------------------------------

_TOLD = {
    400: ("Richiesta non valida", "L'indirizzo o il modulo non è valido. Torna indietro e riprova."),
    401: ("Accesso necessario", "La sessione è terminata: accedi di nuovo."),
    403: ("Operazione non consentita", "Il tuo profilo non permette questa operazione."),
    404: ("Pagina non trovata", "Quello che cerchi non esiste, oppure non è tra ciò che puoi vedere."),
    405: ("Richiesta non valida", "Questa operazione non è possibile qui."),
    429: ("Troppi tentativi", "Da qui ci sono stati troppi tentativi di accesso errati: riprova tra 15 minuti."),
    413: ("Richiesta troppo grande", "Il modulo inviato è troppo grande."),
    500: ("Errore della console", "Si è verificato un errore. Le ricevute non sono in pericolo: riprova più tardi."),
    503: ("Servizio momentaneamente non disponibile", "Ci sono troppe richieste: riprova tra qualche minuto."),
}
_EXPIRED = ("La pagina è scaduta", "La sessione è terminata o la pagina era aperta da troppo tempo: riprova.")
_DATABASE = (
    "La banca dati non risponde",
    "La console non riesce a leggere la banca dati. Le ricevute continuano ad arrivare: riprova tra qualche minuto.",
)
_TOO_MUCH = ("La ricerca richiede troppo tempo", "Chiedi di meno in una volta: meno giorni, oppure un solo ente.")


def _http_error(error: HTTPException) -> ResponseReturnValue:
    if error.response is not None or (error.code is not None and error.code < 400):
        return error
    if (original := getattr(error, "original_exception", None)) is not None:
        return _failure(original)  # from before the page: the session could not be read
    status = error.code or 500
    if error.description == "csrf":
        return page_of_error(status, *_EXPIRED)
    return page_of_error(status, *_TOLD.get(status, _TOLD[400 if status < 500 else 500]))


def _failure(error: Exception) -> ResponseReturnValue:
    if isinstance(error, StoreError) and timed_out(error):
        _log.warning("console_query_timed_out", endpoint=request.endpoint)
        return page_of_error(503, *_TOO_MUCH)
    if isinstance(error, StoreError) and not isinstance(error, StoreRejectedError):
        hint = {"hint": str(error)} if isinstance(error, MissingRightsError) else {}
        _log.error("console_database_unavailable", reason=error.reason, **hint)
        g.scope = None  # the frame shows nothing that would have to be read
        return page_of_error(503, *_DATABASE)
    _log.error("unexpected_error", endpoint=request.endpoint, exc_info=error)
    return page_of_error(503 if out_of_resource(error) else 500, *_TOLD[503 if out_of_resource(error) else 500])


# --- files and probes -------------------------------------------------------------------------------------------------


def _asset(name: str) -> ResponseReturnValue:
    if not name.startswith(assets.ALLOWED):
        abort(404)
    if name == assets.CSS:
        packs = "gzip" in request.headers.get("Accept-Encoding", "")
        response = Response(assets.packed_style_sheet() if packs else assets.style_sheet(), mimetype="text/css")
        response.headers["Vary"] = "Accept-Encoding"
        if packs:
            response.headers["Content-Encoding"] = "gzip"
        response.cache_control.max_age = _FILES_LAST_S
        return response
    return send_from_directory(assets.folder(), name)


def _ready() -> ResponseReturnValue:
    app, plain = _app(), {"Content-Type": "text/plain; charset=utf-8"}
    if app.stopping:
        return "stopping\n", 503, plain
    try:
        store.check_schema(app.engine, limited=True)
    except Exception as error:
        if isinstance(error, StoreError):
            return "the database cannot be used\n", 503, plain
        return "the schema of the database does not fit\n", 503, plain
    return "ready\n", plain


def _app() -> ConsoleApp:
    return current_app  # type: ignore[return-value]
