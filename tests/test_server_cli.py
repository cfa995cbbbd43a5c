"""`station serve`, `migrate` and `check`, as an operator runs them."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forked
import httpx
import pytest
from build import a_request, an_envelope
from process import environment, free_port

REGISTRY = """
[[broker]]
id = "15376371009"
stations = ["15376371009_01"]
[[ec]]
id = "77777777777"
name = "Comune di Vattelapesca"
"""


@pytest.fixture
def station(tmp_path):
    """Runs a command on a database that need not exist, with a configuration file of this text."""

    def run(*arguments, config="", url=None, **env):
        (tmp_path / "station.toml").write_text(config)
        return forked.run(arguments, environment(url or f"sqlite:///{tmp_path / 'new.sqlite3'}", **env), tmp_path)

    return run


def test_schema_behind(station):
    """The server refuses to start on a schema that is behind, and says which command helps."""
    ended = station("serve", "--bind", f"127.0.0.1:{free_port()}")
    assert ended.returncode == 2
    assert "run `station migrate`" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("serve",), ("receipts", "list"), ("receipts", "show", "x"), ("refused", "list"), ("replay", "--stored"),
        ("reconcile",), ("reconcile", "--status"), ("journal", "list"), ("stats",), ("purge", "--raw-months", "12"),
    ],
)  # fmt: skip
def test_no_database_file(station, tmp_path, command):
    """Only `migrate` makes a database file: elsewhere a command says which one and which configuration it asked."""
    ended = station(*command, config='[[ec]]\nid = "77777777777"\n[gpd]\nkey = "synthetic"')
    assert (ended.returncode, ended.stdout) == (2, "")
    file = tmp_path / "new.sqlite3"
    assert f"there is no database file {file}" in ended.stderr
    assert f"database: sqlite:///{file}\n" in ended.stderr
    assert f"configuration file: {tmp_path / 'station.toml'}\n" in ended.stderr
    assert "STATION_DATABASE_URL" in ended.stderr
    assert not list(tmp_path.glob("*.sqlite3*"))
    assert f"WRONG  there is no database file {file}" in station("check").stdout
    assert not list(tmp_path.glob("*.sqlite3*"))


def test_no_configuration(tmp_path):
    """Without any configuration the error says so, and names the default database in this folder."""
    env = environment("")
    del env["STATION_DATABASE_URL"]
    ended = forked.run(["receipts", "list"], env, tmp_path)
    assert ended.returncode == 2
    assert f"database: sqlite:///{tmp_path / 'station.sqlite3'}\n" in ended.stderr
    assert f"none (no --config, no STATION_CONFIG, and there is no {tmp_path / 'station.toml'})" in ended.stderr
    assert "database chosen by: the default" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_database_away(station):
    """An error about the database names it, without its password."""
    url = "postgresql://station_app:hunter2@127.0.0.1:9/station?sslpassword=hunter3"
    for command in (("receipts", "list"), ("migrate",)):
        ended = station(*command, url=url)
        assert ended.returncode == 1
        assert "postgresql://station_app:***@127.0.0.1:9/station" in ended.stderr
        assert "hunter" not in ended.stderr
        assert "Traceback" not in ended.stderr


def test_file_that_vanishes(serve, sqlite_url):
    """A database file that goes away under a running server is not made anew: 503, and no refusal."""
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    server = serve(sqlite_url)
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()
    server.process.send_signal(signal.SIGHUP)  # new workers, new connections; the reload is refused, or it is not
    statuses = set()
    for _ in range(3):
        answer = httpx.post(server.url, content=an_envelope(a_request()), headers={"Content-Type": "text/xml"})
        statuses.add(answer.status_code)
    assert statuses <= {200, 503}  # those that still hold the old file store into it
    assert not file.exists()


@pytest.mark.parametrize(
    "option",
    [
        ("--access-logfile", "-"), ("--error-logfile", "x.log"), ("--log-level", "debug"), ("--capture-output",),
        ("--log-syslog",), ("--statsd-host", "127.0.0.1:8125"), ("--log-config", "x"), ("--daemon",),
    ],
)  # fmt: skip
def test_log_options(station, sqlite_url, option):
    """gunicorn's options for logs that would be ignored are refused, with the word where the log is."""
    ended = station("serve", "--bind", f"127.0.0.1:{free_port()}", *option, url=sqlite_url)
    assert ended.returncode == 2
    assert f"{option[0]} is not supported" in ended.stderr or "--log-file is not supported" in ended.stderr
    assert "standard error" in ended.stderr


def test_preload_is_refused(station, sqlite_url):
    """Locks that are made before the event loop would block all connections of a worker."""
    ended = station("serve", "--bind", f"127.0.0.1:{free_port()}", "--preload", url=sqlite_url)
    assert (ended.returncode, "--preload is not supported" in ended.stderr) == (2, True)


def test_migrate_twice(station, tmp_path):
    """Migrating says what it did, and again does no harm. All of an SQLite database is in its file afterwards."""
    first, second = station("migrate"), station("migrate")
    assert (first.returncode, second.returncode) == (0, 0)
    assert "(was none)" in first.stdout
    assert "already" in second.stdout
    assert [file.name for file in tmp_path.glob("*.sqlite3*")] == ["new.sqlite3"]


def test_check(station):
    """`station check` shows what is configured, secrets masked, and what is wrong."""
    ended = station("check", config=REGISTRY)
    assert ended.returncode == 1
    assert "run `station migrate`" in ended.stdout
    station("migrate", config=REGISTRY)
    ended = station("check", config=REGISTRY)
    assert ended.returncode == 0
    assert "ec 77777777777 Comune di Vattelapesca" in ended.stdout
    assert "broker 15376371009: stations 15376371009_01" in ended.stdout


CONSOLE = """
[console]
auth = "oidc"
url = "http://ricevute.example.invalid"
certificate = "none.pem"
[oidc]
issuer = "http://127.0.0.1:9"
client_id = "console"
client_secret = "hunter2"
[[grant]]
group = "ragioneria"
ecs = ["*"]
role = "operator"
[[account]]
code = "E.1.01"
categories = ["9/0101"]
"""


def test_check_console(station):
    """What the console is told, without secrets, and what keeps it from serving."""
    station("migrate", config=CONSOLE)
    ended = station("check", config=CONSOLE)
    assert ended.returncode == 1
    for line in (
        'console.url = http://ricevute.example.invalid', "oidc.client_id = console", "oidc.client_secret = ****",
        "grant group ragioneria: operator of all ECs", "account E.1.01: categories 9/0101",
        "WRONG  console.url is http", "WRONG  console: ", "none.pem",
        "WRONG  oidc.issuer: the identity provider cannot be used: ",
    ):  # fmt: skip
        assert line in ended.stdout, line
    assert "hunter2" not in ended.stdout
    refused = station("console", config=CONSOLE)
    assert refused.returncode == 2
    assert "console.url is http" in refused.stderr


def test_secret_of_the_console_alone(station):
    """The provider's secret is needed by the console, and by no other process: pushes go on without it."""
    without = CONSOLE.replace('client_secret = "hunter2"\n', "").replace("http://ricevute", "https://ricevute")
    assert station("migrate", config=without).returncode == 0
    assert station("receipts", "list", config=without).returncode == 0
    refused = station("console", config=without)
    assert refused.returncode == 2
    assert "STATION_OIDC_CLIENT_SECRET_FILE" in refused.stderr
    refused = station("console", config=without.replace("issuer", "# issuer"))
    assert "needs issuer in [oidc]" in refused.stderr


def test_check_masks(station):
    """The database's password is masked, and a database that does not answer is named as what is wrong."""
    ended = station("check", url="postgresql://station:hunter2@127.0.0.1:9/station")
    assert ended.returncode == 1
    assert "hunter2" not in ended.stdout + ended.stderr
    assert "WRONG  the database station at 127.0.0.1:9 cannot be reached: " in ended.stdout


def test_open_registry(serve, sqlite_url):
    """Without a registry every idPA is accepted, and the log says so at each start."""
    server = serve(sqlite_url)
    raw = an_envelope(a_request(idPA="11111111111"))
    answer = httpx.post(server.url, content=raw, headers={"Content-Type": "text/xml"})
    assert b"<outcome>OK</outcome>" in answer.content
    assert "registry_open" in server.log


@pytest.mark.parametrize(
    ("config", "url", "words"),
    [
        ("[server]\nthreads = 0", None, "server.threads"),
        ("[sever]", None, "sever: no such setting"),
        ("", "mysql://x", "'mysql' are not supported"),
        ("", "sqlite://", "loses every receipt"),
        ("", "nonsense", "not a database URL"),
        ("", "postgresql://u:synthetic@secret@127.0.0.1:1/x", "write it as %40"),
    ],
)
def test_wrong_configuration(station, config, url, words):
    """A wrong configuration ends every command with status 2 and says what is wrong."""
    for command in ("serve", "check", "migrate"):
        ended = station(command, config=config, url=url)
        assert ended.returncode == 2, command
        assert words in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "secret" not in ended.stdout + ended.stderr


def test_gunicorn_options(serve, sqlite_url):
    """Any gunicorn option may follow, and so does GUNICORN_CMD_ARGS."""
    server = serve(sqlite_url, options=("--workers", "3"), GUNICORN_CMD_ARGS="--threads 2")
    deadline = time.monotonic() + 20
    while server.log.count("Booting worker") < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.log.count("Booting worker") == 3


def test_signals(serve, sqlite_url):
    """SIGHUP starts new workers, SIGTERM ends the server cleanly."""
    server = serve(sqlite_url, fork=False)
    server.process.send_signal(signal.SIGHUP)
    raw = an_envelope(a_request())
    for _ in range(5):
        assert httpx.post(server.url, content=raw, headers={"Content-Type": "text/xml"}).status_code == 200
    server.stop()
    assert server.process.returncode == 0


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGUSR1", "SIGWINCH", "SIGTTIN", "SIGTTOU"])
def test_other_signals(serve, sqlite_url, name):
    """Requests are answered whatever signal comes: no upgrade in place, no log to open again, workers more or less."""
    server = serve(sqlite_url, options=("--workers", "2"))
    raw = an_envelope(a_request())
    with ThreadPoolExecutor(4) as pool, httpx.Client() as client:

        def push(_):
            answer = client.post(server.url, content=raw, headers={"Content-Type": "text/xml", "Connection": "close"})
            return answer.status_code

        pushed = pool.map(push, range(60))
        for _ in range(3):
            assert next(pushed) == 200
            server.process.send_signal(getattr(signal, name))
        assert set(pushed) == {200}
    deadline = time.monotonic() + 20
    while f"Handling signal: {name[3:].lower()}" not in server.log and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ("upgrade_refused" in server.log) == (name == "SIGUSR2")
    assert "can't open file" not in server.log
    server.stop()
    assert server.process.returncode == 0


def test_help(station):
    """Every command explains itself with an example."""
    listed = station("--help")
    assert listed.returncode == 0
    for command in ("serve", "migrate", "check"):
        assert "Example:" in station(command, "--help").stdout


def test_unknown_command(station):
    """An unknown command is a usage error."""
    assert station("nonsense").returncode == 2
