"""Where a receipt's time goes: microseconds of processor time in each stage, on the way of one receipt.

First in one process, each stage called on its own for receipt after receipt in turns, the median of all; then under
load, the processor time that the station and PostgreSQL spent on a receipt. What the load shows beyond the stages is
HTTP, threads, and caches that are cold.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

from process import migrate

from bench import documents, load, service
from bench.documents import TYPICAL
from station import contract, log, soap, store
from station.app import create_app
from station.config import load as load_settings
from station.intake import Origin, Outcome, Result
from station.receipt import Source


class Accepting:
    """Stands in for the intake: says stored, and stores nothing."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def accept(self, _document: Any, _request: Any, _origin: Any, identifiers: Any) -> Outcome:
        return Outcome(Result.STORED, identifiers)


def environ(body: bytes) -> dict[str, Any]:
    """A WSGI environment as the worker makes it."""
    return {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/paForNode", "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "wsgi.url_scheme": "http", "CONTENT_TYPE": "text/xml; charset=utf-8",
        "CONTENT_LENGTH": str(len(body)), "wsgi.input": BytesIO(body), "REMOTE_ADDR": "127.0.0.1",
        "HTTP_X_REQUEST_ID": "0123456789abcdef" * 2,
        soap.NOTES: {}, soap.ORIGIN: Origin(Source.PUSH),
    }  # fmt: skip


def in_process(folder: Path, url: str, count: int) -> dict[str, float]:
    """The median of each stage over so many receipts."""
    config = folder / "station.toml"
    config.write_text(documents.registry())
    os.environ["STATION_DATABASE_URL"] = url
    with _silent():
        return _stages(create_app(load_settings(config)), count)


def _stages(application: Any, count: int) -> dict[str, float]:
    chance = random.Random(time.time_ns())
    pieces = [documents.parts(template) for template in documents.templates(TYPICAL)]
    with_stub = soap.create_soap_app(Accepting(application.settings))  # type: ignore[arg-type]
    line = log.get("station")
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        begun = time.thread_time()
        made = work()
        took.setdefault(name, []).append(time.thread_time() - begun)
        return made

    def fresh() -> bytes:
        return documents.fill(chance.choice(pieces), documents.identifiers(chance))

    def record(receipt: Any, raw: bytes) -> None:
        new = store.NewReceipt(receipt, receipt.flags, raw, "utf-8", Source.PUSH, datetime.now(UTC))
        store.save_receipt(application.engine, new, until=time.monotonic() + 8)

    for _ in range(count):
        raw = fresh()
        document = timed("parse", partial(contract.parse, raw, "utf-8"))
        request = contract.request_element(document.root)
        timed("identifiers", partial(contract.identify, request))
        receipt = timed("validate, read and hash", partial(contract.read, request))
        timed("record: one statement, the driver with it", partial(record, receipt, raw))
        timed("the same again (a resend)", partial(record, receipt, raw))
        timed("a log line", lambda: line.info(
            "request_answered", request_id="0123456789abcdef" * 2, method="POST", status=200, duration_ms=3.3,
            size=3204, operation="paSendRTV2", id_pa="77777777777", id_station="15376371009_01",
            receipt_id="0123456789abcdef" * 2, notice_number="301000000000000144", result="stored",
        ))  # fmt: skip
        timed("SOAP with parse and identifiers", lambda: with_stub.answer(environ(b""), fresh()))
        timed("all of it: one WSGI call", lambda: list(application(environ(fresh()), lambda *_: None)))
    return {name: median(values[count // 10 :]) * 1e6 for name, values in took.items()}


@contextmanager
def _silent():  # type: ignore[no-untyped-def]
    """Log lines are rendered and written, to nowhere."""
    with Path(os.devnull).open("w") as nowhere:
        kept, sys.stderr = sys.stderr, nowhere
        try:
            yield
        finally:
            sys.stderr = kept
            logging.getLogger().handlers = []


def under_load(folder: Path, url: str, seconds: float) -> dict[str, float]:
    """Processor time of the station and of PostgreSQL for each receipt."""
    postmaster = int((folder / "postgres" / "postmaster.pid").read_text().split()[0])
    with service.station(folder, url) as server:
        pids = {"station, under load": server.process.pid, "PostgreSQL, under load": postmaster}
        load.closed(folder, server.port, TYPICAL, seconds, seed=service.seed(0))
        before = {name: service.cpu_seconds(pid) for name, pid in pids.items()}
        gave = load.closed(folder, server.port, TYPICAL, seconds, seed=service.seed(1))
        return {name: (service.cpu_seconds(pid) - before[name]) / gave.requests * 1e6 for name, pid in pids.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.stages", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1500, help="receipts, each through every stage")
    parser.add_argument("--seconds", type=float, default=8, help="length of the load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        with service.postgres(folder / "postgres") as url:
            migrate(url)
            figures = in_process(folder, url, arguments.count) | under_load(folder, url, arguments.seconds)
    for stage, microseconds in figures.items():
        print(f"{stage:46} {microseconds:7.0f} us")


if __name__ == "__main__":
    main()
