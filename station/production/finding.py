"""A finding, and what several of them look at: networks, names of certificates, listeners."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from station.config import Api, Console, Network
from station.errors import UntrustedError
from station.http import certificate
from station.http.trust import host_and_port, is_loopback


class Finding(NamedTuple):
    """A gap before production: a name that never changes, what is missing, and what to do.

    `unsure`: it may be there, where the station cannot see it.
    """

    name: str
    what: str
    to_do: str
    unsure: bool = False


def is_wide(network: Network) -> bool:
    """Return whether a network holds more than one organisation's machines."""
    return not network.is_private and network.prefixlen < (16 if network.version == 4 else 32)


def is_public(host: str) -> bool:
    """Return whether a listener at this address may be reached from the internet. Raises `ValueError` for a name."""
    address = ip_address(host)
    return address.is_unspecified or not address.is_private


def is_for(file: Path, host: str) -> bool:
    """Return whether the first certificate in a file is for a host."""
    try:
        names = certificate.identity_in(file).names
    except (OSError, UntrustedError):
        return True  # a file that cannot be read is reported by `station check`
    return any(re.fullmatch(re.escape(name).replace(r"\*", "[^.]+"), host) for name in names)


def open_without_tls(section: Api | Console) -> bool | None:
    """Return whether a section listens without TLS for other machines of a private network only.

    `None` where it has TLS, or listens for this machine.
    """
    if section.certificate or section.listen.startswith("unix:"):
        return None
    host, _ = host_and_port(section.listen)
    if is_loopback(host):
        return None
    try:
        return not is_public(host)
    except ValueError:  # a name
        return False
