"""One receipt, several documents: it is what they say together, each is kept, only contradictions are refused."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from build import ABSENT, EC, Request, a_gpd_document, a_map, a_request, an_envelope
from refusals import OURS, Door
from sqlalchemy import update
from trouble import sent_again

from station import contract, store
from station.config import Retention, Settings
from station.intake import Intake, Result
from station.purge import purge
from station.receipt import Source
from station.replay import Reading, Replay, Reread, UnpackLimits, Verdict
from station.store import documents, tables
from station.store.rows import read_sql

DATA = Path(__file__).parent / "data"


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=8)
    yield Door(engine)
    engine.dispose()


def of_version_1(request: Request) -> Request:
    """The same payment as a version 1 station receives it."""
    whole = a_request(1)
    fields = request.but().fields
    fields["receipt"] = {name: value for name, value in fields["receipt"].items() if name in whole.receipt}
    for transfer in fields["receipt"]["transferList"]["transfer"]:
        transfer.pop("companyName", None)
    return Request("paSendRTReq", fields)


def with_new_element(request: Request) -> bytes:
    return an_envelope(request.but(newThing="x"))


def kept(door: Door, request: Request) -> list[bytes]:
    """The documents of a receipt that are kept beside it, in order."""
    rows = [row for row in door.rows(tables.receipt_document) if row["receipt_id"] == request["receiptId"]]
    return [row["raw"] for row in sorted(rows, key=lambda row: row["number"])]


PAIRS = {
    "version 1, then 2": lambda request: (an_envelope(of_version_1(request)), an_envelope(request)),
    "version 2, then 1": lambda request: (an_envelope(request), an_envelope(of_version_1(request))),
    "two stations": lambda request: (
        an_envelope(of_version_1(request)), an_envelope(request.but(idStation="15376371009_02")),
    ),
    "GPD, then push": lambda request: (a_gpd_document(request), with_new_element(request)),
    "push, then GPD": lambda request: (with_new_element(request), a_gpd_document(request)),
    "metadata in another order": lambda request: (
        an_envelope(request.but(metadata=a_map({"a": "1", "b": "2"}))),
        an_envelope(request.but(metadata=a_map({"b": "2", "a": "1"}))),
    ),
    "transfers in another order": lambda request: (
        an_envelope(request),
        an_envelope(request.but(**{
            "receipt.transferList.transfer": list(reversed(request["receipt.transferList.transfer"]))
        })),
    ),
    "not stood in": lambda request: (
        an_envelope(request.but(standIn=ABSENT)), an_envelope(request.but(standIn="false")),
    ),
    "no fee": lambda request: (an_envelope(request.but(fee="0.00")), an_envelope(request.but(fee=ABSENT))),
    "unknown attribute": lambda request: (
        an_envelope(request), an_envelope(request).replace(b"<receipt>", b"<receipt zz='1'>"),
    ),
    "marked as missing": lambda request: (
        an_envelope(request.but(officeName=ABSENT)),
        an_envelope(request).replace(
            b"<officeName>Ufficio Tributi</officeName>",
            b"<officeName xmlns:i='http://www.w3.org/2001/XMLSchema-instance' i:nil='true'/>",
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_same_receipt(door, pair):
    """Both orders: OK, one receipt, a resend, both documents kept; read again it stays what it is."""
    for turned in (False, True):
        request = a_request()
        raws = list(PAIRS[pair](request))
        if turned:
            raws.reverse()
        assert [door.take(raw).result for raw in raws] == [Result.STORED, Result.DUPLICATE]
        assert [door.take(raw).result for raw in raws] == [Result.DUPLICATE] * 2
        found = door.receipt(request)
        assert found["resends"] == 3
        assert kept(door, request) == ([] if pair == "marked as missing" else raws)
    before = door.everything()
    assert {item.reading for item in Reread(door.engine).run()} == {Reading.UNCHANGED}
    assert door.everything() == before
    assert door.rows(tables.refused) == []


@pytest.mark.parametrize("pair", ["version 1, then 2", "two stations", "GPD, then push"])
def test_at_once(door, pair):
    """The same documents at once: one receipt, each kept once, no KO."""
    request = a_request()
    raws = [*PAIRS[pair](request)] * 4
    with ThreadPoolExecutor(8) as pool:
        results = [outcome.result for outcome in pool.map(sent_again(door.take), raws)]
    assert (results.count(Result.STORED), results.count(Result.DUPLICATE)) == (1, 7)
    (row,) = door.rows(tables.receipt)
    assert row["resends"] == 7
    assert len(kept(door, request)) == 2
    assert set(kept(door, request)) == set(raws)
    fullest = max(raws, key=len) if pair != "GPD, then push" else raws[1]
    assert row["raw"] == fullest


def test_union(door):
    """Columns, transfers and flags are the union, and the fullest document is the receipt's; the first one's arrival
    stays."""
    request = a_request()
    first = of_version_1(request).but(officeName=ABSENT, standIn="true", idStation="15376371009_02")
    second = request.but(payer=ABSENT, fee="0.00", metadata=ABSENT)
    third = request.but(**{"transfers.1": ABSENT, "standIn": ABSENT, "paymentMethod": ABSENT})
    for sent in (first, second, third):
        door.take(an_envelope(sent))
    found = door.receipt(request)
    assert (found["office_name"], found["payment_note"], found["payer_name"]) == (
        request["officeName"], request["paymentNote"], request["payer.fullName"],
    )  # fmt: skip
    assert (str(found["fee"]), found["stand_in"], found["version"]) == ("1.50", True, 1)
    assert [one["company_name"] for one in found["transfers"]] == [
        one["companyName"] for one in request["receipt.transferList.transfer"]
    ]
    assert found["id_station"] == "15376371009_02"
    assert set(found["flags"]) == {"stand_in", "unknown_station"}
    assert len(kept(door, request)) == 3
    assert {item.reading for item in Reread(door.engine).run()} == {Reading.UNCHANGED}


@pytest.mark.parametrize(
    "over",
    [
        {"description": "x"}, {"fee": "2.00"}, {"debtor.streetName": "x"}, {"debtor.e-mail": "x@example.invalid"},
        {"transfers.0.IBAN": "IT66Y0000000000000000000009"}, {"metadata": a_map({"TARI-TEFA-2": "x"})},
        {"applicationDate": "2026-07-09"}, {"paymentNote": "x"}, {"standIn": "true", "outcome": "KO"},
    ],
    ids=str,
)  # fmt: skip
def test_contradiction(door, over):
    """Another value of a field that the schema knows: refused and kept, whichever document of the receipt has it."""
    request = a_request()
    for sent in (of_version_1(request), request, request.but(newThing="x")):
        door.take(an_envelope(sent))
    before = door.everything()
    outcome = door.take(an_envelope(request.but(**over)))
    assert outcome.refusal.fault_code == "PAA_RECEIPT_DUPLICATA"
    after = door.everything()
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"refused", "refused_history", "journal"}


def test_only_in_the_poorer_document(door):
    """A field that the fullest document leaves out is compared as well."""
    request = a_request()
    door.take(an_envelope(of_version_1(request).but(officeName="x", paymentMethod="y")))
    door.take(an_envelope(request.but(officeName=ABSENT, paymentMethod=ABSENT)))
    assert door.receipt(request)["version"] == 2
    assert door.take(an_envelope(request)).result is Result.REFUSED


def test_unknown_content_that_differs(door):
    """It is flagged, and never refused."""
    request = a_request()
    assert door.take(an_envelope(request.but(newThing="x"))).result is Result.STORED
    outcome = door.take(an_envelope(request.but(newThing="y")))
    assert (outcome.result, outcome.flags) == (Result.DUPLICATE, {"unknown_content_differs"})
    assert door.receipt(request)["flags"] == ["unknown_content_differs", "unknown_elements"]
    assert door.take(an_envelope(request.but(newThing="z"))).flags == frozenset()


def test_too_many_documents(door, monkeypatch):
    """Their number is bounded, since each new one is compared with all: one more is refused and kept."""
    monkeypatch.setattr(documents, "DOCUMENTS_MAX", 3)
    request = a_request()
    outcomes = [door.take(an_envelope(request.but(newThing=str(number)))) for number in range(4)]
    assert [one.result for one in outcomes] == [Result.STORED, *[Result.DUPLICATE] * 2, Result.REFUSED]
    assert door.take(an_envelope(request.but(newThing="2"))).result is Result.DUPLICATE


def test_purge_takes_all_documents(door):
    """The bytes of each go; a resend of any is still told, and another document cannot be compared any more."""
    request = a_request()
    raws = [an_envelope(of_version_1(request)), an_envelope(request)]
    for raw in raws:
        door.take(raw)
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(received_at=datetime.now(UTC) - timedelta(days=800)))
    list(purge(door.engine, Retention(raw_months=24)))
    assert kept(door, request) == [b"", b""]
    assert [door.take(raw).result for raw in raws] == [Result.DUPLICATE] * 2
    assert door.take(an_envelope(request.but(newThing="x"))).result is Result.REFUSED
    assert {item.reading for item in Reread(door.engine).run()} == {Reading.PURGED}


def test_replaced_by_an_operator(door):
    """All documents of the receipt are kept as discarded refused requests, and what replaces them stands alone."""
    request = a_request()
    raws = [an_envelope(of_version_1(request)), an_envelope(request)]
    for raw in raws:
        door.take(raw)
    other = an_envelope(request.but(description="the right one"))
    refused_id = door.take(other).refused_id
    replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna", replace=True)
    (item,) = replay.refused(store.RefusedFilter(refused_ids=(refused_id,)))
    assert item.verdict is Verdict.REPLACED
    assert door.receipt(request)["raw"] == other
    assert door.rows(tables.receipt_document) == []
    refused = {row["raw"]: row["state"] for row in door.rows(tables.refused)}
    assert refused == {other: "accepted", raws[0]: "discarded", raws[1]: "discarded"}
    assert door.take(other).result is Result.DUPLICATE
    assert door.take(raws[1]).result is Result.REFUSED


def test_rebuilt_from_all_documents(door):
    """What a better reader understands is rebuilt from each of them, and the fullest of today stands."""
    request = a_request()
    for sent in (request, of_version_1(request), request.but(officeName="", newThing="x")):
        door.take(an_envelope(sent))
    before = door.everything()
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(office_name=None, raw=an_envelope(request), version=1))
        connection.execute(tables.receipt_flag.delete())
        connection.execute(tables.transfer.delete())
    list(Reread(door.engine).run())
    assert door.everything() == before


def test_dry_run_foresees_it(door, tmp_path):
    """A dry run tells what a run does, also of documents that come one after the other in it."""
    request = a_request()
    sends = [
        of_version_1(request), request, request.but(newThing="x"), request.but(description="x"), request,
        a_request(), request.but(officeName="x"),
    ]  # fmt: skip
    paths = []
    for number, sent in enumerate(sends):
        paths.append(str(tmp_path / f"{number}.xml"))
        Path(paths[-1]).write_bytes(an_envelope(sent))
    verdicts = []

    for dry_run in (True, False):
        replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna", dry_run)
        verdicts.append([item.verdict for item in replay.files(paths, UnpackLimits(1 << 20), None)])
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].count(Verdict.DUPLICATE) == 3


def test_show(door, run_station):
    """The documents are named with their arrival; --xml writes the fullest, --all each of them."""
    request = a_request()
    raws = [an_envelope(of_version_1(request)), an_envelope(request)]
    door.take(raws[0])
    door.take(raws[1], source=Source.RECONCILE)
    shown = run_station("receipts", "show", request["receiptId"]).stdout
    assert re.search(r"document 1: \S+ \S+ \(Italy\), push, version 1, \d+ bytes\n", shown)
    assert re.search(r"document 2: \S+ \S+ \(Italy\), reconcile, version 2, \d+ bytes, the fullest\n", shown)
    assert run_station("receipts", "show", request["receiptId"], "--xml").stdout.encode() == raws[1]
    both = run_station("receipts", "show", request["receiptId"], "--all").stdout
    assert both.count("<!-- document") == 2
    assert all(raw.decode().strip() in both for raw in raws)
    told = json.loads(run_station("receipts", "show", request["receiptId"], "--json").stdout)
    assert [(one["number"], one["source"], one["fullest"]) for one in told["documents"]] == [
        (1, "push", False), (2, "reconcile", True),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["save_receipt", "save_refused"])
def test_statement_can_be_explained(postgres_url, name):
    """The statement that the server runs is a file that a database administrator reads and explains."""
    assert files("station.store").joinpath("sql", f"{name}.sql").is_file()
    statement = re.sub(r"%\([^)]+\)s", "NULL", read_sql(name))
    with psycopg.connect(postgres_url) as connection:
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}"))
    assert "Insert on" in plan


def test_unreadable_today(door, monkeypatch):
    """A stored document that is not valid any more cannot be compared: the newcomer is refused and kept."""
    request = a_request()
    door.take(an_envelope(request))
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b"<no/>"))
    assert door.take(an_envelope(request.but(newThing="x"))).result is Result.REFUSED
    assert door.take(an_envelope(request)).result is Result.DUPLICATE


def test_id_pa_is_part_of_the_key(door):
    """A copy for another EC is a receipt of its own, whatever it says."""
    request = a_request()
    assert door.take(an_envelope(request)).result is Result.STORED
    assert door.take(an_envelope(request.but(idPA="88888888888", description="x"))).result is Result.STORED
    assert contract.identify(request.element()).id_pa == EC
