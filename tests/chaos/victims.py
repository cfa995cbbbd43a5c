"""Whom the scenarios hurt."""

import signal
from contextlib import suppress

import psutil
from process import Server


def workers(server: Server) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(server.process.pid).children()
    return []


def kill(process: psutil.Process, number: signal.Signals = signal.SIGKILL) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)
