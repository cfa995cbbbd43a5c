"""A clerk's day by the keyboard alone: with a wide window, without JavaScript, and at 400 % of zoom."""

import csv
import io
from pathlib import Path

import pytest
from console_world import PAID
from looks import Keyboard, cut
from windows import NARROW, WIDE, Station, Window

PASSWORD = "una frase lunga e personale"


class Clerk(Keyboard):
    """A person at a keyboard. Every page that is met must fit in the window."""

    def __init__(self, window: Window) -> None:
        super().__init__(window)
        self.wrong: list[str] = []

    def look(self) -> None:
        self.wrong += [f"{self.page.url}: {one}" for one in [*cut(self._window), *self._window.take_faults()]]

    def go(self, path: str) -> None:
        assert self._window.go(path) < 400
        self.look()

    def follow(self, name: str, tag: str = "a") -> None:
        """Go to a link or button, and press it."""
        self.tab_to(name, tag)
        self.enter()
        self.look()

    def fill(self, label: str, text: str) -> None:
        """Go to a field, and write in place of what is there."""
        self.tab_to(label, "input")
        self.page.keyboard.press("Control+A")
        self.type(text)

    def save(self, name: str) -> bytes:
        """Go to a link that gives a file; return the file."""
        self.tab_to(name)
        with self.page.expect_download() as waited:
            self.page.keyboard.press("Enter")
        content = Path(waited.value.path()).read_bytes()
        waited.value.delete()
        return content

    @property
    def title(self) -> str:
        return self.page.inner_text("h1")

    @property
    def text(self) -> str:
        return " ".join(self.page.inner_text("main").split())


MODES = {"wide": {}, "without_script": {"java_script_enabled": False}, "narrow": {}}


@pytest.fixture(params=MODES)
def clerk(station: Station, request: pytest.FixtureRequest):
    mode = request.param
    window = station.window("tutto", accept_downloads=True, **MODES[mode])
    window.page.set_viewport_size(NARROW if mode == "narrow" else WIDE)
    clerk = Clerk(window)
    yield clerk
    assert not clerk.wrong, "\n".join(clerk.wrong)


def test_sign_in_and_out(station, request):
    """A user signs in with name and password, comes to the page that was asked for, and signs out."""
    station.command("console", "user", "add", "tutto", "--display-name", "Anna Esposito", given=f"{PASSWORD}\n")
    for options in MODES.values():
        window = station.new_window(None, **options)
        clerk = Clerk(window)
        clerk.go("/incassi")
        assert clerk.title == "Accedi"
        clerk.fill("Nome utente", "tutto")
        clerk.fill("Password", "sbagliata")
        clerk.enter()
        assert "non corretti" in clerk.text
        clerk.fill("Password", PASSWORD)
        clerk.enter()
        clerk.look()
        assert clerk.title == "Incassi"
        clerk.follow("Esci", "button")
        assert clerk.title == "Sei uscito"
        clerk.go("/incassi")
        assert clerk.title == "Accedi"
        assert not clerk.wrong
        window.page.context.close()


def test_find_and_print(clerk, station):
    """A payment by the citizen's fiscal code, the receipt, its printed copy and the exact XML."""
    ec = station.world["zalfa"]
    clerk.go("/")
    clerk.fill("Che cosa cerchi", ec.debtor.lower())
    clerk.enter()
    clerk.look()
    assert ec.debtor not in clerk.page.url
    assert ec.debtor in clerk.text
    clerk.follow("Apri")
    assert clerk.title.startswith("Ricevuta")
    assert clerk.save("Copia per il cittadino").startswith(b"%PDF-")
    assert b"paSendRTV2Request" in clerk.save("XML originale")
    clerk.tab_to("Stampa la ricevuta")
    with clerk.page.expect_response(lambda one: one.headers.get("content-type") == "application/pdf"):
        clerk.page.keyboard.press("Enter")  # the browser shows it, and prints it


def test_yesterday(clerk):
    """The totals of yesterday, and their file."""
    clerk.go("/")
    clerk.follow("Incassi")
    assert f"{PAID:%d/%m/%Y}" in clerk.text
    rows = list(csv.reader(io.StringIO(clerk.save("Scarica").decode("utf-8-sig")), delimiter=";"))
    assert len(rows) > 1


def test_bank_line(clerk, station):
    """What a line of the bank statement is made of."""
    ec = station.world["zalfa"]
    clerk.go("/")
    clerk.fill("Che cosa cerchi", f"/PUR/LGPE-RIVERSAMENTO/URI/{ec.flow}")
    clerk.enter()
    clerk.look()
    if "/accrediti/" not in clerk.page.url:
        clerk.follow(ec.flow)
    assert ec.iuvs[0] in clerk.text.replace(" ", "")


def test_refused(clerk):
    """A refused request: why, what would happen now, and that it is none of the EC's."""
    clerk.go("/")
    clerk.tab_to("Da controllare", "a")
    clerk.enter()
    clerk.look()
    clerk.follow("Vedi le richieste")
    clerk.tab_to("", "a")
    while not clerk.page.evaluate("document.activeElement.closest('tbody') !== null"):
        clerk.tab()
    clerk.enter()
    clerk.look()
    clerk.follow("Prova a rielaborare", "button")
    assert "Non è cambiato nulla" in clerk.text
    clerk.fill("Perché", "prova del banco")
    clerk.follow("Scarta la richiesta", "button")
    assert "scartata" in clerk.text.casefold()


def test_send_again(clerk):
    """A delivery that was given up is sent again."""
    clerk.go("/")
    clerk.follow("Consegne")
    clerk.follow("zalfa-erp")
    clerk.tab_to("Stato", "select")
    clerk.type("Abb")
    clerk.follow("Mostra", "button")
    clerk.follow("Consegna")
    clerk.follow("Invia di nuovo", "button")
    assert clerk.page.locator(".alert-success").count() == 1
