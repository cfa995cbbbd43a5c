"""Sign-in at an identity provider by OpenID Connect: its addresses by discovery, an authorization code with PKCE.

Authlib speaks the protocol. Its calls block, and the worker's event loop must not: each runs in a thread.
"""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from authlib.integrations.flask_client import FlaskIntegration
from authlib.integrations.flask_client.apps import FlaskOAuth2App

from station import config, log
from station.console.identity import User
from station.errors import ProviderUnavailableError, SignInError, StationError
from station.store.waiting import run_in_thread

T = TypeVar("T")

_log = log.get(__name__)

_TIMEOUT_S = 5  # for a connection, and for a read
_CALL_TIMEOUT_S = 12.0  # for what a step of the sign-in asks, two calls at most
_CALLS_MAX = 4  # at the same time, in a process
_FRESH_S = 3600  # the provider's addresses are read again after this time
_HINT_MAX = 4000  # characters of an ID token that goes along in an address
_TEXT_MAX = 200
_GROUPS_MAX = 500
# Signed with the provider's private key. Authlib also knows HMAC, whose key would be public here, and "none".
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint")


class Provider:
    """The identity provider of the configuration, as one worker process knows it."""

    def __init__(self, settings: config.Settings) -> None:
        self._oidc, self._url = settings.oidc, settings.console.url
        self._callback = f"{self._url}/accedi/ritorno"
        self._calls = threading.BoundedSemaphore(_CALLS_MAX)
        self._client: Any = None
        self._read_at = 0.0

    @property
    def origins(self) -> tuple[str, ...]:
        """Where forms of the console may lead: the provider, where the sign-out goes on."""
        addresses = [str(self._oidc.issuer)]
        if self._client is not None:
            addresses.append(self._client.server_metadata.get("end_session_endpoint", addresses[0]))
        return tuple(dict.fromkeys(f"{url.scheme}://{url.netloc}" for url in map(urlsplit, addresses)))

    def begin(self) -> tuple[str, str, dict[str, str]]:
        """Return the address that the browser goes to, the state that comes back, and what to keep until then.

        Raises `ProviderUnavailableError`.
        """
        made = self._ask(lambda: self._known().create_authorization_url(self._callback))
        return made["url"], made["state"], {"nonce": made["nonce"], "verifier": made["code_verifier"]}

    def finish(self, code: str, kept: Mapping[str, str]) -> tuple[User, str]:
        """Return the user for the code that came back, and the ID token, which the sign-out sends along.

        Raises `ProviderUnavailableError` and `SignInError`.
        """

        def call() -> tuple[Mapping[str, Any], str]:
            client = self._known()
            try:
                token = client.fetch_access_token(self._callback, code=code, code_verifier=kept["verifier"])
            except ValueError:  # requests' own, too
                raise ProviderUnavailableError("its token endpoint answers no JSON") from None
            wanted = {
                "iss": {"essential": True, "value": client.server_metadata["issuer"]},
                "aud": {"essential": True, "value": self._oidc.client_id},
            }
            claims = client.parse_id_token(token, nonce=kept["nonce"], claims_options=wanted)
            # Before 1.7 Authlib lets an ID token say that the provider has no nonces.
            if claims is None or claims.get("nonce") != kept["nonce"]:
                raise SignInError("there is no ID token with the nonce")
            return self._with_userinfo(client, token, claims), token["id_token"]

        claims, id_token = self._ask(call)
        return self._user(claims), id_token

    def end(self, id_token: str) -> str | None:
        """Return the address that ends the session at the provider, too, `None` where it has none or is away."""
        try:
            client = self._ask(self._known)
        except StationError as error:
            _log.warning("console_provider_unavailable", reason=str(error))
            return None
        if "end_session_endpoint" not in client.server_metadata:
            return None
        from authlib.common.urls import add_params_to_uri

        fields = [("client_id", self._oidc.client_id), ("post_logout_redirect_uri", f"{self._url}/uscita")]
        if 0 < len(id_token) <= _HINT_MAX:
            fields.append(("id_token_hint", id_token))
        address: str = add_params_to_uri(client.server_metadata["end_session_endpoint"], fields)
        return address

    def _ask(self, call: Callable[[], T]) -> T:
        """Run what asks the provider in a thread, and make its errors ours."""
        if not self._calls.acquire(timeout=_TIMEOUT_S):
            raise ProviderUnavailableError("too many sign-ins at the same time")
        try:
            return run_in_thread(call, _CALL_TIMEOUT_S)
        except (StationError, MemoryError):
            raise
        except OSError as error:  # requests' errors, too, and what is no JSON
            raise ProviderUnavailableError(type(error).__name__) from None
        except Exception as error:  # Authlib's, and what an answer of an unexpected form leads to
            reason = getattr(error, "error", None) or type(error).__name__
            raise SignInError(str(reason)[:_TEXT_MAX]) from None
        finally:
            self._calls.release()

    def _known(self) -> Any:
        """Return Authlib's client with the provider's addresses; old ones where there are no new ones."""
        if self._client is None or time.monotonic() - self._read_at > _FRESH_S:
            try:
                self._client = self._discover()
            except (OSError, ProviderUnavailableError):
                if self._client is None:
                    raise
            self._read_at = time.monotonic()
        return self._client

    def _discover(self) -> Any:
        """Read the provider's addresses. Raises `OSError` and `ProviderUnavailableError`."""
        oidc, issuer = self._oidc, str(self._oidc.issuer).rstrip("/")
        how: dict[str, Any] = {
            "scope": " ".join(dict.fromkeys(("openid", *oidc.scopes))),
            "code_challenge_method": "S256",
            "default_timeout": _TIMEOUT_S,
            "verify": True if oidc.ca is None else str(oidc.ca),
            "trust_env": False,  # no ~/.netrc, and no proxies but those of the configuration
            "proxies": {} if oidc.proxy is None else {"https": oidc.proxy.get_secret_value()},
        }
        client = FlaskOAuth2App(
            FlaskIntegration("station"),
            "station",
            client_id=oidc.client_id,
            client_secret=oidc.client_secret and oidc.client_secret.get_secret_value(),
            server_metadata_url=f"{issuer}/.well-known/openid-configuration",
            client_kwargs=how,
        )
        try:
            found = client.load_server_metadata()
            known = {name: str(found[name]) for name in ("issuer", *_ENDPOINTS) if found.get(name)}
            safe = all(urlsplit(known[name]).scheme in ("https", urlsplit(issuer).scheme) for name in known)
            algorithms = [one for one in found.get("id_token_signing_alg_values_supported", ()) if one in _ALGORITHMS]
            methods = found.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
            if known["issuer"].rstrip("/") != issuer or not safe or any(name not in known for name in _ENDPOINTS[:3]):
                raise ValueError
        except OSError:
            raise
        except Exception:
            raise ProviderUnavailableError("its configuration is not that of the issuer, or lacks something") from None
        # What Authlib takes from the provider goes to the HTTP client as settings: nothing else may be among it.
        client.server_metadata = {
            **known,
            "_loaded_at": found["_loaded_at"],
            "id_token_signing_alg_values_supported": algorithms or ["RS256"],
            "token_endpoint_auth_method": "client_secret_basic"
            if "client_secret_basic" in methods
            else "client_secret_post",
        }
        return client

    def _with_userinfo(self, client: Any, token: Any, claims: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the claims, with those of the userinfo endpoint where one that is needed is not in the ID token."""
        needed = (self._oidc.user_claim, self._oidc.name_claim, self._oidc.groups_claim)
        if "userinfo_endpoint" not in client.server_metadata or all(_claim(claims, one) is not None for one in needed):
            return claims
        more = client.userinfo(token=token)
        if not secrets.compare_digest(str(more.get("sub")).encode(), str(claims["sub"]).encode()):
            raise SignInError("the userinfo endpoint told of another user")
        return {**more, **claims}

    def _user(self, claims: Mapping[str, Any]) -> User:
        """Return the user whom claims name. Raises `SignInError`."""
        oidc = self._oidc
        name = _text(_claim(claims, oidc.user_claim))
        if not name:
            raise SignInError(f"the claim {oidc.user_claim} is missing, or no user name")
        if oidc.user_claim == "email" and claims.get("email_verified") is False:
            raise SignInError("the provider has not verified the e-mail address")
        groups = _claim(claims, oidc.groups_claim)
        if isinstance(groups, str):
            groups = groups.split(",")
        groups = groups[:_GROUPS_MAX] if isinstance(groups, list) else []
        return User(name, _text(_claim(claims, oidc.name_claim)) or name, tuple(filter(None, map(_text, groups))))


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by its name, or by a path into it such as `realm_access.roles`."""
    value: Any = claims
    if path in claims:
        return claims[path]
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _text(value: Any) -> str:
    """Return a claim's text, "" where it is none that can be shown."""
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text if text.isprintable() and len(text) <= _TEXT_MAX else ""
