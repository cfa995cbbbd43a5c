"""An EC's own system: receives webhooks, verifies their signatures, and takes each event once."""

import base64
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "whsec_" + base64.b64encode(b"a secret of the demonstration only").decode()
CHOOSY = "/register"
_KEY = base64.b64decode(SECRET.removeprefix("whsec_"))


class Receiver:
    """What came: `events` by id, and how many requests had a wrong signature (`forged`) or came `again`."""

    def __init__(self) -> None:
        self.url = ""
        self.events: dict[str, dict[str, Any]] = {}
        self.forged = 0
        self.again = 0
        self._lock = threading.Lock()

    def take(self, headers: Any, body: bytes) -> bool:
        """Verify a request and keep its event. Return False where its signature is wrong."""
        id_, at, given = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
        ours = "v1," + base64.b64encode(hmac.digest(_KEY, f"{id_}.{at}.".encode() + body, "sha256")).decode()
        with self._lock:
            if ours not in given.split(" "):
                self.forged += 1
                return False
            self.again += id_ in self.events
            self.events[id_] = json.loads(body)
        return True

    def wait_for(self, count: int, seconds: float) -> None:
        """Wait until that many receipts came, or the time is over."""
        until = time.monotonic() + seconds
        while len(self.receipts) < count and time.monotonic() < until:
            time.sleep(0.05)

    @property
    def receipts(self) -> list[dict[str, Any]]:
        """The events with a receipt, in order of their numbers."""
        found = [one for one in list(self.events.values()) if one["type"] != "station.test"]
        return sorted(found, key=lambda one: int(one["data"]["number"]))


class _Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, receiver: Receiver, *connection: Any) -> None:
        self.receiver = receiver
        super().__init__(*connection)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == CHOOSY:  # takes all receipts but every tenth, as a program does that knows not all of them
            self.send_response(422 if json.loads(body).get("data", {}).get("number", 1) % 10 == 0 else 204)
        else:
            self.send_response(204 if self.receiver.take(self.headers, body) else 401)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing: the demonstration prints its steps."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver on loopback."""
    receiver = Receiver()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Hook, receiver)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        receiver.url = f"http://127.0.0.1:{server.server_address[1]}/receipts"
        try:
            yield receiver
        finally:
            server.shutdown()
