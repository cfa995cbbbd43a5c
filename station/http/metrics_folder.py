"""The folder in which the worker processes of one server share what they count (see `metrics`).

In memory where the system has a place for that: the files are mapped, and writing to a mapped file on a full disk would
end the process. A server that was killed cannot clear up; the next one does.
"""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108  (the folder in it is made by mkdtemp: nobody else's, under no known name)
_NAME = "station-metrics-"
_SETTLED_S = 60.0  # by then a server that starts has locked its folder


@contextmanager
def metrics_folder() -> Iterator[Path]:
    """A new folder, there for as long as the server runs."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    _clear_up(place)
    owner = os.getpid()
    folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=place))
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held by the workers, too: until the last of them is gone
    try:
        yield folder
    finally:
        if os.getpid() == owner:  # workers come by here when they end
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _clear_up(place: Path) -> None:
    """Removes the folders of servers that are gone."""
    for folder in place.glob(f"{_NAME}*"):
        try:
            if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < _SETTLED_S:
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
