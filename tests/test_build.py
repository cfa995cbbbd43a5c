"""What the builders, the samples and the strategies make is what they say: valid, or broken as named."""

import base64
import re
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from build import (
    ABSENT,
    EC,
    OPERATIONS,
    OTHER_EC,
    PAF_NS,
    SOAP_NS,
    STYLES,
    Request,
    a_bare_request,
    a_demand_request,
    a_get_payment_request,
    a_gpd_document,
    a_request,
    a_stamp_transfer,
    a_subject,
    a_transfer,
    a_verify_request,
    an_envelope,
    an_iuv,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from strategies import (
    LIBXML2_ADMITS,
    LIBXML2_REFUSES,
    ROOTS,
    SCHEMA,
    Field,
    Simple,
    every_invalid_mutation,
    invalid_mutations,
    newer_fields,
    our_receipts,
    receipts,
    styles,
)

HERE = Path(__file__).parent
SCHEMA_FILE = HERE.parent / "wsdl" / "paForNode.xsd"
SAMPLES = sorted((HERE / "data").glob("*.xml"))
XS = "{http://www.w3.org/2001/XMLSchema}"

many = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture(scope="module")
def schema() -> etree.XMLSchema:
    return etree.XMLSchema(file=str(SCHEMA_FILE))


def parsed(document: bytes) -> Any:
    return etree.fromstring(document, etree.XMLParser(resolve_entities=False, no_network=True))


def message_of(document: bytes) -> Any:
    """The message element out of an envelope whose frame is right."""
    envelope = parsed(document)
    assert envelope.tag == f"{{{SOAP_NS}}}Envelope"
    *headers, body = elements(envelope)
    assert [header.tag for header in headers] in ([], [f"{{{SOAP_NS}}}Header"])
    assert body.tag == f"{{{SOAP_NS}}}Body"
    (message,) = elements(body)
    return message


def elements(parent: Any) -> list[Any]:
    return [child for child in parent if isinstance(child.tag, str)]


def infoset(element: Any) -> Any:
    """What an element means: its name, and its text or its children; comments, prefixes and blanks mean nothing."""
    assert not element.attrib
    children = elements(element)
    if not children:
        return element.tag, element.xpath("string()")
    assert not "".join(element.xpath("text()")).strip(" \t\r\n")
    return element.tag, [infoset(child) for child in children]


def texts_of(element: Any) -> Iterator[str]:
    """The texts of the leaves in document order."""
    children = elements(element)
    if not children:
        yield element.xpath("string()")
    for child in children:
        yield from texts_of(child)


# --- builders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        a_request(),
        a_request(1),
        a_request(paymentAmount="2.00"),
        a_request(transfers=[a_transfer(1), a_stamp_transfer(2)]),
        a_request(idPA=OTHER_EC, payer=ABSENT, standIn=True, fee=Decimal("1.00"), metadata=ABSENT),
        a_verify_request(),
        a_get_payment_request(),
        a_get_payment_request(2, dueDate=date(2026, 7, 1), paymentNote="nota"),
        a_demand_request(),
    ],
    ids=lambda request_: request_.root,
)
def test_what_is_built_is_valid(schema: etree.XMLSchema, request_: Request) -> None:
    """Each builder's default, and usual overrides, keep to the schema."""
    schema.assertValid(request_.element())
    assert request_.operation == OPERATIONS[request_.root]


def test_each_request_is_new() -> None:
    """Receipt id, IUV and notice number come once only, and IUV and notice number agree."""
    requests = [a_request() for _ in range(200)]
    for name in "receiptId", "creditorReferenceId", "noticeNumber":
        assert len({request[name] for request in requests}) == 200
    assert all(request["noticeNumber"] == "3" + request["creditorReferenceId"] for request in requests)
    assert re.fullmatch("[0-9]{17}", an_iuv())


def test_size_is_the_usual_one() -> None:
    """A request that nobody changed is as long as those of the Nodo are."""
    assert 3000 < len(an_envelope(a_request(), "compact")) < 4000


def test_overrides_go_where_they_should() -> None:
    """Values, elements and repetitions are replaced, added in their place and left out by path."""
    request = a_request(
        idPA=OTHER_EC,
        debtor__e_mail=ABSENT,
        debtor__fullName="D'Alò & Figli",
        payer=a_subject(city=ABSENT),
        standIn=True,
        fee=Decimal("2.50"),
        paymentDateTime=datetime(2026, 7, 1, 10, 20, 30),  # noqa: DTZ001 - the Nodo names no zone either
        metadata={"NOTIFICATION_FEE": "200"},
        transfers__2=a_transfer(3),
        **{"transfers.0.IBAN": ABSENT, "transfers.0.MBDAttachment": b"bollo"},
    )
    leaves = request.leaves()
    assert request["idPA"] == leaves["idPA"] == OTHER_EC
    assert request["fiscalCode"] == leaves["receipt.fiscalCode"] == EC
    assert request.get("debtor.e-mail") is None
    assert request["debtor.fullName"] == "D'Alò & Figli"
    assert request["standIn"] == "true"
    assert request["fee"] == "2.50"
    assert request["paymentDateTime"] == "2026-07-01T10:20:30"
    assert leaves["receipt.metadata.mapEntry.0.key"] == "NOTIFICATION_FEE"
    assert base64.b64decode(request["transfers.0.MBDAttachment"]) == b"bollo"
    assert len(request["transfers"]) == 3
    assert list(request["transfers.0"])[4:6] == ["MBDAttachment", "remittanceInformation"]
    assert request.but(officeName=ABSENT).but(officeName="Ufficio").fields == request.but(officeName="Ufficio").fields


def test_what_belongs_together_stays_together() -> None:
    """IUV and notice number follow each other, and the transfers add up, unless the caller wants it otherwise."""
    assert a_request(creditorReferenceId="01" * 8 + "1")["noticeNumber"] == "3" + "01" * 8 + "1"
    assert a_request(noticeNumber="3" + "12" * 8 + "1")["creditorReferenceId"] == "12" * 8 + "1"
    assert a_request(noticeNumber="3" * 18, creditorReferenceId="9" * 17)["creditorReferenceId"] == "9" * 17
    for amount in "0.01", "5.00", "5.01", "999999999.99":
        request = a_request(paymentAmount=amount)
        assert sum(Decimal(transfer["transferAmount"]) for transfer in request["transfers"]) == Decimal(amount)


def test_a_copy_leaves_the_original_alone() -> None:
    """`but` changes the copy only."""
    request = a_request()
    before = request.leaves()
    request.but(idPA=OTHER_EC, debtor__fullName="Altra Persona", transfers__0__IBAN=ABSENT)
    assert request.leaves() == before


def test_none_is_no_content() -> None:
    """Only ABSENT leaves an element out; None is a slip of the pen."""
    with pytest.raises(TypeError, match="ABSENT"):
        a_request(fee=None)


@pytest.mark.parametrize("version", [1, 2])
def test_gpd_document_is_the_same_in_no_namespace(version: int) -> None:
    """The GPD document holds the request's content under a root of its own."""
    request = a_request(version)
    document = a_gpd_document(request)
    root = parsed(document)
    assert root.tag == {1: "paSendRTReq", 2: "PaSendRTV2Request"}[version]
    assert re.match(rb"<\?xml [^>]*standalone=.yes.", document)
    assert infoset(root)[1] == infoset(request.element())[1]


def test_receipt_element_is_the_receipt() -> None:
    """The receipt's element is the one inside the message."""
    request = a_request()
    assert infoset(request.receipt_element()) == infoset(request.element().find("receipt"))


# --- styles -----------------------------------------------------------------------------------------------------------

AWKWARD = {
    "description": "a]]>b <c> & 'd' \"e\" à € \U0001f600 \r\n\t\x85\u2028.",
    "receiptId": "",
    "companyName": " ",
    "officeName": "\r",
    "debtor__fullName": "e\u0301 x\r\n",
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("version", [1, 2])
def test_every_style_means_the_same(schema: etree.XMLSchema, style: str, version: int) -> None:
    """However an envelope is written, the message inside is the same and valid."""
    request = a_request(version, **AWKWARD)
    message = message_of(an_envelope(request, style))
    assert infoset(message) == infoset(request.element())
    schema.assertValid(message)
    assert infoset(parsed(a_bare_request(request, style))) == infoset(request.element())


def test_styles_do_what_they_are_named_for() -> None:
    """The styles' bytes show what each is there to show."""
    request = a_request(description="Città")
    written = {name: an_envelope(request, name) for name in STYLES}
    assert b"<soapenv:Body" in written["plain"]
    assert b"<SOAP-ENV:Body" in written["SOAP-ENV"]
    assert f'<paSendRTV2Request xmlns="{PAF_NS}">'.encode() in written["default_namespaces"]
    assert b'<idPA xmlns="">' in written["default_namespaces"]
    assert b"<Body" in written["default_on_soap"]
    assert b"\n" not in written["compact"].partition(b"?>")[2]
    assert b"\n" not in written["crlf"].replace(b"\r\n", b"")
    assert b"<!--" in written["comments"]
    assert b"<?nota" in written["instructions"]
    assert b"<![CDATA[" in written["cdata"]
    assert b"&#x" in written["hex_references"]
    assert b"<soapenv:Header/>" in written["empty_header"]
    assert not written["no_declaration"].startswith(b"<?xml")
    assert written["bom"].startswith(b"\xef\xbb\xbf<?xml")
    assert written["utf-16-le"].startswith(b"\xff\xfe<\0")
    assert written["utf-16-be"].startswith(b"\xfe\xff\0<")
    assert b"Citt\xe0" in written["iso-8859-1"]


@many
@given(request=receipts(), style=styles())
def test_any_style_means_the_same(request: Request, style: Any) -> None:
    """Whatever the content, no way of writing it loses or adds anything."""
    expected = infoset(request.element())
    assert infoset(message_of(an_envelope(request, style))) == expected
    assert infoset(parsed(a_bare_request(request, style))) == expected


# --- samples ----------------------------------------------------------------------------------------------------------

# Elements are added to the schema over the years: what begins with `newer_` breaks the published one by such alone.
NEWER = "newer_"


def test_there_are_samples() -> None:
    """The samples are where they are looked for."""
    assert 15 <= len(SAMPLES) <= 40


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_valid_or_named_otherwise(schema: etree.XMLSchema, path: Path) -> None:
    """A sample keeps to the schema, unless its name begins with `invalid_` or `newer_`."""
    message = message_of(path.read_bytes())
    assert message.tag in {f"{{{PAF_NS}}}{root}" for root in OPERATIONS}
    assert schema.validate(message) is not path.stem.startswith(("invalid_", NEWER)), schema.error_log


@pytest.mark.parametrize("path", [path for path in SAMPLES if path.stem.startswith(NEWER)], ids=lambda path: path.stem)
def test_newer_sample_is_valid_without_what_is_new(schema: etree.XMLSchema, path: Path) -> None:
    """What is newer than the schema differs from it by elements it does not know, and by nothing else."""
    message = message_of(path.read_bytes())
    known = set(names_of(SCHEMA[etree.QName(message).localname]))
    for element in [element for element in message.iterdescendants() if element.tag not in known]:
        element.getparent().remove(element)
    schema.assertValid(message)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_sample_is_invented(path: Path) -> None:
    """The samples name our invented broker and station and no one's mail address."""
    message = message_of(path.read_bytes())
    assert message.findtext("idBrokerPA") == "15376371009"
    assert message.findtext("idStation") == "15376371009_01"
    assert all(mail.text.endswith("@example.invalid") for mail in message.iter("e-mail"))


# --- strategies -------------------------------------------------------------------------------------------------------


def names_of(content: tuple[Field, ...]) -> Iterator[str]:
    for field in content:
        yield field.name
        if not isinstance(field.content, Simple):
            yield from names_of(field.content)


@pytest.mark.parametrize("root", ROOTS.values())
def test_strategies_know_every_element_of_the_schema(root: str) -> None:
    """The strategies' table of the two messages and the published schema tell the same."""
    declared: dict[str, Any] = {}
    for file in SCHEMA_FILE, SCHEMA_FILE.with_name("sac-common-types-1.0.xsd"):
        for one in etree.parse(file).getroot().iter(f"{XS}complexType"):
            declared[one.get("name")] = one

    def told(name: str) -> list[Any]:
        fields = []
        for element in declared[name].iter(f"{XS}element"):
            kind = element.get("type").rpartition(":")[2]
            bounds = int(element.get("minOccurs", 1)), int(element.get("maxOccurs", 1))
            choice = element.getparent().tag == f"{XS}choice"
            fields.append((element.get("name"), *bounds, choice, told(kind) if kind in declared else kind))
        return fields

    def known(content: tuple[Field, ...]) -> list[Any]:
        return [
            (
                field.name,
                field.least,
                field.most,
                field.choice,
                field.content.name if isinstance(field.content, Simple) else known(field.content),
            )
            for field in content
        ]

    assert known(SCHEMA[root]) == told(root)


@pytest.mark.parametrize("version", [1, 2])
@many
@given(data=st.data())
def test_random_receipt_is_valid(schema: etree.XMLSchema, version: int, data: st.DataObject) -> None:
    """What is drawn keeps to the schema, and its leaves tell every text in document order."""
    request = data.draw(receipts(version))
    element = request.element()
    schema.assertValid(element)
    assert list(texts_of(element)) == list(request.leaves().values())
    assert [request[path] for path in request.leaves()] == list(request.leaves().values())


@many
@given(request=our_receipts(fiscalCode=OTHER_EC))
def test_random_receipt_keeps_what_is_given(schema: etree.XMLSchema, request: Request) -> None:
    """What the caller fixes stays fixed."""
    assert (request["idPA"], request["idStation"], request["fiscalCode"]) == (EC, "15376371009_01", OTHER_EC)


@many
@given(data=st.data())
def test_random_mutation_is_invalid(schema: etree.XMLSchema, data: st.DataObject) -> None:
    """A mutation of anything valid breaks the schema, and as bytes it is still well-formed."""
    broken = data.draw(receipts().flatmap(invalid_mutations))
    assert not schema.validate(broken.request.element()), broken.label
    assert infoset(message_of(an_envelope(broken.request))) == infoset(broken.request.element())


SIGNS = {"facet": ("[facet ",), "type": ("is not a valid value", "element-only")}


@pytest.mark.parametrize("version", [1, 2])
def test_every_mutation_is_invalid(schema: etree.XMLSchema, version: int) -> None:
    """Each single mutation of a full receipt breaks the schema in the way its kind says, and every kind comes."""
    seen = set()
    over = {"transfers.1": a_stamp_transfer(2, metadata={"chiave": "valore"})} if version == 2 else {}
    for broken in every_invalid_mutation(a_request(version, **over)):
        seen.add(broken.kind)
        assert not schema.validate(broken.request.element()), broken.label
        message = schema.error_log[0].message
        signs = SIGNS.get(broken.kind, ("is not expected", "Missing child element"))
        assert any(sign in message for sign in signs), broken.label
    assert seen == {"missing", "too_many", "order", "facet", "type"} | ({"choice"} if version == 2 else set())


@many
@given(data=st.data())
def test_newer_field_is_all_that_is_wrong(schema: etree.XMLSchema, data: st.DataObject) -> None:
    """A request with a newer field breaks the schema by that field alone."""
    request = data.draw(receipts())
    message = data.draw(newer_fields(request)).element()
    assert not schema.validate(message)
    known = set(names_of(SCHEMA[request.root]))
    (new,) = [
        one
        for one in message.iterdescendants()
        if one.tag not in known and one.getparent().tag in {*known, message.tag}
    ]
    new.getparent().remove(new)
    assert infoset(message) == infoset(request.element())


@pytest.mark.parametrize(("path", "text"), LIBXML2_REFUSES)
def test_libxml2_is_stricter_than_the_schema(schema: etree.XMLSchema, path: str, text: str) -> None:
    """What the strategies leave out for libxml2's sake it does still refuse; if not, draw it."""
    assert not schema.validate(a_request(**{path: text}).element())


@pytest.mark.parametrize(("path", "text"), LIBXML2_ADMITS)
def test_libxml2_is_laxer_than_the_schema(schema: etree.XMLSchema, path: str, text: str) -> None:
    """What is said to slip through libxml2 does."""
    request = a_request(**{"transfers.0.IBAN": ABSENT, path: text})
    schema.assertValid(request.element())
