"""A client's certificate: its names and fingerprint, read from its DER, and the forms in which proxies pass it on.

No decision about whom to let in (see `trust`). Whether the certificate is genuine was verified before it gets here: by
OpenSSL where the station ends TLS, by the proxy otherwise. So all that is needed is to read two fields of a structure
that somebody trusted has checked, and that is no reason for a dependency: the reader below walks definite lengths only,
stays inside them, and gives up on anything it does not expect.
"""

import base64
import binascii
import re
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from station.errors import UntrustedError

Form: TypeAlias = Literal["nginx", "haproxy", "envoy", "azure", "f5", "rfc9440"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate is for: its common and DNS names in lower case, and its SHA-256 in hexadecimal digits."""

    names: tuple[str, ...] = ()
    fingerprint: str | None = None

    def __str__(self) -> str:
        return self.names[0] if self.names else f"sha256:{self.fingerprint}"


# --- DER --------------------------------------------------------------------------------------------------------------

_SEQUENCE, _SET, _OID, _OCTETS, _VERSION, _EXTENSIONS, _DNS_NAME = 0x30, 0x31, 0x06, 0x04, 0xA0, 0xA3, 0x82
_COMMON_NAME = b"\x55\x04\x03"
_SUBJECT_ALT_NAME = b"\x55\x1d\x11"
_STRINGS = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}


@lru_cache(maxsize=256)  # the same few certificates come with every request
def identity(der: bytes) -> Identity:
    """The identity in a certificate. Raises `UntrustedError` where it cannot be read."""
    try:
        [(tag, certificate)] = _values(der)
        to_be_signed = _expect(_SEQUENCE, _first(_expect(_SEQUENCE, (tag, certificate))))
        fields = list(_values(to_be_signed))
        # version (may be left out), serial number, algorithm, issuer, validity, subject, key, extensions
        position = 5 if fields[0][0] == _VERSION else 4
        names = list(_common_names(_expect(_SEQUENCE, fields[position])))
        for kind, content in fields[position + 2 :]:
            if kind == _EXTENSIONS:
                names += _dns_names(content)
    except (ValueError, IndexError):
        raise UntrustedError("the certificate cannot be read") from None
    shown = (name.lower() for name in names if name and name.isprintable())
    return Identity(tuple(dict.fromkeys(shown)), sha256(der).hexdigest())


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The values that stand one after the other in `data`: tag and content. Raises `ValueError`."""
    at = 0
    while at < len(data):
        if len(data) < at + 2:
            raise ValueError("cut short")
        tag, length = data[at], data[at + 1]
        at += 2
        if length >= 0x80:
            octets = length - 0x80
            if not 1 <= octets <= 3 or len(data) < at + octets:
                raise ValueError("a length that no certificate has")
            length = int.from_bytes(data[at : at + octets], "big")
            at += octets
        if len(data) < at + length:
            raise ValueError("cut short")
        yield tag, data[at : at + length]
        at += length


def _first(data: bytes) -> tuple[int, bytes]:
    for value in _values(data):
        return value
    raise ValueError("empty")


def _expect(tag: int, value: tuple[int, bytes]) -> bytes:
    if value[0] != tag:
        raise ValueError("another kind of value was expected")
    return value[1]


def _common_names(name: bytes) -> Iterator[str]:
    for relative in _values(name):
        for attribute in _values(_expect(_SET, relative)):
            kind, (tag, content) = _values(_expect(_SEQUENCE, attribute))
            if _expect(_OID, kind) == _COMMON_NAME and tag in _STRINGS:
                yield content.decode(_STRINGS[tag])


def _dns_names(extensions: bytes) -> Iterator[str]:
    for extension in _values(_expect(_SEQUENCE, _first(extensions))):
        kind, *_critical, value = _values(_expect(_SEQUENCE, extension))
        if _expect(_OID, kind) == _SUBJECT_ALT_NAME:
            for tag, content in _values(_expect(_SEQUENCE, _first(_expect(_OCTETS, value)))):
                if tag == _DNS_NAME:
                    yield content.decode("ascii")


def first_der(file: Path) -> bytes:
    """The first certificate of a PEM file. Raises `UntrustedError` where there is none, and `OSError`."""
    found = _BLOCK.search(file.read_text(encoding="ascii", errors="replace"))
    if found is None:
        raise UntrustedError("the file holds no certificate")
    try:
        return ssl.PEM_cert_to_DER_cert(found[0])
    except ValueError:
        raise UntrustedError("the certificate cannot be read") from None


def first_end(file: Path) -> datetime | None:
    """When the first of the certificates in a PEM file ends; `None` where there is none that can be read."""
    try:
        found = _BLOCK.findall(file.read_text(encoding="ascii", errors="replace"))
        return min([_end(ssl.PEM_cert_to_DER_cert(one)) for one in found], default=None)
    except (OSError, ValueError, IndexError, StopIteration):
        return None


_BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}


def _end(der: bytes) -> datetime:
    fields = list(_values(_expect(_SEQUENCE, next(_values(_expect(_SEQUENCE, next(_values(der))))))))
    validity = fields[4 if fields[0][0] == _VERSION else 3]
    _begin, (tag, content) = _values(_expect(_SEQUENCE, validity))
    if tag not in _TIMES:
        raise ValueError("a time was expected")
    end = datetime.strptime(content.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)
    # Two digits of a year stand for 1950 to 2049 (RFC 5280), and for 1969 to 2068 in the library.
    return end.replace(year=end.year - 100) if tag == 0x17 and end.year >= 2050 else end


# --- what proxies pass on ---------------------------------------------------------------------------------------------

# The headers of each form; the first holds the certificate, the second the outcome of the proxy's verification.
HEADERS: dict[Form, tuple[str, ...]] = {
    "nginx": ("ssl-client-cert", "ssl-client-verify", "ssl-client-subject-dn", "ssl-client-fingerprint"),
    "haproxy": ("x-ssl-client-cert", "x-ssl-client-verify", "x-ssl-client-cn", "x-ssl-client-dn", "x-ssl-client-sha1"),
    "envoy": ("x-forwarded-client-cert",),
    "azure": ("x-client-cert", "x-client-cert-verification", "x-client-cert-subject", "x-client-cert-fingerprint"),
    "f5": ("x-ssl-client-cert", "x-ssl-client-verify"),
    "rfc9440": ("client-cert", "client-cert-chain"),
}
ALL_HEADERS = sorted({*(name for names in HEADERS.values() for name in names), "x-arr-clientcert", "ssl-client-i-dn"})
_VERIFIED = ("SUCCESS", "0", "ok")  # nginx and Azure, HAProxy, F5

Header: TypeAlias = Callable[[str], str]


def passed_on(form: Form, header: Header) -> Identity | None:
    """The identity of the client's certificate that a proxy passed on, `None` where it says that there was none.

    `header` gives a header's value by its name, "" where there is none. Raises `UntrustedError` where the certificate
    cannot be read, or the proxy says that it is not verified.
    """
    first, *others = HEADERS[form]
    value = header(first).strip()
    if form == "envoy":
        return _forwarded(value)
    if form == "rfc9440":
        if not value:
            return None
        if not re.fullmatch(r":[A-Za-z0-9+/=]+:", value):
            raise UntrustedError("the Client-Cert header cannot be read")
        return identity(_decoded(value.strip(":")))
    outcome = header(others[0]).strip()
    subject = header("ssl-client-subject-dn").strip() if form == "nginx" else ""
    # HAProxy's X-SSL-Client-CN does not count: its X-SSL-Client-Verify is 0 also where no certificate was shown, and
    # then a CN that the client itself has sent would stand beside it.
    if not (value or subject) or outcome == "NONE":
        return None
    if outcome not in _VERIFIED:
        # A proxy that only asks for a certificate passes one on that failed its verification, too.
        raise UntrustedError(f"the proxy did not verify the certificate ({others[0]} is not {_VERIFIED[0]})")
    if value:
        return identity(_pem(value))
    return Identity(tuple(_names_of(subject)))


def _pem(value: str) -> bytes:
    """The first certificate in a PEM text, escaped or with its line ends lost; or in bare base64, as HAProxy has it."""
    text = unquote(value) if "%" in value else value
    text = text.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0] or text
    return _decoded("".join(text.split()))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UntrustedError("the certificate's header cannot be read") from None


_ESCAPED = re.compile(r"\\([0-9A-Fa-f]{2})|\\(.)", re.DOTALL)
_ATTRIBUTE = re.compile(r"\s*([A-Za-z0-9.]+)\s*=((?:[^\\,+]|\\.)*+)(?:[,+]|$)", re.DOTALL)


def _names_of(subject: str) -> Iterator[str]:
    """The common names in a distinguished name as RFC 4514 writes it."""
    at = 0
    while at < len(subject):
        found = _ATTRIBUTE.match(subject, at)
        if found is None:
            raise UntrustedError("the certificate's subject cannot be read")
        if found[1].lower() in ("cn", "2.5.4.3"):
            value = _ESCAPED.sub(lambda one: chr(int(one[1], 16)) if one[1] else one[2], found[2].strip())
            yield value.lower()
        at = found.end()


# One element of Envoy's header: key=value pairs behind each other, values in quotes where they hold , ; or =.
_PAIR = re.compile(r"\s*([A-Za-z]+)=(?:\"((?:[^\"\\]|\\.)*+)\"|([^\",;]*+))", re.DOTALL)


def _forwarded(value: str) -> Identity | None:
    """Envoy's X-Forwarded-Client-Cert. Its last element is the one that the proxy we trust has added."""
    pairs: list[tuple[str, str]] = []
    at = 0
    while at < len(value):
        found = _PAIR.match(value, at)
        if found is None:
            raise UntrustedError("the X-Forwarded-Client-Cert header cannot be read")
        # Only quotes are escaped by Envoy. Other backslashes are the subject's own, and keep its values apart.
        pairs.append((found[1].lower(), found[3] if found[2] is None else found[2].replace('\\"', '"')))
        at = found.end()
        if value[at : at + 1] == ",":
            pairs.clear()
        elif at < len(value) and value[at] != ";":
            raise UntrustedError("the X-Forwarded-Client-Cert header cannot be read")
        at += 1
    given = dict(pairs)
    if given.get("cert"):
        return identity(_pem(given["cert"]))
    names = [*_names_of(given.get("subject", "")), *(text.lower() for key, text in pairs if key == "dns")]
    fingerprint = given.get("hash", "").lower() or None
    return Identity(tuple(dict.fromkeys(names)), fingerprint) if names or fingerprint else None
