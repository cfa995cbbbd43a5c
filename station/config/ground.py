"""The types that settings share, and the section that each part of the configuration is."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, summarize_address_range
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, StringConstraints

EcId = Annotated[str, StringConstraints(pattern=r"^[0-9]{11}$")]
PagoPaId = Annotated[str, StringConstraints(min_length=1, max_length=35)]


def _sendable(key: SecretStr) -> SecretStr:
    """Return a key as an HTTP header can carry it, without the line end of the file that it was kept in."""
    text = key.get_secret_value().strip()
    if not re.fullmatch(r"[\x21-\x7e]{1,200}", text):
        raise ValueError("a key is 1 to 200 printable ASCII characters without blanks")
    return SecretStr(text)


def _certificate(text: str) -> str:
    """Return a name in lower case, or a fingerprint without the colons between its digits."""
    text = text.strip().lower()
    if not text.startswith("sha256:"):
        return text
    digits = text.removeprefix("sha256:").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError("expected sha256: and 64 hexadecimal digits")
    return f"sha256:{digits}"


def listener(text: str) -> str:
    """Return an address to listen on, as gunicorn reads it; refuse a port that cannot be one."""
    _, colon, port = text.rpartition(":")
    named = colon and not text.startswith(("unix:", "fd:")) and not text.endswith("]")
    if named and (not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535):
        raise ValueError("expected a port from 0 to 65535")
    return text


def _listed(value: Any) -> Any:
    """Split a list that the environment gives as one text."""
    return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value


def _networks(value: Any) -> Any:
    """Replace each range of addresses by the networks that make it up."""
    items = _listed(value)
    if not isinstance(items, list | tuple):
        return items
    networks: list[Any] = []
    for one in items:
        first, dash, last = str(one).partition("-")
        if not dash:
            networks.append(one)
            continue
        try:
            networks += summarize_address_range(ip_address(first.strip()), ip_address(last.strip()))
        except (TypeError, ValueError):
            raise ValueError("expected first-last, two addresses of the same family") from None
    return networks


Key = Annotated[SecretStr, AfterValidator(_sendable)]
# Without user name and password: these URLs are shown.
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#@]+$")]

Network = IPv4Network | IPv6Network
HostPort = Annotated[
    str, StringConstraints(pattern=r"^(\[[0-9A-Fa-f:]+\]|[0-9.]+|localhost):[0-9]{1,5}$"), AfterValidator(listener)
]
Certificate = Annotated[str, AfterValidator(_certificate), StringConstraints(min_length=1, max_length=255)]
Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(_listed)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]


class Section(BaseModel):
    """One part of the configuration: frozen; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
