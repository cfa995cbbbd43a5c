"""The simulator of the GPD APIs shows the quirks and failures it promises, so that other tests can lean on it."""

import ast
import copy
import email.utils
import gzip
import http.client
import json
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from gpd_simulator import GpdSimulator, make_position, make_receipt, soap_envelope
from gpd_simulator.service import Call, Simulator
from lxml import etree
from openapi_model import check_shape

ORG = "77777777777"
OTHER = "88888888888"
KEY = "receipts-key"
CORE_KEY = "core-key"
PAF_NS = "http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "wsdl" / "paForNode.xsd"
PUBLISHED = json.loads((ROOT / "tests" / "data" / "openapi_components.json").read_text())
RECEIPTS, CORE = PUBLISHED["gpd_payments.json"], PUBLISHED["gpd.json"]


class Got(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def iuvs(self) -> list[str]:
        return [row["iuv"] for row in self.json["results"]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpdSimulator]:
    with GpdSimulator.start(tmp_path_factory.mktemp("gpd")) as simulator:
        yield simulator


@pytest.fixture
def gpd(running: GpdSimulator) -> Iterator[GpdSimulator]:
    running.reset()
    yield running
    assert running.stats()["errors"] == []


def get(gpd: GpdSimulator, path: str, key: str | None = KEY, headers: dict[str, str] | None = None) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", gpd.port, timeout=60)
    try:
        connection.request("GET", path, headers=(headers or {}) | ({"Ocp-Apim-Subscription-Key": key} if key else {}))
        response = connection.getresponse()
        return Got(response.status, response.headers, response.read())
    finally:
        connection.close()


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def listed(gpd: GpdSimulator, org: str = ORG, key: str | None = KEY, **params: Any) -> Got:
    params = {name.rstrip("_"): value for name, value in params.items()}
    return get(gpd, f"{path_of(gpd.receipts_url)}/payments/{org}/receipts?{urlencode(params)}", key)


def quarter(gpd: GpdSimulator, org: str = ORG, **params: Any) -> Got:
    """A list of the period in which receipts are generated."""
    return listed(gpd, org, from_="2026-01-01", to="2026-03-31", **params)


def fetched(gpd: GpdSimulator, iuv: str, org: str = ORG, key: str | None = KEY, **params: Any) -> Got:
    query = f"?{urlencode(params)}" if params else ""
    return get(gpd, f"{path_of(gpd.receipts_url)}/payments/{org}/receipts/{quote(iuv)}{query}", key)


def positions(gpd: GpdSimulator, org: str = ORG, key: str | None = CORE_KEY, **params: Any) -> Got:
    return get(gpd, f"{path_of(gpd.core_url)}/organizations/{org}/debtpositions?{urlencode(params)}", key)


def paid_at(*moments: str) -> list[dict[str, Any]]:
    """One receipt for each moment."""
    return [{"org": ORG, "n": n, "payment_date_time": moment} for n, moment in enumerate(moments)]


def moments(got: Got) -> list[str]:
    return sorted(row["paymentDateTime"] for row in got.json["results"])


# --- the list ---------------------------------------------------------------------------------------------------------


def test_pages_count_from_zero_hold_twenty_and_go_by_iuv(gpd: GpdSimulator) -> None:
    """Without pageNum and pageSize the first twenty come, and all pages together are all rows in the order of IUVs."""
    gpd.load(generate={"org": ORG, "count": 50})
    pages = [quarter(gpd), quarter(gpd, pageNum=1), quarter(gpd, pageNum=2)]
    assert [(page.json["currentPageNumber"], page.json["length"], page.json["totalPages"]) for page in pages] == [
        (0, 20, 3),
        (1, 20, 3),
        (2, 10, 3),
    ]
    iuvs = [iuv for page in pages for iuv in page.iuvs]
    assert iuvs == sorted(make_receipt(ORG, n)["iuv"] for n in range(50))
    assert iuvs != [make_receipt(ORG, n)["iuv"] for n in range(50)]


def test_a_row_has_five_fields_and_no_receipt_id(gpd: GpdSimulator) -> None:
    """A row names organisation, IUV, debtor, payment date and status, and nothing else."""
    gpd.load(generate={"org": ORG, "count": 1})
    got = quarter(gpd)
    receipt = make_receipt(ORG, 0)
    assert set(got.json) == {"currentPageNumber", "length", "totalPages", "results"}
    assert got.headers["Content-Type"] == "application/json"
    assert got.json["results"] == [
        {
            "organizationFiscalCode": ORG,
            "iuv": receipt["iuv"],
            "debtor": receipt["debtor"],
            "paymentDateTime": receipt["payment_date_time"],
            "status": "PAID",
        }
    ]


def test_a_page_holds_a_hundred_at_most(gpd: GpdSimulator) -> None:
    """pageSize 100 is served, beyond that and below 1 comes 400 without a body."""
    gpd.load(generate={"org": ORG, "count": 150})
    assert quarter(gpd, pageSize=100).json["length"] == 100
    for refused in ({"pageSize": 101}, {"pageSize": 0}, {"pageNum": -1}, {"pageNum": "x"}):
        got = quarter(gpd, **refused)
        assert (got.status, got.body) == (400, b"")


def test_past_the_last_page_comes_400(gpd: GpdSimulator) -> None:
    """A pageNum that is not below totalPages answers 400, also where there is nothing."""
    gpd.load(generate={"org": ORG, "count": 40})
    got = quarter(gpd, pageNum=2)
    assert got.status == 400
    assert got.json.keys() == {"title", "status", "detail"}
    assert quarter(gpd, OTHER, pageNum=1).status == 400
    assert gpd.stats()["past_last_page"] == 2


def test_nothing_found_is_an_empty_page_or_404(gpd: GpdSimulator) -> None:
    """Where nothing is found the answer is one empty page, or 404 if so set."""
    got = quarter(gpd)
    assert got.json == {"currentPageNumber": 0, "length": 0, "totalPages": 1, "results": []}
    gpd.settings(nothing_found=404)
    got = quarter(gpd)
    assert (got.status, got.json["status"]) == (404, 404)


def test_from_and_to_take_days_and_moments(gpd: GpdSimulator) -> None:
    """A day as upper bound holds that day's receipts, a moment cuts at the second."""
    gpd.load(
        receipts=paid_at("2026-02-09T23:59:59", "2026-02-10T00:00:00", "2026-02-10T12:30:15", "2026-02-11T08:00:01")
    )
    assert moments(listed(gpd, from_="2026-02-10", to="2026-02-10")) == ["2026-02-10T00:00:00", "2026-02-10T12:30:15"]
    got = listed(gpd, from_="2026-02-10T12:30:15", to="2026-02-11T08:00:01")
    assert moments(got) == ["2026-02-10T12:30:15", "2026-02-11T08:00:01"]
    assert moments(listed(gpd, from_="2026-02-10", to="2026-02-10T12:30:14")) == ["2026-02-10T00:00:00"]


def test_missing_bounds_mean_three_months(gpd: GpdSimulator) -> None:
    """No bound: the last three months; one bound: three months from it or up to it, never beyond now."""
    months = [f"2026-{month:02d}-15T10:00:01" for month in range(1, 8)]
    gpd.load(receipts=paid_at(*months), settings={"now": "2026-06-20T09:00:00"})
    assert moments(listed(gpd)) == months[3:6]
    assert moments(listed(gpd, from_="2026-01-16")) == months[1:4]
    assert moments(listed(gpd, from_="2026-05-01")) == months[4:6]
    assert moments(listed(gpd, from_="2026-05-01T00:00:00")) == months[4:6]
    assert moments(listed(gpd, to="2026-05-01")) == months[1:4]
    assert listed(gpd, from_="2026-07-01").status == 400


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-10", "2026-02-09"),
        ("2026-02-10T10:00:01", "2026-02-10T10:00:00"),
        ("10/02/2026", "2026-02-12"),
        ("2026-02-30", "2026-03-01"),
        ("2026-02-10", "2026-02-10T24:30:00"),
        ("2026-02-10T10:00:00Z", "2026-02-12"),
        ("2026-02-10T10:00:00+01:00", "2026-02-12"),
        ("2026-02-10 10:00:00", "2026-02-12"),
    ],
)
def test_reversed_or_malformed_bounds_are_refused(gpd: GpdSimulator, start: str, end: str) -> None:
    """Bounds that are reversed, no dates, or carry a zone are answered 400 with title, status and detail."""
    got = listed(gpd, from_=start, to=end)
    assert (got.status, got.json["title"]) == (400, "Invalid date range")


def test_periods_over_thirty_days_are_counted_and_refused_if_wanted(gpd: GpdSimulator) -> None:
    """Thirty days pass, a second more counts as over, and with the setting is answered 400; no bounds do not count."""
    for start, end in (("2026-01-01", "2026-01-30"), ("2026-01-01T10:00:00", "2026-01-31T10:00:00")):
        assert listed(gpd, from_=start, to=end).status == 200
    assert listed(gpd).status == 200
    assert gpd.stats()["over_30_days"] == 0
    assert listed(gpd, from_="2026-01-01T10:00:00", to="2026-01-31T10:00:01").status == 200
    assert gpd.stats()["over_30_days"] == 1
    gpd.settings(reject_over_days=30)
    assert listed(gpd, from_="2026-01-01", to="2026-01-31").status == 400
    assert gpd.stats()["over_30_days"] == 2
    assert gpd.stats()["longest_days"] == pytest.approx(31, abs=0.01)


def test_bounds_compare_as_strings(gpd: GpdSimulator) -> None:
    """An upper bound of a full minute loses that minute's receipts, one without fraction or zone those that have it."""
    gpd.load(receipts=paid_at("2026-02-10T10:15:00", "2026-02-10T10:15:30.250", "2026-02-10T10:15:30Z"))
    assert moments(listed(gpd, from_="2026-02-10", to="2026-02-10T10:15:00")) == []
    assert moments(listed(gpd, from_="2026-02-10", to="2026-02-10T10:15:30")) == ["2026-02-10T10:15:00"]
    assert len(moments(listed(gpd, from_="2026-02-10T10:15:00", to="2026-02-10"))) == 3
    gpd.load(receipts=[{"org": ORG, "n": 9, "payment_date_time": "2026-02-10T10:15:30.5"}])
    assert "2026-02-10T10:15:30.5" not in moments(listed(gpd, from_="2026-02-10T10:15:30.5", to="2026-02-10"))
    gpd.load(receipts=[{"org": ORG, "n": 10, "payment_date_time": "2026-02-11T23:59:59.9"}])
    assert moments(listed(gpd, from_="2026-02-11", to="2026-02-11")) == []


def test_rows_are_filtered_after_paging(gpd: GpdSimulator) -> None:
    """Rows that may not be shown keep their place: pages in the middle are short or empty, totalPages counts all."""
    gpd.load(generate={"org": ORG, "count": 100, "hidden_range": [20, 45]})
    lengths = [quarter(gpd, pageNum=page).json["length"] for page in range(5)]
    assert lengths == [20, 0, 15, 20, 20]
    assert quarter(gpd, pageNum=1).json == {"currentPageNumber": 1, "length": 0, "totalPages": 5, "results": []}


def test_dates_too_can_be_filtered_after_paging(gpd: GpdSimulator) -> None:
    """With date_filter after_paging the pages run over all rows, and few of a page lie in the period."""
    gpd.load(generate={"org": ORG, "count": 200}, settings={"date_filter": "after_paging"})
    pages = [listed(gpd, from_="2026-01-01", to="2026-01-07", pageNum=page) for page in range(10)]
    assert {page.json["totalPages"] for page in pages} == {10}
    found = {iuv for page in pages for iuv in page.iuvs}
    gpd.settings(date_filter="query")
    got = listed(gpd, from_="2026-01-01", to="2026-01-07", pageSize=100)
    assert (got.json["totalPages"], set(got.iuvs)) == (1, found)


def test_rows_inserted_while_paging_shift_the_pages(gpd: GpdSimulator) -> None:
    """After the second list a row goes in front: the last row of page one is seen again on page two."""
    late = {"org": ORG, "n": 900, "iuv": "00000000000000001"}
    gpd.load(generate={"org": ORG, "count": 60})
    gpd.insert_while_paging(2, org=ORG, receipts=[late])
    first, second, third = (quarter(gpd, pageNum=page).iuvs for page in (0, 1, 2))
    assert third[0] == second[-1]
    assert len({*first, *second, *third}) == 59
    assert quarter(gpd).iuvs[0] == late["iuv"]
    assert quarter(gpd, pageNum=3).json["length"] == 1


def test_rows_removed_while_paging_hide_others(gpd: GpdSimulator) -> None:
    """After the first list a row of it goes away: the first row of page two slips onto page one and is not seen."""
    gpd.load(generate={"org": ORG, "count": 40})
    everything = quarter(gpd, pageSize=100).iuvs
    gpd.insert_while_paging(1, remove=[everything[3]], org=ORG)
    seen = quarter(gpd).iuvs + quarter(gpd, pageNum=1).iuvs
    assert set(everything) - set(seen) == {everything[20]}


def test_lists_can_be_narrowed(gpd: GpdSimulator) -> None:
    """debtor is compared whole, debtorOrIuv, service and segregationCodes as beginnings."""
    gpd.load(generate=[{"org": ORG, "count": 30}, {"org": ORG, "count": 5, "seed": 2, "segregation": "47"}])
    receipt = make_receipt(ORG, 4)
    assert receipt["iuv"] in quarter(gpd, debtor=receipt["debtor"]).iuvs
    assert quarter(gpd, debtor=receipt["debtor"][:5]).iuvs == []
    assert quarter(gpd, debtorOrIuv=receipt["iuv"]).iuvs == [receipt["iuv"]]
    assert receipt["iuv"] in quarter(gpd, debtorOrIuv=receipt["debtor"][:5]).iuvs
    assert len(quarter(gpd, service="47").iuvs) == 5
    assert quarter(gpd, segregationCodes="47,99").iuvs == quarter(gpd, service="47").iuvs
    assert quarter(gpd, segregationCodes="4").status == 400


# --- as seen on the real server ---------------------------------------------------------------------------------------


def test_a_list_takes_longer_the_more_rows_its_period_has(gpd: GpdSimulator) -> None:
    """Each page takes the time of all rows of the period, which grows faster than they do; an empty one takes none."""
    gpd.load(generate={"org": ORG, "count": 40}, settings={"slow_rows": 5_000})
    simulator = Simulator()
    simulator.load({"generate": {"org": ORG, "count": 40}, "settings": {"slow_rows": 40}})
    whole = {"from": "2026-01-01", "to": "2026-03-31", "pageSize": "10"}

    def silence(**params: str) -> float:
        call = Call("list", ORG, None, whole | params, KEY, None, "/")
        answer, _ = simulator.answer(call, False)
        assert answer.status == 200
        return answer.silence

    assert silence() == silence(pageNum="3") == 2
    half = silence(to="2026-02-15")
    assert 0 < half < 1.5
    assert silence(**{"from": "2015-01-01", "to": "2015-01-01"}) == 0
    assert quarter(gpd).status == 200


def test_a_wrong_path_is_answered_by_the_application_server(gpd: GpdSimulator) -> None:
    """Below the service's address Spring answers, with other fields than the service; elsewhere the gateway does."""
    got = get(gpd, f"{path_of(gpd.receipts_url)}/no/such/path?x=1")
    assert (got.status, list(got.json)) == (404, ["timestamp", "status", "error", "path"])
    assert got.json["path"] == f"{path_of(gpd.receipts_url)}/no/such/path"
    assert list(get(gpd, "/elsewhere").json) == ["statusCode", "message"]


def test_a_faulty_position_spoils_the_list(gpd: GpdSimulator) -> None:
    """Each list with it is a 500, all pages of it, and so is the receipt; the others can be listed without it."""
    gpd.load(receipts=paid_at("2026-01-10T10:00:00", "2026-01-10T11:30:00"))
    gpd.load(receipts=[{"org": ORG, "n": 9, "payment_date_time": "2026-01-10T12:30:00", "faulty": True}])
    assert [quarter(gpd, pageSize=1, pageNum=n).status for n in (0, 1, 2)] == [500] * 3
    assert fetched(gpd, make_receipt(ORG, 9)["iuv"]).status == 500
    assert len(listed(gpd, from_="2026-01-10T10:00:00", to="2026-01-10T11:59:59").iuvs) == 2


@pytest.mark.parametrize("zone", ["+00:00", "-00:00"])
def test_dates_are_written_anew(gpd: GpdSimulator, zone: str) -> None:
    """Where the push has dates with a zone, the API's document has them with Z."""
    gpd.load(receipts=[{"org": ORG, "n": 1, "seed": 7, "date_zone": zone}])
    receipt = make_receipt(ORG, 1, 7, date_zone=zone)
    document = fetched(gpd, receipt["iuv"]).body.decode()
    day = receipt["payment_date_time"][:10]
    for name in ("applicationDate", "transferDate"):
        assert (f"<{name}>{day}{zone}</{name}>" in soap_envelope(receipt).decode()) == (f"<{name}>{day}Z<" in document)
    assert "Z</applicationDate>" in document
    assert zone not in document.replace(receipt["payment_date_time"], "")


def test_what_is_asked_wrongly(gpd: GpdSimulator) -> None:
    """HTML is not to be had, and filters that are empty are errors, each in its way."""
    gpd.load(receipts=[{"org": ORG, "n": 1}])
    path = f"{path_of(gpd.receipts_url)}/payments/{ORG}/receipts?from=2026-01-01&to=2026-03-31"
    assert get(gpd, path, headers={"Accept": "text/html"}).status == 406
    assert get(gpd, path, headers={"Accept": "text/html, */*;q=0.1"}).status == 200
    assert quarter(gpd, segregationCodes="").status == 400
    assert [quarter(gpd, **{name: ""}).status for name in ("service", "debtorOrIuv", "debtor")] == [500, 500, 200]
    assert listed(gpd, from_="2026-01-01T00:00", to="2026-01-02T00:00").status == 200


def test_a_key_for_another_segregation_code_sees_nothing(gpd: GpdSimulator) -> None:
    """The list is empty without a sign that there would be more."""
    gpd.load(keys={KEY: {"orgs": "*", "segregation_codes": ["47"]}}, receipts=[{"org": ORG, "n": 1}])
    assert (quarter(gpd).status, quarter(gpd).iuvs) == (200, [])


def test_a_receipt_without_payment_date_is_in_no_list(gpd: GpdSimulator) -> None:
    """A receipt without paymentDateTime can be fetched, but no list shows it."""
    gpd.load(receipts=[{"org": ORG, "n": 1, "payment_date_time": None}])
    receipt = make_receipt(ORG, 1, payment_date_time=None)
    assert quarter(gpd).iuvs == []
    assert fetched(gpd, receipt["iuv"]).body == receipt["xml"]
    assert b"paymentDateTime" not in receipt["xml"]


# --- one receipt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "root"), [("v1", "paSendRTReq"), ("v2", "PaSendRTV2Request")])
def test_a_document_has_its_own_root_in_no_namespace(gpd: GpdSimulator, version: str, root: str) -> None:
    """The document is XML with standalone="yes", and its root, with a capital in version 2, is in no namespace."""
    gpd.load(generate={"org": ORG, "count": 1, "version": version})
    receipt = make_receipt(ORG, 0, version=version)
    got = fetched(gpd, receipt["iuv"])
    assert got.status == 200
    assert got.headers["Content-Type"] == "application/xml"
    assert got.body.startswith(b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>')
    assert got.body == receipt["xml"]
    tree = ET.fromstring(got.body)
    assert [tree.tag, *(child.tag for child in tree)] == [root, "idPA", "idBrokerPA", "idStation", "receipt"]
    assert tree.findtext("receipt/creditorReferenceId") == receipt["iuv"]


def test_an_unknown_receipt_is_404(gpd: GpdSimulator) -> None:
    """An IUV that is unknown to the organisation is answered 404 with title, status and detail."""
    gpd.load(generate={"org": ORG, "count": 1})
    got = fetched(gpd, make_receipt(ORG, 0)["iuv"], OTHER)
    assert (got.status, got.json["status"], got.headers["Content-Type"]) == (404, 404, "application/json")


def test_a_receipt_whose_position_is_unpaid_is_422_for_some_calls(gpd: GpdSimulator) -> None:
    """It is known, but answered 422 twice and shown in no list until then."""
    gpd.load(receipts=[{"org": ORG, "n": 1, "unpaid": {"calls": 2}}])
    iuv = make_receipt(ORG, 1)["iuv"]
    assert quarter(gpd).json["length"] == 0
    assert [fetched(gpd, iuv).status for _ in range(3)] == [422, 422, 200]
    assert quarter(gpd).iuvs == [iuv]


def test_a_receipt_whose_position_is_unpaid_is_422_for_some_time(gpd: GpdSimulator) -> None:
    """It is answered 422 until a moment, or until it is said to be paid."""
    later, over, second = (make_receipt(ORG, n)["iuv"] for n in (1, 2, 3))
    gpd.load(
        receipts=[
            {"org": ORG, "n": 1, "unpaid": {"seconds": 3600}},
            {"org": ORG, "n": 2, "unpaid": {"seconds": 0}},
            {"org": ORG, "n": 3, "unpaid": True},
        ]
    )
    got = fetched(gpd, later)
    assert (got.status, got.json.keys()) == (422, {"title", "status", "detail"})
    assert [fetched(gpd, iuv).status for iuv in (later, over, second)] == [422, 200, 422]
    gpd.pay(ORG, second)
    assert fetched(gpd, second).status == 200


def test_an_unpaid_receipt_can_be_listed_all_the_same(gpd: GpdSimulator) -> None:
    """With `listed` the list shows a receipt that answers 422, in status CREATED."""
    gpd.load(receipts=[{"org": ORG, "n": 1, "unpaid": {"calls": 1, "listed": True}}])
    row = quarter(gpd).json["results"][0]
    assert (row["status"], fetched(gpd, row["iuv"]).status) == ("CREATED", 422)
    assert quarter(gpd).json["results"][0]["status"] == "PAID"


def test_the_second_payment_of_an_iuv_is_not_in_there(gpd: GpdSimulator) -> None:
    """Organisation and IUV are the key: the first receipt stays, in another organisation the IUV is free."""
    first = make_receipt(ORG, 1)
    assert gpd.load(receipts=[{"org": ORG, "n": 1}])["receipts"] == 1
    again = {"n": 2, "iuv": first["iuv"]}
    assert gpd.load(receipts=[{"org": ORG, **again}, {"org": OTHER, **again}]) == {
        "receipts": 1,
        "ignored": 1,
        "positions": 0,
        "faults": [],
    }
    assert fetched(gpd, first["iuv"]).body == first["xml"]
    assert fetched(gpd, first["iuv"], OTHER).body == make_receipt(OTHER, **again)["xml"]


def test_any_text_can_be_a_document(gpd: GpdSimulator) -> None:
    """A receipt can be loaded with a document of its own, one that breaks the schema for example."""
    gpd.load(receipts=[{"org": ORG, "iuv": "A/b 1", "xml": "<PaSendRTV2Request>è</PaSendRTV2Request>"}])
    assert fetched(gpd, "A/b 1").status == 404  # a slash is a slash
    gpd.load(receipts=[{"org": ORG, "iuv": "RF 1", "xml": "<PaSendRTV2Request>è</PaSendRTV2Request>"}])
    assert fetched(gpd, "RF 1").body.decode() == "<PaSendRTV2Request>è</PaSendRTV2Request>"


# --- the gateway ------------------------------------------------------------------------------------------------------


def test_keys_open_what_they_are_for(gpd: GpdSimulator) -> None:
    """No key or a wrong one: 401 in the gateway's words; another organisation: 403; each API has its own keys."""
    gpd.load(keys={KEY: [ORG], "wide": "*", "odd": {"orgs": [ORG], "denied": 401}}, core_keys={CORE_KEY: [ORG]})
    for key in (None, "wrong", CORE_KEY):
        got = listed(gpd, key=key)
        assert got.status == 401
        assert got.json.keys() == {"statusCode", "message"}
    assert [listed(gpd, org, key).status for key in (KEY, "wide", "odd") for org in (ORG, OTHER)] == [
        *(200, 403),
        *(200, 200),
        *(200, 401),
    ]
    assert fetched(gpd, "1", OTHER).json == {
        "statusCode": 403,
        "message": "You are not allowed to access this resource.",
    }
    assert [positions(gpd, key=key).status for key in (CORE_KEY, KEY, None)] == [200, 401, 401]
    gpd.settings(unknown_key_status=403)
    assert listed(gpd, key="wrong").status == 403


def test_a_key_can_be_bound_to_segregation_codes(gpd: GpdSimulator) -> None:
    """Receipts of other segregation codes are in no list and answered 403, whatever the caller asks for."""
    gpd.load(
        keys={KEY: {"segregation_codes": ["47"]}},
        generate=[{"org": ORG, "count": 3}, {"org": ORG, "count": 2, "seed": 2, "segregation": "47"}],
    )
    assert len(quarter(gpd, segregationCodes="01").iuvs) == 2
    assert fetched(gpd, quarter(gpd).iuvs[0]).status == 200
    got = fetched(gpd, make_receipt(ORG, 0)["iuv"])
    assert (got.status, got.json.keys()) == (403, {"title", "status", "detail"})


def test_the_request_id_is_echoed_or_made_up(gpd: GpdSimulator) -> None:
    """X-Request-Id comes back on every answer, errors too; calls without one are counted."""
    for path in (f"{path_of(gpd.receipts_url)}/payments/{ORG}/receipts", "/nowhere"):
        assert get(gpd, path, headers={"X-Request-Id": "abc"}).headers["X-Request-Id"] == "abc"
        assert len(get(gpd, path).headers["X-Request-Id"]) == 36
    stats = gpd.stats()
    assert (stats["without_request_id"], stats["distinct_request_ids"], stats["repeated_request_ids"]) == (2, 1, 1)


def test_too_many_calls_are_429_until_the_period_is_over(gpd: GpdSimulator) -> None:
    """So many calls in a sliding period and for each key; what remains is told, and Retry-After is worth heeding."""
    gpd.load(settings={"rate_calls": 3, "rate_period": 600}, keys={KEY: "*", "second": "*"})
    got = [listed(gpd) for _ in range(5)]
    assert [each.status for each in got] == [200, 200, 200, 429, 429]
    assert [each.headers["x-remaining-calls-per-period"] for each in got] == ["2", "1", "0", "0", "0"]
    assert 1 <= int(got[3].headers["Retry-After"]) <= 600
    assert got[3].json.keys() == {"statusCode", "message"}
    assert listed(gpd, key="second").status == 200
    gpd.settings(rate_period=0.001)
    assert listed(gpd).status == 200
    stats = gpd.stats()
    assert stats["rate_limited"] == stats["by_status"]["429"] == 2
    assert stats["most_in_period"][KEY] >= 5
    assert stats["most_in_period"]["second"] == 1


def test_retry_after_has_three_forms(gpd: GpdSimulator) -> None:
    """Seconds, an HTTP date not before the period's end, none, or one after the other."""
    gpd.settings(rate_calls=1, rate_period=600)
    assert listed(gpd).status == 200
    seen = []
    for form in ("seconds", "date", "none", "mixed", "mixed", "mixed"):
        gpd.settings(retry_after=form)
        got = listed(gpd)
        assert got.status == 429
        seen.append(got.headers["Retry-After"])
    assert [1 <= int(seen[0]) <= 600, seen[2]] == [True, None]
    assert email.utils.parsedate_to_datetime(seen[1]) > datetime.now(UTC)
    assert [None if value is None else value.isdigit() for value in seen[3:]] == [True, False, None]


def test_the_limit_is_a_hundred_in_ten_seconds_by_default(gpd: GpdSimulator) -> None:
    """The hundred and first call within ten seconds is refused."""
    connection = http.client.HTTPConnection("127.0.0.1", gpd.port, timeout=60)
    try:
        statuses = []
        for _ in range(101):
            connection.request("GET", f"{path_of(gpd.receipts_url)}/x", headers={"Ocp-Apim-Subscription-Key": KEY})
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    finally:
        connection.close()
    assert statuses == [404] * 100 + [429]
    assert gpd.stats()["connections"] == 1  # kept alive


@pytest.mark.parametrize(
    ("style", "content_type", "words"),
    [
        ("problem", "application/json", b'"title"'),
        ("gateway", "application/json", b'"statusCode"'),
        ("html", "text/html", b"<html>"),
    ],
)
def test_errors_come_in_three_styles(gpd: GpdSimulator, style: str, content_type: str, words: bytes) -> None:
    """The same 404 as a problem, in the gateway's JSON, or as HTML."""
    gpd.settings(error_style=style)
    got = fetched(gpd, "1")
    assert (got.status, got.headers["Content-Type"], words in got.body) == (404, content_type, True)


# --- debt positions ---------------------------------------------------------------------------------------------------


def test_positions_are_paged_by_fifty_at_most(gpd: GpdSimulator) -> None:
    """Ten by default, fifty at most, beyond the last page an empty one; the last that was loaded comes first."""
    gpd.load(generate={"org": ORG, "count": 70, "positions": True, "receipts": False})
    first, last = positions(gpd, status="PAID", limit=50).json, positions(gpd, limit=50, page=1).json
    assert first["page_info"] == {"page": 0, "limit": 50, "items_found": 50, "total_pages": 2}
    assert last["page_info"]["items_found"] == 20
    assert first["payment_position_list"][0] == make_position(ORG, 69)
    assert positions(gpd).json["page_info"]["limit"] == 10
    assert positions(gpd, page=7).json["payment_position_list"] == []
    assert positions(gpd, limit=51).status == 400
    assert quarter(gpd).iuvs == []


def test_positions_are_found_by_status_and_payment_date(gpd: GpdSimulator) -> None:
    """Status and payment days narrow the list; a missing day is thirty away, and more than thirty are refused."""
    gpd.load(
        positions=[
            {"org": ORG, "n": 1, "payment_date": "2026-02-10T23:59:59"},
            {"org": ORG, "n": 2, "payment_date": "2026-02-11T00:00:00"},
            {"org": ORG, "n": 3, "payment_date": "2026-02-11T00:00:00", "status": "REPORTED"},
        ]
    )

    def dates(**params: Any) -> list[str]:
        found = positions(gpd, status="PAID", **params).json["payment_position_list"]
        return [each["paymentDate"][:10] for each in found]

    assert dates() == ["2026-02-11", "2026-02-10"]
    assert dates(payment_date_from="2026-02-11", payment_date_to="2026-02-11") == ["2026-02-11"]
    assert dates(payment_date_from="2026-01-11") == ["2026-02-10"]
    assert dates(payment_date_to="2026-03-13") == ["2026-02-11"]
    for wrong in (
        {"payment_date_from": "2026-01-01", "payment_date_to": "2026-02-01"},
        {"payment_date_from": "2026-02-02", "payment_date_to": "2026-02-01"},
        {"payment_date_from": "2026-02-02T00:00:00"},
        {"payment_date_from": "2026-02-02", "due_date_to": "2026-02-03"},
    ):
        assert positions(gpd, **wrong).status == 400


def test_a_position_names_its_receipt_with_the_amount_in_cents(gpd: GpdSimulator) -> None:
    """The paid option has IUV, notice number, receipt id and cents; instalments offered beside it stay unpaid."""
    gpd.load(generate={"org": ORG, "count": 8, "positions": True})
    found = positions(gpd, ordering="ASC").json["payment_position_list"]
    for n, each in enumerate(found):
        receipt = make_receipt(ORG, n)
        paid = [option for option in each["paymentOption"] if option["status"] == "PO_PAID"]
        assert [(option["iuv"], option["nav"], option["idReceipt"], option["amount"]) for option in paid] == [
            (receipt["iuv"], receipt["notice_number"], receipt["receipt_id"], int(receipt["amount"].replace(".", "")))
        ]
    assert [option["status"] for option in found[7]["paymentOption"]] == ["PO_PAID", "PO_UNPAID"]


LISTED = RECEIPTS["paths"]["/payments/{organizationfiscalcode}/receipts"]
FETCHED = RECEIPTS["paths"]["/payments/{organizationfiscalcode}/receipts/{iuv}"]
POSITIONS = CORE["paths"]["/organizations/{organizationfiscalcode}/debtpositions"]


def test_paths_are_the_published_ones(gpd: GpdSimulator) -> None:
    """The simulator answers under the published addresses."""
    assert path_of(gpd.receipts_url) == RECEIPTS["server"]
    assert path_of(gpd.core_url) == CORE["server"]


def test_answers_have_the_published_shape(gpd: GpdSimulator) -> None:
    """Each answer has a published status, its content type and headers, and exactly the published fields and types."""
    gpd.load(generate={"org": ORG, "count": 9, "positions": True})
    answers = [
        *((RECEIPTS, LISTED, 200, got) for got in (quarter(gpd), quarter(gpd, OTHER), quarter(gpd, pageSize=2))),
        (RECEIPTS, FETCHED, 200, fetched(gpd, make_receipt(ORG, 1)["iuv"])),
        (RECEIPTS, FETCHED, 404, fetched(gpd, "1")),
        (CORE, POSITIONS, 200, positions(gpd)),
        (CORE, POSITIONS, 400, positions(gpd, payment_date_from="2026-01-01", payment_date_to="2026-02-01")),
    ]
    gpd.load(receipts=[{"org": ORG, "n": 1, "seed": 9, "payment_date_time": "2026-01-10T10:00:00", "faulty": True}])
    gpd.settings(nothing_found=404)
    answers += [(RECEIPTS, LISTED, 500, quarter(gpd)), (RECEIPTS, LISTED, 404, quarter(gpd, OTHER))]
    for document, path, status, got in answers:
        assert got.status == status
        published = path["responses"][str(status)]
        assert set(published["headers"]) <= set(got.headers)
        schema = published["content"][got.headers["Content-Type"]]
        if got.headers["Content-Type"] == "application/json":
            check_shape(document["schemas"], schema, got.json)


def test_parameters_have_the_published_bounds(gpd: GpdSimulator) -> None:
    """A value outside what is published is refused, and a parameter left out is its published default."""
    gpd.load(generate={"org": ORG, "count": 60, "positions": True})
    tried = 0
    for ask, path in ((quarter, LISTED), (positions, POSITIONS)):
        right = ask(gpd).body
        for name, parameter in path["parameters"].items():
            schema = parameter["schema"]
            outside = [schema[bound] + step for bound, step in (("minimum", -1), ("maximum", 1)) if bound in schema]
            outside += ["no"] if {"enum", "pattern"} & schema.keys() or schema.get("format") else []
            assert [ask(gpd, **{name: value}).status for value in outside] == [400] * len(outside), name
            assert ask(gpd, **{name: schema["default"]}).body == right if "default" in schema else True
            tried += len(outside) + ("default" in schema)
    assert tried == 22


def test_a_parameter_that_is_not_published_is_an_error_of_its_caller(gpd: GpdSimulator) -> None:
    """The statistics tell of it, and every test of the station's client looks there."""
    assert [listed(gpd, pageNumber=1).status, positions(gpd, pageNum=1).status] == [200, 200]
    assert gpd.stats()["errors"] == ["list: pageNumber is not published", "positions: pageNum is not published"]
    gpd.clear_stats()


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_fault_strikes_what_it_matches_so_many_times(gpd: GpdSimulator) -> None:
    """A burst of two 500 after one spared call, then all is well; the hits are counted by name."""
    name = gpd.fault(endpoint="list", skip=1, times=2, status=500)
    assert [listed(gpd).status for _ in range(4)] == [200, 500, 500, 200]
    gpd.fault(name="odd", endpoint="list", every=2, status=503)
    assert [listed(gpd).status for _ in range(4)] == [503, 200, 503, 200]
    assert gpd.faults() == {name: 2, "odd": 2} == gpd.stats()["by_fault"]
    gpd.clear_faults("odd")
    assert [listed(gpd).status for _ in range(2)] == [200, 200]


def test_a_fault_can_be_one_organisations_page_receipt_or_key(gpd: GpdSimulator) -> None:
    """Faults match by organisation, IUV, page and key, and by endpoint."""
    gpd.load(
        generate=[{"org": ORG, "count": 30}, {"org": OTHER, "count": 30}],
        keys={KEY: "*", "second": "*"},
        faults=[{"org": OTHER, "iuv": make_receipt(OTHER, 1)["iuv"], "status": 404}, {"page": 1, "status": 500}],
    )
    assert [fetched(gpd, make_receipt(org, 1)["iuv"], org).status for org in (ORG, OTHER)] == [200, 404]
    assert [quarter(gpd, pageNum=page).status for page in (0, 1)] == [200, 500]
    gpd.clear_faults()
    gpd.fault(org=ORG, key="second", status=502)
    assert [listed(gpd, org, key).status for org in (ORG, OTHER) for key in (KEY, "second")] == [200, 502, 200, 200]
    assert positions(gpd).status == 200


def test_all_can_be_down_for_a_while(gpd: GpdSimulator) -> None:
    """Between down and up every call fails, with an HTML 503 or as wanted."""
    gpd.down()
    got = listed(gpd)
    assert (got.status, got.headers["Content-Type"]) == (503, "text/html")
    assert positions(gpd).status == 503
    gpd.down(drop="before")
    with pytest.raises(http.client.RemoteDisconnected):
        listed(gpd)
    gpd.up()
    assert listed(gpd).status == 200
    assert gpd.stats()["by_status"] == {"503": 2, "dropped": 1, "200": 1}


def test_answers_can_be_slow(gpd: GpdSimulator) -> None:
    """A delay comes before the answer, a trickle spreads its body; others are served meanwhile."""
    gpd.load(generate={"org": ORG, "count": 20})
    right = quarter(gpd).body
    for rule in ({"delay": 0.2}, {"trickle": 0.2}):
        gpd.clear_faults()
        gpd.fault(org=ORG, **rule)
        start = time.monotonic()
        assert quarter(gpd).body == right
        assert time.monotonic() - start >= 0.19


@pytest.mark.parametrize(
    ("drop", "error"),
    [
        ("before", http.client.RemoteDisconnected),
        ("reset", ConnectionResetError),
        ("headers", http.client.IncompleteRead),
        ("middle", http.client.IncompleteRead),
    ],
)
def test_connections_can_break(gpd: GpdSimulator, drop: str, error: type[Exception]) -> None:
    """The connection ends before the answer, with a reset, after the headers or in the middle of the body."""
    gpd.load(generate={"org": ORG, "count": 20})
    whole = len(quarter(gpd).body)
    gpd.fault(times=1, drop=drop)
    with pytest.raises(error) as caught:
        quarter(gpd)
    if isinstance(caught.value, http.client.IncompleteRead):
        assert len(caught.value.partial) == (whole // 2 if drop == "middle" else 0)
    assert quarter(gpd).status == 200
    assert gpd.stats()["by_status"] == {"200": 2, "dropped": 1}


def test_a_chunked_body_can_break(gpd: GpdSimulator) -> None:
    """A body in chunks is whole, or ends without its last chunk."""
    gpd.load(generate={"org": ORG, "count": 20})
    right = quarter(gpd).body
    gpd.fault(times=1, chunked=True)
    assert quarter(gpd).body == right
    gpd.fault(times=1, chunked=True, drop="middle")
    with pytest.raises(http.client.IncompleteRead):
        quarter(gpd)


def test_a_body_can_be_cut_with_a_fitting_length(gpd: GpdSimulator) -> None:
    """Half a list and half a document arrive as whole answers: only their content tells."""
    gpd.load(generate={"org": ORG, "count": 20}, faults={"truncate": 0.5})
    got = quarter(gpd)
    assert int(got.headers["Content-Length"]) == len(got.body)
    with pytest.raises(json.JSONDecodeError):
        assert got.json
    with pytest.raises(ET.ParseError):
        ET.fromstring(fetched(gpd, make_receipt(ORG, 1)["iuv"]).body)


@pytest.mark.parametrize(
    ("rule", "status", "content_type", "body"),
    [
        ({"content_type": "text/html; charset=utf-8"}, 200, "text/html; charset=utf-8", None),
        ({"status": 502, "style": "html"}, 502, "text/html", b"<html>"),
        ({"status": 503, "style": "problem", "headers": {"Retry-After": "1"}}, 503, "application/json", b'{"title"'),
        ({"status": 500, "style": "gateway"}, 500, "application/json", b'{"statusCode"'),
        ({"body": '{"results": ['}, 200, "application/json", b'{"results": ['),
        ({"json": {"results": {"iuv": 1}, "totalPages": "many"}}, 200, "application/json", b'{"results": {"iuv"'),
        ({"json": [1, 2]}, 200, "application/json", b"[1, 2]"),
        ({"status": 200, "style": "empty"}, 200, None, b""),
        ({"status": 418, "body": "<xml/>", "content_type": "text/xml"}, 418, "text/xml", b"<xml/>"),
    ],
)
def test_answers_can_be_wrong(
    gpd: GpdSimulator, rule: dict[str, Any], status: int, content_type: str | None, body: bytes | None
) -> None:
    """Wrong content type, HTML, invalid JSON, JSON of another shape, other statuses."""
    gpd.load(generate={"org": ORG, "count": 3})
    right = quarter(gpd).body
    gpd.fault(**rule)
    got = quarter(gpd)
    assert (got.status, got.headers["Content-Type"]) == (status, content_type)
    assert got.body.startswith(body) if body is not None else got.body == right
    assert got.headers["Retry-After"] == rule.get("headers", {}).get("Retry-After")


def test_bodies_can_be_huge(gpd: GpdSimulator) -> None:
    """A body of 20 MB is made while it is sent, with a length, in chunks, or as 20 KB that unpack to it."""
    size = 20_000_000
    gpd.load(generate={"org": ORG, "count": 1}, faults={"endpoint": "list", "huge": size})
    got = quarter(gpd)
    assert (len(got.body), got.headers["Content-Length"], got.json["length"]) == (size, str(size), 1)
    gpd.clear_faults()
    gpd.fault(endpoint="receipt", huge=size, chunked=True)
    got = fetched(gpd, make_receipt(ORG, 0)["iuv"])
    assert (len(got.body), got.headers["Transfer-Encoding"]) == (size, "chunked")
    assert got.body.endswith(b"</PaSendRTV2Request>")
    gpd.clear_faults()
    gpd.fault(huge=size, gzip=True)
    got = quarter(gpd)
    assert len(got.body) < size / 500
    assert len(gzip.decompress(got.body)) == size


def test_unknown_words_are_refused(gpd: GpdSimulator) -> None:
    """A misspelt scenario does not pass for a quiet one."""
    for part in (
        {"fault": []},
        {"settings": {"rate": 1}},
        {"settings": {"retry_after": "never"}},
        {"faults": {"stauts": 500}},
        {"faults": {"drop": "late"}},
        {"receipts": [{"org": ORG, "iuw": "1"}]},
        {"generate": {"org": ORG, "amount": 3}},
        {"generate": {"org": ORG, "count": 3, "version": "v3"}},
        {"positions": [{"iuv": "1"}]},
        {"insert_while_paging": {"receipts": []}},
        {"keys": {"a": {"organisations": []}}},
    ):
        with pytest.raises(ValueError, match=r"Error: "):
            gpd.control("load", part)
    with pytest.raises(ValueError, match="no such control endpoint"):
        gpd.control("stats", {})


# --- counting ---------------------------------------------------------------------------------------------------------


def test_calls_are_counted_and_logged(gpd: GpdSimulator) -> None:
    """By endpoint, organisation, status and key, and one by one; control calls are not among them."""
    gpd.load(generate={"org": ORG, "count": 2})
    quarter(gpd, pageSize=100)
    fetched(gpd, make_receipt(ORG, 1)["iuv"])
    fetched(gpd, "1", OTHER)
    positions(gpd)
    listed(gpd, key="wrong")
    stats = gpd.stats()
    assert stats["calls"] == stats["connections"] == 5
    assert stats["by_endpoint"] == {"list": 2, "receipt": 2, "positions": 1, "other": 0}
    assert stats["by_org"] == {ORG: {"list": 2, "receipt": 1, "positions": 1}, OTHER: {"receipt": 1}}
    assert stats["by_status"] == {"200": 3, "404": 1, "401": 1}
    assert stats["by_key"] == {KEY: 3, CORE_KEY: 1, "wrong": 1}
    assert stats["most_in_flight"] == 1
    log = gpd.log()
    assert [(each["endpoint"], each["status"]) for each in log[:2]] == [("list", "200"), ("receipt", "200")]
    assert log[0]["params"] == {"from": "2026-01-01", "to": "2026-03-31", "pageSize": "100"}
    gpd.clear_stats()
    assert gpd.stats()["calls"] == 0
    assert gpd.log() == []


# --- the generator ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema() -> Any:
    return etree.XMLSchema(file=str(SCHEMA))


@pytest.mark.parametrize("version", ["v1", "v2", "mixed"])
def test_documents_are_valid_but_for_the_root(schema: Any, version: str) -> None:
    """Each document breaks the schema as it stands, and keeps it once its root is renamed into the namespace."""
    for n in range(400):
        receipt = make_receipt(ORG, n, "valid", version=version)
        tree = etree.fromstring(receipt["xml"])
        assert not schema.validate(tree)
        root = etree.Element(f"{{{PAF_NS}}}{receipt['root']}", nsmap={"paf": PAF_NS})
        root.extend(list(copy.copy(tree)))
        schema.assertValid(etree.ElementTree(root))


def test_the_push_of_a_receipt_says_the_same(schema: Any) -> None:
    """The SOAP request is valid and its receipt is the document's, blanks between elements aside."""
    for n in range(50):
        receipt = make_receipt(ORG, n, 3, version="mixed")
        envelope = etree.fromstring(soap_envelope(receipt, id_pa=OTHER, station="99999999999_02"))
        request = envelope[0][0]
        schema.assertValid(etree.ElementTree(request))
        assert (request.tag, request[0].text, request[2].text) == (
            f"{{{PAF_NS}}}{receipt['root']}",
            OTHER,
            "99999999999_02",
        )
        pushed, fetched = (
            ET.canonicalize(etree.tostring(each, encoding="unicode", with_tail=False), strip_text=True)
            for each in (request[3], etree.fromstring(receipt["xml"])[3])
        )
        assert pushed.replace(f' xmlns:pafn="{PAF_NS}"', "") == fetched


def test_receipts_hang_on_their_arguments_alone(gpd: GpdSimulator) -> None:
    """The same number and seed make the same receipt here and in the simulator; IUVs are shared by organisations."""
    period = {"from": "2026-05-01T10:00:00", "to": "2026-05-02T10:00:00"}
    order = {"count": 20, "seed": "s", "version": "mixed", "first": 5, "without": [7, 8], **period}
    assert gpd.load(generate=[{"org": org, **order} for org in (ORG, OTHER)])["receipts"] == 36
    got = listed(gpd, from_=period["from"], to=period["to"])
    receipts = [
        make_receipt(ORG, n, "s", start=period["from"], end=period["to"], version="mixed")
        for n in range(5, 25)
        if n not in (7, 8)
    ]
    assert got.iuvs == sorted(receipt["iuv"] for receipt in receipts) == listed(gpd, OTHER, from_="2026-05-01").iuvs
    assert {fetched(gpd, receipt["iuv"]).body == receipt["xml"] for receipt in receipts} == {True}
    other = make_receipt(OTHER, 5, "s")
    assert other["iuv"] == receipts[0]["iuv"] != make_receipt(ORG, 5, "t")["iuv"]
    assert other["receipt_id"] != receipts[0]["receipt_id"]


def test_receipts_are_as_various_as_real_ones() -> None:
    """Among a thousand receipts is everything that surprises: what is missing, long, accented or escaped."""
    texts = [make_receipt(ORG, n, "various", version="mixed")["xml"].decode() for n in range(1000)]
    parts = (
        *("<payer>", "<officeName>", "<fee>", "<standIn>true", "<standIn>false", "<metadata>", "<MBDAttachment>"),
        *("&amp;", "&lt;", "è", "'", "ANONIMO", "<companyName> </companyName>", "<idTransfer>5<", "voce-14"),
        *("<paymentNote>", "<idBundle>", "<applicationDate>", "<entityUniqueIdentifierType>G", "<standIn>"),
        *("<paSendRTReq>", "<PaSendRTV2Request>", "NOTIFICATION_FEE", "<pspFiscalCode>"),
    )
    for part in parts:
        assert 0 < sum(part in text for text in texts) < 1000, part
    times = {ET.fromstring(text).findtext("receipt/paymentDateTime", "")[19:] for text in texts}
    assert {"", "Z", "+01:00", "+02:00"} <= times
    assert {len(time) for time in times} >= {2, 4, 7, 5, 10}  # .5, .123, .123456, .123Z, .123+01:00
    for text in texts[:200]:
        receipt = ET.fromstring(text).find("receipt")
        assert receipt is not None
        cents = [int(amount.text.replace(".", "")) for amount in receipt.iter("transferAmount") if amount.text]
        assert sum(cents) == int(receipt.findtext("paymentAmount", "").replace(".", ""))


# --- the process ------------------------------------------------------------------------------------------------------


def test_it_stands_on_the_standard_library_alone() -> None:
    """No module of the simulator imports the station or anything that is not part of Python."""
    for file in (ROOT / "tests" / "gpd_simulator").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, file.name


def test_a_hundred_thousand_receipts_load_and_list(tmp_path: Path) -> None:
    """They are there, page after page and one by one."""
    scenario = {"generate": {"org": ORG, "count": 100_000}, "settings": {"rate_calls": 0}}
    with GpdSimulator.start(tmp_path, scenario) as gpd:
        assert quarter(gpd, pageSize=100).json["totalPages"] == 1000
        assert all(quarter(gpd, pageSize=100, pageNum=n * 99).status == 200 for n in range(10))
        assert all(fetched(gpd, make_receipt(ORG, n)["iuv"]).status == 200 for n in range(0, 100_000, 9999))


def test_it_listens_on_the_loopback_address_alone(gpd: GpdSimulator) -> None:
    """On every other address its port is closed."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", gpd.port), timeout=5)


def test_it_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """When its standard input ends it exits, so that no killed test run leaves one behind; stop may come twice."""
    gpd = GpdSimulator.start(tmp_path)
    assert gpd.process.stdin is not None
    gpd.process.stdin.close()
    assert gpd.process.wait(60) == 0
    gpd.stop()
    gpd.stop()


def test_it_comes_back_on_the_same_port(tmp_path: Path) -> None:
    """Killed and started again with the same port, it answers at the same address; in between nobody does."""
    gpd = GpdSimulator.start(tmp_path)
    gpd.kill()
    with pytest.raises(ConnectionRefusedError):
        listed(gpd)
    with GpdSimulator.start(tmp_path, port=gpd.port) as again:
        assert listed(again).status == 200


def test_a_wrong_scenario_keeps_it_from_starting(tmp_path: Path) -> None:
    """It does not start with a scenario that it does not understand, and says why."""
    with pytest.raises(RuntimeError, match="unknown receits"):
        GpdSimulator.start(tmp_path, {"receits": []})


def test_it_runs_from_the_projects_root() -> None:
    """`python -m tests.gpd_simulator` works from the project's root too."""
    command = [sys.executable, "-m", "tests.gpd_simulator", "--help"]
    assert "--print-port" in subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
