"""The configuration: read, overridden, and wrong values named with their place."""

import pytest

from station import config
from station.errors import ConfigError

FULL = """
[database]
url = "postgresql://station:hunter2@db/station"

[server]
listen = "0.0.0.0:8443"
public_url = "https://pagopa.example.invalid/paForNode"
threads = 4

[rules]
strict_stations = true

[[broker]]
id = "15376371009"
stations = ["15376371009_01", "15376371009_02"]

[[ec]]
id = "77777777777"
name = "Comune di Vattelapesca"
stations = ["15376371009_01"]
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a file with this text, and an environment."""
    monkeypatch.chdir(tmp_path)

    def load(text=None, **environ):
        if text is not None:
            (tmp_path / "station.toml").write_text(text)
        return config.load(environ=environ)

    return load


def test_defaults(load):
    """Without file and environment the station is open, on SQLite and loopback."""
    settings = load()
    assert settings.open_registry
    assert settings.server.listen == "127.0.0.1:8080"
    assert settings.database.url.get_secret_value() == "sqlite:///station.sqlite3"


def test_file(load):
    """The file says what is ours."""
    settings = load(FULL)
    assert settings.brokers["15376371009"].stations == ("15376371009_01", "15376371009_02")
    assert settings.ecs["77777777777"].name == "Comune di Vattelapesca"
    assert settings.rules.strict_stations
    assert not settings.open_registry
    assert settings.own_id == "15376371009"


def test_environment(load, tmp_path):
    """The environment goes before the file, a secret may lie in a file, and other variables are none of ours."""
    secret = tmp_path / "url"
    secret.write_text("sqlite:///elsewhere.sqlite3\n")
    settings = load(
        FULL,
        STATION_DATABASE_URL_FILE=str(secret),
        STATION_SERVER_THREADS="9",
        STATION_RULES_STRICT_STATIONS="false",
        STATION_SERVICE_HOST="10.0.0.1",
    )
    assert settings.database.url.get_secret_value() == "sqlite:///elsewhere.sqlite3"
    assert settings.server.threads == 9
    assert not settings.rules.strict_stations


def test_secret_is_not_shown(load):
    """No representation of the settings shows the password."""
    assert "hunter2" not in repr(load(FULL)) + str(load(FULL))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[database]\nurl = 5", ["station.toml: database.url"]),
        ("[server]\nthreads = 'many'", ["station.toml: server.threads", "integer"]),
        ("[server]\nthread = 3", ["station.toml: server.thread", "no such setting"]),
        ("[[ec]]\nid = '123'", ["station.toml: ec[0].id"]),
        ("[[ec]]\nname = 'x'", ["station.toml: ec[0].id", "required"]),
        ("[[ec]]\nid='77777777777'\n[[ec]]\nid='77777777777'", ["77777777777 is listed twice"]),
        ("[[broker]]\nid='b'\n[[ec]]\nid='77777777777'\nstations=['s']", ["station s does not belong to any broker"]),
        ("[rules]\nunknown_elements = 'perhaps'", ["station.toml: rules.unknown_elements", "'accept' or 'refuse'"]),
        ("server = 3", ["station.toml: server"]),
        ("[server\n", ["station.toml: not valid TOML", "line 1"]),
        ("[server]\nthreads = 0\nmax_body = 1", ["server.threads", "server.max_body"]),
    ],
)
def test_wrong_value(load, text, words):
    """A wrong value is named with its place, all of them at once."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    for word in words:
        assert word in str(caught.value)


def test_wrong_environment(load, tmp_path):
    """A wrong value from the environment is named by its variable and not repeated."""
    with pytest.raises(ConfigError, match=r"^STATION_SERVER_THREADS: ") as caught:
        load(STATION_SERVER_THREADS="sesame")
    assert "sesame" not in str(caught.value)
    with pytest.raises(ConfigError, match="STATION_DATABASE_URL_FILE: cannot be read"):
        load(STATION_DATABASE_URL_FILE=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="both set"):
        load(STATION_DATABASE_URL_FILE="a", STATION_DATABASE_URL="b")


def test_missing_file(tmp_path):
    """A file that was asked for must be there."""
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path / "nothing.toml", environ={})
