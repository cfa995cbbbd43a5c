"""`station stats`: what arrived, by which door, how late, and who is silent; as tables, JSON and a page."""

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import forked
import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from process import environment
from refusals import Door
from sqlalchemy import update

from station import statistics, store
from station.config import Settings
from station.receipt import Source
from station.statistics.charts import duration
from station.store import tables

SILENT_EC, UNSEEN_EC = "66666666666", "55555555555"
NAME = "Comune di <script>alert(1)</script> & C."
CONFIG = {
    "ec": [
        {"id": EC, "name": NAME},
        {"id": OTHER_EC},
        {"id": SILENT_EC, "name": "Comune muto"},
        {"id": UNSEEN_EC, "name": "Comune mai visto"},
    ]
}
TOML = "".join(f"[[ec]]\nid = {json.dumps(ec['id'])}\nname = {json.dumps(ec.get('name', ''))}\n" for ec in CONFIG["ec"])

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the day before the clocks change in Italy


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


def arrive(door, arrived, delay, *, ec=EC, source=Source.PUSH, amount="10.00"):
    """A receipt that arrived at a time, so long after its payment."""
    paid = {} if delay is None else {"paymentDateTime": f"{arrived - timedelta(seconds=delay):%Y-%m-%dT%H:%M:%SZ}"}
    request = a_request(idPA=ec, paymentAmount=amount, **paid)
    door.take(an_envelope(request), CONFIG, source)
    with store.transaction(door.engine) as connection:
        connection.execute(
            update(tables.receipt)
            .where(tables.receipt.c.receipt_id == request["receiptId"])
            .values({"received_at": arrived} | ({"payment_date_time": None} if delay is None else {}))
        )


def refuse(door, arrived, *, state="open"):
    """A request that was refused at a time."""
    refused_id = door.refuse(an_envelope(a_request()))
    with store.transaction(door.engine) as connection:
        connection.execute(
            update(tables.refused)
            .where(tables.refused.c.refused_id == refused_id)
            .values(received_at=arrived, last_at=arrived, state=state)
        )


@pytest.fixture
def some(door):
    """Three days around the change of the clocks."""
    for delay in (1, 2, 3, 4, 100):
        arrive(door, NOON, delay)
    arrive(door, NOON, 200_000, source=Source.RECONCILE, amount="90.50")
    arrive(door, datetime(2026, 3, 28, 22, 59, tzinfo=UTC), 7, ec=OTHER_EC)  # 23:59 in Italy, still winter time
    arrive(door, datetime(2026, 3, 29, 21, 59, tzinfo=UTC), 7, ec=OTHER_EC)  # 23:59 in Italy, already summer time
    arrive(door, datetime(2026, 3, 29, 22, 1, tzinfo=UTC), None, ec=OTHER_EC, source=Source.REPLAY)  # the next day
    arrive(door, NOON - timedelta(days=20), 5, ec=SILENT_EC)
    refuse(door, NOON)
    refuse(door, NOON, state="discarded")
    return door


def station(url, tmp_path, *arguments):
    (tmp_path / "station.toml").write_text(TOML)
    return forked.run(["stats", *arguments], environment(url), tmp_path)


def counted(door, **over):
    period = {"start": NOON - timedelta(hours=12), "end": NOON + timedelta(days=2), "now": NOON + timedelta(days=2)}
    return statistics.collect(door.engine, Settings.model_validate(CONFIG), **(period | over))


def test_days_are_italian(some):
    """A day ends at midnight in Italy, on the day when the clocks change too."""
    found = counted(some)
    by_day = {str(day): found.by_day[day].receipts for day in found.days}
    assert by_day == {"2026-03-28": 7, "2026-03-29": 1, "2026-03-30": 1}
    cells = {(str(day), ec): cell.receipts for (day, ec), cell in found.cells.items() if cell.receipts}
    assert cells == {("2026-03-28", EC): 6, ("2026-03-28", OTHER_EC): 1, ("2026-03-29", OTHER_EC): 1,
                     ("2026-03-30", OTHER_EC): 1}  # fmt: skip


def test_payment_days(some):
    """Receipts are counted by the Italian day of their payment too: late ones on the day they were paid, whenever they
    arrived; those that do not tell it on none."""
    late = datetime(2026, 4, 20, 12, tzinfo=UTC)
    arrive(some, late, (late - datetime(2026, 3, 29, 22, 30, tzinfo=UTC)).total_seconds(), amount="5.50")
    found = counted(some)
    paid = {str(day): (found.paid[day].receipts, str(found.paid[day].amount)) for day in found.days}
    assert paid == {"2026-03-28": (6, "60.00"), "2026-03-29": (1, "10.00"), "2026-03-30": (1, "5.50")}
    assert (found.paid_total.receipts, found.total.receipts) == (8, 9)
    told = json.loads(json.dumps(found.as_dict(), default=str))
    assert told["payment_days"][2] == {
        "day": "2026-03-30", "receipts": 1, "by_source": {"push": 1, "reconcile": 0, "replay": 0, "bizevents": 0},
        "amount": "5.50",
    }  # fmt: skip
    assert [(one["day"], one["id_pa"], one["receipts"]) for one in told["payment_days_and_ecs"]] == [
        ("2026-03-28", EC, 5), ("2026-03-28", OTHER_EC, 1), ("2026-03-29", OTHER_EC, 1), ("2026-03-30", EC, 1),
    ]  # fmt: skip
    assert counted(some, id_pas=[OTHER_EC]).paid_total.receipts == 2


def test_no_empty_rows(door, database_url, tmp_path):
    """Days on which nothing came have no line, and a single receipt is one; where nothing came at all, there is no
    table of days. The page says 1 receipt, too."""
    options = ("--from", "2026-03-01", "--to", "2026-03-31", "--detail")
    empty = station(database_url, tmp_path, *options)
    assert "arrived: 0 receipts, 0.00 euro; 0 requests refused, 0 still open\npaid: 0 receipts" in empty.stdout
    assert "day of" not in empty.stdout
    arrive(door, NOON, 86_400)
    done = station(database_url, tmp_path, *options)
    assert "arrived: 1 receipt, 10.00 euro; 0 requests refused" in done.stdout
    assert "paid: 1 receipt, 10.00 euro" in done.stdout
    assert re.findall(r"^ *(\d\d/\d\d/\d{4})", done.stdout, re.MULTILINE) == ["28/03/2026", "27/03/2026"] * 2
    assert station(database_url, tmp_path, *options, "--html", "page.html").returncode == 0
    text = (tmp_path / "page.html").read_text()
    assert "<b>1</b>receipt<small>" in text
    assert "27 Mar 2026: 1 receipt (" in text
    assert not re.search(r"\b1 receipts", text)


def test_doors_and_amounts(some):
    """Receipts are counted by the door they came by, with their share and amount; refusals by their state."""
    total = counted(some).as_dict()["total"]
    assert total["by_source"] == {"push": 7, "reconcile": 1, "replay": 1, "bizevents": 0}
    assert total["share"]["push"] == pytest.approx(7 / 9, abs=1e-4)
    assert str(total["amount"]) == "170.50"
    assert (total["refused"], total["refused_open"]) == (2, 1)
    found = counted(some, id_pas=[OTHER_EC])
    assert ([ec.id_pa for ec in found.ecs], found.total.receipts) == ([OTHER_EC], 3)


def test_delays(some):
    """Median and 95th percentile are delays that occurred, of those receipts that tell when they were paid."""
    found = counted(some)
    push = found.by_source["push"].as_dict()
    assert push == {"receipts": 7, "median_seconds": 4, "percentile_95_seconds": 100, "worst_seconds": 100}
    late = found.by_source["reconcile"].as_dict()
    assert (late["receipts"], late["worst_seconds"]) == (1, 200_000)
    assert found.by_source["replay"].as_dict()["median_seconds"] is None
    assert found.delay.percentile(0.5) == 4


def test_silence(some):
    """An EC is silent from its last push on; a configured one that never had any is silent, too; a stranger is not."""
    found = counted(some)
    assert [(ec.id_pa, ec.last_push) for ec in found.silences] == [
        (UNSEEN_EC, None),
        (SILENT_EC, NOON - timedelta(days=20)),
    ]
    assert [ec.id_pa for ec in counted(some, silent_after=timedelta(days=30)).silences] == [UNSEEN_EC]
    # Two days later EC, whose refused pushes are of the same day, is silent as well: what is refused is no receipt.
    later = counted(some, now=NOON + timedelta(days=4), silent_after=timedelta(days=3))
    assert EC in [ec.id_pa for ec in later.silences]
    assert next(ec for ec in later.ecs if ec.id_pa == EC).last_refused_push == NOON


PERIOD = ("--from", "2026-03-28", "--to", "2026-03-30")


def test_json(some, database_url, tmp_path):
    """`--json` has the sums, each EC, each day, and each day of each EC."""
    done = station(database_url, tmp_path, *PERIOD, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["total"]["receipts"] == 9
    assert found["from"] == "2026-03-27T23:00:00+00:00"
    assert found["to"] == "2026-03-30T22:00:00+00:00"
    assert [one["id_pa"] for one in found["ecs"]] == [EC, OTHER_EC, UNSEEN_EC, SILENT_EC]
    assert found["ecs"][0]["refused"] == 2
    assert sum(one["receipts"] for one in found["days_and_ecs"]) == sum(one["receipts"] for one in found["days"]) == 9
    assert all(one["silent"] for one in found["ecs"])  # it is long ago


def test_table(some, database_url, tmp_path):
    """Without options it is tables for people; `--detail` adds a line for each day and EC."""
    done = station(database_url, tmp_path, *PERIOD, "--detail")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "from 28/03/2026 00:00:00 to 31/03/2026 00:00:00 (Italy):\n"
        "arrived: 9 receipts, 170.50 euro; 2 requests refused, 1 still open\n"
        "paid: 7 receipts, 70.00 euro\n"
    )
    assert re.search(rf"29/03/2026 +{OTHER_EC} +1 +1 +0 +0 +100.0% ", done.stdout)
    assert re.search(rf"29/03/2026 +{OTHER_EC} +1 +1 +0 +0 +10.00", done.stdout)
    assert f"SILENT  EC {UNSEEN_EC} (Comune mai visto) has received no push yet" in done.stdout
    assert re.search(r"by push: median 4 s, 95 % within 1 min 40 s, worst 1 min 40 s", done.stdout)


def test_table_fits(some, database_url, tmp_path):
    """Without `--detail` the tables fit 80 columns, with an amount in millions too."""
    arrive(some, NOON, 99 * 86_400 + 86_000, amount="9876543.21")
    tables, _, _ = station(database_url, tmp_path, *PERIOD).stdout.partition("\nfrom payment to arrival")
    lines = tables.splitlines()
    assert re.search(rf"^{EC} +7 +85.7% +9,876,683.71 +2 +1 +99 days 23 h +28/03/2026$", tables, re.MULTILINE)
    assert [line for line in lines if len(line) > 80] == []


class Page(HTMLParser):
    """The elements of a page, and that each that was opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.seen, self.attributes, self._open = Counter(), [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.seen[tag] += 1
        self.attributes += attributes
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_page(some, database_url, tmp_path):
    """`--html` writes one page of charts that loads nothing, runs nothing, and holds names as text."""
    done = station(database_url, tmp_path, *PERIOD, "--html", "page.html")
    assert (done.returncode, done.stdout) == (0, "")
    text = (tmp_path / "page.html").read_text()
    page = Page(text)
    assert page.seen["svg"] > 3
    assert page.seen["rect"] > 10
    assert page.seen.keys().isdisjoint(
        {"script", "link", "img", "iframe", "object", "image", "use", "foreignObject", "a"}
    )
    assert not any(name.startswith("on") or name in ("src", "href", "xlink:href") for name, _ in page.attributes)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert "Comune di &lt;script&gt;" in text
    assert "prefers-color-scheme: dark" in text
    assert "NaN" not in text
    assert "None" not in re.sub(r"<p[^>]*>None\.</p>", "", text)


def test_page_of_nothing(database_url, tmp_path):
    """An empty installation has a page, and a year of days one, too."""
    done = station(
        database_url, tmp_path, "--from", "2025-01-01", "--to", "2026-12-31", "--html", "page.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["total"]["receipts"] == 0
    assert Page((tmp_path / "page.html").read_text()).seen["svg"] > 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--from", "2026-07-02", "--to", "2026-07-01"], "not after --from"),
        (["--from", "1900-01-01"], "ten years"),
        (["--from", "x"], "is not a time"),
    ],
)
def test_usage(tmp_path, options, told):
    """What cannot be understood is a usage error that names it."""
    done = station(f"sqlite:///{tmp_path}/none", tmp_path, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (3661, "1 h 1 min"), (90_000, "1 day 1 h"),
     (172_805, "2 days"), (-3, "−3 s")],
)  # fmt: skip
def test_duration(seconds, words):
    """A duration is told in its two greatest units."""
    assert duration(seconds) == words
