"""What commands print: nothing that came from outside is obeyed, and times and columns are as people want them."""

import ast
import json
import re
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import click
import forked
import pytest
from process import STATION, environment
from sqlalchemy import JSON, Boolean, Date, LargeBinary, String

from station import clock, store
from station.cli import cli
from station.cli.output import table
from station.store import tables
from station.text import printable

# A colour, a bell, a forged line, a C1 control, an override of direction, and what rich takes for markup.
HOSTILE = "\x1b[31m\a\r\nFORGED\x9b2J\u202e[/red][bold]xł"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
EC = "77777777777"
NOW = datetime.now(UTC).replace(microsecond=0)
NOTICE = "301000000000000017"


# --- foreign text -----------------------------------------------------------------------------------------------------


def test_printable():
    """Everything a terminal obeys is written out, a lone surrogate and what is too long too; the rest stays."""
    assert printable("Nicolò D'Àngelo [red]") == "Nicolò D'Àngelo [red]"
    assert printable(HOSTILE) == r"\x1b[31m\x07\r\nFORGED\x9b2J\u202e[/red][bold]xł"
    assert printable("\ud800\u2028") == r"\ud800\u2028"
    assert printable("y" * 9000) == "y" * 500 + "..."
    assert printable(printable(HOSTILE)) == printable(HOSTILE)


def test_one_way_out():
    """Commands print by `station.cli.output` alone."""
    folder = Path(__file__).parent.parent / "station" / "cli"
    for file in set(folder.glob("*.py")) - {folder / "output.py"}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "click.echo", "click.secho", "echo"), f"{file.name}:{node.lineno}"
                assert not called.endswith((".print", "stdout.write", "stderr.write")), f"{file.name}:{node.lineno}"


# What must be right for a row to be found at all; every other text is hostile.
REAL = {
    "receipt": {"id_pa": EC, "receipt_id": HOSTILE, "source": "push"},
    "transfer": {"id_pa": EC, "receipt_id": HOSTILE},
    "receipt_flag": {"id_pa": EC, "receipt_id": HOSTILE},
    "receipt_route": {"id_pa": EC, "receipt_id": HOSTILE},
    "receipt_document": {"id_pa": EC, "receipt_id": HOSTILE},
    "refused": {"id_pa": EC, "state": "open", "refused_id": "9ad2f1c05b7e44aa", "raw": b"\x1b[31m\n<x"},
    "refused_history": {"id_pa": EC},
    "journal": {"id_pa": EC},
    "purge_progress": {},
    "reconcile_ec": {"id_pa": EC},
    "reconcile_run": {"id_pa": EC},
    "reconcile_item": {"id_pa": EC, "state": "open"},
    "outbox": {"id_pa": EC, "receipt_id": HOSTILE},
    "outgoing": {"id_pa": EC, "receipt_id": HOSTILE},
    "outgoing_check": {"id_pa": EC},
    "destination": {"name": "hostile", "kind": "webhook"},
    "delivery": {"destination": "hostile", "state": "open"},
    "delivery_count": {"destination": "hostile"},
    "delivery_file": {"destination": "hostile", "state": "planned"},
    "fdr_ec": {"id_pa": EC, "gap_acknowledged_at": None, "watermark": NOW + timedelta(days=30)},
    "fdr_run": {"id_pa": EC},
    "fdr_flow": {"id_pa": EC, "fdr": "2026-11-10ABI", "superseded": False},
    "fdr_payment": {
        "id_pa": EC,
        "fdr": "2026-11-10ABI",
        "superseded": False,
        "matched_by": None,
        "receipt_id_pa": EC,
        "receipt_id": HOSTILE,
    },
    "fdr_awaited": {"id_pa": EC, "receipt_id": HOSTILE},
}


def value(column):
    """Something for a column: hostile text wherever text fits."""
    kind = column.type
    if isinstance(kind, String):
        return HOSTILE[: kind.length]
    if isinstance(kind, tables.UtcDateTime):
        return NOW
    if isinstance(kind, JSON):
        return [[HOSTILE, HOSTILE]]
    if isinstance(kind, LargeBinary):
        return b"\x1b" * 32
    if isinstance(kind, Date):
        return NOW.date()
    return isinstance(kind, Boolean) or 1


@pytest.fixture
def hostile_url(sqlite_url):
    """A database each of whose text columns is hostile, with a row in each table."""
    engine = store.connect(sqlite_url)
    with store.transaction(engine) as connection:
        for one in tables.metadata.sorted_tables:
            row = {column.name: value(column) for column in one.c} | REAL.get(one.name, {})
            connection.execute(one.insert(), [row])
            if one.name == "receipt":  # and the twin of a double payment
                connection.execute(one.insert(), [row | {"receipt_id": "twin", "notice_ordinal": 2}])
            if one.name in ("destination", "delivery_file"):  # and a folder
                name = "name" if one.name == "destination" else "destination"
                connection.execute(
                    one.insert(), [row | {name: "night"} | ({"kind": "folder"} if "kind" in row else {})]
                )
            if one.name == "fdr_flow":  # and one that could not be read
                connection.execute(one.insert(), [row | {"revision": 2, "fetched_at": None}])
    engine.dispose()
    return sqlite_url


CONFIG = f'[[ec]]\nid = "{EC}"\nname = {json.dumps(HOSTILE)}\n[[ec]]\nid = "88888888888"\n'
CONFIG += '[[destination]]\nname = "hostile"\nkind = "webhook"\nurl = "http://127.0.0.1:9/"\nstart = "beginning"\n'
CONFIG += 'secret = "whsec_c3RhdGlvbi10ZXN0LXNlY3JldC0wMDAwMDAwMQ=="\n'
CONFIG += f'[[destination]]\nname = "night"\nkind = "folder"\npath = {json.dumps(HOSTILE)}\nat = "02:30"\n'
COMMANDS = {
    "api": [["-c", "wrong.toml", "api"]],
    "console": [["-c", "wrong.toml", "console"]],
    "console user add": [
        ["console", "user", "add", HOSTILE],
        ["console", "user", "add", "a", "--display-name", HOSTILE],
    ],
    "console user disable": [["console", "user", "disable", HOSTILE]],
    "console user enable": [["console", "user", "enable", "anna"]],
    "console user list": [["console", "user", "list"], ["console", "user", "list", "--json"]],
    "console user password": [["console", "user", "password", HOSTILE], ["console", "user", "password", "anna"]],
    "console user remove": [["console", "user", "remove", "anna"]],
    "console user unlock": [["console", "user", "unlock", HOSTILE]],
    "check": [["check"]],
    "deliver": [["deliver", "--once"]],
    "deliveries again": [
        ["deliveries", "again", "hostile", "--from", "1", "--dry-run"],
        ["deliveries", "again", HOSTILE, "--failed"],
        ["deliveries", "again", "hostile", "--from", HOSTILE],
        ["deliveries", "again", "hostile", "--receipt", HOSTILE],
    ],
    "deliveries key": [["deliveries", "key"]],
    "deliveries list": [
        ["deliveries", "list", "hostile"],
        ["deliveries", "list", "hostile", "--wide"],
        ["deliveries", "list", "hostile", "--json"],
        ["deliveries", "list", "night", "--wide"],
        ["deliveries", "list", HOSTILE],
    ],
    "deliveries pause": [["deliveries", "pause", "hostile", "--reason", HOSTILE, "--operator", HOSTILE]],
    "deliveries resume": [["deliveries", "resume", "hostile", "--operator", HOSTILE]],
    "deliveries secret": [["deliveries", "secret"]],
    "deliveries show": [
        ["deliveries", "show", HOSTILE],
        ["deliveries", "show", HOSTILE, "--wide"],
        ["deliveries", "show", HOSTILE, "--json"],
        ["deliveries", "show", HOSTILE + "none"],
    ],
    "deliveries skip": [["deliveries", "skip", "hostile", "--from", "1", "--reason", HOSTILE, "--operator", HOSTILE]],
    "deliveries status": [
        ["deliveries", "status"],
        ["deliveries", "status", "--wide"],
        ["deliveries", "status", "--json"],
    ],
    "deliveries test": [["deliveries", "test", "night"], ["deliveries", "test", HOSTILE]],
    "demo": [],  # all it shows it makes up itself
    "fdr list": [["fdr", "list", *more] for more in ([], ["--wide"], ["--json"])],
    "fdr missing": [["fdr", "missing", *more] for more in ([], ["--wide"], ["--json"])],
    "fdr show": [
        ["fdr", "show", HOSTILE],
        *(["fdr", "show", "/URI/2026-11-10", *more] for more in ([], ["--wide"], ["--json"])),
        ["fdr", "show", f"/URI/{HOSTILE}"],
        ["fdr", "show", "/RFB/01000000000000017/1.00", "--wide"],
    ],
    "fdr uncredited": [["fdr", "uncredited", *more] for more in ([], ["--wide"], ["--json"])],
    "grants": [["grants", HOSTILE], ["grants", HOSTILE, "--console"]],
    "journal export": [["journal", "export", HOSTILE + "/x.csv"]],
    "journal list": [["journal", "list"], ["journal", "list", "--wide"], ["journal", "list", "--json"]],
    "migrate": [["migrate"]],
    "purge": [["purge", "--raw-months", "1"], ["purge", "--raw-months", HOSTILE]],
    "receipts export": [["receipts", "export", HOSTILE + "/x.csv"], ["receipts", "export", "--format", "jsonl", "-"]],
    "receipts list": [
        ["receipts", "list"],
        ["receipts", "list", "--wide"],
        ["receipts", "list", "--json"],
        ["receipts", "list", "--iuv", HOSTILE + "none"],
        ["receipts", "list", "--notice", HOSTILE],
        ["receipts", "list", "--paid-from", HOSTILE],
        ["receipts", "list", "--flag", HOSTILE],
        ["receipts", "list", "--" + HOSTILE],
    ],
    "receipts pdf": [
        ["receipts", "pdf", HOSTILE, "-o", HOSTILE + ".pdf"],
        ["receipts", "pdf", HOSTILE, "-o", "hostile.pdf"],
        ["receipts", "pdf", "--iuv", HOSTILE],
        ["receipts", "pdf", "--folder", "copies", "--attach-xml"],
    ],
    "receipts show": [
        ["receipts", "show", HOSTILE],
        ["receipts", "show", HOSTILE, "--json"],
        ["receipts", "show", "--iuv", HOSTILE],
    ],
    "receipts stamps": [["receipts", "stamps", "stamps"]],
    "reconcile": [
        ["reconcile", "--status"],
        ["reconcile", "--status", "--wide"],
        ["reconcile", "--status", "--json"],
        ["reconcile", "--ec", HOSTILE],
    ],
    "fdr": [
        ["fdr", "--status"],
        ["fdr", "--status", "--wide"],
        ["fdr", "--status", "--json"],
        ["fdr", "--ec", HOSTILE],
    ],
    "fdr acknowledge": [["fdr", "acknowledge", "--operator", HOSTILE], ["fdr", "acknowledge", "--ec", HOSTILE]],
    "refused discard": [["refused", "discard", "9ad2", "--reason", HOSTILE, "--operator", HOSTILE]],
    "refused list": [["refused", "list"], ["refused", "list", "--wide"], ["refused", "list", "--json"]],
    "refused show": [["refused", "show", "9ad2"], ["refused", "show", "9ad2", "--json"]],
    "replay": [
        ["replay", "--refused", "--dry-run"],
        ["replay", "--stored", "--dry-run", "--reveal"],
        ["replay", "--stored", "--dry-run", "--json"],
        ["replay", "--file", HOSTILE],
    ],
    "serve": [["-c", "wrong.toml", "serve"]],
    "stats": [["stats"], ["stats", "--detail"], ["stats", "--json"], ["stats", "--html", "page.html"]],
}


def leaves(command=cli, name=""):
    if isinstance(command, click.Group):
        context = click.Context(command)
        if command.invoke_without_command:
            yield name
        for word in command.list_commands(context):
            yield from leaves(command.get_command(context, word), f"{name} {word}".strip())
    else:
        yield name


def test_hostile_database(hostile_url, tmp_path):
    """No command obeys what its arguments, its configuration or the database hold, or takes it for markup."""
    assert set(COMMANDS) == set(leaves())
    (tmp_path / "station.toml").write_text(CONFIG)
    (tmp_path / "wrong.toml").write_text(f"[server]\n{json.dumps(HOSTILE)} = 1\n")
    shown = ""
    for arguments in (one for each in COMMANDS.values() for one in each):
        done = forked.run(arguments, environment(hostile_url), tmp_path)
        printed = done.stdout + done.stderr
        assert not OBEYED.search(printed), (arguments, printed)
        assert not re.search("^FORGED", printed, re.MULTILINE), (arguments, printed)
        assert "Traceback" not in printed, (arguments, printed)
        assert done.returncode in (0, 1, 2), (arguments, printed)
        shown += printed
    assert r"FORGED\x9b2J\u202e[/red][bold]x" in shown
    page = (tmp_path / "page.html").read_text()
    assert not OBEYED.search(page)
    assert r"FORGED\x9b2J" in page


def test_terminal_of_another_encoding(hostile_url, tmp_path):
    """A character that the terminal's encoding does not have is written out."""
    environ = environment(hostile_url, PYTHONIOENCODING="iso-8859-1")
    command = [STATION, "receipts", "show", "twin"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"[/red][bold]x\u0142" in done.stdout


def test_csv_for_a_terminal(hostile_url, tmp_path):
    """CSV is exact in a pipe: what reads it is a program."""
    done = forked.run(["receipts", "list", "--csv"], environment(hostile_url), tmp_path)
    assert HOSTILE.replace("\r\n", "\n") in done.stdout.replace("\r\n", "\n")


# --- times ------------------------------------------------------------------------------------------------------------

SUMMER = datetime(2026, 7, 1, 8, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("01/07/2026 10:05", SUMMER),
        ("1/7/2026 10:05:00", SUMMER),
        ("2026-07-01 10:05", SUMMER),
        ("2026-07-01T10:05", SUMMER),
        ("2026-07-01T08:05Z", SUMMER),
        ("2026-07-01T10:05:00+02:00", SUMMER),
        ("28/11/2026", datetime(2026, 11, 27, 23, tzinfo=UTC)),
        (" 2026-11-28 ", datetime(2026, 11, 27, 23, tzinfo=UTC)),
        ("20261128", datetime(2026, 11, 27, 23, tzinfo=UTC)),
    ],
)
def test_moment(typed, meant):
    """A time is read as people write it and in ISO 8601; without a zone it is Italian."""
    assert clock.moment(typed) == meant
    if ":" not in typed:
        assert clock.moment(typed, end=True) == meant + timedelta(days=1)
        assert clock.day(typed) == date(2026, 11, 28)


@pytest.mark.parametrize(
    "typed", ["yesterday", "31/02/2026", "28/11/26", "28/11/2026 25:00", "", "9" * 5000, "²/7/2026"]
)
def test_not_a_moment(typed):
    with pytest.raises(ValueError):
        clock.moment(typed)


def test_shown():
    """Times are shown in one form; the ends of what Python knows are, too."""
    assert clock.shown(SUMMER) == "01/07/2026 10:05:00"
    assert clock.shown(date(2026, 11, 8)) == "08/11/2026"
    assert clock.shown(datetime.max.replace(tzinfo=UTC)) == "31/12/9999 23:59:59"
    assert clock.shown(None) == ""


def test_one_kind_of_time():
    """Every option that takes a time takes it in the same forms; none has a type of its own."""
    for name in leaves():
        command = cli
        for word in name.split():
            command = command.get_command(click.Context(command), word)
        for option in command.params:
            assert not isinstance(option.type, click.DateTime)
            if re.search("(from|to|since|until)$", option.name or "") and option.type.name == "text":
                pytest.fail(f"{name} {option.name}")


@pytest.mark.parametrize("name", ["reconcile", "fdr", "replay", "refused list", "refused show"])
def test_italian_times_are_said(run_station, name):
    """The help of a command that shows or takes times says whose they are."""
    assert "times are Italian" in run_station(*name.split(), "--help").stdout


# --- columns ----------------------------------------------------------------------------------------------------------


def test_table_fits(capsys):
    """The widest identifiers fit 80 columns, whole."""
    cells = ("28/11/2026 14:05:09", EC, NOTICE, "VRDLGI70B02F205Z", Decimal("999999999.99"))
    table(("received (Italy)", "EC", "notice number", "debtor", "euro"), [cells], right=("euro",))
    lines = capsys.readouterr().out.splitlines()
    assert [len(line) for line in lines] == [80, 80]
    assert lines[1].split() == ["28/11/2026", "14:05:09", *map(str, cells[1:])]


def test_help_of_all():
    """The line of each command in `station --help` is how its own help begins."""
    from station.cli import _COMMANDS

    for name, (_, line) in _COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert " ".join((command.help or "").split()).startswith(line.removesuffix("."))


# --- imports ----------------------------------------------------------------------------------------------------------

_LOADED = """
import sys
from station.cli import main
sys.argv = ["station", *sys.argv[1:]]
try:
    main()
except SystemExit:
    pass
sys.stdout.flush()
print(*sys.modules, file=sys.stderr)
"""
NEVER = ("psycopg", "alembic", "rich", "structlog", "lxml", "spyne", "gunicorn", "httpx", "prometheus_client")
HEAVY = {
    "--help": ("pydantic", "sqlalchemy", *NEVER),
    "receipts --help": ("pydantic", *NEVER),
    "receipts show X": ("sqlalchemy.dialects.postgresql", "station.intake", *NEVER),
    "receipts list": ("sqlalchemy.dialects.postgresql", "station.intake", *NEVER),
}


@pytest.mark.parametrize("command", HEAVY)
def test_imports(sqlite_url, tmp_path, command):
    """A command that people type, once for each receipt, imports what it needs and no more: imports were its time."""
    arguments = [sys.executable, "-c", _LOADED, *command.split()]
    done = subprocess.run(
        arguments, env=environment(sqlite_url), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    loaded = done.stderr.splitlines()[-1].split()
    assert "station.cli" in loaded
    assert [one for one in HEAVY[command] if one in loaded] == []


def test_lazy_store():
    """What the store loads when it is asked for is what type checkers are told; `load` loads all of it."""
    tree = ast.parse(Path(store.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    told = {(one.name, node.module) for node in block.body for one in node.names}
    assert told - {("runs", "station.store")} == set(store._HOME.items())
    store.load()
    assert all(name in vars(store) for name in store._HOME)
