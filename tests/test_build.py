"""What the builders, the samples and the strategies make is what they say: valid, or broken as named."""

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from build import (
    ABSENT,
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
    a_transfer,
    a_verify_request,
    an_envelope,
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
    newer_fields,
    receipts,
)

HERE = Path(__file__).parent
SCHEMA_FILE = HERE.parent / "wsdl" / "paForNode.xsd"
SAMPLES = sorted((HERE / "data").glob("*.xml"))
assert len(SAMPLES) >= 15
XS = "{http://www.w3.org/2001/XMLSchema}"

many = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
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


@pytest.mark.parametrize("version", [1, 2])
def test_gpd_document_is_the_same_in_no_namespace(version: int) -> None:
    """The GPD document holds the request's content under a root of its own."""
    request = a_request(version)
    document = a_gpd_document(request)
    root = parsed(document)
    assert root.tag == {1: "paSendRTReq", 2: "PaSendRTV2Request"}[version]
    assert re.match(rb"<\?xml [^>]*standalone=.yes.", document)
    assert infoset(root)[1] == infoset(request.element())[1]


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


# --- samples ----------------------------------------------------------------------------------------------------------

# Elements are added to the schema over the years: what begins with `newer_` breaks the published one by such alone.
NEWER = "newer_"


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


@many
@given(request=receipts())
def test_random_receipt_is_valid(schema: etree.XMLSchema, request: Request) -> None:
    """What is drawn keeps to the schema, and its leaves tell every text in document order."""
    element = request.element()
    schema.assertValid(element)
    assert list(texts_of(element)) == list(request.leaves().values())
    assert [request[path] for path in request.leaves()] == list(request.leaves().values())


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
