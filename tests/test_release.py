"""What is released: wheel and sdist hold all that is needed, and the demonstration runs from the installed wheel."""

import email
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from process import environment

import station

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VENV = Path(sys.prefix)


def tracked(*folders):
    """The files that git tracks and that are here."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {file for file in listed.stdout.split("\0") if file and (ROOT / file).is_file()}


def make(folder, *arguments):
    """`make` in this environment, which is up to date whatever the age of a copy's files is: nothing is installed."""
    # What `make test` hands down to its own children is not for this one.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", f"VENV={VENV}", f"--old-file={VENV}/run", "PIP=false", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with what this one tracks, and beside that what an operator keeps in a clone."""
    folder = tmp_path_factory.mktemp("clone")
    for file in tracked():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    for command in (
        ("init", "--quiet"),
        ("config", "user.name", "A. Maintainer"),
        ("config", "user.email", "maintainer@example.invalid"),
        ("add", "--all"),
        ("commit", "--quiet", "--message", "All of it"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    for private in ("station.toml", "station.sqlite3", "deploy/compose/secrets/database_url"):
        (folder / private).parent.mkdir(exist_ok=True)
        (folder / private).write_text("not for others")
    return folder


@pytest.fixture(scope="module")
def released(clone):
    """Wheel and sdist of `make release`."""
    ended = make(clone, "release")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"git push origin v{station.__version__}\n" in ended.stdout
    [wheel], [sdist] = (clone / "dist").glob("*.whl"), (clone / "dist").glob("*.tar.gz")
    return wheel, sdist


def metadata(wheel):
    """The core metadata of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_version(released, clone):
    """The version stands in one place; wheel, sdist, command and tag have it from there."""
    wheel, sdist = released
    assert wheel.name == f"pagopa_receipt_station-{station.__version__}-py3-none-any.whl"
    assert sdist.name == f"pagopa_receipt_station-{station.__version__}.tar.gz"
    assert "version" not in PROJECT
    tag = f"v{station.__version__}"
    kind = subprocess.run(["git", "cat-file", "-t", tag], cwd=clone, capture_output=True, text=True, check=True)
    assert kind.stdout == "tag\n"


def test_release_is_refused(released, clone):
    """Nothing is released that is not committed, has no section in the changelog, or is tagged already."""
    assert "No release: the tag" in make(clone, "release").stderr
    changelog = clone / "CHANGELOG.md"
    whole = changelog.read_text()
    changelog.write_text(whole.replace(f"## [{station.__version__}] - ", "## "))
    assert "No release: git status" in make(clone, "release").stderr
    subprocess.run(["git", "commit", "--quiet", "--all", "--message", "No section"], cwd=clone, check=True)
    assert "No release: CHANGELOG.md" in make(clone, "release").stderr


def test_metadata(released):
    """The wheel says whose it is, under which licence, and carries the licence's text."""
    wheel, _ = released
    told = metadata(wheel)
    assert told["Name"] == "pagopa-receipt-station"
    assert told["License-Expression"] == "EUPL-1.2"
    assert told["Author"] == "The station's authors"
    assert "LICENSE" in told.get_all("License-File")
    with zipfile.ZipFile(wheel) as archive:
        [text] = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        assert archive.read(text) == (ROOT / "LICENSE").read_bytes()
    assert (ROOT / "LICENSE").read_text().startswith("EUROPEAN UNION PUBLIC LICENCE v. 1.2\n")
    assert (ROOT / "LICENSES" / "EUPL-1.2.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_contents(released):
    """Both hold migrations and contract, the sdist documentation, deployment and locks too; nothing is private."""
    wheel, sdist = released
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    for file in tracked("station", "migrations", "wsdl"):
        assert file in in_sdist
        assert (file if file.startswith("station/") else f"station/{file}") in in_wheel
    assert tracked("docs", "deploy", "Makefile", "Dockerfile", "*.lock", "LICENSE", "publiccode.yml") <= in_sdist
    assert in_sdist - tracked() == {"PKG-INFO"}
    assert {name.partition("/")[0] for name in in_wheel} == {
        "station", f"pagopa_receipt_station-{station.__version__}.dist-info"
    }  # fmt: skip


def test_repository():
    """Every file that names the repository names the same one: that of pyproject.toml."""
    repository = PROJECT["urls"]["Repository"]
    host = re.escape(repository.rpartition("/")[0])
    naming = set()
    for file in tracked() - {"pyproject.toml"}:
        for address in re.findall(rf"{host}/[\w.-]+", (ROOT / file).read_text(errors="replace")):
            assert address == repository, file
            naming.add(file)
    assert {"publiccode.yml", "Dockerfile", "CHANGELOG.md"} <= naming


def test_templates():
    """Each kind of issue has a name and says what it is for; weaknesses are sent to the security policy."""
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    for template in folder.glob("*.md"):
        head = yaml.safe_load(template.read_text().split("---\n")[1])
        assert head["name"]
        assert head["about"]
    links = yaml.safe_load((folder / "config.yml").read_text())["contact_links"]
    assert links[0]["url"].endswith("/SECURITY.md")
    for command in re.findall(r"`make ([a-z-]+)`", (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text()):
        assert f"\n{command}: " in (ROOT / "Makefile").read_text()


# The keys of https://docs.publiccode.software, version 0.7, that we use: `!` marks those that must be there.
PUBLICCODE = {
    "publiccodeYmlVersion!": {"0"},
    "name!": str,
    "url!": str,
    "softwareVersion": str,
    "releaseDate": str,
    "platforms!": [{"web", "windows", "mac", "linux", "ios", "android"}],
    "categories": [{"accounting", "payment-gateway"}],
    "developmentStatus!": {"concept", "development", "beta", "stable", "obsolete"},
    "softwareType!": {
        "standalone/mobile", "standalone/iot", "standalone/desktop", "standalone/web", "standalone/backend",
        "standalone/other", "addon", "library", "configurationFiles",
    },
    "supports": [{"id!": {"alias:pagopa", "alias:gdpr"}}],
    "intendedAudience": {
        "countries": [re.compile("[A-Z]{2}")],
        "scope": [{"local-authorities", "finance-and-economic-development"}],
    },
    "description!": {
        f"{language}!": {
            "localisedName": str,
            "shortDescription!": re.compile("[^\n]{1,150}"),
            "longDescription!": re.compile("(?s).{150,10000}"),
            "features!": [str],
        }
        for language in ("it", "en")
    },
    "legal!": {"license!": {PROJECT["license"]}, "mainCopyrightOwner": str},
    "maintenance!": {"type!": {"internal", "contract", "community", "none"}, "contacts!": [{"name!": str}]},
    "localisation!": {"localisationReady!": bool, "availableLanguages!": [re.compile("[a-z]{2}")]},
    "dependsOn": {"open": [{"name!": str, "versionMin": str, "optional": bool}]},
    "IT": {"countryExtensionVersion!": {"1.0"}, "conforme": {"gdpr": bool}, "piattaforme": {"pagopa!": {True}}},
}  # fmt: skip


def breaches(value, expected, place="publiccode.yml"):
    """Where a value is not as the standard has it."""
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return [f"{place} is no mapping"]
        known = {key.rstrip("!"): (key.endswith("!"), one) for key, one in expected.items()}
        found = [f"{place}: {key} is unknown" for key in value if key not in known]
        found += [f"{place}: {key} is missing" for key, (must, _) in known.items() if must and key not in value]
        return found + [
            one for key in value if key in known for one in breaches(value[key], known[key][1], f"{place}: {key}")
        ]
    if isinstance(expected, list):
        if not isinstance(value, list) or not value:
            return [f"{place} is no list, or empty"]
        return [one for each in value for one in breaches(each, expected[0], place)]
    if isinstance(expected, set):
        right = value in expected
    elif isinstance(expected, re.Pattern):
        right = isinstance(value, str) and bool(expected.fullmatch(value))
    else:
        right = type(value) is expected and value != ""
    return [] if right else [f"{place}: {value!r} is not allowed"]


def test_publiccode():
    """publiccode.yml keeps to the published standard, and tells version, licence and repository as they are."""
    told = yaml.safe_load((ROOT / "publiccode.yml").read_text())
    assert breaches(told, PUBLICCODE) == []
    assert told["softwareVersion"] == station.__version__
    assert told["url"] == PROJECT["urls"]["Repository"]
    assert f"## [{station.__version__}] - {told['releaseDate']}\n" in (ROOT / "CHANGELOG.md").read_text()
    assert breaches(told | {"name": None, "url": ""}, PUBLICCODE)
    assert breaches({key: value for key, value in told.items() if key != "legal"}, PUBLICCODE)


def test_changelog():
    """In the form of Keep a Changelog: sections of versions, the newest first, and in them kinds of changes only."""
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    assert all(re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    kinds = {line.removeprefix("### ") for line in lines if line.startswith("### ")}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    for version in versions:
        name = re.search(r"\[(.+)\]", version)[1]
        assert [line for line in lines if line.startswith(f"[{name}]: https://")], name


def installed(distribution, venv):
    """A virtual environment with the dependencies of this one, and the distribution."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    # A plain path, whose own .pth files (ours among them) do not count.
    [packages] = (venv / "lib").glob("python3*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet", "--no-deps",
         "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--ignore-installed", distribution],
        check=True, capture_output=True,
    )  # fmt: skip
    return venv


def test_installed_from_sdist(released, tmp_path):
    """The sdist installs as the wheel does, and has the command."""
    _, sdist = released
    venv = installed(sdist, tmp_path / "venv")
    ended = subprocess.run(
        [venv / "bin" / "station", "--version"], cwd=tmp_path, env=environment("sqlite://"), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert station.__version__ in ended.stdout


def test_installed(released, tmp_path):
    """The wheel, in an environment that has its dependencies and nothing of this folder, runs the demonstration.

    Whatever is configured on the machine, the books balance, and nothing is left behind.
    """
    wheel, _ = released
    venv = installed(wheel, tmp_path / "venv")
    python = venv / "bin" / "python"
    [packages] = (venv / "lib").glob("python3*/site-packages")
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
    # From the front end to the bank: positions, receipts, flows and euro agree.
    assert "they can be paid at once: 11 VALID" in ended.stdout
    assert "fetched 2; GPD says of 10 positions that they are paid" in ended.stdout
    assert "11 payments were credited; 2 of them had no receipt here" in ended.stdout
    [one] = {
        re.search(rf"{name}: (\d+, [\d.]+) euro", ended.stdout)[1]
        for name in ("positions PAID", "receipts", "credited, with the Provincia's part")
    }
    assert one.startswith("10, ")
    assert "missing 0, unknown 0, stored twice 0" in ended.stdout
    assert ended.stdout.endswith("The books balance.\n")
    assert [one.name for one in work.iterdir()] == ["station.toml"]
    assert list(temporary.iterdir()) == []
