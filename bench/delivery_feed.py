"""How fast readers get a backlog by the feed, and how many can wait: `python -m bench.delivery_feed`.

PostgreSQL, `station api` with its defaults and the readers share the machine's cores. Each reader reads all from number
0, page after page, as bytes: what a reader does with a page is its own time. Then so many readers wait at once, one
receipt is numbered, and the time until each has it is taken.
"""

import argparse
import hashlib
import http.client
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
from process import STATION, environment, free_port, migrate

from bench import grow, service

KEY = "synthetic-key-of-a-reader"
_CONFIG = """
[api]
listen = "127.0.0.1:{port}"
{more}
"""
_READER = """
[[destination]]
kind = "feed"
name = "{name}"
keys = ["sha256:{hash}"]
"""


def key_of(number: int) -> str:
    """The key of one of many readers."""
    return f"{KEY}-{number}"


def readers(count: int) -> str:
    """The configuration of so many readers."""
    return "".join(
        _READER.format(name=f"reader-{number}", hash=hashlib.sha256(key_of(number).encode()).hexdigest())
        for number in range(count)
    )


@contextmanager
def api(folder: Path, url: str, *, count: int, more: str = "") -> Iterator[tuple[int, int]]:
    """`station api`; yields its port and its process id."""
    port = free_port()
    file = folder / "api.toml"
    file.write_text(_CONFIG.format(port=port, more=more) + readers(count))
    with (folder / "api.log").open("ab") as log:
        process = subprocess.Popen(
            [STATION, "--config", file, "api"], env=environment(url), cwd=folder, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/ready")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"station api did not start: see {folder / 'api.log'}")
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def read_all(port: int, number: int, limit: int) -> int:
    """Reads from the beginning to the end. Returns the number of items."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    after = count = 0
    while True:
        path = f"/api/v1/receipts?after={after}&limit={limit}"
        connection.request("GET", path, headers={"Authorization": f"Bearer {key_of(number)}"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise SystemExit(f"WRONG: {answer.status} {body[:300]!r}")
        end = re.search(rb'"next": (\d+), "more": (true|false)}$', body[-100:])
        after = int(end[1])
        count += body.count(b'{"number": ')
        if end[2] == b"false":
            return count


def rate(folder: Path, url: str, *, count: int, limit: int, more: str) -> tuple[float, float]:
    """Items a second for so many readers together, and the processor time of `station api` for each item in us."""
    with api(folder, url, count=count, more=more) as (port, pid), ProcessPoolExecutor(count) as pool:
        begun, used = time.monotonic(), service.cpu_seconds(pid)
        items = sum(pool.map(read_all, [port] * count, range(count), [limit] * count))
        seconds = time.monotonic() - begun
        used = service.cpu_seconds(pid) - used
    return items / seconds, used / items * 1e6


def waiting(folder: Path, url: str, *, count: int, more: str) -> str:
    """What so many readers that wait cost, and when each has a new receipt."""
    with psycopg.connect(url, autocommit=True) as database, api(folder, url, count=count, more=more) as (port, pid):
        [(last,)] = database.execute("SELECT max(number) FROM outgoing").fetchall()
        took: list[float] = []
        answers: list[object] = []

        def wait(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
            path = f"/api/v1/receipts?after={last}&wait=60"
            connection.request("GET", path, headers={"Authorization": f"Bearer {key_of(number)}"})
            answer = connection.getresponse()
            body = answer.read()
            took.append(time.monotonic())
            answers.append(body.count(b'{"number": ') if answer.status == 200 else body)

        threads = [threading.Thread(target=wait, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        time.sleep(5)
        used = service.cpu_seconds(pid)
        time.sleep(10)
        used = (service.cpu_seconds(pid) - used) / 10
        pids = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        memory = sum(service.resident_mib(one) for one in pids)
        begun = time.monotonic()
        database.execute(
            "INSERT INTO outgoing SELECT number + 1, id_pa, receipt_id, 2, now() FROM outgoing WHERE number = %s",
            [last],
        )
        for thread in threads:
            thread.join()
        database.execute("DELETE FROM outgoing WHERE number > %s", [last])
    if answers != [1] * count:
        raise SystemExit(f"WRONG: {Counter(answers)}")
    took = sorted(one - begun for one in took)
    return (
        f"{count} waiting readers: {used * 100:.1f} % of a core, workers {memory:.0f} MiB together; a new receipt "
        f"reaches half of them within {took[len(took) // 2]:.2f} s, all within {took[-1]:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.delivery_feed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50_000, help="receipts")
    parser.add_argument("--limit", type=int, default=1000, help="receipts of a page")
    parser.add_argument("--waiting", type=int, default=400, help="readers that wait")
    parser.add_argument("--api", default="", help="more lines for [api]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="station-bench-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)  # PostgreSQL does not run as root
        with service.postgres(folder / "postgres") as url:
            migrate(url)
            grow.grow(url, arguments.count)
            for count in (1, 2, 4):
                items, used = rate(folder, url, count=count, limit=arguments.limit, more=arguments.api)
                print(f"{count} readers: {items:.0f} items/s, {used:.0f} us of `station api` for each", flush=True)
            print(waiting(folder, url, count=arguments.waiting, more=arguments.api))


if __name__ == "__main__":
    main()
