"""The client of BizEvents: single receipts, slowly, and a pause after too many refusals."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fdr_simulator import FdrSimulator
from gpd_simulator import make_receipt

from station.config import BizEvents
from station.errors import ApiAnswerError, ApiError, ApiKeyError, ApiPausedError, ApiRequestError, ApiUnavailableError
from station.pagopa import ApiClient, BizEventsClient

EC, OTHER_EC = "77777777777", "88888888888"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FdrSimulator]:
    with FdrSimulator.start(tmp_path_factory.mktemp("biz")) as simulator:
        yield simulator


@pytest.fixture
def fdr(running: FdrSimulator) -> Iterator[FdrSimulator]:
    running.reset(receipts=[{"org": EC, "n": 1, "ecs": [OTHER_EC]}])
    yield running
    assert running.stats()["errors"] == []


@pytest.fixture
def connect(fdr: FdrSimulator) -> Iterator[Callable[..., BizEventsClient]]:
    clients = []

    def connect(ec: str = EC, key: str = "biz-key", paused_until: datetime | None = None, **over: Any) -> Any:
        settings = BizEvents(url=fdr.biz_url, **({"rate": 10_000, "retry_pause": 0.01} | over))
        clients.append(ApiClient(settings, threading.Event()))
        return BizEventsClient(clients[-1], ec, key, paused_until)

    yield connect
    for client in clients:
        client.__exit__()


IUR = make_receipt(EC, 1)["receipt_id"]


def test_receipt(connect):
    """The owner's, a secondary beneficiary's, and what is not there."""
    for ec in (EC, OTHER_EC):
        answer = connect(ec).receipt(IUR)
        assert json.loads(answer.body)["receiptId"] == IUR
    assert connect().receipt("a/b?c") is None
    assert connect("66666666666").receipt(IUR) is None


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 422}, ApiRequestError),
        ({"status": 401}, ApiKeyError),
        ({"status": 503}, ApiUnavailableError),
        ({"status": 404, "style": "html"}, ApiError),
        ({"status": 302, "style": "empty", "headers": {"Location": "http://127.0.0.2:1/"}}, ApiAnswerError),
        ({"huge": 50_000_000}, ApiAnswerError),
        ({"huge": 500_000_000, "gzip": True}, ApiAnswerError),
        ({"body": "<x/>", "content_type": "application/xml"}, ApiAnswerError),
        ({"drop": "middle"}, ApiUnavailableError),
    ],
)
def test_errors(fdr: FdrSimulator, connect, fault, error):
    """Each has its own, and none is taken for a receipt that is not there."""
    fdr.fault(endpoint="receipt", **fault)
    with pytest.raises(error):
        connect().receipt(IUR)


def test_pause(fdr: FdrSimulator, connect):
    """After three 429 in a row no call is made for an hour, by a later run neither."""
    fdr.fault(endpoint="receipt", status=429, style="gateway")
    client = connect()
    with pytest.raises(ApiPausedError, match="429"):
        client.receipt(IUR)
    assert fdr.stats()["calls"] == client.calls == 3
    assert timedelta(minutes=59) < client.paused_until - datetime.now(UTC) < timedelta(minutes=61)
    for later in (client, connect(paused_until=client.paused_until)):
        with pytest.raises(ApiPausedError):
            later.receipt(IUR)
    assert fdr.stats()["calls"] == 3
    fdr.clear_faults()
    assert connect(paused_until=datetime.now(UTC)).receipt(IUR).status == 200


def test_pause_is_shared(fdr: FdrSimulator, connect):
    """By all ECs of a key."""
    fdr.fault(endpoint="receipt", status=429, style="gateway")
    client = connect()
    others = [BizEventsClient(client._client, ec, key) for ec, key in ((OTHER_EC, "biz-key"), (OTHER_EC, "other"))]
    with pytest.raises(ApiPausedError):
        client.receipt(IUR)
    with pytest.raises(ApiPausedError):
        others[0].receipt(IUR)
    with pytest.raises(ApiKeyError):
        others[1].receipt(IUR)


def test_one_429_is_no_pause(fdr: FdrSimulator, connect):
    """It is obeyed, and the receipt comes."""
    fdr.fault(endpoint="receipt", status=429, style="gateway", times=2)
    client = connect()
    assert client.receipt(IUR).status == 200
    assert client.paused_until is None


def test_pace(fdr: FdrSimulator, connect):
    """The first call waits as well: a run that was killed may have called just now."""
    fdr.settings(rate_period=0.5)
    client = connect(rate=10)
    for _ in range(5):
        client.receipt(IUR)
    assert next(call["at"] for call in fdr.log()) >= 0.1 - 0.01
    assert fdr.stats()["most_in_period"]["biz-key/receipt"] <= 6


def test_default_pace():
    """One call each ten seconds, and an hour's pause."""
    assert (BizEvents().rate, BizEvents().pause, BizEvents().retries) == (0.1, 3600, 2)
