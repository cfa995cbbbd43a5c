"""A GPD receipts API: lists what was paid, page by page, and hands out single receipts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from station.demo.payments import Copy

KEY = "demonstration"
_BASE = "/gpd/payments-receipts-service/v1"


class _Api(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, paid: list[Copy]) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.paid = sorted(paid, key=lambda copy: copy.iuv)


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        steps = url.path.removeprefix(f"{_BASE}/payments/").split("/")
        if self.headers["Ocp-Apim-Subscription-Key"] != KEY:
            self._send(401, {"title": "the key is unknown"})
        elif len(steps) == 2:
            self._list(steps[0], {name: values[0] for name, values in parse_qs(url.query).items()})
        else:
            found = [copy for copy in self.server.paid if [copy.owner, "receipts", copy.iuv] == steps]
            self._send(200, found[0].document()) if found else self._send(404, {"title": "none"})

    def _list(self, owner: str, query: dict[str, str]) -> None:
        # Bounds are compared as texts, as the API does; a day stands for all of it.
        first, last = f"{query['from']}T00:00:00", f"{query['to']}T23:59:59"
        mine = [copy for copy in self.server.paid if copy.owner == owner and first <= copy.paid_at.isoformat() <= last]
        number, size = int(query["pageNum"]), int(query["pageSize"])
        pages = max(1, -(-len(mine) // size))
        if number >= pages:
            self._send(400, {"title": "no such page"})
            return
        rows = [
            {"organizationFiscalCode": owner, "iuv": copy.iuv, "debtor": "ANONIMO",
             "paymentDateTime": copy.paid_at.isoformat(), "status": "PAID"}
            for copy in mine[number * size : (number + 1) * size]
        ]  # fmt: skip
        self._send(
            200, {"currentPageNumber": number, "length": len(rows), "totalPages": pages, "results": rows}
        )  # fmt: skip

    def _send(self, status: int, what: bytes | dict[str, Any]) -> None:
        body = what if isinstance(what, bytes) else json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if isinstance(what, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The demonstration tells what happens."""


@contextmanager
def serving(paid: list[Copy]) -> Iterator[str]:
    """The API with these payments; gives its URL."""
    with _Api(paid) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}{_BASE}"
        finally:
            server.shutdown()
            thread.join()
