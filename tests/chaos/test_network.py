"""The way between the station and PostgreSQL is bad."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from proxy import Proxy
from victims import workers

from station import store


@pytest.fixture
def network(on_postgres):
    """The proxy that the station reaches its database by, and the URL through it."""
    with Proxy([on_postgres.postgres.port]) as proxy:
        yield on_postgres, proxy, on_postgres.postgres.url(proxy.port)


@pytest.mark.parametrize("rounds", [pytest.param(3, id="3"), pytest.param(40, id="40", marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["reset", "half_closed"])
def test_connections_end(network, how, rounds):
    """Every connection is reset or half closed at a random moment, in the midst of commits too."""
    rig, proxy, url = network
    nodo = rig.nodo(rig.serve(url))
    for _ in range(rounds):
        nodo.wait_for(5)
        rig.pause(0, 0.3)
        with rig.trouble():
            proxy.drop() if how == "reset" else proxy.half_close()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["swallow", "refuse"])
def test_network_gone(network, how):
    """The network to PostgreSQL is gone: packets are swallowed, or connections refused."""
    rig, proxy, url = network
    nodo = rig.nodo(rig.serve(url), connections=40)
    for _ in range(3):
        nodo.wait_for(10)
        rig.pause(0, 0.3)
        proxy.set(how)
        if how == "refuse":
            proxy.drop()
        time.sleep(12)
        with rig.trouble():
            proxy.set("pass")
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 1.0], ids=["30%", "all"])
def test_packets_lost(on_postgres, share):
    """The kernel loses some of the packets to PostgreSQL, or all for twelve seconds: nobody is told, nothing ends."""
    rig, port = on_postgres, on_postgres.postgres.port
    rule = f"INPUT -i lo -p tcp --dport {port} -m statistic --mode random --probability {share} -j DROP".split()
    nodo = rig.nodo(rig.serve(), connections=40)
    for _ in range(3):
        nodo.wait_for(10)
        rig.pause(0, 0.3)
        if shutil.which("iptables") is None or subprocess.run(["iptables", "-A", *rule], check=False).returncode:
            pytest.skip("only root loses packets, with iptables")
        with rig.trouble():
            try:
                time.sleep(12)
            finally:
                subprocess.run(["iptables", "-D", *rule], check=True)
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    if share == 1:
        assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_slow_network(network):
    """The network is slow: packets take 150 ms, then 1.5 s, where a transaction comes to its end and it is 503."""
    rig, proxy, url = network
    nodo = rig.nodo(rig.serve(url))
    nodo.wait_for(10)
    proxy.set("pass", delay=0.15)
    nodo.wait_for(30)
    proxy.set("pass", delay=1.5)
    time.sleep(15)
    with rig.trouble():
        proxy.set("pass")
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_names_not_resolved(on_postgres):
    """Looking up the database's name takes longer than any time limit: 503 in time, and OK when it is known."""
    rig, postgres = on_postgres, on_postgres.postgres
    url = postgres.url().replace("127.0.0.1", "localhost")
    hooks = Path(__file__).parent / "hooks.py"
    server = rig.serve(url, options=("--config", str(hooks)))
    nodo = rig.nodo(server, connections=40)
    nodo.wait_for(10)
    (rig.folder / "dns").touch()
    for worker in workers(server):
        worker.kill()  # the new ones have no connections
    time.sleep(25)
    with rig.trouble():
        (rig.folder / "dns").unlink()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["http 503"] > 0
    assert "timeout" not in ledger.results()


@pytest.mark.slow
def test_lost_in_the_midst_of_statements(on_postgres):
    """The network loses the station in the midst of statements that go together: the server lets go of what they lock.

    Or whatever they locked would be answered 503 until somebody looks after the server.
    """
    if shutil.which("iptables") is None or os.getuid():
        pytest.skip("only root loses packets, with iptables")
    postgres = on_postgres.postgres
    engine = store.connect(postgres.url(), pool_size=1)
    pgconn = engine.raw_connection().dbapi_connection.pgconn
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(b"SELECT pg_advisory_xact_lock(1)", None)
    while pgconn.flush():
        pass
    with socket.socket(fileno=os.dup(pgconn.socket)) as ours:
        port = ours.getsockname()[1]
    rules = [f"INPUT -i lo -p tcp --{side} {port} -j DROP".split() for side in ("sport", "dport")]
    locked = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = {pgconn.backend_pid}"
    assert postgres.execute(locked) == [(1,)]
    for rule in rules:
        subprocess.run(["iptables", "-A", *rule], check=True)
    try:
        pgconn.finish()
        time.sleep(8)  # longer than our side tries to say farewell
    finally:
        for rule in rules:
            subprocess.run(["iptables", "-D", *rule], check=True)
    deadline = time.monotonic() + 40
    while postgres.execute(locked) != [(0,)] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert postgres.execute(locked) == [(0,)]
