"""A client's certificate: its names and fingerprint, and the forms in which proxies pass it on.

Which certificates to admit is decided in `trust`. A certificate is verified before it gets here: by OpenSSL where the
station terminates TLS, by the proxy otherwise.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import unquote

from station.errors import UntrustedError

Form: TypeAlias = Literal["nginx", "haproxy", "envoy", "azure", "f5", "rfc9440"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a certificate: its common and DNS names in lower case, and its SHA-256 in hexadecimal digits."""

    names: tuple[str, ...] = ()
    fingerprint: str | None = None

    def __str__(self) -> str:
        return self.names[0] if self.names else f"sha256:{self.fingerprint}"


# --- reading ----------------------------------------------------------------------------------------------------------

# `cryptography` takes 12 MiB of each worker process, so it is imported only where certificates are read.


def load() -> None:
    """Import what reads certificates at start: a request must not fail because no file can be opened any more."""
    import cryptography.x509  # noqa: F401


@lru_cache(maxsize=256)  # the same few certificates come with every request
def identity(der: bytes) -> Identity:
    """Return the identity in a certificate (DER). Raises `UntrustedError` where it cannot be read."""
    from cryptography import x509

    try:
        certificate = x509.load_der_x509_certificate(der)
        names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
        with suppress(x509.ExtensionNotFound):
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names += alternative.get_values_for_type(x509.DNSName)
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise UntrustedError("the certificate cannot be read") from None
    shown = (name.lower() for name in names if name and name.isprintable())
    return Identity(tuple(dict.fromkeys(shown)), sha256(der).hexdigest())


def identity_in(file: Path) -> Identity:
    """Return the identity in the first certificate of a PEM file. Raises `UntrustedError`, and `OSError`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return identity(x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER))
    except ValueError:
        raise UntrustedError("the file holds no readable certificate") from None


def first_end(file: Path) -> datetime | None:
    """Return when the first of the certificates in a PEM file ends; `None` where none can be read."""
    from cryptography import x509

    try:
        return min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(file.read_bytes()))
    except (OSError, ValueError):
        return None


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
    """Return the identity of the client's certificate that a proxy passed on, `None` where it says that there was none.

    `header` returns a header's value by its name, "" where there is none. Raises `UntrustedError` where the certificate
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
    # HAProxy's X-SSL-Client-CN is ignored: X-SSL-Client-Verify is 0 also where no certificate was shown, and then
    # the CN could be a header that the client itself has sent.
    if not (value or subject) or outcome == "NONE":
        return None
    if outcome not in _VERIFIED:
        # A proxy for which certificates are optional passes on those that failed its verification, too.
        raise UntrustedError(f"the proxy did not verify the certificate ({others[0]} is not {_VERIFIED[0]})")
    if value:
        return identity(_pem(value))
    return Identity(tuple(_names_of(subject)))


def _pem(value: str) -> bytes:
    """Return the first certificate (DER) of a PEM text, escaped or without line ends, or of HAProxy's bare base64."""
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
    """Yield the common names in a distinguished name as RFC 4514 writes it."""
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
    """Read Envoy's X-Forwarded-Client-Cert. Only its last element counts: the trusted proxy has added it."""
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
