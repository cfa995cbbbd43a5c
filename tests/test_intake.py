"""The use case: what comes in is stored once or kept as refused, and nothing else."""

import errno
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from io import BytesIO
from pathlib import Path

import pytest
from build import ABSENT, BROKER, EC, OTHER_EC, STATION, a_request, a_stamp_transfer, a_transfer, an_envelope
from hypothesis import HealthCheck, given, settings
from sqlalchemy import exc, select, update
from strategies import our_receipts, receipts, styles
from trouble import LOST, broken, lost_at_commit, sent_again

from station import contract, store
from station import intake as intake_module
from station.config import Settings
from station.errors import StoreError, StoreRejectedError
from station.intake import Intake, Origin, Result
from station.receipt import Flag, Source
from station.store import receipts as saving
from station.store import tables

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Spyne imports what is deprecated
    from station.app import Station

DATA = Path(__file__).parent / "data"
REGISTRY = {
    "broker": [{"id": BROKER, "stations": [STATION, "15376371009_02"]}],
    "ec": [{"id": EC, "name": "Comune di Vattelapesca"}, {"id": OTHER_EC, "stations": [STATION]}],
}


@pytest.fixture
def engine(database_url: str) -> Iterator[store.Engine]:
    engine = store.connect(database_url, pool_size=16)
    yield engine
    engine.dispose()


@pytest.fixture
def take(engine):
    """Takes in bytes as the push does."""

    def take(raw, *, source=Source.PUSH, charset=None, **rules):
        over = {"rules": rules} if rules else {}
        intake = Intake(engine, Settings.model_validate(REGISTRY | over))
        document = contract.parse(raw, charset)
        return intake.accept(document, contract.request_element(document.root), Origin(source, "127.0.0.1", "r-1"))

    return take


def rows(engine, table):
    with engine.connect().execution_options(station_readonly=True) as connection:
        return connection.execute(select(table)).mappings().all()


def test_stored(engine, take):
    """A new receipt is stored with its columns, transfers and the exact bytes."""
    request = a_request(transfers=[a_transfer(1, transferAmount="104.50"), a_stamp_transfer(2)])
    raw = an_envelope(request, "utf-16")
    assert take(raw).result is Result.STORED
    with store.transaction(engine, readonly=True) as connection:
        found = store.find(connection, EC, request["receiptId"])
    assert found["raw"] == raw
    assert (found["iuv"], found["notice_number"]) == (request["creditorReferenceId"], request["noticeNumber"])
    assert str(found["amount"]) == "120.50"
    assert [(str(one["amount"]), one["iban"] is None, one["digital_stamp"]) for one in found["transfers"]] == [
        ("104.50", False, False),
        ("16.00", True, True),
    ]
    assert (found["flags"], found["source"], found["resends"]) == ([], "push", 0)
    assert found["received_at"].utcoffset().total_seconds() == 0


def test_resend(engine, take):
    """The same receipt again is one row: counted, timed, and the other station it came by is kept."""
    request = a_request()
    assert take(an_envelope(request)).result is Result.STORED
    for style in ("default_namespaces", "crlf", "iso-8859-1"):
        assert take(an_envelope(request, style)).result is Result.DUPLICATE
    other = request.but(idStation="15376371009_02")
    assert take(an_envelope(other)).result is Result.DUPLICATE
    assert take(an_envelope(other)).result is Result.DUPLICATE
    with store.transaction(engine, readonly=True) as connection:
        found = store.find(connection, EC, request["receiptId"])
    assert found["resends"] == 5
    assert found["last_resend_at"] >= found["received_at"]
    assert found["id_station"] == STATION
    assert [route["id_station"] for route in found["routes"]] == ["15376371009_02"]
    assert len(rows(engine, tables.receipt)) == 1
    assert len(rows(engine, tables.transfer)) == len(found["transfers"])


def test_reconcile_counts_no_resend(engine, take):
    """What reconcile fetches although it is here is no resend by the Nodo."""
    raw = an_envelope(a_request())
    take(raw)
    assert take(raw, source=Source.RECONCILE).result is Result.DUPLICATE
    assert rows(engine, tables.receipt)[0]["resends"] == 0


def test_copies_for_two_ecs(engine, take):
    """One payment's receipt for two ECs is two receipts, the beneficiary's one flagged."""
    request = a_request()
    take(an_envelope(request))
    outcome = take(an_envelope(request.but(idPA=OTHER_EC)))
    assert outcome.result is Result.STORED
    assert outcome.flags == {Flag.SECONDARY_BENEFICIARY}
    assert len(rows(engine, tables.receipt)) == 2


def test_conflict(engine, take):
    """The same key with other content is refused and kept; the first receipt stays as it was."""
    request = a_request()
    take(an_envelope(request))
    before = rows(engine, tables.receipt)
    outcome = take(an_envelope(request.but(description="something else")))
    assert (outcome.result, outcome.refusal.fault_code) == (Result.REFUSED, "PAA_RECEIPT_DUPLICATA")
    assert rows(engine, tables.receipt) == before
    assert [row["refused_id"] for row in rows(engine, tables.refused)] == [outcome.refused_id]


def hashed_by_an_earlier_version(engine):
    """Gives what is stored the hash of another canonical form of the same content."""
    with store.transaction(engine) as connection:
        connection.execute(update(tables.receipt).values(content_hash=bytes(32)))


@pytest.mark.parametrize(("source", "counted"), [(Source.PUSH, 1), (Source.RECONCILE, 0), (Source.REPLAY, 0)])
def test_resend_of_what_an_earlier_version_hashed(engine, take, source, counted):
    """A stored hash of another version makes no conflict: the documents are compared, and the hash is today's."""
    request = a_request()
    take(an_envelope(request))
    (before,) = rows(engine, tables.receipt)
    hashed_by_an_earlier_version(engine)
    resend = an_envelope(request.but(idStation="15376371009_02"), "default_namespaces")
    assert take(resend, source=source).result is Result.DUPLICATE
    (after,) = rows(engine, tables.receipt)
    history = ("resends", "last_resend_at")
    assert {**after, **{name: before[name] for name in history}} == before
    assert after["resends"] == counted
    assert len(rows(engine, tables.receipt_route)) == counted
    assert take(resend, source=source).result is Result.DUPLICATE


def test_conflict_with_what_an_earlier_version_hashed(engine, take):
    """Other content is a conflict whichever version hashed what is stored; so is all, once the document was purged."""
    request = a_request()
    take(an_envelope(request))
    hashed_by_an_earlier_version(engine)
    before = rows(engine, tables.receipt)
    assert take(an_envelope(request.but(description="something else"))).result is Result.REFUSED
    assert rows(engine, tables.receipt) == before
    with store.transaction(engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b""))
    assert take(an_envelope(request)).result is Result.REFUSED


def test_hash_that_an_earlier_version_gave_to_two(engine, take):
    """Of two documents to which an earlier version gave one hash, the second is kept as another document."""
    raw = (DATA / "plain.xml").read_text()
    one, other = (raw.replace("</receipt>", f"{new}</receipt>").encode() for new in ("<z>a<b/></z>", "<z><b/>a</z>"))
    take(one)
    hash_ = bytes.fromhex("e74eb7d00bc3d1bad2853e072950d0d0fe4a136d5449086559464888b2437942")
    with store.transaction(engine) as connection:
        connection.execute(update(tables.receipt).values(content_hash=hash_))
    assert take(other).flags == {Flag.UNKNOWN_CONTENT_DIFFERS}
    assert take(one).result is Result.DUPLICATE
    assert {row["number"]: row["raw"] for row in rows(engine, tables.receipt_document)} == {1: one, 2: other}


def test_resends_at_once_of_what_an_earlier_version_hashed(engine, take):
    """Of resends that arrive at once each is counted, whichever of them replaces the hash."""
    raw = an_envelope(a_request())
    take(raw)
    hashed_by_an_earlier_version(engine)
    with ThreadPoolExecutor(8) as pool:
        assert {outcome.result for outcome in pool.map(sent_again(take), [raw] * 16)} == {Result.DUPLICATE}
    assert [row["resends"] for row in rows(engine, tables.receipt)] == [16]


def test_preview_of_what_an_earlier_version_hashed(engine, take):
    """A dry run foresees what becomes of a resend and of other content, and writes nothing."""
    request = a_request()
    take(an_envelope(request))
    hashed_by_an_earlier_version(engine)
    before = rows(engine, tables.receipt)
    intake = Intake(engine, Settings.model_validate(REGISTRY))
    for sent, result in ((request, Result.DUPLICATE), (request.but(fee="2.00"), Result.REFUSED)):
        document = contract.parse(an_envelope(sent))
        assert intake.preview(document, contract.request_element(document.root)).result is result
    assert rows(engine, tables.receipt) == before


def test_utf8_under_another_label(engine, take):
    """UTF-8 that a proxy labels ISO-8859-1 is stored with its accents, and is the same when it comes again."""
    request = a_request(debtor__fullName="Nicolò D'Àngelo")
    assert take(an_envelope(request), charset="ISO-8859-1").result is Result.STORED
    (stored,) = rows(engine, tables.receipt)
    assert stored["debtor_name"] == "Nicolò D'Àngelo"
    assert take(stored["raw"], charset=stored["charset"]).result is Result.DUPLICATE
    assert take(an_envelope(request), charset="utf-8").result is Result.DUPLICATE


def test_second_receipt_of_a_notice(engine, take):
    """A second receiptId for one notice is kept and flagged, the first is not; likewise the third."""
    first = a_request()
    assert take(an_envelope(first)).flags == frozenset()
    for token in ("second", "third"):
        outcome = take(an_envelope(first.but(receiptId=token)))
        assert (outcome.result, outcome.flags) == (Result.STORED, {Flag.SECOND_RECEIPT})
    assert sorted(row["notice_ordinal"] for row in rows(engine, tables.receipt)) == [0, 1, 2]
    assert {row["flag"] for row in rows(engine, tables.receipt_flag)} == {"second_receipt"}


def test_same_notice_number_of_two_owners(take):
    """Notice numbers are unique for their owner only: two owners' notices with one number are no double payment."""
    first = a_request(idPA=OTHER_EC, fiscalCode=EC)
    assert Flag.SECOND_RECEIPT not in take(an_envelope(first)).flags
    assert Flag.SECOND_RECEIPT not in take(an_envelope(first.but(fiscalCode="99999999990", receiptId="x"))).flags


@pytest.mark.parametrize(
    ("over", "rules", "code"),
    [
        ({"idPA": "99999999990"}, {}, "PAA_ID_DOMINIO_ERRATO"),
        ({"idBrokerPA": "99999999990"}, {}, "PAA_ID_INTERMEDIARIO_ERRATO"),
        ({"idStation": "15376371009_99"}, {"strict_stations": True}, "PAA_STAZIONE_INT_ERRATA"),
        ({"idPA": OTHER_EC, "idStation": "15376371009_02"}, {"strict_stations": True}, "PAA_STAZIONE_INT_ERRATA"),
        ({"debtor": ABSENT}, {}, "PAA_SINTASSI_EXTRAXSD"),
        ({"newThing": "x"}, {"unknown_elements": "refuse"}, "PAA_SINTASSI_EXTRAXSD"),
    ],
)
def test_refused(engine, take, over, rules, code):
    """What is not ours or breaks the schema is refused, and kept with its bytes and its identifiers."""
    request = a_request(**over)
    raw = an_envelope(request)
    outcome = take(raw, **rules)
    assert (outcome.result, outcome.refusal.fault_code) == (Result.REFUSED, code)
    kept = rows(engine, tables.refused)[0]
    assert (kept["raw"], kept["fault_code"], kept["state"], kept["times"]) == (raw, code, "open", 1)
    assert (kept["id_pa"], kept["receipt_id"]) == (request["idPA"], request["receiptId"])
    assert (kept["peer"], kept["request_id"], kept["source"]) == ("127.0.0.1", "r-1", "push")
    assert rows(engine, tables.receipt) == []


@pytest.mark.parametrize(
    ("over", "flag"),
    [
        ({"idStation": "15376371009_99"}, Flag.UNKNOWN_STATION),
        ({"idPA": OTHER_EC, "fiscalCode": OTHER_EC, "idStation": "15376371009_02"}, Flag.UNKNOWN_STATION),
        ({"newThing": "x"}, Flag.UNKNOWN_ELEMENTS),
    ],
)
def test_flagged(take, over, flag):
    """What others refuse and lose is stored and flagged."""
    outcome = take(an_envelope(a_request(**over)))
    assert (outcome.result, outcome.flags) == (Result.STORED, {flag})


def test_refused_again(engine, take):
    """The same bytes refused again are one refused request that counts."""
    raw = an_envelope(a_request(debtor=ABSENT))
    assert take(raw).refused_id == take(raw).refused_id
    kept = rows(engine, tables.refused)
    assert [row["times"] for row in kept] == [2]


def test_refused_without_identifiers(engine, take):
    """A request without any identifier is kept too."""
    raw = b'<x:paSendRTV2Request xmlns:x="http://pagopa-api.pagopa.gov.it/pa/paForNode.xsd"/>'
    assert take(raw).result is Result.REFUSED
    assert rows(engine, tables.refused)[0]["raw"] == raw


def test_32_at_once(engine, take):
    """32 pushes of one receipt at once leave one row and 31 duplicates, and no error."""
    request = a_request()
    raws = [an_envelope(request, "crlf" if number % 2 else "plain") for number in range(32)]
    with ThreadPoolExecutor(16) as pool:
        results = [outcome.result for outcome in pool.map(sent_again(take), raws)]
    assert results.count(Result.STORED) == 1
    assert results.count(Result.DUPLICATE) == 31
    assert [row["resends"] for row in rows(engine, tables.receipt)] == [31]
    assert len(rows(engine, tables.transfer)) == 2


def test_receipts_of_one_notice_at_once(engine, take):
    """Of several receipts for one notice that arrive at once, all are kept and all but one flagged."""
    request = a_request()
    raws = [an_envelope(request.but(receiptId=f"token-{number}")) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(sent_again(take), raws))
    assert {outcome.result for outcome in outcomes} == {Result.STORED}
    assert sum(Flag.SECOND_RECEIPT in outcome.flags for outcome in outcomes) == 7
    assert sorted(row["notice_ordinal"] for row in rows(engine, tables.receipt)) == list(range(8))


def test_same_microsecond(engine, take, monkeypatch):
    """Two copies that arrive in the same microsecond, as in two processes, are two: the second is a resend."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 7, 1, 8, 20, 30, 123456, tz)

    monkeypatch.setattr(intake_module, "datetime", Stopped)
    request = a_request()
    first, second = (take(an_envelope(request.but(idStation=one))) for one in (STATION, "15376371009_02"))
    assert (first.result, second.result) == (Result.STORED, Result.DUPLICATE)
    with store.transaction(engine, readonly=True) as connection:
        found = store.find(connection, EC, request["receiptId"])
    assert found["resends"] == 1
    assert found["last_resend_at"] == found["received_at"]


# --- when the database fails ------------------------------------------------------------------------------------------


def test_atomic(engine, take, monkeypatch):
    """Where the transfers cannot be written the receipt is not there either, and nothing is answered."""
    broken(monkeypatch, engine, "INSERT INTO transfer", exc.OperationalError("x", None, Exception("secret")), times=1)
    raw = an_envelope(a_request())
    with pytest.raises(StoreError) as caught:
        take(raw)
    assert "secret" not in str(caught.value)
    assert rows(engine, tables.receipt) == rows(engine, tables.transfer) == rows(engine, tables.refused) == []
    assert take(raw).result is Result.STORED


def test_lost_connection_is_tried_again(engine, take, monkeypatch):
    """A connection that was lost is replaced once, within the request."""
    broken(monkeypatch, engine, "INSERT INTO receipt", LOST, times=1)
    assert take(an_envelope(a_request())).result is Result.STORED


def test_connection_lost_at_commit(engine, take, monkeypatch):
    """A commit that went through although the connection broke is found by the second try: one row, no error, and
    nothing that would count as sent again."""
    times = lost_at_commit(monkeypatch, engine)
    assert take(an_envelope(a_request())).result in (Result.STORED, Result.DUPLICATE)
    assert [(row["resends"], row["last_resend_at"]) for row in rows(engine, tables.receipt)] == [(0, None)]
    assert times


def test_connection_lost_at_commit_of_a_resend(engine, take, monkeypatch):
    """Nor is a receipt that was sent again once counted twice."""
    raw = an_envelope(a_request())
    take(raw)
    times = lost_at_commit(monkeypatch, engine)
    assert take(raw).result is Result.DUPLICATE
    assert [row["resends"] for row in rows(engine, tables.receipt)] == [1]
    assert times


def test_one_deadline_for_all_steps(engine, take, monkeypatch):
    """The comparison of a differing document has the deadline of the first statement: the Nodo waits no longer."""
    ends = []

    def run_alone(*_arguments, until, **_more):
        ends.append(until)
        return "differs"

    def commit(*_arguments, until):
        ends.append(until)
        raise StoreError("slow")

    monkeypatch.setattr(saving, "run_alone", run_alone)
    monkeypatch.setattr(saving, "commit", commit)
    with pytest.raises(StoreError):
        take(an_envelope(a_request()))
    assert len(set(ends)) == 1


def test_refusal_that_cannot_be_kept(engine, take, monkeypatch):
    """A refusal that cannot be kept is an error of the store, never a refusal."""
    broken(monkeypatch, engine, "INSERT INTO refused", exc.OperationalError("x", None, Exception("disk full")), times=1)
    with pytest.raises(StoreError):
        take(an_envelope(a_request(debtor=ABSENT)))


@pytest.mark.parametrize("error", [exc.DataError("x", None, Exception("no")), RuntimeError("defect")])
def test_defect_keeps_the_document(engine, take, error, monkeypatch):
    """A document that hits a defect would hit it at every resend: it is kept, once, before the sender is told."""
    broken(monkeypatch, engine, "INSERT INTO receipt", error, times=2)
    raw = an_envelope(a_request())
    for _ in range(2):
        with pytest.raises((StoreRejectedError, RuntimeError)):
            take(raw)
    kept = rows(engine, tables.refused)
    assert [(row["raw"], row["fault_code"], row["times"]) for row in kept] == [(raw, "PAA_SYSTEM_ERROR", 2)]


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("can't start new thread"),
        caused(ValueError("in a library"), OSError(errno.ENFILE, "Too many open files in system")),
        caused(StoreRejectedError(reason="StatementError"), MemoryError()),
    ],
    ids=["memory", "file descriptors", "disk", "threads", "within a library", "within the database's"],
)
@pytest.mark.parametrize("where", ["read", "record"])
def test_out_of_resource(engine, monkeypatch, error, where):
    """Where the machine runs out of something the answer is 503, and the document is not kept as one with a defect."""

    def fails(*_arguments, **_more):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(contract, "read", fails) if where == "read" else patched.setattr(store, "save_receipt", fails)
        answers = []
        environ = {"PATH_INFO": "/paForNode", "REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/xml"}
        environ |= {"wsgi.input": BytesIO(an_envelope(a_request())), "REMOTE_ADDR": "127.0.0.1"}
        list(Station(Settings(), engine)(environ, lambda status, headers: answers.append((status, dict(headers)))))
    [(status, headers)] = answers
    assert (status, headers["Retry-After"]) == ("503 Service Unavailable", "60")
    assert rows(engine, tables.refused) == []


# --- whatever the schema admits ---------------------------------------------------------------------------------------

many = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@many
@given(our_receipts(), styles(), styles())
def test_any_receipt(engine, take, request_, first, second):
    """Any receipt that the schema admits is accepted in any dress, reads back, and is the same in any other."""
    empty(engine)  # random receipts share their ids now and then, with other content
    assert take(an_envelope(request_, first)).result is Result.STORED
    outcome = take(an_envelope(request_, second))
    assert outcome.result is Result.DUPLICATE
    with store.transaction(engine, readonly=True) as connection:
        found = store.find(connection, outcome.receipt.id_pa, outcome.receipt.receipt_id)
    assert_reads_back(found, request_)


def empty(engine):
    with store.transaction(engine) as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(table.delete())


TEXTS = {
    "idPA": "id_pa", "receipt.noticeNumber": "notice_number", "receipt.fiscalCode": "fiscal_code",
    "receipt.outcome": "outcome", "receipt.creditorReferenceId": "iuv", "receipt.description": "description",
    "receipt.companyName": "company_name", "receipt.officeName": "office_name",
    "receipt.debtor.uniqueIdentifier.entityUniqueIdentifierType": "debtor_type",
    "receipt.debtor.uniqueIdentifier.entityUniqueIdentifierValue": "debtor_id",
    "receipt.debtor.fullName": "debtor_name",
    "receipt.payer.uniqueIdentifier.entityUniqueIdentifierType": "payer_type",
    "receipt.payer.uniqueIdentifier.entityUniqueIdentifierValue": "payer_id",
    "receipt.payer.fullName": "payer_name", "receipt.idPSP": "id_psp", "receipt.pspFiscalCode": "psp_fiscal_code",
    "receipt.pspPartitaIVA": "psp_partita_iva", "receipt.PSPCompanyName": "psp_company_name",
    "receipt.idChannel": "id_channel", "receipt.channelDescription": "channel_description",
    "receipt.paymentMethod": "payment_method", "receipt.paymentNote": "payment_note", "receipt.idBundle": "id_bundle",
    "receipt.idCiBundle": "id_ci_bundle",
}  # fmt: skip
AMOUNTS = {"paymentAmount": "amount", "fee": "fee", "primaryCiIncurredFee": "primary_ci_incurred_fee"}


def assert_reads_back(found, request):
    leaves = request.leaves()
    for path, column in TEXTS.items():
        assert found[column] == leaves.get(path), path
    for name, column in AMOUNTS.items():
        assert found[column] == (amount(leaves[f"receipt.{name}"]) if f"receipt.{name}" in leaves else None), name
    assert found["version"] == request.version
    assert (
        found["stand_in"]
        == {"true": True, "1": True, "false": False, "0": False, None: None}[
            leaves["receipt.standIn"].strip() if "receipt.standIn" in leaves else None
        ]
    )
    entries = request.get("receipt.metadata.mapEntry") or []
    assert found["metadata"] == ([[one["key"], one["value"]] for one in entries] or None)
    transfers = request["receipt.transferList.transfer"]
    assert [one["position"] for one in found["transfers"]] == list(range(1, len(transfers) + 1))
    for stored, sent in zip(found["transfers"], transfers, strict=True):
        assert stored["id_transfer"] == int(sent["idTransfer"])
        assert stored["amount"] == amount(sent["transferAmount"])
        assert (stored["iban"], stored["digital_stamp"]) == (sent.get("IBAN"), "MBDAttachment" in sent)
        for name, column in (
            ("fiscalCodePA", "fiscal_code_pa"), ("companyName", "company_name"),
            ("remittanceInformation", "remittance_information"), ("transferCategory", "transfer_category"),
        ):  # fmt: skip
            assert stored[column] == sent.get(name)


def amount(lexical):
    return Decimal(lexical.strip())


@many
@given(receipts())
def test_any_receipt_of_anybody(take, request_):
    """Any receipt that the schema admits, for whomever, ends stored or refused as not ours."""
    outcome = take(an_envelope(request_))
    assert outcome.refusal is None or outcome.refusal.fault_code in (
        "PAA_ID_DOMINIO_ERRATO",
        "PAA_ID_INTERMEDIARIO_ERRATO",
        "PAA_RECEIPT_DUPLICATA",
    )
