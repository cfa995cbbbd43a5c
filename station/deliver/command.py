"""The operator's own command: run without a shell, bounded in time and in the output that is kept."""

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from station.config import environment_for_commands
from station.text import printable

_KEPT = 400  # bytes of its output, the last ones: they say why it failed
_SHOWN = 200  # characters of these
_CHUNK = 64 * 1024
_POLL_S = 0.2


def run(arguments: Sequence[str], *, timeout: float, stopping: Callable[[], bool]) -> tuple[str | None, str]:
    """Run a command. Return why it failed, or `None` for exit status 0, and the end of what it printed, on one line.

    It gets nothing on standard input, and only the environment that programs need to find their way. Where it takes
    longer than `timeout` seconds, or the station stops, it is killed with all that it started.
    """
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own, from the configuration
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            env=environment_for_commands(),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        os.close(reading)
        return f"cannot be run: {getattr(error, 'strerror', None) or error}", ""
    finally:
        os.close(writing)
    until, output = time.monotonic() + timeout, b""
    poller = select.poll()
    poller.register(reading, select.POLLIN)
    try:
        # The end of the process counts, not of its output: what it left running may hold that open.
        while process.poll() is None and time.monotonic() < until and not stopping():
            if poller.poll(_POLL_S * 1000):
                chunk = os.read(reading, _CHUNK)
                output = (output + chunk)[-_KEPT:]
                if not chunk:  # it runs on, and has closed its output
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_S)
        if poller.poll(0):
            output = (output + os.read(reading, _CHUNK))[-_KEPT:]
    finally:
        os.close(reading)
        if (status := process.poll()) is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = printable(" ".join(output.decode("utf-8", "replace").split()))[-_SHOWN:]
    if status is None:
        return ("stopped with the station" if stopping() else f"not done after {timeout:g} s, and killed"), text
    if status < 0:
        return f"ended by signal {-status}", text
    return (f"exit status {status}" if status else None), text
