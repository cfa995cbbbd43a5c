"""One attempt: what is sent, what counts as taken, what an attempt may cost, and which addresses are called at all."""

import base64
import ssl
import threading
import time
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import trustme
from pydantic import ValidationError
from receiver import SECRET, Receiver, endless, reset
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from station.config import Settings, Webhook
from station.deliver import address
from station.deliver.content import event_id
from station.deliver.webhook import WebhookClient, event, send_test, signature
from station.store.outgoing import Numbered

OTHER_SECRET = "whsec_" + base64.b64encode(b"another secret of 32 bytes......").decode()
RECEIPT = {
    "id_pa": "77777777777", "receipt_id": "abc0", "notice_number": "3" * 18, "iuv": "3" * 17,
    "fiscal_code": "77777777777", "amount": Decimal("120.50"), "raw": b"<xml/>", "charset": "utf-8",
    "received_at": datetime(2026, 7, 1, 10, tzinfo=UTC), "transfers": [], "debtor_name": "Pinco Pallino", "flags": [],
}  # fmt: skip
NUMBERED = Numbered(7, 1, datetime(2026, 7, 1, 10, tzinfo=UTC), RECEIPT)


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def a_webhook(url, **over):
    fields = {"kind": "webhook", "name": "erp", "url": url, "secret": SECRET, "connect_timeout": 0.5, "timeout": 0.5}
    return Webhook.model_validate(fields | over)


def attempt(url, resolve=address.resolve, numbered=NUMBERED, **over):
    """One attempt to send to `url`."""
    destination = a_webhook(url, **over)
    client = WebhookClient(destination, resolve=resolve)
    try:
        return client.send(event_id(numbered), event(numbered, destination, "urn:test"))
    finally:
        client.close()


# --- what is sent -----------------------------------------------------------------------------------------------------


def test_event(receiver):
    """The receiver's libraries verify and read it: CloudEvents attributes, and the receipt as the feed gives it."""
    assert attempt(receiver.url).delivered
    [got] = receiver.all
    attributes = got.event.get_attributes()
    assert {name: attributes[name] for name in ("source", "type", "subject", "datacontenttype", "specversion")} == {
        "source": "urn:test", "type": "receipt.stored", "subject": "77777777777/abc0",
        "datacontenttype": "application/json", "specversion": "1.0",
    }  # fmt: skip
    assert attributes["time"] == NUMBERED.numbered_at
    assert got.data["number"] == 7
    assert got.data["receipt"]["amount"] == "120.50"
    assert got.data["receipt"]["debtor_name"] == "Pinco Pallino"
    assert "raw" not in got.data["receipt"]
    assert "document" not in got.data
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"


def test_content(receiver):
    """Thin: identifiers only. With the document: its exact bytes. A second revision has a type and an id of its own."""
    attempt(receiver.url, content="thin")
    attempt(receiver.url, document=True)
    attempt(receiver.url, numbered=NUMBERED._replace(revision=2, number=9))
    attempt(receiver.url, document=True, numbered=NUMBERED._replace(receipt=RECEIPT | {"raw": None}))
    told = RECEIPT | {"raw": b"{}", "flags": ["provisional"]}
    attempt(receiver.url, document=True, numbered=NUMBERED._replace(receipt=told))
    thin, with_document, second, purged, provisional = receiver.all
    assert set(thin.data["receipt"]) == {"id_pa", "receipt_id", "notice_number", "iuv", "fiscal_code"}
    assert base64.b64decode(with_document.data["document"]) == b"<xml/>"
    assert second.event.get_type() == "receipt.completed"
    assert second.id != thin.id == with_document.id
    assert purged.data["document"] is None
    assert (provisional.data["document"], provisional.data["receipt"]["flags"]) == (None, ["provisional"])


def test_rotation(receiver):
    """While the secret changes, receivers with either verify it; others do not."""
    attempt(receiver.url, secret=OTHER_SECRET, previous_secret=SECRET)
    [got] = receiver.all
    for secret in (SECRET, OTHER_SECRET):
        Verifier(secret).verify(got.body, got.headers)
    with pytest.raises(WebhookVerificationError):
        Verifier("whsec_" + base64.b64encode(bytes(32)).decode()).verify(got.body, got.headers)


def test_signature():
    """The example of the specification's own libraries."""
    id_, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}'
    signed = signature(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], id_, 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_send_test(receiver):
    settings = Settings()
    assert send_test(settings, a_webhook(receiver.url)).delivered
    [got] = receiver.all
    assert got.event.get_type() == "station.test"
    assert got.event.get_source() == "urn:pagopa-receipt-station:station"
    receiver.answer = lambda _: 401
    answer = send_test(settings, a_webhook(receiver.url))
    assert (answer.status, answer.reason, answer.error) == (401, "http_401", "it answered HTTP 401")


# --- what counts ------------------------------------------------------------------------------------------------------


STATUSES = {
    **dict.fromkeys((200, 201, 202, 204, 299)),
    **dict.fromkeys((301, 302, 304, 307, 308, 400, 401, 404, 410, 500, 501, 599), False),
    **dict.fromkeys((429, 502, 503, 504), True),
}


@pytest.mark.parametrize("status", STATUSES)
def test_statuses(receiver, status):
    """2xx only is success; the failures of the destination differ from those of a receipt."""
    receiver.answer = lambda _: status
    answer = attempt(receiver.url)
    if STATUSES[status] is None:
        assert answer.delivered
    else:
        assert (answer.reason, answer.unreachable) == (f"http_{status}", STATUSES[status])
        assert answer.error == f"it answered HTTP {status}"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reset, "no_connection"),
        (endless(b"SSH-2.0-none\r\n\r\n", b"", 0.6), "protocol"),
        (endless(b"", b"", 0.02), "timeout"),
        (endless(b"HTTP/1.1 2", b"0", 0.02), "timeout"),
        (endless(b"HTTP/1.1 200 OK\r\n", b"a", 0.02), "timeout"),
        (endless(b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.02), "timeout"),
    ],
    ids=["reset", "no HTTP", "silence", "endless status", "endless header", "endless 1xx"],
)
def test_answers_that_are_none(receiver, answer, reason):
    """What is no answer is a failure of the destination, and no attempt goes on for ever."""
    receiver.answer = lambda _: answer
    began = time.monotonic()
    got = attempt(receiver.url)
    assert (got.reason, got.unreachable) == (reason, True)
    assert got.error
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [b"200", b"500"])
@pytest.mark.parametrize(
    "rest",
    [
        endless(b"\r\n", b"x" * 65536, 0),
        endless(b"\r\n", b"x", 0.02),
        endless(b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.02),
        endless(b"Content-Encoding: gzip\r\nContent-Length: 1000000000000\r\n\r\n", b"x" * 65536, 0),
    ],
    ids=["endless", "slow", "chunks", "huge"],
)
def test_bodies(receiver, rest, status):
    """The status decides; a body that does not end is left."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 %s Some\r\n" % status)
        rest(handler)

    receiver.answer = lambda _: answer
    assert attempt(receiver.url).reason == (None if status == b"200" else "http_500")


def test_truncated(receiver):
    """A connection that breaks in an answer does not take its status back."""

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        handler.wfile.flush()
        handler.close_connection = True

    receiver.answer = lambda _: answer
    assert attempt(receiver.url).delivered


def test_redirect_is_not_followed(receiver):
    with Receiver() as other:
        receiver.answer = lambda _: (307, {"Location": other.url})
        assert attempt(receiver.url).reason == "http_307"
        assert other.all == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), ("999999999999", 86_400), ("-5", None), ("soon", None), ("Wed, 01 Jan 2025 00:00:00 GMT", 0),
     ("Fri, 01 Jan 2999 00:00:00 GMT", 86_400)],
)  # fmt: skip
def test_retry_after(receiver, header, seconds):
    receiver.answer = lambda _: (503, {"Retry-After": header})
    assert attempt(receiver.url).retry_after == seconds


def test_refused_connection():
    with Receiver() as receiver:
        pass
    assert attempt(receiver.url).reason == "no_connection"


def test_connections_are_used_again(receiver):
    destination = a_webhook(receiver.url)
    client = WebhookClient(destination)
    for _ in range(3):
        assert client.send(event_id(NUMBERED), event(NUMBERED, destination, "urn:test")).delivered
    client.close()
    assert receiver.connections == 1


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    ca = trustme.CA()
    ca.file = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(ca.file)
    return ca


def a_tls_receiver(ca, *names):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(*names).configure_cert(context)
    return Receiver(tls=context)


def test_tls(ca):
    """The certificate must be of a CA that is trusted, and for the host of the URL, to whatever address that leads."""
    here = {"private_addresses": ["127.0.0.0/8"], "resolve": lambda _host, _port: ["127.0.0.1"]}
    with a_tls_receiver(ca, "hook.example") as receiver:
        url = f"https://hook.example:{receiver.port}/hook"
        assert attempt(url, ca_file=ca.file, **here).delivered
        assert attempt(url, **here).reason == "tls"
        assert attempt(url.replace("hook.", "other."), ca_file=ca.file, **here).reason == "tls"
        assert len(receiver.all) == 1


def test_http_where_tls_is_wanted(receiver):
    url = receiver.url.replace("http:", "https:")
    assert attempt(url, private_addresses=["127.0.0.0/8"]).reason == "tls"
    assert receiver.all == []


# --- addresses --------------------------------------------------------------------------------------------------------

FORBIDDEN = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:a00:1::",
    "2001:0:a00:1::", "nonsense", "",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "185.91.56.1", "2a00:1450:4002::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("text", FORBIDDEN)
def test_forbidden_addresses(text):
    """Whatever its form, an address that only this machine or its network reaches is not called."""
    assert not address.is_allowed(text)
    if text:
        answer = attempt("https://hook.example/", lambda _host, _port: [text])
        assert answer.reason == "address_forbidden"
        assert answer.unreachable


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text):
    assert address.is_allowed(text)
    assert not address.is_allowed(text, loopback=True)


def test_allowed_networks(receiver):
    """The configuration may name private networks. What is written as IPv6 is compared as what it is."""
    networks = a_webhook("https://a.example/", private_addresses=["10.0.0.0/8", "fd00::/8"]).private_addresses
    for text, allowed in (("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("fd00::7", True), ("192.168.0.1", False)):
        assert address.is_allowed(text, networks) is allowed


def test_one_of_several_addresses(receiver):
    """Of the addresses of a name only those that are allowed are called, one after the other."""
    called = []

    def resolve(host, port):
        called.append((host, port))
        return ["10.0.0.1", "::ffff:10.0.0.1", "127.0.0.2", "127.0.0.1"]

    url = receiver.url.replace("127.0.0.1", "localhost")
    assert attempt(url, resolve).delivered
    assert called == [("localhost", receiver.port)]


def test_plain_http_stays_on_this_machine():
    """Where the name localhost leads elsewhere, nothing is sent in the clear."""
    assert attempt("http://localhost:1/", lambda _host, _port: ["8.8.8.8"]).reason == "address_forbidden"


@pytest.mark.parametrize("host", ["0", "0x7f.1", "2130706433", "127.1", "0177.0.0.1", "[::ffff:7f00:1]", "[::1]"])
def test_other_spellings(receiver, host):
    """Other spellings of this machine's address are no way to it."""
    assert attempt(f"https://{host}:{receiver.port}/").reason in ("address_forbidden", "unknown_host")
    assert receiver.all == []


@pytest.mark.parametrize(
    "url",
    ["http://hook.example/", "http://127.0.0.1.example/", "http://localhost.example/", "http://127.0.0.1@example.org/",
     "http://127.0.0.1\\.example/", "ftp://127.0.0.1/", "https:///hook", "https://a.example:99999/",
     "https://a.example/ b", "https://a.example/\r\nX: y", "https://h\u00f6k.example/"],
)  # fmt: skip
def test_urls_that_are_none(url):
    with pytest.raises(ValidationError):
        a_webhook(url)


def test_names_without_address():
    def nothing(_host, _port):
        raise OSError("no such name")

    assert attempt("https://hook.example/", nothing).reason == "unknown_host"
    assert attempt("https://hook.example/", lambda _host, _port: []).reason == "unknown_host"


def test_silent_dns():
    """A resolver that does not answer costs the time for a connection, no more."""
    over = threading.Event()
    assert attempt("https://hook.example/", lambda _host, _port: [str(over.wait(20))]).reason == "timeout"
    over.set()
