"""One client's connection as the worker's loop sees it: bytes in, bytes out, nothing that waits.

`app` asks it for the local address and the certificate as if it were a socket.
"""

import socket
import ssl
from contextlib import suppress
from enum import Enum, auto
from selectors import EVENT_READ, EVENT_WRITE

from station.http.request import Incoming

_AT_ONCE = 64 * 1024


class State(Enum):
    """What a connection is waiting for."""

    HANDSHAKE = auto()
    REQUEST = auto()
    ANSWER = auto()  # a thread works on it, or it waits for one: the loop leaves it alone
    SENDING = auto()
    FAREWELL = auto()  # everything is sent; what the client still sends is read, so that it gets our answer


class Connection:
    """A socket that does not block, what was read from it, and what is to be written to it."""

    def __init__(
        self, client: socket.socket, peer: tuple[str, int] | str, incoming: Incoming, context: ssl.SSLContext | None
    ) -> None:
        client.setblocking(False)
        self.socket = client
        self.peer = peer
        self.local: tuple[str, int] | str = client.getsockname()
        self.incoming = incoming
        self.out = bytearray()
        self.state = State.REQUEST
        self.deadline = 0.0
        self.wants = EVENT_READ
        self.watched = 0  # the events that the poller looks for
        self.last = False  # the connection ends when `out` is sent
        self.health = False
        self.served = 0  # requests
        self.held = 0  # bytes in memory
        self.seen_off = 0  # bytes that came after the end
        self.closed = False
        if context is not None:
            self.socket = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            self.state = State.HANDSHAKE

    def shake_hands(self) -> bool:
        """Goes on with the TLS handshake. Whether it is done; raises `OSError` where it failed."""
        assert isinstance(self.socket, ssl.SSLSocket)  # noqa: S101  (for the type checker)
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            self.wants = EVENT_READ
            return False
        except ssl.SSLWantWriteError:
            self.wants = EVENT_WRITE
            return False
        return True

    def read(self) -> bytes | None:
        """What has arrived; `None`: nothing yet, `b""`: the client sends no more."""
        self.wants = EVENT_READ
        try:
            return self.socket.recv(_AT_ONCE)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None
        except ssl.SSLWantWriteError:
            self.wants = EVENT_WRITE
            return None

    def has_more(self) -> bool:
        """Whether something was read from the network that the poller no longer sees."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def flush(self) -> bool:
        """Sends what the network takes now. Whether that was all; raises `OSError` where nobody is there."""
        while self.out:
            try:
                sent = self.socket.send(self.out)
            except (BlockingIOError, ssl.SSLWantWriteError):
                self.wants = EVENT_WRITE
                return False
            except ssl.SSLWantReadError:
                self.wants = EVENT_READ
                return False
            del self.out[:sent]
        return True

    def end_sending(self) -> None:
        """Tells the client that nothing more comes."""
        with suppress(OSError):
            if isinstance(self.socket, ssl.SSLSocket):
                with suppress(ssl.SSLError, ValueError):  # the client's own farewell is not waited for
                    self.socket.unwrap()
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Ends it."""
        self.closed = True
        self.incoming.close()
        self.socket.close()

    # --- as the application sees it -----------------------------------------------------------------------------------

    def getsockname(self) -> tuple[str, int] | str:
        """The local address, which tells the door."""
        return self.local

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        """The certificate that the client showed, as DER."""
        return self.socket.getpeercert(True) if isinstance(self.socket, ssl.SSLSocket) and binary_form else None
