"""The station's own processes are killed, stopped and restarted at random moments."""

import signal

import pytest
from process import Server
from proxy import Proxy
from victims import kill, workers

ROUNDS = [pytest.param(2, id="2"), pytest.param(50, id="50", marks=pytest.mark.slow)]


# A server that is down more than it is up: less is sent, and the 48 attempts are not over in a minute.
DOWN = {"rate": 4, "pause": 5}


def alive(server: Server, *more: Server) -> None:
    assert all(one.process.poll() is None for one in (server, *more))


@pytest.mark.parametrize("rounds", ROUNDS)
def test_worker_killed(rig, rounds):
    """SIGKILL of a worker: the master starts another one, and what was acknowledged is there."""
    server = rig.serve()
    nodo = rig.nodo(server)
    for _ in range(rounds):
        nodo.wait_for(5)
        rig.pause(0, 0.5)
        with rig.trouble():
            kill(rig.chance.choice(workers(server)))
    nodo.wait_for(20)
    alive(server)
    rig.done(nodo)


@pytest.mark.parametrize("rounds", [pytest.param(50, id="50", marks=pytest.mark.slow)])
def test_master_killed(rig, rounds):
    """SIGKILL of the master: its workers end by themselves and the one that is started again takes over."""
    server = rig.serve()
    nodo = rig.nodo(server, **DOWN)
    for _ in range(rounds):
        nodo.wait_for(20)
        rig.pause(0, 0.5)
        with rig.trouble():
            server.process.kill()
            server.process.wait()
        server.start()
    nodo.wait_for(20)
    rig.done(nodo)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_all_killed(rig, rounds):
    """SIGKILL of master and workers at once."""
    server = rig.serve()
    nodo = rig.nodo(server, **DOWN)
    for _ in range(rounds):
        nodo.wait_for(20)
        rig.pause(0, 0.5)
        with rig.trouble():
            server.kill()
        server.start()
    nodo.wait_for(20)
    rig.done(nodo)


@pytest.mark.slow
def test_worker_hangs(rig):
    """SIGSTOP of a worker that is never resumed: its requests time out and come again, the master replaces it."""
    server = rig.serve()
    nodo = rig.nodo(server, connections=40)
    nodo.wait_for(20)
    victim = rig.chance.choice(workers(server))
    with rig.trouble():
        kill(victim, signal.SIGSTOP)
        victim.wait(90)
    nodo.wait_for(20)
    alive(server)
    ledger, _ = rig.done(nodo)
    assert ledger.results()["timeout"] > 0


@pytest.mark.slow
def test_stopped_and_started(rig):
    """SIGTERM and start again: what was being answered is answered, the rest finds nobody and comes again."""
    server = rig.serve()
    nodo = rig.nodo(server)
    for _ in range(10):
        nodo.wait_for(10)
        rig.pause(0, 0.5)
        with rig.trouble():
            server.stop()
        assert server.process.returncode == 0
        server.start()
    nodo.wait_for(20)
    ledger, _ = rig.done(nodo)
    assert ledger.results().keys() <= {"OK", "KO", "left", "broken"}


@pytest.mark.parametrize("rounds", [pytest.param(1, id="1"), pytest.param(10, id="10", marks=pytest.mark.slow)])
def test_reloaded(rig, rounds):
    """The configuration is reloaded (SIGHUP): new workers take over, and no copy must be sent again for it."""
    server = rig.serve()
    nodo = rig.nodo(server, leaving=0)
    for _ in range(rounds):
        nodo.wait_for(10)
        rig.pause(0, 0.5)
        before = {one.pid for one in workers(server)}
        with rig.trouble():
            server.process.send_signal(signal.SIGHUP)
        while before & {one.pid for one in workers(server)}:
            nodo.wait_for(1)
    nodo.wait_for(20)
    alive(server)
    ledger, _ = rig.done(nodo)
    # One reload is over before there must have been a refusal.
    assert {"OK"} <= ledger.results().keys() <= {"OK", "KO"}


@pytest.mark.slow
def test_rolling_restart(rig):
    """Two servers behind a balancer, restarted in turn: there is always one that answers."""
    servers = [rig.serve(), rig.serve()]
    with Proxy([one.port for one in servers], balance=True) as balancer:
        nodo = rig.nodo(f"http://127.0.0.1:{balancer.port}/paForNode", leaving=0)
        for number in range(10):
            server = servers[number % 2]
            nodo.wait_for(10)
            rig.pause(0, 0.5)
            with rig.trouble():
                server.stop()
            nodo.wait_for(10)
            server.start()
        nodo.wait_for(20)
        ledger, _ = rig.done(nodo)
    assert ledger.results().keys() == {"OK", "KO"}
