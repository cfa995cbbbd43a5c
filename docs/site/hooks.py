"""What the documentation has beside its pages: the changelog, and a place in the menu for pages that have none yet."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parent.parent.parent


def on_config(config: Any) -> Any:
    """Puts pages that nobody named in the menu under "More", so that none is left out."""
    named = set(_pages(config["nav"]))
    found = {str(file.relative_to(_ROOT / "docs")) for file in (_ROOT / "docs").rglob("*.md")}
    more = sorted(page for page in found - named if not page.startswith("site/"))
    if more:
        config["nav"].append({"More": more})
    return config


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for one in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(one)]


def on_files(files: Files, config: Any) -> Files:
    """Adds the changelog from the top of the repository."""
    files.append(File.generated(config, "changelog.md", content=(_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")))
    return files
