"""How long the PDF of a receipt takes, warm: usual receipts, and some with five beneficiaries.

    python bench/pdf.py [--receipts 1000]

Each is another receipt (typst remembers what it has laid out before), stored in SQLite and found before the clock
starts. The first one, which loads typst and its fonts, is told apart.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from station import store
from station.config import Settings
from station.pdf import render
from station.store import queries

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from build import a_request, a_transfer, an_envelope  # noqa: E402
from refusals import Door  # noqa: E402


def taken(receipt: dict, attach_xml: bool = False) -> tuple[float, float]:
    """Milliseconds by the clock, and of processor time, which other work on the machine does not lengthen as much."""
    begun = time.perf_counter(), time.process_time()
    render(Settings(), receipt, attach_xml=attach_xml)
    return (time.perf_counter() - begun[0]) * 1000, (time.process_time() - begun[1]) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipts", type=int, default=1000)
    count = parser.parse_args().receipts
    folder = Path(tempfile.mkdtemp())
    try:
        url = f"sqlite:///{folder / 'station.sqlite3'}"
        engine = store.connect(url)
        store.migrate(engine)
        door = Door(engine)
        for number in range(count):
            name = f"Pinco Pallino {number}"
            five = {"transfers": [a_transfer(place + 1) for place in range(5)]} if number % 10 == 0 else {}
            door.take(an_envelope(a_request(debtor__fullName=name, description=f"TARI 2026, rata {number}", **five)))
        with store.transaction(engine, readonly=True) as connection:
            page = queries.list_receipts(connection, store.Filter(), limit=count)
            receipts = [queries.find(connection, row.id_pa, row.receipt_id) for row in page]
        engine.dispose()
    finally:
        shutil.rmtree(folder)
    print(f"{len(receipts):,} receipts, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print("the first, which loads typst: {:.0f} ms, {:.0f} ms of processor time".format(*taken(receipts[0])))
    for title, attach_xml in (("warm", False), ("warm, with the XML attached", True)):
        each = [taken(receipt, attach_xml) for receipt in receipts[1:]]
        for what, times in zip(("by the clock", "processor time"), map(sorted, zip(*each, strict=True)), strict=True):
            shares = {"median": 0.5, "95 %": 0.95, "99 %": 0.99}
            told = ", ".join(f"{name} {times[int(len(times) * share)]:.0f} ms" for name, share in shares.items())
            print(f"{title}, {what}: {told}, longest {times[-1]:.0f} ms")


if __name__ == "__main__":
    main()
