"""The attacks on XML that OWASP lists, a case each by its name, against a running station.

The invariant: an answer of the README's table, the same worker alive, its memory flat, nothing fetched from anywhere,
and nothing stored that is not a receipt. What is a receipt in spite of its looks is stored as it came.
"""

import gzip
import re
import shutil
import socket
import sqlite3
import subprocess
from pathlib import Path

import httpx
import pytest
from build import a_request, an_envelope
from lxml import etree
from process import running_server

BOMB = gzip.compress(b" " * 20_000_000)
MARK = "MARKED-SECRET-OF-A-FILE"
SOAP = "http://schemas.xmlsoap.org/soap/envelope/"


def envelope(**over):
    return an_envelope(a_request(receiptId="attack", creditorReferenceId="01000000000000999", **over))


PLAIN = envelope()
DECLARATION, _, ROOT = PLAIN.partition(b"\n")


def with_dtd(dtd, body=b"", *, before=b""):
    """The envelope behind a document type, `body` in its description."""
    return DECLARATION + before + dtd + ROOT.replace(b"<description>", b"<description>" + body, 1)


def put(what, before=b"</receipt>", into=PLAIN):
    """`what` in the midst of the envelope."""
    assert before in into
    return into.replace(before, what + before, 1)


def laughs(entity=b"&lol9;"):
    levels = b"".join(b'<!ENTITY lol%d "%s">' % (n, b"&lol%d;" % (n - 1) * 10 if n else b"lol") for n in range(10))
    return b"<!DOCTYPE lolz [" + levels + b"]>", entity


MANY_ATTRIBUTES = b"<mapEntry " + b" ".join(b"a%d=''" % n for n in range(64)) + b"/>"

# Name -> what is sent and the statuses that may be answered. {url} is a server that must not be asked, {file} a file
# that must not be read.
ATTACKS = {
    # --- entities
    "billion laughs": (with_dtd(*laughs()), {400}),
    "billion laughs in an attribute": (
        with_dtd(laughs()[0]).replace(b"<receipt>", b'<receipt a="&lol9;">'), {400}),
    "billion laughs behind a long comment": (
        with_dtd(*laughs(), before=b"<!--" + b" " * 8192 + b"-->"), {400}),
    "laughs in attribute behind a long comment": (
        with_dtd(laughs()[0], before=b"<!--" + b" " * 8192 + b"-->").replace(b"<receipt>", b'<receipt a="&lol9;">'),
        {400}),
    "quadratic blowup": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY x "' + b"x" * 50_000 + b'">]>', b"&x;" * 10_000), {400}),
    "recursive entity": (with_dtd(b'<!DOCTYPE a [<!ENTITY a "&b;"><!ENTITY b "&a;">]>', b"&a;"), {400}),
    "parameter entity laughs": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY % a "x"><!ENTITY % b "%a;%a;%a;"><!ENTITY % c "%b;%b;">%c;]>'), {400}),
    "internal entity": (with_dtd(b'<!DOCTYPE a [<!ENTITY x "y">]>', b"&x;"), {400}),
    "undeclared entity": (put(b"&nothing;", b"</description>"), {400}),
    "default attribute from a DTD": (with_dtd(b'<!DOCTYPE a [<!ATTLIST receipt x CDATA "y">]>'), {400}),
    # --- external things
    "XXE reads a file": (with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{file}">]>', b"&x;"), {400}),
    "XXE asks a server": (with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "{url}">]>', b"&x;"), {400}),
    "XXE with a public id": (with_dtd(b'<!DOCTYPE a [<!ENTITY x PUBLIC "a" "{url}">]>', b"&x;"), {400}),
    "XXE behind a long comment": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{file}">]>', b"&x;", before=b"<!--" + b" " * 8192 + b"-->"),
        {400}),
    "blind XXE by parameter entities": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY % f SYSTEM "file://{file}"><!ENTITY % d SYSTEM "{url}">%d;]>'), {400}),
    "external DTD": (with_dtd(b'<!DOCTYPE a SYSTEM "{url}">'), {400}),
    "XXE in UTF-16": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{file}">]>', b"&x;")
        .decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16"), {400}),
    "XXE in UTF-7": (
        b'<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE a SYSTEM +ACI-{url}+ACIAPgA8-a/+AD4-', {400, 500}),
    "XXE in UTF-32": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{file}">]>', b"&x;")
        .decode().replace('encoding="UTF-8"', 'encoding="UTF-32"').encode("utf-32"), {400}),
    "XXE in EBCDIC": (
        with_dtd(b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>', b"&x;")
        .decode().replace('encoding="UTF-8"', 'encoding="IBM037"').encode("cp037"), {400}),
    "XXE in an encoding of escapes": (
        b'<?xml version="1.0" encoding="JAVA"?>\\u003c!DOCTYPE a SYSTEM "{url}"><a/>', {400, 500}),
    "XInclude": (
        put(b'<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file://{file}" parse="text"/>'), {200}),
    "XOP include": (put(b'<xop:Include xmlns:xop="http://www.w3.org/2004/08/xop/include" href="{url}"/>'), {200}),
    "stylesheet instruction": (DECLARATION + b'<?xml-stylesheet href="{url}" type="text/xsl"?>' + ROOT, {200}),
    "schema location (schema poisoning)": (
        PLAIN.replace(b"<receipt>", b'<receipt xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
                      b'xsi:schemaLocation="a {url}" xsi:noNamespaceSchemaLocation="{url}">'), {200}),
    "xml:base": (PLAIN.replace(b"<receipt>", b'<receipt xml:base="{url}">'), {200}),
    "WS-Addressing reply to another server": (
        PLAIN.replace(b"<soapenv:Body>", b'<soapenv:Header><ReplyTo xmlns="http://www.w3.org/2005/08/addressing">'
                      b"<Address>{url}</Address></ReplyTo></soapenv:Header><soapenv:Body>"), {200}),
    # --- size
    "coercive parsing: 100,000 levels": (put(b"<a>" * 60_000), {400}),
    "deep nesting, closed": (put(b"<a>" * 5_000 + b"</a>" * 5_000), {400}),
    "200,000 elements": (put(b"<a/>" * 240_000), {400}),
    "80,000 attributes": (put(b"<a " + b"".join(b"a%d='' " % n for n in range(80_000)) + b"/>"), {400}),
    "900 attributes": (put(b"<a " + b"".join(b"a%d='' " % n for n in range(900)) + b"/>"), {200}),
    "900 attributes of a known element": (
        PLAIN.replace(b"<receipt>", b"<receipt " + b"".join(b"a%d='' " % n for n in range(900)) + b">"), {200}),
    "80,000 attributes of a known element": (
        PLAIN.replace(b"<receipt>", b"<receipt " + b"".join(b"a%d='' " % n for n in range(80_000)) + b">"), {400}),
    "64 attributes on thousands of elements": (put(MANY_ATTRIBUTES * 1_500, b"</metadata>"), {400}),
    "40,000 namespaces": (put(b"<a " + b"".join(b"xmlns:n%d='u%d' " % (n, n) for n in range(40_000)) + b"/>"), {400}),
    "thousands of prefixes": (
        put(b"".join(b"<n%d:a/>" % (n % 1_900) for n in range(19_000))).replace(
            b"<receipt>", b"<receipt " + b"".join(b"xmlns:n%d='u%d' " % (n, n) for n in range(1_900)) + b">"), {400}),
    "as many prefixes as there may be": (
        put(b"".join(b"<n%d:fee/>" % (n % 900) for n in range(2_400))).replace(
            b"<receipt>", b"<receipt " + b"".join(b"xmlns:n%d='u%d' " % (n, n) for n in range(900)) + b">"), {200}),
    "a namespace for each of 19,000 elements": (put(b"".join(b"<a xmlns='u%d'/>" % n for n in range(19_000))), {400}),
    "namespaces and elements in UTF-16": (
        put(b"<a " + b"".join(b"xmlns:n%x='u' " % n for n in range(15_000)) + b"/>" + b"<a/>" * 18_000)
        .decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').encode("utf-16"), {400}),
    "colliding names": (
        put(b"<a " + b"".join(b"n%d:a='' xmlns:n%d='u' " % (n, n) for n in range(3_000)) + b"/>"), {400}),
    "a name of 900,000 letters": (put(b"<" + b"a" * 900_000 + b"/>"), {400}),
    "an attribute of 900,000 letters": (put(b"<a b='" + b"x" * 900_000 + b"'/>"), {200}),
    "a text of a megabyte": (put(b"x" * 1_000_000, b"</description>"), {200}),
    "an amount of a million digits": (PLAIN.replace(b"<fee>", b"<fee>" + b"1" * 1_000_000), {200}),
    "a date of a million digits": (PLAIN.replace(b"<applicationDate>", b"<applicationDate>" + b"9" * 1_000_000), {200}),
    "an amount of thousands of zeros": (re.sub(rb"<fee>.*?</fee>", b"<fee>" + b"0" * 900_000 + b"1.00</fee>", PLAIN),
                                        {200}),
    "a number of thousands of zeros": (PLAIN.replace(b"<idTransfer>", b"<idTransfer>" + b"0" * 400_000), {200}),
    "a number beyond its type": (PLAIN.replace(b"<idTransfer>", b"<idTransfer>" + b"9" * 20), {200}),
    "not a number": (re.sub(rb"<fee>.*?</fee>", b"<fee>NaN</fee>", PLAIN), {200}),
    "infinite and negative": (re.sub(rb"<fee>.*?</fee>", b"<fee>-INF</fee>", PLAIN), {200}),
    "a year before our era": (re.sub(rb"<applicationDate>.*?<", b"<applicationDate>-9999-01-01<", PLAIN), {200}),
    "2,400 transfers": (put(b"<transfer/>" * 2_400, b"</transferList>"), {200}),
    "15,000 transfers": (put(b"<transfer/>" * 15_000, b"</transferList>"), {400}),
    "2,400 transfers, some in a namespace": (
        put(b"<x:transfer xmlns:x='u'/>" * 900 + b"<transfer/>" * 1_500, b"</transferList>"), {200}),
    "a breach on line 70,000": (PLAIN.replace(b"<receipt>", b"<receipt>" + b"\n" * 70_000)
                                .replace(b"<fee>", b"<x/><fee>x"), {200}),
    "150,000 comments": (put(b"<!---->" * 140_000), {400}),
    "200,000 instructions": (put(b"<?a?>" * 190_000), {400}),
    "CDATA in 80,000 parts": (put(b"<![CDATA[]]>" * 80_000, b"</description>"), {400}),
    "character references": (put(b"&#65;" * 190_000, b"</description>"), {200}),
    "a request beyond the limit": (put(b" " * 1_100_000), {413}),
    # --- documents that are none
    "not closed": (PLAIN[:-20], {400}),
    "two roots": (PLAIN + ROOT, {400}),
    "tags crossed": (PLAIN.replace(b"</description></receipt>", b"</receipt></description>")
                     .replace(b"</receipt>", b"</receipts>"), {400}),
    "NUL in a text": (put(b"\0", b"</description>"), {400}),
    "control character reference": (put(b"&#27;[31m", b"</description>"), {400}),
    "surrogate reference": (put(b"&#xD800;", b"</description>"), {400}),
    "overlong UTF-8": (put(b"\xc0\xaf\xc0\xae", b"</description>"), {400}),
    "UTF-8 declared as UTF-16": (PLAIN.replace(b'encoding="UTF-8"', b'encoding="UTF-16"'), {200, 400}),
    "XML 1.1": (PLAIN.replace(b'version="1.0"', b'version="1.1"'), {200, 400}),
    "lone surrogate in UTF-16": (
        PLAIN.decode().replace('encoding="UTF-8"', 'encoding="UTF-16"').replace("<description>", "<description>\ud800")
        .encode("utf-16", "surrogatepass"), {400}),
    "noncharacter": (put("\uffff".encode(), b"</description>"), {400}),
    "declaration in the midst": (put(b'<?xml version="1.0"?>'), {400}),
    "binary XML": (b"\xe0\x00\x00\x01\x00" * 100, {400}),
    "JSON": (b'{"Envelope": {"Body": {}}}', {400}),
    # --- SOAP
    "two bodies": (put(b"<soapenv:Body/>", b"</soapenv:Envelope>"), {500}),
    "two requests in one body": (
        PLAIN.replace(b"</soapenv:Body>", PLAIN.partition(b"<soapenv:Body>")[2].partition(b"</soapenv:Body>")[0]
                      + b"</soapenv:Body>"), {500}),
    "envelope in an envelope": (
        b'<s:Envelope xmlns:s="' + SOAP.encode() + b'"><s:Body>' + ROOT + b"</s:Body></s:Envelope>", {500}),
    "signature wrapping": (
        PLAIN.replace(b"<soapenv:Body>", b"<soapenv:Header>" + PLAIN.partition(b"<soapenv:Body>")[2]
                      .partition(b"</soapenv:Body>")[0].replace(b"attack", b"wrapped")
                      + b"</soapenv:Header><soapenv:Body>"), {200}),
    "receiptId twice": (put(b"<receiptId>other</receiptId>", b"<noticeNumber>"), {200}),
    "receiptId in another namespace": (put(b'<receiptId xmlns="urn:x">other</receiptId>', b"<noticeNumber>"), {200}),
    "comment in an identifier": (PLAIN.replace(b"attack", b"att<!-- x -->ack"), {200}),
    "xsi:type": (PLAIN.replace(b"<receipt>", b'<receipt xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
                               b'xsi:type="ctDebtor">'), {200}),
    "xsi:nil of 900 elements": (
        put(b"<fee i:nil='1'/>" * 900).replace(
            b"<receipt>", b'<receipt xmlns:i="http://www.w3.org/2001/XMLSchema-instance">'), {200}),
    "xsi:type of 900 elements beside 900 namespaces": (
        put(b"<fee i:type='n899:x'/>" * 900).replace(
            b"<receipt>", b'<receipt a="" xmlns:i="http://www.w3.org/2001/XMLSchema-instance" '
            + b"".join(b"xmlns:n%d='u%d' " % (n, n) for n in range(900)) + b">"), {200}),
    "xsi:nil": (PLAIN.replace(b"<receiptId>attack", b'<receiptId xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
                              b'xsi:nil="true">'), {200}),
    # --- values
    "SQL in a value": (envelope(description="'); DROP TABLE receipt; --"), {200}),
    "SQL in an identifier": (PLAIN.replace(b"attack", b"' OR '1'='1"), {200}),
    "shell in a value": (envelope(description="$(touch /tmp/station-was-attacked); `id` | cat"), {200}),
    "path in an identifier": (PLAIN.replace(b"attack", b"../../../../etc/passwd"), {200}),
    "template in a value": (envelope(description="{{7*7}} ${jndi:ldap://127.0.0.1/x} %n%n%s"), {200}),
    "spreadsheet formula": (envelope(description="=cmd|' /C calc'!A0"), {200}),
    "markup in a value": (envelope(description="<script>alert(1)</script>]]>"), {200}),
    "terminal escapes in an identifier": (PLAIN.replace(b"attack", "\u009b31m\u202e".encode()), {200}),
}  # fmt: skip


@pytest.fixture(scope="module")
def station(tmp_path_factory, sqlite_migrated):
    folder = tmp_path_factory.mktemp("attacks")
    shutil.copy(sqlite_migrated, folder / "station.sqlite3")
    url = f"sqlite:///{folder / 'station.sqlite3'}"
    (folder / "secret.txt").write_text(MARK)
    with (
        running_server(folder, url, config="[server]\nworkers = 1\nmax_body = 1060000", fork=True) as server,
        httpx.Client(timeout=15) as client,  # the Nodo waits no longer
        socket.create_server(("127.0.0.1", 0)) as outside,
    ):
        server.client, server.folder, server.outside = client, folder, outside
        outside.setblocking(False)
        push(server, an_envelope(a_request()))
        server.small = memory(server)
        yield server


def push(server, raw, **headers):
    return server.client.post(server.url, content=raw, headers={"Content-Type": "text/xml"} | headers)


def memory(server):
    """Resident memory of the worker in MiB."""
    command = ["ps", "-o", "rss=", "--ppid", str(server.process.pid)]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())) / 1024


def rows(server, sql):
    with sqlite3.connect(server.folder / "station.sqlite3") as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(station, name):
    """An answer of the table, the worker alive and small, nothing fetched, and nothing stored that is no receipt."""
    raw, statuses = ATTACKS[name]
    url = f"http://127.0.0.1:{station.outside.getsockname()[1]}/x"
    for old, new in (("{url}", url), ("{file}", str(station.folder / "secret.txt"))):
        raw = raw.replace(old.encode(), new.encode()).replace(old.encode("utf-16-le"), new.encode("utf-16-le"))
    before = dict(rows(station, "SELECT receipt_id, raw FROM receipt"))
    answer = push(station, raw)
    assert answer.status_code in statuses
    assert MARK not in answer.text
    assert len(answer.content) < 2_000
    stored = dict(rows(station, "SELECT receipt_id, raw FROM receipt"))
    new = set(stored) - set(before)
    if b"<outcome>OK</outcome>" not in answer.content:
        assert new == set()
    for receipt_id in new:
        assert stored[receipt_id] == raw
        assert len(etree.fromstring(raw).findall(".//{*}receipt")) >= 1
    assert all(MARK.encode() not in one for (one,) in rows(station, "SELECT raw FROM receipt"))
    with pytest.raises(BlockingIOError):
        station.outside.accept()
    assert b"<outcome>OK</outcome>" in push(station, an_envelope(a_request())).content
    assert station.log.count("Booting worker") == 1
    assert memory(station) - station.small < 100
    assert MARK not in station.log
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", station.log)
    assert "unexpected" not in station.log


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": 'multipart/related; type="application/xop+xml"; boundary=x'},
        {"Content-Type": "application/soap+xml"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "deflate, gzip"},
    ],
    ids=["MTOM", "SOAP 1.2", "gzip bomb", "two codings"],
)
def test_wrapped(station, headers):
    """Attachments and compressed bodies are not unwrapped: 415."""
    assert push(station, BOMB, **headers).status_code == 415
    assert memory(station) - station.small < 100


def test_spoofed_soap_action(station):
    """SOAPAction names another operation than the body: the body counts."""
    answer = push(station, an_envelope(a_request()), SOAPAction='"paVerifyPaymentNotice"')
    assert b"paSendRTV2Response" in answer.content


def test_wrapped_identifier(station):
    """Of two receipts in one document, the one in the header is nobody's."""
    raw = ATTACKS["signature wrapping"][0].replace(b"attack", b"outer")
    assert b"<outcome>OK</outcome>" in push(station, raw).content
    assert [
        one for (one,) in rows(station, "SELECT receipt_id FROM receipt WHERE receipt_id IN ('outer', 'wrapped')")
    ] == ["outer"]


def test_values_are_only_values(station):
    """What looks like SQL, a path or a command is in the database as it was sent."""
    text = "'); DROP TABLE receipt; -- $(id) ../../x {0}"
    request = a_request(description=text)
    push(station, an_envelope(request))
    found = rows(station, f"SELECT description FROM receipt WHERE receipt_id = '{request['receiptId']}'")
    assert found == [(text,)]
    assert not Path("/tmp/station-was-attacked").exists()
