"""The members of zip and tar archives. No size that an archive names is believed; nothing is written where it names."""

import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import IO, Any, Self, cast

from station.replay.unpack import CHUNK, Bounded, Budget, Stream, UnreadableError

_MiB = 1024 * 1024
_BROKEN = "damaged or truncated: items read before this point count"
_ZIP_DIRECTORY_MAX = 32 * _MiB  # the list of members, which zipfile holds in memory
_ZIP_HEADER = 30  # bytes before a member's name, at least
_SPOOL_IN_MEMORY = 8 * _MiB  # of a zip archive inside an archive; the rest goes to a temporary file without a name
_TAR_HEADERS_MAX = 64 * 1024  # long names and the like between two members, which tarfile holds in memory
_TAR_GLOBALS_MAX = 100  # entries of global headers, which tarfile copies for each member
_PAX_WORK = 32  # each byte of PAX records takes as long as to unpack this many
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_PAX_RECORD = re.compile(rb"([1-9][0-9]{0,6}) [^=]+=")
_MANY_DIGITS = re.compile(rb"[0-9]{65}")

# --- zip --------------------------------------------------------------------------------------------------------------


class _ZipInput:
    """The file that zipfile reads, in pieces of bounded length: zipfile holds the list of members whole."""

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(_ZIP_DIRECTORY_MAX + 1 if size < 0 or size > _ZIP_DIRECTORY_MAX else size)
        if len(data) > _ZIP_DIRECTORY_MAX:
            raise UnreadableError("holds too many members: split it, or use tar")
        self._budget.work(len(data))
        return data


@contextmanager
def _seekable(stream: Stream, budget: Budget) -> Iterator[IO[bytes]]:
    """Give the whole stream as a seekable file: a zip archive's list of members stands at its end."""
    if stream.file is not None and stream.file.seekable():
        stream.count = stream.file.seek(0, io.SEEK_END)
        stream.file.seek(0)
        yield stream.file
        return
    with tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY) as file:
        while part := stream.read(CHUNK):
            budget.unpacked(len(part))
            file.write(part)
        file.seek(0)
        yield file


def zip_members(stream: Stream, budget: Budget) -> Iterator[tuple[str, Stream | str]]:
    """Yield each file of a zip archive: its name, and its content or why there is none."""
    with _seekable(stream, budget) as file, zipfile.ZipFile(_ZipInput(file, budget)) as archive:
        members = archive.infolist()
        for member, behind in pairwise(sorted(members, key=lambda member: member.header_offset)):
            if member.header_offset + _ZIP_HEADER + member.compress_size > behind.header_offset:
                raise UnreadableError("its members overlap")
        for member in members:
            budget.member()
            if member.is_dir():
                continue
            if member.flag_bits & 1:
                yield member.filename, "encrypted"
            elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # zipfile unpacks the others without a bound on memory.
                yield member.filename, "unsupported compression: use deflate"
            else:
                with archive.open(member) as content:
                    yield member.filename, Stream(Bounded(content, max(member.compress_size, 1), budget))


# --- tar --------------------------------------------------------------------------------------------------------------


class _TarHeader(tarfile.TarInfo):
    """A header, where a broken one is an error: tarfile takes it for the end, and would lose what stands behind it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the proper end
            raise UnreadableError(_BROKEN) from error
        if header.size < 0:
            raise UnreadableError(_BROKEN)
        return header

    def _proc_member(self, archive: tarfile.TarFile) -> Any:
        """Read the blocks that follow the header's first one; tarfile means this method to be overridden."""
        cast("_TarInput", archive.fileobj).pax_follows = self.type in _PAX_TYPES
        return super()._proc_member(archive)  # type: ignore[misc]  # not in typeshed


class _TarInput:
    """The file that tarfile reads, forward only. A size that a header names is skipped as far as there are bytes.

    While `in_header`, between two members, tarfile is given a bounded number of bytes: it holds them in memory.
    """

    def __init__(self, stream: Stream, budget: Budget) -> None:
        self.in_header = True
        self.pax_follows = False
        self._stream = stream
        self._budget = budget
        self._at = 0
        self._room = _TAR_HEADERS_MAX

    def next(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        """Return the next member's header."""
        self.in_header, self._room = True, _TAR_HEADERS_MAX
        member = archive.next()
        self.in_header = False
        return member

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> int:
        if position < self._at:
            raise UnreadableError(_BROKEN)
        while self._at < position and (skipped := self._stream.read(position - self._at)):
            self._at += len(skipped)
        return self._at

    def read(self, size: int, /) -> bytes:
        if self.in_header:
            self._room -= size
            if self._room < 0:
                raise UnreadableError("a tar header is too long")
        data = self._stream.read_all(size)
        self._at += len(data)
        if self.pax_follows:
            self.pax_follows = False
            self._budget.work(_PAX_WORK * len(data))
            _check_pax(data)
        return data


def _check_pax(data: bytes) -> None:
    """Raise `UnreadableError` unless `data` is PAX records, each as long as it says and without endless digits.

    tarfile takes time and memory that grow with the square of such a header (CVE-2024-6232, until Python 3.11.10 and
    3.12.6), and with records that overlap.
    """
    at = 0
    while at < len(data) and data[at]:
        record = _PAX_RECORD.match(data, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(data) or data[end - 1] != ord("\n"):
            raise UnreadableError(_BROKEN)
        at = end
    if _MANY_DIGITS.search(data):
        raise UnreadableError("a tar header holds a number that is too long")


def tar_members(stream: Stream, budget: Budget) -> Iterator[tuple[str, Stream | str]]:
    """Yield each file of a tar archive: its name, and its content or why there is none."""
    source = _TarInput(stream, budget)
    with tarfile.TarFile(fileobj=cast("IO[bytes]", source), tarinfo=_TarHeader) as archive:
        while (member := source.next(archive)) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            budget.member()
            if member.size < 0 or len(archive.pax_headers) > _TAR_GLOBALS_MAX:
                raise UnreadableError(_BROKEN)
            content = archive.extractfile(member) if member.isfile() and not member.issparse() else None
            if content is not None:
                yield member.name, Stream(content)
            elif not member.isdir():
                yield member.name, "not a regular file"
