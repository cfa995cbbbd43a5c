"""The memory of the workers over a million requests: new receipts, sent as fast as they are answered."""

import argparse
import tempfile
from pathlib import Path

from bench import load, service
from bench.documents import TYPICAL


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--step", type=float, default=30, help="seconds between two looks")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        with service.postgres(folder / "postgres") as url, service.station(folder, url) as server:
            sent = number = 0
            while sent < arguments.requests:
                number += 1
                gave = load.closed(folder, server.port, TYPICAL, arguments.step, seed=service.seed(number))
                if gave.errors:
                    raise SystemExit(f"WRONG: {gave.errors} receipts were not acknowledged")
                sent += gave.requests
                memory = ", ".join(f"{service.resident_mib(pid):.1f} MiB" for pid in service.workers(server))
                print(f"{sent:9,} requests, {gave.rate:5.0f}/s: {memory}", flush=True)


if __name__ == "__main__":
    main()
