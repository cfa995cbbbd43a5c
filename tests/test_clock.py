"""The clock is set while a receipt is worked on, or was wrong when something was written down."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from build import EC, a_request, an_envelope
from prometheus_client.parser import text_string_to_metric_families
from refusals import OURS, Door
from sqlalchemy import text, update

from station import config, contract, intake, purge, statistics, store
from station.config import Retention, Settings
from station.errors import ClockError
from station.http import metrics
from station.intake import Intake, Origin, Result
from station.receipt import Source
from station.reconcile import Order, reconcile, run
from station.store import tables
from station.store.purge import Part

NOW = datetime.now(UTC)
AHEAD = NOW + timedelta(days=365)
OLD = NOW - timedelta(days=200)


def clock_at(moment):
    """A `datetime` whose `now` is this moment."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment.astimezone(tz)

    return Clock


@pytest.fixture
def door(database_url):
    engine = store.connect(database_url)
    yield Door(engine)
    engine.dispose()


@pytest.mark.parametrize("days", [-40, 40, 4000])
def test_set(database_url, monkeypatch, days, connect):
    """Whatever the journal then says of the time it took, the receipt is stored."""
    engine = connect(database_url)
    shifted = datetime.now(UTC) - timedelta(days=days)
    monkeypatch.setattr(intake, "datetime", clock_at(shifted))  # when it arrived; the journal looks at it afterwards
    document = contract.parse(an_envelope(a_request()), None)
    outcome = Intake(engine, config.Settings()).accept(
        document, contract.request_element(document.root), Origin(Source.PUSH)
    )
    assert outcome.result is Result.STORED


def date_everything(door, moment):
    """As if all that is stored had come then."""
    with store.transaction(door.engine) as connection:
        for table, column in (
            (tables.receipt, "received_at"), (tables.refused, "received_at"), (tables.refused, "last_at"),
            (tables.journal, "at"),
        ):  # fmt: skip
            connection.execute(update(table).values({column: moment}))


# --- purge ------------------------------------------------------------------------------------------------------------


def purged(door, **options):
    return sum(one.count for one in purge.purge(door.engine, Retention(personal_months=12), **options))


def test_purge_by_a_clock_that_is_ahead(door, monkeypatch):
    """Nothing is purged where the clock is not the database's or nothing was written down for long."""
    door.take(an_envelope(a_request()))
    monkeypatch.setattr(purge, "datetime", clock_at(AHEAD + timedelta(days=40)))
    for dry_run in (True, False):
        with pytest.raises(ClockError, match="--trust-clock"):
            purged(door, dry_run=dry_run)
    assert door.rows(tables.receipt)[0]["raw"]
    assert purged(door, trust_clock=True) == 1


def test_purge_where_nothing_came_for_long(door):
    """The same by the newest entry alone, which is all that SQLite has; an empty database says nothing."""
    assert purged(door) == 0
    door.take(an_envelope(a_request()))
    date_everything(door, NOW - timedelta(days=500))
    with pytest.raises(ClockError, match="newest entry"):
        purged(door)
    door.take(an_envelope(a_request()))
    assert purged(door) == 1


def test_purge_after_one_by_a_clock_that_was_ahead(door):
    """What arrived before the place where that one ended is purged when its time comes."""
    door.take(an_envelope(a_request()))
    door.take(an_envelope(a_request()))
    date_everything(door, NOW - timedelta(days=500))
    door.take(an_envelope(a_request()))
    with store.transaction(door.engine) as connection:
        connection.execute(
            tables.purge_progress.insert().values(part=Part.PERSONAL, received_at=AHEAD, id_pa=EC, receipt_id="r")
        )
    assert purged(door) == 2
    assert purged(door) == 0
    [place] = door.rows(tables.purge_progress)
    assert place["received_at"] < NOW


def test_purge_says_what_lies_in_the_future(door, run_station):
    """It is kept for longer than configured, and the log says so."""
    door.take(an_envelope(a_request()))
    date_everything(door, AHEAD)
    ran = run_station("purge", "--personal-months", "12")
    assert (ran.returncode, "entries_in_future" in ran.stderr) == (0, True)


# --- reconcile --------------------------------------------------------------------------------------------------------


def test_reconcile_by_a_clock_that_is_not_the_databases(postgres_url, monkeypatch, connect):
    """It does nothing: its times would be watermarks."""
    engine = connect(postgres_url)
    settings = Settings.model_validate({"ec": [{"id": EC}], "gpd": {"key": "k", "url": "http://127.0.0.1:9/"}})
    monkeypatch.setattr(run, "datetime", clock_at(AHEAD))
    with pytest.raises(ClockError, match="and the database's"):
        reconcile(settings, engine, Order())
    with store.transaction(engine, readonly=True) as connection:
        assert connection.execute(text("SELECT count(*) FROM reconcile_run")).scalar() == 0


# --- what is counted and listed ---------------------------------------------------------------------------------------


def test_what_came_in_the_future_hides_no_silence(door):
    """Neither the statistics nor the metrics take it for the last push, or a complete walk for one of these days."""
    settings = Settings.model_validate(OURS)
    old, new = a_request(), a_request()
    door.take(an_envelope(old))
    date_everything(door, OLD)
    door.take(an_envelope(new))
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.receipt).filter_by(receipt_id=new["receiptId"]).values(received_at=AHEAD))
        store.runs.set_watermark(connection, EC, AHEAD, walked_at=AHEAD)
    found = statistics.collect(door.engine, settings, NOW - timedelta(days=300), NOW)
    assert [ec.last_push for ec in found.ecs if ec.id_pa == EC] == [OLD]
    assert EC in [ec.id_pa for ec in found.silences]
    told = metrics.Metrics(settings, door.engine).text()
    gauges = {
        (one.name, one.labels["ec"]): one.value
        for family in text_string_to_metric_families(told)
        for one in family.samples
        if "ec" in one.labels
    }
    assert gauges["station_last_push_timestamp_seconds", EC] == pytest.approx(OLD.timestamp(), abs=1)
    assert gauges["station_reconcile_walked_timestamp_seconds", EC] == 0


def test_what_came_in_the_future_is_exported_and_replayed(door, run_station):
    """No command that goes through all there is leaves it out."""
    door.take(an_envelope(a_request()))
    door.refuse(an_envelope(a_request()))
    date_everything(door, AHEAD)
    assert len(run_station("receipts", "export", "-", "--format", "jsonl").stdout.splitlines()) == 1
    assert len(run_station("journal", "export", "-", "--format", "jsonl").stdout.splitlines()) == 4
    for which in ("--stored", "--refused"):
        last = run_station("replay", which, "--dry-run", "--json").stdout.splitlines()[-1]
        assert sum(json.loads(last)["summary"].values()) == 1
