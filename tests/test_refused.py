"""`station refused`: what was refused is found, understood and decided about; personal data is masked."""

import json
from datetime import UTC, datetime, timedelta

import forked
import pytest
from build import EC, OTHER_EC, PAF_NS, a_bare_request, a_gpd_document, a_request, a_stamp_transfer, an_envelope
from process import environment
from refusals import OURS, TOML, Door

from station import contract, masking, store
from station.config import Settings
from station.intake import Intake
from station.replay import Replay
from station.store import tables

PERSONAL = (
    "Pinco Pallino", "PLLPNC80A01X000X", "Tizia Sempronia", "SMPTZI80A41X000X", "Via dell", "00000", "<city>V",
    "example.invalid", "IT88X", "IT66Y", "TARI 2026", "TEFA<", "carrello-0001", "XX<",
)  # fmt: skip


@pytest.fixture
def door(database_url, tmp_path):
    (tmp_path / "station.toml").write_text(TOML)
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


def test_filters(door):
    """Every filter narrows the list down, which starts with the latest arrival or with the oldest."""
    requests = [a_request(), a_request(idPA=OTHER_EC), a_request(fee="1,50")]
    ids = [door.refuse(an_envelope(request)) for request in requests]
    now = datetime.now(UTC)

    def listed(newest_first=True, **wanted):
        with store.transaction(door.engine, readonly=True) as connection:
            rows = store.list_refused(connection, store.RefusedFilter(**wanted), newest_first=newest_first)
        return [row.refused_id for row in rows]

    assert listed() == ids[::-1]
    assert listed(newest_first=False) == ids
    assert listed(id_pa=OTHER_EC, fault_code="PAA_ID_DOMINIO_ERRATO") == [ids[1]]
    assert listed(notice_number=requests[0]["noticeNumber"], iuv=requests[0]["creditorReferenceId"]) == [ids[0]]
    assert listed(receipt_id=requests[2]["receiptId"], state="open") == [ids[2]]
    assert listed(received_from=now - timedelta(hours=1), received_to=now) == ids[::-1]
    assert listed(received_to=now - timedelta(hours=1)) == listed(state="discarded") == []


def test_list(door, run_station):
    """The list as a table, cut with a word about it, and as JSON lines through the filters."""
    requests = [a_request(), a_request(idPA=OTHER_EC), a_request(fee="1,50")]
    ids = [door.refuse(an_envelope(request)) for request in requests]
    assert " open " in run_station("refused", "list", "--state", "all").stdout
    table = run_station("refused", "list", "--limit", "2")
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == ids[:0:-1]
    assert "There are more than 2" in table.stderr
    assert not any(one in table.stdout for one in PERSONAL)
    notice, iuv, receipt_id = (requests[1][name] for name in ("noticeNumber", "creditorReferenceId", "receiptId"))
    done = run_station(
        "refused", "list", "--json", "--state", "all", "--id-pa", OTHER_EC, "--fault-code", "PAA_ID_DOMINIO_ERRATO",
        "--notice", notice, "--iuv", iuv, "--receipt-id", receipt_id, "--since", "1h", "--until", "2099-01-01",
    )  # fmt: skip
    assert [json.loads(line)["refused_id"] for line in done.stdout.splitlines()] == [ids[1]], done.stderr


def test_list_in_pages(door, run_station):
    """All of them are listed, each once, over as many pages as it takes."""
    door.refuse(an_envelope(a_request()))
    (row,) = door.rows(tables.refused)
    with store.transaction(door.engine) as connection:
        connection.execute(
            tables.refused.insert(),
            [row | {"raw_hash": n.to_bytes(32, "big"), "refused_id": f"{n:016x}"} for n in range(1200)],
        )
    done = run_station("refused", "list", "--json")
    ids = [json.loads(line)["refused_id"] for line in done.stdout.splitlines()]
    assert sorted(ids) == sorted([row["refused_id"], *(f"{n:016x}" for n in range(1200))])


def test_show(door, run_station):
    """Why, where and by which rule, what happened since, what a replay would say, and the document without persons."""
    raw = an_envelope(a_request(fee="1,50", transfers__1=a_stamp_transfer(2)))
    refused_id = door.refuse(raw)
    list(Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna\x1b[2J").refused(store.RefusedFilter()))
    done = run_station("refused", "show", refused_id[:8])
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    line = raw[: raw.index(b"<fee>")].count(b"\n") + 1
    fields = dict(one.split(maxsplit=1) for one in shown.splitlines()[:25] if "  " in one)
    assert fields["element"] == "/paSendRTV2Request/receipt/fee"
    assert fields["line"] == str(line)
    assert fields["rule"] == "the value is not a valid value of the atomic type 'stAmount'."
    assert fields["today"].startswith("a replay would be refused: PAA_SINTASSI_EXTRAXSD")
    history = [one for one in shown.splitlines() if one.startswith("history")]
    assert ["by push" in history[0], r"by anna\x1b[2J" in history[1], len(history)] == [True, True, 2]
    document = [one.strip() for one in shown.partition("\n\n")[2].splitlines()]
    at = document.index("<fee>1,50</fee>")
    assert document[at - 1] == "<!-- HERE: the value is not a valid value of the atomic type 'stAmount'. -->"
    assert "<fullName>*** (13 characters)</fullName>" in document
    assert not any(one in shown for one in PERSONAL)
    assert contract.NS in shown


def test_show_exact_bytes_and_json(door, run_station, tmp_path, database_url):
    """`--xml` gives the bytes as they came, `--json` one object with the masked document."""
    raw = an_envelope(a_request(), "utf-16")
    refused_id = door.refuse(raw)
    done = forked.run(["refused", "show", refused_id, "--xml"], environment(database_url), tmp_path, text=False)
    assert (done.returncode, done.stdout) == (0, raw)
    found = json.loads(run_station("refused", "show", refused_id, "--json").stdout)
    assert (found["refused_id"], found["fault_code"], found["today"]) == (
        refused_id, "PAA_ID_DOMINIO_ERRATO", "a replay would store it",
    )  # fmt: skip
    assert [event["result"] for event in found["history"]] == ["refused"]
    assert "*** (13 characters)" in found["document"]
    assert not any(one in json.dumps(found) for one in PERSONAL)


def test_show_conflict(door, run_station):
    """A conflict shows where it differs from the stored receipt, and persons when they are asked for."""
    request = a_request()
    door.take(an_envelope(request))
    refused_id = door.take(an_envelope(request.but(fee="3.00", debtor__fullName="Ann"))).refused_id
    shown = run_station("refused", "show", refused_id, "--reveal").stdout
    assert "    fee: stored 1.50, this one 3.00" in shown.splitlines()
    assert "    debtor/fullName: stored Pinco Pallino, this one Ann" in shown.splitlines()
    assert all(one in shown for one in ("<fullName>Ann", "SMPTZI80A41X000X", "carrello-0001"))


def test_discard(door, run_station):
    """A discard is noted with reason and operator and deletes nothing; the request can still be replayed by its id."""
    raw = an_envelope(a_request())
    first, second = door.refuse(raw), door.refuse(an_envelope(a_request()))
    done = run_station("refused", "discard", first[:10], second, "--reason", "a test", STATION_OPERATOR="anna")
    assert (done.returncode, done.stdout) == (0, f"{first} discarded by anna\n{second} discarded by anna\n")
    found = door.refused(first)
    assert (found["state"], found["raw"], found["settled_at"] is None) == ("discarded", raw, False)
    event = found["history"][-1]
    assert [event[name] for name in ("result", "operator", "reason", "source")] == ["discarded", "anna", "a test", None]
    assert event["at"] == found["settled_at"]
    again = run_station("refused", "discard", first, "--reason", "again")
    assert (again.returncode, "is discarded already: nothing was changed" in again.stderr) == (1, True)
    assert door.refused(first) == found
    replay = Replay(Intake(door.engine, Settings.model_validate(OURS)), "anna")
    assert [item.name for item in replay.refused(store.RefusedFilter(state="open"))] == []
    assert [item.verdict for item in replay.refused(store.RefusedFilter(refused_ids=(first,)))] == ["stored"]
    assert door.refused(first)["state"] == "accepted"


@pytest.mark.parametrize("reason", [[], ["--reason", " "]])
def test_discard_without_a_reason(reason, sqlite_url, tmp_path):
    """Without a reason nothing is discarded."""
    door = Door(store.connect(sqlite_url))
    refused_id = door.refuse(an_envelope(a_request()))
    done = forked.run(["refused", "discard", refused_id, *reason], environment(sqlite_url), tmp_path)
    assert (done.returncode, "--reason" in done.stderr) == (2, True)
    assert door.refused(refused_id)["state"] == "open"
    door.engine.dispose()


def test_nothing_is_obeyed(door, run_station):
    """Control characters and markup from a document are written out, in the list, in what is shown and in JSON."""
    hostile = "\x9b31m\u202e[red]x[/red]"
    refused_id = door.refuse(an_envelope(a_request(receiptId=hostile, companyName=hostile)))
    for arguments in (["list", "--wide"], ["show", refused_id, "--reveal"], ["show", refused_id, "--json"]):
        done = run_station("refused", *arguments)
        assert (done.returncode, "\x9b" in done.stdout, "\u202e" in done.stdout) == (0, False, False)
        assert "[red]x[/red]" in done.stdout


# --- masking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["plain", "default_namespaces", "everything", "iso-8859-1"])
@pytest.mark.parametrize("form", [an_envelope, a_bare_request, a_gpd_document])
def test_masked(form, style):
    """Whatever the form, no text is shown that is not on the list of what is safe."""
    over = {"MBDAttachment": b"a stamp", "companyName": "of PLLPNC80A01X000X"}
    request = a_request(transfers__1=a_stamp_transfer(2, **over), receipt__surname="Pallino", debtor__idPA="Pinco")
    shown = "\n".join(masking.pretty(contract.parse(form(request, style))))
    assert not any(one in shown for one in (*PERSONAL, "Pallino", "Pinco", "a stamp", "YSBzdGFtcA", "controprova"))
    assert f"<receiptId>{request['receiptId']}</receiptId>" in shown
    assert "<paymentAmount>120.50</paymentAmount>" in shown
    assert "Provincia" not in shown
    assert "NOTIFICATION_FEE" in shown


def test_masked_attributes_text_between_elements_and_headers():
    """Attributes, text that stands between elements, and what stands outside of the request are masked."""
    raw = (
        f'<e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Header><idPA>Pinco</idPA></e:Header><e:Body>'
        f'<paSendRTV2Request xmlns="{PAF_NS}"><idPA xmlns="" who="Pinco">{EC}</idPA>Pinco<receipt xmlns="">Pinco'
        f'<p:outcome xmlns:p="urn:x">Pinco</p:outcome></receipt></paSendRTV2Request></e:Body></e:Envelope>'
    )
    shown = "\n".join(masking.pretty(contract.parse(raw.encode())))
    assert "Pinco" not in shown
    assert EC in shown
    assert shown.count("*** (5 characters)") == 5


def test_remark_at_the_element():
    """The remark stands before the element that the path names, whichever of several it is; elsewhere there is none."""
    document = contract.parse(a_bare_request(a_request()))
    shown = masking.pretty(document, at="/paSendRTV2Request/receipt/transferList/transfer[2]/IBAN", remark="a--b-")
    at = shown.index("        <!-- a- -b- -->")
    assert shown[at + 1].startswith("        <IBAN>")
    assert sum("<IBAN>" in line for line in shown[:at]) == 1
    for path in ("/paSendRTV2Request/nothing", "/paSendRTV2Request", "/a/b[", "/"):
        assert not any("<!--" in line for line in masking.pretty(document, at=path, remark="x"))
