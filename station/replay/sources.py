"""Documents in files, folders, archives and standard input, one after the other and with bounded memory.

What a file is, its first bytes tell and not its name: XML, base64 of anything that is read here, zip, tar, gzip, bzip2
or xz. Nothing is ever written to a place that an archive names; a zip archive that cannot be jumped about in is put
aside in a temporary file without a name. Archives come from anywhere, so each of `Limits` is held against them while
they are unpacked.
"""

import base64
import binascii
import bz2
import gzip
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self, cast

from station.errors import StationError

STDIN = "-"
_MiB = 1024 * 1024
_CHUNK = 64 * 1024
_HEAD = 512  # where a tar archive tells what it is
_XZ_MEMORY = 128 * _MiB  # `xz -9` needs 65 MiB; what an archive asks for is its maker's choice
_ZIP_DIRECTORY = 32 * _MiB  # the list of members, which zipfile holds in memory
_TAR_HEADERS = 1 * _MiB  # long names and the like between two members, which tarfile holds in memory
_IN_MEMORY = 8 * _MiB  # of an archive inside an archive; the rest goes to a temporary file
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much: for one document, and for all that one path unpacks to. Sizes in bytes."""

    document: int = _MiB
    total: int = 16 * 1024 * _MiB
    members: int = 1_000_000
    # What was unpacked to what it was packed in, once there is more than `ratio_from`. Receipts alone reach 50.
    ratio: int = 250
    ratio_from: int = 16 * _MiB
    nesting: int = 5  # archive in archive, base64 and compression each count


@dataclass(frozen=True, slots=True)
class Found:
    """One document under the name of where it was found (`folder/archive.zip!member`), or why there is none."""

    name: str
    raw: bytes = b""
    error: str | None = None


class _UnreadableError(StationError):
    """The archive cannot be read to its end."""


class _ExhaustedError(_UnreadableError):
    """The path unpacks to more than is taken from one."""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def documents(paths: Iterable[str], limits: Limits, stdin: IO[bytes]) -> Iterator[Found]:
    """The documents of all `paths` in their order, those of a folder by name; `-` is `stdin`.

    What cannot be read is one `Found` with an error, and the rest goes on.
    """
    for path in paths:
        if path == STDIN:
            yield from _Source(limits).read(STDIN, stdin)
            continue
        pending = [Path(path)]
        while pending:
            one = pending.pop()
            named = one == Path(path)
            try:
                if not one.is_dir():
                    # What a folder holds that is no file is not opened: a pipe in it may never end.
                    if not named and one.exists() and not one.is_file():
                        yield Found(str(one), error="no regular file")
                        continue
                    with one.open("rb") as file:
                        yield from _Source(limits).read(str(one), file)
                elif one.is_symlink() and not named:
                    yield Found(str(one), error="a link to a folder: name it itself to have it read")
                else:
                    pending += sorted(one.iterdir(), reverse=True)
            except OSError as error:
                yield Found(str(one), error=f"cannot be read ({error.strerror or type(error).__name__})")


class _Stream:
    """Bytes whose beginning can be looked at before they are read, counted. `file`: where they are a file's."""

    def __init__(self, source: _Readable, file: IO[bytes] | None = None) -> None:
        self.file = file
        self.count = 0
        self._source = source
        self._head = b""

    def peek(self, size: int) -> bytes:
        while len(self._head) < size and (more := self._source.read(_CHUNK)):
            self._head += more
        return self._head[:size]

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        if not data:
            data = self._source.read(min(size, _CHUNK))
        self.count += len(data)
        return data

    def read_all(self, size: int) -> bytes:
        """Everything, but at most `size` bytes."""
        parts = []
        while size > 0 and (part := self.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class _Xz:
    """An xz stream unpacked with bounded memory, which lzma.LZMAFile cannot be told."""

    def __init__(self, packed: _Readable) -> None:
        self._packed = packed
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while not self._decompressor.eof:
            more = self._packed.read(_CHUNK) if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not more:
                raise EOFError
            if data := self._decompressor.decompress(more, size):
                return data
        return self._next_stream(size)

    def _next_stream(self, size: int) -> bytes:
        """`cat a.xz b.xz` is an xz file, and so is one with padding behind it."""
        rest = self._decompressor.unused_data.lstrip(b"\0") or self._packed.read(_CHUNK).lstrip(b"\0")
        if not rest:
            return b""
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        return self._decompressor.decompress(rest, size) or self.read(size)


class _Limited:
    """What comes out of a compression, held against the limits."""

    def __init__(self, unpacked: _Readable, packed: "_Stream | int", source: "_Source") -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._source = source
        self._count = 0

    def read(self, size: int, /) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        self._source.take(len(data))
        limits = self._source.limits
        packed = self._packed if isinstance(self._packed, int) else self._packed.count
        if self._count > limits.ratio_from and self._count > limits.ratio * packed:
            raise _UnreadableError(f"unpacks to more than {limits.ratio} times its size")
        return data


class _TarHeader(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the archive, and what stands behind it would be lost silently."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the proper end
            raise _UnreadableError("broken or cut off: what was read before it counts") from error


class _TarInput:
    """What tarfile reads. Between two members it is given a bounded number of bytes: it holds them in memory."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self.count = 0
        self.up_to = _TAR_HEADERS

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self.count += len(data)
        if self.count > self.up_to:
            raise _UnreadableError("a tar header is longer than any")
        return data


class _ZipInput:
    """What zipfile reads: no piece of it is too long, since zipfile holds the list of members whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(_ZIP_DIRECTORY + 1 if size < 0 or size > _ZIP_DIRECTORY else size)
        if len(data) > _ZIP_DIRECTORY:
            raise _UnreadableError("holds too many members: split it, or use tar")
        return data


class _Source:
    """What one path unpacks to."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._total = 0
        self._members = 0

    def take(self, size: int) -> None:
        self._total += size
        if self._total > self.limits.total:
            raise _ExhaustedError(f"unpacks to more than {self.limits.total} bytes: split it")

    def _member(self) -> None:
        self._members += 1
        if self._members > self.limits.members:
            raise _ExhaustedError(f"holds more than {self.limits.members} members: split it")

    def read(self, name: str, file: IO[bytes]) -> Iterator[Found]:
        """The documents of one file."""
        try:
            yield from self._content(name, _Stream(file, file), 0)
        except _ExhaustedError as error:
            yield Found(name, error=str(error))

    def _content(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        """The documents in `stream`, whatever it is. One that cannot be read is an error in their place."""
        try:
            yield from self._unpack(name, stream, depth)
        except _ExhaustedError:
            raise
        except _UnreadableError as error:
            yield Found(name, error=str(error))
        except Exception as error:
            # The libraries raise what they like for what is broken: RuntimeError, EOFError, struct.error, ...
            words = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            yield Found(name, error=f"cannot be read to its end ({words})")

    def _unpack(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        head = stream.peek(_HEAD)
        packed = head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"))
        tar = head[257:262] == b"ustar"
        if (packed or tar) and depth >= self.limits.nesting:
            raise _UnreadableError(f"archives are nested deeper than {self.limits.nesting} levels")
        if head.startswith(b"PK"):
            yield from self._zip(name, stream, depth + 1)
        elif tar:
            yield from self._tar(name, stream, depth + 1)
        elif packed:
            yield from self._content(name, _Stream(_Limited(_decompressed(head, stream), stream, self)), depth + 1)
        else:
            yield from self._document(name, stream, depth)

    def _zip(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        with self._seekable(stream) as file, zipfile.ZipFile(_ZipInput(file)) as archive:
            for member in archive.infolist():
                self._member()
                inside = f"{name}!{member.filename}"
                if member.is_dir():
                    continue
                if member.flag_bits & 1:
                    yield Found(inside, error="encrypted")
                elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # zipfile unpacks the others without a bound on memory.
                    yield Found(inside, error="packed in a way that is not read: pack it with deflate")
                else:
                    with archive.open(member) as content:
                        limited = _Limited(content, max(member.compress_size, 1), self)
                        yield from self._content(inside, _Stream(limited), depth)

    @contextmanager
    def _seekable(self, stream: _Stream) -> Iterator[IO[bytes]]:
        """The whole stream as a file to jump about in: a zip archive's list of members stands at its end."""
        if stream.file is not None and stream.file.seekable():
            stream.file.seek(0)
            yield stream.file
            return
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
            while part := stream.read(_CHUNK):
                self.take(len(part))
                file.write(part)
            file.seek(0)
            yield file

    def _tar(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        given = _TarInput(stream)
        with tarfile.open(fileobj=cast("IO[bytes]", given), mode="r|", tarinfo=_TarHeader) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                self._member()
                inside = f"{name}!{member.name}"
                given.up_to = archive.offset + _TAR_HEADERS
                if member.isfile() and not member.issparse():
                    content = archive.extractfile(member)
                    if content is not None:
                        yield from self._content(inside, _Stream(content), depth)
                elif not member.isdir():
                    yield Found(inside, error="no regular file")

    def _document(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        limit = self.limits.document
        raw = stream.read_all(2 * limit + _CHUNK)  # base64 with its line ends is a third longer
        if _is_xml(raw[:_HEAD]):
            long = len(raw) > limit
            yield Found(name, error=f"longer than {limit} bytes (server.max_body)") if long else Found(name, raw)
            return
        if len(raw) >= 2 * limit + _CHUNK:
            yield Found(name, error=f"longer than {limit} bytes (server.max_body)")
            return
        text = b"".join(raw.removeprefix(b"\xef\xbb\xbf").split())
        if not raw.strip():
            yield Found(name, error="empty")
        elif depth >= self.limits.nesting or not _BASE64.fullmatch(text):
            yield Found(name, error="neither XML nor an archive nor base64 of one")
        else:
            text = text.rstrip(b"=").translate(_URL_SAFE)
            try:
                decoded = base64.b64decode(text + b"=" * (-len(text) % 4))
            except binascii.Error:
                yield Found(name, error="neither XML nor an archive nor base64 of one")
                return
            yield from self._content(name, _Stream(io.BytesIO(decoded)), depth + 1)


def _decompressed(head: bytes, packed: _Stream) -> _Readable:
    file = cast("IO[bytes]", packed)  # read is all they need
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if head.startswith(b"BZh"):
        return bz2.BZ2File(file)
    return _Xz(packed)


def _is_xml(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):  # UTF-16
        return True
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
