"""`station deliveries`: how far destinations are, what operators decide, and what `station check` says of them."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from build import OTHER_EC, a_request, an_envelope
from receiver import Receiver
from refusals import Door
from sqlalchemy import select, update

from station import config, store
from station.deliver import check
from station.deliver.status import status
from station.store import deliveries, outgoing, tables

NOW = datetime.now(UTC).replace(microsecond=0)
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
ERP = f'[[destination]]\nname = "erp"\nkind = "webhook"\nurl = "https://erp.example.invalid/x"\nsecret = "{SECRET}"\n'
KEYS = f'keys = ["sha256:{"0" * 64}"]'


class Deliveries(Door):
    """A database with receipts that have numbers, and a configuration."""

    def __init__(self, engine, folder):
        super().__init__(engine)
        self.file = folder / "station.toml"
        self.configure(ERP)
        self.receipts = []

    def configure(self, text):
        self.file.write_text(text)

    @property
    def settings(self):
        return config.load(self.file, {})

    def receive(self, count, **over):
        for _ in range(count):
            request = a_request(**over)
            self.take(an_envelope(request))
            self.receipts.append(request.receipt["receiptId"])
        with store.transaction(self.engine) as connection:
            while outgoing.number_outbox(connection, at=NOW, limit=100):
                pass

    def serve(self, name="erp", kind="webhook", *, position=0, claimed=(), **values):
        with store.transaction(self.engine) as connection:
            deliveries.register(connection, name, kind, position=position, at=NOW)
            for number in claimed:
                row = {"destination": name, "number": number, "state": "open", "attempts": 0, "next_attempt_at": NOW}
                connection.execute(tables.delivery.insert(), [row])
            if claimed:
                values["position"] = max(claimed)
            if values:
                deliveries.change(connection, name, values)

    def settle(self, number, state, **values):
        with store.transaction(self.engine) as connection:
            query = update(tables.delivery).filter_by(number=number)
            connection.execute(query.values(state=state, settled_at=NOW, attempts=3, **values))

    def states(self, name="erp"):
        with store.transaction(self.engine, readonly=True) as connection:
            table = tables.delivery.c
            query = select(table.number, table.state).where(table.destination == name).order_by(table.number)
            return {row.number: row.state for row in connection.execute(query)}

    def position(self, name="erp"):
        with store.transaction(self.engine, readonly=True) as connection:
            return deliveries.destinations(connection)[name].position

    def problems(self, *, now=NOW):
        return list(status(self.settings, self.engine, now=now).problems)


@pytest.fixture
def door(database_url, connect, tmp_path):
    return Deliveries(connect(database_url), tmp_path)


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- status -----------------------------------------------------------------------------------------------------------


def test_status(door, run_station):
    """Each destination is listed with its figures: also one that was never served, and one that is gone."""
    door.configure(
        ERP
        + f'[[destination]]\nname = "portal"\nkind = "feed"\n{KEYS}\n'
        + '[[destination]]\nname = "new"\nkind = "folder"\npath = "/nowhere"\nat = "02:30"\n'
    )
    door.receive(5)
    door.serve(claimed=(1, 2, 3), last_success_at=NOW)
    door.settle(1, "delivered")
    door.settle(2, "failed", error="HTTP 400")
    door.serve("portal", "feed", position=4)
    door.serve("old", "webhook", position=1)
    done = run_station("deliveries", "status", "--json")
    [told] = lines(done)
    assert done.returncode == 1
    assert told["last_number"] == 5
    found = {one["name"]: one for one in told["destinations"]}
    assert list(found) == ["erp", "portal", "new", "old"]
    picked = [(one["state"], one["waiting"], one["open"], one["failed"]) for one in found.values()]
    assert picked == [
        ("active", 2, 1, 1),
        ("active", 1, 0, 0),
        ("never served", None, 0, 0),
        ("not configured", 4, 0, 0),
    ]
    assert found["portal"]["oldest_at"] == NOW.isoformat()
    assert found["old"]["problem"] is None
    assert [problem.partition(":")[0] for problem in told["problems"]] == ["destination erp", "destination new"]
    done = run_station("deliveries", "status")
    assert done.returncode == 1
    rows = done.stdout.splitlines()
    assert rows[0].split()[:6] == ["destination", "kind", "state", "waiting", "open", "failed"]
    assert "destination new: it is configured and was never served" in done.stdout
    assert all(len(line) <= 80 for line in rows[:5])
    assert "last error" in run_station("deliveries", "status", "--wide").stdout


def test_nothing_wrong(door, run_station):
    """Exit status 0 where all is delivered, and where there is no destination."""
    door.configure("")
    done = run_station("deliveries", "status")
    assert done.stdout == "No [[destination]] is configured: receipts are delivered nowhere.\n"
    assert done.returncode == 0
    door.configure(ERP)
    door.receive(2)
    door.serve(position=2)
    assert run_station("deliveries", "status").returncode == 0


def test_problems(door):
    """Late, paused, never served, given up, a deliverer that does not run: each is said in words."""
    assert "never served" in door.problems()[0]
    door.receive(2)
    door.serve(claimed=(1, 2))
    assert door.problems() == []
    assert "wait since" in door.problems(now=NOW + timedelta(minutes=61))[0]
    door.settle(1, "delivered")
    door.settle(2, "failed")
    assert "1 delivery given up" in door.problems()[0]
    door.settle(2, "skipped")
    assert door.problems() == []
    door.serve(state="paused", reason="410 Gone")
    assert "paused (410 Gone)" in door.problems()[0]
    with store.transaction(door.engine) as connection:
        deliveries.change(connection, "erp", {"state": "active", "kind": "folder"})
    assert door.problems()[0].startswith("destination erp: it was a folder before, and is not served as a webhook")
    with store.transaction(door.engine) as connection:
        deliveries.change(connection, "erp", {"kind": "webhook"})
    door.take(an_envelope(a_request()))
    assert door.problems() == []
    assert "`station deliver` does not run" in door.problems(now=datetime.now(UTC) + timedelta(minutes=6))[0]


def test_late_readers_and_files(door, tmp_path):
    """A feed may be read once a day; a folder has its own time."""
    door.configure(
        f'[[destination]]\nname = "portal"\nkind = "feed"\n{KEYS}\n'
        f'[[destination]]\nname = "night"\nkind = "folder"\npath = "{tmp_path}"\nat = "02:30"\n'
        f'[[destination]]\nname = "often"\nkind = "folder"\npath = "{tmp_path}"\nevery_minutes = 10\n'
    )
    door.receive(1)
    assert "its reader never asked" in door.problems()[0]
    door.serve("portal", "feed")
    door.serve("night", "folder")
    door.serve("often", "folder")
    assert door.problems(now=NOW + timedelta(minutes=69)) == []
    [often] = door.problems(now=NOW + timedelta(hours=25))
    assert often.startswith("destination often: no file was completed since")
    late = [problem.split()[1] for problem in door.problems(now=NOW + timedelta(hours=37))]
    assert late == ["portal:", "night:", "often:"]
    with store.transaction(door.engine) as connection:
        for state, hours in (("done", 24), ("planned", 36)):
            at = NOW + timedelta(hours=hours)
            row = {"planned_at": at, "name": "x.zip", "number_from": 1, "number_to": 1, "state": state, "attempts": 0}
            row |= {"destination": "night", "next_attempt_at": at, "settled_at": at if state == "done" else None}
            connection.execute(tables.delivery_file.insert(), [row])
    late = [problem.split()[1] for problem in door.problems(now=NOW + timedelta(hours=36.5))]
    assert late == ["portal:", "often:"]
    [_, night, _] = door.problems(now=NOW + timedelta(hours=37.5))
    assert night.startswith("destination night: a file waits to be completed since")


# --- list and show ----------------------------------------------------------------------------------------------------


def test_list(door, run_station):
    """The latest first, by state, page by page; files of a folder; a feed has no list."""
    door.configure(
        ERP + '[[destination]]\nname = "night"\nkind = "folder"\npath = "/x"\nat = "02:30"\n'
        f'[[destination]]\nname = "portal"\nkind = "feed"\n{KEYS}\n'
    )
    door.receive(4)
    door.serve(claimed=(1, 2, 3, 4))
    door.settle(2, "failed", error="HTTP 400", status=400)
    listed = lines(run_station("deliveries", "list", "erp", "--json"))
    assert [(one["number"], one["receipt_id"]) for one in listed] == list(
        zip([4, 3, 2, 1], door.receipts[::-1], strict=True)
    )
    done = run_station("deliveries", "list", "erp", "--limit", "2")
    assert done.stderr.strip() == "more: --before 3"
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["number", "4", "3"]
    done = run_station("deliveries", "list", "erp", "--before", "3", "--state", "failed", "--wide")
    assert door.receipts[1] in done.stdout
    assert "HTTP 400" in done.stdout
    assert run_station("deliveries", "list", "night").stderr == "No file.\n"
    for name in ("portal", "none"):
        assert run_station("deliveries", "list", name).returncode == 2


def test_show(door, run_station, tmp_path):
    """What became of one receipt at each destination."""
    door.configure(
        ERP
        + f'[[destination]]\nname = "school"\nkind = "webhook"\nurl = "https://x.invalid/"\nsecret = "{SECRET}"\n'
        + f'ecs = ["{OTHER_EC}"]\n'
        + f'[[destination]]\nname = "portal"\nkind = "feed"\n{KEYS}\n'
        + f'[[destination]]\nname = "night"\nkind = "folder"\npath = "{tmp_path}"\nat = "02:30"\n'
        + f'[[destination]]\nname = "later"\nkind = "folder"\npath = "{tmp_path}"\nat = "02:30"\n'
    )
    door.receive(2)
    door.serve(claimed=(1, 2))
    door.settle(1, "delivered", status=204)
    door.serve("portal", "feed", position=1)
    door.serve("night", "folder", position=2)
    with store.transaction(door.engine) as connection:
        row = {"destination": "night", "planned_at": NOW, "name": "night.zip", "number_from": 1, "number_to": 2}
        row |= {"state": "done", "attempts": 1, "next_attempt_at": NOW}
        connection.execute(tables.delivery_file.insert(), [row])

    def states(receipt_id):
        [told] = lines(run_station("deliveries", "show", receipt_id, "--json"))
        return {one["destination"]: one["state"] for one in told["deliveries"]}

    others = {"school": "not chosen", "night": "done", "later": "waiting"}
    assert states(door.receipts[0]) == others | {"erp": "delivered", "portal": "read"}
    assert states(door.receipts[1]) == others | {"erp": "open", "portal": "waiting"}
    done = run_station("deliveries", "show", door.receipts[0], "--wide")
    assert "night.zip" in done.stdout
    door.receive(1, idPA=OTHER_EC, receiptId=door.receipts[0])
    done = run_station("deliveries", "show", door.receipts[0])
    assert done.returncode == 2
    assert f"\n  --ec {OTHER_EC}\n" in done.stderr
    assert run_station("deliveries", "show", door.receipts[0], "--ec", OTHER_EC).returncode == 0
    assert run_station("deliveries", "show", "none").returncode == 1


# --- again and skip ---------------------------------------------------------------------------------------------------


def test_again(door, run_station):
    """A range, days, one receipt or all that was given up is due again, counted first by a dry run."""
    door.receive(6)
    door.serve(claimed=(1, 2, 3, 4, 5))
    for number in (1, 2, 3, 5):
        door.settle(number, "failed" if number == 5 else "delivered")
    before = door.rows(tables.delivery)
    for arguments, count in (
        (("--from", "1", "--to", "2"), 2),
        (("--from", "2"), 4),
        (("--from", f"{NOW:%d/%m/%Y}"), 5),
        (("--from", "01/01/2020", "--to", "01/02/2020"), 0),
        (("--receipt", door.receipts[0]), 1),
        (("--failed",), 1),
    ):
        done = run_station("deliveries", "again", "erp", *arguments, "--dry-run", "--json")
        assert lines(done)[0]["count"] == count, (arguments, done.stderr)
    assert door.rows(tables.delivery) == before
    assert run_station("deliveries", "again", "erp", "--failed").returncode == 0
    assert door.states() == {1: "delivered", 2: "delivered", 3: "delivered", 4: "open", 5: "open"}
    done = run_station("deliveries", "again", "erp", "--from", "2", "--to", "6", "--operator", "Ann")
    assert done.stdout.splitlines() == [
        "4 deliveries to erp sent again",
        "1 number of the range wait in their order: they need no command",
    ]
    assert '"operator": "Ann"' in done.stderr
    assert door.states() == {1: "delivered", 2: "open", 3: "open", 4: "open", 5: "open"}
    reopened = next(row for row in door.rows(tables.delivery) if row["number"] == 2)
    assert (reopened["attempts"], reopened["first_at"], reopened["settled_at"]) == (0, None, None)


def test_delivered_again(door, run_station):
    """What is sent again arrives again with the same id; what is skipped or paused does not; nothing else moves."""
    with Receiver(secret=SECRET) as receiver:
        here = ERP.replace("https://erp.example.invalid/x", receiver.url)
        door.configure(here + 'start = "beginning"\nin_flight = 1\n')
        door.receive(3)
        assert run_station("deliver", "--once").returncode == 0
        assert receiver.numbers == [1, 2, 3]
        assert run_station("deliveries", "again", "erp", "--from", "2").returncode == 0
        assert run_station("deliveries", "skip", "erp", "--receipt", door.receipts[2], "--reason", "x").returncode == 0
        assert run_station("deliver", "--once").returncode == 0
        assert receiver.numbers == [1, 2, 3, 2]
        assert receiver.ids[3] == receiver.ids[1]
        assert run_station("deliveries", "pause", "erp").returncode == 0
        door.receive(1)
        run_station("deliver", "--once")
        assert len(receiver.numbers) == 4
        assert run_station("deliveries", "resume", "erp").returncode == 0
        assert run_station("deliver", "--once").returncode == 0
        assert receiver.numbers[4:] == [4]
        assert run_station("deliveries", "status").returncode == 0


def test_again_to_a_new_destination(door, run_station):
    """A destination that began later gets an earlier range of what it chooses, by one command."""
    door.configure(ERP + f'ecs = ["{OTHER_EC}"]\n')
    door.receive(2)
    door.receive(3, idPA=OTHER_EC)
    done = run_station("deliveries", "again", "erp", "--from", "1")
    assert done.returncode == 1
    assert "was never served" in done.stderr
    door.serve(position=5)
    assert run_station("deliveries", "again", "erp", "--from", "1").returncode == 0
    assert door.states() == {3: "open", 4: "open", 5: "open"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("again", "erp"),
        ("again", "erp", "--to", "5"),
        ("again", "erp", "--failed", "--from", "1"),
        ("again", "erp", "--from", "1", "--to", "01/01/2026"),
        ("again", "erp", "--from", "soon"),
        ("again", "erp", "--from", "9" * 5_000),
        ("again", "none", "--failed"),
        ("again", "portal", "--failed"),
        ("skip", "erp", "--from", "1"),
        ("skip", "erp", "--from", "1", "--reason", " "),
        ("skip", "portal", "--from", "1", "--reason", "x"),
        ("skip", "erp", "--from", "5", "--reason", "x"),
        ("pause", "portal"),
        ("pause", "none"),
        ("test", "none"),
    ],
)
def test_usage(door, run_station, arguments):
    """What cannot be meant is a usage error."""
    door.configure(ERP + f'[[destination]]\nname = "portal"\nkind = "feed"\n{KEYS}\n')
    door.receive(5)
    door.serve(position=2)
    door.serve("portal", "feed")
    assert run_station("deliveries", *arguments).returncode == 2


def test_skip(door, run_station):
    """What is open, given up or waiting is settled with the reason; what was delivered stays; later ones go on."""
    door.receive(7)
    door.serve(claimed=(1, 2, 3))
    door.settle(1, "delivered")
    door.settle(2, "failed")
    done = run_station(
        "deliveries", "skip", "erp", "--from", "1", "--to", "5", "--reason", "moved", "--operator", "Ann"
    )
    assert done.stdout == "4 deliveries to erp skipped by Ann\n", done.stderr
    assert door.states() == {1: "delivered", **dict.fromkeys((2, 3, 4, 5), "skipped")}
    assert door.position() == 5
    assert door.rows(tables.delivery)[4]["error"] == "skipped by Ann: moved"
    door.serve(claimed=(6, 7))
    done = run_station("deliveries", "skip", "erp", "--receipt", door.receipts[6], "--reason", "x", "--json")
    assert lines(done) == [{"destination": "erp", "count": 1}]
    assert door.states()[6] == "open"
    assert door.states()[7] == "skipped"
    assert run_station("deliveries", "again", "erp", "--from", "4", "--to", "4").returncode == 0
    assert door.states()[4] == "open"


def test_files_again_and_skipped(door, run_station, tmp_path):
    """A folder gets a further file for a range, which `station deliver` writes; one that fails can be given up."""
    door.configure(f'[[destination]]\nname = "night"\nkind = "folder"\npath = "{tmp_path}"\nat = "02:30"\n')
    door.receive(4)
    door.serve("night", "folder", position=4)
    assert run_station("deliveries", "again", "night", "--failed").returncode == 2
    done = run_station("deliveries", "again", "night", "--from", "2", "--to", "3", "--dry-run", "--json")
    assert lines(done) == [{"destination": "night", "files": [], "ranges": [[2, 3]], "dry_run": True}]
    done = run_station("deliveries", "again", "night", "--from", "2", "--to", "3")
    assert done.returncode == 0, done.stderr
    [file] = door.rows(tables.delivery_file)
    assert (file["number_from"], file["number_to"], file["state"]) == (2, 3, "planned")
    assert file["name"] in done.stdout
    assert file["name"] in run_station("deliveries", "list", "night", "--wide").stdout
    done = run_station("deliveries", "skip", "night", "--from", "2", "--reason", "by hand", "--operator", "Ann")
    assert done.stdout == "1 file to night skipped by Ann\n"
    [file] = door.rows(tables.delivery_file)
    assert (file["state"], file["error"]) == ("failed", "skipped by Ann: by hand")


def test_pause_and_resume(door, run_station):
    """A paused destination says by whom and why, until it is resumed."""
    assert run_station("deliveries", "pause", "erp").returncode == 1
    door.serve(failures=3, next_attempt_at=NOW)
    done = run_station("deliveries", "pause", "erp", "--reason", "new server", "--operator", "Ann")
    assert done.stdout == "erp paused by Ann\n"
    assert "it is paused (by Ann: new server)" in run_station("deliveries", "status").stdout
    assert run_station("deliveries", "resume", "erp").returncode == 0
    with store.transaction(door.engine) as connection:
        row = deliveries.destinations(connection)["erp"]
    assert (row.state, row.reason, row.failures, row.next_attempt_at) == ("active", None, 0, None)


# --- station check ----------------------------------------------------------------------------------------------------


def test_check(door, run_station, tmp_path):
    """A destination that was never served, a deliverer that does not run and a folder that is not there are named."""
    out = tmp_path / "out"
    door.configure(ERP + f'[[destination]]\nname = "night"\nkind = "folder"\npath = "{out}"\nat = "02:30"\n')
    done = run_station("check", "--offline")
    assert done.returncode == 1
    assert f"WRONG  destination night: {out} is not a folder" in done.stdout
    out.mkdir()
    door.configure(door.file.read_text().replace("invalid/x", "invalid/x?key=hidden"))
    done = run_station("check", "--offline")
    assert done.returncode == 0, done.stdout
    assert "hidden" not in done.stdout
    assert "NOTE   destination_never_served: erp, night: configured, and no receipt was ever" in done.stdout
    assert "destination erp: " in done.stdout
    assert SECRET not in done.stdout
    assert "MISSING  destination_never_served" in run_station("check", "--offline", "--production").stdout
    door.serve(state="paused", reason="410 Gone")
    door.serve("night", "folder")
    done = run_station("check", "--offline")
    assert "NOTE   destination_late: erp: it is paused (410 Gone)" in done.stdout
    assert "never_served" not in done.stdout
    door.take(an_envelope(a_request()))
    with store.transaction(door.engine) as connection:
        connection.execute(update(tables.outbox).values(at=NOW - timedelta(minutes=6)))
    assert (
        "NOTE   deliverer_not_running: `station deliver` does not run: 1 receipt"
        in run_station("check", "--offline").stdout
    )
    door.configure("")
    assert "destination" not in run_station("check", "--offline").stdout


@pytest.mark.parametrize(
    ("url", "networks", "addresses", "expected"),
    [
        ("https://erp.example.invalid/x", "", ["8.8.8.8", "10.0.0.1"], None),
        ("https://erp.example.invalid/x", "", ["8.8.8.8"], None),
        ("https://erp.example.invalid/x", "", ["10.0.0.1"], "erp.example.invalid is 10.0.0.1, no public address"),
        ("https://erp.example.invalid/x", '"10.0.0.0/8"', ["10.0.0.1"], None),
        ("https://erp.example.invalid/x", "", [], "has no address in the DNS"),
        ("http://127.0.0.1:9/x", "", ["127.0.0.1"], None),
        ("https://169.254.169.254/x", "", ["169.254.169.254"], "no public address"),
    ],
)
def test_address(tmp_path, url, networks, addresses, expected):
    """A webhook whose host would not be called is named before the first receipt is to be sent."""
    (tmp_path / "station.toml").write_text(
        ERP.replace("https://erp.example.invalid/x", url) + f"private_addresses = [{networks}]\n"
    )

    def resolve(_host, _port):
        if not addresses:
            raise OSError
        return addresses

    found = list(check.problems(config.load(tmp_path / "station.toml", {}), resolve=resolve))
    assert len(found) == (expected is not None)
    assert (expected or "") in "".join(found)


# --- test, secret, key ------------------------------------------------------------------------------------------------


def test_webhook(door, run_station):
    """A webhook is sent a signed test event at once; its answer is the exit status."""
    with Receiver(secret=SECRET) as receiver:
        door.configure(ERP.replace("https://erp.example.invalid/x", receiver.url))
        done = run_station("deliveries", "test", "erp")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"{receiver.url}: HTTP 204 after 0.")
        assert receiver.taken[0].event.get_type() == "station.test"
        receiver.answer = lambda _: 401
        done = run_station("deliveries", "test", "erp")
        assert (done.returncode, done.stdout) == (1, "")
        assert "it answered HTTP 401" in done.stderr
    assert "no connection" in run_station("deliveries", "test", "erp").stderr


def test_folder(door, run_station, tmp_path):
    """A folder is written to and its command looked for; nothing stays in it."""
    out = tmp_path / "out"

    def configure(after):
        door.configure(f'[[destination]]\nname = "night"\nkind = "folder"\npath = "{out}"\nat = "02:30"\n{after}')

    configure("")
    done = run_station("deliveries", "test", "night")
    assert done.returncode == 1
    assert "is not a folder" in done.stderr
    out.mkdir()
    assert run_station("deliveries", "test", "night").returncode == 0
    configure('after = ["no-such-command", "-x"]')
    done = run_station("deliveries", "test", "night")
    assert (done.returncode, "no-such-command, is not there" in done.stderr) == (1, True)
    configure('after = ["sh", "-x"]')
    assert "sh is there" in run_station("deliveries", "test", "night").stdout
    assert list(out.iterdir()) == []


def test_made_secrets(door, run_station):
    """What the two commands make is what the configuration takes."""
    made = run_station("deliveries", "secret").stdout.strip()
    assert made != run_station("deliveries", "secret").stdout.strip()
    door.configure(ERP.replace(SECRET, made))
    assert door.settings.destinations["erp"].secret.get_secret_value() == made
    shown = run_station("deliveries", "key").stdout
    key_hash = shown.split()[-1]
    door.configure(f'[[destination]]\nname = "portal"\nkind = "feed"\nkeys = ["{key_hash}"]\n')
    assert door.settings.destinations["portal"].keys == (key_hash,)
    assert "curl" in run_station("deliveries", "test", "portal").stdout
