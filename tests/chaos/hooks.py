"""A gunicorn configuration that lets a scenario change the worker's world, by files in the current folder.

`clock`: seconds by which the worker's clock is wrong. `dns`: names take twenty seconds and are not found.
"""

import pathlib
import socket
import sys
import time
from datetime import datetime, timedelta


def _shift() -> float:
    try:
        return float(pathlib.Path("clock").read_text() or 0)
    except OSError:
        return 0.0


class _OfAnyDatetime(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, datetime)


class _Clock(datetime, metaclass=_OfAnyDatetime):
    """A datetime by another clock. It makes none of its own class: a column takes a value by its class."""

    def __new__(cls, *arguments, **named):
        return datetime(*arguments, **named)  # noqa: DTZ001

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(seconds=_shift())


def post_worker_init(worker):
    real_time, real_lookup = time.time, socket.getaddrinfo
    time.time = lambda: real_time() + _shift()
    for name, module in list(sys.modules.items()):
        if name.startswith("station") and getattr(module, "datetime", None) is datetime:
            module.datetime = _Clock

    def lookup(*arguments, **named):
        if pathlib.Path("dns").exists():
            time.sleep(20)
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        return real_lookup(*arguments, **named)

    socket.getaddrinfo = lookup
