"""The types that settings share, and the section that each part of the configuration is."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, summarize_address_range
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FilePath, SecretStr, StringConstraints

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


_IMAGES = {".svg": b"<", ".png": b"\x89PNG\r\n\x1a\n", ".jpg": b"\xff\xd8\xff", ".jpeg": b"\xff\xd8\xff"}
_LOGO_MAX = 1024 * 1024  # bytes: it is in each PDF


def _logo(file: Path) -> Path:
    """Return a logo's absolute path; refuse a file that cannot be read or is not the image that its name says."""
    start = _IMAGES.get(file.suffix.lower())
    if start is None:
        raise ValueError("expected a file that ends with .svg, .png or .jpg")
    try:
        with file.open("rb") as opened:
            content = opened.read(_LOGO_MAX + 1)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if len(content) > _LOGO_MAX:
        raise ValueError("the logo is larger than 1 MB")
    if not content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(start):
        raise ValueError(f"the file's content is not {file.suffix.lower().removeprefix('.').upper()}")
    return file.absolute()


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
Logo = Annotated[FilePath, AfterValidator(_logo)]
Certificate = Annotated[str, AfterValidator(_certificate), StringConstraints(min_length=1, max_length=255)]
Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], BeforeValidator(_listed)]
Networks = Annotated[tuple[Network, ...], BeforeValidator(_networks)]


class Section(BaseModel):
    """One part of the configuration: frozen; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
