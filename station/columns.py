"""A receipt as a row of a table, or a row for each of its transfers: names of columns, Italian titles and values."""

from collections.abc import Iterator, Sequence
from typing import Any

TRANSFER = (
    "id_transfer", "amount", "fiscal_code_pa", "company_name", "iban", "digital_stamp", "remittance_information",
    "transfer_category", "metadata",
)  # fmt: skip
_TRANSFERS = range(5)  # the schema's limit
ITALIAN = {
    "id_pa": "Ente destinatario (codice fiscale)",
    "receipt_id": "Identificativo ricevuta (receiptId)",
    "id_broker_pa": "Intermediario",
    "id_station": "Stazione",
    "notice_number": "Numero avviso",
    "fiscal_code": "Ente creditore (codice fiscale)",
    "iuv": "IUV",
    "outcome": "Esito",
    "amount": "Importo (euro)",
    "fee": "Commissione (euro)",
    "primary_ci_incurred_fee": "Commissione a carico dell'ente (euro)",
    "description": "Causale",
    "company_name": "Ente creditore",
    "office_name": "Ufficio",
    "debtor_type": "Debitore: tipo (F o G)",
    "debtor_id": "Debitore: codice fiscale",
    "debtor_name": "Debitore: nome",
    "payer_type": "Versante: tipo (F o G)",
    "payer_id": "Versante: codice fiscale",
    "payer_name": "Versante: nome",
    "id_psp": "PSP: identificativo",
    "psp_fiscal_code": "PSP: codice fiscale",
    "psp_partita_iva": "PSP: partita IVA",
    "psp_company_name": "PSP: denominazione",
    "id_channel": "Canale",
    "channel_description": "Descrizione del canale",
    "payment_method": "Metodo di pagamento",
    "payment_note": "Nota di pagamento",
    "id_bundle": "Pacchetto commissionale (idBundle)",
    "id_ci_bundle": "Pacchetto commissionale dell'ente (idCiBundle)",
    "payment_date_time": "Data e ora del pagamento (ora italiana)",
    "application_date": "Data applicativa",
    "transfer_date": "Data di trasferimento",
    "metadata": "Metadati",
    "stand_in": "Stand-in",
    "digital_stamp": "Marca da bollo digitale",
    "version": "Versione",
    "source": "Origine",
    "received_at": "Arrivo (ora italiana)",
    "resends": "Reinvii",
    "last_resend_at": "Ultimo reinvio (ora italiana)",
    "content_hash": "Impronta (SHA-256)",
    "raw_purged_at": "Documento eliminato (ora italiana)",
    "anonymised_at": "Resa anonima (ora italiana)",
    "flags": "Segnalazioni",
    "routes": "Altri percorsi (ora italiana)",
}
COLUMNS = tuple(ITALIAN)
"""The columns of a receipt; in a table the transfers come behind them, `transfer_1_amount` and so on."""

_ITALIAN_TRANSFER = {
    "id_transfer": "numero",
    "amount": "importo (euro)",
    "fiscal_code_pa": "ente (codice fiscale)",
    "company_name": "ente",
    "iban": "IBAN",
    "digital_stamp": "marca da bollo digitale",
    "remittance_information": "causale",
    "transfer_category": "tassonomia",
    "metadata": "metadati",
}

OF_TRANSFER = {f"transfer_{name}" if name in COLUMNS else name: name for name in TRANSFER}
"""The columns of a transfer in a row of its own: `iban`, but `transfer_amount`, since the receipt has an `amount`."""

TRANSFER_ROW = (
    "id_pa", "receipt_id", "notice_number", "iuv", "fiscal_code", "company_name", "office_name", "description",
    "outcome", "amount", "fee", "payment_date_time", "application_date", "transfer_date", "id_psp", "psp_fiscal_code",
    "psp_company_name", "payment_method", "payment_note", "debtor_type", "debtor_id", "debtor_name", "payer_type",
    "payer_id", "payer_name", "received_at", "flags", *OF_TRANSFER,
)  # fmt: skip
"""The columns of a table with a row for each transfer. `amount` and `fee` are the receipt's, in each of its rows."""

_OF_FILE = {"number": "Numero d'ordine", "event": "Evento", "document": "File XML"}
_CHANGING = ("resends", "last_resend_at", "raw_purged_at", "anonymised_at", "routes")  # without a new revision
RECEIPTS_CSV = ("number", "event", *(name for name in COLUMNS if name not in _CHANGING), "document")
"""The columns of receipts.csv in the files of a folder, which has no transfers."""
TRANSFERS_CSV = ("number", "event", *TRANSFER_ROW)
"""The columns of transfers.csv there, unless others are chosen of `TRANSFERS_CSV_CHOICE`."""
TRANSFERS_CSV_CHOICE = (*RECEIPTS_CSV, *OF_TRANSFER)


def names() -> list[str]:
    """Return the names of all columns of a table, those of the transfers too."""
    return [*COLUMNS, *(f"transfer_{number + 1}_{name}" for number in _TRANSFERS for name in TRANSFER)]


def titles() -> list[str]:
    """Return the Italian titles of the same columns."""
    return [
        *(ITALIAN[name] for name in COLUMNS),
        *(f"Versamento {number + 1}: {_ITALIAN_TRANSFER[name]}" for number in _TRANSFERS for name in TRANSFER),
    ]


def title(name: str) -> str:
    """Return the Italian title of a column of a receipt, of `OF_TRANSFER` or of a folder's files."""
    return ITALIAN.get(name) or _OF_FILE.get(name) or f"Versamento: {_ITALIAN_TRANSFER[OF_TRANSFER[name]]}"


def transfer_rows(receipt: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the values of each transfer, by the names of `OF_TRANSFER`, with those of the receipt."""
    for transfer in receipt["transfers"]:
        yield receipt | {name: transfer[its] for name, its in OF_TRANSFER.items()}


def row(receipt: dict[str, Any]) -> Iterator[Any]:
    """Yield the values of a receipt in the order of `names`, as they are stored."""
    yield from cells(receipt, COLUMNS)
    transfers: Sequence[dict[str, Any]] = receipt["transfers"]
    for number in _TRANSFERS:
        transfer = transfers[number] if number < len(transfers) else {}
        yield from map(transfer.get, TRANSFER)


def cells(receipt: dict[str, Any], columns: Sequence[str]) -> Iterator[Any]:
    """Return the values of these columns; flags as one text with blanks between."""
    return (" ".join(receipt[name]) if name == "flags" else receipt[name] for name in columns)
