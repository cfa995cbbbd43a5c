"""Memory that ends in the middle of something: nothing stays held, and what cannot be mended ends its process."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import trouble
from build import ABSENT, a_request, an_envelope
from lxml import etree
from sqlalchemy import Connection, text

from station import contract, store
from station.contract import schema
from station.errors import out_of_resource


def test_a_connection_that_could_not_be_given_back(database_url, monkeypatch, connect):
    """It is dropped at the next use: else the pool has one less for ever, and SQLite may stay locked by it."""
    engine = connect(database_url, pool_size=1)

    def no_memory(_connection):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "close", no_memory)
        with pytest.raises(MemoryError), store.transaction(engine) as kept:
            kept.execute(text("SELECT 1"))
        assert engine.pool.checkedout() == 1
    with store.transaction(engine) as connection:
        connection.execute(text("DELETE FROM receipt"))
    assert engine.pool.checkedout() == 0
    kept.detach()
    kept.close()


def test_wherever_memory_ends_in_a_push(sqlite_url):
    """Nothing stays held, nothing hangs, and the next push is stored. (`make chaos` tries every place.)"""
    pytest.importorskip("_testcapi", reason="this Python came without its own test module")
    assert trouble.memory_ends(sqlite_url, step=31) > 30


def test_libxml2_without_memory(monkeypatch):
    """It reports that as it reports what is wrong with a document: nothing is said about the document."""
    request = contract.request_element(contract.parse(an_envelope(a_request(outcome=ABSENT))).root)

    class NoMemory(schema._Schema):
        error_log = [SimpleNamespace(type=etree.ErrorTypes.ERR_NO_MEMORY)]  # noqa: RUF012

    with pytest.raises(MemoryError):
        NoMemory(schema._schema_tree()).validate(request)

    def fails(*_):
        raise etree.XMLSyntaxError("unknown error", etree.ErrorTypes.ERR_NO_MEMORY, 0, 0)

    monkeypatch.setattr(etree, "fromstring", fails)
    with pytest.raises(MemoryError):
        contract.parse(b"<a/>")


def test_schema_that_cannot_be_read(monkeypatch):
    """In a thread of a server that is not ours, which reads it with its first document."""
    request = contract.request_element(contract.parse(an_envelope(a_request())).root)

    def fails():
        raise OSError("Error reading file 'paForNode.xsd': Too many open files")

    monkeypatch.setattr(schema, "_schema_tree", fails)
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(contract.read, request).exception()
    assert out_of_resource(error) == "OSError EMFILE"


def exit_code(script):
    """How a process ends that runs `script`."""
    return subprocess.run([sys.executable, "-c", script], timeout=60, check=False, capture_output=True).returncode


@pytest.mark.parametrize(
    ("age", "ends", "code"),
    [(0, "raise MemoryError", 1), (0, "fail_to_start()", 3), (2, "fail_to_start()", 1), (2, "sys.exit(0)", 0)],
)
def test_a_worker_that_ends_is_replaced(age, ends, code):
    """gunicorn logs why a worker ends. Where there was no memory for that, the error came out in the master's loop, in
    which the worker ended its siblings. And one that could not start ended the server, long after others had."""
    script = f"""
import os, sys
from gunicorn.arbiter import Arbiter
from station.http.server import _Arbiter

def fail_to_start():
    sys.exit(Arbiter.WORKER_BOOT_ERROR)

def spawn_worker(arbiter):
    pid = os.fork()
    if pid:
        return pid
    {ends}

Arbiter.spawn_worker = spawn_worker
arbiter = _Arbiter.__new__(_Arbiter)
arbiter.pid, arbiter.worker_age, arbiter._num_workers = os.getpid(), {age}, 2
try:
    pid = arbiter.spawn_worker()
except MemoryError:
    os._exit(99)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert exit_code(script) == code
