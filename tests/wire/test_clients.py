"""Clients that know only our WSDL, and many of them at once."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import zeep
from build import EC, a_request, a_verify_request, an_envelope
from lxml import etree

XS_IMPORT = "{http://www.w3.org/2001/XMLSchema}import"


def as_arguments(node):
    """A request's fields as zeep takes them: the same names, lists and nested dicts."""
    if isinstance(node, dict):
        return {("e_mail" if False else name): as_arguments(value) for name, value in node.items()}
    if isinstance(node, list):
        return [as_arguments(one) for one in node]
    return node


@pytest.fixture
def zeep_client(station):
    client = zeep.Client(f"{station.server.url}?wsdl")
    yield client
    client.transport.session.close()


@pytest.mark.parametrize(("version", "operation"), [(2, "paSendRTV2"), (1, "paSendRT")])
def test_zeep(station, zeep_client, version, operation):
    """A client generated from the WSDL's URL alone pushes receipts and reads answers."""
    request = a_request(version)
    answer = zeep_client.service[operation](**as_arguments(request.fields))
    assert (answer.outcome, answer.fault) == ("OK", None)
    assert len(station.rows("SELECT 1 FROM receipt WHERE receipt_id = ?", request["receiptId"])) == 1
    conflict = zeep_client.service[operation](**as_arguments(request.but(description="other").fields))
    assert (conflict.outcome, conflict.fault.faultCode, conflict.fault.id) == ("KO", "PAA_RECEIPT_DUPLICATA", EC)


def test_zeep_verify(zeep_client):
    """The back office's "verify URL" gets that operation's own answer."""
    answer = zeep_client.service.paVerifyPaymentNotice(**as_arguments(a_verify_request().fields))
    assert (answer.outcome, answer.fault.description) == ("KO", "not offered by a broadcast station")


def test_wsdl_follows_the_request(station):
    """Without a public URL the WSDL carries the address it was asked by, and its schemas resolve."""
    for host in (f"127.0.0.1:{station.server.port}", "station.example.invalid"):
        wsdl = station.client.get(f"{station.server.url}?wsdl", headers={"Host": host})
        root = etree.fromstring(wsdl.content)
        assert root.find(".//{*}address").get("location") == f"http://{host}/paForNode"
        (schema,) = [one.get("schemaLocation") for one in root.iter(XS_IMPORT)]
        assert schema == f"http://{host}/paForNode?xsd=paForNode.xsd"
    fetched = [f"{station.server.url}?wsdl"]
    for url in fetched:
        root = etree.fromstring(station.client.get(url).content)
        fetched += [one.get("schemaLocation") for one in root.iter(XS_IMPORT) if one.get("schemaLocation")]
    assert len(fetched) == 3


def test_wsdl_public_url(connect, sqlite_url):
    """With a public URL the WSDL carries it everywhere."""
    station = connect(sqlite_url, config='[server]\npublic_url = "https://pagopa.example.invalid/x/paForNode"')
    wsdl = station.client.get(f"{station.server.url}?WSDL").text
    assert wsdl.count("https://pagopa.example.invalid/x/paForNode") == 2
    assert "127.0.0.1" not in wsdl


@pytest.mark.parametrize(
    "query", ["?xsd=../../pyproject.toml", "?xsd=/etc/passwd", "?xsd=paForNode.wsdl", "?xsd=", "?wsdl=1", "?x"]
)
def test_nothing_else_is_served(station, query):
    """Only the contract's files are served."""
    assert station.client.get(station.server.url + query).status_code == 405


def test_hostile_host(station):
    """A Host header that would change the WSDL is refused."""
    answer = station.raw(b'GET /paForNode?wsdl HTTP/1.1\r\nHost: a"/><x y="\r\nConnection: close\r\n\r\n')
    assert answer.startswith(b"HTTP/1.1 400")


def test_32_at_once(station):
    """32 concurrent pushes of one receipt leave one row and are 32 times OK."""
    request = a_request()
    raw = an_envelope(request)

    def push(_):
        return httpx.post(station.server.url, content=raw, headers={"Content-Type": "text/xml"}, timeout=30)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(push, range(32)))
    assert [answer.status_code for answer in answers] == [200] * 32
    assert all(b"<outcome>OK</outcome>" in answer.content for answer in answers)
    rows = station.rows("SELECT resends FROM receipt WHERE receipt_id = ?", request["receiptId"])
    assert [row["resends"] for row in rows] == [31]


def test_many_receipts_at_once(station):
    """Many different receipts from several connections are all there, once, with their transfers."""
    requests = [a_request() for _ in range(150)]

    def push(share):
        with httpx.Client(timeout=30) as client:
            return [
                client.post(station.server.url, content=an_envelope(one), headers={"Content-Type": "text/xml"}).text
                for one in share
            ]

    with ThreadPoolExecutor(6) as pool:
        answers = [text for share in pool.map(push, [requests[i::6] for i in range(6)]) for text in share]
    assert all("<outcome>OK</outcome>" in text for text in answers)
    for request in requests:
        rows = station.rows("SELECT position FROM transfer WHERE receipt_id = ?", request["receiptId"])
        assert sorted(row["position"] for row in rows) == [1, 2]
