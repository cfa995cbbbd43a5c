"""Bytes -> hardened parse -> valid tree -> Receipt."""

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from build import ABSENT, a_bare_request, a_gpd_document, a_request, a_transfer, a_verify_request, an_envelope
from lxml import etree

from station import contract
from station.errors import DocumentError, InvalidReceiptError, MalformedDocumentError
from station.receipt import ODDITIES, Flag, oddities

DATA = Path(__file__).parent / "data"
ENVELOPE = '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/">{}</s:Envelope>'


def read(raw, **over):
    return contract.read(contract.request_element(contract.parse(raw).root), **over)


# --- parsing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"<a>",
        b"not xml",
        b"<a></b>",
        b"\x00\x01\x02",
        b"<a>\x00</a>",
        b"\xff\xfe<\x00",
        b"<a>&nbsp;</a>",
        "<a>é</a>".encode("iso-8859-1"),
        b"<?xml version='1.0' encoding='martian'?><a/>",
    ],
)
def test_malformed(raw):
    """What is not well-formed XML is told apart, in one sentence without its content."""
    with pytest.raises(MalformedDocumentError, match=r"^not well-formed XML"):
        contract.parse(raw)


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE a [<!ENTITY x "lol">]>',
        '<!-- hello --> \n<?hello world?><!DOCTYPE a [<!ENTITY x SYSTEM "http://127.0.0.1:9/">]>',
        "<!-- " + "-x" * 4000 + " --><!DOCTYPE a []>",
        "<!DOCTYPE a>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_dtd(prolog, encoding):
    """A document type is refused wherever and however it stands, in every encoding."""
    with pytest.raises(MalformedDocumentError, match="DTD"):
        contract.parse(f"{prolog}<a>text</a>".encode(encoding))


def test_doctype_in_text():
    """What only looks like a document type, in a text, is text."""
    request = a_request(description="<!DOCTYPE a>")
    assert read(an_envelope(request, cdata=True)).description == "<!DOCTYPE a>"


@pytest.mark.parametrize(
    ("encoding", "declared", "charset"),
    [
        ("utf-8", None, None),
        ("utf-8", None, "utf-8"),
        ("utf-8", "UTF-8", "UTF-8"),
        ("utf-8-sig", None, "iso-8859-1"),
        ("utf-16", None, "utf-8"),
        ("iso-8859-1", "ISO-8859-1", None),
        ("iso-8859-1", None, "ISO-8859-1"),
        ("iso-8859-1", "ISO-8859-1", "utf-8"),
        ("utf-8", "UTF-8", "martian"),
        ("utf-8", "ISO-8859-1", "utf-8"),
        ("utf-8", "UTF-8", "ISO-8859-1"),
        ("utf-8", "utf-8", "windows-1252"),
        ("utf-8", "US-ASCII", "windows-1252"),
        ("utf-8", None, "ISO-8859-1"),
        ("utf-8", None, "IBM850"),
        ("utf-8", None, "GBK"),
        ("iso-8859-1", "UTF-8", "ISO-8859-1"),
        ("iso-8859-1", "ISO-8859-1", "windows-1252"),
    ],
)
def test_charset(encoding, declared, charset):
    """The transport's character set counts where the bytes parse in it, and the document's own word otherwise. What is
    UTF-8, and does not say otherwise, is UTF-8 under every label."""
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    raw = f"{declaration}<a>Così è però</a>".encode(encoding)
    document = contract.parse(raw, charset)
    assert document.root.text == "Così è però"
    assert document.raw == raw
    assert contract.parse(raw, document.charset).root.text == "Così è però"


@pytest.mark.parametrize(("declared", "charset"), [("ISO-8859-1", "ISO-8859-1"), ("ISO-8859-1", "windows-1252")])
def test_charset_of_one_mind(declared, charset):
    """A document that declares a single-byte encoding, and is labelled so, is in it, though it could be UTF-8."""
    raw = f'<?xml version="1.0" encoding="{declared}"?><a>Ã¨</a>'.encode("windows-1252")
    assert contract.parse(raw, charset).root.text == "Ã¨"


def test_text_around_comments():
    """A comment or processing instruction inside a text parts nothing."""
    raw = an_envelope(a_request()).replace(b"<fullName>Pinco", b"<fullName>Pin<!-- -->c<?x y?>o")
    assert read(raw).debtor.name == "Pinco Pallino"


def test_depth():
    """Absurdly nested documents are malformed, not a crash."""
    with pytest.raises(MalformedDocumentError):
        contract.parse(b"<a>" * 100_000 + b"</a>" * 100_000)


@pytest.mark.parametrize(
    ("part", "most"),
    [
        (lambda n: "<a/>" * (n - 1), 2_500),
        (lambda n: "<a>" * 200 + "</a>" * 200 + "<a/>" * (n - 201), 2_500),
        (lambda n: "<a b=''/>" * n, 1_000),
        (lambda n: "<a" + "".join(f" a{one}=''" for one in range(n)) + "/>", 1_000),
    ],
    ids=["elements", "nested elements", "attributes", "attributes of one element"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_more_than_a_request_may_have(part, most, encoding):
    """More than any request has, which is 380 elements at most, is refused: to validate it could take minutes."""
    contract.parse(f"<r>{part(most)}</r>".encode(encoding))
    with pytest.raises(MalformedDocumentError, match="more than 2500 elements or 1000 attributes"):
        contract.parse(f"<r>{part(most + 1)}</r>".encode(encoding))


def test_no_more_comments_than_a_request_may_have():
    """Tags and comments have a bound before a tree is built."""
    contract.parse(b"<r>%b</r>" % (b"<!---->" * 9_998))
    with pytest.raises(MalformedDocumentError, match="more than 10000 tags and comments"):
        contract.parse(b"<r>%b</r>" % (b"<!---->" * 9_999))


@pytest.mark.parametrize("count", [1_000, 1_001])
@pytest.mark.parametrize(
    ("encoding", "spelt"),
    [("UTF-8", "xmlns"), ("UTF-16", "xmlns"), ("UTF-32", "xmlns"), ("UTF-7", "+AHg-mlns"), ("JAVA", r"\u0078mlns")],
)
def test_no_more_namespaces_than_a_request_may_declare(encoding, spelt, count):
    """To validate takes elements times namespaces, in whatever bytes they are written."""
    declared = "".join(f" {spelt}:n{number}='u'" for number in range(count))
    raw = f"<?xml version='1.0' encoding='{encoding}'?><a{declared}/>"
    raw = raw.encode(encoding if encoding in ("UTF-16", "UTF-32") else "ascii")
    if count > 1_000:
        with pytest.raises(MalformedDocumentError, match="more than 1000 namespace declarations"):
            contract.parse(raw)
    else:
        contract.parse(raw)


def test_schema_hint_is_not_followed(tmp_path):
    """A schema that the document names is never loaded: it could be any file or address, and change what is valid."""
    pipe = tmp_path / "hint.xsd"
    os.mkfifo(pipe)  # whoever opens it to read waits for a writer
    raw = an_envelope(a_request()).replace(
        b"<receipt>",
        f'<receipt xmlns:xsi="{contract.NS_XSI}" xsi:noNamespaceSchemaLocation="{pipe}" '
        f'xsi:schemaLocation="{contract.NS} {pipe} urn:x file://{pipe}">'.encode(),
    )
    thread = threading.Thread(target=read, args=[raw], daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


# --- finding the request ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (ENVELOPE.format(""), "0 Body"),
        (ENVELOPE.format("<s:Body/>"), "0 elements"),
        (ENVELOPE.format("<s:Body><a/><b/></s:Body>"), "2 elements"),
        (ENVELOPE.format("<s:Body><a/></s:Body><s:Body><a/></s:Body>"), "2 Body"),
        ('<Envelope xmlns="http://www.w3.org/2003/05/soap-envelope"/>', "SOAP 1.1"),
    ],
)
def test_no_request(document, words):
    """An envelope without exactly one request says what is wrong with it."""
    with pytest.raises(DocumentError, match=words):
        contract.request_element(contract.parse(document.encode()).root)


@pytest.mark.parametrize("version", [1, 2])
def test_one_receipt_in_every_dress(version):
    """Envelope, bare request and the GPD API's document without a namespace are the same receipt."""
    request = a_request(version)
    receipts = [read(raw) for raw in (an_envelope(request), a_bare_request(request), a_gpd_document(request))]
    assert receipts[0] == receipts[1] == receipts[2]
    assert receipts[0].version == version


@pytest.mark.parametrize("wrap", [a_bare_request, an_envelope])
@pytest.mark.parametrize("style", ["plain", "no_namespace", "default_on_root"])
@pytest.mark.parametrize("first", "pP")
@pytest.mark.parametrize("version", [1, 2])
def test_one_receipt_under_every_root(version, first, style, wrap):
    """The root has a capital or a small p, is in the namespace or in none, bare or in an envelope."""
    request = a_request(version)
    raw = wrap(request, "plain" if style == "no_namespace" else style).decode()
    if style == "no_namespace":
        raw = raw.replace("pafn:", "")
    raw = raw.replace("paSendRT", f"{first}aSendRT")
    assert read(raw.encode()) == read(an_envelope(request))


@pytest.mark.parametrize(
    "root", ["<paSendRTV2Request xmlns='urn:x'/>", "<PASendRTV2Request/>", "<paSendRTRequest/>", "<PaGetPaymentReq/>"]
)
def test_other_roots(root):
    """A root in another namespace, or that only looks alike, is no receipt."""
    for raw in (root, ENVELOPE.format(f"<s:Body>{root}</s:Body>")):
        with pytest.raises(DocumentError):
            read(raw.encode())


def test_not_a_receipt():
    """Another operation's request is no receipt."""
    with pytest.raises(DocumentError):
        read(an_envelope(a_verify_request()))


# --- content hash -----------------------------------------------------------------------------------------------------


def test_hash_is_the_receipt_elements():
    """Copies for other ECs, by other stations and brokers, hold the same content; another content another hash."""
    request = a_request()
    copy = request.but(idPA="88888888888", idStation="15376371009_02", idBrokerPA="99999999990")
    assert read(an_envelope(copy)).content_hash == read(an_envelope(request)).content_hash
    for change in ({"description": "TARI 2027"}, {"payer": ABSENT}, {"debtor__fullName": "Pinco  Pallino"}):
        assert read(an_envelope(request.but(**change))).content_hash != read(an_envelope(request)).content_hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"paymentAmount": "120.50"}, {"paymentAmount": " 0120.50\n"}),
        ({"fee": "1.50"}, {"fee": "01.50"}),
        ({"standIn": "true"}, {"standIn": " 1 "}),
        ({"paymentDateTime": "2026-07-01T10:20:30"}, {"paymentDateTime": "2026-07-01T10:20:30.000+02:00"}),
        ({"paymentDateTime": "12026-07-01T10:20:30"}, {"paymentDateTime": " 12026-07-01T10:20:30"}),
        ({"transfers.0.idTransfer": "1"}, {"transfers.0.idTransfer": "+01"}),
        ({"paymentDateTime": "12026-07-01T10:20:30"}, {"paymentDateTime": "12026-07-01T10:20:30.0"}),
        ({"paymentDateTime": "12026-07-01T10:20:30.50Z"}, {"paymentDateTime": "12026-07-01T10:20:30.5+00:00"}),
        (
            {"paymentDateTime": "2026-07-01T10:20:30.1234567Z"},
            {"paymentDateTime": "2026-07-01T12:20:30.12345670+02:00"},
        ),
        ({"applicationDate": "2026-07-01Z"}, {"applicationDate": "2026-07-01+00:00"}),
        ({"applicationDate": "2026-07-01Z"}, {"applicationDate": "2026-07-01-00:00"}),
        ({"transferDate": "12026-07-01Z"}, {"transferDate": "12026-07-01-00:00"}),
        ({"transferDate": "2026-07-02"}, {"transferDate": "2026-07-02 "}),
        (
            {"transfers.0.IBAN": ABSENT, "transfers.0.MBDAttachment": "QUJD"},
            {"transfers.0.IBAN": ABSENT, "transfers.0.MBDAttachment": "QU\n JD"},
        ),
    ],
)
def test_hash_is_of_values(one, other):
    """A receipt that was read and written again on its way, as the GPD API's copies are, is the same receipt."""
    request = a_request(transfers=[a_transfer(1)])
    hashes = {read(an_envelope(request.but(**change))).content_hash for change in (one, other)}
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"paymentAmount": "120.50"}, {"paymentAmount": "120.51"}),
        ({"standIn": "true"}, {"standIn": "false"}),
        ({"standIn": "false"}, {"standIn": ABSENT}),
        ({"paymentDateTime": "2026-07-01T10:20:30"}, {"paymentDateTime": "2026-07-01T10:20:30Z"}),
        ({"paymentDateTime": "2026-07-01T10:20:30.1234567"}, {"paymentDateTime": "2026-07-01T10:20:30.1234568"}),
        ({"paymentDateTime": "12026-07-01T10:20:30"}, {"paymentDateTime": "12026-07-01T10:20:30.01"}),
        ({"applicationDate": "2026-07-01"}, {"applicationDate": "2026-07-01Z"}),
        ({"applicationDate": "2026-07-01+10:00"}, {"applicationDate": "2026-07-01Z"}),
        ({"companyName": " "}, {"companyName": "  "}),
        ({"description": "a"}, {"description": "a "}),
    ],
)
def test_hash_differs(one, other):
    """Other values are another content, blanks in a text included."""
    request = a_request()
    hashes = {read(an_envelope(request.but(**change))).content_hash for change in (one, other)}
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("sample", "hash_"),
    [
        ("plain", "72fd066d1dbbb59ed6b829a5eb5e8241da147cacff126e5530320a3aa64c2825"),
        ("accents_apostrophes_ampersands", "00cb981c7f47f8ad68d1c150f6fb8b3c3f5e8635dbf102e8fa1aca25394be35b"),
        ("digital_stamp", "d7ee028ff8644d6759dcc13d64a8247834d3172aee3868452ee71ea8734d68a2"),
        ("metadata_15_entries", "62c5ba70e75a7a61beb0cc404bb904408f2ee5192c2446789092468dff1d8dc8"),
        ("newer_element", "0c93d30c5188cabd6e92a0d703d74d31470de9aa049f077719ace93db8f98f43"),
        (
            "payment_date_time_with_fraction_and_zone",
            "cdb11af5238890154d9766b1c0eab8606ff459fa3733947c91a8f5998b926894",
        ),
        ("stand_in", "80ab3832346f5f77f68bb58663085d4c90c11c6ab0a76c7f0d11f703dfb1ccd6"),
        ("version_1", "0c11662f8f103ba93016efd332f5b5425c81eef735f89a8f554268bdd025da02"),
        ("without_anything_optional", "44db3c45ac2aefb95eb19b245ed593d29e8cfcfd25ade80ee265354749b3548e"),
    ],
)
def test_hash_never_changes(sample, hash_):
    """The canonical form is what stored receipts were hashed with: a new form would make every resend a conflict."""
    assert read((DATA / f"{sample}.xml").read_bytes()).content_hash.hex() == hash_


@pytest.mark.parametrize(
    ("old", "new", "hash_"),
    [
        pytest.param(
            "</receipt>",
            r"""<x a="&quot;\" b="&#10;à">&#9;"\ 😀</x></receipt>""",
            "dca5ee0a1fbfa1b2979a35578f867a9768f197ab5e9fd1e82664e234ac165178",
            id="quotes, backslashes and controls",
        ),
        pytest.param(
            "</receipt>",
            f'<x b="1" xmlns:y="urn:y" y:c="2" a="3" xmlns:i="{contract.NS_XSI}" i:type="y:z"/></receipt>',
            "6ddc12161fd2b820888a110e45787fec0071ab26858b1fa265aa78502792dc36",
            id="attributes in another order, and a hint to a schema",
        ),
        pytest.param(
            "</receipt>",
            "<x> one <y/> two <y> </y>  <z>3</z>\n</x></receipt>",
            "8bac1e26fb9ee8f28765d3c752bbacad02fc3d44a2714789fe0e09cbdcc842f4",
            id="text beside elements",
        ),
        pytest.param(
            "</debtor>",
            "<nickname>P</nickname><nickname>Q</nickname></debtor>",
            "d2d81be115400b2828fe6cd0c96f2cf12d8c27a59cb237f5ab2e504c1cf9ac4c",
            id="a name twice",
        ),
        pytest.param(
            "</transfer>",
            '<fee a="1"> 01.00</fee><standIn a="1"/><paymentDateTime>x</paymentDateTime>'
            '<applicationDate a="1"> y </applicationDate></transfer>',
            "54d8208473bfd580ee023915fc6cbb1720d5554e0af35e3453bda0513233b55d",
            id="the receipt's names in a transfer",
        ),
        pytest.param(
            "</receipt>",
            '<idTransfer a="1"> x</idTransfer><transferAmount><fee>01.00</fee></transferAmount></receipt>',
            "da450161634df5f3953d19140353869b466436a84892a7cbb07f532163cf9a9e",
            id="a transfer's names in the receipt, without their values",
        ),
        pytest.param(
            "</receipt>",
            "<x><transferList><transfer><fee>01.00</fee></transfer></transferList></x></receipt>",
            "f0828b31b1aa7bf1e31ce9055f90b806863cfa865d393823ee13203de3411334",
            id="a list of transfers in an unknown element",
        ),
        pytest.param(
            "</debtor>",
            "<fee>01.00</fee><transferList><transfer><fee>01.00</fee></transfer></transferList></debtor>",
            "1c8afbb028370c80518ada7c02447b6a5af6cabe04a3d6c54eee1f210dbfe828",
            id="a list of transfers in the debtor",
        ),
    ],
)
def test_hash_of_unknown_elements_never_changes(old, new, hash_):
    """What the schema does not know is hashed as it is by every later version, however odd it is."""
    raw = (DATA / "plain.xml").read_text().replace(old, new, 1).encode()
    assert read(raw).content_hash.hex() == hash_


# --- unknown elements -------------------------------------------------------------------------------------------------

UNKNOWN = [
    ("</receipt>", "<newField>1</newField></receipt>"),
    ("<receiptId>", '<x:deep xmlns:x="urn:x" a="1"><x:er>text</x:er></x:deep><receiptId>'),
    ("</debtor>", "<nickname/></debtor>"),
    ("</transfer>", "<fee>1.00</fee></transfer>"),
    ("<receipt>", "<idPlatform>7</idPlatform><receipt>"),
]


@pytest.mark.parametrize(("old", "new"), UNKNOWN)
def test_unknown_element(old, new):
    """An element the schema does not know where it stands is no reason to lose a receipt; it is flagged."""
    request = a_request()
    raw = an_envelope(request).decode().replace(old, new, 1)
    receipt = read(raw.encode())
    assert Flag.UNKNOWN_ELEMENTS in receipt.flags
    assert receipt._replace(flags=frozenset(), content_hash=b"") == read(an_envelope(request))._replace(
        flags=frozenset(), content_hash=b""
    )


@pytest.mark.parametrize(
    ("place", "one", "other"),
    [
        ("</transfer>", "<fee currency='EUR'>1.00</fee>", "<fee currency='USD'>1.00</fee>"),
        ("</transfer>", "<fee>1.00</fee>", "<fee>01.00</fee>"),
        ("</transfer>", "<standIn>maybe</standIn>", "<standIn>never</standIn>"),
        ("</transfer>", "<standIn>1</standIn>", "<standIn>true</standIn>"),
        ("</receipt>", "<MBDAttachment>12 3</MBDAttachment>", "<MBDAttachment>1 23</MBDAttachment>"),
        ("</receipt>", "<idTransfer>1</idTransfer>", "<idTransfer>01</idTransfer>"),
        (
            "</debtor>",
            "<applicationDate>2026-07-01Z</applicationDate>",
            "<applicationDate>2026-07-01+00:00</applicationDate>",
        ),
        ("</receipt>", "<zz><fee>1.00</fee></zz>", "<zz><fee>01.00</fee></zz>"),
        ("</receipt>", "<zz>a<b/></zz>", "<zz><b/>a</zz>"),
        ("</receipt>", "<zz><b/>a<b/></zz>", "<zz><b/><b/>a</zz>"),
        ("</receipt>", "<zz>a</zz>", "<zz a='a'/>"),
        ("</receipt>", "<zz>\u00a0<b/></zz>", "<zz><b/></zz>"),
        ("</receipt>", "<zz i:type='i:a'/>", "<zz i:type='i:b'/>"),
        ("</receipt>", "<zz i:nil='true'/>", "<zz/>"),
        ("<receiptId>", "<b/><c/>", "<c/><b/>"),
    ],
)
def test_unknown_content_is_never_another(place, one, other):
    """What the schema does not know is text, whatever its name, and each part of it has its place."""
    raw = an_envelope(a_request()).decode()
    hashes = set()
    for new in (one, other):
        text = f"{new}{place}".replace("<zz", f"<zz xmlns:i='{contract.NS_XSI}'")
        hashes.add(read(raw.replace(place, text, 1).encode()).content_hash)
    assert len(hashes) == 2


# --- unknown attributes -----------------------------------------------------------------------------------------------

ATTRIBUTES = [
    "a='SECRET'",
    "xml:lang='it'",
    "xml:space='preserve'",
    "xmlns:q='urn:q' q:a='1' a='2'",
    "soapenv:encodingStyle='http://schemas.xmlsoap.org/soap/encoding/'",
    f"xmlns:i='{contract.NS_XSI}' i:other='1'",
    f"xmlns:i='{contract.NS_XSI}' i:nil='false'",
]


PLAIN = an_envelope(a_request())


def with_attributes(tag, attributes):
    """The plain request with attributes on its first element of that tag."""
    assert f"<{tag}>".encode() in PLAIN
    return PLAIN.replace(f"<{tag}>".encode(), f"<{tag} {attributes}>".encode(), 1)


@pytest.mark.parametrize("attributes", ATTRIBUTES)
@pytest.mark.parametrize("tag", ["pafn:paSendRTV2Request", "idPA", "receipt", "fee", "debtor", "fullName", "transfer"])
def test_unknown_attribute(tag, attributes):
    """An attribute that the schema does not know is no reason to lose a receipt, wherever it is; it is flagged."""
    receipt = read(with_attributes(tag, attributes))
    plain = read(PLAIN)
    assert receipt.flags == plain.flags | {Flag.UNKNOWN_ELEMENTS}
    assert receipt._replace(flags=plain.flags, content_hash=b"") == plain._replace(content_hash=b"")


@pytest.mark.parametrize("tag", ["receipt", "fee", "debtor", "fullName", "transfer"])
def test_unknown_attribute_counts_as_content(tag):
    """Receipts that differ in an unknown attribute, anywhere in the receipt, are not the same."""
    attributes = ["a='1'", "a='2'", "b='1'", "xmlns:q='urn:q' q:a='1'", "xml:lang='1'", "xmlns:a='urn:a'"]
    hashes = [read(with_attributes(tag, one)).content_hash for one in attributes]
    assert len(set(hashes)) == len(attributes)
    assert hashes[-1] == read(PLAIN).content_hash
    in_order, turned = (read(with_attributes(tag, one)).content_hash for one in ("a='1' b='2'", "b='2' a='1'"))
    assert in_order == turned


@pytest.mark.parametrize(
    ("tag", "attribute", "rule"),
    [
        ("fee", "a='SECRET'", "/receipt/fee .*: the attribute a is not expected here"),
        ("receipt", "xmlns:SECRET='u' SECRET:a='SECRET'", "/receipt .*: the attribute a is not expected here"),
        ("pafn:paSendRTV2Request", "xml:lang='SECRET'", "Request .*: the attribute lang is not expected here"),
    ],
)
def test_unknown_attribute_refused(tag, attribute, rule):
    """An operator can have unknown attributes refused: the element and the attribute are named, and no value."""
    with pytest.raises(InvalidReceiptError, match=rule) as caught:
        read(with_attributes(tag, attribute), refuse_unknown=True)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [("<receipt>", "<x/><receipt>"), ("<idPA>", "<idPA a='1'>")])
def test_unknown_beside_the_receipt(old, new):
    """The content is the receipt element's: what is unknown in the envelope makes no other receipt of it."""
    receipt = read(PLAIN.replace(old.encode(), new.encode(), 1))
    assert Flag.UNKNOWN_ELEMENTS in receipt.flags
    assert receipt.content_hash == read(PLAIN).content_hash


@pytest.mark.parametrize("nil", ["true", " 1 "])
@pytest.mark.parametrize(
    ("name", "before"),
    [("fee", "<paymentDateTime>"), ("payer", "<paymentMethod>"), ("IBAN", "<IBAN>"), ("companyName", "<IBAN>")],
)
def test_nil(name, before, nil):
    """An empty optional element that says it is missing counts as missing, also as content."""
    request = a_request(**{"fee": ABSENT, "payer": ABSENT, "transfers.0.companyName": ABSENT})
    raw = an_envelope(request).decode()
    empty = f"<{name} xmlns:i='{contract.NS_XSI}' i:nil='{nil}'/>"
    receipt = read(raw.replace(before, f"{empty}{before}", 1).encode())
    assert receipt == read(raw.encode())._replace(flags=receipt.flags)
    assert Flag.UNKNOWN_ELEMENTS in receipt.flags
    other = read(raw.replace(before, f"{empty[:-2]} a='1'/>{before}", 1).encode())
    assert other.content_hash != receipt.content_hash
    with pytest.raises(InvalidReceiptError, match=f"/{name} .*: the element is empty and marked as absent by xsi:nil"):
        read(raw.replace(before, f"{empty}{before}", 1).encode(), refuse_unknown=True)


@pytest.mark.parametrize(
    ("tag", "attribute", "path", "rule"),
    [
        ("fee", "i:nil='true'", "/receipt/fee", "the attribute xsi:nil is not allowed here"),
        ("fee", "i:nil='SECRET'", "/receipt/fee", "the attribute xsi:nil is not allowed here"),
        ("debtor", "i:nil='true'", "/receipt/debtor", "the attribute xsi:nil is not allowed here"),
        ("fee", "i:type='i:SECRET'", "/receipt/fee", "the attribute xsi:type does not name the type"),
        ("fee", "i:type='SECRET:SECRET'", "/receipt/fee", "the attribute xsi:type does not name the type"),
        ("receipt", "i:type='pafn:ctReceipt'", "/receipt", "the attribute xsi:type does not name the type"),
        ("receipt", "i:type='SECRET'", "/receipt", "the attribute xsi:type does not name the type"),
        ("receipt", "i:type='a SECRET'", "/receipt", "the attribute xsi:type does not name the type"),
    ],
)
@pytest.mark.parametrize("beside", ["", " a='1'"])
def test_breach_by_attribute(tag, attribute, path, rule, beside):
    """What XSD's own attributes break is told in words, also beside what is tolerated: never the value."""
    raw = with_attributes(tag, f"xmlns:i='{contract.NS_XSI}' {attribute}{beside}")
    with pytest.raises(InvalidReceiptError) as caught:
        read(raw)
    assert caught.value.path == f"/paSendRTV2Request{path}"
    assert caught.value.rule.startswith(rule)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("beside", ["", " a='1'"])
def test_type_that_is_declared(beside):
    """A type that is the declared one is no breach, beside what is tolerated neither."""
    type_ = f"xmlns:i='{contract.NS_XSI}' i:type='pafn:ctReceiptV2'{beside}"
    assert read(with_attributes("receipt", type_)).amount == read(PLAIN).amount


@pytest.mark.parametrize("name", ["receiptId", "debtor", "idPA", "transferList", "receipt"])
def test_nil_of_what_is_required(name):
    """A required element that says it is missing is missing."""
    raw = an_envelope(a_request(), "compact").decode()
    start, end = raw.index(f"<{name}>"), raw.index(f"</{name}>") + len(name) + 3
    nil = f"<{name} xmlns:i='{contract.NS_XSI}' i:nil='true'/>"
    with pytest.raises(InvalidReceiptError, match=rf"Expected is \( {name} \)"):
        read(f"{raw[:start]}{nil}{raw[end:]}".encode())


def test_unknown_element_counts_as_content():
    """Two receipts that differ in an unknown element are not the same, whatever the prefix it is written with."""
    raw = an_envelope(a_request()).decode()
    hashes = [
        read(raw.replace("</receipt>", f"{new}</receipt>").encode()).content_hash
        for new in ('<p:a xmlns:p="urn:x">1</p:a>', '<q:a xmlns:q="urn:x">1</q:a>', '<a xmlns="urn:x">2</a>', "")
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_reading_leaves_the_request_alone():
    """A request that was read once, to see what would become of it, is the same when it is read again."""
    for old, new in UNKNOWN:
        raw = an_envelope(a_request(applicationDate=" 2026-07-01 ")).decode().replace(old, new, 1)
        request = contract.request_element(contract.parse(raw.encode()).root)
        assert contract.read(request) == contract.read(request)


@pytest.mark.parametrize(("old", "new"), UNKNOWN)
def test_unknown_element_refused(old, new):
    """An operator can have unknown elements refused."""
    with pytest.raises(InvalidReceiptError, match="not expected"):
        read(an_envelope(a_request()).decode().replace(old, new, 1).encode(), refuse_unknown=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<fee>", "<paymentNote>x</paymentNote><fee>"),
        ("<fee>", "<primaryCiIncurredFee>none</primaryCiIncurredFee><fee>"),
        ("<fee>", "<paymentNote><deep/></paymentNote><fee>"),
        ("</transfer>", "<MBDAttachment><deep/></MBDAttachment></transfer>"),
        ("</transfer>", "<fee>none</fee></transfer>"),
        ("</receipt>", "<idTransfer>none</idTransfer></receipt>"),
        ("</receipt>", "<idTransfer><deep/></idTransfer></receipt>"),
        ("</debtor>", "<standIn/></debtor>"),
    ],
)
def test_known_name_elsewhere(old, new):
    """An element that the schema knows elsewhere, or only in version 2, is unknown here, whatever it holds."""
    raw = an_envelope(a_request(version=1)).decode()
    receipt = read(raw.replace(old, new, 1).encode())
    assert Flag.UNKNOWN_ELEMENTS in receipt.flags
    assert receipt._replace(flags=frozenset(), content_hash=b"") == read(raw.encode())._replace(
        flags=frozenset(), content_hash=b""
    )


# --- breaches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "path", "rule"),
    [
        ({"paymentAmount": "12.5"}, "/paSendRTV2Request/receipt/paymentAmount", r"pattern '\d+\.\d{2}'"),
        ({"paymentAmount": "SECRET"}, "/paSendRTV2Request/receipt/paymentAmount", "atomic type 'stAmount'"),
        ({"paymentAmount": "9999999999.00"}, "/paSendRTV2Request/receipt/paymentAmount", "'999999999.99'"),
        ({"outcome": "SECRET"}, "/paSendRTV2Request/receipt/outcome", "{'OK', 'KO'}"),
        ({"companyName": "SECRET" * 30}, "/paSendRTV2Request/receipt/companyName", "maximum length of '140'"),
        ({"companyName": ""}, "/paSendRTV2Request/receipt/companyName", "minimum length of '1'"),
        ({"paymentDateTime": "SECRET"}, "/paSendRTV2Request/receipt/paymentDateTime", "type"),
        ({"standIn": "SECRET"}, "/paSendRTV2Request/receipt/standIn", "'xs:boolean'"),
        ({"debtor": ABSENT}, "/paSendRTV2Request/receipt/transferList", "Expected is ( debtor )"),
        ({"transfers.1.idTransfer": "6"}, "/paSendRTV2Request/receipt/transferList/transfer[2]/idTransfer", "{"),
        ({"debtor__e_mail": "SECRET"}, "/paSendRTV2Request/receipt/debtor/e-mail", "pattern"),
        ({"idPA": "SECRET" * 10}, "/paSendRTV2Request/idPA", "'35'"),
    ],
)
def test_breach(change, path, rule):
    """A breach of the schema names path, line and rule, and never the value that broke it."""
    raw = an_envelope(a_request(**change))
    with pytest.raises(InvalidReceiptError) as caught:
        read(raw)
    error = caught.value
    assert error.path == path
    assert rule in error.rule
    assert raw.splitlines()[error.line - 1].strip().startswith(f"<{path.split('/')[-1].split('[')[0]}".encode())
    assert "SECRET" not in str(error)


def test_breach_with_deceptive_value():
    """A value that imitates the validator's words does not get out with them."""
    value = "SECRET' is not accepted by the pattern 'SECRET"
    with pytest.raises(InvalidReceiptError) as caught:
        read(an_envelope(a_request(paymentAmount=value)))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "path"),
    [
        (["idPA"], "/idPA"),
        (["receipt"], "/receipt"),
        (["fiscalCode"], "/receipt/fiscalCode"),
        (["idPA", "idBrokerPA", "idStation", "receipt", "receiptId"], "/idPA"),
        (["transfer"], "/receipt/transferList/transfer"),
        (["idTransfer"], "/receipt/transferList/transfer[1]/idTransfer"),
        (["fee", "IBAN"], "/receipt/transferList/transfer[1]/IBAN"),
    ],
)
@pytest.mark.parametrize(("namespace", "own"), [(contract.NS, ", the request's own"), ("urn:SECRET", "")])
@pytest.mark.parametrize("refuse_unknown", [True, False])
def test_breach_by_namespace(names, path, namespace, own, refuse_unknown):
    """A child that is there in a wrong namespace is not called missing."""
    raw = an_envelope(a_request()).decode().replace("<soapenv:Envelope", f"<soapenv:Envelope xmlns:x='{namespace}'")
    for name in names:
        raw = raw.replace(f"<{name}>", f"<x:{name}>").replace(f"</{name}>", f"</x:{name}>")
    with pytest.raises(InvalidReceiptError) as caught:
        read(raw.encode(), refuse_unknown=refuse_unknown)
    assert caught.value.path == f"/paSendRTV2Request{path}"
    assert caught.value.rule == f"the element is in a namespace{own}, but the schema defines it without one"
    assert raw.splitlines()[caught.value.line - 1].strip().startswith(f"<x:{path.rpartition('/')[2]}")


def test_breach_with_a_namesake_in_a_namespace():
    """What is missing is called missing, where an element of that name in a namespace is somewhere else."""
    raw = an_envelope(a_request(fiscalCode=ABSENT)).decode()
    raw = raw.replace("</debtor>", "<x:fiscalCode xmlns:x='urn:x'>1</x:fiscalCode></debtor>")
    with pytest.raises(InvalidReceiptError, match="Expected is"):
        read(raw.encode())


def test_breach_on_a_late_line():
    """A document of more lines than libxml2 counts is judged like any other."""
    raw = an_envelope(a_request(fee="1,50", newField="1")).replace(b"<receipt>", b"<receipt>" + b"\n" * 70_000)
    with pytest.raises(InvalidReceiptError, match=r"^/paSendRTV2Request/receipt/fee: the value"):
        read(raw)
    assert Flag.UNKNOWN_ELEMENTS in read(raw.replace(b"1,50", b"1.50")).flags


def test_text_between_elements():
    """Text where only elements may stand is a breach, beside an unknown element too."""
    for new in ("SECRET", "<unknown/>SECRET"):
        with pytest.raises(InvalidReceiptError) as caught:
            read(an_envelope(a_request()).decode().replace("</receipt>", f"{new}</receipt>").encode())
        assert "SECRET" not in str(caught.value)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lexical", "moment"),
    [
        ("2026-07-01T10:20:30", datetime(2026, 7, 1, 8, 20, 30, tzinfo=UTC)),
        ("2026-01-01T10:20:30.1234567", datetime(2026, 1, 1, 9, 20, 30, 123456, tzinfo=UTC)),
        ("2026-07-01T10:20:30Z", datetime(2026, 7, 1, 10, 20, 30, tzinfo=UTC)),
        ("2026-07-01T10:20:30-14:00", datetime(2026, 7, 2, 0, 20, 30, tzinfo=UTC)),
        ("2026-12-31T24:00:00Z", datetime(2027, 1, 1, tzinfo=UTC)),
        ("12026-07-01T10:20:30", None),
        ("-0044-03-15T10:20:30", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T24:00:00Z", None),
    ],
)
def test_date_time(lexical, moment):
    """Times are read as XSD means them, Italian without a zone; there is none outside of what databases hold."""
    assert contract.read_date_time(lexical) == moment
    receipt = read(an_envelope(a_request(paymentDateTime=lexical)))
    assert receipt.payment_date_time == moment
    assert (Flag.DATE_OUT_OF_RANGE in receipt.flags) == (moment is None)


@pytest.mark.parametrize("name", ["paymentDateTime", "applicationDate", "transferDate"])
def test_blanks_around_dates(name):
    """Blanks around a date, which XSD ignores and libxml2 does not, are no breach."""
    lexical = "2026-07-01T10:20:30" if name == "paymentDateTime" else "2026-07-01"
    receipt = read(an_envelope(a_request(**{name: f"\n {lexical} "})))
    assert Flag.DATE_OUT_OF_RANGE not in receipt.flags
    assert receipt.flags == read(an_envelope(a_request(**{name: lexical}))).flags


@pytest.mark.parametrize(
    ("lexical", "day"),
    [
        ("2026-07-01", date(2026, 7, 1)),
        ("2026-07-01Z", date(2026, 7, 1)),
        ("2026-07-01+14:00", date(2026, 7, 1)),
        ("12026-07-01", None),
        ("-2026-07-01", None),
    ],
)
def test_date(lexical, day):
    """Dates keep their day whatever their zone."""
    receipt = read(an_envelope(a_request(applicationDate=lexical, transferDate=ABSENT)))
    assert receipt.application_date == day
    assert (Flag.DATE_OUT_OF_RANGE in receipt.flags) == (day is None)


def test_long_receipt_id():
    """A receiptId longer than an index can hold is stood for by its hash, and two long ones stay two."""
    long, other = (read(an_envelope(a_request(receiptId="x" * 2000 + end))) for end in ("1", "2"))
    assert long.receipt_id.startswith("sha256:")
    assert long.receipt_id != other.receipt_id
    assert Flag.RECEIPT_ID_HASHED in long.flags
    assert read(an_envelope(a_request(receiptId="é" * 512))).receipt_id == "é" * 512


@pytest.mark.parametrize(
    ("sample", "flags"),
    [
        ("plain", set()),
        ("secondary_beneficiary", {Flag.SECONDARY_BENEFICIARY}),
        ("outcome_ko", {Flag.OUTCOME_KO}),
        ("transfers_do_not_add_up", {Flag.TRANSFER_SUM_DIFFERS}),
        ("iuv_and_notice_number_disagree", {Flag.NOTICE_IUV_DIFFER}),
        ("stand_in", {Flag.STAND_IN}),
        ("newer_element", {Flag.UNKNOWN_ELEMENTS}),
        ("without_anything_optional", set()),
        ("version_1", set()),
        ("digital_stamps_40kb", set()),
    ],
)
def test_flags(sample, flags):
    """Each oddity of a valid receipt has its flag, and what is not odd has none."""
    assert read((DATA / f"{sample}.xml").read_bytes()).flags == flags


@pytest.mark.parametrize(
    ("notice", "iuv", "differ"),
    [
        ("301000000000000144", "01000000000000144", False),
        ("301000000000000144", "01000000000000145", True),
        ("012345678901234567", "345678901234567", False),
        ("012345678901234567", "345678901234568", True),
        ("101000000000000144", "01000000000000144", False),
        ("901000000000000144", "RF18539007547034", False),
    ],
)
def test_notice_and_iuv(notice, iuv, differ):
    """Notice number and IUV are compared by the rule of the aux digit, and not at all where there is none."""
    receipt = read(an_envelope(a_request(noticeNumber=notice, creditorReferenceId=iuv)))
    assert (Flag.NOTICE_IUV_DIFFER in receipt.flags) == differ


def test_amounts_are_exact():
    """Amounts are decimals, never floats."""
    receipt = read(an_envelope(a_request(paymentAmount="999999999.99", fee="0.10")))
    assert (receipt.amount, receipt.fee) == (Decimal("999999999.99"), Decimal("0.10"))
    assert isinstance(receipt.transfers[0].amount, Decimal)


def test_identify_invalid():
    """Of a request that breaks the schema, what can be read is read, cut to a sane length."""
    raw = an_envelope(a_request(idPA="7" * 1000, idStation=ABSENT, receiptId="abc", debtor=ABSENT))
    found = contract.identify(contract.request_element(contract.parse(raw).root))
    assert (found.id_pa, found.id_station, found.receipt_id) == ("7" * 64, None, "abc")
    assert found.operation == "paSendRTV2"


def test_identify_first():
    """Where an identifier occurs twice the first counts, an empty one too; another namespace's is none."""
    element = etree.fromstring(
        f"""<x:paSendRTReq xmlns:x="{contract.NS}"><x:idPA>0</x:idPA><idPA>1</idPA><idPA>2</idPA><idStation/>
        <idStation>3</idStation><receipt><receiptId>4</receiptId></receipt><receipt><receiptId>5</receiptId></receipt>
        <qrCode><noticeNumber>6</noticeNumber></qrCode></x:paSendRTReq>"""
    )
    found = contract.identify(element)
    assert (found.id_pa, found.id_station, found.receipt_id, found.notice_number) == ("1", None, "4", "6")


def test_identify_empty():
    """An empty request has no identifiers."""
    element = etree.fromstring(f'<x:paSendRTReq xmlns:x="{contract.NS}"/>')
    found = contract.identify(element)
    assert {found.id_pa, found.iuv, found.receipt_id, found.notice_number} == {None}


def test_breaches_of_two_threads_do_not_mix():
    """A schema object keeps the breaches of its last use, and validates without Python's lock."""
    elements = ("outcome", "noticeNumber", "fiscalCode", "description")

    def broken(name):
        raw = re.sub(rb"<%b>.*?</%b>" % (name.encode(), name.encode()), b"", an_envelope(a_request()), count=1)
        return contract.request_element(contract.parse(raw).root)

    def rules(name):
        found = set()
        for _ in range(50):
            with pytest.raises(InvalidReceiptError) as error:
                contract.read(broken(name))
            found.add(re.search(r"Expected is (?:one of )?\( (\w+)", error.value.rule)[1])
        return found

    with ThreadPoolExecutor(len(elements)) as pool:
        assert list(pool.map(rules, elements)) == [{name} for name in elements]


def test_flags_of_the_fields():
    """`ODDITIES` names each flag that a receipt's fields can ask for, and no other."""
    one = read(an_envelope(a_request()))
    odd = one._replace(
        amount=one.amount + 1, outcome="KO", iuv="another", fiscal_code="00000000000", stand_in=True
    )  # fmt: skip
    assert oddities(one._replace(id_pa=one.fiscal_code)) == frozenset()
    assert oddities(odd) == ODDITIES
