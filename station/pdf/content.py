"""What stands on the printed copy of a receipt: labels and values in Italian, as plain data for the template.

The fields are those that the printed copy must have (pagoPA, SANP: copia analogica della ricevuta telematica), and more
that a clerk or a citizen looks for.
"""

from __future__ import annotations  # the settings are loaded when they are needed

import re
from collections.abc import Iterator
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from station import contract
from station.clock import shown
from station.receipt import Flag

if TYPE_CHECKING:
    from station.config import Settings

_ABSENT = "non indicato"
# The characters that typst's own fonts have: Latin, Greek, Cyrillic, punctuation, currencies, arrows. Any other, and
# control characters, would end in an error of PDF/UA-1; they are written as the escapes that `text.printable` uses.
_UNSHOWN = re.compile(
    "[^ -~\xa1-\xac\xae-\u02ff\u0384-\u038a\u038c\u038e-\u03a1\u03a3-\u03ce\u0400-\u0477\u048c-\u04c4\u04d0-\u04f9"
    "\u1e00-\u1eff\u2010\u2012-\u2027\u2030-\u2037\u2039-\u203e\u20a0-\u20b5\u20b8-\u20ba\u20bd\u20bf"
    "\u2103\u2116\u2122\u2190-\u2199]"
)


def text(value: str) -> str:
    """Return a text as the page shows it, in Unicode's composed form (NFC)."""
    return _UNSHOWN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), normalize("NFC", value))


def euro(amount: Decimal) -> str:
    """Return an amount as written in Italy: `1.234,50 €`."""
    return f"{amount:,.2f} €".translate(str.maketrans(",.", ".,"))


def content(settings: Settings, receipt: dict[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a receipt (see `render`), all text of which is safe to show."""
    is_provisional = "provisional" in receipt["flags"]
    return {
        "title": f"Ricevuta di pagamento pagoPA, IUV {text(receipt['iuv'])}",
        "heading": "Ricevuta di pagamento pagoPA",
        "footer": f"Copia analogica della ricevuta telematica, avviso {text(receipt['notice_number'])}",
        "logos": _logos(settings, receipt),
        "notices": list(_notices(receipt, is_provisional=is_provisional)),
        "groups": [{"title": title, "rows": _rows(rows)} for title, rows in _groups(settings, receipt)],
        "transfers": {
            "title": "Beneficiari",
            "header": ["N.", "Beneficiario", "Causale", "Accredito", "Importo"],
            "rows": [_transfer(settings, receipt, transfer) for transfer in receipt["transfers"]],
        },
        "original": {
            "title": "Duplicato informatico",
            "rows": _rows(_original(receipt, is_provisional=is_provisional)),
        },
        "has_document": bool(receipt["raw"]) and not is_provisional,
    }


def _logos(settings: Settings, receipt: dict[str, Any]) -> dict[str, dict[str, str]]:
    ec = settings.ecs.get(receipt["id_pa"])
    files = {"ec": ec and ec.logo, "pagopa": settings.pdf.pagopa_logo}
    alt = {"ec": f"Logo di {text(_ec_name(settings, receipt, receipt['id_pa']))}", "pagopa": "Logo di pagoPA"}
    return {name: {"file": str(file), "alt": alt[name]} for name, file in files.items() if file}


def _ec_name(settings: Settings, receipt: dict[str, Any], fiscal_code: str) -> str:
    """Return the name of an EC: the receipt's for its owner, otherwise the configured one, otherwise its code."""
    if fiscal_code == receipt["fiscal_code"] and receipt["company_name"].strip():
        return str(receipt["company_name"])
    ec = settings.ecs.get(fiscal_code)
    return (ec and ec.name) or fiscal_code


def _notices(receipt: dict[str, Any], *, is_provisional: bool) -> Iterator[str]:
    if receipt["outcome"] != "OK":
        yield "Pagamento NON eseguito: questa ricevuta non attesta alcun pagamento."
    if is_provisional:
        yield (
            "Ricevuta PROVVISORIA: i dati sono quelli comunicati dal servizio BizEvents di pagoPA; il documento della "
            "ricevuta telematica non è ancora arrivato."
        )
    if at := receipt["anonymised_at"]:
        yield (
            f"Ricevuta RESA ANONIMA il {shown(at)}: nomi, codici fiscali, IBAN e causali sono stati eliminati allo "
            "scadere dei termini di conservazione."
        )


def _rows(rows: Iterator[tuple[str, str | None]]) -> list[tuple[str, str]]:
    """Return the rows that have a value."""
    return [(label, _or_absent(value)) for label, value in rows if value is not None]


def _or_absent(value: str | None) -> str:
    return text(value) if value and value.strip() else _ABSENT


def _groups(settings: Settings, receipt: dict[str, Any]) -> Iterator[tuple[str, Iterator[tuple[str, str | None]]]]:
    yield "Pagamento", _payment(receipt)
    yield "Ente creditore", _ec(settings, receipt)
    yield "Prestatore di servizi di pagamento (PSP)", _psp(receipt)
    yield "Debitore", _subject(receipt, "debtor")
    if receipt["payer_type"] is not None and not (receipt["anonymised_at"] and receipt["payer_id"] is None):
        yield "Versante", _subject(receipt, "payer")


def _payment(receipt: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    absent = _ABSENT if Flag.DATE_OUT_OF_RANGE not in receipt["flags"] else "nel duplicato informatico"
    paid, applied = receipt["payment_date_time"], receipt["application_date"]
    fee = receipt["fee"]
    yield "Esito", "OK: pagamento eseguito" if receipt["outcome"] == "OK" else f"{receipt['outcome']}: non eseguito"
    yield "Importo operazione", euro(receipt["amount"])
    yield "Data operazione", f"{shown(paid)} (ora italiana)" if paid else absent
    yield "Data applicativa", shown(applied) or absent
    yield "Identificativo versamento (IUV)", receipt["iuv"]
    yield "Numero avviso", receipt["notice_number"]
    yield "Identificativo pagamento", _receipt_id(receipt)
    yield "Causale", receipt["description"]
    yield "Commissione del PSP", None if fee is None else euro(fee)
    yield "Metodo di pagamento", receipt["payment_method"]


def _receipt_id(receipt: dict[str, Any]) -> str:
    """Return the receiptId as it was sent; its hash where it was too long for the database and the document is gone."""
    if Flag.RECEIPT_ID_HASHED not in receipt["flags"] or not receipt["raw"]:
        return str(receipt["receipt_id"])
    request = contract.request_element(contract.parse(receipt["raw"], receipt["charset"]).root)
    return str(request.findtext("receipt/receiptId"))


def _ec(settings: Settings, receipt: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    id_pa = receipt["id_pa"]
    yield "Denominazione", receipt["company_name"]
    yield "Codice fiscale", receipt["fiscal_code"]
    yield "Ufficio", receipt["office_name"]
    if id_pa != receipt["fiscal_code"]:
        name = _ec_name(settings, receipt, id_pa)
        yield "Copia per l'ente beneficiario", id_pa if name == id_pa else f"{name} ({id_pa})"


def _psp(receipt: dict[str, Any]) -> Iterator[tuple[str, str | None]]:
    yield "Denominazione", receipt["psp_company_name"]
    yield "Codice fiscale", receipt["psp_fiscal_code"] or ""
    yield "Partita IVA", receipt["psp_partita_iva"]
    yield "Identificativo", receipt["id_psp"]


def _subject(receipt: dict[str, Any], who: str) -> Iterator[tuple[str, str | None]]:
    yield "Nome o denominazione", receipt[f"{who}_name"]
    yield "Codice fiscale", receipt[f"{who}_id"]


def _transfer(settings: Settings, receipt: dict[str, Any], transfer: dict[str, Any]) -> list[str]:
    code = transfer["fiscal_code_pa"]
    name = transfer["company_name"]
    name = name if name and name.strip() else _ec_name(settings, receipt, code)
    return [
        str(transfer["id_transfer"]),
        text(code if name == code else f"{name} ({code})"),
        _or_absent(transfer["remittance_information"]),
        "Marca da bollo digitale" if transfer["digital_stamp"] else _or_absent(transfer["iban"]),
        euro(transfer["amount"]),
    ]


def _original(receipt: dict[str, Any], *, is_provisional: bool) -> Iterator[tuple[str, str | None]]:
    """Yield what identifies the exact XML that was received (`receipts show --xml`), which has the legal value."""
    if is_provisional:
        yield "Documento XML", "non ancora arrivato"
    elif receipt["raw"]:
        yield "Impronta (SHA-256)", sha256(receipt["raw"]).hexdigest()
        yield "Ricevuto il", f"{shown(receipt['received_at'])} (ora italiana)"
    else:
        yield "Documento XML", f"eliminato il {shown(receipt['raw_purged_at'])}"
