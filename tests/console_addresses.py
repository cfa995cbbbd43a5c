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
    """An ordinary one, and the one with the odd receiptId."""
    return [{"id_pa": ec.id_pa, "receipt_id": one} for one in (ec.receipts[-1], next(filter(_is_odd, ec.receipts)))]


def _is_odd(receipt_id: str) -> bool:
    return "/" in receipt_id


def _destinations(ec: Ec) -> list[dict[str, Any]]:
    return [{"name": f"{ec.mark}-{kind}"} for kind in ("erp", "notte", "portale")]


# By the arguments of a rule: objects of an EC, which are 404 for others.
OBJECTS: dict[frozenset[str], Keys] = {
    frozenset({"id_pa", "receipt_id"}): _receipts,
    frozenset({"id_pa"}): lambda ec: [{"id_pa": ec.id_pa}],
    frozenset({"id_pa", "refused_id"}): lambda ec: [{"id_pa": ec.id_pa, "refused_id": one} for one in ec.refused],
    frozenset({"name"}): _destinations,
    frozenset({"name", "number"}): lambda ec: [
        {"name": name, "number": number} for name in (f"{ec.mark}-erp", "tutti") for number in ec.numbers[-2:]
    ],
}
# And those that are no EC's.
KINDS: dict[frozenset[str], list[dict[str, Any]]] = {
    frozenset({"flag"}): [{"flag": "second_receipt"}, {"flag": "stand_in"}],
}

_DAYS = {"da": f"{PAID:%Y-%m-%d}", "a": f"{NOW:%Y-%m-%d}"}


def _line(ec: Ec) -> str:
    return f"/PUR/LGPE-RIVERSAMENTO/URI/{ec.flow}"


# By endpoint: the queries of a page, the first of which is the page as the menu opens it.
QUERIES: dict[str, Keys] = {
    "search.search": lambda ec: [
        {}, {"q": ec.iuvs[0]}, {"q": ec.receipts[0]}, {"q": ec.name}, {"q": _line(ec)}, {"q": ec.debtor},
        {"q": "120,50", "ente": ec.id_pa}, {"q": f"{ec.mark} persona", **_DAYS}, {"ente": ec.id_pa},
        {"segnalazione": "second_receipt"},
    ],
    "search.csv": lambda ec: [{"q": ec.iuvs[0]}, {"q": "120,50"}, {"ente": ec.id_pa}],
    "takings.takings": lambda ec: [{}, {"ente": ec.id_pa, **_DAYS}, {"per": "arrivo", **_DAYS}],
    "takings.csv_table": lambda ec: [{**_DAYS}, {"ente": ec.id_pa, **_DAYS}, {"tabella": "conti", **_DAYS}],
    "takings.behind": lambda ec: [
        {**_DAYS, "iban": ec.iban}, {"ente": ec.id_pa, **_DAYS}, {"tassonomia": f"9/010{ec.mark}/", **_DAYS},
        {"beneficiario": ec.id_pa, **_DAYS},
    ],
    "credited.flows": lambda ec: [{}, {"riga": _line(ec)}, {"ente": ec.id_pa}],
    "credited.flows_csv": lambda ec: [{}, {"ente": ec.id_pa}],
    "credited.flow": lambda ec: [
        {"nome": name, "psp": "ABI99999", "revisione": "1"} for name in (ec.flow, f"{ec.flow}-2")
    ],
    "credited.flow_csv": lambda ec: [{"nome": ec.flow, "psp": "ABI99999", "revisione": "1"}],
    **{
        f"credited.{name}": lambda ec: [{}, {"ente": ec.id_pa}]
        for page in ("missing", "uncredited", "balances") for name in (page, f"{page}_csv")
    },
    "attention.attention": lambda ec: [{}],
    "attention.missing": lambda ec: [{}],
    "attention.refused.refused": lambda ec: [{}, {"ente": ec.id_pa}, {"stato": "open"}],
    "deliveries.destinations": lambda ec: [{}],
    "state.state": lambda ec: [{}],
    "state.findings": lambda ec: [{}],
    "accesses.accesses": lambda ec: [{}, {"ente": ec.id_pa}, {"utente": f"{ec.mark}.rossi"}],
    "accesses.csv": lambda ec: [{}, {"ente": ec.id_pa}],
    "account.profile": lambda ec: [{}],
    "account.sign_in": lambda ec: [{}],
    "account.signed_out": lambda ec: [{}],
}  # fmt: skip

# By endpoint: the fields of a form, beside its token.
FORMS: dict[str, Keys] = {
    "search.ask": lambda ec: [{"q": ec.debtor}, {"q": ec.iuvs[0]}, {"q": ec.iuvs[0], "ente": ec.id_pa}],
    "accesses.ask": lambda ec: [{"soggetto": ec.debtor}, {"ente": ec.id_pa}],
    "attention.refused.replay_listed": lambda ec: [
        {"richiesta": f"{ec.id_pa}/{one}", **more} for one in ec.refused for more in ({"prova": "1"}, {})
    ],
    "attention.refused.discard": lambda ec: [{"motivo": "prova"}],
    "account.profile": lambda ec: [{}],
    "deliveries.pause": lambda ec: [{"motivo": "prova"}],
    "deliveries.skip": lambda ec: [{"motivo": "prova"}],
}
# Signing in and out has tests of its own, and nothing of an EC.
APART = frozenset({"account.sign_in_local", "account.callback", "account.sign_out"})


@dataclass(frozen=True)
class Address:
    """An address that is asked, with what a form sends."""

    rule: Rule
    method: str
    path: str
    names_object: bool
    form: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def endpoint(self) -> str:
        return str(self.rule.endpoint)


def addresses(app: Any, ec: Ec) -> Iterator[Address]:
    """Every rule's addresses for what belongs to an EC. A rule that has none is an error."""
    adapter = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        endpoint = str(rule.endpoint)
        if endpoint in FILES | APART:
            continue
        arguments = frozenset(rule.arguments)
        methods = rule.methods & {"GET", "POST"}
        objects = OBJECTS.get(arguments) if arguments else None
        kinds = KINDS.get(arguments, []) if arguments else [{}]
        for method in methods:
            queries = QUERIES.get(endpoint) if method == "GET" else None
            assert objects or queries or (kinds and arguments) or (endpoint in FORMS and not arguments), (
                f"console_addresses has no addresses for {method} {rule.rule} ({endpoint})"
            )
            for values in objects(ec) if objects else kinds:
                path = adapter.build(endpoint, values, method=method)
                for query in queries(ec) if queries else [{}]:
                    asked = f"{path}?{urlencode(query)}" if query else path
                    for form in FORMS[endpoint](ec) if method == "POST" and endpoint in FORMS else [{}]:
                        yield Address(rule, method, asked, bool(objects), form)
