"""Where a webhook may connect to, and for how long: a guard against server-side request forgery (SSRF).

A URL in the configuration, or the DNS of its host, must not make the station call what only it can reach: services of
the internal network, the cloud's metadata address. Each connection resolves the name, checks the addresses and connects
to one of those, so that no second answer of the DNS can differ (DNS rebinding).
"""

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore

Resolve = Callable[[str, int], Sequence[str]]

_LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_GLOBAL_UNICAST = IPv6Network("2000::/3")
# Addresses in which IPv4 addresses are wrapped for tunnels, private ones too: 6to4 and Teredo.
_TUNNELS = (IPv6Network("2002::/16"), IPv6Network("2001::/32"))
_CHUNK = 16 * 1024


class ForbiddenAddressError(httpcore.ConnectError):
    """The host has no address that may be called."""


class TlsError(httpcore.ConnectError):
    """The host does not speak TLS, or its certificate is not to be trusted."""


class UnknownHostError(httpcore.ConnectError):
    """The host's name has no address."""


def is_allowed(address: str, networks: Iterable[IPv4Network | IPv6Network] = (), *, loopback: bool = False) -> bool:
    """Return whether an address is public or in one of `networks`; with `loopback` whether it is this machine's own."""
    try:
        ip: IPv4Address | IPv6Address = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if loopback:
        return any(ip in network for network in _LOOPBACK)
    if any(ip in network for network in networks):
        return True
    if isinstance(ip, IPv4Address):
        return ip.is_global and not ip.is_multicast
    return ip.is_global and ip in _GLOBAL_UNICAST and not any(ip in network for network in _TUNNELS)


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host in the order in which the system prefers them. Raise `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedNetwork(httpcore.NetworkBackend):
    """A network in which only allowed addresses can be called, and nothing takes longer than until `deadline`.

    The deadline (of `time.monotonic`) is one for each thread: a request is made by one thread from its first step to
    its last. Without it a receiver that sends a byte now and then would hold a thread for ever.
    """

    def __init__(
        self, networks: Sequence[IPv4Network | IPv6Network], *, loopback: bool, resolve: Resolve = resolve
    ) -> None:
        self._networks = networks
        self._loopback = loopback
        self._resolve = resolve
        self._plain = httpcore.SyncBackend()
        self._thread = threading.local()

    def set_deadline(self, at: float) -> None:
        """Let what this thread does next end by then."""
        self._thread.deadline = at

    def left(self, timeout: float | None, error: type[Exception]) -> float:
        """Return the seconds that a step may take. Raise `error` where the time is over."""
        left: float = self._thread.deadline - time.monotonic()
        if left <= 0:
            raise error("not done in time")
        return left if timeout is None else min(timeout, left)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that is allowed and answers. Raise `httpcore.ConnectError`."""
        until = time.monotonic() + self.left(timeout, httpcore.ConnectTimeout)
        addresses = self._addresses(host, port, until - time.monotonic())
        allowed = [one for one in addresses if is_allowed(one, self._networks, loopback=self._loopback)]
        if not allowed:
            raise ForbiddenAddressError(addresses[0])
        failure: Exception | None = None
        for position, address in enumerate(allowed):
            # The time is shared out: of several addresses the first may be one that never answers.
            share = (until - time.monotonic()) / (len(allowed) - position)
            if share <= 0:
                break
            try:
                stream = self._plain.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _BoundedStream(stream, self)
        raise failure or httpcore.ConnectTimeout("no connection in time")

    def _addresses(self, host: str, port: int, timeout: float) -> Sequence[str]:
        """Return the addresses of `host`, one at least. The resolver knows no deadline: it runs in a thread."""
        answer: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

        def ask() -> None:
            found: Sequence[str] = []
            with suppress(OSError, UnicodeError):  # the second: a label that is too long
                found = self._resolve(host, port)
            answer.put(found)

        threading.Thread(target=ask, name="resolve", daemon=True).start()
        try:
            found = answer.get(timeout=timeout)
        except queue.Empty:
            raise httpcore.ConnectTimeout("no answer of the DNS in time") from None
        if not found:
            raise UnknownHostError(host)
        return found


class _BoundedStream(httpcore.NetworkStream):
    """A connection on which each step ends by the deadline of the thread that makes it."""

    def __init__(self, stream: httpcore.NetworkStream, network: GuardedNetwork) -> None:
        self._stream = stream
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._network.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In parts: the library grants each part that the receiver takes the whole time again.
        for start in range(0, len(buffer), _CHUNK):
            left = self._network.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + _CHUNK], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        left = self._network.left(timeout, httpcore.ConnectTimeout)
        try:
            stream = self._stream.start_tls(ssl_context, server_hostname, left)
        except httpcore.ConnectError as error:
            raise TlsError(str(error)) from error
        return _BoundedStream(stream, self._network)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
