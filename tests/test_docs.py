"""The documentation: what is generated is up to date, links lead somewhere, what pages name exists."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from lxml import etree

import station
from station import config
from station.cli import cli
from station.receipt import Flag

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "site"
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted(page for page in DOCS.rglob("*.md") if SITE not in page.parents)


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", SITE / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["configuration.md", "commands.md"])
def test_generated_pages(reference, page):
    """What is generated from the code is what the code says now (`make docs` writes it)."""
    assert (DOCS / page).read_text() == reference.PAGES[page]()


def test_every_setting_is_described():
    """Every setting says what it is."""
    for name, field in config.Settings.model_fields.items():
        model = field.annotation
        if isinstance(model, type) and issubclass(model, config.Section):
            assert [setting for setting, one in model.model_fields.items() if not one.description] == [], name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built in a copy: Zensical writes below its own folder only."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("zensical.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / file, folder)
    ended = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Warning" not in ended.stdout + ended.stderr
    return folder / CONFIG["site_dir"]


def test_site(site):
    """It is built without a warning, broken links and anchors among them, and holds every page and the changelog."""
    for page in PAGES:
        name = page.relative_to(DOCS).with_suffix("")
        assert (site / ("." if name.name == "index" else name) / "index.html").exists()
    assert f"{station.__version__} - 20" in (site / "changelog" / "index.html").read_text()
    assert not (site / "site").exists()
    assert CONFIG["repo_url"] in (site / "index.html").read_text()
    assert 'class="highlight"' in (site / "getting-started" / "index.html").read_text()


def test_site_loads_nothing_from_elsewhere(site):
    """A reader's browser asks the site's own host for everything: scripts, styles, fonts, images."""
    for file in site.rglob("*.html"):
        text = re.sub(r'<link[^>]+rel="?(?:canonical|prev|next)"?[^>]*>', "", file.read_text())
        loaded = re.findall(
            r"""<(?:script|link|img|iframe|source|object|embed)\b[^>]*?\b(?:src|href|data)=["']?([^"' >]+)""", text
        )
        assert loaded
        assert [address for address in loaded if re.match("(?:https?:)?//", address)] == [], file
    for file in site.rglob("*.css"):
        assert not re.search(r"""(?:url\(|@import)\s*["']?(?:https?:)?//""", file.read_text()), file


def test_every_page_is_found():
    """The menu has every page, and so has the first one."""

    def pages(entries):
        for entry in entries:
            for _, inside in entry.items():
                yield from [inside] if isinstance(inside, str) else pages(inside)

    written = {str(page.relative_to(DOCS)) for page in PAGES}
    listed = list(pages(CONFIG["nav"]))
    assert len(listed) == len(set(listed))
    assert set(listed) == written
    linked = set(re.findall(r"\]\(([\w./-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert linked == written - {"index.md"}


@pytest.mark.parametrize("page", [README, CONTRIBUTING], ids=lambda page: page.name)
def test_links(page):
    """The links of pages outside the site lead to files and headings that exist."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", page.read_text()):
        assert (ROOT / target).is_file(), target
        headings = re.findall(r"^#+ (.*)$", (ROOT / target).read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


@pytest.mark.parametrize("picture", sorted(DOCS.glob("*.svg")), ids=lambda picture: picture.name)
def test_pictures_are_whole(picture):
    """No text of a picture is cut at its edges, and each has a title for those who do not see it."""
    root = etree.parse(picture).getroot()
    svg = "{http://www.w3.org/2000/svg}"
    assert root.findtext(f"{svg}title")
    _, _, width, height = map(float, root.get("viewBox").split())
    for text in root.iter(f"{svg}text"):
        size = 0.65 * float(root.get("font-size")) * len("".join(text.itertext()))  # more than a letter takes
        start = float(text.get("x")) - size * {None: 0, "middle": 0.5, "end": 1}[text.get("text-anchor")]
        assert start >= 0, "".join(text.itertext())
        assert start + size <= width, "".join(text.itertext())
        assert 0 < float(text.get("y")) < height


def test_tests_exist():
    """Each test that a page names as the holder of a promise exists."""
    named = set()
    for page in (CONTRIBUTING, *PAGES):
        named |= set(re.findall(r"`(?:tests/)?((?:\w+/)?test_\w+\.py)(?:::(test_\w+))?", page.read_text()))
    assert len(named) > 50
    for file, test in named:
        assert (ROOT / "tests" / file).is_file(), file
        assert not test or f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_modules_exist():
    """Each module that the glossary and the way of a receipt name exists."""
    for page in ("glossary.md", "the-way-of-a-receipt.md"):
        for name in re.findall(r"`([a-z_/]+(?:/|\.py|\.sql))`", (DOCS / page).read_text()):
            assert (ROOT / "station" / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", [README, DOCS / "receipts.md"], ids=lambda page: page.name)
def test_flags_are_described(page):
    """Each flag is described where operators look for it."""
    assert [flag for flag in Flag if f"`{flag}`" not in page.read_text()] == []


def commands_in(text):
    """The `station ...` commands that a page names: in blocks of code, indented or fenced, and between backquotes."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^    (.*)$", text, re.MULTILINE)
    quoted = re.findall(r"`([^`\n]+)`", text)
    for code in (*fenced, *indented, *quoted):
        yield from re.findall(r"(?:^|[$(] ?|&& )station ((?:[a-z]+ ?)+)", code, re.MULTILINE)


def test_commands_exist():
    """Each command that a page names exists."""
    known = set(cli.list_commands(click.Context(cli)))
    named = [(page.name, line) for page in (README, *PAGES) for line in commands_in(page.read_text())]
    assert [one for one in named if one[1].split()[0] not in known] == []
    assert {line.split()[0] for _, line in named} == known  # and each is named: the pattern finds what it is for


def test_settings_exist():
    """Each setting that a page names as `section.name` exists."""
    models = {
        name: field.annotation
        for name, field in config.Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, config.Section)
    }
    named = [
        (page.name, section, name)
        for page in (README, *PAGES)
        for section, name in re.findall(r"`([a-z]+)\.([a-z_]+)\b", page.read_text())
        if section in models and name != "py"  # journal.py is a module
    ]
    assert [one for one in named if one[2] not in models[one[1]].model_fields] == []
    assert len(named) > 30  # the pattern finds what it is for


def test_toml_is_a_configuration(tmp_path):
    """Each block of TOML on a page is a configuration that the station takes."""
    blocks = [
        block for page in (README, *PAGES) for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    assert len(blocks) == sum(page.read_text().count("```toml") for page in (README, *PAGES)) > 0
    for block in blocks:
        (tmp_path / "station.toml").write_text(block)
        config.load(tmp_path / "station.toml", {})
