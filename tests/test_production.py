"""`station check --production`: what is missing before going live."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import forked
import psycopg
import pytest
import trustme
from process import environment
from pydantic import SecretStr

from station import config, production, store
from station.store import flows, gauges, users

FORWARDER = "forwarder.platform.pagopa.it"
ROLE = "station_checked"
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
[fdr]
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
    return config.load(file, {"STATION_DATABASE_URL": "postgresql://station_app@database.invalid/station"})


@pytest.fixture(scope="module")
def runtime_role(postgres_migrated):
    """A role that may log in, with the rights that migrating gives to it."""
    with psycopg.connect(postgres_migrated, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {ROLE} LOGIN")
        engine = store.connect(postgres_migrated)
        store.migrate(engine, grant=[ROLE])
        engine.dispose()
        yield ROLE
        owner.execute(f"DROP OWNED BY {ROLE}")
        owner.execute(f"DROP ROLE {ROLE}")


@pytest.fixture
def app_url(request, database_url):
    """URL of a migrated, empty database, as the service has it: on PostgreSQL with the least rights."""
    if database_url.startswith("sqlite"):
        return database_url
    url = store.parse_url(database_url).set(drivername="postgresql", username=request.getfixturevalue("runtime_role"))
    return url.render_as_string(hide_password=False)


@pytest.fixture
def engine(app_url, settings):
    """A database on which every EC was just walked."""
    engine = store.connect(app_url)
    now = datetime.now(UTC)
    with store.transaction(engine) as connection:
        for ec in settings.ec:
            store.runs.set_watermark(connection, ec.id, now, walked_at=now)
            flows.set_walked(connection, ec.id, now)
    yield engine
    engine.dispose()


def changed(settings, section, **values):
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def names(settings, engine):
    return [finding.name for finding in production.findings(settings, engine) if not finding.unsure]


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
        ("server", {"health_listen": "0.0.0.0:8081"}, ["health_public"]),
        ("server", {"health_listen": "[::]:8081"}, ["health_public"]),
        ("server", {"health_listen": "20.86.139.154:8081"}, ["health_public"]),
        ("server", {"health_listen": "10.1.2.3:8081"}, []),
        ("server", {"health_listen": "localhost:8081"}, []),
        ("trust", {"proxy_certificate": None, "nodo": None}, ["no_mutual_tls"]),
        ("trust", {"proxies": ()}, ["no_tls"]),
        ("trust", {"nodo": "uat"}, ["test_let_in", "nodo_not_let_in"]),
        ("trust", {"nodo": "both"}, ["test_let_in"]),
        ("trust", {"nodo": None, "certificates": ("*",)}, ["any_certificate", "nodo_not_let_in"]),
        ("trust", {"nodo": None, "certificates": ("sha256:" + "0" * 64,)}, []),
        ("trust", {"proxies": (ip_network("0.0.0.0/1"),)}, ["proxies_too_wide"]),
        ("trust", {"proxies": (ip_network("2000::/3"), "unix")}, ["proxies_too_wide"]),
        ("trust", {"proxies": (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))}, []),
        ("retention", {"personal_months": None}, ["no_retention"]),
        ("journal", {"enabled": False}, ["no_journal"]),
        ("gpd", {"key": None}, ["no_reconcile_key"]),
        ("fdr", {"key": None}, ["no_fdr_key"]),
        ("fdr", {"url": "http://api.example.invalid/v1"}, ["api_http"]),
        ("biz_events", {"url": "https://api.uat.platform.pagopa.it/bizevents/service/v1"}, ["biz_events_test"]),
        ("gpd", {"url": "http://api.example.invalid/v1"}, ["api_http"]),
        ("gpd", {"positions_url": "http://192.0.2.1/v1"}, ["api_http"]),
        ("gpd", {"url": "http://127.0.0.1:8000/v1", "positions_url": "http://localhost/v1"}, []),
        ("gpd", {"url": "https://api.uat.platform.pagopa.it/gpd/payments-receipts-service/v1"}, ["gpd_test"]),
    ],
)
def test_one_lacks(settings, engine, section, values, expected):
    """Each thing that is missing is named, and nothing else is."""
    assert names(changed(settings, section, **values), engine) == expected


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8082", []),
        ("localhost:8082", []),
        ("[::1]:8082", []),
        ("unix:/run/station/api.sock", []),
        ("0.0.0.0:8082", [("feed_no_tls", False)]),
        ("[::]:8082", [("feed_no_tls", False)]),
        ("feed.example.invalid:8082", [("feed_no_tls", False)]),
        ("172.30.80.4:8082", [("feed_no_tls", True)]),
    ],
)
def test_feed_without_tls(settings, listen, expected):
    """A feed that other machines reach has TLS, or a proxy in a network of their own, which the station cannot see."""
    reader = config.Feed(kind="feed", name="erp", keys=["sha256:" + "0" * 64])
    served = changed(settings, "api", listen=listen).model_copy(update={"destination": (reader,)})
    assert [(one.name, one.unsure) for one in production._feed(served)] == expected
    certified = changed(served, "api", certificate="both.pem")
    assert list(production._feed(certified)) == list(production._feed(changed(settings, "api", listen=listen))) == []


CONSOLE = {"url": "https://ricevute.example.invalid", "proxies": (ip_network("127.0.0.1"),)}
ANNA = config.Grant(user="anna", ecs=["77777777777"])
STAFF = config.Grant(group="staff", ecs=["*"])
OIDC = {"issuer": "http://sso.example.invalid", "client_id": "console", "client_secret": SecretStr("synthetic")}


def with_console(settings, *grants, **values):
    served = changed(changed(settings, "console", **(CONSOLE | values)), "retention", access_months=24)
    return served.model_copy(update={"grant": grants})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, []),
        ({"listen": "unix:/run/station/console.sock"}, []),
        ({"listen": "0.0.0.0:8083"}, [("console_no_tls", False)]),
        ({"listen": "172.30.80.5:8083"}, [("console_no_tls", True)]),
        ({"proxies": ()}, [("console_proxies_missing", False)]),
        ({"proxies": (ip_network("2000::/3"), "unix")}, [("console_proxies_too_wide", False)]),
        ({"proxies": (ip_network("10.42.0.0/16"),)}, [("console_proxies_too_wide", True)]),
        ({"auth": "oidc"}, [("oidc_http", False)]),
    ],
)
def test_console(settings, values, expected):
    """What a console lacks is named, where it has users; where it has none, it is not used."""
    served = changed(with_console(settings, ANNA, **values), "oidc", **OIDC)
    assert [(one.name, one.unsure) for one in production.console.findings(served)] == expected
    assert list(production.console.findings(served.model_copy(update={"grant": ()}))) == []


def test_console_for_all(settings):
    """A group that sees all of several ECs is pointed out, and look-ups that are kept for ever."""
    several = with_console(settings, STAFF).model_copy(update={"ec": (*settings.ec, config.Ec(id="88888888888"))})
    assert [one.name for one in production.console.findings(several)] == ["grant_all_ecs"]
    kept = changed(with_console(settings, ANNA), "retention", access_months=None)
    assert [one.name for one in production.console.findings(kept)] == ["no_access_retention"]


def test_console_certificate(settings, tmp_path, sqlite_url):
    """The console's certificate is for its own name, and lasts."""
    served = with_console(settings, ANNA, proxies=(), certificate=a_certificate(tmp_path, "other.example.invalid", 20))
    found = [one for one in names(served, store.connect(sqlite_url)) if "certificate" in one]
    assert found == ["certificate_ends", "console_certificate_other_name"]


def test_grants_without_effect(settings, engine):
    """Of the console's own users: a group, a name that no user has, and a user whom no grant names."""
    Anna = config.Grant(user="Anna", ecs=["*"])  # noqa: N806  (the local name is in small letters)
    with store.transaction(engine) as connection:
        users.add_user(connection, "anna", display_name="A", password_hash="x", now=datetime.now(UTC))
    served = with_console(settings, Anna, STAFF)
    found = {one.name: one.what for one in production.notes(served, engine)}
    assert list(found) == ["grant_of_group", "grant_of_unknown_user", "user_without_grant"]
    assert "Anna" in found["grant_of_unknown_user"]
    assert production.notes(with_console(settings, ANNA), engine) == []
    assert production.notes(changed(served, "console", auth="proxy"), engine) == []


def test_registry(settings, engine):
    """An open registry lacks ECs and brokers."""
    assert names(settings.model_copy(update={"ec": (), "broker": ()}), engine) == ["registry_open", "brokers_open"]


def test_not_reconciled(settings, app_url, connect):
    """An EC that was never walked, or not for too long, is named."""
    engine = connect(app_url)
    [finding] = [one for one in production.findings(settings, engine) if one.name == "not_reconciled"]
    assert "77777777777" in finding.what
    long_ago = datetime.now(UTC) - timedelta(days=30)
    with store.transaction(engine) as connection:
        store.runs.set_watermark(connection, "77777777777", long_ago, walked_at=long_ago)
    assert names(settings, engine) == ["not_reconciled", "fdr_not_walked"]


def test_flows_not_walked(settings, engine):
    """An EC whose flows were not walked for too long, and one with a gap, is named."""
    long_ago = datetime.now(UTC) - timedelta(days=40)
    with store.transaction(engine) as connection:
        flows.set_walked(connection, "77777777777", long_ago)
        flows.note_gap(connection, "77777777777", long_ago, datetime.now(UTC))
    assert names(settings, engine) == ["fdr_not_walked", "fdr_gap"]
    assert names(changed(settings, "fdr", key=None), engine) == ["no_fdr_key", "fdr_gap"]


def test_sqlite_with_several_workers(settings, sqlite_url):
    """More worker processes on SQLite than two are named."""
    file = settings.database.model_copy(update={"url": SecretStr(sqlite_url)})
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
    assert [
        one for one in names(own, store.connect(sqlite_url)) if not one.endswith(("_reconciled", "_walked"))
    ] == expected


def test_clock(settings, engine, monkeypatch):
    """Clocks that are apart are named with the difference."""
    monkeypatch.setattr(gauges, "clock", lambda _: datetime.now(UTC) + timedelta(seconds=90))
    [finding] = [one for one in production.findings(settings, engine) if not one.unsure]
    assert finding.name == "clock_skew"
    assert "90 s" in finding.what or "89 s" in finding.what


@pytest.mark.parametrize(("text", "code"), [("", 1), (READY, 1)])
def test_command(tmp_path, sqlite_url, text, code):
    """The command tells what to do for each, and exits 1 where anything is missing."""
    (tmp_path / "station.toml").write_text(text)
    ended = forked.run(["check", "--production", "--offline"], environment(sqlite_url), tmp_path)
    assert ended.returncode == code
    assert "MISSING  not_" in ended.stdout
    assert ("MISSING  no_mutual_tls" in ended.stdout) is (not text)
    assert "Traceback" not in ended.stderr


def test_command_ready(tmp_path, engine, app_url):
    """Where nothing is missing the command exits 0, whatever it cannot see."""
    (tmp_path / "station.toml").write_text(READY)
    env = environment(app_url, STATION_SERVER_HEALTH_LISTEN="127.0.0.1:8081")
    ended = forked.run(["check", "--production", "--offline"], env, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "NOTE   backup_unseen" in ended.stdout
    assert ended.stdout.endswith("ok\n")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, ["sqlite_by_default"]),
        ("sqlite:///station.sqlite3", ["sqlite_relative"]),
        ("sqlite:////var/lib/station/station.sqlite3", []),
    ],
)
def test_where_sqlite_is(settings, tmp_path, url, expected):
    """SQLite that nobody chose, or that is another file in each folder, is named."""
    environ = {"STATION_DATABASE_URL": url} if url else {}
    chosen = config.load(tmp_path / "station.toml", environ).database
    found = names(settings.model_copy(update={"database": chosen}), store.connect("postgresql://x@127.0.0.1:9/x"))
    assert found == expected


def test_one_role_for_all(settings, postgres_url, connect):
    """A service that runs with the role that owns the tables is named."""
    engine = connect(postgres_url)
    [finding] = [one for one in production.findings(settings, engine) if one.name == "role_may_too_much"]
    assert "drop the tables, delete receipts, create tables" in finding.what


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (gauges.Durability(("fsync",), archiving=True, archive_failing=False, standbys=0), ["not_durable"]),
        (gauges.Durability((), archiving=True, archive_failing=True, standbys=0), ["archive_failing"]),
        (gauges.Durability((), archiving=False, archive_failing=False, standbys=1), []),
        (gauges.Durability((), archiving=False, archive_failing=False, standbys=0), ["backup_unseen"]),
    ],
)
def test_durability(settings, engine, monkeypatch, seen, expected):
    """What PostgreSQL could lose is named, and that no backup shows."""
    monkeypatch.setattr(gauges, "durability", lambda _: seen)
    assert [finding.name for finding in production.findings(settings, engine)] == expected


def test_durability_is_seen(postgres_url, connect):
    """A setting that is off is seen, be it for this session alone."""
    engine = connect(postgres_url)
    with store.transaction(engine) as connection:
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        assert gauges.durability(connection) == gauges.Durability(("synchronous_commit",), False, False, 0)
