"""What the demonstration stands on; that it runs is shown by the released wheel (see test_release)."""

from pathlib import Path

import station
from station import config


def test_environment():
    """What configures a station is taken out of the environment, and nothing else."""
    kept = config.environment_without_settings({"STATION_DATABASE_URL": "x", "GUNICORN_CMD_ARGS": "y", "PATH": "z"})
    assert kept == {"PATH": "z"}


def test_demo_imports_no_tests():
    """The demonstration works from an installed wheel, where there are no tests."""
    folder = Path(station.__file__).parent / "demo"
    assert folder.is_dir()
    assert not [file for file in folder.glob("*.py") if "tests" in file.read_text()]
