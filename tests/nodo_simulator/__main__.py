"""The command line. Standard input ends it: "stop" makes no more payments, the end of the input ends it at once."""

import argparse
import asyncio
import os
import sys
import threading
from dataclasses import fields
from pathlib import Path

from .ledger import Writer
from .sender import Sender, Settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="nodo_simulator", description="Sends receipts as the Nodo does.")
    parser.add_argument("--url", action="append", required=True, help="endpoint; several are used in turn")
    parser.add_argument("--ledger", type=Path, required=True, help="file to append to")
    parser.add_argument("--exit-with-stdin", action="store_true", help="obey standard input, and end when it ends")
    for one in fields(Settings):
        kind = int if one.name in ("seed", "payments", "connections", "attempts") else float
        parser.add_argument(f"--{one.name}", type=kind, default=one.default)
    options = vars(parser.parse_args())
    urls, ledger, obey = options.pop("url"), options.pop("ledger"), options.pop("exit_with_stdin")
    sender = Sender(Settings(**options), urls, Writer(ledger))
    if obey:
        threading.Thread(target=_obey, args=(sender,), daemon=True).start()
    asyncio.run(sender.run())


def _obey(sender: Sender) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            sender.stop_making()
    os._exit(1)


main()
