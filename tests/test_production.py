"""`station check --production`: what is missing before going live."""

from datetime import UTC, datetime, timedelta

import forked
import pytest
import trustme
from process import environment

from station import config, production, store

FORWARDER = "forwarder.platform.pagopa.it"
READY = """
[server]
public_url = "https://pagopa.example.invalid/paForNode"
[trust]
proxies = ["unix"]
proxy_certificate = "nginx"
nodo = "production"
[retention]
personal_months = 120
[gpd]
key = "synthetic-key"
[[broker]]
id = "15376371009"
stations = ["15376371009_01"]
[[ec]]
id = "77777777777"
"""


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "station.toml"
    file.write_text(READY)
    return config.load(file, {})


@pytest.fixture
def engine(database_url, settings):
    """A database on which every EC was just walked."""
    engine = store.connect(database_url)
    now = datetime.now(UTC)
    with store.transaction(engine) as connection:
        for ec in settings.ec:
            store.runs.set_watermark(connection, ec.id, now, walked_at=now)
    yield engine
    engine.dispose()


def changed(settings, section, **values):
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def names(settings, engine):
    return [lack.name for lack in production.lacks(settings, engine)]


def a_certificate(folder, name, days):
    file = folder / "certificate.pem"
    end = datetime.now(UTC) + timedelta(days=days)
    issued = trustme.CA().issue_cert(name, not_after=end)
    file.write_bytes(issued.cert_chain_pems[0].bytes())
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    return file


def test_nothing_lacks(settings, engine):
    """A configuration that has it all lacks nothing."""
    assert names(settings, engine) == []


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("server", {"public_url": None}, ["no_public_url"]),
        ("server", {"public_url": "http://pagopa.example.invalid/x"}, ["public_url_http"]),
        ("server", {"public_url": "https://192.0.2.1/x"}, ["public_url_no_name"]),
        ("server", {"public_url": "https://localhost/x"}, ["public_url_no_name"]),
        ("server", {"health_listen": ""}, ["not_watched"]),
        ("trust", {"proxy_certificate": None, "nodo": None}, ["no_mutual_tls"]),
        ("trust", {"proxies": ()}, ["no_tls"]),
        ("trust", {"nodo": "uat"}, ["test_let_in", "nodo_not_let_in"]),
        ("trust", {"nodo": "both"}, ["test_let_in"]),
        ("trust", {"nodo": None, "certificates": ("*",)}, ["any_certificate", "nodo_not_let_in"]),
        ("trust", {"nodo": None, "certificates": ("sha256:" + "0" * 64,)}, []),
        ("retention", {"personal_months": None}, ["no_retention"]),
        ("journal", {"enabled": False}, ["no_journal"]),
        ("gpd", {"key": None}, ["no_reconcile_key"]),
        ("gpd", {"url": "https://api.uat.platform.pagopa.it/gpd/payments-receipts-service/v1"}, ["gpd_test"]),
    ],
)
def test_one_lacks(settings, engine, section, values, expected):
    """Each thing that is missing is named, and nothing else is."""
    assert names(changed(settings, section, **values), engine) == expected


def test_registry(settings, engine):
    """An open registry lacks ECs and brokers."""
    assert names(settings.model_copy(update={"ec": (), "broker": ()}), engine) == ["registry_open", "brokers_open"]


def test_not_reconciled(settings, database_url):
    """An EC that was never walked, or not for too long, is named."""
    engine = store.connect(database_url)
    [lack] = production.lacks(settings, engine)
    assert lack.name == "not_reconciled"
    assert "77777777777" in lack.what
    long_ago = datetime.now(UTC) - timedelta(days=30)
    with store.transaction(engine) as connection:
        store.runs.set_watermark(connection, "77777777777", long_ago, walked_at=long_ago)
    assert names(settings, engine) == ["not_reconciled"]
    engine.dispose()


def test_sqlite_with_several_workers(settings, sqlite_url):
    """More worker processes on SQLite than two are named."""
    file = settings.database.model_copy(update={"url": config.SecretStr(sqlite_url)})
    engine = store.connect(sqlite_url)
    for workers, expected in ((4, True), (2, False), (0, False)):
        with_file = changed(settings, "server", workers=workers).model_copy(update={"database": file})
        assert ("sqlite_workers" in names(with_file, engine)) is expected


@pytest.mark.parametrize(
    ("name", "days", "expected"),
    [
        ("pagopa.example.invalid", 365, []),
        ("*.example.invalid", 365, []),
        ("*.invalid", 365, ["certificate_other_name"]),
        ("other.example.invalid", 365, ["certificate_other_name"]),
        ("pagopa.example.invalid", 29, ["certificate_ends"]),
    ],
)
def test_certificate(settings, sqlite_url, tmp_path, name, days, expected):
    """The station's certificate must be for the registered name and last 30 days."""
    own = changed(settings, "tls", certificate=a_certificate(tmp_path, name, days))
    assert [one for one in names(own, store.connect(sqlite_url)) if one != "not_reconciled"] == expected


def test_clock(settings, engine, monkeypatch):
    """Clocks that are apart are named with the difference."""
    monkeypatch.setattr(store, "clock", lambda _: datetime.now(UTC) + timedelta(seconds=90))
    [lack] = production.lacks(settings, engine)
    assert lack.name == "clock_skew"
    assert "90 s" in lack.what or "89 s" in lack.what


@pytest.mark.parametrize(("text", "code"), [("", 1), (READY, 1)])
def test_command(tmp_path, sqlite_url, text, code):
    """The command tells what to do for each, and exits 1 where anything is missing."""
    (tmp_path / "station.toml").write_text(text)
    ended = forked.run(["check", "--production", "--offline"], environment(sqlite_url), tmp_path)
    assert ended.returncode == code
    assert "LACKS  not_" in ended.stdout
    assert ("LACKS  no_mutual_tls" in ended.stdout) is (not text)
    assert "Traceback" not in ended.stderr


def test_command_ready(tmp_path, engine, database_url):
    """Where nothing is missing the command exits 0."""
    (tmp_path / "station.toml").write_text(READY)
    env = environment(database_url, STATION_SERVER_HEALTH_LISTEN="127.0.0.1:8081")
    ended = forked.run(["check", "--production", "--offline"], env, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("ok\n")
