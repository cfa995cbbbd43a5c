"""pagoPA's REST services in one server: GPD-Core's positions, GPD's receipts, flows (FdR) and BizEvents.

It knows the calls that the story needs, and answers them as the real ones do.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from station.clock import ROME
from station.demo.payments import NAMES, Copy
from station.text import as_json

KEY = "demonstration"
PSP = "ABI99999"
RECEIPTS = "/gpd/payments-receipts-service/v1/payments"
POSITIONS = "/gpd/debt-positions-service/v1"
FDR = "/fdr-org/service/v1"
BIZ_EVENTS = "/bizevents/service/v1"


class Platform:
    """What the services know.

    `listed`: the receipts that GPD has; `positions`: debt positions by IUV; `flows`: payments by EC and name of the
    flow; `biz_events`: the copies of each receiptId.
    """

    def __init__(self, listed: list[Copy]) -> None:
        self.listed = list(listed)
        self.positions: dict[str, dict[str, Any]] = {}
        self.flows: dict[tuple[str, str], list[Copy]] = {}
        self.biz_events: dict[str, list[Copy]] = {}

    def create(self, owner: str, position: dict[str, Any], *, publish: bool) -> dict[str, Any]:
        """Create a debt position: published without a date from which it is valid, it is VALID at once."""
        valid = publish and position.get("validityDate") is None
        made = position | {"status": "VALID" if valid else "PUBLISHED" if publish else "DRAFT", "owner": owner}
        self.positions[position["paymentOption"][0]["iuv"]] = made
        return made

    def take_receipt(self, copy: Copy, *, listed: bool) -> None:
        """Take the receipt of a payment, as GPD-Payments does: its position is PAID. `listed`: GPD shows it, too."""
        if copy.iuv in self.positions and copy.id_pa == copy.owner:
            paid = {"status": "PAID", "paymentDate": copy.paid_at.isoformat(), "receipt": copy.receipt_id}
            self.positions[copy.iuv] |= paid
            if listed:
                self.listed.append(copy)
        self.biz_events.setdefault(copy.receipt_id, []).append(copy)

    def credit(self, id_pa: str, copies: list[Copy]) -> str:
        """Publish the flow of a bank transfer to an EC. Return its name."""
        name = f"{datetime.now(UTC):%Y-%m-%d}{PSP}-S{len(self.flows) + 1:09d}"
        self.flows[id_pa, name] = copies
        return name

    def positions_page(self, owner: str, status: str) -> dict[str, Any]:
        """Return GPD-Core's list of an EC's positions with a status."""
        found = [one for one in self.positions.values() if (one["owner"], one["status"]) == (owner, status)]
        return {
            "payment_position_list": [
                one | {"paymentOption": [option | {"status": "PO_PAID"} for option in one["paymentOption"]]}
                for one in found
            ],
            "page_info": {"page": 0, "limit": 50, "items_found": len(found), "total_pages": 1},
        }


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, platform: Platform, *connection: Any) -> None:
        self.platform = platform
        super().__init__(*connection)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if self.headers["Ocp-Apim-Subscription-Key"] != KEY:
            self._send(401, {"title": "the key is unknown"})
            return
        services = {
            RECEIPTS: self._receipts,
            POSITIONS: self._positions,
            FDR: self._flows,
            BIZ_EVENTS: self._biz_events,
        }
        for base, serve in services.items():
            if url.path.startswith(f"{base}/"):
                serve([unquote(step) for step in url.path.removeprefix(f"{base}/").split("/")], query)
                return
        self._send(404, {"statusCode": 404})

    def do_POST(self) -> None:
        """createPosition, the only call that writes."""
        url = urlsplit(self.path)
        owner = url.path.removeprefix(f"{POSITIONS}/organizations/").split("/")[0]
        position = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        publish = dict(parse_qsl(url.query)).get("toPublish") == "true"
        made = self.platform.create(owner, position, publish=publish)
        self._send(201, {name: value for name, value in made.items() if name != "owner"})

    def _receipts(self, steps: list[str], query: dict[str, str]) -> None:
        listed = sorted(self.platform.listed, key=lambda copy: copy.iuv)
        if len(steps) > 2:
            found = [copy for copy in listed if [copy.owner, "receipts", copy.iuv] == steps]
            self._send(200, found[0].document()) if found else self._send(404, {"title": "none"})
            return
        # Bounds are compared as texts, as the API does; a day stands for all of it.
        first, last = f"{query['from']}T00:00:00", f"{query['to']}T23:59:59"
        paid = [copy for copy in listed if copy.owner == steps[0] and first <= copy.paid_at.isoformat() <= last]
        number, size = int(query["pageNum"]), int(query["pageSize"])
        pages = max(1, -(-len(paid) // size))
        if number >= pages:
            self._send(400, {"title": "no such page"})
            return
        rows = [
            {"organizationFiscalCode": copy.owner, "iuv": copy.iuv, "debtor": "ANONIMO",
             "paymentDateTime": copy.paid_at.isoformat(), "status": "PAID"}
            for copy in paid[number * size : (number + 1) * size]
        ]  # fmt: skip
        self._send(200, {"currentPageNumber": number, "length": len(rows), "totalPages": pages, "results": rows})

    def _positions(self, steps: list[str], query: dict[str, str]) -> None:
        self._send(200, self.platform.positions_page(steps[1], query["status"]))

    def _flows(self, steps: list[str], _query: dict[str, str]) -> None:
        id_pa = steps[1]
        now = datetime.now(UTC).replace(microsecond=0)
        published, dated = _text(now - timedelta(minutes=1)), _text(now - timedelta(minutes=2))
        known = {"pspId": PSP, "revision": 1, "published": published}
        if len(steps) == 3:
            rows: list[dict[str, Any]] = [
                known | {"fdr": name, "flowDate": dated} for of, name in self.platform.flows if of == id_pa
            ]
            self._send(200, _page(rows)) if rows else self._send(404, b"")
            return
        copies = self.platform.flows[id_pa, steps[3]]
        if steps[-1] == "payments":
            self._send(200, _page([_line(place, copy) for place, copy in enumerate(copies, start=1)]))
            return
        total = float(sum((copy.part(id_pa)[1] for copy in copies), Decimal(0)))
        sender = {"type": "LEGAL_PERSON", "id": "IMMAITRR", "pspId": PSP, "pspName": "Banca Immaginaria",
                  "pspBrokerId": "99999999990", "channelId": "99999999990_01"}  # fmt: skip
        receiver = {"id": id_pa, "organizationId": id_pa, "organizationName": NAMES[id_pa]}
        self._send(
            200,
            known
            | {"status": "PUBLISHED", "created": dated, "updated": published, "fdr": steps[3], "fdrDate": dated,
               "regulation": f"TRN{steps[3][-9:]}", "regulationDate": f"{now:%Y-%m-%d}",
               "bicCodePouringBank": "IMMAITRRXXX", "sender": sender, "receiver": receiver,
               "totPayments": len(copies), "sumPayments": total, "computedTotPayments": len(copies),
               "computedSumPayments": total},
        )  # fmt: skip

    def _biz_events(self, steps: list[str], _query: dict[str, str]) -> None:
        found = [copy for copy in self.platform.biz_events.get(steps[-1], []) if copy.id_pa == steps[1]]
        self._send(200, found[0].biz_event()) if found else self._send(404, {"title": "not found"})

    def _send(self, status: int, content: bytes | dict[str, Any]) -> None:
        body = content if isinstance(content, bytes) else as_json(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml" if isinstance(content, bytes) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: the demonstration prints its steps."""


def _page(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"metadata": {"pageSize": 1000, "pageNumber": 1, "totPage": 1}, "count": len(rows), "data": rows}


def _line(place: int, copy: Copy) -> dict[str, Any]:
    """Return a payment as a flow of the copy's EC lists it."""
    number, amount = copy.part(copy.id_pa)
    return {"index": place, "iuv": copy.iuv, "iur": copy.receipt_id, "idTransfer": number, "pay": float(amount),
            "payStatus": "EXECUTED", "payDate": _text(copy.paid_at.replace(tzinfo=ROME).astimezone(UTC))}  # fmt: skip


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


@contextmanager
def serving(platform: Platform) -> Iterator[str]:
    """Serve the APIs on loopback; gives the URL that their paths follow."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Api, platform)) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
