"""The event journal (giornale degli eventi): the row of one exchange, and the events in the form that pagoPA asks for.

No personal data. Identifiers come from outside, and an invalid request may hold anything anywhere: an identifier that
does not have its form is left out. The SQL is in `store.journal`; `intake` decides when a row is written.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from station import log
from station.receipt import Identifiers, Source

DIRECTIONS = {Source.PUSH: "in", Source.RECONCILE: "out", Source.REPLAY: "internal", Source.BIZEVENTS: "out"}

# Outcomes beside those of `intake.Result`.
DECLINED = "declined"  # an operation of the port type that a broadcast station does not offer
FAILED = "failed"  # answered with a SOAP Fault; or a fetch or a delivery without success
DELIVERED = "delivered"  # taken by a receiver of ours

DELIVER = "deliver"  # the source of what was no document on its way in: a delivery to a system of the EC
SOURCES = (*(source.value for source in Source), DELIVER)

# The APIs' own names for the calls that fetch a receipt.
FETCH = "getReceiptByIUV"  # GPD
FETCH_PROVISIONAL = "getOrganizationReceiptIur"  # BizEvents

_OPERATIONS = {Source.RECONCILE: FETCH, Source.BIZEVENTS: FETCH_PROVISIONAL}

# --- identifiers -----------------------------------------------------------------------------------------------------

_ID_PA = re.compile(r"[0-9]{11}")
_NOTICE_NUMBER = re.compile(r"[0-9]{18}")
_CODE = re.compile(r"[0-9A-Za-z._:-]*[0-9][0-9A-Za-z._:-]*", re.ASCII)  # a name has no digit
# Accepted before the check for IBANs, which some resemble: a random token as the Nodo makes receipt ids, with or
# without hyphens, our hash of a longer id, and a creditor reference (ISO 11649).
_TOKEN = re.compile(
    r"[0-9A-Fa-f]{8}(?:-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}|sha256:[0-9a-f]{64}|RF[0-9]{2}[0-9A-Z]{1,21}", re.ASCII
)
# A person's fiscal code and an IBAN: they have the alphabet of codes.
_PERSONAL = re.compile(
    r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPR-T][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]"
    r"|(?<![0-9A-Z])[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}(?![0-9A-Z])",
    re.IGNORECASE | re.ASCII,
)
# A PSP without a digit in its id goes by its BIC, with the country in the middle.
_BIC = re.compile(
    r"[A-Z]{4}(?:AT|BE|BG|CH|CY|CZ|DE|DK|EE|ES|FI|FR|GB|GR|HR|HU|IE|IS|IT|LI|LT|LU|LV|MC|MT|NL|NO|PL|PT|RO|SE|SI|SK"
    r"|SM|VA)[A-Z]{2}(?:[A-Z]{3})?"
)
_METHOD = re.compile(r"[A-Z]{2,4}|creditCard|debitCard|bancomatPay|paypal|satispay|applePay|googlePay|cash|other")


# The same few brokers, stations, PSPs and channels come with every receipt.
_remembered = lru_cache(maxsize=4096)


def _code(text: str | None, most: int) -> str | None:
    """Return `text` if it has the alphabet of codes and a digit, and is no person's fiscal code or IBAN; else None."""
    if not text or len(text) > most:
        return None
    if (text.isascii() and text.isdecimal()) or _TOKEN.fullmatch(text):
        return text
    return text if _CODE.fullmatch(text) and not _PERSONAL.search(text) else None


_recurring_code = _remembered(_code)


@_remembered
def _psp(text: str | None) -> str | None:
    return text if text and _BIC.fullmatch(text) else _code(text, 35)


@_remembered
def _method(text: str | None) -> str | None:
    return text if text and _METHOD.fullmatch(text) else None


@_remembered
def _subject(text: str | None) -> str | None:
    return log.safe(text)[:256] if text else None


# --- one exchange -----------------------------------------------------------------------------------------------------


_MILLISECOND = timedelta(milliseconds=1)
_DURATION_MAX_MS = 2**31 - 1  # the column's


class Exchange(NamedTuple):  # made in a quarter of the time of a frozen dataclass, for each push
    """One row of the journal: an inbound call with its answer, a fetch of the reconciliation, a replay, a delivery.

    `at` is when it began; the random `event_id` tells apart exchanges of one microsecond, and a retry from a new
    exchange. `duration_ms` is how long it took until this row was made, `size` and `document_hash` (SHA-256) are of the
    document as it came; `http_status` is the answer's. `id_pa` is empty where there was none.
    """

    id_pa: str
    at: datetime
    event_id: int
    direction: str
    source: str
    operation: str
    id_broker_pa: str | None
    id_station: str | None
    notice_number: str | None
    iuv: str | None
    receipt_id: str | None
    id_psp: str | None
    id_channel: str | None
    payment_method: str | None
    outcome: str
    fault_code: str | None
    http_status: int | None
    duration_ms: int
    size: int
    document_hash: bytes | None
    request_id: str | None
    peer_subject: str | None


COLUMNS = Exchange._fields


def exchange(
    identifiers: Identifiers,
    *,
    at: datetime,
    event_id: int,
    source: Source,
    outcome: str,
    receipt_id: str | None = None,
    fault_code: str | None = None,
    http_status: int | None = None,
    raw: bytes = b"",
    request_id: str | None = None,
    peer_subject: str | None = None,
) -> Exchange:
    """Return the row of an exchange that ends now. `receipt_id` is the stored receipt's, if one was stored."""
    id_pa, notice_number = identifiers.id_pa or "", identifiers.notice_number or ""
    # An identifier of 64 characters may have been cut, and would name another receipt.
    receipt_id = receipt_id or (identifiers.receipt_id if len(identifiers.receipt_id or "") < 64 else None)
    return Exchange(
        id_pa=id_pa if _ID_PA.fullmatch(id_pa) else "",
        at=at,
        event_id=event_id,
        direction=DIRECTIONS[source],
        source=source.value,
        operation=_OPERATIONS.get(source, identifiers.operation),
        id_broker_pa=_recurring_code(identifiers.id_broker_pa, 35),
        id_station=_recurring_code(identifiers.id_station, 35),
        notice_number=notice_number if _NOTICE_NUMBER.fullmatch(notice_number) else None,
        iuv=_code(identifiers.iuv, 35),
        receipt_id=_code(receipt_id, 71),
        id_psp=_psp(identifiers.id_psp),
        id_channel=_recurring_code(identifiers.id_channel, 35),
        payment_method=_method(identifiers.payment_method),
        outcome=outcome,
        fault_code=fault_code,
        http_status=http_status,
        # The clock may be set during a request: the duration is then wrong, and must not make the request fail.
        duration_ms=min(max(0, (datetime.now(UTC) - at) // _MILLISECOND), _DURATION_MAX_MS),
        size=len(raw),
        document_hash=sha256(raw).digest() if raw else None,
        request_id=_code(request_id, 128),
        peer_subject=_subject(peer_subject),
    )


def delivery(
    receipt: Mapping[str, Any],
    *,
    at: datetime,
    event_id: int,
    operation: str,
    destination: str,
    webhook_id: str,
    reason: str | None,
    http_status: int | None,
    took_s: float,
    size: int,
) -> Exchange:
    """Return the row of one attempt to deliver a stored receipt; `reason`: why it failed, `None` where it did not.

    `size` is of the body that was sent. The identifiers are those that the receipt was stored with.
    """
    return exchange(
        Identifiers(
            operation, receipt["id_pa"], receipt["id_broker_pa"], receipt["id_station"], receipt["notice_number"],
            receipt["iuv"], receipt["receipt_id"], receipt["id_psp"], receipt["id_channel"], receipt["payment_method"],
        ),
        at=at, event_id=event_id, source=Source.PUSH, outcome=FAILED if reason else DELIVERED,
        receipt_id=receipt["receipt_id"], fault_code=reason, http_status=http_status,
    )._replace(
        direction="out", source=DELIVER, size=size, duration_ms=min(max(0, round(took_s * 1000)), _DURATION_MAX_MS),
        request_id=webhook_id, peer_subject=destination,
    )  # fmt: skip


# --- pagoPA's form ----------------------------------------------------------------------------------------------------

MISSING = "N/A"
_NODO = "NodoDeiPagamentiSPC"
_COMPONENT = "station"
_PARAMETERS_LENGTH = 512
_TAKEN_IN = ("stored", "duplicate")

EVENT_FIELDS = (
    "dataOraEvento", "identificativoDominio", "identificativoUnivocoVersamento", "codiceContestoPagamento",
    "identificativoPrestatoreServiziPagamento", "tipoVersamento", "componente", "categoriaEvento", "tipoEvento",
    "sottoTipoEvento", "identificativoFruitore", "identificativoErogatore", "identificativoStazioneIntermediarioPA",
    "canalePagamento", "parametriSpecificiInterfaccia", "esito",
)  # fmt: skip


def events(row: Any, own_id: str) -> Iterator[dict[str, str]]:
    """Yield the events of one row: request and response of an exchange at the interface, one event of an internal one.

    `own_id` stands for our station where the exchange named none. The caller is the fruitore, the callee the erogatore:
    for a push the Nodo calls us, for a fetch of the reconciliation we call the Nodo. A delivery has none: pagoPA asks
    for what passed between it and the EC, and has no part in it.
    """
    if row.source == DELIVER:
        return
    ours = row.id_station or own_id
    internal = row.direction == "internal"
    event = {
        "identificativoDominio": row.id_pa,
        "identificativoUnivocoVersamento": row.iuv,
        "codiceContestoPagamento": row.receipt_id,
        "identificativoPrestatoreServiziPagamento": row.id_psp,
        "tipoVersamento": row.payment_method,
        "componente": _COMPONENT,
        "categoriaEvento": "INTERNO" if internal else "INTERFACCIA",
        "tipoEvento": row.operation,
        "identificativoFruitore": None if internal else ours if row.direction == "out" else _NODO,
        "identificativoErogatore": _NODO if row.direction == "out" else ours,
        "identificativoStazioneIntermediarioPA": row.id_station,
        "canalePagamento": row.id_channel,
    }
    ends = row.at + timedelta(milliseconds=row.duration_ms)
    esito = "OK" if row.outcome in _TAKEN_IN else "KO"
    document = {
        "size": row.size or None,
        "sha256": row.document_hash.hex() if row.document_hash else None,
    }
    asked = {"source": row.source, "noticeNumber": row.notice_number, "requestId": row.request_id}
    answered = {
        "outcome": row.outcome,
        "faultCode": row.fault_code,
        "httpStatus": row.http_status,
        "durationMs": row.duration_ms,
    }
    peer = {"peer": row.peer_subject}
    if internal:
        yield _event(event, ends, None, esito, asked | document | answered)
        return
    # The document came with the request of a push, and with the answer to a fetch.
    came, went = ({}, document) if row.direction == "out" else (document, {})
    yield _event(event, row.at, "req", None, asked | came | peer)
    yield _event(event, ends, "rsp", esito, asked | answered | went | peer)


def _event(
    event: dict[str, str | None], at: datetime, kind: str | None, esito: str | None, parameters: dict[str, Any]
) -> dict[str, str]:
    told = event | {
        "dataOraEvento": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "sottoTipoEvento": kind,
        "parametriSpecificiInterfaccia": "; ".join(
            f"{name}={value}" for name, value in parameters.items() if value is not None
        )[:_PARAMETERS_LENGTH],
        "esito": esito,
    }
    return {name: told[name] or MISSING for name in EVENT_FIELDS}
