"""`station receipts list` and `show`, with few receipts: what they tell, what they do not obey. (Many: test_many.)"""

import json
from datetime import UTC, datetime
from pathlib import Path

import forked
import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from process import environment
from refusals import Door
from sqlalchemy import update

from station import store
from station.store import tables


def station(url, *arguments, text=True):
    """One command as a process."""
    return forked.run(arguments, environment(url), Path.cwd(), text=text)


def listed(url, *arguments):
    """The JSON lines of a list."""
    done = station(url, "receipts", "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- one receipt ------------------------------------------------------------------------------------------------------


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


HOSTILE = "=cmd|'/C calc'!A0 [bold]x[/none] \u009b31m"


def test_hostile_text(door, database_url):
    """What a receiptId holds is not run by a spreadsheet, not taken for markup, and not obeyed by a terminal."""
    request = a_request(receiptId=HOSTILE)
    door.take(an_envelope(request))
    csv = station(database_url, "receipts", "list", "--csv")
    assert f"'{HOSTILE}" in csv.stdout
    for arguments in (["list"], ["show", "--iuv", request["creditorReferenceId"]]):
        shown = station(database_url, "receipts", *arguments)
        assert shown.returncode == 0, shown.stderr
        assert "[bold]x[/none] \\x9b31m" in shown.stdout
        assert "\u009b" not in shown.stdout


def test_days_are_italian(door, database_url):
    """A payment half an hour after midnight in Italy belongs to the new day, although in UTC it is the day before."""
    door.take(an_envelope(a_request(paymentDateTime="2026-07-01T00:30:00")))
    assert len(listed(database_url, "--paid-from", "2026-07-01", "--paid-to", "2026-07-01")) == 1
    assert listed(database_url, "--paid-to", "2026-06-30") == []
    assert len(listed(database_url, "--paid-from", "2026-06-30T22:30:00Z", "--paid-to", "2026-07-01T00:31")) == 1


def test_show(door, database_url):
    """`show` tells everything that is known: people, transfers, flags, resends, and the other ways it came by."""
    request = a_request(paymentAmount="9.99")
    door.take(an_envelope(request))
    door.take(an_envelope(request.but(idStation="15376371009_77")))
    done = station(database_url, "receipts", "show", "--notice", request["noticeNumber"])
    assert done.returncode == 0, done.stderr
    for text in ("Pinco Pallino", "IT88X0000000000000000000001", "15376371009_77", "9.99", "TARI-TEFA-2 = TEFA"):
        assert text in done.stdout
    found = json.loads(station(database_url, "receipts", "show", request["receiptId"], "--json").stdout)
    assert found["resends"] == 1
    assert found["payer_id"] == request["payer.uniqueIdentifier.entityUniqueIdentifierValue"]
    assert [route["id_station"] for route in found["routes"]] == ["15376371009_77"]
    assert found["transfers"][0]["amount"] == request["transfers.0.transferAmount"]
    assert set(found) == {column.name for column in tables.receipt.c} - {"raw"} | {"transfers", "flags", "routes"}


def test_show_xml(door, database_url):
    """`show --xml` gives the exact bytes; where they were purged it says so."""
    raw = an_envelope(a_request(receiptId="r1"), "everything")
    door.take(raw)
    done = station(database_url, "receipts", "show", "r1", "--xml", text=False)
    assert done.stdout == raw
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b"", raw_purged_at=datetime(2025, 7, 1, tzinfo=UTC)))
    done = station(database_url, "receipts", "show", "r1", "--xml")
    assert (done.returncode, done.stdout) == (1, "")
    assert "purged at 2025-07-01 02:00:00" in done.stderr


def test_where_else(database_url):
    """Where no receipt has a notice number, the commands that look further are told, with its IUV."""
    done = station(database_url, "receipts", "list", "--notice", "3010 0000 0000 0000 17", "--ec", EC)
    assert (done.returncode, done.stdout) == (0, "")
    assert "station refused list --state all --notice 301000000000000017" in done.stderr
    assert f"station reconcile --iuv 01000000000000017 --ec {EC}" in done.stderr


def test_show_which(door, database_url):
    """Where several receipts fit, they are named; where none does, or none is asked for, that is said."""
    first = a_request()
    door.take(an_envelope(first))
    door.take(an_envelope(first.but(idPA=OTHER_EC)))
    door.take(an_envelope(a_request(noticeNumber=first["noticeNumber"])))
    several = station(database_url, "receipts", "show", "--notice", first["noticeNumber"])
    assert several.returncode == 2
    assert several.stderr.count("--ec") == 3
    assert station(database_url, "receipts", "show", first["receiptId"], "--ec", EC).returncode == 0
    none = station(database_url, "receipts", "show", "--iuv", "nowhere")
    assert (none.returncode, none.stdout) == (1, "")
    assert "station refused list" in none.stderr
    assert station(database_url, "receipts", "show").returncode == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--paid-from", "yesterday"], "is no time"),
        (["--received-from", "2026-07-02", "--received-to", "2026-07-01"], "before --received-from"),
        (["--amount", "1.234,56"], "is no amount"),
        (["--after", "abc"], "no cursor"),
    ],
)
def test_usage(tmp_path, options, told):
    """What cannot be understood is a usage error that names it, before any database is asked."""
    done = station(f"sqlite:///{tmp_path}/none", "receipts", "list", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
