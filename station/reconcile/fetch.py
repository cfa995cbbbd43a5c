"""Fetching one EC's receipts: a bounded number in flight, each ending in the store or as an open item."""

import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from station import contract, journal, log, pagopa, store
from station.config import Gpd
from station.errors import (
    ApiError,
    ApiKeyError,
    ApiUnavailableError,
    DocumentError,
    MismatchError,
    StoppedError,
    StoreError,
    StoreRejectedError,
)
from station.intake import Intake, Origin, Outcome, Result
from station.receipt import Identifiers, Source
from station.reconcile.ec_run import EcRun
from station.retry import retrying, write
from station.store.runs import OF_FLOWS, ReconcileItem

_log = log.get(__name__)

_FAILURES_UNTIL_PROBE = 5
_BACKOFF_MAX_S = 23 * 3600.0  # a daily job must find the item due


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A receipt to fetch: its open item where there is one, and what GPD-Core says of its payment."""

    iuv: str
    item: ReconcileItem | None = None
    notice_number: str | None = None
    amount: Decimal | None = None


def missed_item(
    settings: Gpd, id_pa: str, request: FetchRequest, reason: str, error: str, request_id: str | None
) -> ReconcileItem:
    """Return the item of a receipt that was requested in vain just now, with the next try's time (backoff).

    That a flow proves it missing stays its reason, unless it is kept as refused.
    """
    now, item = datetime.now(UTC), request.item
    attempts = item.attempts + 1 if item else 1
    first_at = item.first_at if item else now
    backoff = min(settings.again_after * 2 ** min(attempts - 1, 30), _BACKOFF_MAX_S)
    given_up = now - first_at >= timedelta(days=settings.give_up_days)
    return ReconcileItem(
        id_pa=id_pa,
        iuv=request.iuv,
        state="refused" if reason == "refused" else "given_up" if given_up else "open",
        reason=item.reason if item and item.reason in OF_FLOWS and reason != "refused" else reason,
        notice_number=request.notice_number,
        amount=request.amount,
        attempts=attempts,
        first_at=first_at,
        last_at=now,
        next_attempt_at=now + timedelta(seconds=backoff),
        last_error=error,
        request_id=request_id,
    )


@dataclass
class Fetcher:
    """Fetches receipts of one EC in the threads of `pool`. One thread submits, the pool's threads fetch."""

    settings: Gpd
    engine: store.Engine
    intake: Intake
    client: pagopa.EcClient
    ec_run: EcRun
    pool: Executor
    stop: threading.Event
    _failure: Exception | None = field(default=None, init=False)  # one that concerns the other receipts, too
    _failed_calls: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)
    _in_flight: dict[Future[None], str] = field(default_factory=dict, init=False)

    def submit(self, request: FetchRequest) -> None:
        """Hand a receipt to the pool as soon as few enough of this EC's are in flight. Raise what ends the run."""
        self.check()
        while len(self._in_flight) >= 2 * self.settings.workers:
            self._collect(wait(self._in_flight, return_when=FIRST_COMPLETED).done)
            self.check()
        self._in_flight[self.pool.submit(self._fetch, request)] = request.iuv

    def in_flight(self, iuv: str) -> bool:
        """Return whether the receipt was submitted and is not known to be done."""
        return iuv in self._in_flight.values()

    def drain(self) -> None:
        """Wait for the receipts in flight. Raise what ends the run."""
        self._collect(wait(self._in_flight).done)
        self.check()

    def close(self) -> None:
        """Let the receipts that are being fetched finish, and fetch no other: the run ends, whatever the reason."""
        self._closed = True
        wait(self._in_flight)
        self._in_flight.clear()

    def check(self) -> None:
        """Raise what ends the run: a failure of one fetch that concerns all, or the signal to stop."""
        if self._failure is not None:
            raise self._failure
        if self.stop.is_set():
            raise StoppedError("stopped by a signal; the next run continues")

    def _collect(self, done: Iterable[Future[None]]) -> None:
        for future in done:
            del self._in_flight[future]
            future.result()

    def _fetch(self, request: FetchRequest) -> None:
        """Fetch one receipt, in a thread of the pool. What goes wrong ends at most this EC's run."""
        if self._closed or self._failure is not None or self.stop.is_set():
            return
        try:
            self._fetch_one(request)
        except StoppedError:
            pass
        except Exception as error:
            if not isinstance(error, (ApiKeyError, StoreError)):
                _log.error("unexpected_error", id_pa=self.ec_run.id_pa, iuv=request.iuv, exc_info=error)
            self._failure = error

    def _fetch_one(self, request: FetchRequest) -> None:
        request_id, status, body = None, None, b""
        began = datetime.now(UTC)
        try:
            response = self.client.receipt(request.iuv)
            self._failed_calls = 0
            request_id, status = response.request_id, response.status
            if status != 200:
                self._journal(request, began, "not_yet", request_id, status)
                self._missed(request, "not_yet", f"{status}{pagopa.error_text(response)}", request_id)
                return
            body = response.body
            outcome = self._accept(request, response, began)
        except (ApiError, DocumentError, MismatchError) as error:
            if isinstance(error, ApiError):
                request_id, status = error.request_id, error.status
            self._journal(request, began, error.code, request_id, status, body)
            if isinstance(error, ApiKeyError):
                raise
            self._missed(request, error.code, str(error), request_id)
            if isinstance(error, ApiUnavailableError):
                self._probe()
            return
        except StoreRejectedError as error:
            # It hits a defect, and was kept as refused if that was possible. The others must not wait for the cure.
            self._missed(request, error.code, str(error), request_id)
            return
        except (StoppedError, StoreError):
            raise
        except Exception as error:
            _log.error("unexpected_error", id_pa=self.ec_run.id_pa, iuv=request.iuv, exc_info=error)
            self._missed(request, "unexpected_error", f"unexpected {type(error).__name__}: see the log", request_id)
            return
        if outcome.refusal is not None:
            reason = f"{outcome.refusal.fault_code}: {outcome.refusal}; kept as refused {outcome.refused_id}"
            self._missed(request, "refused", reason, request_id)
            return
        # A flow may have two payments of an IUV, of which the API has one: the other stays an open item.
        if outcome.result is not Result.STORED and request.item is not None and request.item.reason in OF_FLOWS:
            self._missed(request, "not_yet", "the receipt that it has of this IUV is here already", request_id)
            return
        self.ec_run.count("fetched" if outcome.result is Result.STORED else "here")
        _log.info("receipt_fetched", id_pa=self.ec_run.id_pa, iuv=request.iuv, result=outcome.result,
                  receipt_id=outcome.identifiers.receipt_id, request_id=request_id)  # fmt: skip
        if request.item is not None:
            write(self.engine, store.runs.close_item, self.ec_run.id_pa, request.iuv)

    def _accept(self, request: FetchRequest, response: pagopa.ApiResponse, began: datetime) -> Outcome:
        """Pass a document to the intake, as a push does, unless it is not the receipt that was requested."""
        document = contract.parse(response.body, response.charset)
        element = contract.request_element(document.root)
        if element.tag not in contract.RECEIPT_OPERATIONS:
            raise DocumentError("the API returned a document that is not a receipt")
        identifiers = contract.identify(element)
        # A document without EC or IUV breaks the schema and is kept as refused; one of another EC must not be kept.
        if identifiers.id_pa not in (None, self.ec_run.id_pa):
            other = log.safe(identifiers.id_pa or "")
            raise MismatchError(f"asked for EC {self.ec_run.id_pa}, got a receipt for EC {other}")
        if identifiers.iuv not in (None, request.iuv):
            other = log.safe(identifiers.iuv or "")
            raise MismatchError(f"asked for IUV {request.iuv}, got the receipt for IUV {other}")
        origin = Origin(Source.RECONCILE, request_id=response.request_id, begun=began, http_status=response.status)
        return retrying(lambda: self.intake.accept(document, element, origin))

    def _journal(
        self,
        request: FetchRequest,
        began: datetime,
        reason: str,
        request_id: str | None,
        status: int | None,
        body: bytes = b"",
    ) -> None:
        """Write the journal's row of a fetch without a receipt; the intake writes that of a fetch with one."""
        asked = Identifiers(journal.FETCH, self.ec_run.id_pa, None, None, None, request.notice_number, request.iuv)
        origin = Origin(Source.RECONCILE, request_id=request_id, begun=began, http_status=status)
        self.intake.note(asked, origin, outcome=journal.FAILED, fault_code=reason, raw=body)

    def _missed(self, request: FetchRequest, reason: str, error: str, request_id: str | None) -> None:
        """Count a receipt that could not be stored, and keep an item for the next try, with backoff.

        A refused one is not requested again: its document is kept, and the remedy is to replay it.
        """
        item = request.item
        new = missed_item(self.settings, self.ec_run.id_pa, request, reason, error, request_id)
        write(self.engine, store.runs.write_item, new)
        context = {"id_pa": new.id_pa, "iuv": new.iuv, "attempts": new.attempts}
        if reason == "not_yet":
            self.ec_run.count("not_yet")
            _log.info("receipt_not_there_yet", **context, reason=reason, error=error, request_id=request_id)
        else:
            self.ec_run.count("failed")
            _log.warning("receipt_fetch_failed", **context, reason=reason, error=error, request_id=request_id)
        if new.state == "given_up" and item and item.state == "open":
            _log.error("receipt_given_up", **context)

    def _probe(self) -> None:
        """After some receipts in a row without an answer: end the run if the API answers nothing at all.

        Receipts that always end in an error must not end the run, and an outage must not be waited for once for each
        of ten thousand receipts.
        """
        self._failed_calls += 1
        if self._failed_calls >= _FAILURES_UNTIL_PROBE:
            self._failed_calls = 0
            try:
                self.client.probe()
            except ApiError as error:
                self._failure = error
