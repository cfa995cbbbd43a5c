"""The feed in this process: who gets what, in which order, and what is answered to all else."""

import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import feed
import httpx
import psycopg
import pytest
from biz_events import a_biz_event
from build import EC, OTHER_EC, a_request, a_transfer, an_envelope
from feed import KEYS, READERS, of
from openapi_spec_validator import validate
from sqlalchemy import delete, event, select, update

from station import config, contract, log, pdf, store
from station.api import app as feed_app
from station.api.app import FeedApp
from station.errors import ConfigError, MissingExtraError
from station.intake import Intake, Origin
from station.receipt import Source
from station.store import deliveries, tables
from station.store import readers as stored_readers
from station.store.rows import insert_rows

URL = "/api/v1/receipts"


@pytest.fixture
def engine(database_url, connect):
    return connect(database_url, pool_size=16)


@pytest.fixture
def a_feed():
    """Makes applications, and ends their threads before the engine is disposed of."""
    made = []

    def a_feed(engine, readers=READERS, **api):
        made.append(FeedApp(config.Settings.model_validate({"destination": readers, "api": api}), engine))
        return made[-1]

    yield a_feed
    for app in made:
        app.watcher.stop()
        app.watcher.thread.join(30)


@pytest.fixture
def app(engine, a_feed):
    return a_feed(engine)


@pytest.fixture
def client(app):
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://feed.invalid") as client:
        yield client


@pytest.fixture
def small(sqlite_url, connect, a_feed):
    """The application on SQLite, for what no database decides."""
    return a_feed(connect(sqlite_url))


def ids(items):
    return [(item["receipt"]["id_pa"], item["receipt"]["receipt_id"]) for item in items]


def is_problem(answer, status, code):
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    problem = answer.json()
    assert (problem["status"], problem["code"], problem["type"]) == (status, code, "about:blank")
    assert problem["title"]
    assert problem["detail"]
    return problem["detail"]


# --- the order --------------------------------------------------------------------------------------------------------


def test_pages(client, engine):
    """All receipts in order, each once, whatever the length of the pages; then nothing, and then what is new."""
    pushed = [feed.push(engine) for _ in range(7)]
    assert client.get(URL, headers=of("all")).json() == {"items": [], "next": 0, "more": False}  # no numbers yet
    feed.number(engine)
    for limit in (1, 3, 7, 1000):
        items, after = feed.read_on(client, "all", limit=limit)
        assert ids(items) == pushed
        assert [item["number"] for item in items] == list(range(1, 8))
        assert after == 7
    pushed.append(feed.push(engine))
    feed.number(engine)
    items, after = feed.read_on(client, "all", after)
    assert (ids(items), after) == (pushed[-1:], 8)
    assert feed.read_on(client, "all", after) == ([], 8)


def test_item(client, engine):
    """An item has the receipt as it is exported: amounts as text, times with their zone, transfers; no document."""
    feed.push(engine, paymentAmount="120.50", receiptId="abc123")
    feed.number(engine)
    [item] = client.get(URL, headers=of("all")).json()["items"]
    assert (item["number"], item["type"], item["revision"]) == (1, "receipt.stored", 1)
    assert item["id"].startswith("evt_")
    receipt = item["receipt"]
    assert (receipt["amount"], receipt["receipt_id"], receipt["id_pa"]) == ("120.50", "abc123", EC)
    assert datetime.fromisoformat(receipt["received_at"]).utcoffset() == timedelta(0)
    assert sum(float(one["amount"]) for one in receipt["transfers"]) == 120.5
    assert "raw" not in receipt


def test_late_commits(client, engine, database_url):
    """A push that commits late is behind all that were read before it: each comes once, numbers only grow."""
    outbox = tables.outbox
    pushed = [feed.push(engine) for _ in range(30)]
    with store.transaction(engine) as connection:
        rows = [dict(row) for row in connection.execute(select(outbox).order_by(outbox.c.at)).mappings()]
        connection.execute(delete(outbox))
    chance = random.Random(7)
    held_back, rest = rows[:5], rows[5:]
    chance.shuffle(rest)
    seen, after = [], 0
    late = []
    if database_url.startswith("postgresql"):
        late = [psycopg.connect(database_url) for _ in held_back]  # transactions that are begun, and not committed
        for connection, row in zip(late, held_back, strict=True):
            connection.execute("INSERT INTO outbox VALUES (%(at)s, %(id_pa)s, %(receipt_id)s, %(revision)s)", row)
    while rest:
        some, rest = rest[: chance.randint(1, 4)], rest[4:]
        with store.transaction(engine) as connection:
            insert_rows(connection, outbox, some)
        feed.number(engine)
        items, after = feed.read_on(client, "all", after, limit=2)
        seen += items
    assert seen
    if late:
        for connection in late:
            connection.commit()
            connection.close()
    else:
        with store.transaction(engine) as connection:
            insert_rows(connection, outbox, held_back)
    feed.number(engine)
    items, after = feed.read_on(client, "all", after)
    assert len(items) == 5
    numbers = [item["number"] for item in seen + items]
    assert numbers == sorted(set(numbers))
    assert set(ids(items)) == {(row["id_pa"], row["receipt_id"]) for row in held_back}
    assert set(ids(seen + items)) <= set(pushed)
    assert len(ids(seen + items)) == len(set(ids(seen + items)))


def test_completed(client, engine):
    """A receipt whose content became fuller comes again, under a later number and with another id."""
    feed.push(engine, receiptId="fuller")
    feed.number(engine)
    [first] = client.get(URL, headers=of("all")).json()["items"]
    with store.transaction(engine) as connection:
        key = {"id_pa": EC, "receipt_id": "fuller"}
        connection.execute(update(tables.receipt).filter_by(**key).values(revision=2))
        insert_rows(connection, tables.outbox, [key | {"at": datetime.now(UTC), "revision": 2}])
    feed.number(engine)
    items, _ = feed.read_on(client, "all", 1)
    assert [(one["number"], one["type"], one["revision"]) for one in items] == [(2, "receipt.completed", 2)]
    assert items[0]["id"] != first["id"]


def test_number_that_was_never_given(client, engine):
    """After a restored backup a reader may be ahead of the last number: it is told, and misses nothing silently."""
    feed.push(engine)
    feed.number(engine)
    assert client.get(URL, params={"after": 1}, headers=of("all")).status_code == 200
    answer = client.get(URL, params={"after": 2, "wait": 5}, headers=of("all"))
    assert "restored" in is_problem(answer, 409, "after_too_high")
    assert answer.json()["last"] == 1


def test_large_pages(client, engine, monkeypatch):
    """A page is cut at its size in bytes, between two items."""
    monkeypatch.setattr("station.api.receipts.PAGE_MAX", 5000)
    pushed = [feed.push(engine) for _ in range(9)]
    feed.number(engine)
    page = client.get(URL, headers=of("all")).json()
    assert 0 < len(page["items"]) < 9
    assert page["more"] is True
    assert ids(feed.read_on(client, "all")[0]) == pushed


# --- who gets what ----------------------------------------------------------------------------------------------------


@pytest.fixture
def receipts(engine):
    """Receipts of each kind, by name, with the readers that get them."""
    stamp = a_transfer(1, transferAmount="120.50", transferCategory="9/0301100TS/")
    pushed = {
        "own": (feed.push(engine), {"all", "ec", "tari", "own", "many"}),
        "of other": (feed.push(engine, idPA=OTHER_EC, fiscalCode=OTHER_EC), {"all", "other", "tari", "own"}),
        "copy": (feed.push(engine, idPA=OTHER_EC, fiscalCode=EC), {"all", "other", "tari"}),
        "copy of other": (feed.push(engine, fiscalCode=OTHER_EC), {"all", "ec", "tari", "many"}),
        "other category": (feed.push(engine, **{"transfers.0": stamp}), {"all", "ec", "own", "many"}),
        "foreign": (feed.push(engine, idPA="99999999999", fiscalCode="99999999999"), {"all", "tari"}),
    }
    feed.number(engine)
    return pushed


def test_nothing_leaks(client, receipts):
    """Each reader gets what is chosen for it, by each route; all else is 404, as if it were not there."""
    [nothing] = {client.get(f"{URL}/{EC}/none{suffix}", headers=of("all")).text for suffix in ("", ".xml", ".pdf")}
    for reader in KEYS:
        expected = [key for key, readers in receipts.values() if reader in readers]
        items, after = feed.read_on(client, reader, limit=2)
        assert ids(items) == expected, reader
        assert after == len(receipts)
        for name, ((id_pa, receipt_id), readers) in receipts.items():
            for suffix in ("", ".xml", ".pdf"):
                answer = client.get(f"{URL}/{id_pa}/{receipt_id}{suffix}", headers=of(reader))
                assert answer.status_code == (200 if reader in readers else 404), (reader, name, suffix)
                if answer.status_code == 404:
                    assert answer.text == nothing
                    head = client.head(f"{URL}/{id_pa}/{receipt_id}{suffix}", headers=of(reader))
                    assert (head.status_code, head.content) == (404, b"")


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, "key_missing"),
        ("", "key_missing"),
        ("Bearer", "key_missing"),
        ("Bearer ", "key_missing"),
        ("Basic c3ludGhldGlj", "key_missing"),
        (KEYS["all"], "key_missing"),
        ("Bearer wrong", "key_unknown"),
        (f"Bearer {KEYS['all']}x", "key_unknown"),
        (f"Bearer {feed.hash_of(KEYS['all'])}", "key_unknown"),
        (f"Bearer {'k' * 5000}", "key_unknown"),
        ("Bearer \xe8\xff", "key_unknown"),
    ],
    ids=lambda text: str(text)[:30],
)
@pytest.mark.parametrize("path", [URL, f"{URL}/{EC}/abc", f"{URL}/{EC}/abc.xml", f"{URL}/{EC}/abc.pdf"])
def test_without_a_key(small, authorization, code, path):
    """401, with the challenge, and not a word about what is there."""
    answer = ask(small, path, **({} if authorization is None else {"HTTP_AUTHORIZATION": authorization}))
    assert (answer["status"], answer["body"]["code"]) == (401, code)
    assert answer["headers"]["WWW-Authenticate"].startswith("Bearer ")


def ask(app, path, query="", method="GET", **environ):
    """One request as a server hands it to the application, also such as no client library sends."""
    told = {}
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query} | environ
    body = app(environ, lambda status, headers: told.update(status=int(status[:3]), headers=dict(headers)))
    text = b"".join(body)
    body.close()
    told["body"] = json.loads(text) if text and "json" in told["headers"]["Content-Type"] else text
    return told


def test_rotation(sqlite_url, connect, a_feed):
    """Two keys of a reader are good while one is replaced; a key is of one reader only."""
    reader = {"kind": "feed", "name": "a", "keys": [feed.hash_of("old"), feed.hash_of("new")]}
    app = a_feed(connect(sqlite_url), [reader])
    for key, status in (("old", 200), ("new", 200), ("older", 401)):
        assert ask(app, URL, HTTP_AUTHORIZATION=f"bearer  {key} ")["status"] == status
    with pytest.raises(ValueError, match="listed twice"):
        config.Settings.model_validate({"destination": [reader, reader | {"name": "b"}]})


def test_key_in_clear_is_refused(tmp_path):
    """A configuration holds hashes only; `start` is a reader's own business."""
    for line in ('keys = ["synthetic-key"]', f'keys = ["{feed.hash_of("k")}"]\nstart = "now"', "keys = []"):
        file = tmp_path / "station.toml"
        file.write_text(f'[[destination]]\nkind = "feed"\nname = "a"\n{line}\n')
        with pytest.raises(ConfigError):
            config.load(file, {})


# --- one receipt ------------------------------------------------------------------------------------------------------


def test_receipt(client, engine):
    """A receipt as JSON has its documents and its numbers; as XML it is what came, byte for byte."""
    request = a_request(receiptId="abc")
    raw = an_envelope(request, "iso-8859-1", comments=True)
    document = contract.parse(raw, "iso-8859-1")
    origin = Origin(Source.PUSH, "127.0.0.1", "r-1")
    Intake(engine, config.Settings()).accept(document, contract.request_element(document.root), origin)
    shown = client.get(f"{URL}/{EC}/abc", headers=of("ec")).json()
    assert shown["numbers"] == []
    feed.number(engine)
    shown = client.get(f"{URL}/{EC}/abc", headers=of("ec")).json()
    [item] = client.get(URL, headers=of("ec")).json()["items"]
    assert shown["receipt"] == item["receipt"]
    assert shown["numbers"] == [{name: value for name, value in item.items() if name != "receipt"}]
    [kept] = shown["documents"]
    assert (kept["number"], kept["size"], kept["fullest"]) == (1, len(raw), True)
    for path in (f"{URL}/{EC}/abc.xml", f"{URL}/{EC}/abc.xml?document=1"):
        answer = client.get(path, headers=of("ec"))
        assert answer.content == raw
        assert answer.headers["content-type"] == "application/xml; charset=iso-8859-1"
    is_problem(client.get(f"{URL}/{EC}/abc.xml?document=2", headers=of("ec")), 404, "not_found")


def test_provisional(client, engine):
    """A receipt that BizEvents told of says so, and has no XML; its document comes as a completion."""
    request = a_request(receiptId="abc")
    raw = a_biz_event(request)
    intake = Intake(engine, config.Settings())
    intake.accept_provisional(raw, contract.read_provisional(raw, EC), Origin(Source.BIZEVENTS))
    feed.number(engine)
    [item] = client.get(URL, headers=of("ec")).json()["items"]
    assert (item["receipt"]["flags"], item["receipt"]["source"]) == (["provisional"], "bizevents")
    for query in ("", "?document=1"):
        is_problem(client.get(f"{URL}/{EC}/abc.xml{query}", headers=of("ec")), 404, "no_document")
    feed.push(engine, receiptId="abc", noticeNumber=request["noticeNumber"])
    feed.number(engine)
    *_, item = client.get(URL, headers=of("ec")).json()["items"]
    assert (item["type"], item["revision"], item["receipt"]["flags"]) == ("receipt.completed", 2, [])
    assert client.get(f"{URL}/{EC}/abc.xml", headers=of("ec")).headers["content-type"].startswith("application/xml")
    is_problem(client.get(f"{URL}/{EC}/abc.xml?document=1", headers=of("ec")), 404, "no_document")


def test_printed_copy(client, engine, monkeypatch):
    """The PDF is the one that `receipts pdf` writes, a provisional or purged receipt's, too; without typst 501."""
    id_pa, receipt_id = feed.push(engine, receiptId="abc")
    answer = client.get(f"{URL}/{EC}/abc.pdf", headers=of("ec"))
    assert answer.headers["content-type"] == "application/pdf"
    with store.transaction(engine, readonly=True) as connection:
        found = store.find(connection, id_pa, receipt_id)
    assert answer.content == pdf.render(config.Settings(), found)
    with store.transaction(engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b"", raw_purged_at=datetime.now(UTC)))
    assert client.get(f"{URL}/{EC}/abc.pdf", headers=of("ec")).content.startswith(b"%PDF-")
    is_problem(client.get(f"{URL}/{EC}/abc.pdf?document=1", headers=of("ec")), 400, "unknown_parameter")

    def missing(*_args, **_named):
        raise MissingExtraError("A PDF", "pdf")

    monkeypatch.setattr(pdf, "render", missing)
    told = is_problem(client.get(f"{URL}/{EC}/abc.pdf", headers=of("ec")), 501, "pdf_not_installed")
    assert "pagopa-receipt-station[pdf]" in told
    is_problem(client.get(f"{URL}/{EC}/none.pdf", headers=of("ec")), 404, "not_found")


def test_conditional(client, engine):
    """HEAD has the headers of GET; a reader that has a body is answered 304."""
    key = "/".join(feed.push(engine))
    feed.number(engine)
    for path in (f"{URL}/{key}", f"{URL}/{key}.xml", f"{URL}/{key}.pdf", "/api/v1/openapi.json"):
        full = client.get(path, headers=of("all"))
        head = client.head(path, headers=of("all"))
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "cache-control", "x-content-type-options"):
            assert head.headers[name] == full.headers[name]
        assert (full.headers["cache-control"], full.headers["x-content-type-options"]) == ("no-store", "nosniff")
        for known in (full.headers["etag"], f'"other", W/{full.headers["etag"]}', "*"):
            again = client.get(path, headers=of("all") | {"If-None-Match": known})
            assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers=of("all") | {"If-None-Match": '"other"'}).status_code == 200
    assert client.head(URL, headers=of("all")).headers["content-length"] != "0"


def test_purged_document(client, engine):
    """410 for a document whose retention ended; the receipt's data stays."""
    key = "/".join(feed.push(engine))
    with store.transaction(engine) as connection:
        connection.execute(update(tables.receipt).values(raw=b"", raw_purged_at=datetime.now(UTC)))
    is_problem(client.get(f"{URL}/{key}.xml", headers=of("all")), 410, "document_purged")
    assert client.get(f"{URL}/{key}", headers=of("all")).json()["documents"][0]["size"] == 0


@pytest.mark.parametrize(
    "receipt_id",
    ["a/b", "/a", "a//b", "a/", "..", ".", "a%2Fb", "a%25", "a?b#c", "a b+c", "è€", "a.xml", "a.pdf", "a;b=c", "100%"],
)
def test_odd_receipt_ids(app, engine, receipt_id):
    """A receiptId may hold what a path does not: percent-encoded it finds its receipt."""
    feed.push(engine, receiptId=receipt_id)
    path = f"{URL}/{EC}/{receipt_id}".encode().decode("latin-1")  # as WSGI has a path, once it is decoded
    key = {"HTTP_AUTHORIZATION": f"Bearer {KEYS['all']}"}
    answer = ask(app, path, **key)
    if receipt_id.endswith((".xml", ".pdf")):
        assert answer["status"] == 404  # the document or copy of another receipt, by a rule that is documented
    else:
        assert answer["body"]["receipt"]["receipt_id"] == receipt_id
    for suffix, start in ((".xml", b"<?xml"), (".pdf", b"%PDF-")):
        answer = ask(app, f"{path}{suffix}", **key)
        assert answer["status"] == 200
        assert answer["body"].startswith(start)


# --- what is wrong with a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code", "told"),
    [
        ("affter=3", "unknown_parameter", "affter"),
        ("after=3&x=1&y=2", "unknown_parameter", "x, y"),
        ("%00%1b%5b31m=1", "unknown_parameter", "\\x00\\x1b[31m"),
        ("after=1&after=2", "invalid_parameter", "after"),
        *(
            (f"{name}={value}", "invalid_parameter", name)
            for name in ("after", "limit", "wait")
            for value in ("", "-1", "x", "1.5", "1e3", "%D9%A1", "9" * 5000, "%ff", "+1", "0x1")
        ),
        ("limit=0", "invalid_parameter", "limit"),
        ("limit=1001", "invalid_parameter", "limit"),
        ("wait=61", "invalid_parameter", "wait"),
        ("&".join(f"a{number}=1" for number in range(30)), "invalid_parameter", "too many"),
    ],
    ids=lambda text: text[:24],
)
def test_parameters(small, query, code, told):
    """A wrong parameter is named, and never the value that stood in it."""
    answer = ask(small, URL, query, HTTP_AUTHORIZATION=f"Bearer {KEYS['all']}")
    assert (answer["status"], answer["body"]["code"]) == (400, code)
    assert told in answer["body"]["detail"]
    assert len(answer["body"]["detail"]) < 300


@pytest.mark.parametrize(
    ("path", "method", "environ", "status", "code"),
    [
        ("/", "GET", {}, 404, "not_found"),
        ("", "GET", {}, 404, "not_found"),
        ("*", "GET", {}, 404, "not_found"),
        ("/api/v1", "GET", {}, 404, "not_found"),
        ("/api/v1/receipts/", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/.xml", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/.pdf", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/a\0b", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/\xff\xfe", "GET", {}, 404, "not_found"),
        (f"/api/v1/receipts/{EC}/" + "x" * 9000, "GET", {}, 404, "not_found"),
        ("/api/v1/receipts/../receipts", "GET", {}, 404, "not_found"),
        ("/metrics", "GET", {}, 404, "not_found"),
        (URL, "POST", {}, 405, "method_not_allowed"),
        (URL, "OPTIONS", {}, 405, "method_not_allowed"),
        (URL, "DELETE", {}, 405, "method_not_allowed"),
        ("/nowhere", "PROPFIND", {}, 405, "method_not_allowed"),
        (URL, "GET", {"CONTENT_LENGTH": "5"}, 400, "body_not_allowed"),
        (URL, "GET", {"HTTP_TRANSFER_ENCODING": "chunked"}, 400, "body_not_allowed"),
        ("/live", "GET", {"QUERY_STRING": "a=1"}, 400, "unknown_parameter"),
        (f"/api/v1/receipts/{EC}/a", "GET", {"QUERY_STRING": "document=1"}, 400, "unknown_parameter"),
        (f"/api/v1/receipts/{EC}/a.xml", "GET", {"QUERY_STRING": "document=0"}, 400, "invalid_parameter"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_no_such_thing(small, path, method, environ, status, code):
    """Every error is a problem, whatever was asked for."""
    answer = ask(small, path, method=method, **{"HTTP_AUTHORIZATION": f"Bearer {KEYS['all']}"} | environ)
    assert (answer["status"], answer["body"]["code"]) == (status, code)
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    assert answer["headers"]["Cache-Control"] == "no-store"
    assert ("Allow" in answer["headers"]) is (status == 405)


def test_database_away(connect, a_feed):
    """503 with Retry-After; /live answers, /ready does not. Nothing tells where the database is."""
    app = a_feed(connect("postgresql://nobody:synthetic@127.0.0.1:9/none"))
    for path in (URL, f"{URL}/{EC}/a", f"{URL}/{EC}/a.xml", "/ready"):
        answer = ask(app, path, HTTP_AUTHORIZATION=f"Bearer {KEYS['all']}")
        assert (answer["status"], answer["body"]["code"]) == (503, "database_unavailable")
        assert answer["headers"]["Retry-After"]
        assert "127.0.0.1" not in answer["body"]["detail"]
    assert ask(app, "/live")["status"] == 200


def test_defect(small, monkeypatch, capsys):
    """A defect is a 500 without a trace of itself outside, and is in the log."""
    log.configure("json", "info")

    def fail(*_given, **_named):
        raise KeyError("/secret/path")

    monkeypatch.setattr(feed_app, "page", fail)
    answer = ask(small, URL, HTTP_AUTHORIZATION=f"Bearer {KEYS['all']}")
    assert (answer["status"], answer["body"]["code"]) == (500, "internal_error")
    assert "secret" not in json.dumps(answer["body"])
    assert "KeyError" in capsys.readouterr().err


def test_log(small, capsys):
    """A line for each answer: who, status, how many, how long. No key is in it."""
    log.configure("json", "info")
    ask(small, URL, "limit=5", HTTP_AUTHORIZATION=f"Bearer {KEYS['all']}")
    ask(small, URL, HTTP_AUTHORIZATION="Bearer wrong-synthetic-key")
    ask(small, "/live")
    written = capsys.readouterr().err
    good, bad = [json.loads(line) for line in written.splitlines() if "feed_answered" in line]
    assert (good["reader"], good["status"], good["items"], good["route"]) == ("all", 200, 0, "receipts")
    assert good["duration_ms"] >= 0
    assert (bad["status"], bad["code"], "reader" in bad) == (401, "key_unknown", False)
    assert "synthetic-key" not in written


# --- waiting ----------------------------------------------------------------------------------------------------------


def waiting(app, count):
    """Wait until so many readers wait."""
    deadline = time.monotonic() + 30
    while len(app.watcher._waiting) != count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_waiting(app, client, engine):
    """A reader that waits has what is new; one that gets none of it waits on, and then goes on behind it."""
    with ThreadPoolExecutor(2) as pool:
        mine = pool.submit(feed.read_on, client, "ec", wait=60)
        waiting(app, 1)
        other = pool.submit(feed.read_on, client, "other", wait=3)
        waiting(app, 2)
        pushed = feed.push(engine)
        feed.number(engine)
        items, after = mine.result(60)
        assert (ids(items), after) == ([pushed], 1)
        assert other.result(60) == ([], 1)


def test_waiting_for_what_came_meanwhile(app, client, engine):
    """What is numbered between a reader's look and its wait is not missed."""
    found = app.watcher
    for number in range(3):
        pushed = feed.push(engine)
        feed.number(engine)
        if number == 1:
            assert found.wait((), 0, 30) is None  # another reader's wait may have passed it already
        items, after = feed.read_on(client, "all", number, wait=60)
        assert (ids(items), after) == ([pushed], number + 1)


def test_another_waits_while_numbers_are_looked_for(app, client, engine, monkeypatch):
    """The watcher read for one reader; another one, which saw less, waits when it is done: it misses nothing."""
    watcher = app.watcher
    pushed = feed.push(engine)
    feed.push(engine, idPA=OTHER_EC, fiscalCode=OTHER_EC)
    feed.number(engine)
    watcher._last = 1  # the reader that waited had seen the first
    results = []

    def meanwhile(connection, after, last):
        found = stored_readers.ecs_between(connection, after, last)
        thread = threading.Thread(target=lambda: results.append(watcher.wait((EC,), 0, 60)))
        thread.start()
        waiting(app, 1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr("station.api.watcher.ecs_between", meanwhile)
        watcher._look()
    deadline = time.monotonic() + 30
    while not results:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert results == [None]
    assert ids(feed.read_on(client, "ec")[0]) == [pushed]


def test_too_many_wait(engine, a_feed):
    """One reader more than may wait is told so at once; so is one with too many requests of its own."""
    app = a_feed(engine, max_waiting=1)
    key = {name: {"HTTP_AUTHORIZATION": f"Bearer {KEYS[name]}"} for name in ("all", "ec")}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, app, URL, "wait=60", **key["all"])
        waiting(app, 1)
        answer = ask(app, URL, "wait=60", **key["ec"])
        assert (answer["status"], answer["body"]["code"]) == (503, "too_many_waiting")
        assert answer["headers"]["Retry-After"]
        assert ask(app, URL, **key["ec"])["status"] == 200
        app._of_reader["ec"] = feed_app.RUNNING_OF_READER
        assert ask(app, URL, **key["ec"])["body"]["code"] == "too_many_requests"
        app.watcher.stop()
        assert first.result(60)["body"] == {"items": [], "next": 0, "more": False}


def test_answers_that_are_not_read(small):
    """What is held for an answer is given back when it is closed, sent or not."""
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": URL, "HTTP_AUTHORIZATION": f"Bearer {KEYS['all']}"}
    body = small(environ, lambda *_given: None)
    assert small._of_reader["all"] == 1
    assert small._sending > 0
    body.close()
    assert (small._of_reader["all"], small._sending) == (0, 0)
    small._sending = feed_app.SENDING_MAX
    assert ask(small, URL, HTTP_AUTHORIZATION=f"Bearer {KEYS['all']}")["body"]["code"] == "overloaded"


def test_hundreds_wait(app, client, engine):
    """Hundreds of readers that wait ask the database as often as one."""
    counted = []
    wakes = [threading.Thread(target=app.watcher.wait, args=((EC,), 0, 60), daemon=True) for _ in range(200)]
    for one in wakes:
        one.start()
    waiting(app, 200)
    event.listen(engine, "before_cursor_execute", lambda *_given: counted.append(1))
    time.sleep(1)
    assert len(counted) < 30
    feed.push(engine)
    feed.number(engine)
    for one in wakes:
        one.join(30)
    assert not any(one.is_alive() for one in wakes)


def test_reader_is_recorded(app, client, engine, monkeypatch):
    """How far a reader has come is in its row, and never goes back."""
    monkeypatch.setattr("station.api.watcher._RECORD_S", 0.0)

    def row():
        with store.transaction(engine, readonly=True) as connection:
            return connection.execute(select(tables.destination)).one_or_none()

    def until(position):
        deadline = time.monotonic() + 30
        while (found := row()) is None or found.position != position or app.watcher._reads:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        return found

    for _ in range(3):
        feed.push(engine)
    feed.number(engine)
    client.get(URL, params={"after": 2}, headers=of("ec"))
    first = until(2)
    assert (first.name, first.kind, first.state, first.failures) == ("ec", "feed", "active", 0)
    client.get(URL, params={"after": 0}, headers=of("ec"))
    time.sleep(0.6)
    again = until(2)
    assert again.last_success_at > first.last_success_at
    assert again.first_at == first.first_at


def test_name_of_another_kind(engine):
    """A reader whose name was a webhook's does not move that one's place."""
    with store.transaction(engine) as connection:
        deliveries.register(connection, "erp", "webhook", position=7, at=datetime.now(UTC))
        stored_readers.record_reads(connection, {"erp": stored_readers.Read(5000, datetime.now(UTC))})
        row = deliveries.destinations(connection)["erp"]
    assert (row.kind, row.position) == ("webhook", 7)


# --- OpenAPI ----------------------------------------------------------------------------------------------------------


def test_openapi(client, engine):
    """The document is OpenAPI 3.1, is served to all, and has each property that an answer has."""
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    validate(document)
    key = "/".join(feed.push(engine))
    feed.number(engine)
    schemas = document["components"]["schemas"]

    def has(name, value):
        assert set(schemas[name]["properties"]) == set(value), name

    page = client.get(URL, headers=of("all")).json()
    view = client.get(f"{URL}/{key}", headers=of("all")).json()
    has("Page", page)
    has("Item", page["items"][0])
    has("Receipt", page["items"][0]["receipt"])
    has("Transfer", page["items"][0]["receipt"]["transfers"][0])
    has("ReceiptView", view)
    has("Document", view["documents"][0])
    has("Event", view["numbers"][0])
