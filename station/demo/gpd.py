"""A GPD receipts API: lists what was paid, page by page, and hands out single receipts."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from station.demo.payments import Copy
from station.text import as_json

KEY = "demonstration"
_BASE = "/gpd/payments-receipts-service/v1"


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, paid: list[Copy], *connection: Any) -> None:
        self.paid = paid
        super().__init__(*connection)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        steps = url.path.removeprefix(f"{_BASE}/payments/").split("/")
        if self.headers["Ocp-Apim-Subscription-Key"] != KEY:
            self._send(401, {"title": "the key is unknown"})
        elif len(steps) == 2:
            self._list(steps[0], dict(parse_qsl(url.query)))
        else:
            found = [copy for copy in self.paid if [copy.owner, "receipts", copy.iuv] == steps]
            self._send(200, found[0].document()) if found else self._send(404, {"title": "none"})

    def _list(self, owner: str, query: dict[str, str]) -> None:
        # Bounds are compared as texts, as the API does; a day stands for all of it.
        first, last = f"{query['from']}T00:00:00", f"{query['to']}T23:59:59"
        paid = [copy for copy in self.paid if copy.owner == owner and first <= copy.paid_at.isoformat() <= last]
        number, size = int(query["pageNum"]), int(query["pageSize"])
        pages = max(1, -(-len(paid) // size))
        if number >= pages:
            self._send(400, {"title": "no such page"})
            return
        rows = [
            {"organizationFiscalCode": owner, "iuv": copy.iuv, "debtor": "ANONIMO",
             "paymentDateTime": copy.paid_at.isoformat(), "status": "PAID"}
            for copy in paid[number * size : (number + 1) * size]
        ]  # fmt: skip
        self._send(200, {"currentPageNumber": number, "length": len(rows), "totalPages": pages, "results": rows})

    def _send(self, status: int, content: bytes | dict[str, Any]) -> None:
        body = content if isinstance(content, bytes) else as_json(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: the demonstration prints its steps."""


@contextmanager
def serving(paid: list[Copy]) -> Iterator[str]:
    """Serve the API with these payments on loopback; gives its URL."""
    in_order = sorted(paid, key=lambda copy: copy.iuv)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Api, in_order)) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}{_BASE}"
        finally:
            server.shutdown()
