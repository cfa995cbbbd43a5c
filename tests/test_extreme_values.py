"""Values that the schema admits and no Nodo sends: whoever may send cannot make the commands stumble over a receipt."""

import json

import forked
import httpx
import psycopg
import pytest
from build import a_request, an_envelope
from process import environment

EXTREMES = {
    "first day": {"paymentDateTime": "0001-01-01T00:00:00Z", "applicationDate": "0001-01-01"},
    "last day": {"paymentDateTime": "9999-12-31T23:59:59.999999Z", "transferDate": "9999-12-31"},
    "before our era": {"paymentDateTime": "-0044-03-15T12:00:00Z", "applicationDate": "-0044-03-15"},
    "after all years": {"paymentDateTime": "99999-01-01T00:00:00Z", "transferDate": "99999-01-01"},
    "seconds without end": {"paymentDateTime": "2026-01-01T00:00:00." + "9" * 1000},
    "the greatest amounts": {"fee": "999999999.99", "primaryCiIncurredFee": "999999999.99"},
    "zeros without end": {"fee": "0" * 5000 + "1.00"},
    "zeros before a small number": {"transfers.0.idTransfer": "+" + "0" * 5000 + "1"},
    "letters of four bytes": {"description": "\U0010ffff" * 140, "debtor__fullName": "\U00010348" * 70},
    "what only looks like NUL": {"description": "\\x00 \\u0000 &#x0;", "metadata": {"\\u0000": "\\ud800"}},
    "longest id that is kept": {"receiptId": "é" * 512},
    "id that is too long for an index": {"receiptId": "\U00010348" * 5000},
    "id of one blank": {"receiptId": " "},
    "terminal escapes": {"receiptId": "\x9b31m\u202e", "officeName": "\x9b2J"},
}


@pytest.fixture
def stored(serve, database_url):
    """A database with one receipt of each kind, its server's clock far from UTC."""
    server = serve(database_url)
    with httpx.Client(timeout=60) as client:
        for name, values in EXTREMES.items():
            answer = client.post(
                server.url, content=an_envelope(a_request(**values)), headers={"Content-Type": "text/xml"}
            )
            assert b"<outcome>OK</outcome>" in answer.content, name
    server.stop()
    assert '"level": "error"' not in server.log
    return database_url


@pytest.mark.parametrize("zone", ["Pacific/Honolulu", "Europe/Rome"])
def test_every_command_reads_them(stored, tmp_path, zone):
    """Listed, exported, counted and read anew: no command stumbles, in whichever zone the database server lives."""
    if stored.startswith("postgresql"):
        with psycopg.connect(stored, autocommit=True) as owner:
            database = owner.info.dbname
            owner.execute(f"ALTER DATABASE \"{database}\" SET timezone = '{zone}'")
    try:
        printed = {
            arguments: run(stored, tmp_path, *arguments)
            for arguments in (
                ("receipts", "list"),
                ("receipts", "list", "--json"),
                ("receipts", "export", "--format", "jsonl", "-"),
                ("receipts", "export", "--format", "csv", "-"),
                ("receipts", "export", "all.parquet"),
                ("stats",),
                ("stats", "--json"),
                ("stats", "--html", "stats.html"),
                ("journal", "list"),
                ("replay", "--stored"),
            )
        }
    finally:
        if stored.startswith("postgresql"):
            with psycopg.connect(stored, autocommit=True) as owner:
                owner.execute(f'ALTER DATABASE "{database}" RESET timezone')
    listed = [json.loads(line) for line in printed["receipts", "list", "--json"].splitlines()]
    assert len(listed) == len(EXTREMES)
    exported = [json.loads(line) for line in printed["receipts", "export", "--format", "jsonl", "-"].splitlines()]
    times = {one["payment_date_time"] for one in exported}
    assert {"0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59.999999+00:00", None} <= times
    for arguments in (("receipts", "list"), ("stats",), ("journal", "list")):
        assert all(char.isprintable() or char == "\n" for char in printed[arguments])


def run(url, folder, *arguments):
    process = forked.station([*arguments], environment(url), folder)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (0, False), f"{arguments}: {err}"
    return out
