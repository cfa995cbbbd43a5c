"""Every page and state, in the browser: barriers, narrow windows, bytes, and what the browser complains of.

The pages are those of the URL map (see `console_addresses`).
"""

import pytest
from console_addresses import addresses
from looks import Keyboard, barriers, bytes_of, cut
from windows import NARROW, WIDE, Station, Window

FIRST_MAX, NEXT_MAX = 150_000, 30_000
# What is asked for a page, to be shown beside it.
STATES = {
    "400": "/accessi?da=nessuno&dopo=%00",
    "404": "/nessuna-pagina",
    "foreign": "/ricevute/99999999999/x",
}


_known: dict[str, str] = {}


def pages(station: Station) -> dict[str, str]:
    """Endpoints by address, for what belongs to one EC: of each page the first address, and the one with most in it.

    Files to keep are no pages.
    """
    if not _known:
        browser, sizes, asked, opened = station.site.browser("tutto"), {}, set(), set()
        for one in addresses(station.site.app, station.world["zalfa"]):
            if one.method == "GET":
                answer = browser.get(one.path)
                asked.add(one.endpoint)
                opened.update([one.endpoint] if answer.status == 200 else [])
                if answer.headers["Content-Type"].startswith("text/html") and answer.status == 200:
                    sizes.setdefault(one.endpoint, {})[one.path] = len(answer.content)
        # Those of who has not signed in are looked at by `test_other_users`.
        missed = asked - opened - {"account.sign_in", "account.signed_out"}
        assert not missed, f"console_addresses has no address that opens {missed}"
        for endpoint, of in sizes.items():
            _known.update(dict.fromkeys((next(iter(of)), max(of, key=lambda path: of[path])), endpoint))
    return _known


def look(window: Window, path: str) -> list[str]:
    """Open a page in a wide and in a narrow window, and return all that is wrong with it."""
    window.page.set_viewport_size(WIDE)
    status = window.go(path)
    found = [f"status {status}"] if status >= 500 else []
    found += barriers(window)
    window.page.set_viewport_size(NARROW)
    found += [f"at 320 pixels: {one}" for one in cut(window)]
    window.page.set_viewport_size(WIDE)
    return [f"{path}: {one}" for one in [*found, *window.take_faults()]]


def test_every_page(station):
    """No barrier, nothing cut at 400 % of zoom, nothing from other hosts, no complaint of the browser."""
    window = station.window("tutto")
    wrong = [one for path in pages(station) for one in look(window, path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("user", [None, "estranea", "lettrice"])
def test_other_users(station, user):
    """The same for who has not signed in, who has no grant, and who may read one EC only."""
    window = station.window(user)
    found = set(pages(station)) if user == "lettrice" else {"/", "/accedi", "/uscita"}
    found = {path for path in found if "?" not in path}
    wrong = [one for path in sorted(found) for one in look(window, path)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("state", STATES)
def test_states(station, state):
    """The same for pages that say what is wrong."""
    wrong = look(station.window("tutto"), STATES[state])
    assert not wrong, "\n".join(wrong)


def test_database_away(station, without_database):
    """The page that says so is as plain as the others, and says it to who has a session, too."""
    window = station.new_window("tutto")
    window.origin = without_database
    for path in ("/", "/accedi", "/incassi"):
        assert window.go(path) in (302, 503, 200)
        assert not barriers(window)
    assert "banca dati" in window.page.inner_text("main")


def visit(window: Window, path: str) -> None:
    """Open a page and wait for its fonts."""
    window.go(path)
    window.page.evaluate("document.fonts.ready.then(() => new Promise(requestAnimationFrame))")


def test_bytes(station, tell):
    """A first visit costs little, and each further page less: of each kind the heaviest page."""
    heaviest = {endpoint: path for path, endpoint in pages(station).items()}
    known = station.window("tutto")
    visit(known, "/")
    weights = {}
    for path in heaviest.values():
        new = station.new_window("tutto")
        with bytes_of(new) as first:
            visit(new, path)
        new.page.context.close()
        with bytes_of(known) as then:
            visit(known, path)
        weights[path] = (sum(first.values()), sum(then.values()))
    for number, name in enumerate(("at first", "after")):
        path = max(weights, key=lambda path: weights[path][number])
        tell(f"the heaviest page {name}: {weights[path][number]} bytes, {path}")
    assert not {path: both for path, both in weights.items() if both[0] > FIRST_MAX or both[1] > NEXT_MAX}


def test_keyboard_reaches_everything(station):
    """From the first element of a page to its last the focus is seen and never held."""
    window = station.window("tutto")
    shown = {endpoint: path for path, endpoint in pages(station).items()}
    for path in shown.values():
        window.go(path)
        assert Keyboard(window).walk() > 3


_BESIDE_THE_PAPER = """() => [...document.querySelectorAll(".console-table")]
  .filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.getAttribute("aria-label"))"""


def test_printed(station):
    """On paper, where nothing scrolls, a table is as wide as the page (A4 without its margins, 96 dots an inch)."""
    window = station.window("tutto")
    window.page.emulate_media(media="print")
    window.page.set_viewport_size({"width": 718, "height": 1047})
    wrong = []
    for path in pages(station):
        window.go(path)
        wrong += [f"{path}: {table}" for table in window.page.evaluate(_BESIDE_THE_PAPER)]
    window.page.emulate_media(media="screen")
    window.page.set_viewport_size(WIDE)
    assert not wrong, "\n".join(wrong)
