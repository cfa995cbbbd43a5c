"""A Nodo that pushes receipts over a few connections, without the real one's hour of waiting before it resends."""

import http.client
import re
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

_SENDERS = 4
_HEADERS = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": '"paSendRTV2"'}


class Nodo:
    """Pushes to the station at `port`."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._path = path
        self._local = threading.local()

    def push(self, documents: Iterable[bytes]) -> Counter[str]:
        """Push documents and return how often each answer came."""
        with ThreadPoolExecutor(_SENDERS) as senders:
            return Counter(senders.map(self._push, documents))

    def push_and_cut(self, documents: Iterable[bytes]) -> None:
        """Send each document whole and cut the connection instead of waiting for its answer."""
        for document in documents:
            connection = self._connect()
            connection.request("POST", self._path, document, _HEADERS)
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)

    def _push(self, document: bytes) -> str:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
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
