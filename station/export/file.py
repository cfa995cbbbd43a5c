"""Files that are whole or not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


def replaceable(path: Path) -> bool:
    """Return whether a path is a file, or can become one: a pipe or a device cannot be replaced."""
    return path.is_file() or not path.exists()


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name when it is complete, replacing the old one; on any error nothing is left.

    Readable by its owner alone: exports hold personal data.
    """
    if not replaceable(path):
        with path.open("wb") as sink:
            yield sink
        return
    path = path.resolve()  # the file that a link points to, not the link
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
