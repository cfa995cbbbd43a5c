"""Takes the pictures of docs/it/console.md from `station demo --console`: `make screenshots`.

All data are the demonstration's, which are invented. Times are those of the run. Days in fields are written the Italian
way where Chromium speaks Italian (on Debian: apt install chromium-l10n).
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent.parent / "it"
MAX = 120_000  # bytes of a picture
CHROMIUM = os.environ.get("STATION_CHROMIUM", "/usr/bin/chromium")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--lang=it")
_WIDE, _HIGH = 1280, 800


def take(page: Page, origin: str) -> None:
    """Walk through the console as docs/it/console.md does."""

    def keep(name: str, height: int = _HIGH) -> None:
        page.set_viewport_size({"width": _WIDE, "height": height})
        page.evaluate("document.fonts.ready")
        page.evaluate("document.activeElement.blur()")
        file = FOLDER / f"console-{name}.png"
        page.screenshot(path=file)
        size = file.stat().st_size
        sys.stdout.write(f"{file.name}: {size:,} bytes\n")
        assert size < MAX, f"{file} is too large"

    def search(text: str) -> None:
        page.goto(origin)
        page.get_by_label("Che cosa cerchi").fill(text)
        with page.expect_navigation():
            page.keyboard.press("Enter")

    search("PLLPNC80A01X000X")
    keep("cerca")
    with page.expect_navigation():
        page.get_by_role("link", name="Apri").first.click()
    keep("ricevuta")
    page.goto(f"{origin}incassi")
    keep("incassi", 860)
    page.goto(f"{origin}accrediti")
    with page.expect_navigation():
        page.locator("tbody tr", has_text="Comune").get_by_role("link").first.click()
    keep("accrediti", 1000)
    page.goto(f"{origin}da-controllare")
    keep("da-controllare")
    for _ in range(60):  # until most is sent: the receiver refuses a few for minutes
        page.goto(f"{origin}consegne/register")
        told = " ".join(page.inner_text("main").split())
        if re.search("Consegne in attesa [0-9]{1,2} .*Ricevute ancora da esaminare 0", told):
            break
        time.sleep(1)
    keep("consegne", 1200)
    page.goto(f"{origin}stato")
    keep("stato")
    page.goto(f"{origin}accessi")
    keep("accessi", 560)


def main() -> None:
    """Run the demonstration, and end it."""
    command = [sys.executable, "-c", "from station.cli import main; main()", "demo", "--console"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:  # noqa: S603
        assert demo.stdout is not None
        try:
            told: dict[str, str] = {}
            for line in demo.stdout:
                if found := re.match(r"\s+(address|user|password) +(\S+)$", line):
                    told[found[1]] = found[2]
                if len(told) == 3:
                    break
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=[*_ARGUMENTS], env={**os.environ, "LANGUAGE": "it"}
                )
                page = browser.new_context(
                    locale="it-IT", timezone_id="Europe/Rome", reduced_motion="reduce"
                ).new_page()
                page.goto(told["address"])
                page.get_by_label("Nome utente").fill(told["user"])
                page.get_by_label("Password").fill(told["password"])
                with page.expect_navigation():
                    page.keyboard.press("Enter")
                take(page, told["address"])
                browser.close()
        finally:
            demo.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
