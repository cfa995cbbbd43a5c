"""How long a push takes while 500 slow clients hold connections: `python -m bench.slow_clients` (two minutes).

The clients stop in the head, in the body, or in the TLS handshake; 30 more send long documents without a pause. Prints
the slowest of 50 pushes, each on a connection of its own, and how long a stop with kept-alive connections takes.
"""

import http.client
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from bench import documents, service
from bench.documents import TYPICAL

_SLOW = 500
_PUSHES = 50
_HEAD = b"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\n"
# What takes longest to read: thousands of prefixes, below the limits of the parser.
_PREFIXES = b"".join(b' xmlns:a%d="b"' % number for number in range(900))
_LONG = b'<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"%b>%b</soapenv:Envelope>' % (
    _PREFIXES,
    b'<a1:b c="d"/>' * 2_400 + b" " * 200_000,
)


_TEMPLATE = documents.templates(TYPICAL, 1)[0]


def _document(number: int) -> bytes:
    """A receipt of its own."""
    filled = ((documents.RECEIPT_ID, f"{number:032d}"), (documents.IUV, f"{number:017d}"), (documents.DEBTOR, "A" * 16))
    raw = _TEMPLATE
    for place, value in filled:
        raw = raw.replace(place.encode(), value.encode())
    return raw


@contextmanager
def _waiting(port: int, sent: bytes) -> Iterator[None]:
    """Clients that send this much and stop."""
    with ExitStack() as stack:
        for _ in range(_SLOW):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)).sendall(sent)
        yield


@contextmanager
def _long_documents(port: int) -> Iterator[None]:
    """Clients that send long documents, one after the other."""
    ended = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not ended.is_set():
            connection.request("POST", "/paForNode", _LONG, {"Content-Type": "text/xml"})
            connection.getresponse().read()
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(30)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _slowest(port: int, first: int, context: ssl.SSLContext | None = None) -> float:
    """Seconds of the slowest push, from connecting to the whole answer."""
    seconds = []
    for number in range(_PUSHES):
        raw = _document(first + number)
        begun = time.monotonic()
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=context)
            if context
            else http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        )
        connection.request("POST", "/paForNode", raw, {"Content-Type": "text/xml"})
        answer = connection.getresponse()
        assert b"<outcome>OK</outcome>" in answer.read()
        seconds.append(time.monotonic() - begun)
        connection.close()
        time.sleep(0.02)
    return max(seconds)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"sqlite:///{folder / 'station.sqlite3'}"
        env = {"STATION_SERVER_READ_TIMEOUT": "60", "STATION_LOG_LEVEL": "warning"}
        with service.station(folder, url, **env) as server:
            _say(f"no slow clients: {_slowest(server.port, 0):.3f} s")
            with _waiting(server.port, _HEAD):
                _say(f"{_SLOW} in the head: {_slowest(server.port, 1000):.3f} s")
            with _waiting(server.port, _HEAD + b"Content-Length: 1000\r\n\r\n<a>"):
                _say(f"{_SLOW} in the body: {_slowest(server.port, 2000):.3f} s")
            with _long_documents(server.port):
                _say(f"30 with long documents: {_slowest(server.port, 3000):.3f} s")
            kept = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(20)]
            for connection in kept:
                connection.request("GET", "/none")
                connection.getresponse().read()
            begun = time.monotonic()
            server.stop()
            _say(f"a stop with {len(kept)} connections kept alive: {time.monotonic() - begun:.1f} s")
        ca = trustme.CA()
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        context = ssl.create_default_context()
        ca.configure_trust(context)
        env["STATION_TLS_CERTIFICATE"] = str(folder / "server.pem")
        with service.station(folder, url, **env) as server, _waiting(server.port, b"\x16\x03\x01\x02\x00\x01"):
            _say(f"{_SLOW} in the TLS handshake: {_slowest(server.port, 4000, context):.3f} s")


if __name__ == "__main__":
    main()
