"""The TLS that the station ends itself: protocol versions, ciphers, client certificates, and their renewal.

Whether a client's certificate is one that may send is decided later (see `trust`); here it only has to be genuine.
"""

import ssl
import threading
from pathlib import Path

from gevent.ssl import SSLContext

from station import log
from station.errors import ConfigError

_log = log.get(__name__)

# OpenSSL remembers every session of TLS 1.2 for two hours, 11 KB for each and 20,480 of them, and Python cannot tell it
# not to. So each context serves so many connections, and goes with the last of them.
_CONNECTIONS_OF_A_CONTEXT = 500
# TLS 1.2 stays on: pagoPA's forwarder speaks nothing newer. Of its ciphers those with forward secrecy and AEAD; those
# of TLS 1.3 are all of that kind.
_CIPHERS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"


def create_context(certificate: Path, key: Path | None, client_ca: Path | None) -> ssl.SSLContext:
    """Return the context that connections are wrapped with. `client_ca`: CAs of client certificates, then mandatory.

    Raises `ConfigError` where a file cannot be read or does not fit.
    """
    context: ssl.SSLContext = SSLContext(ssl.PROTOCOL_TLS_SERVER)  # cooperative in the worker, plain elsewhere
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_ciphers(_CIPHERS_1_2)
    # Connections are kept open, so resuming sessions saves little, and a resumed session outlives what is trusted.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    try:
        # Without the callback OpenSSL would ask a terminal for the password of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls: {certificate}{f' and {key}' if key else ''} are not a certificate and its unencrypted key "
            f"({_reason(error)})"
        ) from None
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # The Nodo sends its leaf only: an intermediate alone must do as an anchor.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ValueError) as error:
            raise ConfigError(f"tls.client_ca: {client_ca} holds no certificates ({_reason(error)})") from None
    return context


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__)


class Renewing:
    """A context that is made anew when one of its files was replaced, and when it has served for long enough.

    Connections that stand keep theirs. Where the new files do not fit (a certificate was written and its key not yet),
    the context before stays in use and the files are tried again.
    """

    def __init__(self, certificate: Path, key: Path | None, client_ca: Path | None) -> None:
        self._files = (certificate, key, client_ca)
        self._lock = threading.Lock()
        self._seen = self._state()
        self._context = create_context(*self._files)
        self._served = 0
        self._complained: object = None

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a new connection."""
        seen = self._state()
        with self._lock:
            self._served += 1
            if seen != self._seen or self._served > _CONNECTIONS_OF_A_CONTEXT:
                try:
                    self._context = create_context(*self._files)
                    if seen != self._seen:
                        _log.info("tls_certificates_renewed")
                    self._seen = seen
                    self._served = 1
                except ConfigError as error:
                    if self._complained != seen:
                        _log.error("tls_certificates_not_renewed", reason=str(error))
                        self._complained = seen
            return self._context

    def _state(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Return a value that changes when a file is replaced, also behind a symbolic link (as Kubernetes does it)."""
        state = []
        for file in self._files:
            try:
                stat = None if file is None else file.stat()
            except OSError:
                stat = None
            state.append(None if stat is None else (stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return tuple(state)
