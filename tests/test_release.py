"""What is released: wheel and sdist hold all that is needed, and the demonstration runs from the installed wheel."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from process import environment

import station

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Wheel and sdist, built as `make release` builds them."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", folder],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_version(released):
    """The version stands in one place, and wheel, sdist and command have it from there."""
    wheel, sdist = released
    assert wheel.name.startswith(f"station-{station.__version__}-")
    assert sdist.name == f"station-{station.__version__}.tar.gz"
    text = (ROOT / "pyproject.toml").read_text()
    assert not re.search(r"(?m)^version\s*=", text)


def test_contents(released):
    """Both hold the migrations and the contract; neither holds tests or anybody's data."""
    wheel, sdist = released
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files", "station", "migrations", "wsdl"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    for file in tracked:
        if not (ROOT / file).exists():
            continue
        assert file in in_sdist
        assert (file if file.startswith("station/") else f"station/{file}") in in_wheel
    assert "station/wsdl/paForNode.xsd" in in_wheel
    assert "station/migrations/env.py" in in_wheel
    for names in (in_wheel, in_sdist):
        assert not [name for name in names if re.search(r"\.sqlite3|\.toml$|tests/|__pycache__", name)
                    and name != "pyproject.toml"]  # fmt: skip


def test_installed(released, tmp_path):
    """The wheel, in an environment that has its dependencies and nothing of this folder, runs the demonstration.

    Whatever is configured on the machine, the books balance, and nothing is left behind.
    """
    wheel, _ = released
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    # The dependencies are those of this environment: a plain path, whose own .pth files (ours among them) do not count.
    [packages] = (venv / "lib").glob("python3*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--ignore-installed", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    for folder in (work, temporary):
        folder.mkdir()
    (work / "station.toml").write_text('[database]\nurl = "sqlite:///precious.sqlite3"\n')
    env = environment("sqlite:///precious.sqlite3", TMPDIR=str(temporary), GUNICORN_CMD_ARGS="--workers 5")
    env.pop("PYTHONPATH", None)
    where = subprocess.run(
        [python, "-c", "import station; print(station.__file__)"], cwd=work, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(os.path.realpath(packages)))
    ended = subprocess.run(
        [venv / "bin" / "station", "demo"], cwd=work, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "missing 0, unknown 0, stored twice 0" in ended.stdout
    assert ended.stdout.endswith("The books balance.\n")
    assert [one.name for one in work.iterdir()] == ["station.toml"]
    assert list(temporary.iterdir()) == []
