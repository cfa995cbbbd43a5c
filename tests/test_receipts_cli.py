"""`station receipts list` and `show`, with few receipts: what they tell, what they do not obey. (Many: test_many.)"""

import json
from datetime import UTC, datetime
from pathlib import Path

import forked
import pytest
from build import ABSENT, EC, OTHER_EC, a_request, an_envelope
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
    for arguments in (["list", "--wide"], ["show", "--iuv", request["creditorReferenceId"]]):
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
    assert set(found) == {column.name for column in tables.receipt.c} - {"raw"} | {
        "transfers",
        "flags",
        "routes",
        "same_notice",
        "documents",
    }


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
    assert "purged at 01/07/2025 02:00:00 (Italy)" in done.stderr


# --- as people look for it --------------------------------------------------------------------------------------------


def codes(**over):
    return {f"{who}__uniqueIdentifier__entityUniqueIdentifierValue": code for who, code in over.items()}


def test_fiscal_code_in_any_letters(door, database_url):
    """A fiscal code is found whichever way it was sent, and whichever way it is typed."""
    sent = ["VRDLGI70B02F205Z", "vrdlgi70b02f205z", "VrdLgi70b02F205z"]
    for code in sent:
        door.take(an_envelope(a_request(payer=ABSENT, **codes(debtor=code))))
        door.take(an_envelope(a_request(**codes(payer=code))))
    door.take(an_envelope(a_request()))
    for typed in ("VRDLGI70B02F205Z", "vrdlgi70b02f205z", " VRD LGI 70B02 f205z "):
        found = {option: len(listed(database_url, option, typed)) for option in ("--debtor", "--payer", "--person")}
        assert found == {"--debtor": 3, "--payer": 3, "--person": 6}


def test_code_with_blanks(door, database_url):
    """A code of eleven digits that was sent with blanks is found, too."""
    door.take(an_envelope(a_request(**codes(debtor="1537 6371 009"))))
    assert len(listed(database_url, "--debtor", "15376371009")) == 1
    assert len(listed(database_url, "--person", "153 763 71009")) == 1


def test_name(door, database_url):
    """A name is found by its words, capitals and accents apart; all of them in the debtor's name or in the payer's."""
    door.take(an_envelope(a_request(debtor__fullName="Nicolò D'Àngelo", payer__fullName="Rita Bianchi")))
    door.take(an_envelope(a_request(debtor__fullName="ANGELA VERDI 100% & (figli)", payer=ABSENT)))
    typed = {
        "angela 100% & (": 1,
        "a.g": 0,
        "angela [": 0,
        r"\\1": 0,
        "Łą": 1,
        "NICOLO\u0300": 1,
        "nicolo d'angelo": 1,
        "D’ÀNGELO": 1,
        "ang": 2,
        "bianchi": 1,
        "nicolò bianchi": 0,
        "100%": 1,
    }
    found = {words: len(listed(database_url, "--name", words, "--received-from", "1d")) for words in typed}
    assert found == typed


def test_name_within_days(door, database_url):
    """A name alone would be looked for in every receipt: days, or another number, are asked for."""
    request = a_request()
    door.take(an_envelope(request))
    for options in ([], ["--paid-from", "01/01/2026", "--paid-to", "01/03/2026"], ["--person", "ANONIMO"]):
        done = station(database_url, "receipts", "list", "--name", "pallino", *options)
        assert done.returncode == 2
        assert "at most 31 days" in done.stderr
    assert len(listed(database_url, "--name", "pallino", "--notice", request["noticeNumber"])) == 1


def test_twin(door, database_url):
    """`show` names the other payment of the same notice, from either side."""
    first = a_request(paymentAmount="120.50")
    second = first.but(receiptId="0f" * 16)
    for request in (first, second, first.but(idPA=OTHER_EC)):
        door.take(an_envelope(request))
    for one, other in ((first, second), (second, first)):
        done = station(database_url, "receipts", "show", one["receiptId"], "--ec", EC)
        _, _, told = done.stdout.partition("other payment of this notice, number 1\n")
        assert other["receiptId"] in told
        assert "other payment of this notice, number 2" not in told
        found = json.loads(station(database_url, "receipts", "show", one["receiptId"], "--ec", EC, "--json").stdout)
        assert [twin["receipt_id"] for twin in found["same_notice"]] == [other["receiptId"]]


def test_total(door, database_url):
    """The list tells how many receipts match and their sum, of all pages, where an index counts them."""
    requests = [a_request(paymentAmount=f"{10 * n}.10") for n in (1, 2, 3)]
    for request in requests:
        door.take(an_envelope(request))
    assert "3 receipts, 60.30 euro" in station(database_url, "receipts", "list").stdout
    assert "1 receipt, 10.10 euro" in station(database_url, "receipts", "list", "--amount", "10,10").stdout
    page = station(database_url, "receipts", "list", "--ec", EC, "--limit", "2")
    assert "3 receipts in total, 60.30 euro" in page.stdout
    next_page = station(database_url, "receipts", "list", "--ec", EC, *page.stderr.split("more: ")[1].split())
    assert "3 receipts in total, 60.30 euro" in next_page.stdout
    assert "euro" not in station(database_url, "receipts", "list", "--limit", "2").stdout.splitlines()[-1]


def test_list_fits(door, database_url):
    """The list fits 80 columns, with debtor and amount; `--wide` has the rest."""
    request = a_request()
    door.take(an_envelope(request))
    narrow = station(database_url, "receipts", "list").stdout.splitlines()
    assert all(len(line) <= 80 for line in narrow)
    for name in ("noticeNumber", "debtor.uniqueIdentifier.entityUniqueIdentifierValue", "paymentAmount", "idPA"):
        assert request[name] in narrow[1]
    wide = station(database_url, "receipts", "list", "--wide").stdout.splitlines()
    assert all(request[name] in wide[1] for name in ("receiptId", "creditorReferenceId", "idPSP"))


@pytest.mark.parametrize("command", ["receipts list", "receipts show", "refused list", "journal list"])
@pytest.mark.parametrize("notice", ["30100000000000001", "3010000000000000178", "3O1000000000000017"])
def test_wrong_notice(tmp_path, command, notice):
    """A notice number of the wrong length is told so, and no look-up by its IUV is suggested."""
    done = station(f"sqlite:///{tmp_path}/none", *command.split(), "--notice", notice)
    assert (done.returncode, done.stdout) == (2, "")
    assert "18" in done.stderr
    assert "reconcile" not in done.stderr


def test_notice_as_iuv(database_url):
    """A notice number that is looked for as an IUV is named as what it is."""
    done = station(database_url, "receipts", "list", "--iuv", "3010 0000 0000 0000 17")
    assert "receipts list --notice 301000000000000017" in done.stderr
    assert "reconcile" not in done.stderr


def test_where_else(database_url):
    """Where no receipt has a notice number, the commands that look further are told, with its IUV."""
    done = station(database_url, "receipts", "list", "--notice", "3010 0000 0000 0000 17", "--ec", EC)
    assert (done.returncode, done.stdout) == (0, "")
    assert "station refused list --state all --notice 301000000000000017" in done.stderr
    assert f"station reconcile --iuv 01000000000000017 --ec {EC}" in done.stderr


@pytest.mark.parametrize(("ecs", "named"), [([EC], EC), ([EC, OTHER_EC], "EC"), ([], "EC")])
def test_where_else_without_ec(run_station, tmp_path, ecs, named):
    """The command that asks the API names the EC where only one is configured, and leaves the choice otherwise."""
    config = tmp_path / "station.toml"
    config.write_text("".join(f'[[ec]]\nid = "{ec}"\n' for ec in ecs))
    done = run_station("--config", str(config), "receipts", "list", "--notice", "301000000000000017")
    assert f"station reconcile --iuv 01000000000000017 --ec {named}\n" in done.stderr


@pytest.mark.parametrize(
    ("code", "remark"),
    [("PLLPNC80A01X00", "has 14 characters"), ("PLLPNC80A01X000X", None), ("77777777777", None), ("ANONIMO", None)],
)
def test_odd_fiscal_code(sqlite_url, code, remark):
    """A person's fiscal code of a length that none has is looked for all the same, and named where nothing is found."""
    done = station(sqlite_url, "receipts", "list", "--person", code)
    assert (done.returncode, done.stdout) == (0, "")
    assert (remark or "No receipt matches") in done.stderr
    assert ("characters" in done.stderr) == bool(remark)


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
        (["--paid-from", "yesterday"], "is not a time"),
        (["--received-from", "2026-07-02", "--received-to", "2026-07-01"], "before --received-from"),
        (["--amount", "1.234"], "is not an amount"),
        (["--after", "abc"], "not a cursor"),
        (["--ec", "7777777777"], "has 10 digits, an EC's fiscal code has 11"),
        (["--ec", "7777777777O"], "is not an EC's fiscal code"),
    ],
)
def test_usage(tmp_path, options, told):
    """What cannot be understood is a usage error that names it, before any database is asked."""
    done = station(f"sqlite:///{tmp_path}/none", "receipts", "list", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
