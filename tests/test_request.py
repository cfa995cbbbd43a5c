"""Where a request ends and what it says: the same whoever reads it, however the bytes arrive.

gunicorn's own parser, which shares nothing with httptools, is the other reader.
"""

import gc
import re

import pytest
from gunicorn.config import Config
from gunicorn.http import RequestParser, errors
from hypothesis import example, given, settings
from hypothesis import strategies as st
from smuggling import POST, SMUGGLED, SMUGGLING

from station.http.request import DRAIN, MAX_HEAD, Incoming, Limits, Refusal

MAX_BODY = 1000
CONFIG = Config()


def read(data, *, cut=65536, limits=None):
    """The requests of a connection on which `data` arrives in parts of `cut` bytes, up to its last; and the rest."""
    incoming = Incoming(limits or Limits(MAX_BODY))
    found = []
    for at in range(0, len(data), cut):
        incoming.feed(data[at : at + cut])
        while request := incoming.take():
            found.append(request)
            if request.last:
                return found, incoming
    return found, incoming


def served(data, cut=65536):
    """Target and body of the requests that are served."""
    return [(one.target.decode(), one.body) for one in read(data, cut=cut)[0] if one.refusal is None]


def gunicorn_serves(data):
    """Target and body of each request that gunicorn's parser finds in `data`, until it refuses one."""
    found = []
    try:
        # Line ends before a request mean nothing. gunicorn takes one of them, and httptools takes several.
        while data := data.lstrip(b"\r\n"):
            parser = RequestParser(CONFIG, iter([data]), ("127.0.0.1", 1))
            request = next(parser)
            found.append((request.uri, request.body.read()))
            if request.should_close():
                break
            data = parser.unreader.read()
    except (errors.ParseException, errors.NoMoreData, StopIteration):
        pass
    return found


WHOLE = {
    "nothing": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    "length": (POST + b"Content-Length: 5\r\n\r\nhello", b"hello"),
    "length 0": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
    "extensions and trailers": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0;x\r\nA: 1\r\nHost: b\r\n\r\n", b"hello",
    ),
    "what looks like the end": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n7\r\n0\r\n\r\nxx\r\n0\r\n\r\n", b"0\r\n\r\nxx",
    ),
    "empty line first": (b"\r\n" + POST + b"Content-Length: 2\r\n\r\nhi", b"hi"),
    "another protocol is offered": (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
        b"Content-Length: 5\r\n\r\nhello", b"hello",
    ),
    "another protocol is offered, chunks": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n0\r\n\r\n", b"hello",
    ),
    "another protocol is offered, no body": (POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b""),
}  # fmt: skip


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 65536])
@pytest.mark.parametrize("name", WHOLE)
def test_whole(name, cut):
    """A request is there when its last byte is, and not before; so are several behind each other."""
    data, body = WHOLE[name]
    found, incoming = read(data * 3, cut=cut)
    assert [(one.body, one.last, one.refusal, one.variables["HTTP_HOST"]) for one in found] == [
        (body, False, None, "a")
    ] * 3
    assert (incoming.begun, len(incoming)) == (False, 0)
    assert read(data[:-1], cut=cut)[0] == []


def test_what_it_says():
    """Header fields become variables; several of a name are one list, and names that stand for others are left out."""
    head = (
        b"PUT /a?b=c HTTP/1.0\r\nX-A: 1 \r\ncontent-TYPE:\ttext/xml\r\nx-a: \xe0\r\nX_A: 3\r\nContent-Length: 0\r\n\r\n"
    )
    (request,), _ = read(head)
    assert (request.method, request.target, request.version, request.last) == ("PUT", b"/a?b=c", "1.0", True)
    assert request.variables == {"HTTP_X_A": "1,\u00e0", "CONTENT_TYPE": "text/xml", "CONTENT_LENGTH": "0"}
    (request,), _ = read(head, limits=Limits(MAX_BODY, refuse_underscores=True))
    assert request.refusal is Refusal.UNREADABLE


@pytest.mark.parametrize(
    ("head", "last"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: te, close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\n!", True),
    ],
)
def test_last(head, last):
    """The connection ends where the client says so, and nothing is read behind it."""
    found, incoming = read(head + SMUGGLED)
    assert [one.last for one in found] == ([True] if last else [False, False])
    incoming.feed(SMUGGLED)
    assert incoming.ready is not last


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\n\r\n", Refusal.LINE_TOO_LONG),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 33_000 + b"\r\n\r\n", Refusal.HEAD_TOO_LARGE),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", Refusal.HEAD_TOO_LARGE),
        (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n", Refusal.UNKNOWN_CODING),
        (POST + b"Transfer-Encoding: identity\r\n\r\n", Refusal.UNKNOWN_CODING),
        (POST + b"Expect: a miracle\r\n\r\n", Refusal.UNKNOWN_EXPECTATION),
        (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", Refusal.UNREADABLE),
        (POST + b"Content-Length: " + b"0" * 5_000 + b"5\r\n\r\nhello", Refusal.UNREADABLE),
        (b"SOURCE / ICE/1.0\r\n\r\n", Refusal.UNREADABLE),
        (b"SETUP rtsp://a/ RTSP/1.0\r\n\r\n", Refusal.UNREADABLE),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal.UNREADABLE),
        (b"GET / HTTP/2.0\r\n\r\n", Refusal.UNREADABLE),
        (b"FOO / HTTP/1.1\r\n\r\n", Refusal.UNREADABLE),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", Refusal.UNREADABLE),
    ],
)
@pytest.mark.parametrize("cut", [100, 65536])
def test_refused(data, refusal, cut):
    """What is not served says why, ends the connection, and hides nothing behind it. What came before is served."""
    found, _ = read(SMUGGLED + data + SMUGGLED, cut=cut)
    assert [(one.refusal, one.last) for one in found] == [(None, False), (refusal, True)]


@pytest.mark.parametrize("target", ["/%s", "/?%s", "/#%s", "http://%s", "http://a%s:1/", "http://a/%s", "%s"])
def test_targets_are_printable(target):
    """No other byte than those of printable ASCII gets through, wherever in the target it stands."""
    for byte in range(256):
        head = (b"CONNECT " if target == "%s" else b"GET ") + target.replace("%s", "\0").encode() + b" HTTP/1.1\r\n\r\n"
        for request in read(head.replace(b"\0", b"a" + bytes([byte]) + b"b"))[0]:
            assert request.refusal is not None or re.fullmatch(rb"[!-~]+", request.target), byte


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


@settings(max_examples=500)
@given(st.lists(MESSAGES, min_size=1, max_size=3).map(b"".join), st.integers(1, 40))
@example(b"\r\n\r\n", 1)
@example(b"\r\n\r\n" + SMUGGLED, 1)
@example(b"\r\n" + SMUGGLED, 1)
def test_two_readers_agree(data, cut):
    """Whatever arrives: what is served is what gunicorn alone would have read, or less of it."""
    wanted = gunicorn_serves(data)
    ours = served(data, cut)
    assert ours == wanted[: len(ours)]


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(1, 50))
def test_rubbish(data, cut):
    """Whatever arrives, nothing breaks, and nothing is kept beyond what is waited for."""
    found, incoming = read(data, cut=cut)
    assert sum(request.size for request in found) + len(incoming) <= len(data)


@pytest.mark.parametrize("begin", [POST + b"X: ", POST + b"X", POST, b"POST /", b"\r\n"])
def test_head_is_bounded(begin):
    """A head that does not end is not kept for ever, whatever it stops at."""
    part = b"\r\n" if begin == b"\r\n" else b"y: z\r\n" if begin == POST else b"y"
    incoming = Incoming(Limits(MAX_BODY, line=10 * MAX_HEAD, fields=10 * MAX_HEAD, field=10 * MAX_HEAD))
    incoming.feed(begin)
    while not incoming.ready:
        incoming.feed(part * 4096)
        assert len(incoming) <= MAX_HEAD + len(part) * 4096 + len(begin)
    assert incoming.take().refusal is Refusal.HEAD_TOO_LARGE


@pytest.mark.parametrize("kind", ["length", "one chunk", "many chunks", "tiny chunks", "trailers", "extensions"])
def test_body_is_bounded(kind):
    """A body that is too large is not kept, and after so many bytes nobody waits for its end."""
    incoming = Incoming(Limits(MAX_BODY))
    head = {"length": b"Content-Length: 9999999999\r\n\r\n"}.get(kind, b"Transfer-Encoding: chunked\r\n\r\n")
    part = {
        "length": b"x" * 65536,
        "one chunk": b"x" * 65536,
        "many chunks": b"1000\r\n" + b"x" * 4096 + b"\r\n",
        "tiny chunks": b"1\r\nx\r\n" * 1000,
        "trailers": b"X: " + b"y" * 500 + b"\r\n",
        "extensions": b"y" * 65536,
    }[kind]
    begin = {"one chunk": b"fffffff\r\n", "trailers": b"0\r\n", "extensions": b"1;"}.get(kind, b"")
    incoming.feed(POST + head + begin)
    fed = 0
    while (request := incoming.take()) is None:
        incoming.feed(part)
        fed += len(part)
        assert len(incoming) <= 4 * (MAX_BODY + MAX_HEAD) + len(part)
        assert fed < 3 * DRAIN, "nobody should wait that long"
    assert request.last
    assert len(request.body) <= MAX_BODY + len(part)
    # The application answers 413 by these, and the other ones break a rule of the framing.
    too_large = int(request.variables.get("CONTENT_LENGTH", 0)) > MAX_BODY or len(request.body) > MAX_BODY
    assert too_large is (request.refusal is None)


def test_many_ahead():
    """Requests without end that wait for no answer are not all kept: so many are answered, and the connection ends."""
    incoming = Incoming(Limits(MAX_BODY))
    incoming.feed(SMUGGLED * 1000)
    found = []
    while request := incoming.take():
        found.append(request)
    assert [one.last for one in found] == [False] * 63 + [True]
    incoming.feed(SMUGGLED)
    assert not incoming.ready


def test_continue():
    """Whoever asks before sending the body is to be told; for a body that is too large it is the end."""
    ask = POST + b"Expect: 100-Continue\r\nContent-Length: %d\r\n\r\n"
    _, incoming = read(ask % 5)
    assert incoming.expects_continue
    incoming.feed(b"hello")
    assert (incoming.take().body, incoming.expects_continue) == (b"hello", False)
    (request,), _ = read(ask % (MAX_BODY + 1))
    assert (request.last, request.refusal) == (True, None)
    _, incoming = read(ask.replace(b"1.1", b"1.0") % 5)  # HTTP/1.0 does not know it
    assert not incoming.expects_continue


def test_memory_ends(monkeypatch):
    """Without memory the request is not taken for an unreadable one: that would be an answer."""

    def fails(self, part):
        raise MemoryError

    monkeypatch.setattr(Incoming, "on_body", fails)
    incoming = Incoming(Limits(MAX_BODY))
    with pytest.raises(MemoryError):
        incoming.feed(WHOLE["length"][0])


def test_slow_bytes_cost_little():
    """A large request that arrives byte by byte is not read from its beginning each time."""
    data = (
        POST + b"X: " + b"y" * 30_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nz\r\n" * 3_000 + b"0\r\n\r\n"
    )
    (request,), _ = read(data, cut=1, limits=Limits(100_000))
    assert request.body == b"z" * 3_000


def test_nothing_is_left_to_the_collector():
    """A connection that ended is freed at once, with what was read."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            _, incoming = read(POST + b"Content-Length: 5\r\n\r\nhel")
            incoming.close()
            del incoming
        assert gc.collect() == 0
    finally:
        gc.enable()
