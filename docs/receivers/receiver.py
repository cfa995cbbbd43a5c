"""Receive the station's webhooks: WEBHOOK_SECRET=whsec_... python3 receiver.py 8090. Needs nothing but Python."""

import base64
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def is_genuine(headers, body):
    key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
    id_, at, given = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    ours = "v1," + base64.b64encode(hmac.digest(key, f"{id_}.{at}.".encode() + body, "sha256")).decode()
    fresh = at.isdecimal() and abs(time.time() - int(at)) < 300
    return fresh and any(hmac.compare_digest(ours.encode(), one.encode()) for one in given.split(" "))


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        genuine = is_genuine(self.headers, body)
        if genuine:
            event = json.loads(body)
            # Here: store event["data"] under event["id"], unless it is there, and answer only then.
            print(event["type"], event["id"], event.get("subject", ""), flush=True)
        self.send_response(204 if genuine else 401)
        self.end_headers()


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
