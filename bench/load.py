"""Sends load to a running station and checks what was acknowledged against the database."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, text

from bench import documents, service
from bench.documents import Kind

# What the highest rate is measured with: 16 gave 0.93 of it, 64 no more.
CONNECTIONS = 32


@dataclass(frozen=True)
class Load:
    """What a load gave. `rate` is answers a second as expected; latencies in milliseconds."""

    rate: float
    requests: int
    errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    acknowledged: list[str]


def closed(folder: Path, port: int, kind: Kind, seconds: float, *, seed: int, repeat: int = 0,
           connections: int = CONNECTIONS) -> Load:  # fmt: skip
    """As fast as the station answers, over kept-alive connections: by wrk where it is installed."""
    if not service.has_wrk():
        return _generate(folder, port, kind, seconds, seed=seed, repeat=repeat, connections=connections)
    acknowledged = folder / "acknowledged"
    service.run(
        ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:.0f}s",
         "--timeout", "20s", "--script", str(Path(__file__).with_name("push.lua")), f"http://127.0.0.1:{port}/paForNode"],
        BENCH_TEMPLATES=str(documents.write_templates(folder, kind)), BENCH_SEED=str(seed),
        BENCH_ACKNOWLEDGED=str(acknowledged), BENCH_ANSWER=kind.answer.decode(), BENCH_REPEAT=str(repeat),
    )  # fmt: skip
    return _read(acknowledged)


def open_loop(folder: Path, port: int, kind: Kind, seconds: float, *, seed: int, rate: float) -> Load:
    """At a rate, whether the station keeps up or not; latency counts from when a request was due."""
    return _generate(folder, port, kind, seconds, seed=seed, rate=rate, connections=64)


def _generate(folder: Path, port: int, kind: Kind, seconds: float, *, seed: int, repeat: int = 0, rate: float = 0,
              connections: int = CONNECTIONS) -> Load:  # fmt: skip
    acknowledged = folder / "acknowledged"
    service.run(service.python(
        "bench.generator", "--port", str(port), "--kind", kind.name, "--seconds", str(seconds), "--seed", str(seed),
        "--repeat", str(repeat), "--rate", str(rate), "--connections", str(connections),
        "--acknowledged", str(acknowledged),
    ))  # fmt: skip
    return _read(acknowledged)


def _read(acknowledged: Path) -> Load:
    summary = json.loads(Path(f"{acknowledged}.summary").read_text())
    lines = acknowledged.read_text().splitlines()
    ids = [line for line in lines if not line.startswith("!")]
    errors = len(lines) - len(ids) + summary["errors"]
    return Load(
        len(ids) / summary["seconds"], summary["requests"], errors, summary["p50_ms"], summary["p99_ms"],
        summary["max_ms"], ids,
    )  # fmt: skip


def check_stored(database_url: str, acknowledged: list[str]) -> None:
    """Every acknowledged receipt is stored, once, with all its transfers. Ends the run otherwise."""
    with _connect(database_url).connect() as connection:
        stored = Counter(connection.execute(text("SELECT receipt_id FROM receipt")).scalars())
        parted = set(connection.execute(text("SELECT DISTINCT receipt_id FROM transfer")).scalars())
    sent = set(acknowledged)
    lost, doubled, halved = sent - stored.keys(), [one for one in sent if stored[one] > 1], sent - parted
    if lost or doubled or halved:
        raise SystemExit(f"WRONG: {len(lost)} lost, {len(doubled)} doubled, {len(halved)} without transfers")


def analyze(database_url: str) -> None:
    """What PostgreSQL does by itself a minute after the first receipts.

    Until then it knows nothing of their number, and looks up the receipt of a transfer by the wrong index.
    """
    if database_url.startswith("postgresql"):
        with _connect(database_url).begin() as connection:
            connection.execute(text("ANALYZE"))


def empty(database_url: str) -> None:
    """Throws away what earlier runs stored."""
    names = ("receipt_flag", "receipt_route", "receipt_document", "transfer", "receipt", "refused_history", "refused")
    with _connect(database_url).begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"TRUNCATE {', '.join(names)} CASCADE"))
        else:
            for name in names:
                connection.execute(text(f"DELETE FROM {name}"))


def _connect(database_url: str):  # type: ignore[no-untyped-def]
    if database_url.startswith("postgresql://"):
        database_url = database_url.replace("postgresql://", "postgresql+psycopg://")
    return create_engine(database_url)
