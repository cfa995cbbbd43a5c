"""Unpacking with bounded memory and work: limits, streams, and compressed files.

Archives come from anywhere, so `UnpackLimits` are held against them while they are unpacked, and the work is
counted.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Protocol

from station.errors import StationError

_MiB = 1024 * 1024
CHUNK = 64 * 1024
_XZ_MEMORY_MAX = 128 * _MiB  # `xz -9` needs 65 MiB; the archive itself says how much it needs
_MEMBER_WORK = 4096  # a member takes as long as to unpack this many bytes


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits for one document, and for everything that one path unpacks to. Sizes in bytes."""

    document: int = _MiB
    total: int = 16 * 1024 * _MiB
    members: int = 1_000_000
    # Unpacked to packed bytes of one compression, beyond `ratio_from` unpacked ones. Receipts reach 160 (xz).
    ratio: int = 250
    ratio_from: int = 16 * _MiB
    # A path's work to its size, beyond `work_from`: bytes that all its archives unpack to, and the work of members.
    # Receipts reach 720.
    work_ratio: int = 1000
    work_from: int = 64 * _MiB
    nesting: int = 5  # archive in archive, base64 and compression each count


class UnreadableError(StationError):
    """The archive cannot be read to its end."""


class ExhaustedError(UnreadableError):
    """The path unpacks to more than its limits allow."""


class Readable(Protocol):
    """The part of a file that is needed here."""

    def read(self, size: int, /) -> bytes: ...


class Stream:
    """Bytes whose beginning can be looked at before they are read, counted. `file`: if they are a whole file's."""

    def __init__(self, source: Readable, file: IO[bytes] | None = None) -> None:
        self.file = file
        self.count = 0
        self._source = source
        self._head = b""

    def peek(self, size: int) -> bytes:
        while len(self._head) < size and (more := self._source.read(CHUNK)):
            self._head += more
        return self._head[:size]

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        if not data:
            data = self._source.read(min(size, CHUNK))
        self.count += len(data)
        return data

    def read_all(self, size: int) -> bytes:
        """Return everything, but at most `size` bytes."""
        parts = []
        while size > 0 and (part := self.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


class Budget:
    """The counts of what one path unpacks to. Each method raises `ExhaustedError` beyond a limit."""

    def __init__(self, limits: UnpackLimits, path: Stream) -> None:
        self.limits = limits
        self._path = path
        self._total = 0
        self._members = 0
        self._work = 0

    def unpacked(self, size: int) -> None:
        """Count unpacked bytes."""
        self._total += size
        if self._total > self.limits.total:
            raise ExhaustedError(f"unpacks to more than {self.limits.total} bytes: split it")
        self.work(size)

    def work(self, size: int) -> None:
        """Count work that takes as long as to unpack `size` bytes."""
        self._work += size
        if self._work > self.limits.work_from and self._work > self.limits.work_ratio * self._path.count:
            raise ExhaustedError(f"takes more work than {self.limits.work_ratio} times its size: unpack it first")

    def member(self) -> None:
        """Count a member of an archive, or one of several streams in a compressed file."""
        self._members += 1
        if self._members > self.limits.members:
            raise ExhaustedError(f"holds more than {self.limits.members} members: split it")
        self.work(_MEMBER_WORK)


class Bounded:
    """The output of a decompression, held against the limits; `packed` is its input, or the input's size."""

    def __init__(self, unpacked: Readable, packed: Stream | int, budget: Budget) -> None:
        self._unpacked = unpacked
        self._packed = packed
        self._budget = budget
        self._count = 0

    def read(self, size: int, /) -> bytes:
        data = self._unpacked.read(size)
        self._count += len(data)
        self._budget.unpacked(len(data))
        limits = self._budget.limits
        packed = self._packed if isinstance(self._packed, int) else self._packed.count
        if self._count > limits.ratio_from and self._count > limits.ratio * packed:
            raise UnreadableError(f"unpacks to more than {limits.ratio} times its size")
        return data


# --- gzip, bzip2, xz --------------------------------------------------------------------------------------------------


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


# By the first bytes of a file.
_DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _Gzip,
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\0": partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_MAX),
}


class _Decompressed:
    """A decompressed stream.

    The library's own files read a gzip header byte by byte, accept any number of empty streams in a row, and cannot
    tell lzma how much memory it may take.
    """

    def __init__(self, packed: Readable, new: Callable[[], Any], count_stream: Callable[[], None]) -> None:
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
                    if not (more := self._packed.read(CHUNK)):
                        return b""
                self._count_stream()
                self._decompressor = self._new()
            elif self._decompressor.needs_input and not (more := self._packed.read(CHUNK)):
                raise EOFError
            if data := self._decompressor.decompress(more, size):
                return bytes(data)


def decompressed(stream: Stream, head: bytes, budget: Budget) -> Stream | None:
    """Return the decompressed stream, or `None` where `head`, its first bytes, is not that of a compressed file."""
    for magic, new in _DECOMPRESSORS.items():
        if head.startswith(magic):
            unpacked = _Decompressed(stream, new, budget.member)
            return Stream(Bounded(unpacked, stream, budget))
    return None
