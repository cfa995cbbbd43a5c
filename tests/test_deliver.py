"""`station deliver` from the stored receipt to the receiver: nothing is left out, and no destination harms another."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import forked
import psycopg
import pytest
from build import OTHER_EC, a_request, an_envelope
from process import environment, free_port
from receiver import SECRET, Receiver, endless, reset
from sqlalchemy import func, select

from station import contract, store
from station.config import Settings
from station.deliver.run import Deliverer
from station.errors import AnotherRunError, StoreError
from station.intake import Intake, Origin
from station.receipt import Source
from station.store import deliveries, outgoing, tables


class Clock:
    """A clock that a test sets; it stands still."""

    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now

    def go(self, **time):
        self.now += timedelta(**time)


@pytest.fixture
def engine(database_url, connect):
    return connect(database_url)


@pytest.fixture
def take(engine):
    """Stores receipts."""
    intake = Intake(engine, Settings())

    def take(*requests):
        for request in requests:
            document = contract.parse(an_envelope(request), None)
            intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH, "127.0.0.1", "r-1"))
        return [request["receiptId"] for request in requests]

    return take


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def receiver():
    with Receiver(at_any_time=True) as receiver:
        yield receiver


def a_destination(receiver, name="erp", **over):
    fields = {"kind": "webhook", "name": name, "url": receiver if isinstance(receiver, str) else receiver.url}
    return fields | {"secret": SECRET, "start": "beginning", "connect_timeout": 20, "timeout": 20} | over


def a_station(*destinations):
    return Settings.model_validate({"destination": destinations})


def once(engine, clock, *destinations):
    """`station deliver --once`. Return whether all is delivered."""
    return Deliverer(a_station(*destinations), engine, stop=threading.Event(), once=True, now=clock).run()


@contextmanager
def running(engine, *destinations, **how):
    """`station deliver`, in a thread."""
    stop = threading.Event()
    thread = threading.Thread(target=Deliverer(a_station(*destinations), engine, stop=stop, **how).run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def rows(engine, table=tables.delivery, **of):
    with store.transaction(engine, readonly=True) as connection:
        return connection.execute(select(table).filter_by(**of).order_by(*table.primary_key)).all()


def the_destination(engine, name="erp"):
    with store.transaction(engine, readonly=True) as connection:
        return deliveries.destinations(connection)[name]


def counts(engine):
    with store.transaction(engine, readonly=True) as connection:
        return deliveries.counts(connection)


def ids_of(received):
    return [one.data["receipt"]["receipt_id"] for one in received]


# --- what is delivered, and in which order ----------------------------------------------------------------------------


def test_everything_in_order(engine, take, clock, receiver):
    """One at a time, each receipt is sent once, in the order of its number; database and journal say so."""
    sent = take(*(a_request() for _ in range(5)))
    erp = a_destination(receiver, in_flight=1)
    assert once(engine, clock, erp)
    assert receiver.numbers == [1, 2, 3, 4, 5]
    assert ids_of(receiver.all) == sent
    assert receiver.most_at_once == 1
    assert [(row.number, row.state, row.attempts, row.status, row.error) for row in rows(engine)] == [
        (number, "delivered", 1, 204, None) for number in range(1, 6)
    ]
    found = the_destination(engine)
    assert (found.position, found.failures, found.last_success_at) == (5, 0, clock.now)
    assert counts(engine) == {("erp", "delivered"): 5}
    journal = rows(engine, tables.journal, source="deliver")
    assert sorted((row.receipt_id, row.direction, row.operation, row.outcome, row.http_status, row.peer_subject,
                   row.request_id, row.size) for row in journal) == sorted(
        (one.data["receipt"]["receipt_id"], "out", "receipt.stored", "delivered", 204, "erp", one.id, len(one.body))
        for one in receiver.all
    )  # fmt: skip
    take(a_request())
    assert once(engine, clock, erp)
    assert receiver.numbers == [1, 2, 3, 4, 5, 6]


def test_without_journal(engine, take, clock, receiver):
    take(a_request())
    settings = a_station(a_destination(receiver)).model_copy(
        update={"journal": Settings.model_validate({"journal": {"enabled": False}}).journal}
    )
    assert Deliverer(settings, engine, stop=threading.Event(), once=True, now=clock).run()
    assert rows(engine, tables.journal, source="deliver") == []


def test_start(engine, take, clock, receiver):
    """A new destination gets what comes from now on, or all, or what arrived from a day on."""
    take(a_request(), a_request())
    today, later = clock.now.date(), clock.now.date() + timedelta(days=2)
    starts = {"from_now": "now", "all": "beginning", "today": today - timedelta(days=1), "later": later}
    given = [a_destination(receiver, name, start=start) for name, start in starts.items()]
    assert once(engine, clock, *given)
    take(a_request())
    assert once(engine, clock, *given)
    assert [(row.destination, row.number) for row in rows(engine)] == [
        ("all", 1), ("all", 2), ("all", 3), ("from_now", 3), ("later", 3), ("today", 1), ("today", 2), ("today", 3)
    ]  # fmt: skip


def test_chosen(engine, take, clock, receiver):
    """By EC, by category of a transfer, and with or without copies of what another EC owns."""
    own, other = a_request(), a_request(idPA=OTHER_EC)  # the second is a copy: its owner is EC
    stamp = a_request(**{"transfers.0.transferCategory": "9/0301105TS/"})
    take(own, other, stamp)
    assert once(
        engine, clock,
        a_destination(receiver, "of_ec", ecs=[OTHER_EC]),
        a_destination(receiver, "owned", copies=False),
        a_destination(receiver, "category", categories=["9/0301105TS", "none"]),
        a_destination(receiver, "nothing", ecs=["00000000000"]),
    )  # fmt: skip
    chosen = {}
    for row in rows(engine):
        chosen.setdefault(row.destination, []).append(row.number)
    assert chosen == {"of_ec": [2], "owned": [1, 3], "category": [3]}
    assert the_destination(engine, "nothing").position == 3


def test_fuller(engine, take, clock, receiver):
    """A receipt whose content became fuller is sent again, as completed, with an id of its own."""
    bare = a_request(version=1)
    take(bare)
    erp = a_destination(receiver)
    assert once(engine, clock, erp)
    take(a_request(**{"receiptId": bare["receiptId"], "noticeNumber": bare["noticeNumber"],
                      "creditorReferenceId": bare["creditorReferenceId"]}))  # fmt: skip
    assert once(engine, clock, erp)
    stored, completed = receiver.all
    assert [stored.event.get_type(), completed.event.get_type()] == ["receipt.stored", "receipt.completed"]
    assert ids_of([stored]) == ids_of([completed])
    assert stored.id != completed.id


def test_in_flight(engine, take, clock, receiver):
    """So many at the same time, and no more."""
    take(*(a_request() for _ in range(12)))
    together = threading.Barrier(4, timeout=20)

    def answer(_):
        together.wait()
        return 204

    receiver.answer = answer
    assert once(engine, clock, a_destination(receiver, in_flight=4, timeout=30))
    assert receiver.most_at_once == 4
    assert sorted(receiver.numbers) == list(range(1, 13))


def test_receipts_of_before(engine, take, clock, receiver):
    """Receipts that were stored without the outbox get a number, and are delivered."""
    take(a_request(), a_request())
    with store.transaction(engine) as connection:
        connection.execute(tables.outbox.delete())
    assert once(engine, clock, a_destination(receiver, in_flight=1))
    assert receiver.numbers == [1, 2]


def test_document(engine, take, clock, receiver):
    request = a_request()
    take(request)
    assert once(engine, clock, a_destination(receiver, document=True))
    assert base64.b64decode(receiver.all[0].data["document"]) == an_envelope(request)


def test_folder(engine, take, clock, receiver, tmp_path):
    """A folder is served beside webhooks, at its own times."""
    folder = {"kind": "folder", "name": "books", "path": str(tmp_path), "every_minutes": 60, "start": "beginning"}
    take(a_request(), a_request())
    assert once(engine, clock, folder, a_destination(receiver))
    assert list(tmp_path.glob("*.zip")) == []
    clock.go(hours=1)
    assert once(engine, clock, folder, a_destination(receiver))
    [file] = tmp_path.glob("*.zip")
    assert "_1-2.zip" in file.name
    assert receiver.numbers in ([1, 2], [2, 1])
    file.parent.joinpath("gone").touch()
    clock.go(hours=1)
    assert not once(engine, clock, folder | {"path": str(tmp_path / "gone")}, a_destination(receiver))


# --- failures of one receipt ------------------------------------------------------------------------------------------


def test_refused_receipt(engine, take, clock, receiver):
    """A receipt that its receiver refuses while others pass is tried again alone, by the schedule, then daily."""
    _, bad, *_ = take(*(a_request() for _ in range(6)))
    receiver.answer = lambda got: 500 if ids_of([got]) == [bad] else 204
    erp = a_destination(receiver)
    assert not once(engine, clock, erp)
    assert len(receiver.taken) == 5
    pauses = []
    for _ in range(11):
        [row] = rows(engine, state="open")
        pauses.append(row.next_attempt_at - clock.now)
        clock.go(seconds=pauses[-1].total_seconds() - 1)
        assert not once(engine, clock, erp)  # too early
        clock.go(seconds=2)
        assert not once(engine, clock, erp)
    wanted = [5, 300, 1800, *(3600 * hours for hours in (2, 5, 10, 14, 20, 24, 24, 24))]
    assert [pause.total_seconds() for pause in pauses] == [pytest.approx(one, rel=0.11) for one in wanted]
    [row] = rows(engine, state="open")
    assert (row.attempts, row.status, row.error) == (12, 500, "it answered HTTP 500")
    assert the_destination(engine).failures == 0
    assert counts(engine) == {("erp", "delivered"): 5, ("erp", "refused"): 12}
    receiver.answer = lambda _: 204
    clock.go(hours=27)
    assert once(engine, clock, erp)
    assert len({one.id for one in receiver.all if ids_of([one]) == [bad]}) == 1


def test_given_up(engine, take, clock, receiver):
    """After `give_up_days` a receipt is given up, and stays visible as failed."""
    receiver.answer = lambda got: 204 if got.number == 2 else 422
    take(a_request(), a_request())
    erp = a_destination(receiver, give_up_days=3)
    began = clock.now
    while rows(engine, state="open") or clock.now == began:
        assert not once(engine, clock, erp)
        clock.go(hours=26.5)
    [row] = rows(engine, state="failed")
    assert timedelta(days=3) <= row.settled_at - began < timedelta(days=5)
    assert row.attempts == len(receiver.all) - 1
    assert once(engine, clock, erp)  # nothing is open, nothing failed now


def test_retry_after_of_a_receipt(engine, take, clock, receiver):
    receiver.answer = lambda got: (500, {"Retry-After": "3600"}) if got.number == 1 else 204
    take(a_request(), a_request())
    assert not once(engine, clock, a_destination(receiver))
    [row] = rows(engine, state="open")
    assert row.next_attempt_at == clock.now + timedelta(hours=1)


def test_ten_receipts_in_a_row(engine, take, clock, receiver):
    """A row of receipts that the receiver refuses does not hold up those behind it."""
    receiver.answer = lambda got: 500 if got.number <= 15 else 204
    take(*(a_request() for _ in range(20)))
    erp = a_destination(receiver, in_flight=1)
    for _ in range(4):
        once(engine, clock, erp)
        clock.go(minutes=6)
    assert receiver.numbers == [16, 17, 18, 19, 20]
    assert [row.number for row in rows(engine, state="open")] == list(range(1, 16))


# --- failures of the destination --------------------------------------------------------------------------------------


def test_away_for_three_days(engine, take, clock):
    """A dead destination gets one probe at a time, and everything in order once it is back, without a command."""
    port = free_port()
    erp = a_destination(f"http://127.0.0.1:{port}/hook", in_flight=4)
    take(*(a_request() for _ in range(3)))
    began, probes = clock.now, []
    while clock.now < began + timedelta(days=3):
        assert not once(engine, clock, erp)
        found = the_destination(engine)
        probes.append(found.next_attempt_at - clock.now)
        take(a_request())
        clock.go(seconds=(found.next_attempt_at - clock.now).total_seconds())
    assert len(probes) < 12
    assert all(row.attempts == 0 for row in rows(engine))
    stored = 3 + len(probes)
    with Receiver(at_any_time=True, port=port) as receiver:
        assert once(engine, clock, erp | {"in_flight": 1})
        assert receiver.numbers == list(range(1, stored + 1))
    assert the_destination(engine).failures == 0
    assert counts(engine)["erp", "unreachable"] <= len(probes) + 3  # those that were on their way at first


def test_one_probe_at_a_time(engine, take, clock, receiver):
    receiver.answer = lambda _: 503
    take(*(a_request() for _ in range(10)))
    erp = a_destination(receiver, in_flight=4)
    assert not once(engine, clock, erp)
    assert 1 <= len(receiver.all) <= 4
    for _ in range(3):
        clock.now = the_destination(engine).next_attempt_at
        before = len(receiver.all)
        assert not once(engine, clock, erp)
        assert [one.number for one in receiver.all[before:]] == [1]
    assert not once(engine, clock, erp)  # it is not time
    assert len(receiver.all) == before + 1
    clock.now = the_destination(engine).next_attempt_at
    receiver.answer = lambda _: 204
    assert once(engine, clock, erp)
    assert sorted(receiver.numbers) == list(range(1, 11))
    assert {row.attempts for row in rows(engine)} == {1}


@pytest.mark.parametrize("answer", [reset, 502, 503, 504, 429, endless(b"", b"", 0.05)])
def test_failures_of_a_destination(engine, take, clock, receiver, answer):
    """The receipt is not charged with them."""
    receiver.answer = lambda _: answer
    take(a_request())
    assert not once(engine, clock, a_destination(receiver, connect_timeout=0.3, timeout=0.3))
    [row] = rows(engine)
    assert (row.state, row.attempts, row.first_at, row.last_at) == ("open", 0, None, clock.now)
    assert row.error
    found = the_destination(engine)
    assert (found.failures, found.last_error) == (1, row.error)
    assert timedelta(seconds=4) < found.next_attempt_at - clock.now < timedelta(seconds=6)
    assert [entry.outcome for entry in rows(engine, tables.journal, source="deliver")] == ["failed"]


@pytest.mark.parametrize(("header", "seconds"), [("120", 120), ("0", 1), ("999999", 86_400)])
def test_throttled(engine, take, clock, receiver, header, seconds):
    """What the receiver asks for is done, within a day."""
    receiver.answer = lambda _: (429, {"Retry-After": header})
    take(a_request())
    erp = a_destination(receiver)
    assert not once(engine, clock, erp)
    assert the_destination(engine).next_attempt_at == clock.now + timedelta(seconds=seconds)
    receiver.answer = lambda _: 204
    clock.go(seconds=seconds)
    assert once(engine, clock, erp)


def test_gone(engine, take, clock, receiver):
    """410 pauses a destination, until an operator resumes it."""
    receiver.answer = lambda _: 410
    take(a_request(), a_request())
    erp = a_destination(receiver, in_flight=1)
    assert not once(engine, clock, erp)
    found = the_destination(engine)
    assert found.state == "paused"
    assert "410" in found.reason
    receiver.answer = lambda _: 204
    clock.go(days=40)
    assert not once(engine, clock, erp)
    assert len(receiver.all) == 1
    with store.transaction(engine) as connection:
        deliveries.resume(connection, "erp")
    assert once(engine, clock, erp)
    assert receiver.numbers == [1, 2]


def test_refuses_all(engine, take, clock, receiver):
    """A receiver with another key refuses all: that is no fault of any receipt, and is tried with one at a time."""
    receiver.answer = lambda _: 401
    take(*(a_request() for _ in range(30)))
    with running(engine, a_destination(receiver, in_flight=1), now=clock):
        for step in range(1, 8):
            wait_for(lambda step=step: rows(engine) and the_destination(engine).failures == step, f"step {step}")
            assert len(receiver.all) == 9 + step
            if step < 7:
                clock.now = the_destination(engine).next_attempt_at
        assert [row.attempts for row in rows(engine)] == [1] * 10 + [0] * 20
        probed = [one.number for one in receiver.all[10:]]
        assert len(set(probed)) == len(probed)
        receiver.answer = lambda _: 204
        clock.now = the_destination(engine).next_attempt_at
        wait_for(lambda: len(receiver.taken) == 30, "all, once it takes them")
    assert sorted(receiver.numbers) == list(range(1, 31))


def test_refuses_all_at_each_start(engine, take, clock, receiver):
    """A deliverer that starts again does not know who was refused before, and no receipt is given up for that."""
    receiver.answer = lambda _: 401
    take(*(a_request() for _ in range(30)))
    erp = a_destination(receiver, in_flight=1)
    for _ in range(6):
        assert not once(engine, clock, erp)
        clock.now = max(clock.now, the_destination(engine).next_attempt_at)
    assert len(receiver.all) <= 60
    receiver.answer = lambda _: 204
    clock.go(hours=6)
    assert once(engine, clock, erp)
    assert sorted(receiver.numbers) == list(range(1, 31))


def test_others_are_untouched(engine, take, clock, receiver):
    """One is dead and one does not answer: the third has everything meanwhile."""
    take(*(a_request() for _ in range(30)))
    over = threading.Event()
    with Receiver() as slow:
        slow.answer = lambda _: over.wait(60) and 204
        some = [
            a_destination(f"http://127.0.0.1:{free_port()}/hook", "dead"),
            a_destination(slow, "slow", timeout=60),
            a_destination(receiver, "well"),
        ]
        with running(engine, *some):
            wait_for(lambda: len(receiver.taken) == 30, "the others' deliveries")
            assert slow.taken == []
            over.set()
            wait_for(lambda: len(slow.taken) == 30, "the slow one's deliveries")
    assert len(rows(engine, destination="dead", state="open")) == 30


def test_a_connection_breaks_now_and_then(engine, take, clock, receiver):
    """A failure among successes is the receipt's: the destination is not left alone for it."""

    def answer(got):
        if got.number != 20:
            return 204
        # Until others have passed beside it (the eight requests at once are not enough: their answers are on the way).
        # Where none has, the same failure is the destination's.
        wait_for(lambda: max(receiver.numbers, default=0) > 30, "successes beside this request")
        return reset

    receiver.answer = answer
    take(*(a_request() for _ in range(60)))
    once(engine, clock, a_destination(receiver, in_flight=8))
    assert sorted(receiver.numbers) == [number for number in range(1, 61) if number != 20]


@pytest.mark.parametrize(("in_flight", "answer"), [(1, 504), (8, reset)])
def test_receipt_that_breaks_its_receiver(engine, take, clock, receiver, in_flight, answer):
    """A receipt for which a proxy closes the connection keeps none of those behind it, and is tried on alone."""
    receiver.answer = lambda got: answer if got.number == 1 else 204
    with running(engine, a_destination(receiver, in_flight=in_flight), now=clock):
        for probe in (1, 2):
            take(a_request())
            wait_for(lambda probe=probe: rows(engine) and the_destination(engine).failures >= probe, f"probe {probe}")
            clock.now = the_destination(engine).next_attempt_at
        take(a_request())

        def all_others():
            if again := the_destination(engine).next_attempt_at:
                clock.now = max(clock.now, again)
            return receiver.numbers == [2, 3] and rows(engine)[0].attempts

        wait_for(all_others, "the others, and an attempt of the first one's own")
        assert the_destination(engine).failures == 0
        take(*(a_request() for _ in range(5)))
        wait_for(lambda: sorted(receiver.numbers) == list(range(2, 9)), "all")
        wait_for(lambda: [row.state for row in rows(engine)] == ["open"] + ["delivered"] * 7, "their results")


def test_another_kind(engine, take, clock, receiver, tmp_path):
    """A name that was a folder's is not served as a webhook: neither is any number passed over."""
    folder = {"kind": "folder", "name": "erp", "path": str(tmp_path), "at": "02:30", "start": "beginning"}
    assert once(engine, clock, folder)
    take(a_request())
    assert not once(engine, clock, a_destination(receiver))
    assert (receiver.all, the_destination(engine).kind, the_destination(engine).position) == ([], "folder", 0)
    assert once(engine, clock, a_destination(receiver, "erp-2"))


def test_feed_was_not_served(engine, take, clock):
    """The deliverer gives numbers for a feed; only its reader serves it."""
    take(a_request())
    assert once(engine, clock, {"kind": "feed", "name": "portal", "keys": ["sha256:" + "0" * 64]})
    assert rows(engine, tables.destination) == []
    assert len(rows(engine, tables.outgoing)) == 1


def test_database_away_at_the_start(engine, take, clock, receiver, monkeypatch):
    """A destination is new until it was registered, however often the deliverer has to begin again."""
    take(a_request())
    real, failures = outgoing.number_outbox, [StoreError("locked")]

    def number_outbox(*given, **more):
        if failures:
            raise failures.pop()
        return real(*given, **more)

    monkeypatch.setattr(outgoing, "number_outbox", number_outbox)
    with running(engine, a_destination(receiver), now=clock):
        wait_for(lambda: receiver.numbers == [1], "the delivery")


# --- operators, clocks, databases, processes --------------------------------------------------------------------------


def test_what_operators_change_is_seen(engine, take, clock, receiver):
    """A destination that is paused gets nothing more, and what was skipped of it is not sent."""
    receiver.answer = lambda _: 503
    take(a_request(), a_request(), a_request())
    with running(engine, a_destination(receiver, in_flight=1)):
        wait_for(lambda: rows(engine) and the_destination(engine).failures >= 1, "the failure")
        with store.transaction(engine) as connection:
            deliveries.pause(connection, "erp", "by a test")
            deliveries.settle_missing(connection, "erp", [1], at=datetime.now(UTC))
        receiver.answer = lambda _: 204
        take(a_request())
        with store.transaction(engine) as connection:
            deliveries.resume(connection, "erp")
        wait_for(lambda: len(receiver.taken) == 3, "the others")
    assert receiver.numbers == [2, 3, 4]


def test_clock_set_back(engine, take, clock, receiver):
    """What was claimed or failed while the clock was ahead is sent, too."""
    receiver.answer = lambda _: 503
    clock.go(days=200)
    take(a_request(), a_request())
    erp = a_destination(receiver, in_flight=1)
    assert not once(engine, clock, erp)
    receiver.answer = lambda _: 204
    clock.go(days=-200)
    assert once(engine, clock, erp)
    assert receiver.numbers == [1, 2]


def test_quick(engine, take, receiver):
    """While it runs, a receipt is there moments after it was stored."""
    with running(engine, a_destination(receiver)):
        for number in range(1, 6):
            take(a_request())
            wait_for(lambda number=number: len(receiver.taken) == number, "the delivery", 20)


def test_one_instance(engine, take, clock, receiver):
    """A second instance waits and takes over; with --once it says so."""
    take(a_request())
    with running(engine, a_destination(receiver)):
        wait_for(lambda: receiver.taken, "the delivery")
        with pytest.raises(AnotherRunError, match="station deliver"):
            once(engine, clock, a_destination(receiver))
    assert once(engine, clock, a_destination(receiver))


def test_database_away(own_postgres, connect, receiver):
    """It waits for the database, and writes then what was delivered meanwhile: nothing is sent twice."""
    engine = connect(own_postgres.get_uri())
    intake = Intake(engine, Settings())

    def take():
        document = contract.parse(an_envelope(a_request()), None)
        intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH, "127.0.0.1", "r-1"))

    asked, away = threading.Event(), threading.Event()

    def answer(_):
        asked.set()
        assert away.wait(60)
        return 204

    receiver.answer = answer
    take()
    with running(engine, a_destination(receiver, timeout=60)):
        assert asked.wait(30)
        own_postgres.cleanup()
        away.set()
        wait_for(lambda: receiver.taken, "the answer")
        own_postgres.ensure_postgres_running()
        wait_for(lambda: reachable(engine) and not rows(engine, state="open"), "the result in the database", 60)
        take()
        wait_for(lambda: len(receiver.taken) == 2, "the next one", 60)
    assert receiver.numbers == [1, 2]


def reachable(engine):
    from station.errors import StoreError

    try:
        with store.transaction(engine, readonly=True) as connection:
            connection.execute(select(func.now()))
    except StoreError:
        return False
    return True


def test_lock_lost(postgres_url, connect, receiver):
    """An instance whose lock's session ended takes it again before it goes on."""
    engine = connect(postgres_url)
    intake = Intake(engine, Settings())

    def take():
        document = contract.parse(an_envelope(a_request()), None)
        intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH, "127.0.0.1", "r-1"))

    take()
    with running(engine, a_destination(receiver)):
        wait_for(lambda: receiver.taken, "the first")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        take()
        wait_for(lambda: len(receiver.taken) == 2, "the second")


CONFIGURATION = """
[[destination]]
name = "erp"
kind = "webhook"
url = "{url}"
secret = "{secret}"
start = "beginning"
in_flight = 1
timeout = {timeout}
"""


@pytest.fixture
def deliver(database_url, tmp_path):
    """Starts `station deliver` as a process."""
    started = []

    def deliver(receiver, *options, timeout=20):
        file = tmp_path / "station.toml"
        file.write_text(CONFIGURATION.format(url=receiver.url, secret=SECRET, timeout=timeout))
        log = tmp_path / f"deliver-{len(started)}.log"
        arguments = ["--config", str(file), "deliver", *options]
        process = forked.start(arguments, environment(database_url), tmp_path, log, log)
        process.log = log
        started.append(process)
        return process

    yield deliver
    for process in started:
        process.kill()
        process.wait(20)


def test_killed_between_sending_and_writing(engine, take, deliver, receiver):
    """Killed after the receiver took it and before that is written, the next one sends it again, with the same id."""
    take(a_request(), a_request())
    killed = []

    def answer(got):
        if got.number == 1 and not killed:
            killed.append(process)
            os.kill(process.pid, signal.SIGKILL)
        return 204

    receiver.answer = answer
    process = deliver(receiver)
    process.wait(30)
    assert deliver(receiver, "--once").wait(60) == 0
    assert [one.number for one in receiver.all] == [1, 1, 2]
    assert receiver.all[0].id == receiver.all[1].id


def test_two_processes(engine, take, deliver, receiver):
    """Of two one works; the other one goes on where it was killed."""
    take(a_request())
    first = deliver(receiver)
    wait_for(lambda: len(receiver.taken) == 1, "the first")
    second = deliver(receiver)
    wait_for(lambda: "deliver_waits" in second.log.read_text(), "the second waits")
    assert deliver(receiver, "--once").wait(60) == 3
    first.kill()
    take(a_request())
    wait_for(lambda: 2 in receiver.numbers, "the second takes over")
    second.terminate()
    assert second.wait(30) == 0
    assert set(receiver.numbers) == {1, 2}  # the first one perhaps twice: it may not have been written


def test_stopped(engine, take, deliver, receiver):
    """SIGTERM ends it within seconds, whatever a receiver does; what has an answer by then is not sent again."""
    take(a_request(), a_request())
    over = threading.Event()
    receiver.answer = lambda got: 204 if got.number == 1 else (over.wait(60) and 204)
    process = deliver(receiver, timeout=60)
    wait_for(lambda: len(receiver.all) == 2, "the second is on its way")
    process.terminate()
    assert process.wait(30) == 0  # long before the receiver would answer
    over.set()
    assert [(row.number, row.state) for row in rows(engine)] == [(1, "delivered"), (2, "open")]


def test_exit_codes(engine, take, deliver, receiver, run_station):
    assert run_station("deliver", "--once").returncode == 2
    assert deliver(receiver, "--once").wait(60) == 0
    receiver.answer = lambda _: 500
    take(a_request())
    assert deliver(receiver, "--once").wait(60) == 1


# --- a proxy before the receiver --------------------------------------------------------------------------------------

NGINX = """
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location /well {{ proxy_pass http://127.0.0.1:{receiver}; }}
    location /down {{ proxy_pass http://127.0.0.1:{closed}; }}
    location /limited {{ add_header Retry-After 7 always; return 429; }}
    location /slow {{ proxy_pass http://127.0.0.1:{receiver}; proxy_read_timeout 300ms; }}
    location /drip {{ limit_rate 1000; alias {folder}/page; error_page 405 =200 $uri; }}
    location /closed {{ return 444; }}
    location /moved {{ return 301 http://127.0.0.1:{receiver}/hook; }}
    location /large {{ client_max_body_size 1; proxy_pass http://127.0.0.1:{receiver}; }}
  }}
}}
"""


@contextmanager
def nginx(folder, receiver):
    """nginx before the receiver; where it is not installed, a server that answers as it does."""
    if shutil.which("nginx"):
        port = free_port()
        (folder / "page").write_text("x" * 4_000)
        (folder / "nginx.conf").write_text(
            NGINX.format(folder=folder, port=port, receiver=receiver.port, closed=free_port())
        )
        command = ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: listens(port, process, folder), "nginx listens")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)
        return
    drip = endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x", 0.02)
    answers = {"/well": 204, "/down": 502, "/limited": (429, {"Retry-After": "7"}), "/slow": 504, "/drip": drip,
               "/closed": reset, "/moved": (301, {"Location": receiver.url}), "/large": 413}  # fmt: skip
    with Receiver(at_any_time=True) as stand_in:

        def answer(got):
            if got.path == "/well":
                receiver.take(got.headers, got.body, got.path).status = 204
            return answers[got.path]

        stand_in.answer = answer
        yield stand_in.url.removesuffix("/hook")


def listens(port, process, folder):
    assert process.poll() is None, (folder / "nginx.log").read_text()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_behind_nginx(engine, take, clock, receiver, tmp_path):
    """A proxy's own answers are no answers of the receiver: 502, 504 and 429 are failures of the destination."""
    receiver.answer = lambda got: time.sleep(1) or 204 if got.path == "/slow" else 204
    take(a_request())
    with nginx(tmp_path, receiver) as url:
        places = ("well", "down", "limited", "slow", "drip", "closed", "moved", "large")
        once(engine, clock, *(a_destination(f"{url}/{place}", place, timeout=10) for place in places))
    found = {row.destination: (row.state, row.attempts, row.status) for row in rows(engine)}
    assert found == {
        "well": ("delivered", 1, 204), "drip": ("delivered", 1, 200), "down": ("open", 0, 502),
        "limited": ("open", 0, 429), "slow": ("open", 0, 504), "closed": ("open", 0, None),
        "moved": ("open", 1, 301), "large": ("open", 1, 413),
    }  # fmt: skip
    assert the_destination(engine, "limited").next_attempt_at == clock.now + timedelta(seconds=7)
    assert the_destination(engine, "moved").failures == 0
    assert {got.path for got in receiver.all} <= {"/well", "/slow"}
