"""Fetching one EC's receipts: a bounded number on its way at any time, each ending in the store or as an open item."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TypeVar

from station import contract, journal, log, pagopa, store
from station.config import Gpd
from station.errors import (
    DocumentError,
    GpdError,
    GpdKeyError,
    GpdUnavailableError,
    MismatchError,
    StoppedError,
    StoreError,
    StoreRejectedError,
)
from station.intake import Intake, Origin, Outcome, Result
from station.receipt import Identifiers, Source
from station.reconcile.tally import Tally
from station.retry import retrying
from station.store.runs import Item

T = TypeVar("T")

_log = log.get(__name__)

_FAILURES_UNTIL_PROBE = 5
_PAUSE_MOST_S = 23 * 3600.0  # a daily job must find the item due


@dataclass(frozen=True, slots=True)
class Wanted:
    """A receipt to ask for: its open item where there is one, and what GPD-Core says of its payment."""

    iuv: str
    item: Item | None = None
    notice_number: str | None = None
    amount: Decimal | None = None


@dataclass
class Fetcher:
    """Fetches what one walk hands over, in the threads of `pool`. One thread hands over, `pool`'s threads fetch."""

    settings: Gpd
    engine: store.Engine
    intake: Intake
    client: pagopa.EcClient
    tally: Tally
    pool: Executor
    stop: threading.Event
    _failure: Exception | None = field(default=None, init=False)
    _in_vain: int = field(default=0, init=False)
    _over: bool = field(default=False, init=False)
    _flying: dict[Future[None], str] = field(default_factory=dict, init=False)

    def hand_over(self, wanted: Wanted) -> None:
        """To the pool, as soon as few enough of this EC's receipts are on their way. Raises what ended the walk."""
        self.check()
        while len(self._flying) >= 2 * self.settings.workers:
            self._landed(wait(self._flying, return_when=FIRST_COMPLETED).done)
            self.check()
        self._flying[self.pool.submit(self._fetch, wanted)] = wanted.iuv

    def is_flying(self, iuv: str) -> bool:
        """Whether the receipt was handed over and is not known to be done."""
        return iuv in self._flying.values()

    def drain(self) -> None:
        """Waits for what is on its way. Raises what ended the walk."""
        self._landed(wait(self._flying).done)
        self.check()

    def land(self) -> None:
        """At the end, however it came: what is on its way may finish, what is not yet does not start."""
        self._over = True
        wait(self._flying)
        self._flying.clear()

    def check(self) -> None:
        """Raises what ended the walk: a failure of one fetch that concerns all, or the signal to stop."""
        if self._failure is not None:
            raise self._failure
        if self.stop.is_set():
            raise StoppedError("stopped by a signal; the next run continues")

    def in_store(self, work: Callable[[store.Connection], T], *, readonly: bool = False) -> T:
        """Runs `work`, which must be safe to run again, in a transaction. Raises `StoreError`."""

        def once() -> T:
            with store.transaction(self.engine, readonly=readonly) as connection:
                return work(connection)

        return retrying(once)

    def _landed(self, done: Iterable[Future[None]]) -> None:
        for future in done:
            del self._flying[future]
            future.result()

    def _fetch(self, wanted: Wanted) -> None:
        """One receipt, in a thread of the pool: whatever goes wrong is counted here and stops at most this walk."""
        if self._over or self._failure is not None or self.stop.is_set():
            return
        try:
            self._fetch_one(wanted)
        except StoppedError:
            pass
        except (GpdKeyError, StoreError) as error:
            self._failure = error
        except Exception as error:
            _log.error("unexpected_error", id_pa=self.tally.id_pa, iuv=wanted.iuv, exc_info=error)
            self._failure = error

    def _fetch_one(self, wanted: Wanted) -> None:
        request_id = None
        begun = datetime.now(UTC)
        try:
            answer = self.client.receipt(wanted.iuv)
            self._in_vain = 0
            request_id = answer.request_id
            if answer.status != 200:
                self._journal(wanted, begun, "not_yet", request_id, answer.status)
                self._missed(wanted, "not_yet", f"{answer.status}{pagopa.error_text(answer)}", request_id)
                return
            outcome = self._take_in(wanted, answer, begun)
        except StoppedError:
            raise
        except GpdError as error:
            self._journal(wanted, begun, error.code, error.request_id, error.status)
            if isinstance(error, GpdKeyError):
                raise
            self._missed(wanted, error.code, str(error), error.request_id)
            if isinstance(error, GpdUnavailableError):
                self._probe()
            return
        except (DocumentError, MismatchError) as error:
            self._journal(wanted, begun, error.code, request_id, answer.status, answer.body)
            self._missed(wanted, error.code, str(error), request_id)
            return
        except StoreRejectedError as error:
            # The document was kept as refused, if that was possible: one that hits a defect must not stop the others.
            self._missed(wanted, error.code, str(error), request_id)
            return
        except StoreError:
            raise
        except Exception as error:
            _log.error("unexpected_error", id_pa=self.tally.id_pa, iuv=wanted.iuv, exc_info=error)
            self._missed(wanted, "unexpected_error", f"unexpected {type(error).__name__}: see the log", request_id)
            return
        if outcome.refusal is not None:
            why = f"{outcome.refusal.fault_code}: {outcome.refusal}; kept as refused {outcome.refused_id}"
            self._missed(wanted, "refused", why, request_id)
            return
        self.tally.count("fetched" if outcome.result is Result.STORED else "here")
        _log.info("receipt_fetched", id_pa=self.tally.id_pa, iuv=wanted.iuv, result=outcome.result,
                  receipt_id=outcome.identifiers.receipt_id, request_id=request_id)  # fmt: skip
        if wanted.item is not None:
            self.in_store(lambda connection: store.runs.close_item(connection, self.tally.id_pa, wanted.iuv))

    def _take_in(self, wanted: Wanted, answer: pagopa.ApiResponse, begun: datetime) -> Outcome:
        """Through the same door as the push, unless it is not the receipt that was asked for."""
        document = contract.parse(answer.body, answer.charset)
        request = contract.request_element(document.root)
        if request.tag not in contract.RECEIPT_OPERATIONS:
            raise DocumentError("the API returned a document that is not a receipt")
        says = contract.identify(request)
        # A document without EC or IUV breaks the schema and is kept as refused; one of another EC is nobody's to keep.
        if says.id_pa not in (None, self.tally.id_pa):
            raise MismatchError(f"asked for EC {self.tally.id_pa}, got a receipt for EC {log.safe(says.id_pa or '')}")
        if says.iuv not in (None, wanted.iuv):
            raise MismatchError(f"asked for IUV {wanted.iuv}, got the receipt for IUV {log.safe(says.iuv or '')}")
        origin = Origin(Source.RECONCILE, request_id=answer.request_id, begun=begun, http_status=answer.status)
        return retrying(lambda: self.intake.accept(document, request, origin))

    def _journal(
        self, wanted: Wanted, begun: datetime, reason: str, request_id: str | None, status: int | None, raw: bytes = b""
    ) -> None:
        """Writes down a fetch that gave nothing to take in; what is taken in is written down with it."""
        asked = Identifiers(journal.FETCH, self.tally.id_pa, None, None, None, wanted.notice_number, wanted.iuv)
        origin = Origin(Source.RECONCILE, request_id=request_id, begun=begun, http_status=status)
        self.intake.note(asked, origin, outcome=journal.FAILED, fault_code=reason, raw=raw)

    def _missed(self, wanted: Wanted, reason: str, error: str, request_id: str | None) -> None:
        """It is not here after all: counted, and an open item for the next try, later each time.

        A refused one is not asked for again: its document is kept, and replaying it is the remedy.
        """
        now = datetime.now(UTC)
        item = wanted.item
        attempts = item.attempts + 1 if item else 1
        first_at = item.first_at if item else now
        pause = min(self.settings.again_after * 2 ** min(attempts - 1, 30), _PAUSE_MOST_S)
        state = "open"
        if reason == "refused":
            state = "refused"
        elif now - first_at >= timedelta(days=self.settings.give_up_days):
            state = "given_up"
        new = Item(
            id_pa=self.tally.id_pa,
            iuv=wanted.iuv,
            state=state,
            reason=reason,
            notice_number=wanted.notice_number,
            amount=wanted.amount,
            attempts=attempts,
            first_at=first_at,
            last_at=now,
            next_attempt_at=now + timedelta(seconds=pause),
            last_error=error,
            request_id=request_id,
        )
        self.in_store(lambda connection: store.runs.write_item(connection, new))
        self.tally.count("not_yet" if reason == "not_yet" else "failed")
        say = _log.info if reason == "not_yet" else _log.warning
        say("receipt_not_there_yet" if reason == "not_yet" else "receipt_fetch_failed", id_pa=self.tally.id_pa,
            iuv=wanted.iuv, reason=reason, error=error, attempts=attempts, request_id=request_id)  # fmt: skip
        if state == "given_up" and item and item.state == "open":
            _log.error("receipt_given_up", id_pa=self.tally.id_pa, iuv=wanted.iuv, attempts=attempts)

    def _probe(self) -> None:
        """After some receipts in a row without an answer: does the API answer at all? If not, the walk ends.

        Some receipts that always end in an error must not end the walk, and an outage must not be waited for once for
        each of ten thousand receipts.
        """
        self._in_vain += 1
        if self._in_vain >= _FAILURES_UNTIL_PROBE:
            self._in_vain = 0
            try:
                self.client.probe()
            except GpdError as error:
                self._failure = error
