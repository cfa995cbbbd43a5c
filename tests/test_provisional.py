"""A receipt that BizEvents tells of is provisional: the genuine document takes its place, by any door."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from biz_events import a_biz_event
from build import ABSENT, EC, OTHER_EC, Request, a_gpd_document, a_request, an_envelope
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from refusals import OURS, Door
from sqlalchemy import update
from trouble import sent_again

from station import contract, store
from station.config import Retention, Settings
from station.errors import DocumentError
from station.intake import Intake, Origin, Outcome, Result
from station.purge import purge
from station.receipt import Flag, Source
from station.replay import Reading, Replay, Reread, UnpackLimits, Verdict
from station.store import tables


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=8)
    yield Door(engine)
    engine.dispose()


def tell(door: Door, request: Request, **over: object) -> Outcome:
    """Take in what BizEvents tells of a receipt."""
    raw = a_biz_event(request, **over)
    receipt = contract.read_provisional(raw, request["idPA"])
    intake = Intake(door.engine, Settings.model_validate(OURS))
    return intake.accept_provisional(raw, receipt, Origin(Source.BIZEVENTS, begun=datetime.now(UTC), http_status=200))


def without_arrival(found: dict) -> dict:
    return {name: value for name, value in found.items() if not name.endswith("_at") and name != "resends"}


def test_stored(door):
    """The receipt has what the JSON says, in exact cents; a copy for a secondary beneficiary is one for whom asked."""
    request = a_request(paymentAmount="1234.56").but(idPA=OTHER_EC)
    outcome = tell(door, request)
    assert outcome.result is Result.STORED
    assert outcome.flags == {Flag.PROVISIONAL, Flag.SECONDARY_BENEFICIARY}
    found = door.receipt(request)
    assert (found["source"], found["version"], found["id_station"], found["amount"]) == (
        "bizevents", 0, "", Decimal("1234.56"),
    )  # fmt: skip
    assert found["debtor_name"] == request["debtor.fullName"]
    assert [one["iban"] for one in found["transfers"]] == [one.get("IBAN") for one in request["transferList.transfer"]]
    (row,) = door.rows(tables.journal)
    assert (row["operation"], row["direction"], row["outcome"], row["source"]) == (
        "getOrganizationReceiptIur", "out", "stored", "bizevents",
    )  # fmt: skip
    assert tell(door, request).result is Result.DUPLICATE
    assert tell(door, request, description="another").result is Result.DUPLICATE
    assert without_arrival(door.receipt(request)) == without_arrival(found)


DOORS = {
    "push": (an_envelope, Source.PUSH),
    "reconcile": (a_gpd_document, Source.RECONCILE),
    "replay": (an_envelope, Source.REPLAY),
}


@pytest.mark.parametrize("by", DOORS)
def test_gives_way(door, by):
    """The genuine document is stored as if nothing had been there, though it says otherwise; the JSON is kept."""
    written, source = DOORS[by]
    request = a_request()
    tell(door, request, description="less", noticeNumber="3" + "9" * 17, transferDate="2020-01-01")
    raw = written(request)
    outcome = door.take(raw, source=source)
    assert (outcome.result, outcome.refusal) == (Result.STORED, None)
    found = door.receipt(request)
    assert (found["raw"], found["source"], found["description"]) == (raw, source, request["description"])
    assert "provisional" not in found["flags"]
    json_, genuine = sorted(door.rows(tables.receipt_document), key=lambda row: row["number"])
    assert json.loads(json_["raw"])["description"] == "less"
    assert (json_["source"], genuine["raw"]) == ("bizevents", raw)

    assert door.take(raw, source=source).result is Result.DUPLICATE
    assert tell(door, request).result is Result.DUPLICATE
    fuller = an_envelope(request.but(newThing="x"))
    assert door.take(fuller).result is Result.DUPLICATE
    assert door.receipt(request)["raw"] == fuller
    assert door.take(an_envelope(request.but(description="x"))).refusal.fault_code == "PAA_RECEIPT_DUPLICATA"
    before = door.everything()
    assert {item.reading for item in Reread(door.engine).run()} == {Reading.UNCHANGED}
    assert door.everything() == before


def test_as_if_never_provisional(door):
    """After the genuine document the receipt is as one that never was provisional; so is the second of its notice."""
    first, request, twin = a_request(), a_request(), a_request()
    second = request.but(noticeNumber=first["noticeNumber"], creditorReferenceId=first["creditorReferenceId"])
    for sent in (first, request):
        tell(door, sent)
    assert Flag.SECOND_RECEIPT in door.take(an_envelope(second)).flags
    door.take(an_envelope(first))
    door.take(an_envelope(twin))
    once, again = door.receipt(first), door.receipt(twin)
    assert (once["revision"], again["revision"]) == (2, 1)
    assert once["resends"] == again["resends"] == 0
    assert {name for name, value in once.items() if value is None} == {
        name for name, value in again.items() if value is None
    }
    pushed = {row["receipt_id"]: row for row in door.rows(tables.journal) if row["source"] == "push"}
    assert pushed[first["receiptId"]]["outcome"] == "stored"
    assert pushed[first["receiptId"]]["at"] == once["received_at"]


def test_reconcile_still_wants_the_document(door):
    """A provisional receipt is none for the reconciliation: the document is fetched where the GPD API lists it."""
    request = a_request()
    iuv = request["creditorReferenceId"]
    tell(door, request)
    with store.transaction(door.engine) as connection:
        assert store.runs.known_iuvs(connection, EC, [iuv]) == set()
    door.take(a_gpd_document(request), source=Source.RECONCILE)
    with store.transaction(door.engine) as connection:
        assert store.runs.known_iuvs(connection, EC, [iuv]) == {iuv}


def test_replay(door, tmp_path):
    """A dry run of replay foresees that the genuine document is stored, then it is; --stored rebuilds from JSON."""
    request = a_request()
    tell(door, request)
    before = door.everything()
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(description="x"))
        connection.execute(tables.transfer.delete())
    assert [item.reading for item in Reread(door.engine).run()] == [Reading.REBUILT]
    assert door.everything() == before
    file = tmp_path / "receipt.xml"
    file.write_bytes(an_envelope(request))
    for dry_run in (True, False):
        replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna", dry_run)
        (item,) = replay.files([str(file)], UnpackLimits(1 << 20), None)
        assert item.verdict is Verdict.STORED


def test_replaced_during_a_rebuild(door):
    """A rebuild that read the JSON leaves the genuine document alone, which took its place meanwhile."""
    request = a_request()
    tell(door, request)
    read = contract.read_provisional(a_biz_event(request), EC)
    door.take(an_envelope(request))
    before = door.everything()
    with store.transaction(door.engine) as connection:
        assert not store.rebuild(connection, contract.United(read, (read.content_hash,), 0))
    assert door.everything() == before


def test_purged(door):
    """The retention takes the JSON too; the document that comes later is stored all the same."""
    request = a_request()
    tell(door, request)
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(received_at=datetime.now(UTC) - timedelta(days=800)))
    list(purge(door.engine, Retention(raw_months=24, personal_months=24)))
    assert door.receipt(request)["raw"] == b""
    assert {item.reading for item in Reread(door.engine).run()} == {Reading.PURGED}
    raw = an_envelope(request)
    assert door.take(raw).result is Result.STORED
    found = door.receipt(request)
    assert (found["raw"], found["raw_purged_at"], found["anonymised_at"]) == (raw, None, None)


def test_show(door, run_station):
    """--xml says that there is none; --all prints the JSON; list and export find it by its flag and source."""
    request = a_request(**{"transfers.1": ABSENT})
    tell(door, request)
    shown = run_station("receipts", "show", request["receiptId"], "--xml")
    assert shown.returncode == 1
    assert "there is no XML: the receipt is provisional" in shown.stderr
    assert not shown.stdout
    assert '"receiptId"' in run_station("receipts", "show", request["receiptId"], "--all").stdout
    assert "provisional" in run_station("receipts", "show", request["receiptId"]).stdout
    for option in (("--flag", "provisional"), ("--source", "bizevents")):
        listed = run_station("receipts", "list", *option, "--json").stdout
        assert json.loads(listed)["receipt_id"] == request["receiptId"]
    exported = run_station("receipts", "export", "--format", "jsonl", "-").stdout
    assert json.loads(exported)["source"] == "bizevents"


def test_stamp(door, run_station, tmp_path):
    """BizEvents tells of a stamp, and does not have it: its export says so."""
    request = a_request(**{"transfers.0.IBAN": ABSENT, "transfers.0.MBDAttachment": b"<marca/>"})
    tell(door, request)
    told = run_station("receipts", "stamps", str(tmp_path / "stamps"))
    assert told.returncode == 1
    assert "it is provisional: BizEvents told of it, without the stamp" in told.stderr


def race(door: Door, payments: int) -> None:
    """For each payment a push, GPD's copy and BizEvents' JSON at once, in any order: the genuine document stands."""
    requests = [a_request() for _ in range(payments)]

    def play(request: Request, by: str) -> Outcome:
        if by == "bizevents":
            return sent_again(lambda: tell(door, request))()
        written, source = DOORS[by]
        return sent_again(door.take)(written(request), source=source)

    with ThreadPoolExecutor(6) as pool:
        tasks = []
        for number, request in enumerate(requests):
            ways = [("bizevents", "push", "reconcile"), ("push", "bizevents", "reconcile"),
                    ("reconcile", "bizevents", "push")][number % 3]  # fmt: skip
            tasks += [pool.submit(play, request, way) for way in ways]
        outcomes = [task.result() for task in tasks]
    assert [one.refusal for one in outcomes if one.refusal] == []
    assert door.rows(tables.refused) == []
    rows = {row["receipt_id"]: row for row in door.rows(tables.receipt)}
    assert rows.keys() == {request["receiptId"] for request in requests}
    for request in requests:
        row = rows[request["receiptId"]]
        assert row["raw"] in (an_envelope(request), a_gpd_document(request))
        assert row["source"] != "bizevents"
    assert {row["flag"] for row in door.rows(tables.receipt_flag)} == set()


def test_races(door):
    """A short form of the thousand."""
    race(door, 60)


@pytest.mark.slow
def test_a_thousand_races(door):
    """1,000 races between a push, GPD and BizEvents for one payment each: 0 KO, and the genuine document stands."""
    race(door, 1000)


BROKEN = {
    "no JSON": b"<no/>",
    "no object": b"[1]",
    "too deep": b"[" * 100_000,
    "an amount of text": lambda request: a_biz_event(request, paymentAmount="1.00"),
    "an endless amount": lambda request: a_biz_event(request, fee=7).replace(b'"fee": 7', b'"fee": 1e999999999'),
    "an endless number": lambda request: a_biz_event(request).replace(b'"idTransfer": 1', b'"idTransfer": 1e999999999'),
    "no number": lambda request: a_biz_event(request, fee=7).replace(b'"fee": 7', b'"fee": NaN'),
    "no debtor": lambda request: a_biz_event(request, debtor=None),
    "a control character": lambda request: a_biz_event(request, description="\x1b[31m"),
    "half a character": lambda request: a_biz_event(request, description="\ud800"),
    "no transfers": lambda request: a_biz_event(request, transferList=[]),
    "a long code": lambda request: a_biz_event(request, idPSP="x" * 100),
}  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_unreadable(broken):
    """Every JSON that is no receipt is an error that says so."""
    raw = BROKEN[broken]
    with pytest.raises(DocumentError):
        contract.read_provisional(raw if isinstance(raw, bytes) else raw(a_request()), EC)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_NAMES = sorted(json.loads(a_biz_event(a_request())))


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON, min_size=1, max_size=3))
@hypothesis_settings(max_examples=150)
def test_any_value(over):
    """Whatever a field holds, the JSON is a receipt or a `DocumentError`."""
    told = json.loads(a_biz_event(a_request())) | over
    try:
        receipt = contract.read_provisional(json.dumps(told).encode(), EC)
    except DocumentError:
        return
    assert receipt.amount >= 0


def test_floats():
    """Amounts that went through floating point are read as cents."""
    raw = a_biz_event(a_request(**{"transfers.1": ABSENT}), paymentAmount=0.1 + 0.2)
    assert contract.read_provisional(raw, EC).amount == Decimal("0.30")
