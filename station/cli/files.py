"""Files that commands write: their format, and a file that is complete or absent."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import click

from station.export import replaceable, whole_file
from station.text import printable


def format_of(file: Path, formats: Sequence[str], chosen: str | None = None) -> str:
    """Return the format to write FILE in: `chosen`, or the ending of its name, or the first of `formats`.

    A usage error where the name ends with something other than what is written.
    """
    ending = file.suffix.lower().removeprefix(".")
    format_ = chosen or (ending if ending in formats else formats[0])
    if ending not in ("", format_) and replaceable(file):
        fitting = file.with_suffix(f".{format_}").name
        others = "" if chosen else f" (or .{', .'.join(formats[1:])} for other formats)" if formats[1:] else ""
        raise click.UsageError(
            f"{printable(file.name)}: {format_} does not match this ending: name it {printable(fitting)}{others}"
        )
    return format_


@contextmanager
def target(file: Path, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """Open FILE (- for standard output) for an export; it gets its name when it is complete."""
    if str(file) != "-" and file.is_file() and not overwrite:
        raise click.UsageError(f"{printable(file)} already exists: add --overwrite to replace it")
    with writing(file):
        if str(file) == "-":
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        else:
            with whole_file(file) as sink:
                yield sink


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a message; SIGTERM ends the command as Ctrl-C does, with nothing left."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except BrokenPipeError:  # the reader of standard output went away: see `main`
        raise
    except OSError as error:
        raise click.ClickException(f"{printable(path)} cannot be written: {error.strerror}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
