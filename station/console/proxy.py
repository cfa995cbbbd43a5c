"""Behind a reverse proxy: the client's address, and the user whom a trusted proxy names in its headers."""

from contextlib import suppress

from flask import Request

from station import config
from station.console.identity import User
from station.errors import UntrustedError
from station.http import trust

_LENGTH_MAX = 200
_GROUPS_MAX = 500


def origin(settings: config.Console, asked: Request) -> tuple[str | None, bool]:
    """Return the client's address, `None` where nothing tells it, and whether a configured proxy passed it on.

    The address counts as in [trust]: X-Forwarded-For is believed from the proxies only, and of it the last address that
    is no proxy's.
    """
    # A socket that connects to a Unix socket may have any name: it is no address.
    peer = trust.read_address("" if settings.listen.startswith("unix:") else asked.remote_addr or "")
    by_proxy = trust.is_proxy(peer, settings.proxies)
    address = peer
    if by_proxy:
        try:
            address = trust.forwarded_for(asked.headers.get("X-Forwarded-For", ""), peer, settings.proxies)
        except UntrustedError:
            address = None
    return None if address is None else str(address), by_proxy


def user(settings: config.Console, asked: Request, *, by_proxy: bool) -> User:
    """Return the user whom the proxy's headers name. Raises `UntrustedError`, whose text is for the log only."""
    if not by_proxy:
        raise UntrustedError("the address is not in console.proxies")
    name = _text(asked, settings.user_header)
    if not name:
        raise UntrustedError(f"the header {settings.user_header} is missing, or no user name")
    groups = [group.strip() for group in _text(asked, settings.groups_header, _GROUPS_MAX * _LENGTH_MAX).split(",")]
    if len(groups) > _GROUPS_MAX:
        raise UntrustedError(f"the header {settings.groups_header} has too many groups")
    return User(name, _text(asked, settings.name_header) or name, tuple(filter(None, groups)))


def headers_once(settings: config.Console) -> frozenset[str]:
    """Return the headers, in capitals, that no request may have twice: of a second one a client may be the author.

    Headers with an underscore never get here: WSGI cannot tell them from those with a hyphen, so gunicorn drops them.
    """
    names = (settings.user_header, settings.name_header, settings.groups_header)
    return frozenset(name.upper() for name in names) if settings.auth == "proxy" else frozenset()


def _text(asked: Request, header: str, length: int = _LENGTH_MAX) -> str:
    """Return a header's text, which is UTF-8 or Latin-1. Raises `UntrustedError`."""
    value = asked.headers.get(header, "")
    with suppress(UnicodeError):  # it is Latin-1, as WSGI has it
        value = value.encode("latin-1").decode()
    value = value.strip(" \t")
    if len(value) > length or not value.isprintable():
        raise UntrustedError(f"the header {header} is too long or not printable")
    return value
