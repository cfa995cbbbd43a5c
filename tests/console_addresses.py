"""An address for each rule of the console's URL map, so that a route that is added is tested, or fails the tests.

A rule that names an object has its addresses by the names of its arguments. Every other one is in `QUERIES`: what its
query, or its form, may say of an EC.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from console_world import NOW, PAID, Ec
from werkzeug.routing import Rule

FILES = frozenset({"static", "assets", "live", "ready"})

Keys = Callable[[Ec], list[dict[str, Any]]]


def _receipts(ec: Ec) -> list[dict[str, Any]]:
    return [{"id_pa": ec.id_pa, "receipt_id": one} for one in ec.receipts[2:4]]


# By the arguments of a rule: the objects of an EC.
OBJECTS: dict[frozenset[str], Keys] = {
    frozenset({"id_pa", "receipt_id"}): _receipts,
}

_DAYS = {"da": f"{PAID:%Y-%m-%d}", "a": f"{NOW:%Y-%m-%d}"}

# By endpoint: the queries of a page without arguments, the first of which is a clerk's own.
QUERIES: dict[str, Keys] = {
    "search.search": lambda ec: [{}],
    "takings.takings": lambda ec: [{}, {"ente": ec.id_pa, **_DAYS}],
    "credited.flows": lambda ec: [{}],
    "attention.attention": lambda ec: [{}],
    "deliveries.destinations": lambda ec: [{}],
    "state.state": lambda ec: [{}],
    "accesses.accesses": lambda ec: [{}],
    "account.sign_in": lambda ec: [{}],
    "account.signed_out": lambda ec: [{}],
}

# By endpoint: the fields of a form, beside its token. Those of the sign-in are nobody's.
FORMS: dict[str, Keys] = {}
WITHOUT_FORM = frozenset({"account.sign_in_local", "account.sign_out"})


@dataclass(frozen=True)
class Address:
    """An address that is asked, with what a form sends."""

    rule: Rule
    method: str
    path: str
    names_object: bool
    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return str(self.rule.endpoint)


def addresses(app: Any, ec: Ec) -> Iterator[Address]:
    """Every rule's addresses for what belongs to an EC. A rule that has none is an error."""
    adapter = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        endpoint = str(rule.endpoint)
        if endpoint in FILES | WITHOUT_FORM:
            continue
        arguments = frozenset(rule.arguments)
        methods = rule.methods & {"GET", "POST"}
        objects = OBJECTS.get(arguments) if arguments else None
        for method in methods:
            queries = QUERIES.get(endpoint) if method == "GET" else None
            assert objects or queries or (endpoint in FORMS and not arguments), (
                f"console_addresses has no addresses for {method} {rule.rule} ({endpoint})"
            )
            for values in objects(ec) if objects else [{}]:
                path = adapter.build(endpoint, values, method=method)
                for query in queries(ec) if queries else [{}]:
                    asked = f"{path}?{urlencode(query)}" if query else path
                    for form in FORMS[endpoint](ec) if method == "POST" and endpoint in FORMS else [{}]:
                        yield Address(rule, method, asked, bool(objects), form)
