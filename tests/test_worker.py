"""What the worker's loop decides, without its loop."""

import time
import warnings
from types import SimpleNamespace

with warnings.catch_warnings():
    # Spyne imports what is deprecated, its own copy of six and cgi among them.
    warnings.simplefilter("ignore")
    from station import worker


def test_courtesy_has_an_end():
    """However many connections wait to be accepted, the worker waits for other workers a fifth of a second at most."""
    accepted, waited = [], 0.0
    loop = SimpleNamespace(
        _connections=dict.fromkeys(range(100)),
        _courtesy_left=worker._COURTESY_A_SECOND_S,
        _courteous_until=None,
        _accept=lambda: accepted.append(1),
        _listen=lambda _: None,
    )
    for _ in range(1000):
        worker.Worker._somebody_knocks(loop)
        if loop._courteous_until is not None:
            waited += max(0.0, loop._courteous_until - time.monotonic())
            loop._courteous_until = None
    assert 0.1 < waited < 0.21
    assert len(accepted) > 950
