"""What the demonstration stands on; that it runs is shown by the released wheel (see test_release)."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from process import STATION

import station
from station import config
from station.demo import run
from station.errors import MissingExtraError


def test_environment():
    """What configures a station is taken out of the environment, and nothing else."""
    kept = config.environment_without_settings({"STATION_DATABASE_URL": "x", "GUNICORN_CMD_ARGS": "y", "PATH": "z"})
    assert kept == {"PATH": "z"}


def test_demo_imports_no_tests():
    """The demonstration works from an installed wheel, where there are no tests."""
    folder = Path(station.__file__).parent / "demo"
    assert folder.is_dir()
    assert not [file for file in folder.glob("*.py") if "tests" in file.read_text()]


def test_console_needs_its_extra(monkeypatch):
    """Without the extra it says so at once, and not after the minute of the story."""
    monkeypatch.setattr(sys.modules["station.demo.run"], "find_spec", lambda library: None)
    with pytest.raises(MissingExtraError, match=r"console"):
        run(print, console=True)


@pytest.mark.slow
def test_console(tmp_path):
    """The console opens with the user and password that are printed; Ctrl-C ends all, and nothing is left behind."""
    env = config.environment_without_settings() | {"TMPDIR": str(tmp_path)}
    command = [STATION, "demo", "--console"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=tmp_path) as demo:
        told = {}
        while len(told) < 3 and (line := demo.stdout.readline()):
            if found := re.match(r" +(address|user|password) +(\S+)$", line):
                told[found[1]] = found[2]
        with httpx.Client(base_url=told["address"], follow_redirects=False) as browser:
            page = browser.get("/accedi?per=/incassi")
            cookie = {"Cookie": page.headers["Set-Cookie"].partition(";")[0]}
            csrf = re.search(r'name="csrf" value="([^"]+)"', page.text)[1]
            form = {"csrf": csrf, "name": told["user"], "password": told["password"]}
            signed_in = browser.post("/accedi?per=/incassi", data=form, headers=cookie)
            cookie = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0]}
            assert "TARI" in browser.get("/incassi", headers=cookie).text
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(60) == 0
    assert not list(tmp_path.iterdir())
