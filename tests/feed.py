"""Readers of the feed, and receipts for them: what its tests share."""

from datetime import UTC, datetime, timedelta
from hashlib import sha256

import httpx
from build import EC, OTHER_EC, a_request, an_envelope

from station import contract, store
from station.config import Settings
from station.intake import Intake, Origin
from station.receipt import Source
from station.store.outgoing import number_outbox

KEYS = {name: f"synthetic-key-of-{name}" for name in ("all", "ec", "other", "tari", "own", "many")}
# A reader of more ECs than are read by their index.
MANY = [f"{number:011}" for number in range(60)] + [EC]


def hash_of(key: str) -> str:
    return f"sha256:{sha256(key.encode()).hexdigest()}"


def a_reader(name: str, **over) -> dict:
    return {"kind": "feed", "name": name, "keys": [hash_of(KEYS[name])]} | over


READERS = [
    a_reader("all"),
    a_reader("ec", ecs=[EC]),
    a_reader("other", ecs=[OTHER_EC]),
    a_reader("tari", categories=["9/0201101"]),
    a_reader("own", ecs=[EC, OTHER_EC], copies=False),
    a_reader("many", ecs=MANY),
]


def as_toml(**api) -> str:
    """The readers as a station.toml has them, after the section [api]."""
    lines = ["[api]", *(f"{name} = {value!r}" for name, value in api.items())]
    for reader in READERS:
        lines += ["[[destination]]", *(f"{name} = {str(value).lower() if isinstance(value, bool) else value!r}"
                                      for name, value in reader.items())]  # fmt: skip
    return "\n".join(lines).replace("'", '"')


def of(name: str, **headers: str) -> dict[str, str]:
    """The headers of a reader's request."""
    return {"Authorization": f"Bearer {KEYS[name]}"} | headers


def push(engine: store.Engine, **over) -> tuple[str, str]:
    """Store a receipt as a push does. Return its idPA and receiptId."""
    request = a_request(**over)
    document = contract.parse(an_envelope(request), "utf-8")
    element = contract.request_element(document.root)
    Intake(engine, Settings()).accept(document, element, Origin(Source.PUSH, "127.0.0.1", "r-1"))
    return element.findtext("idPA"), element.findtext(".//receiptId")


def number(engine: store.Engine) -> int:
    """Give numbers to all that is in the outbox."""
    with store.transaction(engine) as connection:
        return number_outbox(connection, at=datetime.now(UTC), limit=2000)


def read_on(client: httpx.Client, name: str, after: int = 0, **more) -> tuple[list[dict], int]:
    """Read as a reader does until there is no more. Return the items and the number to go on behind."""
    items = []
    while True:
        answer = client.get("/api/v1/receipts", params={"after": after} | more, headers=of(name))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["next"] >= after
        assert all(after < item["number"] <= page["next"] for item in page["items"])
        items += page["items"]
        after = page["next"]
        if not page["more"]:
            return items, after


def soon() -> datetime:
    """A moment that a test waits for at most."""
    return datetime.now(UTC) + timedelta(seconds=60)
