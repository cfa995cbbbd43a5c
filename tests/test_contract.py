"""Bytes -> hardened parse -> valid tree -> Receipt."""

import os
import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from build import ABSENT, a_bare_request, a_gpd_document, a_request, a_transfer, a_verify_request, an_envelope
from lxml import etree

from station import contract
from station.errors import DocumentError, InvalidReceiptError, MalformedDocumentError
from station.receipt import Flag

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
    ],
)
def test_charset(encoding, declared, charset):
    """The transport's character set counts where the bytes parse in it, and the document's own word otherwise."""
    declaration = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    raw = f"{declaration}<a>Così è però</a>".encode(encoding)
    document = contract.parse(raw, charset)
    assert document.root.text == "Così è però"
    assert document.raw == raw
    assert contract.parse(raw, document.charset).root.text == "Così è però"


def test_text_around_comments():
    """A comment or processing instruction inside a text parts nothing."""
    raw = an_envelope(a_request()).replace(b"<fullName>Pinco", b"<fullName>Pin<!-- -->c<?x y?>o")
    assert read(raw).debtor.name == "Pinco Pallino"


def test_depth():
    """Absurdly nested documents are malformed, not a crash."""
    with pytest.raises(MalformedDocumentError):
        contract.parse(b"<a>" * 100_000 + b"</a>" * 100_000)


@pytest.mark.parametrize(
    "raw", [b"<a/>" * 20_000, b"<a b=''/>" * 1_001, b"<a" + b"".join(b" a%d=''" % n for n in range(1001)) + b"/>"]
)
def test_no_more_than_a_request_may_have(raw):
    """More elements or attributes than any request has are refused: to validate them takes minutes."""
    with pytest.raises(MalformedDocumentError, match="more than 20000 elements or 1000 attributes"):
        contract.parse(b"<r>" + raw + b"</r>")


@pytest.mark.parametrize("count", [2_000, 2_001])
@pytest.mark.parametrize(
    ("encoding", "spelt"),
    [("UTF-8", "xmlns"), ("UTF-16", "xmlns"), ("UTF-32", "xmlns"), ("UTF-7", "+AHg-mlns"), ("JAVA", r"\u0078mlns")],
)
def test_no_more_namespaces_than_a_request_may_declare(encoding, spelt, count):
    """To validate takes elements times namespaces, in whatever bytes they are written."""
    declared = "".join(f" {spelt}:n{number}='u'" for number in range(count))
    raw = f"<?xml version='1.0' encoding='{encoding}'?><a{declared}/>"
    raw = raw.encode(encoding if encoding in ("UTF-16", "UTF-32") else "ascii")
    if count > 2_000:
        with pytest.raises(MalformedDocumentError, match="more than 2000 declarations of namespaces"):
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
        ("newer_element", "6a8aef5b95529a79fffaaa85f008a16db63b9ef88efe19e1297798fadfcf9412"),
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
            "bedaad5b85e137a0df2279902367ca784cfe40b190970c75c7d27ebbd895399d",
            id="quotes, backslashes and controls",
        ),
        pytest.param(
            "</receipt>",
            f'<x b="1" xmlns:y="urn:y" y:c="2" a="3" xmlns:i="{contract.NS_XSI}" i:type="y:z"/></receipt>',
            "1d3844b78d53c02be96d5ee33d37f1c5469b67ec1b2ce9105986da84811bafc2",
            id="attributes in another order, and a hint to a schema",
        ),
        pytest.param(
            "</receipt>",
            "<x> one <y/> two <y> </y>  <z>3</z>\n</x></receipt>",
            "25320635ad9bffea090521c58c1e0ff3cee157e5375e88102e186301172a217f",
            id="text beside elements",
        ),
        pytest.param(
            "</debtor>",
            "<nickname>P</nickname><nickname>Q</nickname></debtor>",
            "33454d098946da35506d018ec7ac0bd0648b974cafce7b6301c4593b0f3129a6",
            id="a name twice",
        ),
        pytest.param(
            "</transfer>",
            '<fee a="1"> 01.00</fee><standIn a="1"/><paymentDateTime>x</paymentDateTime>'
            '<applicationDate a="1"> y </applicationDate></transfer>',
            "bc6504e20eadaf5e998880b54128e3d17bafab900e369ed0a1394f36cfbfd697",
            id="the receipt's names in a transfer",
        ),
        pytest.param(
            "</receipt>",
            '<idTransfer a="1"> x</idTransfer><transferAmount><fee>01.00</fee></transferAmount></receipt>',
            "24753e475a4681ea0cdc0c8fbb5358d1f9fd176c0389ca1e67a37e381a858666",
            id="a transfer's names in the receipt, without their values",
        ),
        pytest.param(
            "</receipt>",
            "<x><transferList><transfer><fee>01.00</fee></transfer></transferList></x></receipt>",
            "744fde69623f3133dcac4a6789494ef0dace3f056f35fbb272dc60d1ce977a63",
            id="a list of transfers in an unknown element",
        ),
        pytest.param(
            "</debtor>",
            "<fee>01.00</fee><transferList><transfer><fee>01.00</fee></transfer></transferList></debtor>",
            "ccd3cba6a4b2d0bfb23269f944cca7c2feac7c08f7d7ceff484ea332593d7ee0",
            id="a list of transfers in the debtor",
        ),
    ],
)
def test_hash_of_unknown_elements_never_changes(old, new, hash_):
    """What the schema does not know is hashed as it always was, however odd it is."""
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


@pytest.mark.parametrize("attribute", ["a='SECRET'", "x:type='x:SECRET'", "x:nil='true'"])
def test_attribute(attribute):
    """Attributes break the schema too, and their values stay inside."""
    raw = an_envelope(a_request()).decode()
    raw = raw.replace("<fee>", f"<fee xmlns:x='{contract.NS_XSI}' {attribute}>")
    with pytest.raises(InvalidReceiptError) as caught:
        read(raw.encode())
    assert "SECRET" not in str(caught.value)


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
