"""The simulator of FdR and BizEvents shows the quirks it promises, in the published shape."""

import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from fdr_simulator import FdrSimulator, make_payment
from gpd_simulator import make_receipt
from openapi_model import check_shape

ORG, OTHER = "77777777777", "88888888888"
PSP = "ABI99999"
PUBLISHED = json.loads((Path(__file__).parent / "data" / "openapi_components.json").read_text())
FDR, BIZ = PUBLISHED["fdr_organization.json"], PUBLISHED["biz_events.json"]
FLOWS, FLOW, PAYMENTS = sorted(FDR["paths"], key=len)
[RECEIPT] = BIZ["paths"]


class Got(NamedTuple):
    status: int
    media_type: str | None
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FdrSimulator]:
    with FdrSimulator.start(tmp_path_factory.mktemp("fdr")) as simulator:
        yield simulator


@pytest.fixture
def fdr(running: FdrSimulator) -> Iterator[FdrSimulator]:
    running.reset()
    yield running
    assert running.stats()["errors"] == []


def get(url: str, key: str = "fdr-key", **params: Any) -> Got:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        query = f"?{urlencode(params)}" if params else ""
        connection.request("GET", f"/{path}{query}", headers={"Ocp-Apim-Subscription-Key": key})
        response = connection.getresponse()
        return Got(response.status, response.headers["Content-Type"], response.read())
    finally:
        connection.close()


def listed(fdr: FdrSimulator, org: str = ORG, **params: Any) -> Got:
    return get(f"{fdr.fdr_url}/organizations/{org}/fdrs", **params)


def flow(fdr: FdrSimulator, name: str, revision: int = 1, more: str = "", **params: Any) -> Got:
    path = f"organizations/{ORG}/fdrs/{quote(name)}/revisions/{revision}/psps/{PSP}{more}"
    return get(f"{fdr.fdr_url}/{path}", **params)


def receipt(fdr: FdrSimulator, iur: str, org: str = ORG) -> Got:
    return get(f"{fdr.biz_url}/organizations/{org}/receipts/{iur}", "biz-key")


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="seconds").replace("+00:00", "Z")


def a_flow(name: str = "2026-11-10ABI99999-S1", **more: Any) -> dict[str, Any]:
    payments = [make_payment(ORG, 0, number) for number in range(3)]
    return {"org": ORG, "fdr": name, "published": ago(days=2), "payments": payments, **more}


def test_paths_are_the_published_ones(fdr):
    """The simulator answers under the published addresses."""
    assert fdr.fdr_url.endswith(FDR["server"])
    assert fdr.biz_url.endswith(BIZ["server"])


def test_answers_have_the_published_shape(fdr):
    """Each answer has a published status, its content type, and exactly the published fields and types."""
    made = make_receipt(ORG, 1)
    fdr.load(flows=[a_flow(), a_flow("2026-11-10ABI99999-S2", disabled=True)], receipts=[{"org": ORG, "n": 1}])
    first = "2026-11-10ABI99999-S1"
    for document, path, status, got in (
        (FDR, FLOWS, 200, listed(fdr)),
        (FDR, FLOWS, 404, listed(fdr, OTHER)),
        (FDR, FLOWS, 400, listed(fdr, publishedGt=ago(days=40))),
        (FDR, FLOW, 200, flow(fdr, first)),
        (FDR, FLOW, 404, flow(fdr, first, 2)),
        (FDR, FLOW, 400, flow(fdr, "2026-11-10ABI99999-S2")),
        (FDR, PAYMENTS, 200, flow(fdr, first, more="/payments")),
        (BIZ, RECEIPT, 200, receipt(fdr, made["receipt_id"])),
        (BIZ, RECEIPT, 404, receipt(fdr, "1")),
    ):
        assert got.status == status
        schema = document["paths"][path]["responses"][str(status)]["content"][got.media_type]
        # BizEvents has null where the schema wants a text: for what a transfer does not have.
        check_shape(
            document["schemas"], schema, json.loads(got.body.replace(b'"mbdAttachment": null', b'"mbdAttachment": ""'))
        )


def test_parameters_have_the_published_bounds(fdr):
    """A page below 1 and a size outside of what is published are refused."""
    fdr.load(flows=[a_flow()])
    bounds = {name: one["schema"] for name, one in FDR["paths"][FLOWS]["parameters"].items()}
    assert (bounds["page"]["minimum"], bounds["size"]["maximum"], bounds["size"]["default"]) == (1, 1000, 1000)
    for params in ({"page": 0}, {"size": 0}, {"size": 1001}, {"publishedGt": "noZ"}, {"publishedGt": "no"}):
        assert listed(fdr, **params).status == (404 if params.get("publishedGt") == "no" else 400), params


def test_a_month_at_most(fdr):
    """A bound of more than a month ago is refused; without one the last month counts, by flow date too."""
    fdr.load(flows=[a_flow(), a_flow("old", published=ago(days=1), flow_date=ago(days=40))])
    assert [row["fdr"] for row in listed(fdr).json["data"]] == ["2026-11-10ABI99999-S1"]
    got = listed(fdr, flowDate=ago(days=40))
    assert (got.status, got.json["appErrorCode"]) == (400, "FDR-1000")
    assert listed(fdr, publishedGt=ago(days=1)).status == 404


def test_an_offset_is_404(fdr):
    """With an offset instead of Z nothing is found."""
    fdr.load(flows=[a_flow()])
    assert listed(fdr, publishedGt=ago(days=3).replace("Z", "+00:00")).status == 404
    assert listed(fdr, publishedGt=ago(days=3)).json["count"] == 1


def test_nothing_found_in_three_forms(fdr):
    """An error in FdR's form, an empty body, or no answer at all."""
    assert listed(fdr).json["appErrorCode"].startswith("FDR-")
    fdr.settings(nothing_found="empty")
    assert listed(fdr)[0::2] == (404, b"")
    fdr.settings(nothing_found="closed")
    with pytest.raises(http.client.RemoteDisconnected):
        listed(fdr)


def test_latest_revision_alone_is_listed(fdr):
    """In the order of flow date and name; each revision can be had."""
    fdr.load(flows=[a_flow("b"), a_flow("b", revision=2), a_flow("a", published=ago(days=1)), a_flow("c")])
    rows = [(row["fdr"], row["revision"]) for row in listed(fdr).json["data"]]
    assert rows == [("b", 2), ("c", 1), ("a", 1)]
    assert [flow(fdr, "b", revision).json["revision"] for revision in (1, 2)] == [1, 2]


def test_pages(fdr):
    """Pages count from 1, and their size is bounded."""
    fdr.load(generate={"org": ORG, "flows": 5, "payments": 7}, settings={"page_size": 2})
    pages = [listed(fdr, page=page).json for page in (1, 2, 3)]
    assert [(page["metadata"]["pageNumber"], page["metadata"]["totPage"], page["count"]) for page in pages] == [
        (1, 3, 2),
        (2, 3, 2),
        (3, 3, 1),
    ]
    name = pages[0]["data"][0]["fdr"]
    assert [len(flow(fdr, name, more="/payments", page=page).json["data"]) for page in (1, 4, 5)] == [2, 1, 0]


def test_sums_of_floats(fdr):
    """A sum is no decimal number, as the server's are not."""
    payments = [make_payment(ORG, 0, n) | {"amount": amount} for n, amount in enumerate(("0.1", "0.2"))]
    fdr.load(flows=[a_flow("f", payments=payments)])
    assert b'"sumPayments": 0.30000000000000004' in flow(fdr, "f").body


def test_receipts_of_secondary_beneficiaries(fdr):
    """BizEvents serves the EC of any transfer, and no other."""
    fdr.load(receipts=[{"iur": "one", "ecs": [ORG, OTHER], "body": {}}])
    assert [receipt(fdr, "one", org).status for org in (ORG, OTHER, "66666666666")] == [200, 200, 404]


def test_limits(fdr):
    """Calls are limited by key and endpoint, at BizEvents on their own, and counted."""
    fdr.load(flows=[a_flow("f")], settings={"rate_calls": 2, "biz_calls": 1})
    assert [listed(fdr).status for _ in range(3)] == [200, 200, 429]
    assert flow(fdr, "f").status == 200
    assert [receipt(fdr, "1").status for _ in range(2)] == [404, 429]
    assert fdr.stats()["most_in_period"] == {"fdr-key/flows": 3, "fdr-key/flow": 1, "biz-key/receipt": 2}


def test_keys(fdr):
    """An unknown key is 401, another EC 403, and each API has its own."""
    fdr.load(keys={"narrow": [OTHER]})
    assert get(f"{fdr.fdr_url}/organizations/{ORG}/fdrs", "narrow").status == 403
    assert get(f"{fdr.fdr_url}/organizations/{ORG}/fdrs", "biz-key").status == 401


def test_published_while_paging(fdr):
    """A flow in front shifts the pages of a list that is being read."""
    fdr.load(generate={"org": ORG, "flows": 4, "payments": 1}, settings={"page_size": 2})
    fdr.publish_while_paging(1, flows=[a_flow("early", flow_date=ago(days=25))])
    first, second = (listed(fdr, page=page).json["data"] for page in (1, 2))
    assert first[-1] == second[0]
