"""What the worker's loop decides, without its loop."""

import threading
import time
import warnings
from types import SimpleNamespace

import pytest
from loops import in_a_loop

from station.http.request import Request

with warnings.catch_warnings():
    # Spyne imports what is deprecated, its own copy of six and cgi among them.
    warnings.simplefilter("ignore")
    from station.http import worker


@pytest.mark.parametrize(("workers", "least", "most"), [(2, 0.1, 0.21), (1, 0.0, 0.0)])
def test_courtesy_has_an_end(workers, least, most, monkeypatch):
    """However many connections wait to be accepted, the worker waits for others a fifth of a second at most, if any."""
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: 100.0))
    accepted, waited = [], 0.0
    loop = SimpleNamespace(
        cfg=SimpleNamespace(workers=workers),
        _connections=dict.fromkeys(range(100)),
        _courtesy_left=worker._COURTESY_A_SECOND_S,
        _courteous_until=None,
        _accept=lambda: accepted.append(1),
        _listen=lambda _: None,
    )
    for _ in range(1000):
        worker.Worker._somebody_knocks(loop)
        if loop._courteous_until is not None:
            waited += loop._courteous_until - 100.0
            loop._courteous_until = None
    assert least <= waited <= most
    assert len(accepted) > 850


@pytest.mark.parametrize(("size", "in_loop"), [(10, True), (worker._ORDINARY + 1, False)])
def test_a_long_request_is_computed_elsewhere(size, in_loop):
    """It keeps those waiting no longer than others do."""
    computed = []
    connection = SimpleNamespace(health=False, incoming=b"", held=size, out=bytearray(), last=False)
    loop = SimpleNamespace(
        _answer=lambda *_: computed.append(threading.get_ident()),
        _at_work=1,
        _held=size,
        _guarded=lambda one: computed.append(one.state),
        settings=SimpleNamespace(server=SimpleNamespace(read_timeout=10)),
    )
    in_a_loop(lambda: worker.Worker._serve(loop, connection, Request(size=size), time.monotonic()))
    assert computed[1] is worker.State.SENDING
    assert (computed[0] == threading.get_ident()) is in_loop
    assert (loop._at_work, loop._held) == (0, 0)


def test_what_begins_has_a_bound():
    """However many requests are there: each that begins holds a document's tree."""
    loop = SimpleNamespace(_ready=[1], _at_work=worker._MOST_AT_WORK - 1)
    assert worker.Worker._may_begin(loop)
    loop._at_work += 1
    assert not worker.Worker._may_begin(loop)


@pytest.mark.parametrize(
    ("health", "stop", "last", "draining"),
    [(True, "before", True, True), (True, "meanwhile", False, False), (False, "meanwhile", True, False)],
)
def test_a_stop_as_an_answer_is_made(health, stop, last, draining):
    """Whoever was told "ready" can ask again on the same connection, since none is taken any more; who asks after the
    stop is told so. Everybody else's connection ends with the answer."""
    asked = []

    def application(_environ, start):
        asked.append(loop.wsgi.health.draining)
        loop.alive = False
        start("200 OK", [])
        return []

    application.health = SimpleNamespace(draining=False)
    loop = SimpleNamespace(
        alive=stop == "meanwhile",
        cfg=SimpleNamespace(is_ssl=False, keepalive=75),
        max_requests=10,
        nr=0,
        wsgi=application,
    )
    connection = SimpleNamespace(
        health=health, last=False, local=("127.0.0.1", 1), out=bytearray(), peer=("127.0.0.1", 2)
    )
    worker.Worker._answer(loop, connection, Request(method="GET", target=b"/ready"), time.monotonic())
    assert connection.last is last
    assert asked == [draining]
    assert (b"Connection: close" in connection.out) is last


@pytest.mark.parametrize("error", [BrokenPipeError, MemoryError, ValueError])
def test_an_error_ends_its_own_connection_only(error):
    """Whatever goes wrong with one connection: the loop goes on with the others."""

    def fails(_):
        raise error

    closed = []
    loop = SimpleNamespace(_go_on=fails, _close=closed.append)
    worker.Worker._guarded(loop, "connection")
    assert closed == ["connection"]
