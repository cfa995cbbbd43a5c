"""Numbers that come from outside: thousands of digits, other scripts and what is beyond all bounds, answered in words.

Python's `int` reads 4,300 digits at most and digits of every script; dates and SQLite's integers end much earlier.
"""

import base64
import json

import forked
import pytest
from process import environment

from station import config, media_type
from station.errors import ConfigError

LONG = "9" * 5_000


def a_cursor(*parts):
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


NESTED = base64.urlsafe_b64encode(b"[" * 60_000).decode().rstrip("=")
TIMES = ("0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "9" * 4_000 + "d", LONG)


@pytest.mark.parametrize(
    "arguments",
    [
        *(["receipts", "list", "--after", word] for word in (LONG, NESTED, a_cursor("received", TIMES[0], "1", "1"))),
        *(["journal", "list", "--after", f"{at}..{LONG[:19]}"] for at in ("20260101T000000000000", "00000101T0")),
        *([*command, "--limit", LONG] for command in (["receipts", "list"], ["refused", "list"], ["journal", "list"])),
        *(["reconcile", "--status", "--limit", limit] for limit in (LONG, LONG[:20])),
        *(["refused", "list", "--since", at] for at in TIMES),
        *([*command, at] for command in (["stats", "--from"], ["receipts", "list", "--paid-to"]) for at in TIMES),
        ["stats", "--to", "0001-01-01"],
        *(["stats", "--silent-after", days] for days in ("nan", "inf", "1e300", "1e999999999", LONG)),
        *(["receipts", "list", "--amount", amount] for amount in ("1e999999999", "nan", "١", LONG)),
        *(["purge", "--raw-months", months] for months in (LONG, "1e3")),
        ["reconcile", "--from", "٢٠٢٦-01-01"],
        *(["deliveries", "again", "x", "--from", place] for place in (LONG, LONG[:19], "٢", "-1", "1e9", *TIMES[:2])),
        ["deliveries", "list", "x", "--before", LONG],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_command_line(tmp_path, sqlite_url, arguments):
    """A usage error, and never an unexpected one."""
    ended = forked.run(arguments, environment(sqlite_url), tmp_path)
    assert ended.returncode == 2, ended.stderr[:300]
    assert "Usage" in ended.stderr


@pytest.mark.parametrize(
    "text",
    [
        f"[server]\nmax_body = {LONG}",
        "[server]\nread_timeout = inf",
        "[server]\nread_timeout = 1e300",
        '[server]\nlisten = "127.0.0.1:99999"',
        '[server]\nlisten = "127.0.0.1:١"',
        f'[server]\nlisten = "127.0.0.1:{LONG}"',
        '[server]\nhealth_listen = "127.0.0.1:99999"',
        "[gpd]\nlate_hours = inf",
        "[gpd]\nlate_hours = nan",
        "[gpd]\ngive_up_days = 999999999999",
        "[gpd]\nagain_after = 1e300",
        "a = " + "[" * 10_000,
    ],
    ids=lambda text: text[:40],
)
def test_configuration(tmp_path, text):
    """An error of the configuration, before anything counts with it."""
    file = tmp_path / "station.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        config.load(file, environ={})


def test_configuration_in_the_environment(tmp_path):
    for value in (LONG, "inf", "1e300"):
        with pytest.raises(ConfigError):
            config.load(environ={"STATION_SERVER_READ_TIMEOUT": value})


@pytest.mark.parametrize(
    ("content_type", "name", "charset"),
    [
        ("text/xml; charset=utf-8", "text/xml", "utf-8"),
        ('Text/XML ;action="a;charset=x"; Charset="ISO-8859-1"', "text/xml", "iso-8859-1"),
        ("text/xml;charset=a; charset=b", "text/xml", "a"),
        ("text/xml; charset=", "text/xml", None),
        ("text/xml; charset", "text/xml", None),
        ("text/xml", "text/xml", None),
        ("", "", None),
        (f"text/xml; charset*{LONG}=a", "text/xml", None),
        ("text/xml; charset*=punycode''" + "a" * 30_000, "text/xml", None),
        ('text/xml; charset="a', "text/xml", None),
        (";" * 30_000 + "=", "", None),
    ],
    ids=lambda text: str(text)[:40],
)
def test_media_type(content_type, name, charset):
    """Thousands of digits and names that take long to decode are no charset."""
    assert media_type.read(content_type) == (name, charset)
