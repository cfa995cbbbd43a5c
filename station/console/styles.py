"""Bootstrap-italia's style sheet without the components that no page has: compressed it has 40 KB, not 90."""

import re
from collections.abc import Iterator

# Classes of these components, by their first letters. A page that gets one of them takes it off the list.
UNUSED = (
    "acceptoverlay", "analogue", "autocomplete", "avatar", "bottom-nav", "bs-", "carousel", "complementary", "cookie",
    "dimmer", "dropdown", "gridlist", "hero", "it-", "lightgrey", "map-", "megamenu", "modal", "navbar", "neutral",
    "notification", "offcanvas", "point-list", "popover", "primary-", "rating", "sidebar", "splide", "steppers",
    "thumb", "timeline", "toast", "toggles", "toolbar", "tooltip", "upload", "video", "vjs",
)  # fmt: skip
_UNUSED = re.compile(rf"\.(?:{'|'.join(UNUSED)})")
# Braces and semicolons, and what may have some that mean nothing: texts and addresses.
_SIGN = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|url\([^)"\']*\)|[{};]')
_COMMA = re.compile(r",(?![^(]*\))")


def reduced(css: str) -> str:
    """Return a minified style sheet without the rules of the components that are not used, nor inline fonts."""
    kept = []
    for head, body in _rules(css):
        if body is None:
            kept.append(head)
        elif head.startswith(("@media", "@supports")):
            if inner := reduced(body):
                kept.append(f"{head}{{{inner}}}")
        elif head.startswith("@font-face"):
            if "data:" not in body:
                kept.append(f"{head}{{{body}}}")
        elif selectors := [one for one in _COMMA.split(head) if not _UNUSED.search(one)]:
            kept.append(f"{','.join(selectors)}{{{body}}}")
    return "".join(kept)


def _rules(css: str) -> Iterator[tuple[str, str | None]]:
    """Yield what stands before the braces of each rule, and what stands within; for `@charset` and the like `None`."""
    depth, start, opened = 0, 0, 0
    for found in _SIGN.finditer(css):
        sign = found[0]
        if sign == "{":
            depth += 1
            if depth == 1:
                opened = found.start()
        elif sign == "}":
            depth -= 1
            if depth == 0:
                yield css[start:opened], css[opened + 1 : found.start()]
                start = found.end()
        elif sign == ";" and depth == 0:
            yield css[start : found.end()], None
            start = found.end()
