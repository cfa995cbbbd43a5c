"""What a flow says, in words for clerks: a payment's status, whether its receipt is here, whether sums agree."""

from decimal import Decimal
from typing import Any

STATUSES = {
    0: ("Eseguito", "Il pagamento è andato a buon fine."),
    3: ("Revocato", "Il PSP ha revocato il pagamento: l'importo può essere restituito a chi ha pagato."),
    4: ("Eseguito in stand-in", "Pagato mentre i sistemi dell'ente non rispondevano a pagoPA; la ricevuta è prevista."),
    8: ("In stand-in, senza RPT", "Pagato in stand-in senza richiesta di pagamento: la ricevuta può non esistere."),
    9: ("Senza RPT", "Pagato senza una richiesta di pagamento dell'ente: la ricevuta può non esistere."),
}
"""A payment's payStatus: in a word or two, and what it means."""

# By the words of `flow_columns.payment_row`: in a word or two, how much it matters, and what it means.
RECEIPTS = {
    "here": ("c'è", "success", "La ricevuta c'è."),
    "by IUV": (
        "c'è, per IUV", "success",
        "La ricevuta c'è: il PSP ha indicato un altro identificativo (IUR) e l'abbiamo riconosciuta da IUV, versamento "
        "e importo.",
    ),
    "provisional": (
        "provvisoria", "warning", "I dati vengono da BizEvents: il documento originale deve ancora arrivare.",
    ),
    "elsewhere": (
        "di un altro ente", "secondary", "La ricevuta c'è, nella copia di un altro ente che non è tra quelli che vedi.",
    ),
    "missing": (
        "manca", "danger",
        "L'importo è stato accreditato ma la ricevuta non è arrivata: la stazione continua a chiederla a pagoPA.",
    ),
    "not expected": (
        "non prevista", "secondary", "Pagamento senza RPT: la ricevuta può non esistere. Non c'è nulla da fare.",
    ),
}  # fmt: skip

# States of an item of the reconciliation: how the request for a missing receipt stands.
REQUESTS = {
    None: "non ancora chiesta: lo fa la prossima esecuzione",
    "open": "chiesta a pagoPA, si riprova",
    "refused": "pagoPA l'ha data ma è stata rifiutata: vedi Da controllare",
    "given_up": "chiesta fino al limite, non si riprova più: apri una segnalazione a pagoPA",
}


def status(number: int) -> str:
    """Return a payStatus in words."""
    return STATUSES[number][0] if number in STATUSES else f"esito {number}"


def problems(flow: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with a flow of a list: in words, and how much it matters."""
    found = []
    if flow["fetched_at"] is None:
        found.append(("non ancora letto", "warning"))
    if flow["missing"]:
        found.append(("1 senza ricevuta" if flow["missing"] == 1 else f"{flow['missing']} senza ricevuta", "danger"))
    if disagreements(flow):
        found.append(("somme diverse", "warning"))
    return found


def disagreements(flow: dict[str, Any]) -> list[str]:
    """Return which of a flow's sums and counts do not agree."""
    declared, computed, credited = flow["sum_payments"], flow["computed_sum_payments"], flow["credited"]
    found = []
    if _differ(declared, computed):
        found.append("La somma dichiarata dal PSP è diversa da quella calcolata da pagoPA.")
    if _differ(declared, credited):
        found.append("La somma dichiarata dal PSP è diversa da quella dei pagamenti elencati.")
    if _differ(flow["tot_payments"], flow["computed_tot_payments"]):
        found.append("Il numero di pagamenti dichiarato dal PSP è diverso da quello calcolato da pagoPA.")
    return found


def _differ(one: Decimal | int | None, other: Decimal | int | None) -> bool:
    return one is not None and other is not None and one != other
