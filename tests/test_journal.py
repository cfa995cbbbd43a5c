"""The event journal: a row for each exchange, with what it stores or not at all, and nobody's personal data."""

import base64
import csv
import io
import json
import os
import re
import subprocess
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from wsgiref.util import setup_testing_defaults

import pytest
from build import ABSENT, BROKER, EC, OTHER_EC, STATION, a_request, a_subject, a_verify_request, an_envelope
from gpd_simulator import GpdSimulator
from process import STATION as COMMAND
from process import environment
from sqlalchemy import event, exc, select, text
from trouble import broken, lost_at_commit, sent_again

from station import contract, store
from station.config import Settings
from station.errors import StoreError
from station.intake import Intake, Origin
from station.journal import EVENT_FIELDS, Exchange, events, exchange
from station.receipt import Identifiers, Source
from station.store import tables
from station.store.journal import ExchangeFilter, list_exchanges
from station.store.paging import Cursor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Spyne imports what is deprecated
    from station.app import Station

OURS = {"broker": [{"id": BROKER, "stations": [STATION]}], "ec": [{"id": EC}, {"id": OTHER_EC}]}
OFF = OURS | {"journal": {"enabled": False}}
NOW = datetime.now(UTC)


@pytest.fixture
def engine(database_url: str) -> Iterator[store.Engine]:
    engine = store.connect(database_url, pool_size=16)
    yield engine
    engine.dispose()


@pytest.fixture
def take(engine):
    """Takes in bytes by one of the doors."""

    def take(raw, *, config=OURS, source=Source.PUSH, **origin):
        document = contract.parse(raw)
        given = Origin(source, **{"peer": "127.0.0.1", "request_id": "r-1"} | origin)
        return Intake(engine, Settings.model_validate(config)).accept(
            document, contract.request_element(document.root), given
        )

    return take


@pytest.fixture
def post(engine):
    """POSTs to the WSGI application; gives the status and the body."""

    def to(config=OURS):
        application = Station(Settings.model_validate(config), engine)

        def post(raw, **headers):
            environ = {"PATH_INFO": "/paForNode", "REQUEST_METHOD": "POST", "CONTENT_TYPE": "text/xml; charset=utf-8"}
            environ |= {"CONTENT_LENGTH": str(len(raw)), "wsgi.input": BytesIO(raw), "REMOTE_ADDR": "127.0.0.1"}
            environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
            setup_testing_defaults(environ)
            statuses = []
            body = b"".join(application(environ, lambda status, _headers, *_: statuses.append(status)))
            return int(statuses[-1][:3]), body

        return post

    return to


def rows(engine, table=tables.journal):
    with engine.connect().execution_options(station_readonly=True) as connection:
        query = select(table).order_by(table.c.at) if table is tables.journal else select(table)
        return [dict(row) for row in connection.execute(query).mappings()]


def outcomes(engine):
    return [row["outcome"] for row in rows(engine)]


def found(engine, **wanted):
    with store.transaction(engine, readonly=True) as connection:
        return list_exchanges(connection, ExchangeFilter(**wanted), limit=1000)


# --- one exchange, one row --------------------------------------------------------------------------------------------


def test_stored(engine, take):
    """A stored push has one row with all that is known of the exchange."""
    request = a_request()
    raw = an_envelope(request)
    take(raw, peer_subject="CN=forwarder.example, O=Example", request_id="8a9e2b7c-0d55-4c0e-9f3c-6a3f5f3f1a11")
    [row] = rows(engine)
    receipt = rows(engine, tables.receipt)[0]
    assert row.pop("event_id") >= 0
    assert 0 <= row.pop("duration_ms") < 60_000
    assert row == {
        "id_pa": EC, "at": receipt["received_at"], "direction": "in", "source": "push", "operation": "paSendRTV2",
        "id_broker_pa": BROKER, "id_station": STATION, "notice_number": request["noticeNumber"],
        "iuv": request["creditorReferenceId"], "receipt_id": request["receiptId"], "id_psp": "ABI99999",
        "id_channel": "99999999990_01", "payment_method": "creditCard", "outcome": "stored", "fault_code": None,
        "http_status": 200, "size": len(raw), "document_hash": sha256(raw).digest(),
        "request_id": "8a9e2b7c-0d55-4c0e-9f3c-6a3f5f3f1a11", "peer_subject": "CN=forwarder.example, O=Example",
    }  # fmt: skip


def test_every_outcome(engine, take):
    """Resends, conflicts and refusals are exchanges too, each with its outcome and fault code."""
    request = a_request()
    take(an_envelope(request))
    take(an_envelope(request, "crlf"))
    take(an_envelope(request.but(description="something else")))
    take(an_envelope(a_request(debtor=ABSENT)))
    take(an_envelope(a_request(idPA="99999999990")))
    take(an_envelope(a_request(version=1)))
    assert [(row["operation"], row["outcome"], row["fault_code"], row["http_status"]) for row in rows(engine)] == [
        ("paSendRTV2", "stored", None, 200),
        ("paSendRTV2", "duplicate", None, 200),
        ("paSendRTV2", "refused", "PAA_RECEIPT_DUPLICATA", 200),
        ("paSendRTV2", "refused", "PAA_SINTASSI_EXTRAXSD", 200),
        ("paSendRTV2", "refused", "PAA_ID_DOMINIO_ERRATO", 200),
        ("paSendRT", "stored", None, 200),
    ]
    assert {row["id_psp"] for row in rows(engine)} == {"ABI99999"}


def test_the_same_refusal_again(engine, take):
    """The same bytes refused three times are one refused request and three exchanges."""
    raw = an_envelope(a_request(debtor=ABSENT))
    for _ in range(3):
        take(raw)
    assert outcomes(engine) == ["refused"] * 3
    assert len(rows(engine, tables.refused)) == 1


def test_replay(engine, take):
    """A replay is an internal exchange without an HTTP status; nobody's name is in it."""
    take(an_envelope(a_request()), source=Source.REPLAY, peer=None, request_id=None, operator="tizia.sempronia")
    [row] = rows(engine)
    assert (row["direction"], row["source"], row["outcome"], row["http_status"]) == (
        "internal", "replay", "stored", None,
    )  # fmt: skip
    assert "sempronia" not in repr(row)


def test_reconcile(run_station, engine, tmp_path):
    """A fetch of the reconciliation is an outbound exchange, whether it gave a receipt or none."""
    with GpdSimulator.start(tmp_path) as gpd:
        gpd.reset(settings={"rate_calls": 0})
        span = {"start": str((NOW - timedelta(days=9)).date()), "end": str((NOW - timedelta(days=2)).date())}
        gpd.load(generate={"org": EC, "count": 3, "from": span["start"], "to": span["end"]})
        gpd.load(receipts=[{"org": EC, "n": 7, **span, "unpaid": {"listed": True}}])
        (tmp_path / "station.toml").write_text(
            f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "receipts-key"\n[[ec]]\nid = "{EC}"\n'
        )
        ran = run_station("reconcile")
    assert len(rows(engine, tables.receipt)) == 3, ran.stderr
    fetched = [row for row in rows(engine) if row["outcome"] == "stored"]
    assert sorted(row["iuv"] for row in fetched) == sorted(row["iuv"] for row in rows(engine, tables.receipt))
    assert {(row["direction"], row["operation"], row["http_status"], row["id_pa"]) for row in fetched} == {
        ("out", "getReceiptByIUV", 200, EC)
    }
    assert all(row["request_id"] and row["size"] > 0 for row in fetched)
    [missed] = [row for row in rows(engine) if row["outcome"] != "stored"]
    assert (missed["outcome"], missed["fault_code"], missed["http_status"], missed["receipt_id"]) == (
        "failed", "not_yet", 422, None,
    )  # fmt: skip
    assert (missed["id_pa"], missed["operation"], missed["size"]) == (EC, "getReceiptByIUV", 0)


def test_declined(engine, post):
    """An operation that is not offered has a row, although it stores nothing."""
    request = a_verify_request()
    raw = an_envelope(request)
    status, body = post()(raw, x_request_id="verify-1")
    assert (status, b"<outcome>KO</outcome>" in body) == (200, True)
    [row] = rows(engine)
    assert (row["operation"], row["outcome"], row["fault_code"], row["http_status"]) == (
        "paVerifyPaymentNotice", "declined", "PAA_SYSTEM_ERROR", 200,
    )  # fmt: skip
    assert (row["id_pa"], row["id_station"], row["notice_number"]) == (EC, STATION, request["qrCode.noticeNumber"])
    assert (row["request_id"], row["document_hash"]) == ("verify-1", sha256(raw).digest())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not XML",
        b"<a/>",
        an_envelope(a_request())[:-20],
        an_envelope(a_request()).replace(b"paSendRTV2Request", b"paDoSomethingElse"),
    ],
)
def test_garbage(engine, post, raw):
    """What reaches no operation of the port type has no row: strangers cannot fill the database with it."""
    status, _ = post()(raw)
    assert status in (400, 500)
    assert rows(engine) == []


def test_declined_too_often(engine, post):
    """Requests that store nothing have so many rows and no more; all of them are answered."""
    send = post()
    for _ in range(70):
        status, body = send(an_envelope(a_verify_request()))
        assert (status, b"paVerifyPaymentNoticeRes" in body) == (200, True)
    assert 60 <= len(rows(engine)) < 70


def test_peer_subject(engine, post):
    """The subject of the certificate that a trusted proxy passes on is in the row."""
    send = post(OURS | {"trust": {"proxies": ["127.0.0.1"], "proxy_certificate": "nginx", "nodo": "uat"}})
    subject = "CN=forwarder.uat.platform.pagopa.it"
    for request in (a_request(), a_request(debtor=ABSENT), a_verify_request()):
        assert send(an_envelope(request), ssl_client_verify="SUCCESS", ssl_client_subject_dn=subject)[0] == 200
    assert len(rows(engine)) == 3
    assert all("forwarder.uat.platform.pagopa.it" in row["peer_subject"] for row in rows(engine))


def test_32_at_once(engine, take):
    """32 pushes of one receipt at once are 32 exchanges, one of them stored."""
    raw = an_envelope(a_request())
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sent_again(take), [raw] * 32))
    assert sorted(outcomes(engine)) == ["duplicate"] * 31 + ["stored"]


def test_off(engine, take, post):
    """Turned off, nothing is written, and everything else is as ever."""
    request = a_request()
    assert take(an_envelope(request), config=OFF).result == "stored"
    assert take(an_envelope(request), config=OFF).result == "duplicate"
    assert take(an_envelope(a_request(debtor=ABSENT)), config=OFF).result == "refused"
    assert post(OFF)(an_envelope(a_verify_request()))[0] == 200
    assert rows(engine) == []
    assert (len(rows(engine, tables.receipt)), len(rows(engine, tables.refused))) == (1, 1)


def test_off_by_the_environment(run_station, tmp_path):
    """STATION_JOURNAL_ENABLED turns it off, and the list says so."""
    ran = run_station("journal", "list", STATION_JOURNAL_ENABLED="false")
    assert (ran.returncode, ran.stdout) == (0, "")
    assert "turned off" in ran.stderr


# --- both or neither --------------------------------------------------------------------------------------------------


@pytest.fixture
def refusing(engine):
    """Makes the database itself turn away every row of a table, until the test is over."""
    undo = []

    def refuse(table):
        if engine.dialect.name == "sqlite":
            sql = f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END"
            undo.append(f"DROP TRIGGER no_{table}")
        else:
            sql = f"ALTER TABLE {table} ADD CONSTRAINT no_{table} CHECK (false) NOT VALID"
            undo.append(f"ALTER TABLE {table} DROP CONSTRAINT no_{table}")
        with engine.begin() as connection:
            connection.execute(text(sql))

    yield refuse
    with engine.begin() as connection:
        for sql in undo:
            connection.execute(text(sql))


def test_no_receipt_without_its_row(engine, post, refusing):
    """Where the journal cannot be written the receipt is not stored, and the sender is told to send again."""
    refusing("journal")
    raw = an_envelope(a_request())
    assert post()(raw)[0] == 503
    assert rows(engine, tables.receipt) == rows(engine, tables.transfer) == rows(engine, tables.refused) == []


def test_no_refusal_without_its_row(engine, post, refusing):
    """Nor is a refusal kept, and therefore none is answered."""
    refusing("journal")
    status, body = post()(an_envelope(a_request(debtor=ABSENT)))
    assert (status, b"<outcome>" in body) == (503, False)
    assert rows(engine, tables.refused) == []


def test_no_resend_without_its_row(engine, post, refusing):
    """Nor is a resend counted."""
    raw = an_envelope(a_request())
    send = post()
    send(raw)
    refusing("journal")
    assert send(raw)[0] == 503
    assert [row["resends"] for row in rows(engine, tables.receipt)] == [0]


def test_answer_without_a_row(engine, post, refusing):
    """What stores nothing is answered although its row cannot be written."""
    refusing("journal")
    status, body = post()(an_envelope(a_verify_request()))
    assert (status, b"paVerifyPaymentNoticeRes" in body) == (200, True)
    assert rows(engine) == []


def test_no_row_without_its_receipt(engine, post, refusing):
    """A receipt that the database turns away has no row that says it is stored: one says that this failed."""
    refusing("transfer")
    assert post()(an_envelope(a_request()))[0] == 503
    assert rows(engine, tables.receipt) == []
    [row] = rows(engine)
    [kept] = rows(engine, tables.refused)
    assert (row["outcome"], row["fault_code"], row["http_status"]) == ("failed", "PAA_SYSTEM_ERROR", 503)
    assert row["document_hash"] == kept["raw_hash"]


def test_no_row_without_its_refusal(engine, post, refusing):
    """A refusal that cannot be kept has no row."""
    refusing("refused")
    assert post()(an_envelope(a_request(debtor=ABSENT)))[0] == 503
    assert rows(engine) == []


def test_defect(engine, post, monkeypatch):
    """A defect of ours is answered with a 500, and the row says so."""
    broken(monkeypatch, engine, "INSERT INTO receipt ", RuntimeError("a defect"))
    assert post()(an_envelope(a_request()))[0] == 500
    assert [(row["outcome"], row["http_status"]) for row in rows(engine)] == [("failed", 500)]


def test_outage(engine, take, monkeypatch):
    """When the database is away there is no row, as there is nothing else."""
    broken(monkeypatch, engine, "INSERT INTO receipt ", exc.OperationalError("x", None, Exception("away")))
    with pytest.raises(StoreError):
        take(an_envelope(a_request()))
    assert rows(engine) == rows(engine, tables.receipt) == rows(engine, tables.refused) == []


def test_connection_lost_at_commit(engine, take, monkeypatch):
    """A commit that went through although the connection broke leaves one row, not two."""
    times = lost_at_commit(monkeypatch, engine)
    take(an_envelope(a_request()))
    assert outcomes(engine) == ["stored"]
    assert times


# --- nobody's personal data -------------------------------------------------------------------------------------------

PERSON = "ZZTPRS80A01H501Z"
NAME = "Zztest Persona"
MARKS = ("zztest", "persona", PERSON.lower(), "zzt.persona", "zzvia", "IT60X0542811101000000123456".lower())


def marked(**over):
    someone = a_subject(
        uniqueIdentifier__entityUniqueIdentifierValue=PERSON, fullName=NAME, streetName="Zzvia Persona",
        e_mail="zzt.persona@example.invalid", city="Zztest",
    )  # fmt: skip
    return a_request(
        debtor=someone, payer=someone, description=f"multa a {NAME} {PERSON}", companyName=f"Ditta {NAME}",
        officeName=NAME, paymentNote=PERSON, metadata={"NOTE": f"{NAME} zzt.persona@example.invalid"},
        **{"transfers.0.remittanceInformation": f"/TXT/{NAME}", "transfers.0.IBAN": "IT60X0542811101000000123456"},
    ).but(**over)  # fmt: skip


@pytest.mark.parametrize(
    "over",
    [
        {},
        {"debtor.uniqueIdentifier": ABSENT},
        {"idPA": "99999999990"},
        {"idPA": PERSON},
        {"idBrokerPA": PERSON},
        {"idStation": NAME},
        {"idStation": f"{PERSON}_01"},
        {"receiptId": f"{NAME} {PERSON}"},
        {"receiptId": PERSON},
        {"receiptId": f"0{PERSON}0"},
        {"receiptId": "zzt.persona@example.invalid"},
        {"receiptId": "IT60X0542811101000000123456"},
        {"receiptId": NAME * 40},
        {"noticeNumber": PERSON},
        {"creditorReferenceId": PERSON},
        {"creditorReferenceId": NAME},
        {"idPSP": NAME},
        {"idPSP": PERSON},
        {"idChannel": NAME},
        {"idChannel": f"{PERSON}_01"},
        {"paymentMethod": NAME},
        {"paymentMethod": PERSON},
        {"paymentMethod": "Zztest"},
        {"outcome": PERSON},
        {"newElement": f"{NAME} {PERSON}"},
    ],
)
def test_no_personal_data(engine, post, over):
    """No column of no row holds a person's name, fiscal code, address or account, wherever the request had it."""
    send = post(OURS | {"rules": {"unknown_elements": "accept"}})
    send(an_envelope(marked(**over)), x_request_id=PERSON)
    send(an_envelope(a_verify_request(idPA=PERSON, idStation=NAME, idBrokerPA="zzt.persona@example.invalid")))
    found = rows(engine)
    assert len(found) == 2
    text_ = repr(found).lower()
    assert [mark for mark in MARKS if mark in text_] == []


TOKEN = "64d17c29a7a84ae68f3d1e8f3e2b4c55"


def cleaned(**given):
    read = {"id_broker_pa": None, "id_station": None, "receipt_id": None, "notice_number": None, "iuv": None}
    ids = Identifiers(**{"operation": "paSendRTV2", "id_pa": None} | read | given)
    return exchange(ids, at=NOW, event_id=1, source=Source.PUSH, outcome="stored")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id_pa", EC),
        ("id_broker_pa", BROKER),
        ("id_station", STATION),
        ("notice_number", "301000000000000017"),
        ("iuv", "01000000000000017"),
        ("iuv", "RF18539007547034"),
        ("iuv", "RF87960000000000000000012"),
        ("receipt_id", TOKEN),
        ("receipt_id", "ab12" + "c" * 28),
        ("receipt_id", "AB12" + "0" * 28),
        ("receipt_id", "3c1e24d5-6a48-44b1-9c4f-0a1b2c3d4e5f"),
        ("receipt_id", "c110729d258c4ab1b765fe902aae41d6"),
        ("id_psp", "ABI03069"),
        ("id_psp", "BCITITMM"),
        ("id_psp", "BNLIITRRXXX"),
        ("id_psp", "PPAYITR1XXX"),
        ("id_psp", "60000000001"),
        ("id_channel", "97735020584_02"),
        ("payment_method", "CP"),
        ("payment_method", "creditCard"),
    ],
)
def test_identifiers_that_are_kept(name, value):
    """What looks like what it should be is kept."""
    assert getattr(cleaned(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id_pa", "7777777777"),
        ("id_pa", "７７７７７７７７７７７"),
        ("notice_number", "30100000000000001"),
        ("iuv", ""),
        ("iuv", "a b1"),
        ("iuv", "Persona"),
        ("iuv", "0" * 36),
        ("receipt_id", "a" * 63 + "1"),  # cut to 64: who knows what it was
        ("receipt_id", "x\n1"),
        ("receipt_id", "=1+1"),
        ("id_psp", "PERSONA"),
        ("payment_method", "Persona"),
    ],
)
def test_identifiers_that_are_left_out(name, value):
    """What does not is left out."""
    assert not getattr(cleaned(**{name: value}), name)


def test_a_long_receipt_id(engine, take):
    """A receiptId that is too long for an index stands in the row as it stands in the receipt."""
    take(an_envelope(a_request(receiptId="x" * 2000)))
    assert rows(engine)[0]["receipt_id"] == rows(engine, tables.receipt)[0]["receipt_id"]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_found_by(engine, take, post):
    """All exchanges of a payment are found by its notice number, IUV or receiptId, and nobody else's."""
    request = a_request(noticeNumber="001000000000000099", creditorReferenceId="01000000000000017")
    take(an_envelope(a_request()))
    take(an_envelope(request))
    take(an_envelope(request, "crlf"))
    take(an_envelope(request.but(description="x")))
    take(an_envelope(request.but(receiptId="second-2")), source=Source.RECONCILE, begun=NOW, http_status=200)
    take(an_envelope(request.but(receiptId="third-3", debtor=ABSENT)))
    post()(an_envelope(a_verify_request(qrCode__noticeNumber=request["noticeNumber"])))

    def outcomes(**wanted):
        return sorted(row.outcome for row in found(engine, **wanted))

    first = ["duplicate", "refused", "stored"]
    assert outcomes(receipt_id=request["receiptId"]) == first
    assert outcomes(receipt_id="second-2") == ["stored"]
    assert outcomes(receipt_id="third-3") == ["refused"]
    assert outcomes(iuv=request["creditorReferenceId"]) == sorted([*first, "refused", "stored"])
    assert outcomes(notice_number=request["noticeNumber"]) == sorted([*first, "refused", "stored", "declined"])
    assert outcomes(notice_number=request["noticeNumber"], id_pa=OTHER_EC) == []
    assert outcomes(iuv=request["creditorReferenceId"], outcome="duplicate") == ["duplicate"]
    assert outcomes(iuv=request["creditorReferenceId"], source="reconcile") == ["stored"]


def a_row(number, **over) -> Exchange:
    values = {
        "id_pa": EC, "at": NOW - timedelta(seconds=number // 2), "event_id": number, "direction": "in",
        "source": "push", "operation": "paSendRTV2", "id_broker_pa": BROKER, "id_station": STATION,
        "notice_number": f"3{number:017d}", "iuv": f"{number:017d}", "receipt_id": f"{number:032x}",
        "id_psp": "ABI99999", "id_channel": "99999999990_01", "payment_method": "CP",
        "outcome": "stored", "fault_code": None, "http_status": 200, "duration_ms": 7, "size": 3000,
        "document_hash": b"\x01" * 32, "request_id": f"r-{number}", "peer_subject": None,
    }  # fmt: skip
    return Exchange(**values | over)


REFUSED = {"outcome": "refused", "fault_code": "PAA_SINTASSI_EXTRAXSD"}
FETCHED = {"direction": "out", "source": "reconcile", "operation": "getReceiptByIUV"}


@pytest.fixture
def written(engine):
    """Writes rows past the station."""

    def write(exchanges):
        with store.transaction(engine) as connection:
            connection.execute(tables.journal.insert(), [one._asdict() for one in exchanges])

    return write


def test_filters(engine, written):
    """Every filter finds what it says, alone and with others."""
    refused, fetched = a_row(2, **REFUSED), a_row(4, **FETCHED)
    late = a_row(6, id_pa=OTHER_EC, at=NOW - timedelta(days=2))
    written([a_row(1), refused, fetched, late])

    def numbers(**wanted):
        return sorted(row.event_id for row in found(engine, **wanted))

    assert numbers() == [1, 2, 4, 6]
    assert numbers(id_pa=OTHER_EC) == [6]
    assert numbers(outcome="refused") == numbers(fault_code="PAA_SINTASSI_EXTRAXSD") == [2]
    assert numbers(outcome="stored") == [1, 4, 6]
    assert numbers(operation="getReceiptByIUV") == numbers(direction="out") == numbers(source="reconcile") == [4]
    assert numbers(source="push", id_pa=EC) == [1, 2]
    assert numbers(outcome="refused", source="reconcile") == []
    assert numbers(at_from=NOW - timedelta(days=1)) == [1, 2, 4]
    assert numbers(at_to=NOW - timedelta(days=1)) == numbers(at_from=late.at, at_to=NOW - timedelta(days=1)) == [6]
    assert numbers(at_to=late.at) == []


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("wanted", [{}, {"id_pa": EC}, {"outcome": "refused"}, {"fault_code": "x"}, {"operation": "o"}])
def test_pages(engine, written, newest_first, wanted):
    """Pages put together are the whole list, also where several rows have one time."""
    over = {"outcome": "refused", "fault_code": "x", "operation": "o"}
    written([a_row(number, id_pa=EC if number % 3 else OTHER_EC, at=NOW - timedelta(seconds=number // 4), **over)
             for number in range(40)])  # fmt: skip
    whole = [row for row in rows(engine) if row["id_pa"] == EC or "id_pa" not in wanted]
    whole = sorted(((row["at"], row["id_pa"], row["event_id"]) for row in whole), reverse=newest_first)
    paged, after = [], None
    with store.transaction(engine, readonly=True) as connection:
        while page := list_exchanges(
            connection, ExchangeFilter(**wanted), after=after, newest_first=newest_first, limit=7
        ):
            paged += [(row.at, row.id_pa, row.event_id) for row in page]
            after = Cursor.decode(Cursor.of("at", page[-1], "event_id").encode(), ("at",), int)
    assert paged == whole


def a_cursor(*parts):
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "20260701T102030000000.77777777777.1",  # printed by version 1.0
        a_cursor("received_at", "2026-07-01T10:20:30+00:00", "", 1),
        a_cursor("at", "2026-99-01T10:20:30+00:00", "", 1),
        a_cursor("at", "2026-07-01T10:20:30", "", 1),
        a_cursor("at", "2026-07-01T10:20:30+00:00", "", "1"),
        a_cursor("at", "2026-07-01T10:20:30+00:00", "", 2**63),
        a_cursor("at", "2026-07-01T10:20:30+00:00", "\ud800", 1),
        a_cursor("at", "2026-07-01T10:20:30+00:00", "\0", 1),
    ],
)
def test_no_cursor(word):
    """Only what a list ended with is a cursor."""
    with pytest.raises(ValueError):
        Cursor.decode(word, ("at",), int)


# --- the commands -----------------------------------------------------------------------------------------------------


def test_list(run_station, written):
    """The list shows the latest first, as a table, JSON lines or CSV, a page at a time."""
    written([a_row(1), a_row(3, **REFUSED), a_row(5, receipt_id=None, id_pa="")])
    table = run_station("journal", "list", "--wide").stdout.splitlines()
    assert re.split(r"\s{2,}", table[0].strip())[:4] == ["started (Italy)", "source", "operation", "EC"]
    assert [line.split()[-2:] for line in table[1:]] == [["200", "7"]] * 3
    assert "PAA_SINTASSI_EXTRAXSD" in table[2]
    first = run_station("journal", "list", "--json", "--limit", "2")
    lines = [json.loads(line) for line in first.stdout.splitlines()]
    assert [line["request_id"] for line in lines] == ["r-1", "r-3"]
    assert lines[0]["document_hash"] == "01" * 32
    assert datetime.fromisoformat(lines[0]["at"]) == NOW
    assert lines[1]["cursor"] in first.stderr
    rest = run_station("journal", "list", "--json", "--limit", "2", "--after", lines[1]["cursor"])
    assert [json.loads(line)["request_id"] for line in rest.stdout.splitlines()] == ["r-5"]
    assert "more" not in rest.stderr
    [one] = csv.DictReader(io.StringIO(run_station("journal", "list", "--csv", "--outcome", "refused").stdout))
    assert (one["fault_code"], one["http_status"], one["peer_subject"]) == ("PAA_SINTASSI_EXTRAXSD", "200", "")


def test_list_by_italian_time(run_station, written):
    """Days and times are Italian civil time, and ISO 8601 with a zone says which."""
    at = datetime(2026, 6, 30, 22, 30, tzinfo=UTC)  # half past midnight of 1 July in Italy
    written([a_row(1, at=at), a_row(2, at=at - timedelta(hours=1))])

    def ids(*arguments):
        out = run_station("journal", "list", "--json", *arguments).stdout
        return [json.loads(line)["request_id"] for line in out.splitlines()]

    assert ids("--from", "2026-07-01") == ids("--from", "2026-07-01T00:30") == ["r-1"]
    assert ids("--to", "2026-06-30") == ids("--to", "2026-06-30T22:30Z") == ["r-2"]
    assert ids("--from", "2026-07-01", "--to", "2026-07-01") == ["r-1"]
    assert "01/07/2026 00:30:00" in run_station("journal", "list", "--from", "2026-07-01").stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["list"], 0),
        (["list", "--after", "nonsense"], 2),
        (["list", "--from", "yesterday"], 2),
        (["list", "--from", "2026-07-02", "--to", "2026-07-01"], 2),
        (["list", "--outcome", "lost"], 2),
        (["export"], 2),
        (["export", "/no/such/folder/file.csv"], 1),
    ],
)
def test_exit_codes(run_station, arguments, code):
    """Wrong options are a usage error; an empty list is none."""
    ran = run_station("journal", *arguments)
    assert ran.returncode == code
    assert ran.stdout == ""
    assert ran.stderr
    assert "Traceback" not in ran.stderr


def test_export(run_station, written, tmp_path):
    """An export has a request and a response for each exchange at the interface, with pagoPA's fields and no others."""
    at = datetime(2026, 7, 1, 8, 20, 30, 123456, tzinfo=UTC)
    written(
        [
            a_row(1, at=at, peer_subject="CN=forwarder.example"),
            a_row(2, at=at + timedelta(seconds=1), id_pa="", id_station=None, notice_number=None, iuv=None,
                  receipt_id=None, id_psp=None, id_channel=None, payment_method=None, **REFUSED),
            a_row(3, at=at + timedelta(seconds=2), **FETCHED),
            a_row(4, at=at + timedelta(seconds=3), direction="internal", source="replay", http_status=None),
            # No exchange with pagoPA: it has no event.
            a_row(5, at=at + timedelta(seconds=4), direction="out", source="deliver", operation="receipt.stored",
                  outcome="delivered"),
        ]
    )  # fmt: skip
    assert run_station("journal", "export", "events.csv", STATION_SERVER_STATION_ID="station-1").returncode == 0
    text_ = (tmp_path / "events.csv").read_bytes().decode()
    assert text_.splitlines()[0] == (
        "dataOraEvento,identificativoDominio,identificativoUnivocoVersamento,codiceContestoPagamento,"
        "identificativoPrestatoreServiziPagamento,tipoVersamento,componente,categoriaEvento,tipoEvento,sottoTipoEvento,"
        "identificativoFruitore,identificativoErogatore,identificativoStazioneIntermediarioPA,canalePagamento,"
        "parametriSpecificiInterfaccia,esito"
    )
    told = list(csv.DictReader(io.StringIO(text_)))
    common = {
        "identificativoDominio": EC, "identificativoUnivocoVersamento": "00000000000000001",
        "codiceContestoPagamento": f"{1:032x}", "identificativoPrestatoreServiziPagamento": "ABI99999",
        "tipoVersamento": "CP", "componente": "station", "categoriaEvento": "INTERFACCIA", "tipoEvento": "paSendRTV2",
        "identificativoFruitore": "NodoDeiPagamentiSPC", "identificativoErogatore": STATION,
        "identificativoStazioneIntermediarioPA": STATION, "canalePagamento": "99999999990_01",
    }  # fmt: skip
    assert told[0] == common | {
        "dataOraEvento": "2026-07-01T08:20:30.123Z", "sottoTipoEvento": "req", "esito": "N/A",
        "parametriSpecificiInterfaccia": "source=push; noticeNumber=300000000000000001; requestId=r-1; size=3000; "
        f"sha256={'01' * 32}; peer=CN=forwarder.example",
    }  # fmt: skip
    assert told[1] == common | {
        "dataOraEvento": "2026-07-01T08:20:30.130Z", "sottoTipoEvento": "rsp", "esito": "OK",
        "parametriSpecificiInterfaccia": "source=push; noticeNumber=300000000000000001; requestId=r-1; outcome=stored; "
        "httpStatus=200; durationMs=7; peer=CN=forwarder.example",
    }  # fmt: skip
    missing = """identificativoDominio identificativoUnivocoVersamento codiceContestoPagamento canalePagamento
        identificativoPrestatoreServiziPagamento tipoVersamento identificativoStazioneIntermediarioPA"""
    assert {told[2][name] for name in missing.split()} == {"N/A"}
    assert told[2]["identificativoErogatore"] == "station-1"
    assert told[3]["esito"] == "KO"
    assert "faultCode=PAA_SINTASSI_EXTRAXSD" in told[3]["parametriSpecificiInterfaccia"]
    fetch = told[4]
    assert (fetch["identificativoFruitore"], fetch["identificativoErogatore"]) == (STATION, "NodoDeiPagamentiSPC")
    documents = ["sha256" in one["parametriSpecificiInterfaccia"] for one in told[4:6]]
    assert documents == [False, True]  # which came with the answer
    assert [(one["categoriaEvento"], one["sottoTipoEvento"], one["esito"]) for one in told[6:]] == [
        ("INTERNO", "N/A", "OK")
    ]
    lines = run_station("journal", "export", "--format", "jsonl", "-", STATION_SERVER_STATION_ID="station-1").stdout
    assert [json.loads(line) for line in lines.splitlines()] == told
    assert list(told[0]) == list(EVENT_FIELDS)


def test_parameters_are_bounded():
    """parametriSpecificiInterfaccia has 512 characters at most."""
    [request, _] = events(a_row(1, request_id="r" * 128, peer_subject="CN=" + "x" * 253, operation="o" * 64), "station")
    assert len(request["parametriSpecificiInterfaccia"]) == 512


def test_export_is_safe_for_spreadsheets(run_station, written):
    """No cell begins as a formula does, whatever a certificate or an identifier begins with."""
    written([a_row(1, receipt_id="-1+1", id_channel="-2", request_id="=1")])
    told = csv.reader(io.StringIO(run_station("journal", "export", "-").stdout))
    assert not [cell for row in told for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_export_does_not_replace(run_station, tmp_path):
    """A file that is there is replaced only where that is asked for."""
    (tmp_path / "events.jsonl").write_text("mine")
    assert run_station("journal", "export", "events.jsonl").returncode == 2
    assert (tmp_path / "events.jsonl").read_text() == "mine"
    assert run_station("journal", "export", "events.jsonl", "--overwrite").returncode == 0
    assert (tmp_path / "events.jsonl").read_text() == ""


# --- many -------------------------------------------------------------------------------------------------------------

MANY = 20_000
FIRST_IUV = 10**16


@pytest.fixture
def many(engine, written):
    """Copies of one row, of 50 ECs; each thousandth is a refusal."""
    refused = a_row(MANY + 7, id_pa="77700000000", **REFUSED)
    written([a_row(0, id_pa=""), refused])
    if engine.dialect.name == "sqlite":
        at = "strftime('%Y-%m-%d %H:%M:%f000', journal.at, '-' || (i / 2) || ' seconds')"
    else:
        at = "journal.at - interval '0.5 seconds' * i"
    over = {
        "id_pa": "CAST(77700000000 + i % 50 AS varchar(11))", "at": at, "event_id": "i",
        "iuv": f"CAST({FIRST_IUV} + i AS varchar(17))", "notice_number": f"'3' || CAST({FIRST_IUV} + i AS varchar(17))",
        "receipt_id": f"CAST({FIRST_IUV} + i AS varchar(17))",
    }  # fmt: skip
    names = [column.name for column in tables.journal.c]
    values = ", ".join(over.get(name, f"journal.{name}") for name in names)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"
    which = f"(i % 1000 = 0) = (journal.event_id = {refused.event_id})"
    with engine.begin() as connection:
        insert = f"INSERT INTO journal ({', '.join(names)})"
        copies = f"SELECT {values} FROM n, journal WHERE {which}"
        parts = [numbers, insert] if engine.dialect.name == "sqlite" else [insert, numbers]
        connection.execute(text(" ".join([*parts, copies])))
        connection.execute(text(f"DELETE FROM journal WHERE event_id IN (0, {refused.event_id})"))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("ANALYZE journal"))


def test_many(engine, many, database_url, tmp_path):
    """Of 40,000 exchanges an export writes all in flat memory; a page from their middle is read by an index."""

    def export(*arguments):
        """How many lines were written, and the memory that took in MiB."""
        command = [COMMAND, "journal", "export", "events.jsonl", "--overwrite", *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment(database_url))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        with (tmp_path / "events.jsonl").open() as lines:
            return sum(1 for _ in lines), used.ru_maxrss / 1024

    few, little = export("--fault-code", "PAA_SINTASSI_EXTRAXSD")
    all_, much = export()
    assert (few, all_) == (2 * MANY // 1000, 2 * MANY)
    assert much < little + 6  # 0.15 KB for each exchange more
    middle = Cursor("at", NOW - timedelta(seconds=MANY // 4), "77700000007", 0)
    iuv = str(FIRST_IUV + 7)
    wanted = [
        {}, {"id_pa": "77700000007"}, {"outcome": "refused"}, {"fault_code": "PAA_SINTASSI_EXTRAXSD"},
        {"source": "reconcile"}, {"iuv": iuv}, {"notice_number": f"3{iuv}"}, {"receipt_id": iuv},
        {"id_pa": "77700000007", "outcome": "refused", "at_from": NOW - timedelta(days=30)},
    ]  # fmt: skip
    for conditions in wanted:
        plan = explain(engine, ExchangeFilter(**conditions), middle)
        assert not re.search(r"Seq Scan on journal|SCAN journal(?! USING)", plan), (conditions, plan)


def explain(engine, wanted, after):
    """The plan of the query that reads a page."""
    queries = []

    def note(connection, cursor, statement, parameters, context, many):
        queries.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with store.transaction(engine, readonly=True) as connection:
        list_exchanges(connection, wanted, after=after, newest_first=True, limit=50)
    event.remove(engine, "before_cursor_execute", note)
    statement, parameters = queries[-1]
    words = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect().execution_options(station_readonly=True) as connection:
        return "\n".join(str(tuple(row)) for row in connection.exec_driver_sql(words + statement, parameters))
