"""`station receipts export` and `stamps`: whole files in every format, that nothing can abuse.

Many receipts: test_many. Exports opened by LibreOffice: test_spreadsheets.
"""

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import threading
import tracemalloc
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import forked
import pytest
from build import ABSENT, OTHER_EC, a_request, a_stamp_transfer, an_envelope
from process import STATION, environment
from pyarrow import parquet
from refusals import Door
from spreadsheets import cells, fill, in_italy, in_order, plain, written
from sqlalchemy import update

from station import export, stamps, store
from station.columns import COLUMNS, ITALIAN, OF_TRANSFER, TRANSFER_ROW, names, row, title, titles
from station.export.italian import as_text
from station.export.lines import cell
from station.store import queries, tables
from station.text import counted


def run(url, *arguments, cwd, **env):
    """One command as a process; where the environment must be there when Python starts, started as an operator does."""
    if env:
        return subprocess.run(
            [STATION, "receipts", *arguments], env=environment(url, **env), cwd=cwd, capture_output=True, timeout=120
        )
    return forked.run(["receipts", *arguments], environment(url), cwd, text=False)


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def special(door):
    """A receipt with everything, and one with as little as there can be."""
    full = a_request(receiptId="-1+1", paymentAmount="1234.50", description='=1+1; "quoted"\nè')
    door.take(an_envelope(full))
    door.take(an_envelope(full.but(idStation="15376371009_77")))
    absent = ("payer", "paymentDateTime", "fee", "officeName", "metadata", "standIn", "applicationDate")
    door.take(an_envelope(a_request(receiptId="b", **dict.fromkeys(absent, ABSENT))))
    return full


def test_formats_agree(door, special, database_url, tmp_path):
    """CSV, JSON lines and Parquet hold the same, in columns of the same names, and all that is stored but the XML."""
    for kind in ("csv", "jsonl", "parquet"):
        done = run(database_url, "export", f"all.{kind}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"all.{kind}").stat().st_mode & 0o077 == 0
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        as_csv = next(csv.DictReader(file))
    as_json = json.loads((tmp_path / "all.jsonl").read_text().splitlines()[0])
    as_parquet = parquet.read_table(tmp_path / "all.parquet").to_pylist()[0]
    stored = door.receipt(special)
    without = {"raw", "charset", "notice_ordinal", "revision"}
    assert set(as_json) == set(as_parquet) == set(stored) - without
    assert {name for name in as_csv if not name.startswith("transfer_") or name == "transfer_date"} == set(as_json) - {
        "transfers"
    }
    for name in set(stored) - without - {"transfers", "routes", "metadata", "content_hash", "flags"}:
        assert as_parquet[name] == stored[name], name
        assert as_json[name] == (stored[name] if isinstance(stored[name], int | str | None) else str_of(stored[name]))
        assert as_csv[name].removeprefix("'") == csv_of(stored[name]), name
    assert as_json["metadata"] == [list(one) for one in stored["metadata"]] == json.loads(as_csv["metadata"])
    assert [[one["key"], one["value"]] for one in as_parquet["metadata"]] == as_json["metadata"]
    assert as_csv["flags"].split() == as_json["flags"] == as_parquet["flags"] == stored["flags"]
    assert as_parquet["content_hash"] == as_json["content_hash"] == stored["content_hash"].hex()
    assert [one["id_station"] for one in as_parquet["routes"]] == ["15376371009_77"]
    for number, transfer in enumerate(stored["transfers"], start=1):
        assert as_parquet["transfers"][number - 1]["amount"] == transfer["amount"]
        assert as_json["transfers"][number - 1]["iban"] == transfer["iban"] == as_csv[f"transfer_{number}_iban"]
    assert as_csv["transfer_5_amount"] == ""


def test_a_row_for_each_transfer(door, special, database_url, tmp_path):
    """`--transfers` writes the same columns in every format, with the receipt's own beside each transfer."""
    for name in ("all.csv", "all.jsonl", "all.parquet", "all.xlsx"):
        done = run(database_url, "export", "--transfers", name, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    told = done.stderr.decode()
    italian = run(database_url, "export", "--transfers", "--italian", "-", cwd=tmp_path).stdout.decode("utf-8-sig")
    stored = sorted(
        (
            (one["receipt_id"], transfer["id_transfer"], one, transfer)
            for one in every(door)
            for transfer in one["transfers"]
        ),
        key=lambda one: one[:2],
    )
    assert f"{len(stored)} transfers of 2 receipts written" in told
    with (tmp_path / "all.csv").open(newline="", encoding="utf-8") as file:
        as_csv = sorted(csv.DictReader(file), key=lambda one: (one["receipt_id"].lstrip("'"), one["id_transfer"]))
    as_json = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    as_parquet = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    as_italian = list(csv.DictReader(io.StringIO(italian, newline=""), delimiter=";"))
    first, *rows = cells(tmp_path / "all.xlsx")
    assert [value for _, value in first.values()] == list(as_italian[0]) == [title(name) for name in TRANSFER_ROW]
    assert len(rows) == len(as_italian) == len(as_json) == len(as_parquet) == len(as_csv) == len(stored)
    by_key = {(one["receipt_id"], one["id_transfer"]): one for one in as_json}
    typed = {(one["receipt_id"], one["id_transfer"]): one for one in as_parquet}
    for (receipt_id, number, receipt, transfer), line in zip(stored, as_csv, strict=True):
        one = by_key[receipt_id, number]
        assert list(one) == list(line) == list(typed[receipt_id, number]) == list(TRANSFER_ROW)
        assert one["transfer_amount"] == line["transfer_amount"] == str(transfer["amount"])
        assert typed[receipt_id, number]["transfer_amount"] == transfer["amount"]
        assert one["amount"] == line["amount"] == str(receipt["amount"])
        assert one["iban"] == line["iban"] == transfer["iban"]
        assert one["iuv"] == line["iuv"] == receipt["iuv"]
    assert as_italian[0]["Versamento: importo (euro)"] == str(stored[0][3]["amount"]).replace(".", ",")


def every(door):
    return [store_find(door, one) for one in door.rows(tables.receipt)]


def store_find(door, one):
    with store.transaction(door.engine, readonly=True) as connection:
        return store.find(connection, one["id_pa"], one["receipt_id"])


def test_end_by_arrival(door, special, database_url, tmp_path):
    """An end by arrival is a minute ago at the latest, so that the next export can begin where this one ended: a
    receipt that is stored some seconds after it arrived is in one of them."""
    later = ["--received-to", "2999-01-01"]
    done = run(database_url, "export", "-", "--format", "jsonl", "--received-from", "1d", *later, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    begin = done.stderr.decode().splitlines()[0].rpartition("--received-from ")[2]
    assert abs(datetime.now(UTC) - datetime.fromisoformat(begin)).total_seconds() < 3600
    done = run(database_url, "export", "-", "--format", "jsonl", "--received-from", begin, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"left out" in done.stderr
    done = run(database_url, "export", "-", "--format", "jsonl", cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert b"left out" not in done.stderr
    old = run(database_url, "export", "-", "--received-to", "2026-01-01", cwd=tmp_path)
    assert b"left out" not in old.stderr
    done = run(database_url, "stamps", "stamps", *later, cwd=tmp_path)
    assert done.returncode == 0
    assert b"left out" in done.stderr


def str_of(value):
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def csv_of(value):
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str_of(value)


def test_csv_is_safe(special, database_url, tmp_path):
    """Text that a spreadsheet would run stands behind an apostrophe; amounts stay numbers."""
    done = run(database_url, "export", "-", cwd=tmp_path, LC_ALL="C")
    first = next(csv.DictReader(io.StringIO(done.stdout.decode(), newline="")))
    assert first["description"] == '\'=1+1; "quoted"\nè'
    assert first["receipt_id"] == "'-1+1"
    assert first["amount"] == "1234.50"
    assert first["payment_date_time"] == "2026-07-01T08:20:30+00:00"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1"])
def test_cell(text):
    """Every beginning that a spreadsheet takes for a formula is defused; numbers below zero are none."""
    assert cell(text) == f"'{text}"
    assert cell(Decimal("-1.50")) == "-1.50"
    assert cell(["=1"]) == '["=1"]'


# --- for spreadsheets -------------------------------------------------------------------------------------------------


def test_italian_csv(special, database_url, tmp_path):
    """`--italian` is what an Italian spreadsheet opens by a double click: titles, dates and times, amounts, and numbers
    that are names as text."""
    done = run(database_url, "export", "-", "--italian", cwd=tmp_path)
    assert done.stdout.startswith(b"\xef\xbb\xbf")
    text = done.stdout.decode("utf-8-sig")
    assert next(csv.reader(io.StringIO(text, newline=""), delimiter=";")) == titles()
    first, second = csv.DictReader(io.StringIO(text, newline=""), delimiter=";")
    assert first["Importo (euro)"] == "1234,50"
    assert first["Versamento 1: importo (euro)"] == special["transfers.0.transferAmount"].replace(".", ",")
    assert first["Data e ora del pagamento (ora italiana)"] == "01/07/2026 10:20:30"
    assert first["Data applicativa"] == "01/07/2026"
    assert first["Numero avviso"] == f"\t{special['noticeNumber']}"
    assert first["Debitore: codice fiscale"] == "PLLPNC80A01X000X"
    assert first["Causale"] == '\'=1+1; "quoted"\nè'
    assert first["Metadati"] == "TARI-TEFA-2 = TEFA; NOTIFICATION_FEE = 200"
    assert first["Altri percorsi (ora italiana)"].startswith("\t15376371009 15376371009_77 ")
    assert first["Stand-in"] == "FALSO"
    assert second["Data e ora del pagamento (ora italiana)"] == ""
    # Where a comma ends a cell, too, as in LibreOffice's dialog as it comes, each cell is still one.
    assert text.count('"1234,50"') == 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 11, 28, 13, 5, 9, 999_999, UTC), "28/11/2026 14:05:09"),
        (datetime(2026, 7, 1, 22, 30, tzinfo=UTC), "02/07/2026 00:30:00"),
        (datetime(9999, 12, 31, 23, 30, tzinfo=UTC), "31/12/9999 23:30:00"),
        (date(1, 2, 3), "03/02/0001"),
        (Decimal("-1.50"), "-1,50"),
        (True, "VERO"),
        (7, "7"),
        ("01000000000000017", "\t01000000000000017"),
        ("1234E5", "\t1234E5"),
        ("5 marzo", "\t5 marzo"),
        ("gen 26", "\tgen 26"),
        ("sab 28 nov 2026 2:05 PM", "\tsab 28 nov 2026 2:05 PM"),
        ("vero", "\tvero"),
        ("#N/D", "\t#N/D"),
        (" =1", "' =1"),
        ("\u3000=1", "'\u3000=1"),
        ("＝1", "'＝1"),
        ("-5", "'-5"),
        ("\t5", "'\t5"),
        ("Anna Rossi", "Anna Rossi"),
        ("TARI 2026, prima rata, via Roma 12", "TARI 2026, prima rata, via Roma 12"),
        ("Борис", "Борис"),
    ],
)
def test_italian_cell(value, shown):
    """A text that a spreadsheet could take for something else stands behind a tab, one that it could run behind an
    apostrophe; all others are as they are."""
    assert as_text(value) == shown


def test_workbook(door, database_url, tmp_path):
    """A workbook holds what is stored: dates as dates in Italian time, amounts as numbers, and every text as text."""
    stored = fill(door)
    done = run(database_url, "export", "--xlsx", "all.xlsx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("station.sqlite3")] == ["all.xlsx"]
    assert (tmp_path / "all.xlsx").stat().st_mode & 0o077 == 0
    first, *rows = cells(tmp_path / "all.xlsx")
    assert [value for _, value in first.values()] == titles()
    by_id = {one[names().index("receipt_id")][1]: one for one in rows}
    assert len(by_id) == len(rows) == len(stored)
    for receipt in stored:
        for number, value in enumerate(in_order(receipt, names())):
            found = by_id[receipt["receipt_id"]].get(number)
            match value:
                case None | "" | []:
                    assert found is None
                case bool():
                    assert found == ("truth", value)
                case Decimal() | int():
                    assert found == ("number", value)
                case datetime() if value.year > 1900:
                    assert found == ("date", in_italy(value))
                case date() if value.year > 1900:
                    assert found == ("date", datetime(value.year, value.month, value.day))  # noqa: DTZ001
                case date():
                    assert found[0] == "text"
                case _:
                    assert (found[0], plain(found[1])) == ("text", plain(written(value)))


RECEIPT = dict.fromkeys(COLUMNS, "text") | {"transfers": []}


def test_workbook_of_many(tmp_path):
    """A sheet that is full is followed by the next one, each with its titles; what is longer than a cell is cut, and
    counted; rows are not kept in memory."""
    with (tmp_path / "many.xlsx").open("wb") as sink:
        writer = export.XlsxWriter(sink, tmp_path, rows=3)
        writer.write([RECEIPT] * 3)
        writer.write([RECEIPT | {"description": "à" * 40_000}] * 2)
        writer.close()
    assert (writer.sheets, writer.cut) == (3, 2)
    assert list(tmp_path.glob(".xlsx-*")) == []
    sheets = [cells(tmp_path / "many.xlsx", number) for number in (1, 2, 3)]
    assert [len(rows) for rows in sheets] == [3, 3, 2]
    for rows in sheets:
        assert [value for _, value in rows[0].values()] == titles()
    assert sheets[2][1][names().index("description")] == ("text", "à" * 32_767)
    with (tmp_path / "more.xlsx").open("wb") as sink:
        writer = export.XlsxWriter(sink, tmp_path)
        writer.write([RECEIPT] * 100)
        tracemalloc.start()
        writer.write([RECEIPT] * 500)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        writer.close()
    assert kept < 300_000


def test_titles():
    """Every column has an Italian title, and no two the same; the documentation has them all."""
    documented = (Path(__file__).parent.parent / "docs" / "receipts.md").read_text()
    assert [name for name, title in ITALIAN.items() if f"| `{name}` | {title} |" not in documented] == []
    assert len(names()) == len(titles()) == len(set(titles())) == len(list(row(RECEIPT)))
    assert (*queries.EXPORTED, "flags", "routes") == COLUMNS
    assert len(TRANSFER_ROW) == len({title(name) for name in TRANSFER_ROW}) == len(set(TRANSFER_ROW))
    assert set(OF_TRANSFER) <= set(TRANSFER_ROW) <= {*COLUMNS, *OF_TRANSFER}
    assert [name for name in TRANSFER_ROW if f"`{name}`" not in documented] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["all.xls"], "name it all.csv (or .jsonl, .parquet, .xlsx for other formats)"),
        (["all.csv", "--format", "jsonl"], "name it all.jsonl"),
        (["all.xlsx", "--format", "csv"], "name it all.csv"),
        (["all.csv", "--xlsx"], "name it all.xlsx"),
        (["all.parquet", "--xlsx"], "name it all.xlsx"),
        (["all.jsonl", "--italian"], "--italian is for CSV"),
    ],
)
def test_ending(database_url, tmp_path, arguments, told):
    """A file is not written under the ending of another format; the error says which name fits."""
    done = run(database_url, "export", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in " ".join(done.stderr.decode().split())
    assert list(tmp_path.glob("all.*")) == []


def test_ending_of_others(database_url, tmp_path):
    """The journal's export and the page of statistics have files of their endings, too; a name without one fits all."""
    for command in (["journal", "export", "x.xlsx"], ["stats", "--html", "x.csv"]):
        done = forked.run(command, environment(database_url), tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "name it x." in " ".join(done.stderr.split())
    assert list(tmp_path.glob("x.*")) == []
    assert run(database_url, "export", "--format", "jsonl", "plain", cwd=tmp_path).returncode == 0
    os.mkfifo(tmp_path / "pipe.gz")
    reader = threading.Thread(target=(tmp_path / "pipe.gz").read_bytes)
    reader.start()
    assert run(database_url, "export", "pipe.gz", cwd=tmp_path).returncode == 0
    reader.join()


def test_workbook_to_a_full_disk(special, database_url, tmp_path):
    """An error while the workbook is put together is told in one line."""
    done = run(database_url, "export", "--xlsx", "/dev/full", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == b"Error: /dev/full cannot be written: No space left on device\n"


def test_counted():
    """One receipt is no receipts."""
    assert [counted(number, "receipt") for number in (0, 1, 2760)] == ["0 receipts", "1 receipt", "2,760 receipts"]
    assert counted(2, "silent EC") == "2 silent ECs"
    assert counted(2, "reply", "replies") == "2 replies"


# --- files ------------------------------------------------------------------------------------------------------------


def test_target(special, database_url, tmp_path):
    """A file that is there is replaced only when that is asked for; a folder that is not there is named."""
    (tmp_path / "there.csv").write_text("mine")
    kept = run(database_url, "export", "there.csv", cwd=tmp_path)
    assert kept.returncode == 2
    assert b"--overwrite" in kept.stderr
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert run(database_url, "export", "there.csv", "--overwrite", cwd=tmp_path).returncode == 0
    assert (tmp_path / "there.csv").read_text() != "mine"
    assert run(database_url, "export", "nowhere/there.csv", cwd=tmp_path).returncode == 2


def test_without_pyarrow(special, database_url, tmp_path):
    """Where pyarrow is not installed, Parquet is refused with the name of the extra, and nothing is left behind."""
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    done = run(database_url, "export", "all.parquet", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert b"pip install 'pagopa-receipt-station[parquet]'" in done.stderr
    assert [file.name for file in tmp_path.glob("*all.parquet*")] == []


def test_nothing(database_url, tmp_path):
    """Where nothing fits, the file has its columns and no row."""
    for kind in export.Format:
        assert run(database_url, "export", f"none.{kind}", cwd=tmp_path).returncode == 0
    assert (tmp_path / "none.csv").read_text().count("\n") == 1
    assert (tmp_path / "none.jsonl").read_text() == ""
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 0
    assert len(cells(tmp_path / "none.xlsx")) == 1


# --- digital stamps ---------------------------------------------------------------------------------------------------

HOSTILE = ["../../../outside", "/outside", "..", "C:outside", "a/b", "A" * 32, "a" * 300]


def stamp_of(transfer):
    return base64.b64decode(transfer["MBDAttachment"])


def test_stamps(door, database_url, tmp_path):
    """Each stamp leaves as the bytes it came as, under a name no receiptId can lead elsewhere; twice is no harm."""
    requests = [a_request(receiptId=one, transfers=[a_stamp_transfer(1)], paymentAmount="16.00") for one in HOSTILE]
    requests.append(
        a_request(receiptId="00ff", transfers=[a_stamp_transfer(1), a_stamp_transfer(2)], paymentAmount="32.00")
    )
    for request in [*requests, a_request()]:
        door.take(an_envelope(request, "everything"))
    folder = tmp_path / "deep" / "stamps"
    for _ in range(2):
        done = run(database_url, "stamps", "deep/stamps", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with (folder / "manifest.csv").open(newline="") as file:
        manifest = list(csv.DictReader(file))
    assert len(manifest) == len(HOSTILE) + 2
    assert {file.name for file in folder.iterdir()} == {one["file"] for one in manifest} | {"manifest.csv"}
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("station.sqlite3")] == ["deep"]
    wanted = {request["receiptId"]: request for request in requests}
    for one in manifest:
        content = (folder / one["file"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert int(one["size"]) == len(content)
        transfer = wanted[one["receipt_id"].removeprefix("'")]["transfers"][int(one["position"]) - 1]
        assert stamp_of(transfer) == content
    assert sorted(one["file"] for one in manifest if one["receipt_id"] == "00ff") == [
        "77777777777_00ff_1.xml",
        "77777777777_00ff_2.xml",
    ]


def test_stamps_that_fail(door, database_url, tmp_path):
    """A stamp whose document was purged, or whose file is another one's, is told; the others are written; exit 1."""
    for one in ("aa", "bb", "cc"):
        door.take(an_envelope(a_request(receiptId=one, transfers=[a_stamp_transfer(1)], paymentAmount="16.00")))
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).where(tables.receipt.c.receipt_id == "aa").values(raw=b""))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "77777777777_bb_1.xml").write_text("mine")
    done = run(database_url, "stamps", "out", "--manifest", "jsonl", cwd=tmp_path)
    assert done.returncode == 1
    assert b"purged" in done.stderr
    assert b"other content" in done.stderr
    assert (tmp_path / "out" / "77777777777_bb_1.xml").read_text() == "mine"
    manifest = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()]
    assert [(one["receipt_id"], one["amount"]) for one in manifest] == [("cc", "16.00")]


def test_stamps_of_another_ec(door, database_url, tmp_path):
    """The filters say whose stamps."""
    request = a_request(transfers=[a_stamp_transfer(1)], paymentAmount="16.00")
    door.take(an_envelope(request))
    door.take(an_envelope(request.but(idPA=OTHER_EC)))
    assert run(database_url, "stamps", "out", "--ec", OTHER_EC, cwd=tmp_path).returncode == 0
    assert [file.name[:11] for file in (tmp_path / "out").glob("*.xml")] == [OTHER_EC]


def test_stamp_names():
    """Two stamps never have the same name, on a system that does not tell small letters from capitals either."""
    keys = [("1", "a"), ("1", "A"), ("1", "a_1"), ("1_a", "1"), ("1", ""), ("", "1"), ("1", "id-a"), ("1", "a/1")]
    names = {stamps.file_name(*key, position, b"<a/>").lower() for key in keys for position in (1, 11)}
    assert len(names) == 2 * len(keys)
    assert all(set(name) <= set("0123456789abcdefghijklmnopqrstuvwxyz_-.") for name in names)
