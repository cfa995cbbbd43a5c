"""The use case: a document came in, by push, reconcile or replay, and becomes a stored receipt or a kept refusal.

`Intake.accept` is the only way in. It opens the transactions; nobody is answered before they are committed.
"""

import time
from collections.abc import Callable
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

# The Nodo waits 15 s. All commits for a document have failed after so many of them, and another try starts only while
# this much of them is gone at most: what it then waits for, a connection above all, has limits that fit into the rest.
_WITHIN_S = 8.0
_RETRY_WITHIN_S = 5.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5


class Result(StrEnum):
    """What became of a document."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a document, and what it was. `refusal` says why it was refused, `refused_id` where it is kept."""

    result: Result
    identifiers: Identifiers
    receipt: Receipt | None = None
    flags: frozenset[Flag] = frozenset()
    refusal: RefusalError | None = None
    refused_id: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a document came from: door, address, and the id of the request or the name of who brought it.

    `peer_subject` is of the certificate that the transport verified. Where we asked for the document, `begun` is when
    we did, and `http_status` the answer's.
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
    """A document on its way in: what could be read of it, where it came from and when."""

    raw: bytes
    charset: str | None
    identifiers: Identifiers
    origin: Origin
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    event_id: int = field(default_factory=journal.new_event_id)
    begun: float = field(default_factory=time.monotonic)

    def exchange(self, outcome: str, *, http_status: int = 200, **more: Any) -> journal.Exchange:
        """What the journal says of it. `http_status` is of our answer, where we are the one who answers."""
        origin = self.origin
        return journal.exchange(
            self.identifiers,
            at=origin.begun or self.at,
            event_id=self.event_id,
            source=origin.source,
            outcome=outcome,
            http_status=http_status if origin.source is Source.PUSH else origin.http_status,
            raw=self.raw,
            request_id=origin.request_id,
            peer_subject=origin.peer_subject,
            **more,
        )


@dataclass(frozen=True, slots=True)
class Intake:
    """What `accept` needs: the database, and what is ours and how strict we are."""

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
        """Takes in one receipt request: valid and ours, it is stored once; else it is kept as refused.

        `request` is the request element inside `document`, `identifiers` are what `contract.identify` says of it, where
        somebody has asked already. When this returns, what it says is committed. Raises
        `StoreError` when nothing could be committed (the sender must send again), and whatever went wrong
        unexpectedly, after the document was kept as refused if that was possible.
        """
        arrival = _Arrival(document.raw, document.charset, identifiers or contract.identify(request), origin)
        try:
            receipt, flags = self._read(request)
            recorded, stored_flags = self._stored(arrival, receipt, flags)
            if recorded is store.Recorded.CONFLICT:
                raise ReceiptConflictError
        except RefusalError as refusal:
            # It is part of the outcome, and where it came from is not: the frames there hold document and outcome.
            return self._refuse(arrival, refusal.with_traceback(None))
        except StoreError as error:
            if isinstance(error, StoreRejectedError):
                self._keep_unexpected(arrival, error)
            raise
        except Exception as error:
            self._keep_unexpected(arrival, error)
            raise
        result = Result.STORED if recorded is store.Recorded.STORED else Result.DUPLICATE
        return Outcome(result, arrival.identifiers, receipt=receipt, flags=stored_flags)

    def preview(self, request: contract.Element) -> Outcome:
        """What `accept` would return if it were called now. Writes nothing. Raises `StoreError`."""
        identifiers = contract.identify(request)
        try:
            receipt, flags = self._read(request)
            with store.transaction(self.engine, readonly=True) as connection:
                recorded, flags = store.would_record(connection, receipt, flags)
            if recorded is store.Recorded.CONFLICT:
                raise ReceiptConflictError
        except RefusalError as refusal:
            return Outcome(Result.REFUSED, identifiers, refusal=refusal)
        result = Result.STORED if recorded is store.Recorded.STORED else Result.DUPLICATE
        return Outcome(result, identifiers, receipt=receipt, flags=flags)

    def _read(self, request: contract.Element) -> tuple[Receipt, frozenset[Flag]]:
        """The receipt and the flags it deserves, as far as that needs no database. Raises the refusal."""
        receipt = contract.read(request, refuse_unknown=self.settings.rules.unknown_elements == "refuse")
        return receipt, receipt.flags | self._judge(receipt)

    def _judge(self, receipt: Receipt) -> set[Flag]:
        """Whether the receipt is ours. Raises the refusal, or returns the flags it deserves."""
        settings = self.settings
        ec = settings.ecs.get(receipt.id_pa)
        if settings.ec and ec is None:
            raise UnknownEcError
        broker = settings.brokers.get(receipt.id_broker_pa)
        if settings.broker and broker is None:
            raise UnknownBrokerError
        known = (broker is None or receipt.id_station in broker.stations) and (
            ec is None or not ec.stations or receipt.id_station in ec.stations
        )
        if known:
            return set()
        if settings.rules.strict_stations:
            raise UnknownStationError
        return {Flag.UNKNOWN_STATION}

    def _stored(
        self, arrival: _Arrival, receipt: Receipt, flags: frozenset[Flag]
    ) -> tuple[store.Recorded, frozenset[Flag]]:
        origin = arrival.origin

        def attempt(until: float, in_doubt: bool) -> tuple[store.Recorded, frozenset[Flag]]:
            recording = store.Recording(
                receipt,
                flags=flags,
                raw=arrival.raw,
                charset=arrival.charset,
                source=origin.source,
                received_at=arrival.at,
                exchange=self._exchange(arrival, Result.STORED, receipt_id=receipt.receipt_id),
            )
            if origin.source is Source.PUSH:
                recorded = store.record_alone(self.engine, recording, in_doubt=in_doubt, until=until)
                if recorded is not None:
                    return recorded, flags if recorded is store.Recorded.STORED else frozenset()
            return store.commit(
                self.engine, lambda connection: store.record(connection, recording, in_doubt=in_doubt), until=until
            )

        return self._persist(arrival, attempt)

    def _refuse(self, arrival: _Arrival, refusal: RefusalError, *, http_status: int = 200) -> Outcome:
        origin = arrival.origin
        outcome = journal.FAILED if isinstance(refusal, UnexpectedError) else Result.REFUSED

        def attempt(until: float, _in_doubt: bool) -> str:
            refusing = store.Refusing(
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
            return store.keep_alone(self.engine, refusing, until=until) or store.commit(
                self.engine, lambda connection: store.keep(connection, refusing), until=until
            )

        refused_id = self._persist(arrival, attempt)
        return Outcome(Result.REFUSED, arrival.identifiers, refusal=refusal, refused_id=refused_id)

    def _keep_unexpected(self, arrival: _Arrival, error: Exception) -> None:
        """A document that hits a defect of ours would hit it again at every resend, and be lost after the last one.

        Not where the machine ran out of something: the document is not to blame, and a resend may find it back.
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

    def _exchange(self, arrival: _Arrival, outcome: str, **more: Any) -> journal.Exchange | None:
        """The journal's row, if there is a journal. It is written in the transaction of what it tells of: neither is
        there without the other."""
        return arrival.exchange(outcome, **more) if self.settings.journal.enabled else None

    def note(
        self, identifiers: Identifiers, origin: Origin, *, outcome: str, fault_code: str, raw: bytes = b""
    ) -> bool:
        """Writes down an exchange that stores nothing, if that is possible: it never fails. Whether it was written."""
        if not self.settings.journal.enabled or (origin.source is Source.PUSH and not self._journal_bucket.take()):
            return False
        exchange = _Arrival(raw, None, identifiers, origin).exchange(outcome, fault_code=fault_code)
        try:
            store.commit(
                self.engine,
                lambda connection: store.write_exchange(connection, exchange),
                until=time.monotonic() + _WITHIN_S,
            )
        except StoreError as error:
            _log.warning("exchange_not_journaled", reason=error.reason)
            return False
        return True

    def _persist(self, arrival: _Arrival, attempt: Callable[[float, bool], T]) -> T:
        """Calls `attempt`, a transaction that ends at the time it is given, and again where and while the database says
        that this helps: then it is told that an earlier try is in doubt. All tries for an arrival share its time.

        The connection may be lost after the database committed and before it said so: the next try then finds the
        first one's row, which is why what it does must be idempotent.
        """
        pause = _FIRST_PAUSE_S
        in_doubt = False
        while True:
            try:
                return attempt(arrival.begun + _WITHIN_S, in_doubt)
            except StoreError as error:
                if not error.retry or time.monotonic() - arrival.begun > _RETRY_WITHIN_S:
                    raise
                _log.warning("transaction_retried", reason=error.reason)
                in_doubt = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
