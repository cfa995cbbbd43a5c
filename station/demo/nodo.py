"""A Nodo that pushes receipts, and sends again what got no answer; without the real one's hour of waiting."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from station.demo.payments import Copy

_SENDERS = 4
_HEADERS = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '"paSendRTV2"'}


class Nodo:
    """Pushes to the station at `port`."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._local = threading.local()

    def push(self, documents: Iterable[bytes]) -> Counter[str]:
        """Pushes them over a few connections; returns how often each answer came."""
        with ThreadPoolExecutor(_SENDERS) as senders:
            return Counter(senders.map(self._push, documents))

    def push_and_cut(self, documents: Iterable[bytes]) -> None:
        """Sends each whole and cuts the connection instead of waiting for its answer."""
        for document in documents:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
            connection.request("POST", self._path, document, _HEADERS)
            connection.close()

    def _push(self, document: bytes) -> str:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
        try:
            connection.request("POST", self._path, document, _HEADERS)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return type(error).__name__
        if fault := re.search(r"<faultCode>(\w+)</faultCode>", text):
            return f"KO {fault[1]}"
        return "OK" if "<outcome>OK</outcome>" in text else f"HTTP {answer.status}"


def copies(of: Iterable[Copy]) -> list[bytes]:
    """Their documents."""
    return [copy.envelope() for copy in of]
