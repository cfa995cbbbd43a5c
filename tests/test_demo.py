"""`station demo`, and that it touches nothing else."""

import subprocess
from pathlib import Path

from process import STATION, environment

from station import config


def test_demo(tmp_path):
    """The demonstration balances its books, whatever is configured on this machine, and leaves nothing behind."""
    (tmp_path / "station.toml").write_text('[database]\nurl = "sqlite:///precious.sqlite3"\n')
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    ended = subprocess.run(
        [STATION, "demo"], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False,
        env=environment("sqlite:///precious.sqlite3", TMPDIR=str(temporary), GUNICORN_CMD_ARGS="--workers 5"),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "missing 0, unknown 0, stored twice 0" in ended.stdout
    assert ended.stdout.endswith("The books balance.\n")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "station.toml", temporary]
    assert list(temporary.iterdir()) == []


def test_environment():
    """What configures a station is taken out of the environment, and nothing else."""
    kept = config.environment_without_settings({"STATION_DATABASE_URL": "x", "GUNICORN_CMD_ARGS": "y", "PATH": "z"})
    assert kept == {"PATH": "z"}


def test_demo_imports_no_tests():
    """The demonstration works from an installed wheel, where there are no tests."""
    folder = Path(config.__file__).parent / "demo"
    assert not [file for file in folder.glob("*.py") if "tests" in file.read_text()]
