"""Documents in files, folders, archives and standard input, one after the other and with bounded memory.

A file's first bytes tell its form, not its name: XML, zip, tar, gzip, bzip2, xz, or base64 of any of these.
"""

import base64
import binascii
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from station.replay.archives import tar_members, zip_members
from station.replay.unpack import CHUNK, Budget, ExhaustedError, Stream, UnpackLimits, UnreadableError, decompressed

STDIN = "-"
_HEAD = 512  # enough for a tar archive, which is told by bytes 257 to 262
_BOM = b"\xef\xbb\xbf"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_NO_DOCUMENT = "not XML, not an archive, and not base64 of either"


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One document under the name of its place (`folder/archive.zip!member`), or why there is none."""

    name: str
    raw: bytes = b""
    error: str | None = None


def documents(paths: Iterable[str], limits: UnpackLimits, stdin: IO[bytes]) -> Iterator[SourceDocument]:
    """Yield the documents of all `paths` in their order, those of a folder by name; `-` is `stdin`.

    A file that cannot be read is one `SourceDocument` with an error, and the others are read.
    """
    for path in paths:
        if path == STDIN:
            yield from _file(STDIN, stdin, limits)
            continue
        pending = [Path(path)]
        while pending:
            entry = pending.pop()
            named = entry == Path(path)
            try:
                if entry.is_dir():
                    if entry.is_symlink() and not named:
                        reason = "a link to a folder: name the folder itself to have it read"
                        yield SourceDocument(str(entry), error=reason)
                    else:
                        pending += sorted(entry.iterdir(), reverse=True)
                elif not named and entry.exists() and not entry.is_file():
                    # Not opened: a pipe in a folder may never end.
                    yield SourceDocument(str(entry), error="not a regular file")
                else:
                    with entry.open("rb") as file:
                        yield from _file(str(entry), file, limits)
            except OSError as error:
                yield SourceDocument(str(entry), error=f"cannot be read ({error.strerror or 'unknown error'})")


def _file(name: str, file: IO[bytes], limits: UnpackLimits) -> Iterator[SourceDocument]:
    stream = Stream(file, file)
    try:
        yield from _content(name, stream, 0, Budget(limits, stream))
    except ExhaustedError as error:
        yield SourceDocument(name, error=str(error))


def _content(name: str, stream: Stream, depth: int, budget: Budget) -> Iterator[SourceDocument]:
    """Yield the documents in `stream`, in whatever form; one that cannot be read is an error in its place."""
    try:
        yield from _unpack(name, stream, depth, budget)
    except ExhaustedError:
        raise
    except UnreadableError as error:
        yield SourceDocument(name, error=str(error))
    except Exception as error:  # the libraries raise RuntimeError, struct.error and others for broken archives
        yield SourceDocument(name, error=_reason(error))


def _reason(error: Exception) -> str:
    match error:
        case MemoryError():
            return "cannot be read (not enough memory)"
        case OSError(strerror=str(strerror)):  # of the file itself, or of a temporary one
            return f"cannot be read ({strerror})"
        case EOFError() | tarfile.ReadError():
            return "damaged or truncated: it ends too early"
        case zipfile.BadZipFile():
            return "damaged or truncated: not a complete zip archive, or a checksum does not match"
        case lzma.LZMAError():
            return "damaged or truncated: its xz data is invalid, or needs more memory than is allowed"
        case OSError() | zlib.error():  # bz2 raises an OSError without an errno
            return "damaged or truncated: its compressed data is invalid"
    return "damaged or truncated: its structure is invalid"


def _unpack(name: str, stream: Stream, depth: int, budget: Budget) -> Iterator[SourceDocument]:
    head = stream.peek(_HEAD)
    members: Iterator[tuple[str | None, Stream | str]]
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        members = zip_members(stream, budget)
    elif head[257:262] == b"ustar":
        members = tar_members(stream, budget)
    elif unpacked := decompressed(stream, head, budget):
        members = iter([(None, unpacked)])
    else:
        yield from _document(name, stream, depth, budget)
        return
    if depth >= budget.limits.nesting:
        raise UnreadableError(f"archives are nested deeper than {budget.limits.nesting} levels")
    for member, content in members:
        place = name if member is None else f"{name}!{member}"
        if isinstance(content, str):
            yield SourceDocument(place, error=content)
        else:
            yield from _content(place, content, depth + 1, budget)


def _document(name: str, stream: Stream, depth: int, budget: Budget) -> Iterator[SourceDocument]:
    limit = budget.limits.document
    read = 2 * limit + CHUNK  # base64 with its line ends is a third longer
    raw = stream.read_all(read)
    if _is_xml(raw[:_HEAD]) and len(raw) <= limit:
        yield SourceDocument(name, raw)
        return
    if _is_xml(raw[:_HEAD]) or len(raw) >= read:
        yield SourceDocument(name, error=f"longer than {limit} bytes (server.max_body)")
        return
    text = b"".join(raw.removeprefix(_BOM).split()).translate(_URL_SAFE)
    digits = text.rstrip(b"=")
    if not raw.strip():
        yield SourceDocument(name, error="empty")
        return
    try:
        if depth >= budget.limits.nesting or not digits or len(text) - len(digits) > 2:
            raise binascii.Error
        decoded = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        yield SourceDocument(name, error=_NO_DOCUMENT)
        return
    yield from _content(name, Stream(io.BytesIO(decoded)), depth + 1, budget)


def _is_xml(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):  # UTF-16
        return True
    return head.removeprefix(_BOM).lstrip().startswith(b"<")
