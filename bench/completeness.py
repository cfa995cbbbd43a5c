"""The proof of tests/test_completeness.py at the size of the bar: 100,000 payments in 2,000 flows of three ECs.

1,000 receipts are lost: 100 of secondary beneficiaries, 50 of payments that flows name by another IUR, 20 in revised
flows, 30 with status 9, 20 of stamps. It ends with an error where one too many is named, one is overlooked, one of the
980 that GPD or BizEvents have is not fetched, or the euro of an EC do not balance to the cent.
"""

import argparse
import tempfile
import time
from pathlib import Path

from completeness import ECS, World
from fdr_simulator import FdrSimulator
from gpd_simulator import GpdSimulator
from process import migrate
from refusals import Door
from test_completeness import prove

from bench import service
from station import log, store


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.completeness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--payments", type=int, default=100_000)
    arguments = parser.parse_args()
    log.configure("json", "warning")
    with tempfile.TemporaryDirectory(prefix="station-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        with (
            service.postgres(folder / "postgres") as url,
            GpdSimulator.start(service.subfolder(folder, "gpd")) as gpd,
            FdrSimulator.start(service.subfolder(folder, "fdr")) as fdr,
        ):
            migrate(url)
            engine = store.connect(url, pool_size=12)
            world = World.make(arguments.payments)
            begun = time.monotonic()
            prove(Door(engine), fdr, gpd, world, walked_revisions=False)
            took = time.monotonic() - begun
            engine.dispose()
    print(
        f"{arguments.payments:,} payments in {len(world.flows):,} flows of {len(ECS)} ECs: {len(world.missing)} without"
        f" a receipt, each of them named, 0 false, 0 overlooked; {len(world.obtainable)} fetched of"
        f" {len(world.obtainable)} that are to be had; {len(world.uncredited)} not credited, each named; {took:.0f} s"
    )
    for ec in ECS:
        print(f"EC {ec}: {world.cents(ec, credited=True) / 100:,.2f} euro credited, as the ledger says")


if __name__ == "__main__":
    main()
