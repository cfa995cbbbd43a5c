"""Serve on SQLite and take one receipt in: `make test-lowest` runs this with the lowest versions that are declared.

It needs nothing but the station and the standard library; the lowest versions of the test tools are of no concern.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

STATION = Path(sys.executable).parent / "station"
DOCUMENT = Path(__file__).parent / "data" / "plain.xml"


def main() -> None:
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        env = {name: value for name, value in os.environ.items() if not name.startswith("STATION_")}
        env |= {"STATION_DATABASE_URL": f"sqlite:///{folder}/station.sqlite3", "STATION_SERVER_HEALTH_LISTEN": ""}

        grant = '[[grant]]\nuser = "anna"\necs = ["*"]\n'
        Path(folder, "station.toml").write_text(f'{grant}[console]\nlisten = "127.0.0.1:{port}"\n')

        def station(*arguments: str) -> bytes:
            return subprocess.run([STATION, *arguments], env=env, cwd=folder, check=True, stdout=subprocess.PIPE).stdout

        station("migrate")
        server = subprocess.Popen([STATION, "serve", "--bind", f"127.0.0.1:{port}"], env=env, cwd=folder)
        answer = ask(server, f"http://127.0.0.1:{port}/paForNode", DOCUMENT.read_bytes(), {"Content-Type": "text/xml"})
        assert b"<outcome>OK</outcome>" in answer, answer
        [receipt] = station("receipts", "list", "--json").splitlines()
        assert json.loads(receipt)["source"] == "push", receipt
        for name in ("all.csv", "all.xlsx", "all.parquet"):
            station("receipts", "export", name)
            assert Path(folder, name).stat().st_size, name
        assert station("receipts", "pdf", json.loads(receipt)["receipt_id"]).startswith(b"%PDF-1.7")
        console = subprocess.Popen([STATION, "console"], env=env, cwd=folder)
        assert b"<h1>Accedi</h1>" in ask(console, f"http://127.0.0.1:{port}/accedi")
    print("The lowest versions serve, store, export, print and show.")  # noqa: T201


def ask(server: subprocess.Popen[bytes], url: str, *what: Any) -> bytes:
    """Ask a server as soon as it listens, stop it, and return the answer."""
    deadline = time.monotonic() + 60
    try:
        while True:
            try:
                with urlopen(Request(url, *what), timeout=30) as answer:
                    return bytes(answer.read())
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        server.terminate()
        stopped = server.wait(60)
        assert stopped == 0, stopped


if __name__ == "__main__":
    main()
