"""Why a request was refused, and what a person can do about it, in plain Italian."""

import re
from typing import NamedTuple

from station.errors import (
    InvalidReceiptError,
    ReceiptConflictError,
    RefusalError,
    UnknownBrokerError,
    UnknownEcError,
    UnknownStationError,
)


class Fault(NamedTuple):
    """A fault code in words: a title, what it means, and what to do."""

    title: str
    meaning: str
    to_do: str


_FAULTS = {
    UnknownEcError.fault_code: Fault(
        "Ente non configurato",
        "La ricevuta è per un ente che questa stazione non conosce.",
        "Se l'ente è tra i vostri, chiedi a chi gestisce la stazione di aggiungerlo alla configurazione, poi rielabora "
        "la richiesta. Se non lo è, segnalalo a pagoPA e scarta la richiesta.",
    ),
    UnknownBrokerError.fault_code: Fault(
        "Intermediario non configurato",
        "La ricevuta è arrivata da un intermediario che questa stazione non conosce.",
        "Chiedi a chi gestisce la stazione di aggiungere l'intermediario alla configurazione, poi rielabora la "
        "richiesta.",
    ),
    UnknownStationError.fault_code: Fault(
        "Stazione pagoPA non configurata",
        "La ricevuta è arrivata da una stazione pagoPA che non è tra quelle configurate.",
        "Chiedi a chi gestisce il servizio di aggiungere la stazione alla configurazione, poi rielabora la richiesta.",
    ),
    InvalidReceiptError.fault_code: Fault(
        "Documento non valido",
        "La ricevuta non rispetta le regole pubblicate da pagoPA: un campo manca o ha un valore non ammesso.",
        "Rielaborarla non basta, perché il documento resta sbagliato. Chiedi al PSP o all'assistenza pagoPA una "
        "ricevuta corretta, indicando gli identificativi qui sotto; quando è arrivata, scarta questa richiesta.",
    ),
    ReceiptConflictError.fault_code: Fault(
        "Diversa dalla ricevuta già memorizzata",
        "Una ricevuta con lo stesso identificativo è già memorizzata, e questa riporta un valore diverso.",
        "Con «Prova a rielaborare» vedi in che cosa differiscono. Se è giusta quella memorizzata, scarta questa "
        "richiesta. Se è giusta questa, chiedi a chi gestisce la stazione di sostituirla (comando station replay "
        "--replace).",
    ),
    RefusalError.fault_code: Fault(
        "Errore della stazione",
        "La stazione ha incontrato un errore mentre elaborava la ricevuta, che è stata conservata.",
        "Avvisa chi gestisce la stazione. Dopo l'aggiornamento, rielabora la richiesta.",
    ),
}
_OTHER = Fault(
    "Richiesta rifiutata", "La richiesta non è stata accettata.", "Avvisa chi gestisce la stazione: il motivo è sotto."
)

# The elements of a receipt as a clerk calls them, by their path without the request's name.
_FIELDS = {
    "idPA": "Ente destinatario",
    "idBrokerPA": "Intermediario",
    "idStation": "Stazione",
    "receiptId": "Identificativo della ricevuta",
    "noticeNumber": "Numero avviso",
    "fiscalCode": "Codice fiscale dell'ente creditore",
    "outcome": "Esito",
    "creditorReferenceId": "IUV",
    "paymentAmount": "Importo",
    "description": "Causale",
    "companyName": "Nome dell'ente",
    "officeName": "Ufficio",
    "debtor": "Debitore",
    "payer": "Versante",
    "entityUniqueIdentifierType": "Tipo di soggetto",
    "entityUniqueIdentifierValue": "Codice fiscale",
    "fullName": "Nome e cognome",
    "e-mail": "E-mail",
    "transferList": "Versamenti",
    "transfer": "Versamento",
    "idTransfer": "Numero del versamento",
    "transferAmount": "Importo del versamento",
    "fiscalCodePA": "Codice fiscale del beneficiario",
    "IBAN": "IBAN",
    "MBDAttachment": "Marca da bollo",
    "remittanceInformation": "Causale del versamento",
    "transferCategory": "Categoria (tassonomia)",
    "idPSP": "Codice del PSP",
    "pspFiscalCode": "Codice fiscale del PSP",
    "pspPartitaIVA": "Partita IVA del PSP",
    "PSPCompanyName": "Nome del PSP",
    "idChannel": "Canale",
    "channelDescription": "Descrizione del canale",
    "paymentMethod": "Metodo di pagamento",
    "paymentNote": "Nota del pagamento",
    "fee": "Commissione",
    "primaryCiIncurredFee": "Commissione a carico dell'ente",
    "paymentDateTime": "Data e ora del pagamento",
    "applicationDate": "Data di applicazione",
    "transferDate": "Data del riversamento",
    "metadata": "Dati aggiuntivi",
    "standIn": "Stand-in",
}
# What the schema's checker says of a broken rule (station.contract.schema), and the same in Italian.
_RULES = (
    ("Missing child element", "manca un campo obbligatorio"),
    ("is not accepted by the pattern", "il valore non ha la forma prevista"),
    ("is not an element of the set", "il valore non è tra quelli ammessi"),
    ("is greater than the maximum", "il valore è troppo grande"),
    ("is less than the minimum", "il valore è troppo piccolo"),
    ("is not a valid value of the", "il valore non è del tipo previsto"),
    ("this exceeds the allowed maximum length", "il testo è troppo lungo"),
    ("this underruns the allowed minimum length", "il testo è troppo corto o manca"),
    ("This element is not expected", "il campo non è previsto in questa posizione"),
    ("is not expected here", "il documento contiene un campo non previsto"),
    ("marked as absent by xsi:nil", "il campo è vuoto"),
    ("is in a namespace", "il campo è scritto in una forma non prevista"),
    ("content is not allowed", "il contenuto del campo non è ammesso"),
)
_EXPECTED = re.compile(r"Expected is (?:one of )?\( ([^)]{1,400})\)")
_PLACE = re.compile(r"(?P<path>/[^ ]+)(?: \(line (?P<line>[0-9]+)\))?: (?P<rule>.*)", re.DOTALL)
_DEFECT = re.compile(r"unexpected \w+")


class Reason(NamedTuple):
    """A reason of a refusal: in Italian (empty where there are no words for it), and the element's path."""

    text: str
    path: str | None = None
    rule: str = ""


def fault(code: str) -> Fault:
    """Return what a fault code means."""
    return _FAULTS.get(code, _OTHER)


def reason(text: str) -> Reason:
    """Return in Italian which field broke which rule, from the reason that is kept of a refusal."""
    place = _PLACE.fullmatch(text) if text.startswith("/") else None
    if place is None:
        return Reason("Un errore imprevisto della stazione." if _DEFECT.fullmatch(text) else "")
    path, line, rule = place.group("path", "line", "rule")
    words = next((italian for english, italian in _RULES if english in rule), "il campo non rispetta le regole")
    if (expected := _EXPECTED.search(rule)) and "namespace" not in rule:
        names = ", ".join(f"«{field(name.strip())}»" for name in expected[1].split(",")[:3])
        words += f": {names}" if "child" in rule else f", dove ci si aspetta {names}"
    where = f" (riga {line} del documento)" if line else ""
    return Reason(f"Nel campo «{_named(path)}»{where}: {words}.", path, rule)


def field(name: str) -> str:
    """Return a clerk's word for an element; its own name where there is none."""
    return _FIELDS.get(name, name)


def _named(path: str) -> str:
    """Return the words for the last element of a path, and for whose it is."""
    steps = [re.sub(r"\[[0-9]+\]$", "", step) for step in path.strip("/").split("/")]
    name = field(steps[-1]) if len(steps) > 1 else "richiesta"
    owner = next((step for step in steps[1:-1] if step in ("debtor", "payer", "transfer")), None)
    return f"{name}, {field(owner).lower()}" if owner else "ricevuta" if name == "receipt" else name
