"""A console that is served, and windows of a real browser at it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from console import Site
from console_world import Ec
from playwright.sync_api import Browser, BrowserContext, Page
from process import STATION, environment, free_port, wait_for_answer

from station.console.session import COOKIE

ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--lang=it",
)  # fmt: skip
WIDE = {"width": 1280, "height": 900}
NARROW = {"width": 320, "height": 640}  # 400 % of zoom on a screen of 1280 pixels


@dataclass
class Window:
    """A page of a user's browser, and what went wrong in it: `take_faults` returns that since the last time."""

    page: Page
    origin: str
    faults: list[str] = field(default_factory=list)

    def go(self, path: str) -> int:
        """Open an address of the station; return the status."""
        answer = self.page.goto(self.origin + path)
        assert answer is not None
        return answer.status

    def take_faults(self) -> list[str]:
        faults = self.faults[:]
        self.faults.clear()
        return faults

    def watch(self) -> None:
        """Note requests to others, dialogs, errors of scripts, and what the browser says in its console."""
        context = self.page.context
        host = urlsplit(self.origin).netloc
        context.on("request", lambda one: self._asked(one.url, host))
        context.on("dialog", lambda one: (self.faults.append(f"dialog: {one.message}"), one.dismiss()))
        context.on("weberror", lambda one: self.faults.append(f"script: {one.error}"))
        context.on("console", lambda one: self._said(one.type, one.text))

    def _asked(self, url: str, host: str) -> None:
        address = urlsplit(url)
        if address.scheme in ("http", "https", "ws", "wss", "ftp") and address.netloc != host:
            self.faults.append(f"request to {url}")

    def _said(self, kind: str, text: str) -> None:
        # A page that answers 400 or 404 is an error to the browser, which says so.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource: the server responded"):
            self.faults.append(f"{kind}: {text}")


@dataclass
class Station:
    """The console that is served, and browsers for its users."""

    site: Site
    world: dict[str, Ec]
    origin: str
    chromium: Browser
    database_url: str
    config: Path
    _windows: dict[Any, Window] = field(default_factory=dict)

    def window(self, user: str | None = "tutto", **options: Any) -> Window:
        """The window of a user, who has signed in; the same each time for the same options."""
        key = (user, *sorted(options.items()))
        if key not in self._windows:
            self._windows[key] = self.new_window(user, **options)
        return self._windows[key]

    def new_window(self, user: str | None = "tutto", **options: Any) -> Window:
        """A window of a browser that was never here before."""
        context = self.chromium.new_context(
            viewport=WIDE, locale="it-IT", timezone_id="Europe/Rome", reduced_motion="reduce", **options
        )
        context.set_default_timeout(20_000)
        if user is not None:
            self.sign_in(context, user)
        window = Window(context.new_page(), self.origin)
        window.watch()
        return window

    def command(self, *arguments: str, given: str = "") -> None:
        """Run a command of the station on its database."""
        command = [STATION, "--config", str(self.config), *arguments]
        subprocess.run(command, env=environment(self.database_url), input=given, text=True, check=True)

    def sign_in(self, context: BrowserContext, user: str) -> None:
        """Give a browser the session of a user."""
        cookie = self.site.browser(user).client.get_cookie(COOKIE)
        assert cookie is not None
        # A __Host- cookie cannot be set for http:, although the browser takes one from there on this machine.
        where = self.origin.replace("http:", "https:")
        context.add_cookies([{"name": COOKIE, "value": cookie.value, "url": where, "secure": True, "httpOnly": True,
                              "sameSite": "Lax"}])  # fmt: skip


def chromium_path() -> str:
    """The browser's program."""
    found = os.environ.get("STATION_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.exit("chromium is needed (on Debian: apt install chromium), or STATION_CHROMIUM=path of one", 2)
    return found


@contextmanager
def serving(folder: Path, database_url: str, toml: str) -> Iterator[str]:
    """`station console` as an operator would start it; its origin."""
    port = free_port()
    file = folder / f"console-{port}.toml"
    listen = f'[console]\nlisten = "127.0.0.1:{port}"\nworkers = 1\nthreads = 8\n'
    file.write_text(toml.replace("[console]\n", listen, 1))
    log_file = folder / f"console-{port}.log"
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [STATION, "--config", str(file), "console"], env=environment(database_url), cwd=folder, stdout=log,
            stderr=log,
        )  # fmt: skip
    try:
        wait_for_answer(port, process, log_file)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
