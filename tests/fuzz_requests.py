"""Coverage-guided fuzzing of the whole request path: `make fuzz`. What it finds belongs into `fuzz_cases/`.

The bytes are those of a connection. Every second input is taken for a body only, and gets a head that lets it through.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["station", "spyne"]):
    from request_path import RequestPath, in_memory, post

_path: RequestPath


def _one(data: bytes) -> None:
    if data.startswith((b"POST ", b"GET ")):
        _path.check(data)
    else:
        _path.check(post(data))


def main() -> None:
    global _path
    with tempfile.TemporaryDirectory() as folder:
        _path = in_memory(Path(folder))
        atheris.Setup(sys.argv, _one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
