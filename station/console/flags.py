"""The flags of receipts in plain Italian: which ones a person should look at, and why."""

from typing import NamedTuple

from station.receipt import Flag


class Sign(NamedTuple):
    """A flag in words: a title for one receipt, what it means, and what to do (empty: nothing)."""

    title: str
    meaning: str
    to_do: str = ""


SIGNS: dict[str, Sign] = {
    Flag.SECOND_RECEIPT: Sign(
        "Pagamento doppio",
        "Per lo stesso avviso è arrivata più di una ricevuta: forse è stato pagato due volte.",
        "Confronta i pagamenti dell'avviso. Se è stato pagato due volte, il secondo importo va rimborsato.",
    ),
    Flag.TRANSFER_SUM_DIFFERS: Sign(
        "Somma diversa dall'importo",
        "I versamenti della ricevuta non danno, sommati, l'importo pagato.",
        "Confronta la ricevuta con la posizione debitoria e con l'accredito prima di contabilizzarla.",
    ),
    Flag.OUTCOME_KO: Sign(
        "Esito KO",
        "La ricevuta dice che il pagamento non è riuscito. pagoPA di norma non invia ricevute così.",
        "Non considerare pagato l'avviso: verifica con pagoPA o con il PSP.",
    ),
    Flag.NOTICE_IUV_DIFFER: Sign(
        "IUV diverso dall'avviso",
        "Il numero dell'avviso non contiene lo IUV della ricevuta.",
        "Controlla a quale posizione debitoria si riferisce il pagamento.",
    ),
    Flag.UNKNOWN_CONTENT_DIFFERS: Sign(
        "Copie con contenuto diverso",
        "Due documenti della stessa ricevuta differiscono in una parte che le regole pubblicate non prevedono.",
        "Apri la ricevuta e confronta i suoi documenti.",
    ),
    Flag.UNKNOWN_STATION: Sign(
        "Stazione non configurata",
        "La ricevuta è arrivata da una stazione pagoPA che non è tra quelle configurate.",
        "Chiedi a chi gestisce il servizio se la stazione va aggiunta alla configurazione.",
    ),
    Flag.DATE_OUT_OF_RANGE: Sign(
        "Data fuori dal calendario",
        "Una data della ricevuta è così lontana che non può essere memorizzata.",
        "Leggi la data nel documento originale.",
    ),
    Flag.PROVISIONAL: Sign(
        "Ricevuta provvisoria",
        "I dati vengono da pagoPA (BizEvents): il documento originale non è ancora arrivato.",
        "Di solito arriva da solo. Se manca da giorni, chiedilo all'assistenza pagoPA.",
    ),
    Flag.SECONDARY_BENEFICIARY: Sign(
        "Copia per un beneficiario",
        "Il pagamento è di un altro ente: a questo spetta una parte.",
    ),
    Flag.STAND_IN: Sign(
        "Pagata in stand-in",
        "È stata pagata mentre i sistemi dell'ente non rispondevano.",
    ),
    Flag.UNKNOWN_ELEMENTS: Sign(
        "Con elementi in più",
        "Il documento contiene elementi che le regole pubblicate non prevedono. I dati noti sono completi.",
    ),
    Flag.RECEIPT_ID_HASHED: Sign(
        "Identificativo abbreviato",
        "L'identificativo della ricevuta è troppo lungo: al suo posto c'è un'impronta.",
    ),
}

# Those that a person should look at.
TO_CHECK: tuple[str, ...] = tuple(flag for flag, sign in SIGNS.items() if sign.to_do)
