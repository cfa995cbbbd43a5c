"""The settings of the console: where it listens, who may use it, and the EC's own accounts."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints
from pydantic import model_validator as check

from station.config.ground import EcId, Listed, Network, Section, Url, listener

Role = Literal["reader", "operator", "admin"]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True)]


def _iban(text: object) -> object:
    """Return an IBAN in capitals and without blanks, as receipts have it."""
    return text.replace(" ", "").upper() if isinstance(text, str) else text


def _origin(url: str) -> str:
    """Return the console's address without a slash at its end; refuse one with a path."""
    if urlsplit(url).path.strip("/"):
        raise ValueError("the console has a name of its own: an address such as https://ricevute.comune.example.it")
    return url.rstrip("/")


class Console(Section):
    """The console, which `station console` serves to the EC's staff."""

    listen: Annotated[str, AfterValidator(listener)] = Field(
        "127.0.0.1:8083", description="Address and port to listen on, or unix:PATH."
    )
    url: Annotated[Url, AfterValidator(_origin)] | None = Field(
        None, description="The console's address as browsers call it. Default: the request's own, on this machine only."
    )
    certificate: Path | None = Field(
        None, description="PEM file: its certificate, then its chain. Without one, TLS is left to a proxy."
    )
    key: Path | None = Field(None, description="PEM file with its private key. Default: the certificate's file.")
    workers: int = Field(2, ge=1, le=64, description="Worker processes.")
    threads: int = Field(
        4, ge=1, le=64, description="Requests per worker process that use the database at the same time."
    )
    database_url: SecretStr | None = Field(
        None,
        description="The database with the console's own role, which row-level security limits (PostgreSQL)."
        " Default: `database.url`.",
    )
    auth: Literal["local", "oidc", "proxy"] = Field(
        "local",
        description="Who says who a user is: the station's own users, an identity provider ([oidc]), or headers of the"
        " proxies.",
    )
    proxies: Listed[Network | Literal["unix"]] = Field(
        (), description="The reverse proxies whose X-Forwarded-For is believed, and whose headers name the user."
    )
    user_header: HeaderName = Field("X-Remote-User", description='The header with the user, for `auth = "proxy"`.')
    name_header: HeaderName = Field("X-Remote-Name", description="The header with the user's name for display.")
    groups_header: HeaderName = Field(
        "X-Remote-Groups", description="The header with the user's groups, separated by commas."
    )
    idle_minutes: int = Field(30, ge=1, le=1440, description="Minutes without a request after which a session ends.")
    session_hours: int = Field(9, ge=1, le=168, description="Hours after which a session ends.")

    @check(mode="after")
    def _consistent(self) -> Self:
        if self.certificate is None and self.key:
            raise ValueError("key needs a certificate")
        if self.auth == "proxy" and not self.proxies:
            raise ValueError('auth = "proxy" needs proxies: the addresses whose headers name the user')
        if any(one != "unix" and one.prefixlen == 0 for one in self.proxies):
            raise ValueError("proxies cover every address, so each client could name itself any user: name the proxy's")
        if self.auth == "oidc" and self.url is None:
            raise ValueError('auth = "oidc" needs url: the identity provider sends browsers back to it')
        return self


class Oidc(Section):
    """The identity provider, for `console.auth = "oidc"`: any that speaks OpenID Connect."""

    issuer: Url | None = Field(
        None, description="Its issuer; its addresses are read from /.well-known/openid-configuration there."
    )
    client_id: Text | None = Field(None, description="The console's client_id at the provider.")
    client_secret: SecretStr | None = Field(None, description="The console's client_secret.")
    scopes: Listed[Text] = Field(("openid", "profile", "email"), description="The scopes to ask for.")
    user_claim: Text = Field("sub", description="The claim that names the user in [[grant]].")
    name_claim: Text = Field("name", description="The claim with the user's name for display.")
    groups_claim: Text = Field("groups", description="The claim with the user's groups.")
    ca: Path | None = Field(None, description="PEM file with the CA of the provider's certificate.")
    proxy: SecretStr | None = Field(
        None, description="http://user:password@host:port, if calls to the provider need a proxy."
    )


class Grant(Section):
    """What a user, or a group of users, may see and do in the console."""

    user: Text | None = Field(None, description="The user: a local name, the claim or the header's value.")
    group: Text | None = Field(None, description="Or a group, as the provider or the proxy names it.")
    ecs: Listed[EcId | Literal["*"]] = Field(description='The ECs (idPA); ["*"]: all.')
    role: Role = Field(
        "reader",
        description="reader: looks; operator: also replays, discards and sends again; admin: also sees who looked up"
        " whom.",
    )

    @check(mode="after")
    def _of_one(self) -> Self:
        if (self.user is None) == (self.group is None):
            raise ValueError("name a user or a group, one of the two")
        if not self.ecs:
            raise ValueError('ecs is empty: name the ECs, or ["*"] for all')
        return self


class Account(Section):
    """An account of the EC's own bookkeeping, and which transfers belong to it. The first one that fits counts."""

    code: Text = Field(description="The account's code, such as an entry of the budget.")
    name: str = Field("", max_length=200, description="Its name, for display.")
    ecs: Listed[EcId] = Field((), description="Transfers of these ECs' receipts only; none: of all.")
    categories: Listed[Text] = Field((), description="Transfers whose transferCategory begins with one of these.")
    ibans: Listed[Annotated[Text, BeforeValidator(_iban)]] = Field(
        (), description="Transfers to one of these IBANs. With categories, both must fit."
    )

    @check(mode="after")
    def _chooses(self) -> Self:
        if not self.categories and not self.ibans:
            raise ValueError("name categories or ibans: which transfers belong to it")
        return self
