"""The style sheet is bootstrap-italia's, without what no page has."""

import re
from pathlib import Path

from station.console import assets, styles

CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")


def test_no_used_class_is_left_out():
    """What a template names is in the style sheet if bootstrap-italia has it: else take it off `styles.UNUSED`."""
    folder = Path(assets.__file__).parent
    text = " ".join(file.read_text() for file in [*folder.glob("templates/**/*.html"), *folder.glob("**/*.py")])
    named = {word for given in re.findall(r'class="([^"]*)', text) for word in re.findall(r"[\w-]+", given)}
    before = set(CLASS.findall((assets.folder() / assets.CSS).read_text()))
    after = set(CLASS.findall(assets.style_sheet().decode()))
    assert not named & (before - after)
    assert {"btn-primary", "form-control", "alert-danger", "table", "container", "visually-hidden-focusable"} <= after


def test_reduced():
    """Rules are left out by their selectors, within media queries, too; texts and addresses are no rules."""
    css = (
        '@charset "utf-8";/*! {} */.a,.vjs-x .b{c:d}.vjs-y{e:f}@media(min-width:1px){.modal{a:b}}'
        '@media print{.modal,.a:not(.b,.c){a:url("data:x{}.modal")}}@font-face{src:url(data:x)}@font-face{src:url(y)}'
        '.b::after{content:"}.modal{"}@keyframes x{from{a:b}}'
    )
    assert styles.reduced(css) == (
        '@charset "utf-8";/*! {} */.a{c:d}'
        '@media print{.a:not(.b,.c){a:url("data:x{}.modal")}}@font-face{src:url(y)}'
        '.b::after{content:"}.modal{"}@keyframes x{from{a:b}}'
    )
