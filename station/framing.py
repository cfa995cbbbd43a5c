"""Where a request ends in the bytes of a connection. Finds the end, and leaves what it means to gunicorn's parser.

That parser judges what is handed over and is never given more than one request. What it reads differently from here
ends the connection, so that no request can hide in another one (request smuggling). Whatever is unusual in the framing,
two lengths, a length beside chunks, bare line feeds, is handed over as it is, to be refused, and ends the connection.
"""

import re
from dataclasses import dataclass

# Room for 100 header fields, a proxy's copy of a client certificate with its chain among them.
MAX_HEAD = 64 * 1024
_MAX_CHUNK_LINE = 1024
# Each chunk costs time, however small it is: a body of some MiB in chunks of one byte would take seconds.
_MAX_CHUNKS = 16 * 1024
_MAX_OVERHEAD = 256 * 1024  # the lines of all chunks, and the trailers
# What is beyond the limit of a body is still read up to this much, so that the sender reads our answer before a reset.
DRAIN = 4 * 1024 * 1024

_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is handed over: the bytes of one request, and whether nothing after it can be understood any more."""

    data: bytes
    last: bool = False


class Incoming:
    """The bytes of one connection that were read and not yet handed over."""

    __slots__ = (
        "_body_left", "_chunk_left", "_chunked", "_dropping", "_end", "_kept", "_lines", "_max_body", "_overhead",
        "_searched", "_size", "_trailer", "buffer", "expects_continue", "too_long",
    )  # fmt: skip

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self.buffer = bytearray()
        self.too_long = False  # the head, or the line of a chunk, is longer than any that is served
        self._next()

    def _next(self) -> None:
        self._searched = 0  # how far the end of the head was looked for
        self._end = -1  # end of the head; with a body, how far the body was followed
        self._chunked = False
        self._body_left = 0  # of a body with a length
        self._chunk_left = 0  # of a chunk, with its line end
        self._trailer = False
        self._size = 0  # of the body as far as it was seen
        self._dropping = False  # the body is over the limit: what follows is not kept
        self._kept = 0  # up to here
        self._lines = 0  # of chunks and trailers
        self._overhead = 0  # their bytes
        self.expects_continue = False

    def feed(self, data: bytes) -> None:
        """Takes in what was read."""
        self.buffer += data

    def __len__(self) -> int:
        return len(self.buffer)

    @property
    def begun(self) -> bool:
        """Whether a request has begun."""
        return self._end >= 0 or bytes(self.buffer[:3]) not in (b"", b"\r", b"\r\n")

    def take(self) -> Piece | None:
        """The next request, when it is whole. `None`: more must be read first."""
        if self._end < 0:
            piece = self._read_head()
            if piece is not None or self._end < 0:
                return piece
        return self._chunks() if self._chunked else self._body()

    def _hand_over(self, end: int, *, last: bool) -> Piece:
        piece = Piece(bytes(self.buffer[:end]), last)
        if last:
            self.buffer.clear()
        else:
            del self.buffer[:end]
        self._next()
        return piece

    def _read_head(self) -> Piece | None:
        buffer = self.buffer
        # RFC 9112 section 2.2: one empty line before a request is nothing; gunicorn leaves it out.
        start = 2 if buffer[:2] == b"\r\n" else 0
        found = buffer.find(b"\r\n\r\n", max(start, self._searched - 3))
        head_ends = found if found >= 0 else len(buffer)
        if head_ends > MAX_HEAD:
            self.too_long = True
            return None
        if _BARE_LINE_FEED.search(buffer, self._searched, head_ends):
            return self._hand_over(head_ends, last=True)
        self._searched = max(0, head_ends - 1)
        if found < 0:
            return None
        lengths = []
        codings = []
        for line in bytes(buffer[start:found]).split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            match name.strip().lower():
                case b"content-length":
                    lengths.append(value.strip(b" \t"))
                case b"transfer-encoding":
                    codings.append(value.strip(b" \t").lower())
                case b"expect":
                    self.expects_continue = value.strip().lower() == b"100-continue"
        self._end = found + 4
        if codings == [b"chunked"] and not lengths:
            self._chunked = True
        elif codings or len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
            return self._hand_over(self._end, last=True)
        elif lengths:
            self._body_left = int(lengths[0])
            self._dropping = self._body_left > self._max_body
        return None

    def _body(self) -> Piece | None:
        if self._dropping:
            if self.expects_continue:  # it asked before sending, and is answered no
                return self._hand_over(self._end, last=True)
            dropped = min(len(self.buffer) - self._end, self._body_left)
            del self.buffer[self._end : self._end + dropped]
            self._body_left -= dropped
            self._size += dropped
            return self._hand_over(self._end, last=True) if not self._body_left or self._size >= DRAIN else None
        whole = self._end + self._body_left
        return self._hand_over(whole, last=False) if len(self.buffer) >= whole else None

    def _chunks(self) -> Piece | None:
        piece = self._follow_chunks()
        if piece is None and self._dropping:
            del self.buffer[self._kept : self._end]
            self._end = self._kept
        return piece

    def _follow_chunks(self) -> Piece | None:
        buffer = self.buffer
        while True:
            if self._chunk_left:
                passed = min(self._chunk_left, len(buffer) - self._end)
                self._chunk_left -= passed
                self._end += passed
                self._size += passed
                if self._size >= DRAIN + self._max_body:
                    return self._give_up()
                if self._size > 2 * self._max_body + MAX_HEAD and not self._dropping:
                    self._dropping = True
                    self._kept = self._end
                if self._chunk_left:
                    return None
            line_ends = buffer.find(b"\r\n", self._end, self._end + _MAX_CHUNK_LINE)
            if line_ends < 0:
                return self._give_up() if len(buffer) - self._end >= _MAX_CHUNK_LINE else None
            line = bytes(buffer[self._end : line_ends])
            self._end = line_ends + 2
            self._lines += 1
            self._overhead += len(line)
            if self._lines > _MAX_CHUNKS or self._overhead > _MAX_OVERHEAD:
                return self._give_up()
            if self._trailer:
                if not line:
                    return self._give_up() if self._dropping else self._hand_over(self._end, last=False)
                continue
            chunk = _CHUNK.fullmatch(line)
            if chunk is None:
                return self._give_up()
            length = int(chunk[1], 16)
            if length == 0:
                self._trailer = True
            else:
                self._chunk_left = length + 2

    def _give_up(self) -> Piece:
        return self._hand_over(self._kept if self._dropping else self._end, last=True)
