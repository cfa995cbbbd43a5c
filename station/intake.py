"""The use case: a document came in, by push, reconcile or replay, and becomes a stored receipt or a kept refusal.

`Intake.accept` is the only way in. It opens the transactions; nobody is answered before they are committed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TypeVar

from station import contract, log, store
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
)
from station.receipt import Flag, Identifiers, Receipt, Source

T = TypeVar("T")

_log = log.get(__name__)

# A second try must end before the Nodo's 15 s do, so it starts only while this much of them is gone at most.
_RETRY_WITHIN_S = 5.0


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
    """Where a document came from: door, address, and the id of the request or the name of who brought it."""

    source: Source
    peer: str | None = None
    request_id: str | None = None
    operator: str | None = None


@dataclass(frozen=True, slots=True)
class Intake:
    """What `accept` needs: the database, and what is ours and how strict we are."""

    engine: store.Engine
    settings: Settings

    def accept(self, document: contract.Document, request: contract.Element, origin: Origin) -> Outcome:
        """Takes in one receipt request: valid and ours, it is stored once; else it is kept as refused.

        `request` is the request element inside `document`. When this returns, what it says is committed. Raises
        `StoreError` when nothing could be committed (the sender must send again), and whatever went wrong
        unexpectedly, after the document was kept as refused if that was possible.
        """
        now = datetime.now(UTC)
        identifiers = contract.identify(request)
        try:
            receipt, flags = self._read(request)
            recorded, stored_flags = self._commit(
                lambda connection: store.record(
                    connection,
                    receipt,
                    flags=flags,
                    raw=document.raw,
                    charset=document.charset,
                    source=origin.source,
                    received_at=now,
                )
            )
            if recorded is store.Recorded.CONFLICT:
                raise ReceiptConflictError
        except RefusalError as refusal:
            return self._refuse(document, identifiers, refusal, origin, now)
        except StoreError as error:
            if isinstance(error, StoreRejectedError):
                self._keep_unexpected(document, identifiers, error, origin, now)
            raise
        except Exception as error:
            self._keep_unexpected(document, identifiers, error, origin, now)
            raise
        result = Result.STORED if recorded is store.Recorded.STORED else Result.DUPLICATE
        return Outcome(result, identifiers, receipt=receipt, flags=stored_flags)

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

    def _refuse(
        self,
        document: contract.Document,
        identifiers: Identifiers,
        refusal: RefusalError,
        origin: Origin,
        now: datetime,
    ) -> Outcome:
        refused_id = self._commit(
            lambda connection: store.keep(
                connection,
                identifiers,
                refusal,
                raw=document.raw,
                charset=document.charset,
                source=origin.source,
                peer=origin.peer,
                request_id=origin.request_id,
                received_at=now,
                operator=origin.operator,
            )
        )
        return Outcome(Result.REFUSED, identifiers, refusal=refusal, refused_id=refused_id)

    def _keep_unexpected(
        self,
        document: contract.Document,
        identifiers: Identifiers,
        error: Exception,
        origin: Origin,
        now: datetime,
    ) -> None:
        """A document that hits a defect of ours would hit it again at every resend, and be lost after the last one."""
        try:
            self._refuse(document, identifiers, UnexpectedError(f"unexpected {type(error).__name__}"), origin, now)
        except StoreError as also:
            _log.error("unexpected_not_kept", reason=also.reason)

    def _commit(self, work: Callable[[store.Connection], T]) -> T:
        """Runs `work` in a transaction of its own, once more where the database says that this helps.

        The connection may be lost after the database committed and before it said so: the second try then finds the
        first one's row, which is why `work` must be idempotent.
        """
        begun = time.monotonic()
        try:
            with store.transaction(self.engine) as connection:
                return work(connection)
        except StoreError as error:
            if not error.retry or time.monotonic() - begun > _RETRY_WITHIN_S:
                raise
            _log.warning("transaction_retried", reason=error.reason)
        with store.transaction(self.engine) as connection:
            return work(connection)
