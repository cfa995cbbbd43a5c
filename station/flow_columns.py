"""What is credited, as rows of tables: a flow, its payments, what is missing and what was not credited. Names, Italian
titles, and words for what a row says."""

from typing import Any

STATUSES = {"EXECUTED": 0, "REVOKED": 3, "STAND_IN": 4, "STAND_IN_NO_RPT": 8, "NO_RPT": 9}
"""A payment's status as the FdR API writes it, and its number."""
STATUS_NAMES = {number: name for name, number in STATUSES.items()}
_NEVER = (STATUSES["STAND_IN_NO_RPT"], STATUSES["NO_RPT"])

ITALIAN = {
    "id_pa": "Ente (codice fiscale)",
    "fdr": "Flusso",
    "psp_id": "PSP: identificativo",
    "id_psp": "PSP: identificativo",
    "psp_name": "PSP: denominazione",
    "psp_company_name": "PSP: denominazione",
    "revision": "Revisione",
    "published": "Pubblicato (ora italiana)",
    "flow_date": "Data del flusso (ora italiana)",
    "regulation": "TRN del bonifico",
    "regulation_date": "Data del bonifico",
    "payments": "Pagamenti",
    "credited": "Accreditato (euro)",
    "missing": "Senza ricevuta",
    "position": "Numero",
    "amount": "Importo (euro)",
    "receipt": "Ricevuta",
    "pay_status": "Esito",
    "pay_date": "Data del pagamento (ora italiana)",
    "paid_at": "Data del pagamento (ora italiana)",
    "notice_number": "Numero avviso",
    "iuv": "IUV",
    "iur": "IUR",
    "id_transfer": "Versamento",
    "receipt_id": "Identificativo ricevuta (receiptId)",
    "debtor_id": "Debitore: codice fiscale",
    "debtor_name": "Debitore: nome",
    "payer_name": "Versante: nome",
    "remittance_information": "Causale",
    "description": "Oggetto del pagamento",
    "transfer_category": "Tassonomia",
    "iban": "IBAN",
    "state": "Stato della richiesta",
    "attempts": "Tentativi",
    "last_at": "Ultimo tentativo (ora italiana)",
    "last_error": "Ultimo esito",
}

RECEIPT_IN_ITALIAN = {
    "here": "presente",
    "by IUV": "per IUV",
    "provisional": "provvisoria",
    "missing": "MANCANTE",
    "not expected": "non prevista",
    "elsewhere": "di un altro ente",
}

FLOWS = (
    "published", "id_pa", "fdr", "psp_id", "psp_name", "revision", "flow_date", "regulation", "regulation_date",
    "payments", "credited", "missing",
)  # fmt: skip
PAYMENTS = (
    "position", "amount", "receipt", "notice_number", "iuv", "iur", "id_transfer", "pay_status", "pay_date",
    "receipt_id", "debtor_id", "debtor_name", "payer_name", "remittance_information", "description",
    "transfer_category", "iban",
)  # fmt: skip
MISSING = (
    "id_pa", "fdr", "psp_id", "psp_name", "regulation", "regulation_date", "position", "iuv", "iur", "id_transfer",
    "amount", "pay_date", "pay_status", "state", "attempts", "last_at", "last_error",
)  # fmt: skip
UNCREDITED = (
    "id_pa", "paid_at", "amount", "notice_number", "iuv", "receipt_id", "id_transfer", "id_psp", "psp_company_name",
    "debtor_id", "debtor_name", "remittance_information", "transfer_category", "iban",
)  # fmt: skip


def payment_row(row: Any) -> dict[str, Any]:
    """Return a payment of a flow as a row with `PAYMENTS`; `receipt` is one of the words of `RECEIPT_IN_ITALIAN`.

    A receipt that the reader may not see, of another EC that the payment was credited to, is elsewhere.
    """
    found: dict[str, Any] = row._asdict()
    found["receipt"] = _receipt_word(row)
    found["pay_status"] = STATUS_NAMES.get(row.pay_status, str(row.pay_status))
    return found


def _receipt_word(row: Any) -> str:
    if row.receipt_id is not None:
        return "provisional" if row.source == "bizevents" else "by IUV" if row.matched_by == "iuv" else "here"
    if row.matched_by is not None:
        return "elsewhere"
    return "not expected" if row.pay_status in _NEVER else "missing"
