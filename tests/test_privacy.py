"""Marked personal data goes in everywhere, and comes out nowhere that it is not asked for in so many words.

Every personal field of every receipt here holds the mark. It is looked for in the log, in answers, in the metrics, in
the journal, in what commands print, and in every column of the database but those that keep documents.
"""

import http.client
import json
import socket

import click
import forked
import pytest
from build import a_request, an_envelope
from gpd_simulator import GpdSimulator
from process import environment, free_port
from receiver import SECRET, Receiver, endless

from station import store
from station.cli import cli
from station.store import tables

MARK = "zzmark"
PERSONAL = {
    "description": f"{MARK} multa per eccesso di velocita",
    "debtor__fullName": f"{MARK} Rossi",
    "debtor__uniqueIdentifier__entityUniqueIdentifierValue": f"{MARK}80A01H501X"[:16],
    "debtor__streetName": f"Via {MARK}",
    "debtor__civicNumber": MARK,
    "debtor__city": MARK,
    "debtor__e-mail": f"{MARK}@{MARK}.invalid",
    "payer__fullName": f"{MARK} Bianchi",
    "payer__uniqueIdentifier__entityUniqueIdentifierValue": f"{MARK}80A41H501X"[:16],
    "payer__e-mail": f"{MARK}@{MARK}.invalid",
    "paymentNote": MARK,
    "transfers.0.remittanceInformation": f"/RFB/1/TXT/{MARK}",
    "metadata": {"NOTIFICATION_FEE": MARK},
}
# What keeps documents and their fields, so that somebody who may can ask for them.
KEEPS = {
    "receipt": {"raw", "description", "debtor_name", "debtor_id", "payer_name", "payer_id", "payment_note", "metadata"},
    "transfer": {"remittance_information", "metadata", "iban"},
    "receipt_document": {"raw"},
    "refused": {"raw"},
    "console_access": {"subject"},
}


def marked(**over):
    return a_request(**(PERSONAL | over))


# Each of these is refused or rejected, for a reason that a careless message would quote.
BROKEN = {
    "amount": {"paymentAmount": MARK},
    "too long": {"debtor__fullName": MARK * 100},
    "e-mail": {"debtor__e-mail": f"{MARK} at home"},
    "code": {"debtor__uniqueIdentifier__entityUniqueIdentifierValue": MARK * 10},
    "category": {"transfers.0.transferAmount": MARK},
    "date": {"applicationDate": MARK},
    "boolean": {"standIn": MARK},
    "outcome": {"outcome": MARK},
    "IBAN": {"transfers.0.IBAN": MARK * 20},
    "version": {"transfers.0.idTransfer": MARK},
}


def without_mark(text, where):
    position = text.lower().find(MARK)
    assert position < 0, f"{where}: {text[max(0, position - 200) : position + 100]}"


class Station:
    def __init__(self, server, url, folder, health):
        self.server, self.url, self.folder, self.health = server, url, folder, health
        self.ran = []

    def post(self, body, path="/paForNode", method="POST", **headers):
        """Status and text of the answer, in which nothing may be found."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"Content-Type": "text/xml"} | names)
        answer = connection.getresponse()
        text = f"{answer.getheaders()}{answer.read().decode()}"
        connection.close()
        without_mark(text, "answer")
        return answer.status, text

    def raw(self, data):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
        without_mark(b"".join(parts).decode(), "answer")

    def run(self, *arguments, config="", shows=False, codes=(0, 1)):
        """Runs a command; only with `shows` may it print personal data, and then not in its log."""
        (self.folder / "station.toml").write_text(config)
        self.ran.append(arguments)
        command = ["--config", str(self.folder / "station.toml"), *arguments]
        process = forked.station(command, environment(self.url), self.folder)
        out, err = process.communicate(timeout=120)
        assert process.returncode in codes, f"{arguments}: {out}{err}"
        without_mark(err, f"{arguments} on standard error")
        if not shows:
            without_mark(out, f"{arguments}")
        return out

    def search_database(self):
        """No column but those that keep documents holds it."""
        engine = store.connect(self.url)
        with engine.connect() as connection:
            found = {
                one.name: connection.execute(one.select()).mappings().all() for one in tables.metadata.sorted_tables
            }
        engine.dispose()
        for table, rows in found.items():
            for row in rows:
                for name, value in row.items():
                    if name not in KEEPS.get(table, set()):
                        without_mark(str(value), f"{table}.{name}")


@pytest.fixture
def station(serve, database_url, tmp_path):
    health = free_port()
    server = serve(database_url, STATION_SERVER_HEALTH_LISTEN=f"127.0.0.1:{health}")
    yield Station(server, database_url, tmp_path, health)
    without_mark(server.log, "log of the server")


def test_mark_is_in_the_documents():
    """The mark stands in each personal field, or there would be nothing to find."""
    assert an_envelope(marked()).lower().count(MARK.encode()) >= len(PERSONAL)


def test_nowhere(station):
    """Requests of every result, and every command over what they left."""
    request = marked()
    raw = an_envelope(request)
    assert "<outcome>OK" in station.post(raw)[1]
    assert "<outcome>OK" in station.post(raw)[1]
    assert "<outcome>KO" in station.post(an_envelope(request.but(description=f"{MARK} other")))[1]
    for over in BROKEN.values():
        assert "<outcome>KO" in station.post(an_envelope(marked(**over)))[1]
    for broken in (
        raw[:-10],
        raw.replace(b"</description>", b"</" + MARK.encode() + b">"),
        raw.replace(b"<description>", b"<description>&" + MARK.encode() + b";"),
        b"<!DOCTYPE " + MARK.encode() + b">" + raw,
        f"<{MARK}>{MARK}</{MARK}>".encode(),
        f'<a xmlns="{MARK}"/>'.encode(),
        MARK.encode(),
        raw.replace(b"http://schemas.xmlsoap.org", MARK.encode()),
        raw.replace(b"paSendRTV2Request", MARK.encode()),
    ):
        assert station.post(broken)[0] in (400, 500)
    # Names of elements are no secret, what stands in them is.
    element = f"<newField attribute='{MARK}'>{MARK}</newField></receipt>".encode()
    assert station.post(raw.replace(b"</receipt>", element))[0] == 200
    assert station.post(raw.replace(b"</receipt>", f"{MARK}</receipt>".encode()))[0] == 200
    # A rejected request's path and media type are logged, its query is not.
    station.post(raw, path=f"/nowhere?{MARK}")
    station.post(raw, SOAPAction=MARK, X_Forwarded_For=MARK, Host=MARK, Cookie=MARK, Authorization=MARK)
    station.post(raw, Content_Type=f"text/plain; charset={MARK}")
    station.post(raw, Client_Cert=MARK)
    # The body is taken for the next request's head, where a length is wrong.
    for length in (10, 300, 1_000, 2_000):
        station.raw(b"POST /paForNode HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + raw)
    station.raw(b"POST /paForNode HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + raw)
    station.raw(raw)
    station.raw(f"GET /nowhere?{MARK} {MARK}\r\n{MARK}: {MARK}\r\n\r\n".encode())
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        for path in ("/paForNode", "/paForNode?wsdl", "/paForNode?xsd=paForNode.xsd", f"/paForNode?wsdl={MARK}"):
            station.post(raw if method == "PUT" else None, path=path, method=method, X_Request_Id=f"{MARK} {MARK}")
    for path in ("/metrics", "/ready", "/live", f"/metrics?{MARK}"):
        connection = http.client.HTTPConnection("127.0.0.1", station.health, timeout=60)
        connection.request("GET", path, headers={MARK: MARK})
        without_mark(connection.getresponse().read().decode(), path)
        connection.close()
    station.search_database()
    commands(station, request["receiptId"])
    station.search_database()


def commands(station, receipt_id):
    (station.folder / "again.xml").write_bytes(an_envelope(marked(paymentAmount=MARK)))
    (station.folder / "other.xml").write_bytes(an_envelope(marked()))
    kept = [json.loads(line) for line in station.run("refused", "list", "--json").splitlines()]
    for arguments in (
        ("check",),
        ("migrate",),
        ("refused", "list"),
        ("stats",),
        ("stats", "--json"),
        ("stats", "--html", str(station.folder / "stats.html")),
        ("journal", "list"),
        ("journal", "list", "--json"),
        ("journal", "export", "-"),
        ("refused", "list", "--json"),
        ("receipts", "stamps", str(station.folder / "stamps")),
        ("grants", "station_app"),
        ("replay", "--refused", "--dry-run"),
        ("replay", "--refused"),
        ("replay", "--stored"),
        ("replay", "--file", str(station.folder / "again.xml"), str(station.folder / "other.xml")),
        ("replay", "--file", str(station.folder / "again.xml"), "--json"),
        ("purge", "--raw-months", "1", "--dry-run"),
        ("purge", "--raw-months", "1", "--personal-months", "1", "--refused-months", "1", "--journal-months", "24"),
    ):
        station.run(*arguments)
    for file in (station.folder / "stats.html", station.folder / "stamps" / "manifest.csv"):
        without_mark(file.read_text(), file.name)
    # The broken value stands in a personal field here; in others, as an amount, it is shown to whoever mends it.
    personal = [one for one in kept if "/debtor/" in one["reason"] or "IBAN" in one["reason"]]
    assert len(personal) >= 3
    for one in personal:
        station.run("refused", "show", one["refused_id"])
    for arguments in (("acknowledge",), ("list",), ("missing",), ("uncredited", "--json"), ("show", "/URI/2026-11-10")):
        station.run("fdr", *arguments)
    station.run("refused", "discard", kept[0]["refused_id"], "--reason", "not ours")
    # These are asked for what they show; their logs are not. The list names the debtor by fiscal code.
    station.run("receipts", "list", shows=True)
    for arguments in (("--xml",), (), ("--json",)):
        station.run("receipts", "show", receipt_id, *arguments, shows=True)
    assert MARK in station.run("receipts", "export", "-", shows=True).lower()
    station.run("receipts", "pdf", receipt_id, "--folder", str(station.folder / "pdf"))
    for name in ("add", "password", "disable", "enable", "unlock", "remove"):
        station.run("console", "user", name, "anna")  # with no password at all
    station.run("console", "user", "list")
    deliver(station, receipt_id)
    missed = {one for one in leaves(cli) if not any(ran[: len(one)] == one for ran in station.ran)}
    # The server is the one that all of this is sent to; the next test reconciles; the demo makes up its own receipts;
    # tests/test_feed.py looks at the log of the feed.
    assert missed == {("serve",), ("reconcile",), ("demo",), ("api",)}


def deliver(station, receipt_id):
    """What is delivered is the receiver's alone, and its answers are repeated nowhere."""
    garbage = endless(f"{MARK} {MARK}\r\n\r\n".encode(), b"", 5)
    answers = {"/well": 204, "/refuses": (500, {"X-Said": MARK}), "/garbage": garbage}
    with Receiver() as receiver:
        receiver.answer = lambda got: answers[got.path]
        config = "".join(
            f"""[[destination]]\nname = "{path[1:]}"\nkind = "webhook"\nstart = "beginning"\nsecret = "{SECRET}"
            url = "{receiver.url.replace("/hook", path)}"\ntimeout = 2\n"""
            for path in answers
        )
        station.run("deliver", "--once", config=config, codes=(1,))
        assert {got.path for got in receiver.all if MARK in got.body.decode().lower()} == set(answers)
        for arguments in (
            ("status",), ("status", "--json"), ("list", "refuses"), ("list", "refuses", "--json"), ("show", receipt_id),
            ("again", "well", "--from", "1"), ("pause", "well", "--reason", "x"), ("resume", "well"), ("test", "well"),
            ("skip", "refuses", "--from", "1", "--reason", "x"), ("secret",), ("key",),
        ):  # fmt: skip
            station.run("deliveries", *arguments, config=config)


def leaves(group, path=()):
    """The words of every command there is."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield *path, name


def test_reconcile(station, tmp_path):
    """What is fetched from the GPD API leaves no trace of persons either."""
    with GpdSimulator.start(tmp_path) as gpd:
        gpd.load(generate={"org": "77777777777", "count": 3, "from": "2026-10-01", "to": "2026-10-20"})
        config = f'[gpd]\nurl = "{gpd.receipts_url}"\nkey = "receipts-key"\nrate = 10000\nstart = "2026-10-01"\n'
        config += '[[ec]]\nid = "77777777777"\n'
        station.run("reconcile", config=config, codes=(0,))
        out = station.run("receipts", "list", "--json", shows=True)
        names = {json.loads(line).get("debtor_name") for line in out.splitlines()} - {None}
        printed = station.run("reconcile", "--status", config=config) + station.run("reconcile", config=config)
        for file in tmp_path.glob("station-*.err"):
            printed += file.read_text()
        assert len(out.splitlines()) == 3
        assert all(name not in printed for name in names)


def test_secrets(station):
    """Keys and passwords are masked wherever the configuration is shown or found wrong, from files too."""
    secret = station.folder / "secret"
    secret.write_text("sesame-open\n")
    for variables in (
        {"STATION_GPD_KEY": "sesame-open"},
        {"STATION_GPD_KEY_FILE": str(secret)},
        {"STATION_DATABASE_URL": "postgresql://station:sesame-open@127.0.0.1:9/station"},
        {"STATION_DATABASE_URL": "postgresql://127.0.0.1:9/station?user=u&password=sesame-open&sslpassword=sesame-too"},
        {"STATION_GPD_URL": "https://u:sesame-open@gpd.example.invalid/v1"},
        {"STATION_SERVER_PUBLIC_URL": "https://u:sesame-open@pagopa.example.invalid/paForNode"},
        {"STATION_GPD_PROXY": "http://user:sesame-open@proxy.example:8080"},
        {"STATION_GPD_PROXY": "sesame-open"},
        {"STATION_GPD_KEY": "sesame-open with blanks"},
    ):
        process = forked.station(["check"], environment(station.url) | variables, station.folder)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in out + err
        assert "sesame" not in out + err, variables
