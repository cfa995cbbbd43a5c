"""`station fdr` as a process against the simulator: every flow once, in all its revisions, whatever goes wrong."""

import json
import re
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import forked
import pytest
from fdr_job import EC, OTHER_EC, THIRD_EC, FdrJob, ago, kill_during_a_walk, until
from fdr_simulator import FdrSimulator, make_payment
from process import environment

from station.store import tables

PSP = "ABI99999"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FdrSimulator]:
    with FdrSimulator.start(tmp_path_factory.mktemp("fdr")) as simulator:
        yield simulator


@pytest.fixture
def fdr(running: FdrSimulator) -> Iterator[FdrSimulator]:
    running.reset()
    yield running
    stats = running.stats()
    assert stats["errors"] == []
    assert stats["without_request_id"] == stats["repeated_request_ids"] == 0


@pytest.fixture
def job(fdr: FdrSimulator, sqlite_url: str, tmp_path: Path) -> FdrJob:
    return FdrJob(fdr, sqlite_url, tmp_path)


@pytest.fixture
def either(fdr: FdrSimulator, database_url: str, tmp_path: Path) -> FdrJob:
    """A job on SQLite and one on PostgreSQL."""
    return FdrJob(fdr, database_url, tmp_path)


def a_flow(name: str = "2026-11-10ABI99999-S1", count: int = 3, org: str = EC, **more: Any) -> dict[str, Any]:
    payments = [make_payment(org, 0, number, name) for number in range(count)]
    return {"org": org, "fdr": name, "published": ago(days=2), "payments": payments, **more}


def stored(job: FdrJob) -> dict[tuple[str, int], Any]:
    return {(row.fdr, row.revision): row for row in job.table(tables.fdr_flow)}


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_flows_of_three_ecs(either):
    """Each flow is here with its payments and its sums, once, with as many calls as there are pages."""
    either.ecs = (EC, OTHER_EC, THIRD_EC)
    for ec in either.ecs:
        either.fdr.load(generate={"org": ec, "flows": 12, "payments": 25})
    either.fdr.settings(page_size=10)
    ran = either.json()
    assert ran["complete"]
    counts = {name: ran["total"][name] for name in ("listed", "new", "revised", "failed", "payments")}
    assert counts == {"listed": 36, "new": 36, "revised": 0, "failed": 0, "payments": 900}
    assert either.fdr.stats()["by_endpoint"] == {"flows": 6, "flow": 36, "payments": 108, "receipt": 0, "other": 0}
    assert ran["total"]["requests"] == 150
    payments = either.table(tables.fdr_payment)
    made = [make_payment(ec, flow, n) for ec in either.ecs for flow in range(12) for n in range(25)]
    assert {(row.iur, row.iuv, str(row.amount)) for row in payments} == {
        (one["iur"], one["iuv"], one["amount"]) for one in made
    }
    assert len(payments) == 900
    for row in either.table(tables.fdr_flow):
        own = [one.amount for one in payments if (one.id_pa, one.fdr) == (row.id_pa, row.fdr)]
        assert row.sum_payments == row.computed_sum_payments == sum(own)
        assert (row.tot_payments, row.superseded, row.error) == (25, False, None)
        assert row.receiver_organization_id == row.id_pa
        assert (row.published, row.flow_date) < (datetime.now(UTC), row.published)
    either.fdr.clear_stats()
    assert either.json()["total"]["new"] == 0
    assert either.fdr.stats()["by_endpoint"]["flow"] == 0


def test_a_flow_as_it_is_told(job):
    """Statuses, transfers, dates, and a name with quotes and line breaks, which is kept on one line."""
    rows = [
        {"iuv": f"{n}", "iur": f"r{n}", "amount": "0.1", "status": status, "id_transfer": n + 1, "date": ago(days=3)}
        for n, status in enumerate(("EXECUTED", "REVOKED", "STAND_IN", "STAND_IN_NO_RPT", "NO_RPT"))
    ]
    receiver = {"id": EC, "organizationId": OTHER_EC, "organizationName": 'L\'"Ente"\n\x1b[31m'}
    job.fdr.load(flows=[a_flow("f", payments=rows, receiver=receiver, regulation="TRN 1")])
    job.run()
    [flow] = job.table(tables.fdr_flow)
    assert (flow.receiver_id, flow.receiver_organization_id, flow.regulation) == (EC, OTHER_EC, "TRN 1")
    assert flow.receiver_name == 'L\'"Ente"\\n\\x1b[31m'
    payments = job.table(tables.fdr_payment)
    assert [(row.pay_status, row.id_transfer) for row in payments] == [(0, 1), (3, 2), (4, 3), (8, 4), (9, 5)]
    assert {row.pay_date.date() for row in payments} == {(datetime.now(UTC) - timedelta(days=3)).date()}


NO_SUMS = {"sumPayments": None, "computedSumPayments": None}


def test_floats(job):
    """0.1 + 0.2 is 0.30, in payments and in sums; what is no amount in cents is an error that names the field."""
    payments = [{"iuv": "1", "iur": "a", "amount": "0.30000000000000004"}, {"iuv": "2", "iur": "b", "amount": "1e3"}]
    job.fdr.load(flows=[a_flow("f", payments=payments)])
    job.fdr.load(flows=[a_flow("g", payments=[{"iuv": "1", "iur": "a", "amount": "0.123"}])])
    job.fdr.load(flows=[a_flow("h", payments=[{"iuv": "1", "iur": "a", "amount": "1e300"}])])
    job.fdr.load(flows=[a_flow("i", payments=[{"iuv": "1", "iur": n, "amount": "6e9"} for n in "ab"], extra=NO_SUMS)])
    job.run(expect=1)
    assert [row.amount for row in job.table(tables.fdr_payment)] == [Decimal("0.30"), Decimal("1000.00")]
    found = stored(job)
    assert found["f", 1].sum_payments == Decimal("1000.30")
    assert "two decimals" in found["g", 1].error
    assert "Payments is not an amount of euro" in found["h", 1].error
    assert "ten billion" in found["i", 1].error


def test_later_revisions_replace_earlier_ones(either):
    """Both are kept, the earlier one marked with its payments; one that was replaced unread stays so."""
    either.settings = {"again_after": 0}
    either.fdr.load(flows=[a_flow("f"), a_flow("late", 2)])
    either.fdr.fault(endpoint="payments", iuv="late", status=500)
    assert either.json(expect=1)["total"]["failed"] == 1
    either.fdr.load(flows=[a_flow("f", 4, revision=2), a_flow("late", 1, revision=3)])
    either.fdr.clear_faults()
    either.fdr.fault(endpoint="flow", iuv="late", skip=1, status=500)  # revision 3 is read first
    ran = either.json()
    assert (ran["total"]["revised"], ran["total"]["failed"], ran["ecs"][0]["error"]) == (2, 0, None)
    found = stored(either)
    assert {key: (row.superseded, row.fetched_at is not None) for key, row in found.items()} == {
        ("f", 1): (True, True),
        ("f", 2): (False, True),
        ("late", 1): (True, False),
        ("late", 3): (False, True),
    }
    counted: dict[tuple[str, int, bool], int] = {}
    for row in either.table(tables.fdr_payment):
        counted[row.fdr, row.revision, row.superseded] = counted.get((row.fdr, row.revision, row.superseded), 0) + 1
    assert counted == {("f", 1, True): 3, ("f", 2, False): 4, ("late", 3, False): 1}
    assert either.json("--status")["ecs"][0]["unread"] == 0


def test_the_same_name_of_two_psps_and_two_ecs(job):
    """A flow's name alone tells nothing."""
    job.ecs = (EC, OTHER_EC)
    job.fdr.load(flows=[a_flow("f"), a_flow("f", 2, psp="OTHER"), a_flow("f", 1, OTHER_EC)])
    assert job.json()["total"]["payments"] == 6
    assert len(job.table(tables.fdr_flow)) == 3


# --- the list ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["404", "empty", "closed"])
def test_nothing_found(job, form):
    """Three forms of an empty list, each a complete walk."""
    job.fdr.settings(nothing_found=form)
    ran = job.json()
    assert (ran["complete"], ran["total"]["listed"]) == (True, 0)
    [progress] = job.table(tables.fdr_ec)
    assert progress.watermark <= progress.walked_at


def test_first_month_is_listed_until_there_is_a_flow(job):
    """A first walk whose connection was closed by chance looks like a quiet month; the next lists it again."""
    job.fdr.settings(nothing_found="closed")
    job.run()
    job.fdr.load(flows=[a_flow(published=ago(days=20), flow_date=ago(days=21))])
    assert job.json()["total"]["new"] == 1


def test_nothing_found_where_there_must_be(job):
    """A list that is empty though it must have a flow that is here is no quiet day."""
    job.fdr.load(flows=[a_flow()])
    job.run()
    [before] = job.table(tables.fdr_ec)
    job.fdr.control("remove", {"org": EC, "fdr": a_flow()["fdr"]})
    for form in ("404", "closed"):
        job.fdr.settings(nothing_found=form)
        assert "lists no flow" in job.json(expect=1)["ecs"][0]["error"]
    assert job.table(tables.fdr_ec)[0].watermark == before.watermark


@pytest.mark.parametrize(
    "fault", [{"style": "gateway"}, {"style": "html"}, {"body": "{}"}, {"status": 302, "style": "empty"}]
)
def test_another_404_is_no_empty_list(job, fault):
    """A gateway's 404, or a redirection, means that the API is not at the address."""
    job.fdr.fault(endpoint="flows", **({"status": 404} | fault))
    assert job.json(expect=1)["ecs"][0]["outcome"] == "failed"
    assert job.table(tables.fdr_ec) == []


def test_since_the_watermark_with_an_overlap(job):
    """First a month, then from seven days before the last run's start; times in UTC with Z."""
    job.fdr.load(flows=[a_flow("late", published=ago(days=5))])
    job.run()
    job.fdr.load(flows=[a_flow("later", published=ago(days=4))])
    assert job.json()["total"]["new"] == 1
    asked = [call["params"]["publishedGt"] for call in job.fdr.log() if call["endpoint"] == "flows"]
    since = [datetime.fromisoformat(text) for text in asked]
    assert all(text.endswith("Z") for text in asked)
    now = datetime.now(UTC)
    assert timedelta(days=27) < now - since[0] < timedelta(days=30)
    assert abs(now - since[1] - timedelta(days=7)) < timedelta(minutes=2)


def test_published_while_paging(job):
    """A flow that shifts the pages of the list costs none of the others."""
    job.fdr.load(generate={"org": EC, "flows": 6, "payments": 1}, settings={"page_size": 2})
    job.fdr.publish_while_paging(1, flows=[a_flow("early", flow_date=ago(days=25))])
    job.run()
    assert len(job.table(tables.fdr_flow)) == 6
    job.run()
    assert len(job.table(tables.fdr_flow)) == 7


def test_list_that_becomes_shorter(job):
    """It is read again from its first page, or a flow would be missed."""
    job.fdr.load(generate={"org": EC, "flows": 6, "payments": 1}, settings={"page_size": 2})
    job.fdr.load(flows=[a_flow("first", flow_date=ago(days=25)), a_flow("second", flow_date=ago(days=25))])
    job.fdr.publish_while_paging(2, remove=["first", "second"])
    ran = job.json()
    assert (ran["total"]["listed"], job.fdr.stats()["by_endpoint"]["flows"]) == (6, 3 + 3)


def test_list_that_becomes_shorter_each_time(job):
    """Three times, then it is an error, and the watermark stays."""
    job.fdr.load(generate={"org": EC, "flows": 6, "payments": 1}, settings={"page_size": 2})
    row = {"fdr": "f", "pspId": PSP, "revision": 1, "published": ago(days=1), "flowDate": ago(days=1)}
    job.fdr.fault(endpoint="flows", page=2, json={"metadata": {"totPage": 2}, "count": 1, "data": [row]})
    assert "became shorter" in job.json(expect=1)["ecs"][0]["error"]
    assert job.table(tables.fdr_ec) == []


def test_rows_that_cannot_be_used(job):
    """The others are stored; the list is listed again from the same time, and the reason names the row's field."""
    good = {"fdr": "f", "pspId": PSP, "revision": 1, "published": ago(days=1), "flowDate": ago(days=1)}
    bad: list[Any] = [
        *(good | {"fdr": name} for name in ("a\x1b[31m\nb", "..", "x" * 36, "\ud800")), good | {"revision": 0}, None,
        good | {"revision": 10**30}, good | {"pspId": None}, good | {"published": "yesterday"},
    ]  # fmt: skip
    job.fdr.load(flows=[a_flow("f")])
    body = {"metadata": {"totPage": 1}, "data": [*bad, good]}
    name = job.fdr.fault(endpoint="flows", json=body)
    ran = job.json(expect=1)
    assert "9 rows of the list cannot be used" in ran["ecs"][0]["error"]
    assert "row 1: fdr is not" in ran["ecs"][0]["error"]
    assert [row.fdr for row in job.table(tables.fdr_flow)] == ["f"]
    assert [(row.watermark, row.walked_at) for row in job.table(tables.fdr_ec)] == [(None, None)]
    job.fdr.clear_faults(name)
    job.run()


# --- gaps -------------------------------------------------------------------------------------------------------------


def test_a_gap_stays_visible(either):
    """Longer than the server lists: an error in each run until it is acknowledged, and a longer one is told anew."""
    either.run()
    either.age(days=40)
    error = either.json(expect=1)["ecs"][0]["error"]
    assert "never listed" in error
    assert f"station fdr acknowledge --ec {EC}" in error
    either.fdr.load(flows=[a_flow()])
    ran = either.json(expect=1)
    assert (ran["ecs"][0]["outcome"], ran["total"]["new"], ran["complete"]) == ("done", 1, False)
    status = either.json("--status", expect=1)
    assert status["ecs"][0]["gap_from"] < status["ecs"][0]["gap_to"]
    assert "GAP" in either.run("--status", expect=1).out
    assert "is acknowledged" in either.run("acknowledge", "--operator", "Anna").out
    assert "no gap" in either.run("acknowledge", "--ec", EC).out
    either.run()
    either.run("--status")
    [row] = either.table(tables.fdr_ec)
    assert row.gap_acknowledged_by == "Anna"
    either.age(days=31)
    either.json(expect=1)
    assert either.table(tables.fdr_ec)[0].gap_from > row.gap_from


def test_clock_that_was_ahead(job):
    """A watermark in the future is forgotten: the walk goes a month back."""
    job.fdr.load(flows=[a_flow(published=ago(days=20))])
    job.run()
    job.age(days=-400)
    assert "a clock was ahead" in job.json()["ecs"][0]["error"]
    assert job.table(tables.fdr_ec)[0].watermark < datetime.now(UTC)


# --- interrupted and limited ------------------------------------------------------------------------------------------


def test_killed_during_a_walk(either):
    """No flow twice, none lost. Killed twenty times in tests/chaos."""
    kill_during_a_walk(either, 3)


def test_terminated(job):
    """SIGTERM ends a run after the flow in hand; the next run goes on."""
    job.fdr.load(generate={"org": EC, "flows": 60, "payments": 2}, settings={"latency": 0.1})
    process = job.start("--json")
    until(lambda: job.fdr.stats()["by_endpoint"]["flow"] >= 5, "five flows asked for")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    ran = json.loads(out)
    assert (process.returncode, ran["ecs"][0]["outcome"]) == (1, "stopped")
    assert 0 < len(job.stored()) == ran["total"]["new"] < 60
    job.fdr.settings(latency=0)
    assert job.json()["total"]["new"] == 60 - ran["total"]["new"]


def test_another_run(job):
    """Two runs at once: the second says so and leaves with 3."""
    job.fdr.load(generate={"org": EC, "flows": 30, "payments": 1}, settings={"latency": 0.05})
    process = job.start()
    until(lambda: job.fdr.stats()["by_endpoint"]["flow"] >= 3, "the first is at work")
    process.send_signal(signal.SIGSTOP)  # it takes as long as the second needs
    assert "Another `station fdr` is running" in job.run(expect=3).err
    process.kill()
    process.communicate()


def test_never_more_calls_than_the_pace(job):
    """Each operation of a key has its rate, over the runs too: the simulator counts."""
    job.ecs = (EC, OTHER_EC)
    for ec in job.ecs:
        job.fdr.load(generate={"org": ec, "flows": 8, "payments": 1}, settings={"rate_period": 0.5})
    job.settings = {"rate": 20}
    process = job.start()
    until(lambda: job.fdr.stats()["by_endpoint"]["flow"] >= 4, "the first is at work")
    process.kill()
    process.communicate()
    job.run()
    most = job.fdr.stats()["most_in_period"]
    assert set(most) == {"fdr-key/flows", "fdr-key/flow", "fdr-key/payments"}
    assert max(most.values()) <= 20 * 0.5 + 1  # one more where a call took longer on its way than the next


def test_limited(job):
    """After 429 the run waits as it is told, and goes on."""
    job.fdr.load(generate={"org": EC, "flows": 6, "payments": 1}, settings={"rate_calls": 4, "rate_period": 1.0})
    job.settings = {"retries": 5}
    job.run()
    stats = job.fdr.stats()
    assert len(job.stored()) == 6
    assert 1 <= stats["rate_limited"] <= 4


def test_api_down(job):
    """Three flows in a row without an answer end an EC's run; the next run goes on, with others first."""
    job.fdr.load(generate={"org": EC, "flows": 12, "payments": 1})
    job.settings = {"retries": 0, "again_after": 0}
    name = job.fdr.fault(endpoint="flow", skip=4, status=503)
    ran = job.json(expect=1)
    assert (ran["total"]["new"], ran["total"]["failed"], ran["ecs"][0]["outcome"]) == (4, 3, "failed")
    job.fdr.clear_faults(name)
    job.fdr.fault(endpoint="flow", skip=5, status=503)
    assert job.json(expect=1)["total"]["new"] == 5
    job.fdr.clear_faults()
    job.run()
    assert len(job.stored()) == 12


# --- one bad flow, one bad EC -----------------------------------------------------------------------------------------


def test_bad_flows_never_stop_the_others(either):
    """A disabled PSP, a flow that is not there, one of another EC, one with too few payments: each visible."""
    foreign = {"id": THIRD_EC, "organizationId": THIRD_EC, "organizationName": "Altri"}
    either.fdr.load(
        flows=[
            a_flow("disabled", disabled=True), a_flow("foreign", receiver=foreign), a_flow("shrinks", lost=1),
            a_flow("other", extra={"fdr": "another"}), a_flow("good"), a_flow("psp", sender={"pspId": "X"}),
        ]
    )  # fmt: skip
    either.fdr.fault(endpoint="flow", iuv="gone", status=404)
    either.fdr.load(flows=[a_flow("gone")])
    ran = either.json(expect=1)
    assert (ran["total"]["new"], ran["total"]["failed"]) == (1, 6)
    errors = {row.fdr: row.error for row in either.table(tables.fdr_flow)}
    assert errors.pop("good") is None
    for name, word in {
        "disabled": "FDR-2001", "foreign": THIRD_EC, "shrinks": "2 are listed", "other": "another flow",
        "psp": "another", "gone": "404",
    }.items():  # fmt: skip
        assert word in errors[name], (name, errors[name])
    status = either.json("--status")
    assert (status["late"], status["ecs"][0]["unread"], len(status["flows"])) == (False, 6, 6)
    either.fdr.clear_stats()
    assert either.json()["total"]["failed"] == 0  # not due yet
    either.age(hours=1)
    assert either.json(expect=1)["total"]["failed"] == 6
    either.age(days=31)
    either.run("acknowledge")
    either.run(expect=1)
    either.age(hours=0)
    either.run("acknowledge")
    assert either.json()["total"]["failed"] == 0  # given up, and visible
    assert either.json("--status")["ecs"][0]["unread"] == 6


def test_one_ec_without_key_and_one_unknown(job):
    """The third is walked."""
    job.ecs = (EC, OTHER_EC, THIRD_EC)
    job.more = 'fdr_key = "own"\n[[ec]]\nid = "55555555555"\nfdr = false'
    job.fdr.load(
        keys={"fdr-key": [EC, OTHER_EC]}, flows=[a_flow(), a_flow(org=OTHER_EC)], settings={"unknown_ecs": [OTHER_EC]}
    )
    ran = job.json(expect=1)
    errors = {ec["id_pa"]: ec["error"] for ec in ran["ecs"]}
    assert errors[EC] is None
    assert "FDR-2008" in errors[OTHER_EC]
    assert "401" in errors[THIRD_EC]
    assert [row.id_pa for row in job.table(tables.fdr_flow)] == [EC]


# --- hostile servers --------------------------------------------------------------------------------------------------

HOSTILE: dict[str, dict[str, Any]] = {
    "endless body": {"huge": 200_000_000, "chunked": True},
    "gzip bomb": {"huge": 1_000_000_000, "gzip": True},
    "slow body": {"trickle": 20},
    "silence": {"delay": 20},
    "broken off": {"drop": "middle"},
    "redirect": {"status": 307, "style": "empty", "headers": {"Location": "http://127.0.0.2:1/"}},
    "html": {"body": "<html>", "content_type": "text/html"},
    "no object": {"json": []},
    "deep": {"body": "[" * 100_000},
    "nan": {"body": '{"metadata": {"totPage": NaN}, "data": []}'},
    "long number": {"body": '{"metadata": {"totPage": %s}, "data": []}' % ("9" * 10_000)},
    "10^9 pages": {"json": {"metadata": {"totPage": 10**9}, "data": []}},
    "no list": {"json": {"metadata": {"totPage": 1}, "data": "x"}},
}


def test_hostile_lists(job):
    """A clear error within the timeouts, no other host called, and the other ECs go on: an EC for each answer."""
    hostile = {f"{70000000000 + number}": fault for number, fault in enumerate(HOSTILE.values())}
    job.ecs = (*hostile, EC)
    job.settings = {"retries": 0, "timeout": 0.5, "connect_timeout": 0.5}
    for ec, fault in hostile.items():
        job.fdr.load(flows=[a_flow(org=ec)])
        job.fdr.fault(endpoint="flows", org=ec, **fault)
    job.fdr.load(flows=[a_flow()])
    ran = {ec["id_pa"]: ec for ec in job.json(expect=1)["ecs"]}
    for ec, name in zip(hostile, HOSTILE, strict=True):
        assert ran[ec]["outcome"] == "failed", name
        assert "unexpected" not in ran[ec]["error"], name
        assert ran[ec]["duration_s"] < 5, name
        assert ("307" in ran[ec]["error"]) == (name == "redirect")
    assert (ran[EC]["outcome"], ran[EC]["new"]) == ("done", 1)
    assert [row.id_pa for row in job.table(tables.fdr_flow)] == [EC]


@pytest.mark.parametrize("endpoint", ["flow", "payments"])
def test_hostile_flows(job, endpoint):
    """The same in answers about flows: each flow that is answered so says why, and the others are stored."""
    job.settings = {"retries": 0, "timeout": 0.5, "connect_timeout": 0.5, "workers": 1}
    names = {f"f{number}": fault for number, fault in enumerate(HOSTILE.values())}
    job.fdr.load(flows=[a_flow(name) for name in names])
    good = [f"f{number}-good" for number in range(len(names))]  # between them, or the API would pass for down
    job.fdr.load(flows=[a_flow(name) for name in good])
    for name, fault in names.items():
        job.fdr.fault(endpoint=endpoint, iuv=name, **fault)
    ran = job.json(expect=1)
    assert "unexpected" not in ran["ecs"][0]["error"]
    assert (ran["total"]["failed"], ran["total"]["new"]) == (len(names), len(names))
    assert {row.fdr for row in job.table(tables.fdr_flow) if row.error is None} == set(good)


def test_payments_without_end(job):
    """Pages that bring nothing new, or more than the flow has, end at once."""
    payment = {"index": 1, "iuv": "1", "iur": "1", "idTransfer": 1, "pay": 1.0, "payStatus": "EXECUTED"}
    job.fdr.load(flows=[a_flow("same"), a_flow("more"), a_flow("pages")])
    job.fdr.fault(endpoint="payments", iuv="same", json={"metadata": {"totPage": 2}, "data": [payment]})
    many = [payment | {"index": index} for index in range(1, 11)]
    job.fdr.fault(endpoint="payments", iuv="more", json={"metadata": {"totPage": 1}, "data": many})
    job.fdr.fault(endpoint="payments", iuv="pages", json={"metadata": {"totPage": 400}, "data": many})
    ran = job.json(expect=1)
    assert ran["total"]["failed"] == 3
    assert job.fdr.stats()["by_endpoint"]["payments"] == 4
    assert [row.error.split(" (")[0] for row in job.table(tables.fdr_flow)] == [
        "it has 3 payments, and 10 are listed",
        "it has 3 payments, in 400 pages",
        "page 2 of 2 of its payments has none that are new",
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("payStatus", value) for value in (None, "PAID", 0, [])],
        *[("pay", value) for value in (None, -0.01, "1.00", True, 10**10, 0.001)],
        *[("iur", value) for value in (None, "", "a\nb", "x" * 36, 7)],
        *[("idTransfer", value) for value in (0, 6, "1")],
        *[("index", value) for value in (None, 0, 2**31)],
        ("payDate", "soon"),
    ],
)
def test_unreadable_payments(client, field, value):
    """A payment that cannot be read names its row and field, never the value."""
    from station.errors import ApiAnswerError

    payment = {"index": 1, "iuv": "1", "iur": "1", "idTransfer": 1, "pay": 1.0, "payStatus": "EXECUTED"}
    with pytest.raises(ApiAnswerError, match=rf"row 1: {field} "):
        client({"metadata": {"totPage": 1}, "data": [payment | {field: value}]})


@pytest.fixture
def client():
    from station.pagopa.fdr import read_payments
    from station.pagopa.http import ApiResponse

    def read(body: Any) -> Any:
        return read_payments(ApiResponse(200, "application/json", None, json.dumps(body).encode(), "id", 0.0))

    return read


# --- the command ------------------------------------------------------------------------------------------------------


def test_dry_run(job):
    """It shows the flows that are new, and reads and changes nothing."""
    job.fdr.load(flows=[a_flow("f")])
    ran = job.json("--dry-run")
    assert [(flow["fdr"], flow["revision"]) for flow in ran["new"]] == [("f", 1)]
    assert job.run("--dry-run").out.split("\t")[:4] == [EC, "f", PSP, "1"]
    assert job.table(tables.fdr_flow) == job.table(tables.fdr_ec) == job.table(tables.fdr_run) == []
    assert job.fdr.stats()["by_endpoint"]["flow"] == 0


def test_check(job):
    """`station check` calls the API once, masks the key, and names an EC without one."""
    job.ecs = (EC, OTHER_EC)
    job.settings = {"key": None}
    job.more = ""

    def check(*arguments: str, expect: int) -> Any:
        command = [*job.prepare(())[:2], "check", *arguments]
        process = forked.station(command, environment(job.url, **{f"STATION_EC_{EC}_FDR_KEY": "fdr-key"}), job.folder)
        out, err = process.communicate(timeout=60)
        assert process.returncode == expect, out + err
        return out

    out = check(expect=0)
    assert f"no fdr_key for {OTHER_EC}" in out
    assert "fdr_key **********" in out
    assert job.fdr.stats()["by_endpoint"]["flows"] == 1
    assert "MISSING  no_fdr_key: no key for the FdR API for 88888888888" in check("--production", "--offline", expect=1)
    job.fdr.load(keys={"other": "*"})
    assert "WRONG  fdr.url, called for EC 77777777777: 401" in check(expect=1)


def test_status(job):
    """Never walked is late; after a walk it is not, until it was too long ago."""
    assert job.json("--status", expect=1)["late"]
    assert "never" in job.run("--status", expect=1).out
    job.run()
    out = job.run("--status").out
    assert "LATE" not in out
    assert "done" in out
    job.age(hours=37)
    assert "LATE" in job.run("--status", expect=1).out
    assert job.run("--status", "--quiet", expect=1).out


def test_quiet(job):
    """Nothing is printed where nothing is wrong."""
    ran = job.run("--quiet")
    assert ran.out == ran.err == ""
    job.fdr.down()
    ran = job.run("--quiet", expect=1)
    assert "503" in ran.out + ran.err


@pytest.mark.parametrize(
    ("ecs", "arguments", "settings", "message"),
    [
        ((), (), {}, r"no \[\[ec\]\]"),
        ((EC,), ("--ec", OTHER_EC), {}, "not configured"),
        ((EC,), (), {"key": ""}, "1 to 200 printable"),
        ((EC,), (), {"key": None}, "STATION_FDR_KEY"),
        ((), ("--ec", "12"), {}, "not an EC"),
    ],
)
def test_usage(job, ecs, arguments, settings, message):
    """What is wrong is told before anything is called."""
    job.ecs, job.settings = ecs, settings
    assert re.search(message, job.run(*arguments, expect=2).err)
    assert job.fdr.stats()["calls"] == 0


def test_ledger_is_kept_for_its_time(job):
    """Old runs go."""
    job.settings = {"keep_runs_days": 1}
    job.run()
    job.rows("UPDATE fdr_run SET started_at = '2020-01-01 00:00:00.000000'")
    job.run()
    assert len(job.table(tables.fdr_run)) == 1
