"""What can be made to go wrong: rules that match calls, and what each does to the answer.

Here: the words of a rule and when it strikes. Not here: carrying it out on the wire (see `server`).
"""

import itertools
import json
from dataclasses import dataclass, field, fields
from typing import Any

_names = (f"fault-{n}" for n in itertools.count(1))


@dataclass(slots=True)
class Fault:
    """Strikes calls that match `endpoint`, `org`, `iuv`, `page` and `key`, and lists from `since` on, as far as given.

    Of the matching calls the first `skip` are spared, then every `every`-th is struck, `times` in all (no `times`:
    until it is taken away). What happens:

    - `delay`: seconds of silence before the answer; `trickle`: seconds over which the body is spread
    - `drop`: the connection ends `before` any answer, with a `reset`, after the `headers`, in the `middle` of the body
    - `truncate`: the fraction of the body that is sent, with a Content-Length that fits what is sent
    - `huge`: the body grows to so many bytes, made while it is sent; with `chunked` its length is not announced
    - `gzip`: the body is compressed, whatever the caller accepts (with `huge`: a bomb)
    - `status`, and as body one of `body` (text), `json` (any value), `style` (problem, gateway, html, empty)
    - `content_type` and `headers` go on top of the answer, the right one or another
    """

    name: str = field(default_factory=lambda: next(_names))
    endpoint: str | None = None  # list, receipt or positions; of the FdR simulator flows, flow, payments or receipt
    org: str | None = None
    iuv: str | None = None
    page: int | None = None
    key: str | None = None
    since: str | None = None
    skip: int = 0
    every: int = 1
    times: int | None = None
    delay: float = 0
    trickle: float = 0
    drop: str | None = None
    truncate: float | None = None
    huge: int | None = None
    chunked: bool = False
    gzip: bool = False
    status: int | None = None
    body: str | None = None
    json: Any = None
    style: str | None = None
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    seen: int = 0
    hits: int = 0

    def strikes(
        self, endpoint: str, org: str, iuv: str | None, page: int | None, key: str | None, start: str = ""
    ) -> bool:
        """Whether this call is struck; counts it. `start`: where the period of a list begins."""
        if self.times is not None and self.hits >= self.times:
            return False
        asked = ((self.endpoint, endpoint), (self.org, org), (self.iuv, iuv), (self.page, page), (self.key, key))
        if any(wanted is not None and wanted != given for wanted, given in asked):
            return False
        if self.since is not None and start < self.since:
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.seen - self.skip - 1) % self.every:
            return False
        self.hits += 1
        return True

    def replaces(self) -> bool:
        """Whether the right answer is not wanted at all."""
        return bool(self.status or self.style) or self.replacement() is not None

    def replacement(self) -> bytes | None:
        """The body that stands in for the right one, if the rule names one."""
        if self.body is not None:
            return self.body.encode()
        if self.json is not None:
            return json.dumps(self.json).encode()
        return None


_WORDS = {each.name for each in fields(Fault)} - {"seen", "hits"}
_CHOICES = {
    "endpoint": ("list", "receipt", "positions", "flows", "flow", "payments"),
    "drop": ("before", "reset", "headers", "middle"),
    "style": ("problem", "gateway", "html", "empty"),
}


def a_fault(rule: dict[str, Any]) -> Fault:
    """A rule as a scenario writes it; ValueError where it says something unknown."""
    if unknown := set(rule) - _WORDS:
        raise ValueError(f"fault: unknown {', '.join(sorted(unknown))}")
    for name, choices in _CHOICES.items():
        if rule.get(name) not in (None, *choices):
            raise ValueError(f"fault: {name} must be one of {', '.join(choices)}")
    return Fault(**rule)


def page_of(status: int, title: str) -> bytes:
    """An HTML error page as a proxy shows it."""
    body = f"<center><h1>{status} {title}</h1></center>\r\n<hr><center>Simulated-Gateway/v2</center>"
    return (
        f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n{body}\r\n</body>\r\n</html>\r\n".encode()
    )
