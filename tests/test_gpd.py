"""The GPD client against the simulator, the days it is asked for, and the keys it is given."""

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trustme
from gpd_simulator import GpdSimulator, make_position, make_receipt
from hypothesis import example, given
from hypothesis import strategies as st

from station import config
from station.config import Gpd
from station.errors import (
    ApiAddressError,
    ApiAnswerError,
    ApiError,
    ApiForbiddenError,
    ApiKeyError,
    ApiRequestError,
    ApiTimeoutError,
    ApiUnavailableError,
    ConfigError,
    StoppedError,
)
from station.pagopa import ApiClient, EcClient, usable_iuv
from station.reconcile.listing import Span
from station.reconcile.windows import cut, italian_day, midnight, padded, windows
from station.token_bucket import TokenBucket

ORG = "77777777777"
FIRST, LAST = datetime(2026, 3, 1), datetime(2026, 3, 30, 23, 59, 59)  # noqa: DTZ001  (Italian civil time)
MARCH = {"start": "2026-03-01", "end": "2026-03-29"}
QUICK: dict[str, Any] = {"rate": 10_000, "retries": 2, "retry_pause": 0.05, "timeout": 60}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpdSimulator]:
    with GpdSimulator.start(tmp_path_factory.mktemp("gpd")) as simulator:
        yield simulator


@pytest.fixture
def gpd(running: GpdSimulator) -> Iterator[GpdSimulator]:
    running.reset(settings={"rate_calls": 0})
    yield running
    assert running.stats()["errors"] == []


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def connect(gpd: GpdSimulator, stop: threading.Event) -> Iterator[Callable[..., EcClient]]:
    """An EC's client with quick settings."""
    clients = []

    def connect(key: str = "receipts-key", core_key: str | None = "core-key", **over: Any) -> EcClient:
        settings = Gpd(**({"url": gpd.receipts_url, "positions_url": gpd.core_url} | QUICK | over))
        clients.append(ApiClient(settings, stop))
        return EcClient(clients[-1], ORG, key, core_key)

    yield connect
    for client in clients:
        client.__exit__()


# --- answers ----------------------------------------------------------------------------------------------------------


def test_page(gpd, connect):
    """A page gives IUVs and payment times as they are, and how many pages there are."""
    gpd.load(generate={"org": ORG, "count": 130, "from": "2026-03-01", "to": "2026-03-29"})
    client = connect()
    first, second = client.page(FIRST, LAST, 0), client.page(FIRST, LAST, 1)
    assert (first.pages, len(first.rows), len(second.rows), first.unreadable) == (2, 100, 30, 0)
    wanted = {(one["iuv"], one["payment_date_time"]) for one in (make_receipt(ORG, n, **MARCH) for n in range(130))}
    assert {(row.iuv, row.paid_at) for row in (*first.rows, *second.rows)} == wanted
    assert client.calls == 2


def test_receipt_is_the_exact_document(gpd, connect):
    """A receipt's bytes come as they were sent."""
    gpd.load(receipts=[{"org": ORG, "n": 1}])
    made = make_receipt(ORG, 1)
    answer = connect().receipt(made["iuv"])
    assert (answer.status, answer.body) == (200, made["xml"])
    assert answer.request_id == gpd.log()[-1]["request_id"]


@pytest.mark.parametrize("nothing_found", [200, 404])
def test_nothing_listed(gpd, connect, nothing_found):
    """An empty list is nothing, in either form."""
    gpd.settings(nothing_found=nothing_found)
    page = connect().page(FIRST, LAST, 0)
    assert page is None or (page.pages, list(page.rows)) == (1, [])


def test_past_the_last_page(gpd, connect):
    """A page behind the last is no page and no error."""
    gpd.load(receipts=[{"org": ORG, "n": 1, **MARCH}])
    assert connect().page(FIRST, LAST, 1) is None


@pytest.mark.parametrize(("unpaid", "status"), [(False, 404), (True, 422)])
def test_not_there_yet(gpd, connect, unpaid, status):
    """A receipt that is unknown or whose position is not paid is not there yet, and asked for once."""
    made = make_receipt(ORG, 1)
    if unpaid:
        gpd.load(receipts=[{"org": ORG, "n": 1, "unpaid": True}])
    client = connect()
    assert client.receipt(made["iuv"]).status == status
    assert client.calls == 1


@pytest.mark.parametrize(("style", "status"), [("problem", 401), ("gateway", 403), ("html", 401), ("empty", 401)])
def test_bad_key(gpd, connect, style, status):
    """A key that is not accepted ends it with the first call, and the error says which call."""
    gpd.settings(unknown_key_status=status)
    client = connect(key="wrong")
    with pytest.raises(ApiKeyError) as caught:
        client.page(FIRST, LAST, 0)
    assert client.calls == 1
    assert caught.value.status == status
    assert caught.value.request_id == gpd.log()[-1]["request_id"]
    assert caught.value.request_id in str(caught.value)
    assert "wrong" not in str(caught.value).split(":")[0]


def test_forbidden_receipt(gpd, connect):
    """A receipt of another segregation code is forbidden, which says nothing of the EC's others."""
    gpd.load(keys={"receipts-key": {"orgs": "*", "segregation_codes": ["47"]}}, receipts=[{"org": ORG, "n": 1}])
    with pytest.raises(ApiForbiddenError):
        connect().receipt(make_receipt(ORG, 1)["iuv"])


def test_rejected_request(gpd, connect):
    """A first page that is answered 400 is a rejected request, not an empty list."""
    gpd.fault(endpoint="list", status=400, style="problem")
    with pytest.raises(ApiRequestError):
        connect().page(FIRST, LAST, 0)


@pytest.mark.parametrize("path", ["/gpd/payments-receipts-service/v2", "/gpd/payments-receipts-service/v1/receipts"])
def test_wrong_address_is_no_quiet_day(gpd, connect, path):
    """The gateway's or the server's 404 (nothing is at this address) is an error, unlike the service's own."""
    client = connect(url=gpd.base_url + path)
    with pytest.raises(ApiAddressError, match=r"check gpd\.url"):
        client.page(FIRST, LAST, 0)
    with pytest.raises(ApiAddressError, match=r"check gpd\.url"):
        client.receipt("01000000000000017")
    with pytest.raises(ApiAddressError, match=r"check gpd\.positions_url"):
        connect(positions_url=f"{gpd.core_url}/x").positions("PAID", FIRST.date(), LAST.date(), 0)
    assert client.calls == 2


NOT_ITS_OWN = {
    "spring": {"json": {"timestamp": "2026-03-01T10:00:00Z", "status": 404, "error": "Not Found", "path": "/x"}},
    "rfc 9457": {"json": {"title": "Not Found", "status": 404, "detail": "No static resource.", "instance": "/x"}},
    "title no text": {"json": {"title": None, "status": 404}},
    "list": {"json": ["title"]},
    "html": {"style": "html"},
    "html called json": {"style": "html", "content_type": "application/json"},
    "empty": {"style": "empty"},
    "gateway": {"style": "gateway"},
}


@pytest.mark.parametrize("fault", NOT_ITS_OWN.values(), ids=NOT_ITS_OWN)
def test_only_the_services_own_404_is_nothing(gpd, connect, fault):
    """Nothing was found only where the service says so, in a list or for a receipt."""
    gpd.fault(status=404, **fault)
    client = connect()
    for call in (lambda: client.page(FIRST, LAST, 0), lambda: client.receipt("01000000000000017")):
        with pytest.raises(ApiAddressError):
            call()


def test_hours_are_asked_for_by_the_second(gpd, connect):
    """Whole days are asked for as days; other bounds as moments, of which nothing is lost."""
    gpd.load(receipts=[{"org": ORG, "n": 1, "payment_date_time": "2026-03-02T10:59:59.5"}])
    client = connect()
    hour = cut(FIRST + timedelta(days=1, hours=10), LAST, 1)
    assert client.page(hour.first, hour.last, 0).rows == []
    assert len(client.page(hour.next_first, hour.last + timedelta(hours=1), 0).rows) == 1
    client.page(FIRST, LAST, 0)
    asked = [(call["params"]["from"], call["params"]["to"]) for call in gpd.log()]
    assert asked[0] == ("2026-03-02T10:00:00", "2026-03-02T10:59:59")
    assert asked[2] == ("2026-03-01", "2026-03-30")


def test_narrowing_goes_before_trying_again(gpd, connect):
    """Where the caller can do better than the same again, a timeout is not tried again, and an error once."""
    impatient = connect(retries=5, timeout=0.3, connect_timeout=0.3)
    gpd.fault(name="slow", delay=1)
    with pytest.raises(ApiTimeoutError):
        impatient.page(FIRST, LAST, 0, retries=1)
    assert impatient.calls == 1
    gpd.clear_faults()
    client = connect(retries=5)
    gpd.fault(status=500)
    with pytest.raises(ApiUnavailableError):
        client.page(FIRST, LAST, 0, retries=1)
    assert client.calls == 2
    gpd.clear_faults()
    gpd.fault(status=429, headers={"Retry-After": "0"}, times=3)
    assert client.page(FIRST, LAST, 0, retries=1) is not None
    assert client.calls == 6


PAGE = {"currentPageNumber": 0, "length": 0, "totalPages": 1, "results": []}
UNREADABLE = {
    "html with 200": {"status": 200, "style": "html", "content_type": "text/html"},
    "html called json": {"status": 200, "style": "html", "content_type": "application/json"},
    "truncated": {"truncate": 0.5},
    "empty": {"body": ""},
    "not json": {"body": "[1,"},
    "deep": {"body": "[" * 100_000},
    "list": {"json": [PAGE]},
    "null": {"json": None, "body": "null"},
    "no results": {"json": {"totalPages": 1}},
    "results no list": {"json": PAGE | {"results": {"iuv": "1"}}},
    "no pages": {"json": {"results": []}},
    "pages text": {"json": PAGE | {"totalPages": "1"}},
    "pages bool": {"json": PAGE | {"totalPages": True}},
    "pages negative": {"json": PAGE | {"totalPages": -1}},
    "pages without end": {"json": PAGE | {"totalPages": 2**31}},
    "huge": {"huge": 50_000_000},
    "huge in chunks": {"huge": 50_000_000, "chunked": True},
    "bomb": {"huge": 500_000_000, "gzip": True},
    "gzip that is none": {"headers": {"Content-Encoding": "gzip"}},
    "encoding": {"headers": {"Content-Encoding": "br"}},
    "redirect": {"status": 302, "headers": {"Location": "https://example.invalid/"}},
    "no content": {"status": 204, "style": "empty"},
    "teapot": {"status": 418},
}


@pytest.mark.parametrize("fault", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_list(gpd, connect, fault):
    """Whatever comes instead of a page is an error of its own, after one more try, and never a crash."""
    gpd.load(generate={"org": ORG, "count": 20, "from": "2026-03-01", "to": "2026-03-29"})
    gpd.fault(endpoint="list", **fault)
    client = connect()
    with pytest.raises(ApiAnswerError) as caught:
        client.page(FIRST, LAST, 0)
    assert client.calls == 2
    assert len(str(caught.value)) < 400
    assert caught.value.request_id


@pytest.mark.parametrize("name", ["html with 200", "huge", "huge in chunks", "bomb", "encoding", "redirect", "teapot"])
def test_unreadable_receipt(gpd, connect, name):
    """The same for a receipt, which is asked for once: later runs ask again."""
    gpd.load(receipts=[{"org": ORG, "n": 1}])
    gpd.fault(endpoint="receipt", **UNREADABLE[name])
    client = connect()
    with pytest.raises(ApiAnswerError):
        client.receipt(make_receipt(ORG, 1)["iuv"])
    assert client.calls == 1


def test_compressed_answer(gpd, connect):
    """An answer that is compressed though nobody asked for it is read."""
    gpd.load(receipts=[{"org": ORG, "n": 1}])
    gpd.fault(gzip=True)
    assert connect().receipt(make_receipt(ORG, 1)["iuv"]).body == make_receipt(ORG, 1)["xml"]


@pytest.mark.parametrize(
    "row",
    [
        None, 5, {}, {"iuv": None}, {"iuv": 17}, {"iuv": ""}, {"iuv": "."}, {"iuv": ".."}, {"iuv": "1" * 36},
        {"iuv": "0 1"}, {"iuv": "01\n"}, {"iuv": "01", "organizationFiscalCode": "88888888888"},
        {"iuv": "01\ud800"}, {"iuv": "01\x1b[31m"}, {"iuv": "01\x9b"}, {"iuv": "01\u202e"}, {"iuv": "01\x00"},
    ],
)  # fmt: skip
def test_unreadable_row(gpd, connect, row):
    """A row without a usable IUV, or of another EC, is counted and does not hide the others."""
    good = {"iuv": "01000000000000017", "organizationFiscalCode": ORG, "paymentDateTime": None}
    gpd.fault(json=PAGE | {"results": [row, good]})
    page = connect().page(FIRST, LAST, 0)
    assert ([one.iuv for one in page.rows], page.unreadable) == (["01000000000000017"], 1)


@pytest.mark.parametrize("hostile", ["\ud800", "\x1b[31m", "\n", "\u202e", "\x00"])
def test_hostile_fields(gpd, connect, hostile):
    """What surrounds an IUV is left out where no database or terminal would take it; the receipt stays known."""
    gpd.fault(json=PAGE | {"results": [{"iuv": "01", "paymentDateTime": hostile, hostile: hostile}]}, endpoint="list")
    assert [(one.iuv, one.paid_at) for one in connect().page(FIRST, LAST, 0).rows] == [("01", "")]
    option = {"iuv": "01", "nav": f"3{hostile}", "amount": 100, "status": "PO_PAID"}
    found = {"payment_position_list": [{"paymentOption": [option]}], "page_info": {"total_pages": 1}}
    gpd.fault(json=found, endpoint="positions")
    assert [(one.iuv, one.notice_number) for one in connect().positions("PAID", FIRST, LAST, 0).paid] == [("01", None)]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
@example("a/../b")
@example("%2e%2e")
@example("1?x=1#y")
def test_iuv_stays_in_its_place(text):
    """Whatever passes for an IUV is one segment of the URL's path."""
    if usable_iuv(text):
        client = EcClient(ApiClient(Gpd(url="https://example.invalid/v1"), threading.Event()), ORG, "key")
        import httpx

        asked = []
        client._ec_calls.get = lambda url, *_, **__: asked.append(url)  # type: ignore[method-assign]
        client.receipt(text)
        path = httpx.URL(asked[0]).raw_path.decode()
        assert path.startswith(f"/v1/payments/{ORG}/receipts/")
        assert path.count("/") == 5
        assert "?" not in path


# --- trying again -----------------------------------------------------------------------------------------------------

PASSING = {
    "refused before": {"drop": "before"},
    "reset": {"drop": "reset"},
    "dropped after the headers": {"drop": "headers"},
    "dropped in the middle": {"drop": "middle"},
    "500": {"status": 500, "style": "problem"},
    "502 html": {"status": 502, "style": "html"},
    "503": {"status": 503, "style": "gateway"},
    "504 empty": {"status": 504, "style": "empty"},
    "429": {"status": 429},
    "429 in seconds": {"status": 429, "headers": {"Retry-After": "0"}},
    "429 nonsense": {"status": 429, "headers": {"Retry-After": "soon"}},
    "late": {"delay": 4.0},
    "trickling": {"trickle": 12.0},
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_passing_trouble(gpd, connect, fault):
    """Trouble that passes is not noticed but for another call."""
    gpd.load(receipts=[{"org": ORG, "n": 1, **MARCH}])
    gpd.fault(times=1, **fault)
    # Only an answer that is late in any case ends a call for being late: others are late on a busy machine.
    patience = 1.5 if {"delay", "trickle"} & set(fault) else 60
    client = connect(timeout=patience, connect_timeout=patience)
    assert len(client.page(FIRST, LAST, 0).rows) == 1
    assert client.calls == 2
    assert gpd.stats()["repeated_request_ids"] == gpd.stats()["without_request_id"] == 0


def test_lasting_trouble(gpd, connect):
    """Trouble that lasts ends after the tries that are configured, with the last call's id."""
    gpd.down()
    client = connect(retries=2)
    with pytest.raises(ApiUnavailableError) as caught:
        client.page(FIRST, LAST, 0)
    assert client.calls == 3
    assert caught.value.request_id == gpd.log()[-1]["request_id"]


def test_nobody_listens(connect):
    """An address where nobody listens is unavailable, and the error says so."""
    with pytest.raises(ApiUnavailableError, match="ConnectError"):
        connect(url="http://127.0.0.1:9/", retries=0).page(FIRST, LAST, 0)


def test_tries_are_bounded_in_time(gpd, connect):
    """A pause that would lead beyond the time for one call is not made."""
    gpd.fault(status=503, headers={"Retry-After": "3600"})
    client = connect(retries=5, retry_within=60)
    with pytest.raises(ApiUnavailableError):
        client.page(FIRST, LAST, 0)
    assert client.calls == 1


def test_down_for_all(gpd, connect):
    """After some calls in vain every other gets one try, until one succeeds: an outage is not waited for each time."""
    gpd.down()
    client = connect(retries=1)
    for _ in range(5):
        with pytest.raises(ApiUnavailableError):
            client.page(FIRST, LAST, 0)
    assert client.calls == 3 * 2 + 2 * 1
    gpd.up()
    client.page(FIRST, LAST, 0)
    gpd.down()
    with pytest.raises(ApiUnavailableError):
        client.page(FIRST, LAST, 0)
    assert client.calls == 8 + 1 + 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_holds_everyone(gpd, connect, form):
    """After a 429 the next call of anyone with the key waits as long as Retry-After says, in either form."""
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    text = "1" if form == "seconds" else format_datetime(until, usegmt=True)
    gpd.load(receipts=[{"org": ORG, "n": 1, **MARCH}])
    gpd.fault(times=1, status=429, headers={"Retry-After": text})
    client = connect()
    began = time.monotonic()
    client.page(FIRST, LAST, 0)
    calls = gpd.log()
    assert [call["status"] for call in calls] == ["429", "200"]
    if form == "seconds":
        assert time.monotonic() - began >= 1
    else:
        assert datetime.now(UTC) >= until


def test_stop_ends_a_pause(gpd, connect, stop):
    """Told to stop, nobody waits on."""
    gpd.fault(status=503, headers={"Retry-After": "50"})
    client = connect()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(StoppedError):
        client.page(FIRST, LAST, 0)


def test_connections_are_reused(gpd, connect):
    """Many calls need one connection."""
    client = connect()
    for _ in range(10):
        client.page(FIRST, LAST, 0)
    assert gpd.stats()["connections"] == 1


def test_proxy(gpd, connect):
    """Through a proxy the call goes to the proxy, for the API's address."""
    client = connect(url="http://api.example.invalid/v1", proxy=gpd.base_url, retries=0)
    with pytest.raises(ApiError):
        client.page(FIRST, LAST, 0)
    assert gpd.log()[-1]["path"].startswith(f"http://api.example.invalid/v1/payments/{ORG}/receipts?")


def test_environment_has_no_say(gpd, connect, monkeypatch):
    """A proxy that only the environment names is not used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert connect().page(FIRST, LAST, 0) is not None


class Empty(BaseHTTPRequestHandler):
    """Answers every call with an empty page."""

    def do_GET(self) -> None:
        body = json.dumps(PAGE).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_tls(connect, tmp_path):
    """A server's certificate must come from a CA that is trusted: the usual ones, or those of the configuration."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}"
        assert connect(url=url, ca_file=tmp_path / "ca.pem").page(FIRST, LAST, 0).pages == 1
        with pytest.raises(ApiUnavailableError, match="certificate verify failed"):
            connect(url=url, retries=0).page(FIRST, LAST, 0)
        server.shutdown()


# --- the rate ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still, and an event that moves it instead of waiting."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def is_set(self) -> bool:
        return False


def test_rate():
    """Calls keep the interval of the rate."""
    clock = Clock()
    bucket = TokenBucket(5, clock=clock)
    moments = []
    for _ in range(6):
        bucket.wait(clock)
        moments.append(round(clock.now - 100, 6))
    assert moments == [0, 0.2, 0.4, 0.6, 0.8, 1]


def test_burst():
    """After a quiet time as many as the burst go at once, then one each interval; a hold keeps all of them back."""
    clock = Clock()
    bucket = TokenBucket(5, burst=3, clock=clock)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    clock.now += 0.3
    assert [bucket.take() for _ in range(2)] == [True, False]
    bucket.hold(10)
    clock.now += 9.9
    assert not bucket.take()
    clock.now += 100
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("remaining", "holds"), [("100", []), ("20", []), ("19", [0.5]), ("10", [5]), ("0", [10]), ("-1", []), ("x", [])]
)
def test_remaining_calls_are_heeded(gpd, connect, monkeypatch, remaining, holds):
    """The fewer calls the gateway has left for the key, the longer the next one waits: the key may have other users."""
    held = []
    monkeypatch.setattr(TokenBucket, "hold", lambda _, seconds: held.append(seconds))
    gpd.settings(rate_calls=100)
    gpd.fault(headers={"x-remaining-calls-per-period": remaining}, times=1)
    client = connect()
    client.page(FIRST, LAST, 0)
    client.page(FIRST, LAST, 0)
    assert held == pytest.approx(holds)


def test_rate_is_shared(gpd, connect, monkeypatch):
    """Threads with one key share its rate."""
    clock = Clock()

    class Paced(TokenBucket):
        def __init__(self, rate):
            super().__init__(rate, clock=clock)

        def wait(self, _stop):
            super().wait(clock)

    monkeypatch.setattr("station.pagopa.http.TokenBucket", Paced)
    client = connect(rate=20)
    threads = [threading.Thread(target=client.receipt, args=(f"0{n}",)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gpd.stats()["calls"] == client.calls == 20
    assert clock.now - 100 >= 19 / 20 - 1e-6


# --- positions --------------------------------------------------------------------------------------------------------


def test_positions(gpd, connect):
    """Paid options come with notice number and euro, unpaid instalments do not."""
    gpd.load(positions=[{"org": ORG, "n": n, **MARCH} for n in range(60)])
    client = connect()
    pages = [client.positions("PAID", FIRST.date(), LAST.date(), number) for number in (0, 1)]
    assert pages[0].pages == 2
    made = [make_position(ORG, n, **MARCH)["paymentOption"][0] for n in range(60)]
    assert {(one.iuv, one.notice_number, str(one.amount)) for page in pages for one in page.paid} == {
        (option["iuv"], option["nav"], f"{option['amount'] / 100:.2f}") for option in made
    }


def test_positions_need_their_key(gpd, connect):
    """GPD-Core has a key of its own."""
    with pytest.raises(ApiRequestError):
        connect(core_key=None).positions("PAID", FIRST.date(), LAST.date(), 0)
    with pytest.raises(ApiKeyError):
        connect(core_key="receipts-key").positions("PAID", FIRST.date(), LAST.date(), 0)


@pytest.mark.parametrize("body", [{}, {"payment_position_list": []}, {"payment_position_list": {}, "page_info": {}}])
def test_unreadable_positions(gpd, connect, body):
    """Positions that cannot be read are an error."""
    gpd.fault(json=body)
    with pytest.raises(ApiError):
        connect().positions("PAID", FIRST.date(), LAST.date(), 0)


# --- days -------------------------------------------------------------------------------------------------------------

DAYS = st.dates(date(2025, 1, 1), date(2027, 12, 31))


@given(DAYS, st.integers(0, 400), st.integers(2, 30), DAYS, st.times())
@example(date(2026, 3, 1), 60, 30, date(2026, 3, 30), clock(23, 59, 59, 500_000))
def test_windows_leave_no_gap(first, length, days, day, at):
    """Windows are short enough for the API, and each payment between the bounds is in one, whatever its fraction."""
    last = first + timedelta(days=length)
    found = list(windows(first, last, days))
    assert all(window.last - window.first < timedelta(days=days) for window in found)
    assert (found[0].first, found[-1].last) == (midnight(first), midnight(last) + timedelta(days=1, seconds=-1))
    assert_no_gap(found, f"{day}T{at}")


@given(DAYS, st.lists(st.integers(1, 720), min_size=1, max_size=6), st.times())
@example(date(2026, 3, 1), [1], clock(23, 59, 59, 500_000))
def test_narrow_windows_leave_no_gap(day, hours, at):
    """Nor do windows of hours, whatever their length, and each begins behind the one before."""
    end = midnight(day) + timedelta(days=3, seconds=-1)
    found, start, lengths = [], midnight(day), iter(hours * 1000)
    while start is not None:
        length = next(lengths)
        found.append(cut(start, end, length))
        assert found[-1].last - found[-1].first < timedelta(hours=length)
        assert found[-1].next_first is None or found[-1].next_first > start
        start = found[-1].next_first
    assert found[-1].last == end
    assert_no_gap(found, f"{day + timedelta(days=1)}T{at}")


def assert_no_gap(found, paid_at):
    """As the service compares: with bounds as Java writes them, without seconds that are zero."""
    bounds = [(java(one.first), java(one.last)) for one in found]
    listed = [one for one, (low, high) in zip(found, bounds, strict=True) if low <= paid_at <= high]
    if bounds[0][0] <= paid_at <= bounds[-1][1]:
        assert listed
    assert [one.again(paid_at) for one in listed][-1:] in ([False], [])
    assert all(one.again(paid_at) for one in listed[:-1])


def java(moment):
    return moment.isoformat(timespec="seconds" if moment.second else "minutes")


def test_span():
    """What one call covers is halved where it fails or is slow, down to an hour, and doubled where it is quick."""
    span = Span(720, 720, timeout=30)
    window = cut(midnight(date(2026, 3, 1)), midnight(date(2026, 6, 1)), span.hours)
    tried = [span.hours]
    while span.can_narrow(window):
        span.narrow(window)
        window = cut(window.first, midnight(date(2026, 6, 1)), span.hours)
        tried.append(span.hours)
    assert tried == [720, 360, 180, 90, 45, 22, 11, 5, 2, 1]
    for slowest, hours in ((1, 2), (1, 4), (5, 4), (8, 2), (1, 4)):
        span.read(cut(window.first, midnight(date(2026, 6, 1)), span.hours), slowest)
        assert span.hours == hours


def test_span_grows_over_what_cannot_be_read():
    """Where no hour can be read for days, or only some pages can, the walk does not go on hour by hour for ever."""
    span = Span(720, 1, timeout=30)
    for _ in range(99):
        span.give_up(partly=False)
    assert span.hours == 1
    span.give_up(partly=False)
    span.give_up(partly=False)
    assert span.hours == 4
    assert not span.can_narrow(cut(midnight(date(2026, 3, 1)), midnight(date(2026, 4, 1)), 4))
    span.read(cut(midnight(date(2026, 3, 1)), midnight(date(2026, 4, 1)), 4), 1)
    assert span.can_narrow(cut(midnight(date(2026, 3, 1)), midnight(date(2026, 4, 1)), 4))
    span = Span(720, 1, timeout=30)
    span.give_up(partly=True)
    assert span.hours == 2


def test_padded():
    """A range is asked for with a day more on each side, but for days to come."""
    today = date(2026, 11, 23)
    assert padded(date(2026, 3, 1), date(2026, 3, 5), today) == (date(2026, 2, 28), date(2026, 3, 6))
    assert padded(date(2026, 11, 23), date(2026, 11, 23), today) == (date(2026, 11, 22), today)
    assert padded(date(2027, 1, 1), date(2027, 1, 2), today) == (today, today)


def test_italian_day():
    """The day is Italy's: late in the evening of UTC it is tomorrow there."""
    assert italian_day(datetime(2026, 7, 1, 22, 30, tzinfo=UTC)) == date(2026, 7, 2)
    assert italian_day(datetime(2026, 12, 1, 22, 30, tzinfo=UTC)) == date(2026, 12, 1)


# --- keys -------------------------------------------------------------------------------------------------------------

KEYS = """
[gpd]
key = "for-all"
[[broker]]
id = "15376371009"
stations = ["15376371009_01"]
gpd_key = "for-the-broker"
[[broker]]
id = "99999999990"
stations = ["99999999990_01"]
[[ec]]
id = "77777777777"
stations = ["15376371009_01"]
[[ec]]
id = "88888888888"
stations = ["15376371009_01"]
gpd_key = "its-own"
[[ec]]
id = "66666666666"
stations = ["99999999990_01"]
[[ec]]
id = "55555555555"
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "station.toml"

    def load(text: str = KEYS, **environ: str) -> config.Settings:
        file.write_text(text)
        return config.load(file, environ)

    return load


def test_key_of_an_ec(load):
    """An EC is asked for with its own key, else its broker's, else the one for all."""
    settings = load()
    keys = {ec.id: settings.api_key(ec.id, "gpd_key") for ec in settings.ec}
    assert keys == {
        "77777777777": "for-the-broker",
        "88888888888": "its-own",
        "66666666666": "for-all",
        "55555555555": "for-all",
    }
    assert settings.api_key("77777777777", "gpd_positions_key") is None


def test_keys_from_the_environment(load, tmp_path):
    """Each key can come from a variable or a file that a variable names, and goes before the configuration's."""
    secret = tmp_path / "key"
    secret.write_text("from-a-file\n")
    settings = load(
        STATION_GPD_KEY="all-else",
        STATION_EC_77777777777_GPD_KEY_FILE=str(secret),
        STATION_BROKER_99999999990_GPD_KEY="other-broker",
        STATION_EC_88888888888_GPD_POSITIONS_KEY="core",
    )
    assert [settings.api_key(ec.id, "gpd_key") for ec in settings.ec] == [
        "from-a-file",
        "its-own",
        "other-broker",
        "all-else",
    ]
    assert settings.api_key("88888888888", "gpd_positions_key") == "core"
    assert "from-a-file" not in f"{settings!r}{settings}"


@pytest.mark.parametrize("key", ["", "two words", "with\nline", "ключ", "k" * 201])
def test_key_that_no_header_takes(load, key):
    """A key that cannot travel in a header is a wrong configuration, named by its variable and not shown."""
    with pytest.raises(ConfigError) as caught:
        load(STATION_EC_88888888888_GPD_KEY=key)
    assert str(caught.value).startswith("STATION_EC_88888888888_GPD_KEY: ")
    assert not key.strip() or key not in str(caught.value)
