"""Every row of the README's table of answers, as raw bytes over HTTP."""

import gzip
import hashlib
import http.client
import re
import time
from pathlib import Path

import pytest
from build import (
    ABSENT,
    EC,
    OTHER_EC,
    STYLES,
    a_bare_request,
    a_demand_request,
    a_get_payment_request,
    a_request,
    a_verify_request,
    an_envelope,
)
from lxml import etree
from wire_schema import response_schema

ROOT = Path(__file__).parent.parent.parent


def stored(station, request):
    return station.rows(
        "SELECT * FROM receipt WHERE id_pa = ? AND receipt_id = ?", request["idPA"], request["receiptId"]
    )


def refused(station, request):
    return station.rows("SELECT * FROM refused WHERE receipt_id = ?", request["receiptId"])


def test_new(station):
    """A valid, new receipt: outcome OK, and it is in the database with the exact bytes."""
    request = a_request()
    raw = an_envelope(request)
    answer = station.push(raw)
    assert (answer.status, answer.outcome) == (200, "OK")
    assert bytes(stored(station, request)[0]["raw"]) == raw
    assert answer.http.headers["content-type"] == "text/xml; charset=utf-8"
    response_schema().assertValid(answer.body)


@pytest.mark.parametrize("style", STYLES)
def test_every_style(station, style):
    """Every way to write an envelope down is the same receipt."""
    request = a_request()
    assert station.push(an_envelope(request)).outcome == "OK"
    answer = station.push(an_envelope(request, style))
    assert (answer.status, answer.outcome) == (200, "OK")
    assert [row["resends"] for row in stored(station, request)] == [1]
    assert refused(station, request) == []


@pytest.mark.parametrize("action", ['"paSendRTV2"', "paSendRTV2", "", '""', "paVerifyPaymentNotice", "nonsense"])
@pytest.mark.parametrize("version", [1, 2])
def test_soap_action(station, action, version):
    """Dispatch is by the body's root element, whatever SOAPAction says."""
    answer = station.push(an_envelope(a_request(version)), SOAPAction=action)
    assert answer.outcome == "OK"
    assert etree.QName(answer.body).localname == {1: "paSendRTRes", 2: "paSendRTV2Response"}[version]
    response_schema().assertValid(answer.body)


@pytest.mark.parametrize("media_type", ["text/xml", "application/xml", "TEXT/XML; charset=UTF-8", "text/xml;charset=x"])
def test_media_types(station, media_type):
    """XML is XML, with any character set named."""
    assert station.push(an_envelope(a_request()), Content_Type=media_type).outcome == "OK"


def test_without_media_type(station):
    """A request that names no media type is no reason to lose a receipt."""
    raw = an_envelope(a_request())
    head = f"POST /paForNode HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(raw)}\r\n\r\n"
    assert b"<outcome>OK</outcome>" in station.raw(head.encode() + raw)


def test_resend(station):
    """The same receipt again, by another station: OK, one row, counted, and the station kept."""
    request = a_request()
    for copy in (request, request, request.but(idStation="15376371009_02")):
        assert station.push(an_envelope(copy)).outcome == "OK"
    rows = stored(station, request)
    assert [(row["resends"], row["id_station"]) for row in rows] == [(2, "15376371009_01")]
    routes = station.rows("SELECT id_station FROM receipt_route WHERE receipt_id = ?", request["receiptId"])
    assert [row["id_station"] for row in routes] == ["15376371009_02"]


def test_conflict(station):
    """Same key, other content: KO PAA_RECEIPT_DUPLICATA, the first untouched, the newcomer kept."""
    request = a_request()
    assert station.push(an_envelope(request)).outcome == "OK"
    newcomer = an_envelope(request.but(description="something else"))
    answer = station.push(newcomer)
    assert (answer.status, answer.outcome, answer.fault()) == (200, "KO", "PAA_RECEIPT_DUPLICATA")
    assert stored(station, request)[0]["description"] == request["description"]
    assert [bytes(row["raw"]) for row in refused(station, request)] == [newcomer]


def test_unknown_element(station):
    """An element that the schema does not know: OK, flagged, and in the raw bytes."""
    request = a_request(newField="2027")
    assert station.push(an_envelope(request)).outcome == "OK"
    assert b"<newField>2027</newField>" in bytes(stored(station, request)[0]["raw"])
    flags = station.rows("SELECT flag FROM receipt_flag WHERE receipt_id = ?", request["receiptId"])
    assert [row["flag"] for row in flags] == ["unknown_elements"]


@pytest.mark.parametrize(
    "attribute",
    ["xml:lang='it'", "a='1'", "soapenv:encodingStyle='http://schemas.xmlsoap.org/soap/encoding/'"],
)
@pytest.mark.parametrize("tag", ["pafn:paSendRTV2Request", "description"])
def test_unknown_attribute(station, tag, attribute):
    """An attribute that the schema does not know: OK, flagged, and in the raw bytes."""
    request = a_request()
    raw = an_envelope(request).replace(f"<{tag}>".encode(), f"<{tag} {attribute}>".encode())
    assert station.push(raw).outcome == "OK"
    assert bytes(stored(station, request)[0]["raw"]) == raw
    flags = station.rows("SELECT flag FROM receipt_flag WHERE receipt_id = ?", request["receiptId"])
    assert [row["flag"] for row in flags] == ["unknown_elements"]


def test_label_of_a_proxy(station):
    """UTF-8 that is labelled ISO-8859-1 is stored with its accents; sent again under the right label it is a resend."""
    request = a_request(debtor__fullName="Nicolò D'Àngelo")
    for label in ("ISO-8859-1", "utf-8"):
        assert station.push(an_envelope(request), Content_Type=f"text/xml; charset={label}").outcome == "OK"
    assert [(row["debtor_name"], row["resends"]) for row in stored(station, request)] == [("Nicolò D'Àngelo", 1)]


@pytest.mark.parametrize("root", ["PaSendRTV2Request", "pafn:PaSendRTV2Request", "paSendRTV2Request"])
def test_root_in_another_spelling(station, root):
    """A receipt whose root is spelt as by the GPD API is taken: answered 500 it would be lost after the last resend."""
    request = a_request()
    answer = station.push(an_envelope(request).replace(b"pafn:paSendRTV2Request", root.encode()))
    assert (answer.status, answer.outcome) == (200, "OK")
    response_schema().assertValid(answer.body)
    assert len(stored(station, request)) == 1


@pytest.mark.parametrize(
    ("over", "code", "string"),
    [
        ({"debtor": ABSENT}, "PAA_SINTASSI_EXTRAXSD", "Errore di sintassi extra XSD"),
        ({"paymentAmount": "SECRET"}, "PAA_SINTASSI_EXTRAXSD", "Errore di sintassi extra XSD"),
        ({"idPA": "99999999990"}, "PAA_ID_DOMINIO_ERRATO", "La PAA non corrisponde al Dominio indicato."),
        (
            {"idBrokerPA": "99999999990"},
            "PAA_ID_INTERMEDIARIO_ERRATO",
            "Identificativo intermediario non corrispondente.",
        ),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_refused(station, over, code, string, version):
    """A refusal: outcome KO with a complete fault, the reason without the value, and the request kept raw."""
    request = a_request(version, **over)
    raw = an_envelope(request)
    answer = station.push(raw)
    assert (answer.status, answer.outcome, answer.fault(), answer.fault("faultString")) == (200, "KO", code, string)
    assert answer.fault("id") == request["idPA"]
    assert answer.fault("description")
    assert b"SECRET" not in answer.http.content
    response_schema().assertValid(answer.body)
    kept = refused(station, request)
    assert [(bytes(row["raw"]), row["fault_code"], row["state"]) for row in kept] == [(raw, code, "open")]
    assert stored(station, request) == []


def test_breach_names_path_line_and_rule(station):
    """Who broke the schema reads where and which rule."""
    answer = station.push(an_envelope(a_request(outcome="MAYBE")))
    assert answer.fault("description") == (
        "/paSendRTV2Request/receipt/outcome (line 12): the value is not an element of the set {'OK', 'KO'}. "
        "(facet enumeration)"
    )


def test_fault_id_without_id_pa(station):
    """A request without idPA is answered with the station's own id."""
    answer = station.push(an_envelope(a_request(idPA=ABSENT)))
    assert (answer.fault(), answer.fault("id")) == ("PAA_SINTASSI_EXTRAXSD", "15376371009")


def test_unknown_station(station):
    """A station that is not configured under a broker of ours: OK and flagged."""
    request = a_request(idStation="15376371009_77")
    assert station.push(an_envelope(request)).outcome == "OK"
    flags = station.rows("SELECT flag FROM receipt_flag WHERE receipt_id = ?", request["receiptId"])
    assert [row["flag"] for row in flags] == ["unknown_station"]


@pytest.mark.parametrize(
    ("over", "flag"),
    [
        ({"transfers.0.transferAmount": "1.00"}, "transfer_sum_differs"),
        ({"outcome": "KO"}, "outcome_ko"),
        ({"creditorReferenceId": "01000000000000000", "noticeNumber": "301000000000000017"}, "notice_iuv_differ"),
        ({"idPA": OTHER_EC}, "secondary_beneficiary"),
        ({"standIn": "1"}, "stand_in"),
    ],
)
def test_odd_but_valid(station, over, flag):
    """What is odd but valid: OK, and a flag to find it by."""
    request = a_request(**over)
    assert station.push(an_envelope(request)).outcome == "OK"
    flags = station.rows("SELECT flag FROM receipt_flag WHERE receipt_id = ?", request["receiptId"])
    assert [row["flag"] for row in flags] == [flag]


def test_second_receipt_of_a_notice(station):
    """A second receiptId for one notice: OK, and the second one flagged."""
    first = a_request()
    second = first.but(receiptId=a_request()["receiptId"])
    for request in (first, second):
        assert station.push(an_envelope(request)).outcome == "OK"
    flags = station.rows(
        "SELECT receipt_id, flag FROM receipt_flag WHERE receipt_id IN (?, ?)", first["receiptId"], second["receiptId"]
    )
    assert [(row["receipt_id"], row["flag"]) for row in flags] == [(second["receiptId"], "second_receipt")]


@pytest.mark.parametrize(
    ("request_", "answer_name"),
    [
        (a_verify_request(), "paVerifyPaymentNoticeRes"),
        (a_get_payment_request(1), "paGetPaymentRes"),
        (a_get_payment_request(2), "paGetPaymentV2Response"),
        (a_demand_request(), "paDemandPaymentNoticeResponse"),
    ],
)
def test_other_operations(station, request_, answer_name):
    """The other operations: their own answer, valid, outcome KO with the standard description."""
    answer = station.push(an_envelope(request_))
    assert (answer.status, etree.QName(answer.body).localname, answer.outcome) == (200, answer_name, "KO")
    assert (answer.fault(), answer.fault("id")) == ("PAA_SYSTEM_ERROR", EC)
    assert answer.fault("description") == "not offered by a broadcast station"
    response_schema().assertValid(answer.body)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b"no xml", 400),
        (b"<a>", 400),
        (b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', 400),
        (an_envelope(a_request()).replace(b"?>", b'?><!DOCTYPE x SYSTEM "file:///etc/passwd">', 1), 400),
        (an_envelope(a_request()).replace(b"Pinco", b"&pinco;"), 400),
        (b"<a/>", 500),
        (a_bare_request(a_request()), 500),
        (b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"/>', 500),
        (b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body/></s:Envelope>', 500),
        (b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><a/></s:Body></s:Envelope>', 500),
        (b'<s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"><s:Body/></s:Envelope>', 500),
    ],
)
def test_no_request(station, raw, status):
    """What is no request: SOAP Fault Client with one sentence, a log line with size and hash, and nothing stored."""
    before = station.rows("SELECT count(*) AS n FROM refused")
    answer = station.push(raw)
    assert (answer.status, answer.soap_fault) == (status, "Client")
    assert answer.body.findtext("faultstring")
    assert station.rows("SELECT count(*) AS n FROM refused") == before
    line = logged(station, answer)
    assert (line["result"], line["size"], len(line["sha256"])) == ("rejected", len(raw), 64)


def test_methods_and_paths(station):
    """Wrong methods are 405 with Allow, wrong paths 404."""
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = station.client.request(method, station.server.url)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert station.client.post(station.server.url + "/other").status_code == 404
    assert station.client.get(station.server.url.replace("/paForNode", "/")).status_code == 404


@pytest.mark.parametrize("media_type", ["application/json", "application/soap+xml", "multipart/related; type=x"])
def test_wrong_media_type(station, media_type):
    """Other media types are 415."""
    assert station.push(an_envelope(a_request()), Content_Type=media_type).status == 415


def test_compressed(station):
    """Compressed bodies are 415: nothing is ever decompressed."""
    answer = station.push(gzip.compress(an_envelope(a_request())), Content_Encoding="gzip")
    assert answer.status == 415


def test_too_large(station):
    """A body over the limit is 413, announced or chunked, and one at the limit is read."""
    raw = an_envelope(a_request())
    assert station.push(raw + b" " * (200_000 - len(raw))).outcome == "OK"
    assert station.push(raw + b" " * (200_001 - len(raw))).status == 413
    assert station.client.post(
        station.server.url, content=iter([raw, b" " * 100_000, b" " * 100_001]), headers={"Content-Type": "text/xml"}
    ).status_code == 413  # fmt: skip


def test_too_large_by_far(station):
    """A body of many times the limit gets its answer too, and the next request is served."""
    answer = station.client.post(
        station.server.url, content=(b" " * 65536 for _ in range(40)), headers={"Content-Type": "text/xml"}
    )
    assert answer.status_code == 413
    assert station.push(an_envelope(a_request())).outcome == "OK"


def test_chunked(station):
    """A chunked body is a body."""
    raw = an_envelope(a_request())
    chunks = [raw[i : i + 100] for i in range(0, len(raw), 100)]
    answer = station.client.post(station.server.url, content=iter(chunks), headers={"Content-Type": "text/xml"})
    assert b"<outcome>OK</outcome>" in answer.content


def test_keep_alive(station):
    """Requests of every result share one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", station.server.port, timeout=20)
    sockets = set()
    for raw in (an_envelope(a_request()), an_envelope(a_request(debtor=ABSENT)), b"no xml", an_envelope(a_request())):
        connection.request("POST", "/paForNode", raw, {"Content-Type": "text/xml"})
        connection.getresponse().read()
        sockets.add(connection.sock.getsockname())
    connection.close()
    assert len(sockets) == 1


def test_body_cut_short(station):
    """A body that ends before its announced length is no request, whatever it looks like."""
    request = a_request()
    raw = an_envelope(request)
    head = f"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Type: text/xml\r\nContent-Length: {len(raw) + 9}\r\n\r\n"
    with __import__("socket").create_connection(("127.0.0.1", station.server.port), timeout=20) as connection:
        connection.sendall(head.encode() + raw)
        connection.shutdown(1)
        connection.recv(65536)
    assert stored(station, request) == []


def test_log_line(station):
    """One line for each request, with everything that tells it from others, and no personal data."""
    request = a_request()
    answer = station.push(an_envelope(request), X_Request_Id="my-request-1")
    line = logged(station, answer)
    assert answer.http.headers["x-request-id"] == line["request_id"] == "my-request-1"
    assert {name: line[name] for name in ("event", "operation", "result", "status")} == {
        "event": "request_answered",
        "operation": "paSendRTV2",
        "result": "stored",
        "status": 200,
    }
    assert (line["id_pa"], line["id_station"]) == (request["idPA"], request["idStation"])
    assert (line["receipt_id"], line["notice_number"]) == (request["receiptId"], request["noticeNumber"])
    assert line["duration_ms"] >= 0
    for personal in ("Pinco", "PLLPNC80A01X000X", "example.invalid", "Sempronia", "IT88X"):
        assert personal not in station.server.log


def test_hostile_request_id(station):
    """A request id that is none is replaced."""
    answer = station.push(an_envelope(a_request()), X_Request_Id="<script>")
    assert "<" not in answer.http.headers["x-request-id"]


def logged(station, answer):
    """The log line of an answer: it is written when the answer has left."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for line in station.log_lines():
            if line.get("request_id") == answer.http.headers["x-request-id"]:
                return line
        time.sleep(0.01)
    raise AssertionError("no log line")


def test_first_refusal(station):
    """The README's first refusal is answered, and found again, as it says."""
    readme = (ROOT / "README.md").read_text()
    [sample] = set(re.findall(r"@(tests/data/invalid\S+)", readme))
    [answer] = re.findall(r"<outcome>KO</outcome>.*</fault>", readme)
    raw = (ROOT / sample).read_bytes()
    assert answer in station.push(raw).http.text
    assert set(re.findall(r"refused show (\S+)", readme)) == {hashlib.sha256(raw).hexdigest()[:16]}
