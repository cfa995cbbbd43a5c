"""Pushes in which one allocation fails, each time another one: what does a push leave behind that failed there?

`python tests/memory_ends.py URL STEP`: every STEP-th allocation of a push fails in a push of its own, on SQLite. After
each nothing may be held, and the next push must be stored. None is refused. CPython's own hook lets allocations fail.
"""

import gc
import os
import sqlite3
import sys
from io import BytesIO
from wsgiref.util import setup_testing_defaults

from build import a_request, an_envelope
from sqlalchemy import text

from station import config
from station.app import Station, create_app

# A push makes some 2,500 allocations that can fail.
LAST = 3_000


def push(application: Station, fails: int = 0) -> str:
    """The status of the answer to a new receipt, "none" where there is none. `fails`: the allocation that fails."""
    import _testcapi  # not every Python has it

    raw = an_envelope(a_request())
    environ = {"PATH_INFO": "/paForNode", "REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/xml; charset=utf-8"}
    environ |= {"CONTENT_LENGTH": str(len(raw)), "wsgi.input": BytesIO(raw), "REMOTE_ADDR": "127.0.0.1"}
    setup_testing_defaults(environ)
    statuses = ["none"]
    try:
        if fails:
            _testcapi.set_nomemory(fails, fails + 1)
        list(application(environ, lambda status, _headers, *_: statuses.append(status)))
    except MemoryError:
        return "none"
    finally:
        _testcapi.remove_mem_hooks()
    return statuses[-1][:3]


def locked(file: str) -> bool:
    """Whether somebody writes to SQLite."""
    other = sqlite3.connect(file, isolation_level=None, timeout=0)
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    finally:
        other.close()  # and rolls back
    return False


def main() -> None:
    os.environ["STATION_DATABASE_URL"], step = sys.argv[1], int(sys.argv[2])
    application = create_app(config.load())
    for _ in range(20):
        assert push(application) == "200"
    gc.collect()
    gc.disable()  # what only the collector frees may be held for long
    failed = 0
    for number in range(1, LAST, step):
        failed += push(application, fails=number) != "200"
        held = (application.engine.pool.checkedout(), locked(application.engine.url.database or ""))
        next_one = push(application)
        if held != (0, False) or next_one != "200":
            raise SystemExit(f"allocation {number}: held {held}, next answer {next_one}")
    with application.engine.connect() as connection:
        if refused := connection.execute(text("SELECT fault_code, reason FROM refused")).all():
            raise SystemExit(f"kept as refused: {refused}")
    sys.stdout.write(f"{failed}\n")


if __name__ == "__main__":
    main()
