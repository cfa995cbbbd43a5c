"""Documents in files, folders, archives and standard input, one after the other and with bounded memory.

What a file is, its first bytes tell and not its name: XML, base64 of anything that is read here, zip, tar, gzip, bzip2
or xz. Nothing is ever written to a place that an archive names; a zip archive that cannot be jumped about in is put
aside in a temporary file without a name. Archives come from anywhere, so each of `Limits` is held against them while
they are unpacked, and what costs time is counted. No size that an archive names is believed.
"""

import base64
import binascii
import bz2
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Protocol, Self, cast

from station.errors import StationError

STDIN = "-"
_MiB = 1024 * 1024
_CHUNK = 64 * 1024
_HEAD = 512  # where a tar archive tells what it is
_XZ_MEMORY = 128 * _MiB  # `xz -9` needs 65 MiB; what an archive asks for is its maker's choice
_ZIP_DIRECTORY = 32 * _MiB  # the list of members, which zipfile holds in memory
_TAR_HEADERS = 64 * 1024  # long names and the like between two members, which tarfile holds in memory
_TAR_GLOBALS = 100  # what global headers say, which tarfile copies for each member
_IN_MEMORY = 8 * _MiB  # of an archive inside an archive; the rest goes to a temporary file
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ZIP_HEADER = 30  # bytes before a member's name, at least
# What takes as long as to unpack so many bytes: a member, and each byte of PAX records.
_MEMBER_WORK = 4096
_PAX_WORK = 32
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) [^=]+=")
_MANY_DIGITS = re.compile(rb"[0-9]{65}")
_BROKEN = "damaged or truncated: items read before this point count"


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much: for one document, and for all that one path unpacks to. Sizes in bytes."""

    document: int = _MiB
    total: int = 16 * 1024 * _MiB
    members: int = 1_000_000
    # What was unpacked to what it was packed in, once there is more than `ratio_from`. Receipts reach 160 (xz).
    ratio: int = 250
    ratio_from: int = 16 * _MiB
    # A path's work to its size, once there is more than `work_from`: what all its archives unpack to, and what members
    # cost. Receipts reach 720.
    work_ratio: int = 1000
    work_from: int = 64 * _MiB
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
                        yield Found(str(one), error="not a regular file")
                        continue
                    with one.open("rb") as file:
                        yield from _Source(limits).read(str(one), file)
                elif one.is_symlink() and not named:
                    yield Found(str(one), error="a link to a folder: name the folder itself to have it read")
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


class _Gzip:
    """zlib's decompressor with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


class _Unpacked:
    """gzip, bzip2 or xz unpacked with bounded memory and work.

    The library's own files read a gzip header byte by byte and as many empty streams as there are, and lzma's cannot be
    told how much memory it may take.
    """

    def __init__(self, packed: _Readable, new: Callable[[], Any], count_stream: Callable[[], None]) -> None:
        self._packed = packed
        self._new = new
        self._count_stream = count_stream
        self._decompressor = new()

    def read(self, size: int, /) -> bytes:
        while True:
            more = b""
            if self._decompressor.eof:
                # `cat a.gz b.gz` is a gzip file, and so is one with padding behind it.
                more = self._decompressor.unused_data
                while not (more := more.lstrip(b"\0")):
                    if not (more := self._packed.read(_CHUNK)):
                        return b""
                self._count_stream()
                self._decompressor = self._new()
            elif self._decompressor.needs_input and not (more := self._packed.read(_CHUNK)):
                raise EOFError
            if data := self._decompressor.decompress(more, size):
                return bytes(data)


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
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the proper end
            raise _UnreadableError(_BROKEN) from error
        if header.size < 0:
            raise _UnreadableError(_BROKEN)
        return header

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """What tarfile has subclasses override: reads what follows the header's first block."""
        cast("_TarInput", archive.fileobj).pax_follows = self.type in _PAX_TYPES
        return super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed


class _TarInput:
    """What tarfile reads, forward only. A size that a header names is skipped as far as there are bytes.

    While `in_header`, between two members, tarfile is given a bounded number of bytes: it holds them in memory.
    """

    def __init__(self, stream: _Stream, work: Callable[[int], None]) -> None:
        self.in_header = True
        self.pax_follows = False
        self._stream = stream
        self._work = work
        self._at = 0
        self._room = _TAR_HEADERS

    def next(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """The next member's header."""
        self.in_header, self._room = True, _TAR_HEADERS
        member = archive.next()
        self.in_header = False
        return member

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise _UnreadableError(_BROKEN)
        while self._at < position and (skipped := self._stream.read(position - self._at)):
            self._at += len(skipped)
        return self._at

    def read(self, size: int, /) -> bytes:
        if self.in_header:
            self._room -= size
            if self._room < 0:
                raise _UnreadableError("a tar header is too long")
        data = self._stream.read_all(size)
        self._at += len(data)
        if self.pax_follows:
            self.pax_follows = False
            self._work(_PAX_WORK * len(data))
            _check_pax(data)
        return data


def _check_pax(data: bytes) -> None:
    """Raises `_UnreadableError` unless `data` is PAX records, each as long as it says and without endless digits.

    tarfile takes time and memory that grow with the square of such a header (CVE-2024-6232, until Python 3.11.10 and
    3.12.6), and with records that overlap.
    """
    at = 0
    while at < len(data) and data[at]:
        record = _PAX_RECORD.match(data, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise _UnreadableError(_BROKEN)
        at = end
    if _MANY_DIGITS.search(data):
        raise _UnreadableError("a tar header holds a number that is too long")


class _ZipInput:
    """What zipfile reads: no piece of it is too long, since zipfile holds the list of members whole."""

    def __init__(self, file: IO[bytes], work: Callable[[int], None]) -> None:
        self._file = file
        self._work = work
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(_ZIP_DIRECTORY + 1 if size < 0 or size > _ZIP_DIRECTORY else size)
        if len(data) > _ZIP_DIRECTORY:
            raise _UnreadableError("holds too many members: split it, or use tar")
        self._work(len(data))
        return data


class _Source:
    """What one path unpacks to."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._total = 0
        self._members = 0
        self._work = 0
        self._path: _Stream | None = None  # its bytes, as they are read

    def take(self, size: int) -> None:
        """Counts bytes that were unpacked."""
        self._total += size
        if self._total > self.limits.total:
            raise _ExhaustedError(f"unpacks to more than {self.limits.total} bytes: split it")
        self.work(size)

    def work(self, size: int) -> None:
        """Counts what takes as long as to unpack so many bytes."""
        self._work += size
        packed = self._path.count if self._path else 0
        if self._work > self.limits.work_from and self._work > self.limits.work_ratio * packed:
            raise _ExhaustedError(f"takes more work than {self.limits.work_ratio} times its size: unpack it first")

    def member(self) -> None:
        """Counts a member of an archive, or a stream of several in one compressed file."""
        self._members += 1
        if self._members > self.limits.members:
            raise _ExhaustedError(f"holds more than {self.limits.members} members: split it")
        self.work(_MEMBER_WORK)

    def read(self, name: str, file: IO[bytes]) -> Iterator[Found]:
        """The documents of one file."""
        self._path = _Stream(file, file)
        try:
            yield from self._content(name, self._path, 0)
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
            yield Found(name, error=f"damaged or truncated ({words})")

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
            unpacked = _Unpacked(stream, _decompressor(head), self.member)
            yield from self._content(name, _Stream(_Limited(unpacked, stream, self)), depth + 1)
        else:
            yield from self._document(name, stream, depth)

    def _zip(self, name: str, stream: _Stream, depth: int) -> Iterator[Found]:
        with self._seekable(stream) as file, zipfile.ZipFile(_ZipInput(file, self.work)) as archive:
            members = archive.infolist()
            in_place = sorted(members, key=lambda member: member.header_offset)
            for one, behind in pairwise(in_place):
                if one.header_offset + _ZIP_HEADER + one.compress_size > behind.header_offset:
                    raise _UnreadableError("its members overlap")
            for member in members:
                self.member()
                inside = f"{name}!{member.filename}"
                if member.is_dir():
                    continue
                if member.flag_bits & 1:
                    yield Found(inside, error="encrypted")
                elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    # zipfile unpacks the others without a bound on memory.
                    yield Found(inside, error="unsupported compression: use deflate")
                else:
                    with archive.open(member) as content:
                        limited = _Limited(content, max(member.compress_size, 1), self)
                        yield from self._content(inside, _Stream(limited), depth)

    @contextmanager
    def _seekable(self, stream: _Stream) -> Iterator[IO[bytes]]:
        """The whole stream as a file to jump about in: a zip archive's list of members stands at its end."""
        if stream.file is not None and stream.file.seekable():
            stream.count = stream.file.seek(0, io.SEEK_END)
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
        given = _TarInput(stream, self.work)
        with tarfile.TarFile(fileobj=cast("IO[bytes]", given), tarinfo=_TarHeader) as archive:
            while (member := given.next(archive)) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                self.member()
                inside = f"{name}!{member.name}"
                if member.size < 0 or len(archive.pax_headers) > _TAR_GLOBALS:
                    raise _UnreadableError(_BROKEN)
                if member.isfile() and not member.issparse():
                    content = archive.extractfile(member)
                    if content is not None:
                        yield from self._content(inside, _Stream(content), depth)
                elif not member.isdir():
                    yield Found(inside, error="not a regular file")

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
            yield Found(name, error="not XML, not an archive, and not base64 of either")
        else:
            text = text.rstrip(b"=").translate(_URL_SAFE)
            try:
                decoded = base64.b64decode(text + b"=" * (-len(text) % 4))
            except binascii.Error:
                yield Found(name, error="not XML, not an archive, and not base64 of either")
                return
            yield from self._content(name, _Stream(io.BytesIO(decoded)), depth + 1)


def _decompressor(head: bytes) -> Callable[[], Any]:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    return partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _is_xml(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"<\0", b"\0<")):  # UTF-16
        return True
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<")
