"""Thousands of odd requests through the whole path in this process, and what must hold of each of them."""

import gc
import logging
from pathlib import Path

import pytest
from build import a_request, a_verify_request, an_envelope
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lxml import etree
from request_path import in_memory, post
from smuggling import SMUGGLING
from strategies import receipts, styles

CASES = sorted((Path(__file__).parent / "fuzz_cases").glob("*"))
# `make fuzz` looks further.
fuzz = settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    request_path = in_memory(tmp_path_factory.mktemp("path"))
    yield request_path
    request_path.engine.dispose()
    root.handlers, root.level = before


PLAIN = an_envelope(a_request())
PIECES = [
    b"<", b">", b"</", b"/>", b"&",
    b"&#x0;", b"&#55296;", b"&lt;", b"<!--", b"-->", b"<![CDATA[", b"]]>", b"<?", b"?>",
    b'"', b"'", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xed\xa0\x80", b"xmlns=''",
    b"xmlns:a='b'",
    b"xsi:nil='true'", b" xml:space='x'", b"<!DOCTYPE a>", b"<receipt>", b"</receipt>", b"<debtor/>",
    b"<fee>1.00</fee>",
    b"-1.00", b"1e9", b"NaN", b"9" * 40, b"\x9b31m", "\u202e".encode(), b"' OR 1=1 --", b"%s%n{0}", b"\r\n\r\n",
    b"A" * 5000,
    b"<a>" * 260, b"<a b='c'/>" * 50,
    b'<?xml version="1.0" encoding="UTF-16"?>', b'<?xml version="1.1"?>', b"utf-7", b"</soapenv:Body>",
    b"<soapenv:Body>",
]  # fmt: skip


@st.composite
def damaged(draw, documents):
    """A document with some of its parts cut out, doubled, swapped, or replaced by what parsers stumble over."""
    raw = draw(documents)
    for _ in range(draw(st.integers(1, 4))):
        at, other = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
        piece = draw(st.sampled_from(PIECES) | st.binary(max_size=8))
        match draw(st.integers(0, 4)):
            case 0:
                raw = raw[:at] + raw[other:]
            case 1:
                raw = raw[:other] + raw[at:]
            case 2:
                raw = raw[:at] + piece + raw[at:]
            case 3:
                raw = raw[:at] + piece + raw[at + len(piece) :]
            case _:
                raw = raw[:at] + bytes(reversed(raw[at : at + 20])) + raw[at + 20 :]
    return raw


written = st.builds(an_envelope, receipts(), styles())
fixed = st.sampled_from(
    [PLAIN, an_envelope(a_request(1)), an_envelope(a_verify_request()), an_envelope(a_request(), "everything")]
)


@fuzz
@given(raw=damaged(fixed))
def test_damaged_documents(path, raw):
    """A damaged document gets an answer of the table, and only what is a receipt is stored."""
    path.check(post(raw))


@settings(fuzz, max_examples=40)
@given(raw=damaged(written))
def test_damaged_receipts(path, raw):
    """The same for receipts of every kind, however written."""
    path.check(post(raw))


@settings(fuzz, max_examples=150)
@given(raw=st.binary(max_size=300))
@example(b"")
def test_rubbish(path, raw):
    """Bytes that are nothing at all are a SOAP Fault Client, and nothing is stored."""
    assert path.check(post(raw))[0] in (400, 500)


HEADER_NAMES = st.sampled_from([
    b"Content-Type", b"SOAPAction", b"X-Request-Id", b"Host", b"X-Forwarded-For", b"Content-Encoding", b"Client-Cert",
    b"Expect", b"X-Forwarded-Client-Cert", b"ssl-client-cert", b"Transfer-Encoding", b"Content-Length",
    b"Connection", b"Cookie", b"X_Y",
])  # fmt: skip
HEADER_VALUES = st.one_of(
    st.sampled_from([
        b"text/xml", b"text/xml; charset=utf-16", b"text/xml; charset=utf-7", b"text/xml; charset=\"utf-8",
        b"text/xml;charset=x" * 9,
        b"text/xml; charset=ebcdic-cp-us", b"text/xml; charset=base64", b"text/xml; charset=\xff", b"multipart/related",
        b"gzip", b"chunked",
        b"10", b"", b"a\tb", b"' OR 1=1", b"127.0.0.1", b"100-continue", b"close", b"\xe2\x80\xae", b"x" * 200,
        b"text/xml; charset=idna",
    ]),
    st.binary(max_size=30),
)  # fmt: skip


@settings(fuzz, max_examples=250)
@given(
    headers=st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=4),
    method=st.sampled_from([b"POST", b"POST", b"GET", b"HEAD", b"PUT", b"TRACE", b"post", b"P\0", b""]),
    target=st.sampled_from([b"/paForNode", b"/paForNode?wsdl", b"/paForNode?xsd=../x", b"//paForNode", b"*", b"http://a/paForNode",
                            b"/paForNode%0d%0a", b"/%00", b"/" + b"a" * 9000, b"paForNode", b""]),
    raw=st.sampled_from([PLAIN, b"", b"<a/>"]),
)  # fmt: skip
def test_heads(path, headers, method, target, raw):
    """Whatever the head says, the answer is one of the table or of HTTP, and nothing in it reaches the log as it is."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: a", *(name + b": " + value for name, value in headers)]
    path.check(b"\r\n".join([*lines, b"Content-Length: %d" % len(raw), b"", b""]) + raw)


@pytest.mark.parametrize("name", SMUGGLING)
def test_smuggling(path, name):
    """Requests whose end is unclear get one answer at most."""
    assert len(path.check(SMUGGLING[name] + post(PLAIN))) <= 1


def test_findings(path):
    """What fuzzing has found once stays mended."""
    assert CASES
    for case in CASES:
        path.check(case.read_bytes())


def test_one_parser_sees_the_bytes(path, monkeypatch):
    """The body is parsed once, by the hardened parser: neither Spyne nor anybody else parses it again."""
    import xml.parsers.expat

    parsed = []

    def watched(name, original):
        def parse(source, *arguments, **options):
            parsed.append((name, bytes(source) if isinstance(source, bytes | bytearray) else source, arguments))
            return original(source, *arguments, **options)

        return parse

    for name in ("fromstring", "XML", "parse", "iterparse", "HTML", "fromstringlist", "XMLDTDID"):
        monkeypatch.setattr(etree, name, watched(name, getattr(etree, name)))
    monkeypatch.setattr(xml.parsers.expat, "ParserCreate", watched("expat", xml.parsers.expat.ParserCreate))
    for raw in (an_envelope(a_request()), an_envelope(a_request(paymentAmount="x")), an_envelope(a_verify_request())):
        parsed.clear()
        assert [status for status, *_ in path.send(post(raw))] == [200]
        ((name, source, (parser,)),) = parsed
        assert (name, source) == ("fromstring", raw)
        # Its settings cannot be asked for, so they are tried: with others this would read the entity.
        with pytest.raises(etree.XMLSyntaxError):
            etree.fromstring(b'<!DOCTYPE a SYSTEM "x"><a>&b;</a>' + b"<a>" * 300, parser)


@pytest.mark.parametrize(
    "raw",
    [
        PLAIN,
        an_envelope(a_request(), "everything"),
        an_envelope(a_request(paymentAmount="x")),
        an_envelope(a_verify_request()),
        b"<a/>",
        b"<a",
    ],
    ids=["receipt", "everything", "refused", "declined", "no envelope", "no XML"],
)
def test_nothing_is_left_to_the_collector(path, raw):
    """A request's memory is free when it is answered: what only Python's collector frees stays for hundreds of them."""
    for _ in range(2):  # SQLAlchemy keeps what a statement is compiled from: the third is as all later ones
        path.send(post(raw))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        path.send(post(raw))
        gc.collect()
        kinds = {type(one).__name__ for one in gc.garbage}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert kinds <= {"list"}  # empty ones, of Spyne's events


def test_only_this_machine_however_it_was_started(path, monkeypatch):
    """With nothing configured the application itself turns others away: a server that was started without ours too."""
    monkeypatch.setattr("request_path.PEER", ("198.51.100.7", 4))
    assert [status for status, *_ in path.send(post(an_envelope(a_request())))] == [403]
