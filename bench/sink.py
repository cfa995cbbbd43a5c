"""Receivers of webhooks that cost next to nothing: `python -m bench.sink SECONDS...`, a port for each, in one process.

Each answers 204 after its SECONDS. Prints the ports, and for each line on standard input a line of JSON: what each has
received (`count`, different `ids`, times of the first and last in seconds since the epoch, and `late`: the seconds from
a receipt's arrival at the station to its own).
"""

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any

_ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"


class Sink(asyncio.Protocol):
    """One connection to one receiver, whose figures are shared."""

    def __init__(self, figures: dict[str, Any], delay: float) -> None:
        self.figures = figures
        self.delay = delay
        self.data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        while True:
            head, end, rest = self.data.partition(b"\r\n\r\n")
            if not end:
                return
            lower = head.lower()
            size = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(rest) < size:
                return
            self.data = rest[size:]
            self.take(lower.split(b"webhook-id:")[1].split(b"\r\n")[0].strip(), rest[:size])

    def take(self, id_: bytes, body: bytes) -> None:
        now, figures = time.time(), self.figures
        figures["count"] += 1
        figures["ids"].add(id_)
        figures["first"] = figures["first"] or now
        figures["last"] = now
        at = body.rpartition(b'"received_at": "')[2].partition(b'"')[0]
        figures["late"].append(now - datetime.fromisoformat(at.decode()).timestamp())
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.transport.write, _ANSWER)
        else:
            self.transport.write(_ANSWER)


async def main() -> None:
    loop = asyncio.get_running_loop()
    every = []
    for delay in map(float, sys.argv[1:]):
        figures: dict[str, Any] = {"count": 0, "ids": set(), "first": None, "last": None, "late": []}
        server = await loop.create_server(lambda figures=figures, delay=delay: Sink(figures, delay), "127.0.0.1", 0)
        every.append((server.sockets[0].getsockname()[1], figures))
    print(json.dumps([port for port, _ in every]), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        told = [figures | {"ids": len(figures["ids"])} for _, figures in every]
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
