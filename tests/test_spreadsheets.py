"""Exports opened by LibreOffice, without a screen and set to Italian: each cell's type and value (`make
test-spreadsheets`).

LibreOffice stands for Excel too, as far as it can: with every kind of guess turned on it takes more texts for numbers,
dates and formulas than Excel does. Here no Excel opens anything.
"""

import subprocess
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import forked
import pytest
from process import environment
from refusals import Door
from spreadsheets import cells, fill, in_italy, in_order, plain, written

from station import store
from station.columns import TRANSFER_ROW, names, title, titles, transfer_rows

pytestmark = pytest.mark.slow

# Semicolon, comma and tab between cells, UTF-8, the language of the settings, text in quotes not always text, then: no
# dates or percentages are looked for, no formulas are evaluated. This is how the dialog comes (main.xcd, CSVImport).
AS_IT_COMES = "CSV:59/44/9,34,76,1,,0,false,false,false,false,false,0,false,false"
EVERY_GUESS = "CSV:59,34,76,1,,0,false,true,false,false,false,0,false,true"

_ITALIAN = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Setup/L10N"><prop oor:name="ooSetupSystemLocale" oor:op="fuse"><value>it-IT</value>
</prop></item></oor:items>
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The stored receipts and the folder with their exports."""
    folder = tmp_path_factory.mktemp("exported")
    url = f"sqlite:///{folder}/station.sqlite3"
    env = environment(url)
    export = ["receipts", "export"]
    for command in (
        ["migrate"],
        *([*export, "all.xlsx"], [*export, "all.csv", "--italian"]),
        *([*export, "--transfers", "transfers.xlsx"], [*export, "--transfers", "transfers.csv", "--italian"]),
    ):
        if command[0] == "receipts" and command[2] == "all.xlsx":
            engine = store.connect(url)
            stored = fill(Door(engine))
            engine.dispose()
        done = forked.run(command, env, folder)
        assert done.returncode == 0, done.stderr
    return stored, folder


@pytest.fixture(scope="module")
def office(tmp_path_factory):
    """Opens a file and returns the cells that it shows."""
    profile = tmp_path_factory.mktemp("profile")
    (profile / "user").mkdir()
    (profile / "user" / "registrymodifications.xcu").write_text(_ITALIAN)

    def opened(file: Path, options: str | None, out: Path):
        command = ["soffice", f"-env:UserInstallation={profile.as_uri()}", "--headless", "--convert-to", "xlsx"]
        command += [f"--infilter={options}"] if options else []
        done = subprocess.run([*command, "--outdir", out, file], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return cells(out / f"{file.stem}.xlsx")

    return opened


def expected(value, *, guessed):
    """What a cell should be: its kind and value."""
    match value:
        case bool():
            return ("truth", value) if guessed else ("text", "VERO" if value else "FALSO")
        case Decimal() | int():
            return "number", Decimal(value)
        case datetime() | date():
            shown = in_italy(value) if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
            if guessed and shown.year > 1900:
                return "date", shown
            day = f"{shown.day:02}/{shown.month:02}/{shown.year:04}"
            return "text", f"{day} {shown:%H:%M:%S}" if isinstance(value, datetime) else day
    return "text", written(value).replace("\r\n", "\n")


def compare(stored, rows, *, guessed, options=None):
    """Compares every cell of a file with a row for each receipt with what is stored."""
    wanted = {(one["receipt_id"],): dict(zip(names(), in_order(one, names()), strict=True)) for one in stored}
    compare_cells(wanted, rows, names(), titles(), ("receipt_id",), guessed=guessed, options=options)


def compare_transfers(stored, rows, *, guessed, options=None):
    """Compares every cell of a file with a row for each transfer with what is stored."""
    transfers = [{name: one[name] for name in TRANSFER_ROW} for receipt in stored for one in transfer_rows(receipt)]
    wanted = {(one["receipt_id"], str(one["id_transfer"])): one for one in transfers}
    headed = [title(name) for name in TRANSFER_ROW]
    compare_cells(wanted, rows, TRANSFER_ROW, headed, ("receipt_id", "id_transfer"), guessed=guessed, options=options)


def compare_cells(wanted, rows, columns, headed, key, *, guessed, options):
    assert [value for _, value in rows[0].values()] == headed
    places = [columns.index(name) for name in key]
    found_rows = {tuple(str(row[place][1]).lstrip("\t") for place in places): row for row in rows[1:]}
    assert len(rows) == len(wanted) + 1
    wrong = []
    for its, values in wanted.items():
        row = found_rows[its]
        for column, value in enumerate(values.values()):
            if value in (None, "", []):
                assert column not in row
                continue
            kind, shown = row[column]
            if kind == "date" and isinstance(value, datetime) and value.year <= 1900 and options:
                continue  # from CSV, LibreOffice takes it for a date, before 1582 by the old calendar, and shows it so
            found = kind, plain(shown) if kind == "text" else shown
            if found != expected(value, guessed=guessed):
                wrong.append((columns[column], value, row[column]))
    assert not wrong, "\n".join(map(str, wrong[:20]))


def test_workbook(exported, office, tmp_path):
    """The workbook: dates as dates, amounts as numbers, all else as text, no formula and no link."""
    stored, folder = exported
    compare(stored, office(folder / "all.xlsx", None, tmp_path), guessed=True)


@pytest.mark.parametrize("options", [AS_IT_COMES, EVERY_GUESS], ids=["as it comes", "every guess"])
def test_csv(exported, office, tmp_path, options):
    """CSV with `--italian`: no text becomes anything else, whatever is guessed; amounts are numbers."""
    stored, folder = exported
    compare(stored, office(folder / "all.csv", options, tmp_path), guessed=options == EVERY_GUESS, options=options)


def test_transfers(exported, office, tmp_path):
    """The files with a row for each transfer, in the same way."""
    stored, folder = exported
    compare_transfers(stored, office(folder / "transfers.xlsx", None, tmp_path / "xlsx"), guessed=True)
    for options in (AS_IT_COMES, EVERY_GUESS):
        rows = office(folder / "transfers.csv", options, tmp_path / "csv")
        compare_transfers(stored, rows, guessed=options == EVERY_GUESS, options=options)
