"""The settings: sections, types, defaults, and the description of each (docs/configuration.md is made from it)."""

from collections import Counter
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic import model_validator as check

from station.config.apis import BizEvents, Fdr, Gpd, KeyName
from station.config.console import Account, Console, Grant, Oidc
from station.config.destinations import Destination, Feed
from station.config.ground import (
    Certificate,
    EcId,
    HostPort,
    Key,
    Listed,
    Logo,
    Network,
    Networks,
    PagoPaId,
    Section,
    Url,
    listener,
)

# The names of the certificate that pagoPA's forwarder presents.
NODO_NAMES = {
    "production": ("forwarder.platform.pagopa.it",),
    "uat": ("forwarder.uat.platform.pagopa.it",),
    "both": ("forwarder.platform.pagopa.it", "forwarder.uat.platform.pagopa.it"),
}


class Database(Section):
    """Where receipts are stored."""

    url: SecretStr = Field(
        SecretStr("sqlite:///station.sqlite3"),
        description="PostgreSQL (postgresql://user:password@host/database) or SQLite (sqlite:///file).",
    )
    pool_size: int = Field(
        0, ge=0, le=1000, description="Maximum connections per worker process; 0: `server.threads`, and one for health."
    )
    prepare: bool = Field(
        True, description="Prepare statements on PostgreSQL; false behind PgBouncer before 1.21 in transaction mode."
    )


class Server(Section):
    """The SOAP endpoint."""

    listen: Annotated[str, AfterValidator(listener)] = Field(
        "127.0.0.1:8080", description="Address and port to listen on, or unix:PATH."
    )
    public_url: Url | None = Field(
        None,
        description="The endpoint's URL as the Nodo calls it, for the WSDL. Default: the request's own.",
    )
    path: str = Field("/paForNode", pattern=r"^/[^\s?#]*$", description="The endpoint's path on this server.")
    workers: int = Field(0, ge=0, le=64, description="Worker processes; 0: one per core, on SQLite at most two.")
    threads: int = Field(
        8, ge=1, le=256, description="Requests per worker process that use the database at the same time."
    )
    max_body: int = Field(
        1024 * 1024, ge=1024, le=2**30, description="Largest request body in bytes; larger ones are answered 413."
    )
    read_timeout: float = Field(
        10.0, gt=0, le=3600, description="Seconds within which a request must arrive completely."
    )
    max_waiting: int = Field(
        256,
        ge=0,
        le=1_000_000,
        description="Requests per worker process in progress or waiting, beyond `threads`: above the sum of both, a"
        " request is answered 503 at once.",
    )
    wsdl: bool = Field(True, description="Whether to serve the contract at `?wsdl`.")
    health_listen: HostPort | Literal[""] = Field(
        "127.0.0.1:8081", description="Address and port for /live, /ready and /metrics; empty: not served."
    )
    station_id: PagoPaId | None = Field(
        None, description="The id in faults for requests without a readable idPA. Default: the first broker's id."
    )


class Tls(Section):
    """TLS terminated by the station itself. Without a certificate, TLS is left to a proxy (if there is one)."""

    certificate: Path | None = Field(None, description="PEM file: the station's certificate, then its chain.")
    key: Path | None = Field(None, description="PEM file with its private key. Default: the certificate's file.")
    client_ca: Path | None = Field(
        None, description="PEM file with the CAs, including intermediates, of client certificates; makes one mandatory."
    )

    @check(mode="after")
    def _certificate_first(self) -> Self:
        if self.certificate is None and (self.key or self.client_ca):
            raise ValueError("key and client_ca need a certificate")
        return self


class Trust(Section):
    """The senders to admit, by certificate and address. If both are configured, both must match."""

    nodo: Literal["production", "uat", "both"] | None = Field(
        None, description="Admits the certificate of pagoPA's forwarder, by name."
    )
    certificates: Listed[Certificate] = Field(
        (), description="Certificates to admit: a name (CN or DNS name), sha256:<fingerprint>, or * for any."
    )
    addresses: Networks = Field(
        (), description="Addresses, networks (10.0.0.0/8) and ranges (10.0.0.1-10.0.0.9) to admit; none: all."
    )
    proxies: Listed[Network | Literal["unix"]] = Field(
        (), description="The reverse proxies whose X-Forwarded-For and certificate header are trusted."
    )
    proxy_certificate: Literal["nginx", "haproxy", "envoy", "azure", "f5", "rfc9440"] | None = Field(
        None, description="The header in which they forward the client's certificate."
    )
    anyone_may_send: bool = Field(
        False, description="Admit every client that can connect, without certificates or addresses."
    )
    anyone_is_proxy: bool = Field(
        False, description="Allow 0.0.0.0/0 or ::/0 in proxies; only where nothing but the proxy can reach the station."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names and fingerprints of the certificates to admit, pagoPA's among them."""
        return self.certificates + NODO_NAMES.get(self.nodo or "", ())

    @property
    def proxy_networks(self) -> list[Network]:
        """The networks in `proxies`, adjacent ones merged."""
        networks = [one for one in self.proxies if one != "unix"]
        four = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
        six = collapse_addresses(one for one in networks if isinstance(one, IPv6Network))
        return [*four, *six]

    @property
    def restricted(self) -> bool:
        """Whether the senders are limited by certificate, address or proxy."""
        return bool(self.names or self.addresses or self.proxies)

    @check(mode="after")
    def _proxies_known(self) -> Self:
        if self.proxy_certificate and not self.proxies:
            raise ValueError("proxy_certificate needs proxies: the addresses it is trusted from")
        if not self.anyone_is_proxy and any(network.prefixlen == 0 for network in self.proxy_networks):
            raise ValueError(
                "proxies cover every address, so each sender could write its own certificate and address into headers: "
                "name the proxy's addresses, or set anyone_is_proxy = true if only the proxy can reach the station"
            )
        if self.anyone_may_send and self.restricted:
            raise ValueError("anyone_may_send contradicts the other settings in [trust]: remove one of them")
        return self


class Rules(Section):
    """Which receipts are refused, and which are stored and flagged."""

    unknown_elements: Literal["accept", "refuse"] = Field(
        "accept",
        description="A receipt with elements or attributes unknown to the schema: store and flag it, or refuse it.",
    )
    strict_stations: bool = Field(
        False, description="Refuse a receipt that arrived by an unconfigured station, instead of flagging it."
    )


class Log(Section):
    """The log, on standard error."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="JSON lines, readable lines, or auto: readable on a terminal and JSON elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The lowest level that is logged.")


class Journal(Section):
    """The event journal (giornale degli eventi)."""

    enabled: bool = Field(
        True, description="Whether to record each exchange, in the transaction that stores the receipt."
    )


class Retention(Section):
    """Months, from arrival, after which `station purge` removes data. Not set: kept for ever."""

    raw_months: int | None = Field(
        None, ge=1, le=1200, description="The raw documents of receipts; the columns stay, the exact bytes are deleted."
    )
    personal_months: int | None = Field(
        None,
        ge=1,
        le=1200,
        description="Names, fiscal codes, IBANs and free text of receipts, and their raw documents.",
    )
    refused_months: int | None = Field(
        None,
        ge=1,
        le=1200,
        description="Refused requests, from when they were accepted or discarded. Open ones are kept.",
    )
    journal_months: int | None = Field(
        None, ge=24, le=1200, description="The event journal: pagoPA asks for at least 24 months."
    )
    delivery_months: int | None = Field(
        None,
        ge=1,
        le=1200,
        description="Deliveries by webhook, from when they were settled: the numbers, and the list of files, stay.",
    )
    flows_months: int | None = Field(
        None, ge=3, le=1200, description="Flows (FdR) with their payments, from when they were published."
    )
    access_months: int | None = Field(
        None, ge=6, le=1200, description="Who looked up whom in the console: 6 months at least."
    )


class Api(Section):
    """The feed, which `station api` serves to the readers in [[destination]] of kind `feed`."""

    listen: Annotated[str, AfterValidator(listener)] = Field(
        "127.0.0.1:8082", description="Address and port to listen on, or unix:PATH."
    )
    certificate: Path | None = Field(
        None, description="PEM file: its certificate, then its chain. Without one, TLS is left to a proxy."
    )
    key: Path | None = Field(None, description="PEM file with its private key. Default: the certificate's file.")
    workers: int = Field(2, ge=1, le=64, description="Worker processes.")
    threads: int = Field(
        4, ge=1, le=64, description="Requests per worker process that use the database at the same time."
    )
    max_waiting: int = Field(
        500,
        ge=0,
        le=100_000,
        description="Readers per worker process that wait for something new; one more is answered 503 at once.",
    )

    @check(mode="after")
    def _certificate_first(self) -> Self:
        if self.certificate is None and self.key:
            raise ValueError("key needs a certificate")
        return self


class Pdf(Section):
    """The printed copy of a receipt, which `station receipts pdf` writes."""

    pagopa_logo: Logo | None = Field(
        None, description="SVG, PNG or JPEG with the logo of pagoPA, a trademark that the station does not come with."
    )


class Broker(Section):
    """An intermediary (or the EC itself) with its stations."""

    id: PagoPaId = Field(description="idBrokerPA, a fiscal code.")
    stations: tuple[PagoPaId, ...] = Field((), description="Its stations (idStation).")
    gpd_key: Key | None = Field(None, description="The broker's key for the GPD receipts API.")
    gpd_positions_key: Key | None = Field(None, description="The broker's key for GPD-Core's positions.")
    fdr_key: Key | None = Field(None, description="The broker's key for the FdR API.")
    biz_events_key: Key | None = Field(None, description="The broker's key for the BizEvents API.")


class Ec(Section):
    """An EC (ente creditore) whose receipts are accepted."""

    id: EcId = Field(description="idPA, the EC's fiscal code of 11 digits.")
    name: str = Field("", description="The EC's name, for display.")
    stations: tuple[PagoPaId, ...] = Field(
        (), description="The stations it is connected through; none: any of the brokers'."
    )
    gpd_key: Key | None = Field(None, description="The EC's own key for the GPD receipts API.")
    gpd_positions_key: Key | None = Field(None, description="The EC's own key for GPD-Core's positions.")
    fdr_key: Key | None = Field(None, description="The EC's own key for the FdR API.")
    biz_events_key: Key | None = Field(None, description="The EC's own key for the BizEvents API.")
    reconcile: bool = Field(True, description="Whether `station reconcile` checks this EC.")
    fdr: bool = Field(True, description="Whether `station fdr` walks this EC.")
    logo: Logo | None = Field(None, description="SVG, PNG or JPEG with the EC's logo, for the PDF of its receipts.")


class Settings(Section):
    """The whole configuration."""

    database: Database = Database()
    server: Server = Server()
    tls: Tls = Tls()
    trust: Trust = Trust()
    rules: Rules = Rules()
    log: Log = Log()
    journal: Journal = Journal()
    retention: Retention = Retention()
    pdf: Pdf = Pdf()
    gpd: Gpd = Gpd()
    fdr: Fdr = Fdr()
    biz_events: BizEvents = BizEvents()
    api: Api = Api()
    console: Console = Console()
    oidc: Oidc = Oidc()
    broker: tuple[Broker, ...] = ()
    ec: tuple[Ec, ...] = ()
    destination: tuple[Destination, ...] = ()
    grant: tuple[Grant, ...] = ()
    account: tuple[Account, ...] = ()

    @field_validator("broker", "ec", "destination")
    @classmethod
    def _no_id_twice(cls, entries: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        name = "name" if info.field_name == "destination" else "id"
        for id_, times in Counter(getattr(entry, name) for entry in entries).items():
            if times > 1:
                raise ValueError(f"{name} {id_} is listed twice")
        return entries

    @check(mode="after")
    def _keys_are_of_one_reader(self) -> Self:
        keys = Counter(key for reader in self.readers for key in reader.keys)
        for key, times in keys.items():
            if times > 1:
                raise ValueError(f"destination: the key {key[:15]}... is listed twice: each reader has its own")
        return self

    @check(mode="after")
    def _destinations_know_their_ecs(self) -> Self:
        for destination in self.destination:
            for id_pa in destination.ecs:
                if self.ec and id_pa not in {ec.id for ec in self.ec}:
                    raise ValueError(f"destination {destination.name}: EC {id_pa} is not configured: no [[ec]] has it")
        return self

    @check(mode="after")
    def _console_knows_its_ecs(self) -> Self:
        known = {ec.id for ec in self.ec} | {"*"}
        entries = (*(("grant", one.user or one.group, one.ecs) for one in self.grant),
                   *(("account", one.code, one.ecs) for one in self.account))  # fmt: skip
        for section, name, ecs in entries:
            if self.ec and (unknown := [id_pa for id_pa in ecs if id_pa not in known]):
                raise ValueError(f"{section} {name}: EC {unknown[0]} is not configured: no [[ec]] has it")
        return self

    @check(mode="after")
    def _stations_known(self) -> Self:
        known = {station for broker in self.broker for station in broker.stations}
        for ec in self.ec:
            for station in ec.stations:
                if self.broker and station not in known:
                    raise ValueError(f"ec {ec.id}: station {station} does not belong to any broker")
        return self

    @check(mode="after")
    def _certificates_have_a_source(self) -> Self:
        if self.trust.names and not (self.tls.client_ca or self.trust.proxy_certificate):
            raise ValueError("trust: certificate names need tls.client_ca or trust.proxy_certificate")
        if (self.tls.client_ca or self.trust.proxy_certificate) and not self.trust.names:
            raise ValueError(
                "trust: name the certificates to admit (nodo or certificates): the CA has other customers too"
            )
        return self

    @cached_property
    def brokers(self) -> dict[str, Broker]:
        """The brokers by id."""
        return {broker.id: broker for broker in self.broker}

    @cached_property
    def ecs(self) -> dict[str, Ec]:
        """The ECs by id."""
        return {ec.id: ec for ec in self.ec}

    @cached_property
    def destinations(self) -> dict[str, Destination]:
        """The destinations by name."""
        return {destination.name: destination for destination in self.destination}

    @property
    def readers(self) -> tuple[Feed, ...]:
        """The destinations of kind `feed`."""
        return tuple(one for one in self.destination if isinstance(one, Feed))

    @property
    def connections(self) -> int:
        """Database connections per worker process: one for each of `threads`, and one for health checks."""
        return self.database.pool_size or self.server.threads + 1

    @property
    def open_registry(self) -> bool:
        """Whether every idPA and broker is accepted, because none is configured."""
        return not self.broker and not self.ec

    def api_key(self, id_pa: str, name: KeyName) -> str | None:
        """Return the key for this EC: its own, else its broker's, else the one for all, else None.

        An EC's broker is the one that a station of the EC belongs to, or the only one.
        """
        ec = self.ecs.get(id_pa)
        stations = set(ec.stations) if ec else set()
        brokers = [broker for broker in self.broker if len(self.broker) == 1 or stations & set(broker.stations)]
        for_all = {
            "gpd_key": self.gpd.key,
            "gpd_positions_key": self.gpd.positions_key,
            "fdr_key": self.fdr.key,
            "biz_events_key": self.biz_events.key,
        }
        candidates = [*(getattr(one, name) for one in (ec, *brokers) if one), for_all[name]]
        return next((key.get_secret_value() for key in candidates if key), None)

    @property
    def own_id(self) -> str:
        """The id that faults name where the request has no idPA."""
        return self.server.station_id or (self.broker[0].id if self.broker else "station")
