"""What the page of a receipt says of it, in groups that a clerk understands. Nothing that is stored is left out."""

from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from station import columns
from station.console.words import SOURCES, counted, euro, moment

Fact = tuple[str, str]

_TITLES = columns.ITALIAN | {
    "id_pa": "Ente destinatario",
    "fiscal_code": "Codice fiscale dell'ente creditore",
    "company_name": "Ente creditore",
    "receipt_id": "Identificativo (receiptId)",
    "amount": "Importo",
    "fee": "Commissione",
    "primary_ci_incurred_fee": "Commissione a carico dell'ente",
    "psp_company_name": "PSP",
    "id_psp": "Identificativo del PSP",
    "psp_fiscal_code": "Codice fiscale del PSP",
    "psp_partita_iva": "Partita IVA del PSP",
    "payment_date_time": "Pagato il",
    "transfer_date": "Data prevista dell'accredito",
    "debtor_name": "Nome o denominazione",
    "debtor_id": "Codice fiscale",
    "debtor_type": "Tipo",
    "payer_name": "Nome o denominazione",
    "payer_id": "Codice fiscale",
    "payer_type": "Tipo",
    "received_at": "Arrivata il",
    "last_resend_at": "Inviata di nuovo l'ultima volta il",
    "raw_purged_at": "Documento eliminato il",
    "anonymised_at": "Resa anonima il",
    "content_hash": "Impronta del contenuto (SHA-256)",
    "charset": "Codifica dei caratteri",
    "revision": "Revisione",
    "resends": "Inviata di nuovo",
    "notice_ordinal": "Altre ricevute dell'avviso prima di questa",
}
GROUPS = {
    "Pagamento": (
        "description", "amount", "payment_date_time", "outcome", "notice_number", "iuv", "company_name", "fiscal_code",
        "office_name", "application_date", "transfer_date", "payment_method", "payment_note", "psp_company_name",
        "fee", "primary_ci_incurred_fee", "receipt_id",
    ),
    "Debitore": ("debtor_name", "debtor_id", "debtor_type"),
    "Chi ha pagato": ("payer_name", "payer_id", "payer_type"),
    "Arrivo": ("received_at", "source", "id_pa", "id_broker_pa", "id_station", "resends", "last_resend_at"),
}  # fmt: skip
"""Columns by group; what no group names is a technical datum, and follows at the end."""
ELSEWHERE = ("raw", "flags", "transfers", "routes")  # shown by the page itself
_TYPES = {"F": "persona fisica", "G": "persona giuridica"}


def groups(receipt: dict[str, Any], names: dict[str, str]) -> list[tuple[str, list[Fact]]]:
    """Return titles and facts of a receipt (see `store.find`); `names` are those of ECs, by fiscal code."""
    named = {name for group in GROUPS.values() for name in group}
    rest = tuple(name for name in receipt if name not in named and name not in ELSEWHERE)
    found = [(title, list(_facts(receipt, group, names))) for title, group in (GROUPS | {"Dati tecnici": rest}).items()]
    return [(title, facts) for title, facts in found if facts]


def _facts(receipt: dict[str, Any], group: tuple[str, ...], names: dict[str, str]) -> Iterator[Fact]:
    for name in group:
        value = receipt[name]
        if value is not None and value != []:
            yield _TITLES.get(name, name).removesuffix(" (ora italiana)"), _as_text(name, value, names)


def _as_text(name: str, value: Any, names: dict[str, str]) -> str:
    match name, value:
        case "outcome", _:
            return "pagamento eseguito (OK)" if value == "OK" else f"non eseguito ({value})"
        case "source", _:
            return SOURCES.get(value, str(value))
        case (("debtor_type" | "payer_type"), _):
            return _TYPES.get(value, str(value))
        case "resends", _:
            return counted(value, "volta", "volte")
        case "id_pa", _:
            return f"{names[value]} ({value})" if names.get(value) else str(value)
        case _, Decimal():
            return euro(value)
        case _, datetime() | date():
            return moment(value)
        case _, bool():
            return "sì" if value else "no"
        case _, bytes():
            return value.hex()
        case _, list():
            return "; ".join(" = ".join(map(str, entry)) for entry in value)
    return str(value)
