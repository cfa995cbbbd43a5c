"""The console as a browser without JavaScript uses it: requests, cookies, forms; nothing of it is imitated.

site = Site(database_url, ec=[...], grant=[{"user": "anna", "ecs": ["*"], "role": "admin"}])
anna = site.browser("anna")              # signed in; site.browser() is not
page = anna.get("/incassi?da=2026-11-01")
page.status, page.text, page.headers; page.tree (lxml), page.words (visible text); anna.post("/esci")
"""

import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from typing import Any

from build import Request, an_envelope
from lxml import html

from station import contract, store
from station.config import Settings
from station.console.app import create_app
from station.console.session import COOKIE
from station.intake import Intake, Origin, Outcome
from station.receipt import Source
from station.store import sessions


@dataclass
class Page:
    """An answer."""

    status: int
    headers: Any
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    @cached_property
    def tree(self) -> Any:
        return html.fromstring(self.content)

    @property
    def words(self) -> str:
        """The text that a reader sees of the main part, blanks made one."""
        return " ".join(self.tree.xpath("string(//main)").split())


class Site:
    """The console of one configuration."""

    def __init__(self, database_url: str, **settings: Any) -> None:
        self.settings = Settings.model_validate({"database": {"url": database_url}, **settings})
        self.app = create_app(self.settings)
        self.app.testing = False  # errors become pages, as they do for people
        self.engine = store.connect(database_url)  # the station's own; the console may have another role

    def close(self) -> None:
        self.app.engine.dispose()
        self.engine.dispose()

    def push(self, request: Request, *, known: bool = True) -> Outcome:
        """Take a request in as the server does at a push; without `known` as if its EC were not configured."""
        settings = self.settings if known else Settings.model_validate({"ec": [{"id": "99999999999"}]})
        document = contract.parse(an_envelope(request), None)
        origin = Origin(Source.PUSH, peer="192.0.2.7")
        return Intake(self.engine, settings).accept(document, contract.request_element(document.root), origin)

    def browser(self, user: str | None = None, *groups: str) -> "Browser":
        """Return a browser, in which the user has signed in."""
        browser = Browser(self)
        if user is not None:
            browser.csrf = secrets.token_hex()
            token, now = secrets.token_hex(), datetime.now(UTC)
            data = {
                "user": {"name": user, "display_name": user, "groups": groups},
                "csrf": browser.csrf,
                "auth": self.settings.console.auth,
            }
            with store.transaction(self.app.engine) as connection:
                sessions.begin_session(
                    connection, sha256(token.encode()).hexdigest(), username=user, data=json.dumps(data), now=now,
                    expires_at=now + timedelta(hours=1),
                )  # fmt: skip
            browser.client.set_cookie(COOKIE, token, secure=True, httponly=True)
        return browser


class Browser:
    """One browser, with its cookies."""

    def __init__(self, site: Site) -> None:
        self.client = site.app.test_client()
        self.csrf = ""

    def get(self, address: str, **headers: str) -> Page:
        return self.ask("GET", address, headers=headers)

    def post(self, address: str, **fields: Any) -> Page:
        return self.ask("POST", address, data={"csrf": self.csrf, **fields})

    def ask(self, method: str, address: str, **how: Any) -> Page:
        answer = self.client.open(address, method=method, base_url="https://localhost", **how)
        with answer:
            return Page(answer.status_code, answer.headers, answer.data)
