"""A load generator of our own: an open loop, which no tool at hand has, and a closed one where `wrk` is missing.

Runs as a process of its own (`python -m bench.generator`), one selector over kept-alive connections. In the open loop
requests are due at times drawn beforehand, whether the station keeps up or not, and the latency of each counts from
the moment it was due: a generator that waits for a slow answer before it sends the next request hides the queue that
real senders would stand in.
"""

import argparse
import json
import random
import selectors
import socket
import time
from collections import deque
from pathlib import Path

from bench import documents


class Connection:
    """One kept-alive connection with at most one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.due = 0.0
        self.receipt_id = ""
        self.answer = b""

    def send(self, due: float, receipt_id: str, message: bytes) -> None:
        self.due, self.receipt_id, self.answer = due, receipt_id, b""
        self.socket.sendall(message)

    def receive(self) -> bytes | None:
        """The whole answer, once it is complete."""
        self.answer += self.socket.recv(65536)
        head, gap, body = self.answer.partition(b"\r\n\r\n")
        if not gap:
            return None
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"
        )  # fmt: skip
        return self.answer if len(body) >= length else None


def run(arguments: argparse.Namespace) -> dict[str, float]:
    """Sends for the time that was asked for, then waits for the last answers."""
    chance = random.Random(arguments.seed)
    pieces = [documents.parts(template) for template in documents.templates(documents.KINDS[arguments.kind])]
    expected = documents.KINDS[arguments.kind].answer
    selector = selectors.DefaultSelector()
    idle = deque(Connection(("127.0.0.1", arguments.port)) for _ in range(arguments.connections))
    for connection in idle:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    latencies: list[float] = []
    acknowledged: list[str] = []
    unexpected = sent = 0
    busy = 0
    begun = time.perf_counter()
    end = begun + arguments.seconds
    due = begun
    while True:
        now = time.perf_counter()
        while idle and due <= now and due < end:
            if arguments.repeat and sent % arguments.repeat == 0:
                chance = random.Random(arguments.seed)
            places = documents.identifiers(chance)
            body = documents.fill(chance.choice(pieces), places)
            head = (
                b"POST /paForNode HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/xml; charset=utf-8\r\n"
                b'SOAPAction: "paSendRTV2"\r\nX-Request-Id: %b\r\nContent-Length: %d\r\n\r\n'
                % (places[b"r"], len(body))
            )
            idle.popleft().send(due, places[b"r"].decode(), head + body)
            sent += 1
            busy += 1
            # Arrivals as from many independent senders: the gaps are exponential, not even.
            due = due + chance_gap(chance_of_gaps, arguments.rate) if arguments.rate else time.perf_counter()
        if due >= end and not busy:
            break
        wait = 0.5 if not idle or due >= end else max(0.0, due - time.perf_counter())
        for key, _ in selector.select(wait):
            connection = key.data
            if (answer := connection.receive()) is None:
                continue
            latencies.append(time.perf_counter() - connection.due)
            if answer.startswith(b"HTTP/1.1 200") and expected in answer:
                acknowledged.append(connection.receipt_id)
            else:
                unexpected += 1
            busy -= 1
            idle.append(connection)
    seconds = time.perf_counter() - begun
    Path(arguments.acknowledged).write_text("".join(f"{one}\n" for one in acknowledged) + "! \n" * unexpected)
    latencies.sort()
    return {
        "requests": len(latencies), "seconds": seconds, "errors": unexpected,
        "p50_ms": latencies[len(latencies) // 2] * 1000, "p99_ms": latencies[int(len(latencies) * 0.99)] * 1000,
        "max_ms": latencies[-1] * 1000,
    }  # fmt: skip


chance_of_gaps = random.Random(1)


def chance_gap(chance: random.Random, rate: float) -> float:
    """Seconds until the next arrival."""
    return chance.expovariate(rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--kind", choices=documents.KINDS, default="typical")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: closed loop")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=0, help="after so many requests the same ones again")
    parser.add_argument("--acknowledged", required=True, help="file for the receipt ids that were acknowledged")
    arguments = parser.parse_args()
    summary = run(arguments)
    Path(f"{arguments.acknowledged}.summary").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
