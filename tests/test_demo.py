"""What the demonstration stands on; that it runs is shown by the released wheel (see test_release)."""

import re
from pathlib import Path

import forked
from process import environment

import station
from station import config


def test_environment():
    """What configures a station is taken out of the environment, and nothing else."""
    kept = config.environment_without_settings({"STATION_DATABASE_URL": "x", "GUNICORN_CMD_ARGS": "y", "PATH": "z"})
    assert kept == {"PATH": "z"}


def test_story(sqlite_url, tmp_path):
    """From the front end to the bank: positions, receipts, flows and euro agree at the end, and so do the books."""
    done = forked.run(["demo"], environment(sqlite_url), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "they can be paid at once: 11 VALID" in done.stdout
    assert "fetched 2; GPD says of 10 positions that they are paid" in done.stdout
    assert "11 payments were credited; 2 of them had no receipt here" in done.stdout
    sums = [
        re.search(rf"{name}: (\d+), ([\d.]+) euro", done.stdout).groups()
        for name in ("positions PAID", "receipts", "credited, with the Provincia's part")
    ]
    assert sums[0] == sums[1] == sums[2]
    assert "The books balance." in done.stdout


def test_demo_imports_no_tests():
    """The demonstration works from an installed wheel, where there are no tests."""
    folder = Path(station.__file__).parent / "demo"
    assert folder.is_dir()
    assert not [file for file in folder.glob("*.py") if "tests" in file.read_text()]
