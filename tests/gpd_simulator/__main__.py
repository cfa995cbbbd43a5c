"""The command line: `python -m tests.gpd_simulator --port 0 --print-port --scenario FILE`."""

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from .server import Server
from .service import Simulator


def main(
    simulator: Any = None,
    prog: str = "gpd_simulator",
    description: str = "Simulates the GPD receipts API and GPD-Core.",
) -> None:
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--port", type=int, default=0, help="port on the loopback address, 0 for any free one")
    parser.add_argument("--print-port", action="store_true", help="print the port, once calls are answered")
    parser.add_argument("--scenario", type=Path, help="JSON file with what to load at the start")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input ends")
    options = parser.parse_args()

    simulator = simulator or Simulator()
    if options.scenario:
        try:
            simulator.reset(json.loads(options.scenario.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            parser.error(f"{options.scenario.name}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if options.exit_with_stdin:
        threading.Thread(target=_wait_for_stdin, daemon=True).start()
    with Server(simulator, options.port) as server:
        if options.print_port:
            sys.stdout.write(f"{server.port}\n")
            sys.stdout.flush()
        server.serve_forever()


def _wait_for_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
