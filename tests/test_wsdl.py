"""The contract we serve is the published one, component by component, and other readers of it agree.

data/contract_components.json holds the components of the published files, which are not part of the project;
`make contract` compares a copy of them with it.
"""

import json
import re
import shutil
from pathlib import Path

import pytest
import zeep
import zeep.transports
from contract_model import UnmodelledError, contract_model
from lxml import etree

ROOT = Path(__file__).parent.parent
OURS = ROOT / "wsdl" / "paForNode.wsdl"
TABLE = Path(__file__).parent / "data" / "contract_components.json"

PAFN = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"
COMMON = "http://pagopa-api.pagopa.gov.it/xsd/common-types/v1.0.0/"
XSI = "http://www.w3.org/2001/XMLSchema-instance"

OPERATIONS = {
    "paDemandPaymentNotice": ("paDemandPaymentNoticeRequest", "paDemandPaymentNoticeResponse"),
    "paVerifyPaymentNotice": ("paVerifyPaymentNoticeReq", "paVerifyPaymentNoticeRes"),
    "paGetPayment": ("paGetPaymentReq", "paGetPaymentRes"),
    "paGetPaymentV2": ("paGetPaymentV2Request", "paGetPaymentV2Response"),
    "paSendRT": ("paSendRTReq", "paSendRTRes"),
    "paSendRTV2": ("paSendRTV2Request", "paSendRTV2Response"),
}


def table():
    return json.loads(TABLE.read_text(encoding="utf-8"))


def edited(tmp_path, file, old, new, count=1):
    """The model of our contract after a replacement in one of its files."""
    copy = tmp_path / "wsdl"
    shutil.copytree(OURS.parent, copy)
    before = (copy / file).read_text(encoding="utf-8")
    after = before.replace(old, new, count)
    assert after != before
    (copy / file).write_text(after, encoding="utf-8")
    return contract_model(copy / OURS.name)


def test_our_contract_has_the_components_of_the_table():
    """Our files hold exactly the components written down from the published files."""
    assert contract_model(OURS) == table()


ELEMENT = '<xs:element name="{}" type="common:{}"/>\n      '
FISCAL_CODE = ELEMENT.format("fiscalCode", "stFiscalCodePA")
OUTCOME = ELEMENT.format("outcome", "stOutcome")

XSD = "paForNode.xsd"
COMMON_XSD = "sac-common-types-1.0.xsd"

CHANGES = {
    "facet value": (COMMON_XSD, '<xs:maxLength value="140"/>', '<xs:maxLength value="141"/>'),
    "facet kind": (XSD, '<xs:minInclusive value="0.01"/>', '<xs:minExclusive value="0.01"/>'),
    "facet dropped": (XSD, '<xs:minInclusive value="0.01"/>', ""),
    "facet added": (COMMON_XSD, '<xs:maxLength value="256"/>', '<xs:maxLength value="256"/><xs:minLength value="1"/>'),
    "pattern": (COMMON_XSD, "[0-9]{18}", "[0-9]{17}"),
    "enumeration dropped": (XSD, '<xs:enumeration value="GT"/>', ""),
    "enumeration value": (COMMON_XSD, '<xs:enumeration value="KO"/>', '<xs:enumeration value="ko"/>'),
    "base of a simple type": (XSD, 'base="xs:int"', 'base="xs:integer"'),
    "element order": (XSD, FISCAL_CODE + OUTCOME, OUTCOME + FISCAL_CODE),
    "element renamed": (XSD, 'name="standIn"', 'name="standin"'),
    "element dropped": (XSD, '<xs:element name="standIn" type="xs:boolean" minOccurs="0"/>', ""),
    "element type": (XSD, 'name="fee" type="common:stAmount"', 'name="fee" type="tns:stAmountNotZero"'),
    "element nillable": (XSD, 'name="fee"', 'name="fee" nillable="true"'),
    "element form": (XSD, 'name="fee"', 'name="fee" form="qualified"'),
    "minOccurs": (XSD, 'name="payer" type="tns:ctSubject" minOccurs="0"', 'name="payer" type="tns:ctSubject"'),
    "maxOccurs": (XSD, 'maxOccurs="5"', 'maxOccurs="6"'),
    "choice made a sequence": (XSD, "xs:choice>", "xs:sequence>", 2),
    "choice optional": (XSD, "<xs:choice>", '<xs:choice minOccurs="0">'),
    "extension base": (XSD, 'extension base="common:ctResponse"', 'extension base="common:ctRisposta"'),
    "type renamed": (COMMON_XSD, 'name="stCodiceAvviso"', 'name="stCodiceAvvisi"'),
    "global element dropped": (XSD, '<xs:element name="paSendRTRes" type="tns:paSendRTRes"/>', ""),
    "type of a global element": (XSD, 'type="tns:paSendRTRes"', 'type="tns:paSendRTV2Response"'),
    "element form default": (XSD, 'elementFormDefault="unqualified"', 'elementFormDefault="qualified"'),
    "attribute form default": (COMMON_XSD, 'attributeFormDefault="unqualified"', 'attributeFormDefault="qualified"'),
    "namespace behind a prefix": (XSD, f'xmlns:common="{COMMON}"', f'xmlns:common="{PAFN}"'),
    "WSDL namespace": (OURS.name, "gov.it/paForNode", "gov.it/paForNode/", -1),
    "message renamed": (OURS.name, 'message name="paSendRTV2"', 'message name="paSendRTV2Request"'),
    "message part renamed": (OURS.name, 'part name="bodyrequest"', 'part name="parameters"'),
    "message element": (OURS.name, 'element="pafn:paSendRTV2Request"', 'element="pafn:paSendRTReq"'),
    "operation renamed": (OURS.name, 'operation name="paSendRT"', 'operation name="paSendReceipt"'),
    "operation renamed everywhere": (OURS.name, 'operation name="paSendRT"', 'operation name="paSendReceipt"', -1),
    "operation input": (OURS.name, 'input message="tns:paSendRTV2"', 'input message="tns:paSendRTReq"'),
    "binding style": (OURS.name, 'style="document"', 'style="rpc"'),
    "binding transport": (OURS.name, "schemas.xmlsoap.org/soap/http", "schemas.xmlsoap.org/soap/smtp"),
    "binding port type": (OURS.name, 'type="tns:paForNode"', 'type="tns:paForNodes"'),
    "soapAction": (OURS.name, 'soapAction="paSendRTV2"', 'soapAction="urn:paSendRTV2"'),
    "soapAction dropped": (OURS.name, ' soapAction="paSendRTV2"', ""),
    "operation style": (OURS.name, 'soapAction="paSendRTV2"', 'soapAction="paSendRTV2" style="rpc"'),
    "body use": (OURS.name, 'use="literal"', 'use="encoded"'),
    "service renamed": (OURS.name, 'name="paForNodeService"', 'name="paForNode"'),
    "port renamed": (OURS.name, 'name="paForNodePort"', 'name="paForNode"'),
    "port binding": (OURS.name, 'binding="tns:paForNodeBinding"', 'binding="tns:paForNode"'),
    "address": (OURS.name, "/service/pa/paForNode", "/service/pa/paForNodeV2"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_component_changes_the_model(tmp_path, change):
    """A contract that differs in one component is told apart."""
    assert edited(tmp_path, *change) != table()


SAME = {
    "default occurrence spelled out": (XSD, 'name="receiptId"', 'name="receiptId" minOccurs="1" maxOccurs="1"'),
    "default form left out": (XSD, 'elementFormDefault="unqualified"', ""),
    "default nillable spelled out": (XSD, 'name="receiptId"', 'name="receiptId" nillable="false"'),
    "comment": (XSD, "<xs:sequence>", "<xs:sequence><!-- a comment -->", -1),
    "documentation": (OURS.name, "<wsdl:part ", "<wsdl:documentation>the body</wsdl:documentation><wsdl:part ", -1),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_a_change_of_spelling_leaves_the_model_alone(tmp_path, change):
    """Prefixes, comments and defaults written out or left out are no difference between contracts."""
    assert edited(tmp_path, *change) == table()


@pytest.mark.parametrize("old", ["xs", "tns", "common", "pafn", "soap", "wsdl"])
def test_a_renamed_prefix_leaves_the_model_alone(tmp_path, old):
    """Names are compared by namespace, whatever prefix each file gives it."""
    for file in OURS.parent.iterdir():
        text = re.sub(rf"\b{old}(?=:\w)|(?<=xmlns:){old}\b", "renamed", file.read_text(encoding="utf-8"))
        (tmp_path / file.name).write_text(text, encoding="utf-8")
    assert "renamed:" in (tmp_path / OURS.name).read_text() + (tmp_path / XSD).read_text()
    assert contract_model(tmp_path / OURS.name) == table()


UNMODELLED = {
    "attribute of a type": (
        XSD,
        '<xs:complexType name="ctReceiptV2"',
        '<xs:complexType name="ctReceiptV2" mixed="true"',
    ),
    "attribute of an element": (XSD, 'name="standIn"', 'name="standIn" default="false"'),
    "wildcard": (XSD, "</xs:sequence>", '<xs:any namespace="##any"/></xs:sequence>'),
    "second particle": (XSD, "</xs:sequence>", "</xs:sequence><xs:sequence/>"),
    "global attribute": (XSD, "</xs:schema>", '<xs:attribute name="version"/></xs:schema>'),
    "include": (XSD, "</xs:schema>", '<xs:include schemaLocation="other.xsd"/></xs:schema>'),
    "schema of another namespace": (COMMON_XSD, f'targetNamespace="{COMMON}"', f'targetNamespace="{PAFN}"'),
    "second component of a name": (XSD, 'name="stText20"', 'name="stText210"'),
    "prefix that is not bound": (XSD, 'type="tns:ctReceipt"', 'type="pafn:ctReceipt"'),
    "operation fault": (OURS.name, "</wsdl:operation>", '<wsdl:fault name="f" message="tns:f"/></wsdl:operation>'),
    "body part": (OURS.name, 'use="literal"', 'use="literal" parts="bodyrequest"'),
    "import of a WSDL": (OURS.name, "</wsdl:definitions>", '<wsdl:import location="b.wsdl"/></wsdl:definitions>'),
}


@pytest.mark.parametrize("change", UNMODELLED.values(), ids=UNMODELLED)
def test_what_the_model_has_no_place_for_is_an_error(tmp_path, change):
    """A construct that the comparison would pass over is refused instead."""
    with pytest.raises(UnmodelledError):
        edited(tmp_path, *change)


class NoNetwork(zeep.transports.Transport):
    """Lets zeep read files only."""

    def _load_remote_data(self, url):
        raise AssertionError(f"zeep asks the network for {url}")


@pytest.fixture(scope="module")
def port():
    """The port paForNodePort, as zeep reads it from our WSDL."""
    transport = NoNetwork()
    yield zeep.Client(str(OURS), transport=transport).wsdl.services["paForNodeService"].ports["paForNodePort"]
    transport.session.close()


def test_zeep_finds_the_six_operations(port):
    """A SOAP client reads our WSDL offline and finds each operation with its action and its two body elements."""
    assert {
        name: (operation.soapaction, operation.style, operation.input.body.qname, operation.output.body.qname)
        for name, operation in port.binding.all().items()
    } == {
        name: (name, "document", etree.QName(PAFN, request), etree.QName(PAFN, response))
        for name, (request, response) in OPERATIONS.items()
    }


def test_zeep_finds_the_address(port):
    """A SOAP client reads the published address from our WSDL; the server puts its own in its place."""
    assert port.binding_options == {"address": "http://pagopa-api.pagopa.gov.it/service/pa/paForNode"}


@pytest.fixture(scope="module")
def xsd():
    """Our schemas, compiled by libxml2."""
    return etree.XMLSchema(etree.parse(str(OURS.parent / XSD)))


def reasons(xsd, document):
    """What libxml2 has against a document."""
    xsd.validate(document)
    return [error.message for error in xsd.error_log]


@pytest.mark.parametrize("name", [name for pair in OPERATIONS.values() for name in pair])
def test_the_schema_declares_each_message_element(xsd, name):
    """An empty message is refused for what it lacks, not as unknown."""
    (reason,) = reasons(xsd, etree.Element(etree.QName(PAFN, name)))
    assert "Missing child element(s)" in reason


def test_the_schema_declares_no_other_element(xsd):
    """A type of the contract is no message."""
    (reason,) = reasons(xsd, etree.Element(etree.QName(PAFN, "ctReceiptV2")))
    assert "No matching global declaration" in reason


def types_of_the_table():
    schemas = table()["schemas"].values()
    return sorted(name for schema in schemas for kind in ("complex_types", "simple_types") for name in schema[kind])


def of_type(qname):
    """A paSendRTV2Response that claims to be of another type."""
    name = etree.QName(qname)
    root = etree.Element(etree.QName(PAFN, "paSendRTV2Response"), nsmap={"t": name.namespace})
    root.set(etree.QName(XSI, "type"), f"t:{name.localname}")
    return root


@pytest.mark.parametrize("qname", types_of_the_table())
def test_the_schema_has_each_type(xsd, qname):
    """Every type of the published contract is a type to libxml2 too."""
    assert not [reason for reason in reasons(xsd, of_type(qname)) if "does not resolve" in reason]


def test_the_schema_has_no_other_type(xsd):
    """A name that is none of the types does not resolve."""
    assert "does not resolve to a type definition" in reasons(xsd, of_type(f"{{{PAFN}}}ctReceiptV3"))[0]


FAULT = "<faultCode>PAA_SEMANTICA</faultCode><faultString>Errore semantico.</faultString><id>77777777777</id>"
ANSWER = f"<outcome>KO</outcome><fault>{FAULT}</fault>"


def answer(content, namespaces=""):
    return etree.fromstring(f'<p:paSendRTV2Response xmlns:p="{PAFN}" {namespaces}>{content}</p:paSendRTV2Response>')


def test_only_the_root_of_a_message_is_qualified(xsd):
    """Children are valid in no namespace, and in neither of the schemas' namespaces."""
    assert xsd.validate(answer(ANSWER))
    assert not xsd.validate(answer(ANSWER.replace("outcome", "p:outcome")))
    assert not xsd.validate(answer(ANSWER.replace("outcome", "c:outcome"), f'xmlns:c="{COMMON}"'))


def test_the_facets_hold(xsd):
    """An outcome that is not enumerated is refused."""
    assert not xsd.validate(answer("<outcome>OKAY</outcome>"))
