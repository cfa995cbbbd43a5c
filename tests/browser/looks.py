"""What can be seen of a page in the browser: barriers, what is cut or overlaps, the keyboard's focus, and bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from windows import Window

_RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"], "resultTypes": ["violations"]}
_axe = Axe()


def barriers(window: Window) -> list[str]:
    """What axe-core finds."""
    found = _axe.run(window.page, options=_RULES).response["violations"]
    return [f"{one['id']}: {one['help']}: {node['html'][:150]}" for one in found for node in one["nodes"][:3]]


# Elements that are seen and are no part of a table that scrolls by itself: their places, and whether text is cut off.
_CUT = """() => {
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width)
    found.push(`the page is ${document.documentElement.scrollWidth} wide in ${width}`);
  const name = (one) => `${one.tagName.toLowerCase()}.${one.className?.baseVal ?? one.className} "${
    (one.innerText ?? one.value ?? "").trim().slice(0, 40)}"`;
  const seen = [...document.body.querySelectorAll("*")].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width > 1 && box.height > 1 && one.checkVisibility({visibilityProperty: true})
      && !one.closest("svg *, .visually-hidden")
      && !(one.closest(".visually-hidden-focusable") && !one.matches(":focus"));
  });
  for (const one of seen) {
    const box = one.getBoundingClientRect(), style = getComputedStyle(one), table = one.closest(".console-table");
    if ((!table || one === table) && (box.right > width + 1 || box.left < -1))
      found.push(`${name(one)} ends at ${Math.round(box.right)} of ${width}`);
    const clips = ["hidden", "clip"].includes(style.overflowX) || style.textOverflow === "ellipsis";
    if (clips && one.tagName !== "INPUT" && one.scrollWidth > one.clientWidth + 1) found.push(`${name(one)} is cut`);
    if (["hidden", "clip"].includes(style.overflowY) && one.scrollHeight > one.clientHeight + 1)
      found.push(`${name(one)} is cut below`);
  }
  const used = seen.filter((one) => one.matches("a[href], button, input, select, textarea, summary")
    && !one.closest(".console-table"));
  used.forEach((one, place) => {
    for (const other of used.slice(place + 1)) {
      if (one.contains(other) || other.contains(one)) continue;
      for (const a of one.getClientRects()) for (const b of other.getClientRects()) {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (across > 2 && down > 2) found.push(`${name(one)} lies over ${name(other)}`);
      }
    }
  });
  return [...new Set(found)].slice(0, 10);
}"""


def cut(window: Window) -> list[str]:
    """What does not fit in the window: a page that scrolls sideways, text that is cut, links that overlap."""
    found: list[str] = window.page.evaluate(_CUT)
    return found


_FOCUS = """() => {
  const one = document.activeElement;
  if (!one || one === document.body || one === document.documentElement) return null;
  const style = getComputedStyle(one), box = one.getClientRects()[0] ?? one.getBoundingClientRect();
  const shown = box.width > 1 && box.height > 1 && box.bottom > 0 && box.top < innerHeight && box.right > 0
    && box.left < innerWidth;
  const x = Math.min(Math.max(box.left + box.width / 2, 1), innerWidth - 2);
  const y = Math.min(Math.max(box.top + Math.min(box.height / 2, 20), 1), innerHeight - 2);
  const top = document.elementFromPoint(x, y);
  const labels = [...(one.labels ?? [])].map((label) => label.innerText).join(" ");
  one.dataset.place ??= document.querySelectorAll("[data-place]").length;
  return {
    name: (one.getAttribute("aria-label") ?? (labels || one.innerText || one.value || "")).trim().replace(/\\s+/g, " "),
    tag: one.tagName.toLowerCase(), place: one.dataset.place,
    seen: shown && (top === null || one.contains(top) || top.contains(one)),
    ring: style.boxShadow !== "none" || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2
      && !/^rgba.* 0\\)$/.test(style.outlineColor)),
  };
}"""


class Keyboard:
    """A person without a mouse: `tab_to` a name, and whether the focus was seen all the way."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self.page = window.page

    def tab(self, key: str = "Tab") -> dict[str, Any] | None:
        """Go to the next element; it must be seen. Return what it is, None where the page has ended."""
        self.page.keyboard.press(key)
        focus: dict[str, Any] | None = self.page.evaluate(_FOCUS)
        if focus is not None:
            assert focus["seen"], f"the focus is out of sight: {focus} at {self.page.url}"
            assert focus["ring"], f"the focus has no outline: {focus} at {self.page.url}"
        return focus

    def tab_to(self, name: str, tag: str = "") -> None:
        """Go to the next element whose name begins so, once round the page."""
        passed, ends = [], 0
        for _ in range(500):
            focus = self.tab()
            if focus is None:
                ends += 1
                if ends == 2:
                    break
                continue
            passed.append(focus["name"])
            if focus["name"].casefold().startswith(name.casefold()) and tag in ("", focus["tag"]):
                return
        raise AssertionError(f"no {tag} {name!r} at {self.page.url}, but {passed}")

    def type(self, text: str) -> None:
        self.page.keyboard.type(text)

    def enter(self) -> None:
        """Press Enter, which opens another page."""
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")

    def walk(self) -> int:
        """Go through the page to its end: no element holds the focus. Return how many there are."""
        passed: list[str] = []
        for _ in range(500):
            focus = self.tab()
            if focus is None:
                return len(passed)
            passed.append(focus["place"])
            # A field for a day has four parts.
            assert passed[-6:].count(focus["place"]) < 5, f"the focus stays on {focus} at {self.page.url}"
        raise AssertionError(f"the focus goes round without an end at {self.page.url}")


@contextmanager
def bytes_of(window: Window) -> Iterator[dict[str, int]]:
    """Count the bytes that come over the network: headers and bodies as they are sent, by address."""
    session = window.page.context.new_cdp_session(window.page)
    urls: dict[str, str] = {}
    counted: dict[str, int] = {}
    cached: set[str] = set()

    def finished(event: Any) -> None:
        if event["requestId"] not in cached:
            url = urls.get(event["requestId"], event["requestId"])
            counted[url] = counted.get(url, 0) + int(event["encodedDataLength"])

    session.on("Network.requestWillBeSent", lambda event: urls.update({event["requestId"]: event["request"]["url"]}))
    session.on("Network.requestServedFromCache", lambda event: cached.add(event["requestId"]))
    session.on("Network.loadingFinished", finished)
    session.send("Network.enable")
    try:
        yield counted
    finally:
        session.detach()
