"""Where a request ends: the same place for us and for gunicorn's parser, however the bytes arrive."""

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser, errors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from smuggling import POST, SMUGGLED, SMUGGLING

from station.framing import DRAIN, MAX_HEAD, Incoming

MAX_BODY = 1000
CONFIG = Config()


def pieces(data, *, cut=65536, max_body=MAX_BODY):
    """What is handed over when `data` arrives in parts of `cut` bytes, up to the connection's last."""
    incoming = Incoming(max_body)
    found = []
    for at in range(0, len(data), cut):
        incoming.feed(data[at : at + cut])
        while piece := incoming.take():
            found.append(piece)
            if piece.last:
                return found, incoming
        if incoming.too_long:
            break
    return found, incoming


def gunicorn_reads(data):
    """Target and body of each request that gunicorn's parser finds in `data`, until it refuses one."""
    found = []
    parser = RequestParser(CONFIG, iter([data]), ("127.0.0.1", 1))
    try:
        for request in parser:
            found.append((request.uri, request.body.read()))
    except (errors.ParseException, errors.NoMoreData, StopIteration):
        pass
    return found


WHOLE = {
    "nothing": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "length": POST + b"Content-Length: 5\r\n\r\nhello",
    "length 0": POST + b"Content-Length: 0\r\n\r\n",
    "chunks": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "extensions and trailers": POST
    + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;x\r\nA: 1\r\nB: 2\r\n\r\n",
    "what looks like the end": POST + b"Transfer-Encoding: chunked\r\n\r\n7\r\n0\r\n\r\nxx\r\n0\r\n\r\n",
    "empty line first": b"\r\n" + POST + b"Content-Length: 2\r\n\r\nhi",
}


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 65536])
@pytest.mark.parametrize("name", WHOLE)
def test_whole(name, cut):
    """A request is handed over when its last byte is there, and not before; so are several behind each other."""
    data = WHOLE[name]
    found, incoming = pieces(data * 3, cut=cut)
    assert [piece.last for piece in found] == [False] * 3
    assert b"".join(piece.data for piece in found) == data * 3
    assert not incoming.begun
    assert pieces(data[:-1], cut=cut)[0] == []


def served(data, cut):
    """The requests that the worker would serve: it closes where gunicorn refuses, and where we saw something odd."""
    found = []
    for piece in pieces(data, cut=cut)[0]:
        parser = RequestParser(CONFIG, iter([piece.data]), ("127.0.0.1", 1))
        try:
            request = next(parser)
            found.append((request.uri, request.body.read()))
            if not parser.finish_body() or parser.unreader.buf.getvalue():
                break
        except (errors.ParseException, errors.NoMoreData, StopIteration):
            break
        if piece.last or request.should_close():
            break
    return found


@pytest.mark.parametrize("name", SMUGGLING)
@pytest.mark.parametrize("cut", [1, 65536])
def test_no_request_hides_in_another(name, cut):
    """None of them is served, and the connection ends with them: what follows is never taken for a request."""
    assert served(SMUGGLED + SMUGGLING[name] + SMUGGLED, cut) == [("/hidden", b"")]


LINES = st.sampled_from([
    b"Content-Length: 5", b"Content-Length: 0", b"Content-Length: 7 ", b"content-length:5", b"Content-Length : 5",
    b"Transfer-Encoding: chunked", b"transfer-encoding:\tCHUNKED", b"Transfer-Encoding: gzip", b" chunked", b"X: y",
    b"Transfer_Encoding: chunked", b"Content_Length: 3", b"Expect: 100-continue", b"Connection: keep-alive", b"",
    b"X: a\nTransfer-Encoding: chunked", b"\0", b"Host: b",
])  # fmt: skip
BODIES = st.sampled_from([
    b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;x=\"\r\n\"\r\nhello\r\n", b"00\r\n", b"\r\n", b"a", SMUGGLED,
    b"0\r\nX: y\r\n\r\n", b"1\r\n\n\r\n",
])  # fmt: skip
MESSAGES = st.builds(
    lambda lines, bodies: b"\r\n".join([b"POST / HTTP/1.1", *lines, b"", b"".join(bodies)]),
    st.lists(LINES, max_size=4), st.lists(BODIES, max_size=4),
)  # fmt: skip


def test_absurd_length():
    """A length that nobody can send ends the connection with the request, whose body nobody waits for."""
    data = POST + b"Content-Length: 99999999999999999999999\r\n\r\n" + SMUGGLED
    assert served(data, 65536) == [("/", b"")]


@settings(max_examples=1000)
@given(st.lists(MESSAGES, min_size=1, max_size=3).map(b"".join), st.integers(1, 40))
@example(b"\r\n\r\n", 1)
@example(b"\r\n\r\n" + SMUGGLED, 1)
@example(b"\r\n" + SMUGGLED, 1)
def test_agrees_with_gunicorn(data, cut):
    """Whatever arrives: what is served is what gunicorn alone would have read, or less of it."""
    wanted = gunicorn_reads(data)
    ours = served(data, cut)
    assert ours == wanted[: len(ours)]


@settings(max_examples=500)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_rubbish(data, cut):
    """Whatever arrives, nothing breaks, and nothing is kept beyond what is waited for."""
    found, incoming = pieces(data, cut=cut)
    assert sum(len(piece.data) for piece in found) + len(incoming) <= len(data)


def test_head_is_bounded():
    """A head that does not end is not kept for ever."""
    _, incoming = pieces(POST + b"X: " + b"y" * 10 * MAX_HEAD, cut=4096)
    assert incoming.too_long
    assert len(incoming) <= MAX_HEAD + 2 * 4096


@pytest.mark.parametrize("kind", ["length", "one chunk", "many chunks", "tiny chunks", "trailers"])
def test_body_is_bounded(kind):
    """A body that is too large is not kept, and after so many bytes nobody waits for its end."""
    incoming = Incoming(MAX_BODY)
    head = {"length": b"Content-Length: 9999999999\r\n\r\n"}.get(kind, b"Transfer-Encoding: chunked\r\n\r\n")
    part = {
        "length": b"x" * 65536,
        "one chunk": b"x" * 65536,
        "many chunks": b"1000\r\n" + b"x" * 4096 + b"\r\n",
        "tiny chunks": b"1\r\nx\r\n" * 1000,
        "trailers": b"X: " + b"y" * 500 + b"\r\n",
    }[kind]
    incoming.feed(POST + head + {"one chunk": b"fffffff\r\n", "trailers": b"0\r\n"}.get(kind, b""))
    fed = 0
    piece = incoming.take()
    while piece is None:
        incoming.feed(part)
        fed += len(part)
        piece = incoming.take()
        assert len(incoming) <= 4 * (MAX_BODY + MAX_HEAD) + len(part)
        assert fed < 3 * DRAIN, "nobody should wait that long"
    assert piece.last
    assert len(piece.data) <= 4 * (MAX_BODY + MAX_HEAD) + len(part)


def test_slow_bytes_cost_little():
    """A large request that arrives byte by byte is not searched from its beginning each time."""
    data = (
        POST + b"X: " + b"y" * 30_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 3_000 + b"0\r\n\r\n"
    )
    found, _ = pieces(data, cut=1, max_body=100_000)
    assert [piece.data for piece in found] == [data]
