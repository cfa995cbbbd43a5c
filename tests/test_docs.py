"""The documentation: what is generated is up to date, links lead somewhere, what pages name exists."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from station import config
from station.cli import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SITE = DOCS / "site"
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


def test_site(tmp_path):
    """MkDocs builds the site and finds no broken link, no missing anchor and no page that nobody links."""
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", SITE / "mkdocs.yml", "-d", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "it" / "primi-passi" / "index.html").exists()
    assert (tmp_path / "changelog" / "index.html").exists()


def commands_in(text):
    """The `station ...` commands that a page names."""
    return re.findall(r"(?:^|[`$(] ?|&& )station ((?:[a-z]+ ?)+)", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_commands_exist(page):
    """Each command that a page names exists."""
    context = click.Context(cli)
    known = set(cli.list_commands(context))
    for line in commands_in(page.read_text()):
        assert line.split()[0] in known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_settings_exist(page):
    """Each setting that a page names as `section.name` exists, and each block of TOML is a configuration."""
    text = page.read_text()
    models = {
        name: field.annotation
        for name, field in config.Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, config.Section)
    }
    for section, name in re.findall(r"`([a-z]+)\.([a-z_]+)\b", text):
        if section in models:
            assert name in models[section].model_fields, f"{section}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_toml_is_a_configuration(page, tmp_path):
    """Each block of TOML is a configuration that the station takes."""
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)):
        file = tmp_path / f"{number}.toml"
        file.write_text(block)
        config.load(file, {})
