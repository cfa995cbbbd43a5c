"""Who may send: certificates and addresses. Pure decisions on what the server saw; nothing is read or written here.

`admit` is called once for each request on the public listener. The address that counts is the connection's; headers
with addresses and certificates are believed from the configured proxies only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from station.config import Network, Trust
from station.errors import ConfigError, UntrustedError
from station.http import certificate
from station.http.certificate import Identity

Address: TypeAlias = IPv4Address | IPv6Address
Header: TypeAlias = Callable[[str], str]
Proxies: TypeAlias = tuple[Network | str, ...]  # addresses and networks, and "unix"

HEADERS = (*certificate.ALL_HEADERS, "x-forwarded-for")  # all that `admit` reads


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a request: its address, and its certificate where one was shown, with the certificate's name for
    the log and the journal."""

    address: str | None
    identity: Identity | None = None
    subject: str | None = None


def admit(trust: Trust, peer: str, header: Header, shown: bytes | None = None) -> Sender:
    """Return the sender of a request that may send. Raises `UntrustedError`, whose text is for the log only.

    `peer` is the address of the connection, "" on a Unix socket. `header` returns a header's value by its name in lower
    case, "" where there is none. `shown` is the certificate (DER) that the client showed to the station itself.
    """
    address = read_address(peer)
    by_proxy = is_proxy(address, trust.proxies)
    if not by_proxy:
        forged = next((name for name in certificate.ALL_HEADERS if header(name)), None)
        if forged is not None:
            raise UntrustedError(f"the header {forged} came from an address that is not a configured proxy")
    origin = address
    if by_proxy:
        try:
            origin = forwarded_for(header("x-forwarded-for"), address, trust.proxies)
        except UntrustedError:
            if trust.addresses:
                raise
            origin = None  # no address decides: the certificate does, or the proxy did
    _check_address(trust, origin, by_proxy=by_proxy)
    identity = None
    if by_proxy and trust.proxy_certificate:
        identity = certificate.passed_on(trust.proxy_certificate, header)
    elif shown:
        identity = certificate.identity(shown)
    if trust.names:
        _check_certificate(trust, identity)
    subject = None if identity is None else str(identity)[:256]
    return Sender(None if origin is None else str(origin), identity, subject)


def _check_address(trust: Trust, origin: Address | None, *, by_proxy: bool) -> None:
    if trust.addresses:
        if origin is None or not _within(origin, trust.addresses):
            raise UntrustedError("the address is not in trust.addresses")
    elif trust.names or trust.anyone_may_send:
        return
    elif trust.proxies:
        if not by_proxy:
            raise UntrustedError("the address is not a configured proxy")
    elif origin is not None and not origin.is_loopback:
        raise UntrustedError("no senders are configured, so only this machine may send: see [trust]")


def _check_certificate(trust: Trust, identity: Identity | None) -> None:
    if identity is None:
        raise UntrustedError("no client certificate was presented")
    wanted = set(trust.names)
    names = {name for name in identity.names if not name.startswith("sha256:")}  # a name may look like a fingerprint
    if "*" in wanted or wanted & names or f"sha256:{identity.fingerprint}" in wanted:
        return
    raise UntrustedError(f"the certificate {identity} is not in trust.certificates")


@lru_cache(maxsize=4096)
def read_address(text: str) -> Address | None:
    """Return an address as a socket gives it, `None` for a Unix socket's; IPv4 in IPv6 as IPv4."""
    if not text:
        return None
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _within(address: Address, networks: Proxies) -> bool:
    return any(not isinstance(network, str) and address in network for network in networks)


def is_proxy(address: Address | None, proxies: Proxies) -> bool:
    """Return whether a connection comes from a configured proxy; `None` is the address of a Unix socket."""
    return "unix" in proxies if address is None else _within(address, proxies)


def forwarded_for(value: str, proxy: Address | None, proxies: Proxies) -> Address | None:
    """Return the last address in X-Forwarded-For that is not a configured proxy: those before it may be forged.

    Without one it is the proxy's own. Raises `UntrustedError` where the header cannot be read.
    """
    address = proxy
    for text in reversed(value.split(",") if value.strip() else []):
        try:
            address = read_address(_without_port(text.strip()))
        except ValueError:
            raise UntrustedError("the X-Forwarded-For header cannot be read") from None
        if address is None:
            raise UntrustedError("the X-Forwarded-For header cannot be read")
        if not _within(address, proxies):
            break
    return address


def _without_port(text: str) -> str:
    """Remove the port: Azure's Application Gateway writes 192.0.2.1:50000, others [2001:db8::1]:50000."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text


def check_binding(trust: Trust, addresses: list[str]) -> None:
    """Raise `ConfigError` where the station would listen to other machines and no senders are configured.

    `addresses` are the hosts of its listeners, without Unix sockets.
    """
    if trust.restricted or trust.anyone_may_send:
        return
    for host in addresses:
        if not is_loopback(host):
            raise ConfigError(
                f"not listening on {host or 'all addresses'}: no senders are configured. Configure tls.client_ca (or "
                "trust.proxies) with trust.nodo, or trust.addresses; listen on 127.0.0.1; or admit every client that "
                "can connect, with trust.anyone_may_send = true"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(text: str) -> tuple[str, int]:
    """Split `127.0.0.1:8080` or `[::1]:8080` into host and port; `localhost` becomes 127.0.0.1."""
    host, _, port = text.rpartition(":")
    return "127.0.0.1" if host == "localhost" else host.strip("[]"), int(port)
