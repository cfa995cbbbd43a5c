"""`station fdr show|list|missing|uncredited`: the finance office's question, and the list for a ticket."""

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from build import EC, OTHER_EC, Request, a_request, an_envelope
from refusals import Door
from sqlalchemy import update

from station import store
from station.config import Settings
from station.http.metrics import Metrics
from station.reconcile.bank_line import bank_line
from station.reconcile.matching import match
from station.store import flows, tables
from station.store.rows import insert_rows

NOW = datetime.now(UTC).replace(microsecond=0)
FLOW = "2026-11-10ABI99999-S011516185"


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url, pool_size=4)
    yield Door(engine)
    engine.dispose()


def publish(door: Door, name: str, lines: list[dict[str, Any]], ec: str = EC, **more: Any) -> None:
    """A flow as a walk stores it."""
    key = {"id_pa": ec, "fdr": name, "psp_id": "ABI99999", "revision": 1}
    at = NOW - timedelta(days=20)
    flow = key | {
        "published": at, "flow_date": at, "listed_at": at, "fetched_at": at, "attempts": 0, "next_attempt_at": at,
        "superseded": False, "regulation": "TRN123", "regulation_date": at.date(), "psp_name": "Banca Immaginaria",
        "tot_payments": len(lines), "sum_payments": sum((Decimal(line["amount"]) for line in lines), Decimal()),
    } | more  # fmt: skip
    rows = [
        key | {"position": place, "superseded": False, "pay_date": at, "id_transfer": 1, "pay_status": 0}
        | line | {"amount": Decimal(line["amount"])}
        for place, line in enumerate(lines, start=1)
    ]  # fmt: skip
    with store.transaction(door.engine) as connection:
        insert_rows(connection, tables.fdr_flow, [flow])
        insert_rows(connection, tables.fdr_payment, rows)
        flows.set_watermark(connection, ec, NOW)
        flows.set_walked(connection, ec, NOW)


def line_of(request: Request, **over: Any) -> dict[str, Any]:
    transfer = request["transfers.0"]
    return {"iuv": request["creditorReferenceId"], "iur": request["receiptId"], "amount": transfer["transferAmount"],
            **over}  # fmt: skip


@pytest.fixture
def story(door) -> list[Request]:
    """A flow of five: here, by IUV, missing, may never have one, and missing till just now."""
    requests = [a_request(paymentDateTime="2026-11-20T10:00:00") for _ in range(5)]
    here, by_iuv, missing, never, late = requests
    publish(door, FLOW, [
        line_of(here), line_of(by_iuv, iur="another"), line_of(missing), line_of(never, pay_status=9), line_of(late),
    ])  # fmt: skip
    for sent in (here, by_iuv):
        door.take(an_envelope(sent))
    match(door.engine, EC)
    door.take(an_envelope(late))
    return requests


LINES = {
    "/PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI99999-S011516185": (FLOW, None),
    "PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI99999-S011516185": (FLOW, None),
    "BON.DA BANCA /PUR/LGPE-RIVERSAMENTO/URI/2026-11-10ABI 99999-S01 1516185 /TXT/x": (FLOW, None),
    "/URI/2026-11-10ABI999": ("2026-11-10ABI999", None),
    FLOW: (FLOW, None),
    "/RFS/RF23567483937849450550875/25.00": (None, "RF23567483937849450550875"),
    "/RFB/01000000000000017/120.50/TXT/TARI": (None, "01000000000000017"),
    "/RFB/01000000000000017": (None, "01000000000000017"),
}
# The bank's own text behind it: the second reading is the one that is found.
WITH_TEXT = {
    f"/PUR/LGPE-RIVERSAMENTO/URI/{FLOW} ORD. BANCA X": (FLOW, None),
    f"{FLOW} ORD. X": (FLOW, None),
    f"{FLOW} ORDINANTE BANCA XXXXX": (FLOW, None),
    "/RFB/01000000000000017 SALDO": (None, "01000000000000017"),
}


@pytest.mark.parametrize("line", LINES)
def test_bank_line(line):
    """A line as banks print it, whole or cut off, with blanks, or the name alone."""
    assert bank_line(line)[0] == LINES[line]


@pytest.mark.parametrize("line", WITH_TEXT)
def test_bank_line_with_text(line):
    """The name or IUV ends at the first blank where more text follows it."""
    assert bank_line(line)[-1] == WITH_TEXT[line]


@pytest.mark.parametrize(
    "line", ["", "x", "STIPENDI", "/URI/", "/RFB//", "'; DROP TABLE receipt; --", "\x1b[31m", "/" * 9]
)
def test_other_lines(line):
    """Any other line is none of pagoPA's."""
    with pytest.raises(ValueError):
        bank_line(line)


def test_show(door, story, run_station):
    """Who paid what, with the receipt of each or that there is none, and the sums."""
    shown = run_station("fdr", "show", f"/PUR/LGPE-RIVERSAMENTO/URI/{FLOW}").stdout
    rows = [line.split() for line in shown.splitlines() if line.strip()[:1].isdigit() and "euro" not in line]
    words = ["here", "by IUV", "missing", "not expected", "here"]
    assert [word in line for word, line in zip(words, map(" ".join, rows), strict=True)] == [True] * 5
    assert story[0]["noticeNumber"] in shown
    assert story[0]["debtor.fullName"] in shown
    assert "TRN123" in shown
    amounts = [Decimal(request["transfers.0.transferAmount"]) for request in story]
    assert f"5 payments, {sum(amounts):,.2f} euro" in shown
    assert f"1 payment without a receipt, {amounts[2]:,.2f} euro" in shown
    assert f"1 payment that may never have a receipt, {amounts[3]:,.2f} euro" in shown
    told = json.loads(run_station("fdr", "show", FLOW, "--json").stdout, parse_float=str)
    assert [one["receipt"] for one in told["payments"]] == words
    assert told["payments"][0]["iban"] == story[0]["transfers.0.IBAN"]
    assert told["payments"][0]["remittance_information"] == story[0]["transfers.0.remittanceInformation"]


def test_show_italian(door, story, run_station):
    """A file for an Italian spreadsheet: semicolons, titles and decimal commas."""
    printed = run_station("fdr", "show", FLOW, "--csv", "--italian").stdout
    rows = list(csv.DictReader(io.StringIO(printed.removeprefix("\ufeff")), delimiter=";"))
    assert [row["Ricevuta"] for row in rows] == ["presente", "per IUV", "MANCANTE", "non prevista", "presente"]
    assert rows[0]["Importo (euro)"] == story[0]["transfers.0.transferAmount"].replace(".", ",")
    assert rows[0]["Debitore: nome"] == story[0]["debtor.fullName"]
    assert run_station("fdr", "show", FLOW, "--italian").returncode == 2


def test_cut_off(door, run_station):
    """A line that was cut off fits several flows: the amount chooses, or the EC; a wrong amount finds none."""
    for place, name in enumerate(("2026-11-10ABI99999-S1", "2026-11-10ABI99999-S2", "2026-11-10ABI99998-S1")):
        publish(door, name, [{"iuv": "1", "iur": f"{place}", "amount": f"{place + 1}.00"}])
    publish(door, "2026-11-10ABI99998-S1", [{"iuv": "1", "iur": "9", "amount": "9.00"}], ec=OTHER_EC)
    several = run_station("fdr", "show", "/URI/2026-11-10ABI99999-S")
    assert several.returncode == 2
    assert "2026-11-10ABI99999-S1 --ec 77777777777  1.00 euro" in several.stderr
    assert "2026-11-10ABI99998" not in several.stderr
    assert "ABI99999-S2," in run_station("fdr", "show", "/URI/2026-11-10ABI", "--amount", "2,00").stdout
    assert "9.00 euro" in run_station("fdr", "show", "2026-11-10ABI99998-S1", "--ec", OTHER_EC).stdout
    none = run_station("fdr", "show", "/URI/2026-11-10ABI", "--amount", "2.01")
    assert (none.returncode, none.stdout) == (1, "")
    assert "no flow 2026-11-10ABI of this amount is here" in none.stderr
    assert "too little of a flow's name" in run_station("fdr", "show", "/URI/2026-1").stderr


def test_many_begin_so(door, run_station):
    """The amount chooses among all flows whose names begin so, however many; text behind the name is left out."""
    for place in range(25):
        publish(door, f"2026-11-10ABI99999-S{place:02}", [{"iuv": "1", "iur": f"{place}", "amount": f"{place + 1}.00"}])
    assert "ABI99999-S24," in run_station("fdr", "show", "/URI/2026-11-10ABI", "--amount", "25,00").stdout
    assert "ABI99999-S07," in run_station("fdr", "show", "/URI/2026-11-10ABI99999-S07 ORD. BANCA").stdout
    for command in ("missing", "list"):
        listed = run_station("fdr", command, "--csv", "--limit", "3")
        assert "there may be more than these" in listed.stderr


def test_never_walked(door, run_station, tmp_path):
    """Of a configured EC that was never walked nothing is said, instead of that nothing is uncredited."""
    (tmp_path / "ec.toml").write_text(f'[[ec]]\nid = "{OTHER_EC}"')
    told = run_station("--config", "ec.toml", "fdr", "uncredited").stderr
    assert "were never walked completely" in told


def test_remitted_alone(door, story, run_station):
    """A payment with a line of its own is found by its IUV."""
    shown = run_station("fdr", "show", f"/RFB/{story[0]['creditorReferenceId']}/1.00")
    assert "remitted alone" in shown.stdout
    assert story[0]["debtor.fullName"] in shown.stdout
    assert "no receipt with IUV 0123 is here" in run_station("fdr", "show", "/RFB/0123/1.00").stderr


def test_revisions(door, story, run_station):
    """The latest revision is shown, and listed once."""
    with store.transaction(door.engine) as connection:
        for table in (tables.fdr_flow, tables.fdr_payment):
            connection.execute(update(table).values(superseded=True))
    publish(door, "2026-11-11ABI99999-S2", [line_of(story[0])])
    assert run_station("fdr", "show", FLOW).returncode == 1
    listed = run_station("fdr", "list", "--json").stdout.splitlines()
    assert [json.loads(line)["fdr"] for line in listed] == ["2026-11-11ABI99999-S2"]


def test_missing(door, story, run_station):
    """The list for a ticket: what was credited without receipt, and nothing else."""
    listed = csv.DictReader(io.StringIO(run_station("fdr", "missing", "--csv").stdout))
    (row,) = listed
    assert (row["iur"], row["iuv"], row["regulation"], row["fdr"]) == (
        story[2]["receiptId"], story[2]["creditorReferenceId"], "TRN123", FLOW,
    )  # fmt: skip
    assert "1 credited payment without a receipt" in run_station("fdr", "missing").stdout
    assert json.loads(run_station("fdr", "missing", "--json").stdout)["iur"] == story[2]["receiptId"]
    assert "0 credited payments" in run_station("fdr", "missing", "--ec", OTHER_EC).stdout


def test_uncredited(door, run_station: Callable[..., Any]):
    """What receipts tell of and no flow has after the due days; of an EC that was never walked nothing is said."""
    paid = (NOW - timedelta(days=15)).strftime("%Y-%m-%dT%H:%M:%SZ")
    recent = (NOW - timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    late, new = a_request(paymentDateTime=paid), a_request(paymentDateTime=recent)
    assert "0 transfers" in run_station("fdr", "uncredited").stdout
    for sent in (late, new):
        door.take(an_envelope(sent))
    publish(door, FLOW, [])
    match(door.engine, EC)
    row = json.loads(run_station("fdr", "uncredited", "--json").stdout, parse_float=str)
    assert (row["receipt_id"], row["amount"]) == (late["receiptId"], late["transfers.0.transferAmount"])
    told = run_station("fdr", "uncredited").stdout
    assert f"1 transfer in no flow, {Decimal(row['amount']):,.2f} euro" in told
    assert "nothing can be said" in run_station("fdr", "uncredited", "--ec", OTHER_EC).stderr
    assert "0 transfers" in run_station("fdr", "uncredited", "--from", "3d").stdout
    # A flow that is listed and could not be read may have it, until that flow is given up.
    listed = {"published": NOW, "flow_date": NOW - timedelta(days=14), "listed_at": NOW}
    with store.transaction(door.engine) as connection:
        flows.list_new(connection, [{"id_pa": EC, "fdr": "unread", "psp_id": "P", "revision": 1} | listed])
    assert "0 transfers" in run_station("fdr", "uncredited").stdout
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.fdr_flow).filter_by(fdr="unread").values(next_attempt_at=flows.NEVER))
    assert "1 transfer in no flow" in run_station("fdr", "uncredited").stdout


def test_metrics(door, story):
    """What is missing is a number, an amount and the age of the oldest; an EC without anything missing has none."""
    configured = {"ec": [{"id": EC}, {"id": OTHER_EC}], "fdr": {"key": "k"}}
    text = Metrics(Settings.model_validate(configured), door.engine).text()
    amount = float(story[2]["transfers.0.transferAmount"])
    oldest = (NOW - timedelta(days=20)).timestamp()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("station_fdr_missing"))
    assert {name: float(value) for name, value in found.items()} == {
        f'station_fdr_missing{{ec="{EC}"}}': 1, f'station_fdr_missing{{ec="{OTHER_EC}"}}': 0,
        f'station_fdr_missing_euro{{ec="{EC}"}}': amount, f'station_fdr_missing_euro{{ec="{OTHER_EC}"}}': 0,
        f'station_fdr_missing_oldest_timestamp_seconds{{ec="{EC}"}}': oldest,
    }  # fmt: skip
