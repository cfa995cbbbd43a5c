"""The use case: a document came in, by push, reconcile or replay, and becomes a stored receipt or a kept refusal.

`Intake.accept` is the only way in. It returns when the transaction is committed; no answer leaves before that.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

from station import contract, journal, log, store
from station.config import Settings
from station.errors import (
    ReceiptConflictError,
    RefusalError,
    StoreError,
    StoreRejectedError,
    UnexpectedError,
    UnknownBrokerError,
    UnknownEcError,
    UnknownStationError,
    out_of_resource,
)
from station.receipt import Flag, Identifiers, Receipt, Source
from station.token_bucket import TokenBucket

T = TypeVar("T")

_log = log.get(__name__)

# The Nodo waits 15 s. The time budget for storing a document, retries included, and the latest point at which a retry
# may start: connecting, which a retry may have to wait for, has limits that fit into the rest.
_BUDGET_S = 8.0
_LAST_RETRY_S = 5.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


class Result(StrEnum):
    """What became of a document."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a document, and what it was. `refusal` is the reason, `refused_id` the request that is kept."""

    result: Result
    identifiers: Identifiers
    receipt: Receipt | None = None
    flags: frozenset[Flag] = frozenset()
    refusal: RefusalError | None = None
    refused_id: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document came from: door, address, and the id of the request or the operator's name.

    `peer_subject` is of the certificate that the transport verified. If the station asked for the document, `begun` is
    when it did, and `http_status` is the answer's.
    """

    source: Source
    peer: str | None = None
    request_id: str | None = None
    operator: str | None = None
    peer_subject: str | None = None
    begun: datetime | None = None
    http_status: int | None = None


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A document on its way in: the bytes, the identifiers read from it, its origin, and when it came."""

    raw: bytes
    charset: str | None
    identifiers: Identifiers
    origin: Origin
    at: datetime
    event_id: int = field(default_factory=partial(secrets.randbits, 63))
    begun: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class Intake:
    """The database, and the settings: which receipts are ours, and how strict the station is."""

    engine: store.Engine
    settings: Settings
    # Journal rows of pushes that store nothing else: 60 at once, then one a second. They are rare (the back office's
    # "verify URL" button), and a client that sends them endlessly must not fill the database.
    _journal_bucket: TokenBucket = field(default_factory=partial(TokenBucket, 1, 60))

    def accept(
        self,
        document: contract.Document,
        request: contract.Element,
        origin: Origin,
        identifiers: Identifiers | None = None,
    ) -> Outcome:
        """Take in one receipt request: store it once if it is valid and ours, otherwise keep it as refused.

        `request` is the request element inside `document`, `identifiers` the result of `contract.identify(request)`, if
        the caller has it already. The outcome is committed when this returns. Raises `StoreError` if nothing could be
        committed (the sender must send again), and any unexpected error, after the document was kept as refused if that
        was possible.
        """
        identifiers = identifiers or contract.identify(request)
        arrival = _Arrival(document.raw, document.charset, identifiers, origin, datetime.now(UTC))
        try:
            receipt, flags = self._read(request)
            new = store.NewReceipt(
                receipt,
                flags=flags,
                raw=arrival.raw,
                charset=arrival.charset,
                source=origin.source,
                received_at=arrival.at,
                exchange=self._exchange(arrival, Result.STORED, receipt_id=receipt.receipt_id),
            )
            saved, flags = self._retrying(arrival, partial(store.save_receipt, self.engine, new))
            if saved is store.Saved.CONFLICT:
                raise ReceiptConflictError
        except RefusalError as refusal:
            # Kept in the outcome without its traceback, whose frames hold document and outcome.
            return self._refuse(arrival, refusal.with_traceback(None))
        except StoreError as error:
            if isinstance(error, StoreRejectedError):
                self._keep_unexpected(arrival, error)
            raise
        except Exception as error:
            self._keep_unexpected(arrival, error)
            raise
        return Outcome(Result(saved), arrival.identifiers, receipt=receipt, flags=flags)

    def accept_provisional(self, raw: bytes, receipt: Receipt, origin: Origin) -> Outcome:
        """Store the receipt that BizEvents told of in `raw`, unless one is here already.

        Its document takes its place when it comes, by whichever door. Raises `StoreError`.
        """
        identifiers = Identifiers(
            journal.FETCH_PROVISIONAL, receipt.id_pa, None, None, receipt.receipt_id, receipt.notice_number,
            receipt.iuv, receipt.id_psp, receipt.id_channel, receipt.payment_method,
        )  # fmt: skip
        arrival = _Arrival(raw, None, identifiers, origin, datetime.now(UTC))
        new = store.NewReceipt(
            receipt, receipt.flags, raw, None, origin.source, arrival.at,
            self._exchange(arrival, Result.STORED, receipt_id=receipt.receipt_id),
        )  # fmt: skip
        saved, flags = self._retrying(arrival, partial(store.save_receipt, self.engine, new))
        return Outcome(Result(saved), identifiers, receipt=receipt, flags=flags)

    def preview(
        self, document: contract.Document, request: contract.Element, earlier: Sequence[tuple[bytes, str | None]] = ()
    ) -> Outcome:
        """Return what `accept` would return after the documents `earlier` (bytes and character set) of the receipt.

        Writes nothing. Raises `StoreError`.
        """
        identifiers = contract.identify(request)
        try:
            receipt, flags = self._read(request)
            new = store.NewReceipt(receipt, flags, document.raw, document.charset, Source.REPLAY, datetime.now(UTC))
            with store.transaction(self.engine, readonly=True) as connection:
                saved, flags = store.foresee(connection, new, earlier)
            if saved is store.Saved.CONFLICT:
                raise ReceiptConflictError
        except RefusalError as refusal:
            return Outcome(Result.REFUSED, identifiers, refusal=refusal)
        return Outcome(Result(saved), identifiers, receipt=receipt, flags=flags)

    def _read(self, request: contract.Element) -> tuple[Receipt, frozenset[Flag]]:
        """Return the receipt and its flags, as far as they need no database. Raises the refusal, if it is not ours."""
        settings = self.settings
        receipt = contract.read(request, refuse_unknown=settings.rules.unknown_elements == "refuse")
        ec = settings.ecs.get(receipt.id_pa)
        if settings.ec and ec is None:
            raise UnknownEcError
        broker = settings.brokers.get(receipt.id_broker_pa)
        if settings.broker and broker is None:
            raise UnknownBrokerError
        if (broker is None or receipt.id_station in broker.stations) and (
            ec is None or not ec.stations or receipt.id_station in ec.stations
        ):
            return receipt, receipt.flags
        if settings.rules.strict_stations:
            raise UnknownStationError
        return receipt, receipt.flags | {Flag.UNKNOWN_STATION}

    def _refuse(self, arrival: _Arrival, refusal: RefusalError, *, http_status: int = 200) -> Outcome:
        origin = arrival.origin
        outcome = journal.FAILED if isinstance(refusal, UnexpectedError) else Result.REFUSED
        new = store.NewRefusal(
            arrival.identifiers,
            refusal,
            raw=arrival.raw,
            charset=arrival.charset,
            source=origin.source,
            peer=origin.peer,
            request_id=origin.request_id,
            received_at=arrival.at,
            operator=origin.operator,
            exchange=self._exchange(arrival, outcome, fault_code=refusal.fault_code, http_status=http_status),
        )

        def save(*, in_doubt: bool, until: float) -> str:  # a second try finds the first one's row, in doubt or not
            return store.save_refused(self.engine, new, until=until)

        refused_id = self._retrying(arrival, save)
        return Outcome(Result.REFUSED, arrival.identifiers, refusal=refusal, refused_id=refused_id)

    def _keep_unexpected(self, arrival: _Arrival, error: Exception) -> None:
        """Keep a document that hit a defect of ours: it would hit it at every resend, and be lost after the last one.

        Not if the machine ran out of a resource: the document is not to blame, and a resend may be stored.
        """
        if out_of_resource(error):
            # A connection that could not be given back goes at the next use; until then it may keep SQLite locked.
            with suppress(StoreError), store.transaction(self.engine, readonly=True):
                pass
            return
        refusal = UnexpectedError(f"unexpected {type(error).__name__}")
        try:
            self._refuse(arrival, refusal, http_status=503 if isinstance(error, StoreError) else 500)
        except StoreError as also:
            _log.error("unexpected_not_kept", reason=also.reason)

    def _exchange(
        self, arrival: _Arrival, outcome: str, *, http_status: int = 200, **more: Any
    ) -> journal.Exchange | None:
        """Return the journal's row, `None` without a journal. It is written in the transaction that it tells of, so
        that neither is there without the other. `http_status` is of our answer to a push."""
        origin = arrival.origin
        if not self.settings.journal.enabled:
            return None
        return journal.exchange(
            arrival.identifiers,
            at=origin.begun or arrival.at,
            event_id=arrival.event_id,
            source=origin.source,
            outcome=outcome,
            http_status=http_status if origin.source is Source.PUSH else origin.http_status,
            raw=arrival.raw,
            request_id=origin.request_id,
            peer_subject=origin.peer_subject,
            **more,
        )

    def note(
        self, identifiers: Identifiers, origin: Origin, *, outcome: str, fault_code: str, raw: bytes = b""
    ) -> bool:
        """Write an exchange that stores nothing to the journal, if possible: it never fails. Return whether it did."""
        if origin.source is Source.PUSH and not self._journal_bucket.take():
            return False
        arrival = _Arrival(raw, None, identifiers, origin, datetime.now(UTC))
        exchange = self._exchange(arrival, outcome, fault_code=fault_code)
        if exchange is None:
            return False
        try:
            store.commit(
                self.engine,
                lambda connection: store.write_exchange(connection, exchange),
                until=time.monotonic() + _BUDGET_S,
            )
        except StoreError as error:
            _log.warning("exchange_not_journaled", reason=error.reason)
            return False
        return True

    def _retrying(self, arrival: _Arrival, save: Callable[..., T]) -> T:
        """Call `save(in_doubt=..., until=...)`, a transaction with a deadline, and again where the database says that a
        retry helps. All tries for an arrival share its time budget.

        The connection may be lost after the database committed and before it said so: then the retry finds the first
        try's row. So `save` must be idempotent, and is told that an earlier try is in doubt.
        """
        pause = _FIRST_PAUSE_S
        in_doubt = False
        while True:
            try:
                return save(in_doubt=in_doubt, until=arrival.begun + _BUDGET_S)
            except StoreError as error:
                if not error.retry or time.monotonic() - arrival.begun > _LAST_RETRY_S:
                    raise
                _log.warning("transaction_retried", reason=error.reason)
                in_doubt = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
