"""Fetching the receipts that flows prove missing: GPD is asked by IUV, then BizEvents by IUR.

Each is an open item of the reconciliation with the reason `in_fdr`, asked for with backoff until it is given up. GPD
has the genuine document, of payments that the EC owns; BizEvents tells of secondary beneficiaries' too, as JSON: the
receipt is provisional. BizEvents is meant for anomalies: one call at a time, paced, and a long pause once it refuses.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from station import config, contract, journal, log, pagopa, store
from station.errors import (
    ApiError,
    ApiKeyError,
    ApiPausedError,
    ApiUnavailableError,
    DocumentError,
    MismatchError,
    StationError,
    StoppedError,
)
from station.intake import Intake, Origin, Result
from station.receipt import Identifiers, Receipt, Source
from station.reconcile.ec_run import EcRun
from station.reconcile.fetch import Fetcher, FetchRequest, missed_item
from station.reconcile.matching import match
from station.retry import read, retrying, write
from station.store import credited, flows
from station.store.runs import OF_FLOWS, ReconcileItem

_log = log.get(__name__)

_PAGE = 100
_UNAVAILABLE_MAX = 3  # receipts in a row that BizEvents did not answer for: it is down, and the next run goes on


@dataclass
class MissingFetch:
    """One EC's part: receipts `fetched` from GPD, `provisional` ones of BizEvents, and those still `missing`.

    `errors` ended a part of it early; `failed`: otherwise than by BizEvents' limit.
    """

    settings: config.Settings
    engine: store.Engine
    intake: Intake
    id_pa: str
    run_id: str
    stop: threading.Event
    fetched: int = field(default=0, init=False)
    provisional: int = field(default=0, init=False)
    missing: int = field(default=0, init=False)
    errors: list[str] = field(default_factory=list, init=False)
    failed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.started_at = datetime.now(UTC)

    def run(
        self, gpd: pagopa.ApiClient[config.Gpd], biz_events: pagopa.ApiClient[config.BizEvents], pool: Executor
    ) -> None:
        """Match, fetch what is missing, and match again. Raise `StoreError`, and `StoppedError` once it is to stop."""
        match(self.engine, self.id_pa)
        self._open_items()
        if key := self.settings.api_key(self.id_pa, "gpd_key"):
            self._ask_gpd(pagopa.EcClient(gpd, self.id_pa, key), pool)
            match(self.engine, self.id_pa)
        if key := self.settings.api_key(self.id_pa, "biz_events_key"):
            self._ask_biz_events(biz_events, key)
            match(self.engine, self.id_pa)
        write(self.engine, credited.close_credited, self.id_pa)
        self.missing = read(self.engine, credited.balance, self.id_pa, paid_to=None).payments_missing

    def fail(self, error: str) -> None:
        """Note what ended a part of it early."""
        self.errors.append(error)
        self.failed = True

    def _missing(self) -> Iterator[tuple[FetchRequest, Any]]:
        """Yield the missing receipts that are due, each with its item and its row."""
        after = ("", "")
        while True:
            page = read(self.engine, credited.missing_to_ask, self.id_pa, self.started_at, after=after, limit=_PAGE)
            items = read(self.engine, store.runs.items, self.id_pa, [row.iuv for row in page])
            for row in page:
                yield FetchRequest(row.iuv, items.get(row.iuv), amount=row.amount), row
            if len(page) < _PAGE:
                return
            after = (page[-1].iuv, page[-1].iur)

    def _open_items(self) -> None:
        """See that each missing receipt has an item that says so, due at once; close those that came."""
        write(self.engine, credited.close_credited, self.id_pa)
        for request, row in self._missing():
            now, item = self.started_at, request.item
            if item is None:
                item = ReconcileItem(
                    self.id_pa, request.iuv, "open", row.reason, None, request.amount, 0, now, now, now,
                    "a flow has the payment, and no receipt is here", None,
                )  # fmt: skip
            elif item.reason not in OF_FLOWS:
                item = replace(item, reason=row.reason, next_attempt_at=now)
            else:
                continue
            write(self.engine, store.runs.write_item, item)

    def _ask_gpd(self, client: pagopa.EcClient, pool: Executor) -> None:
        """Request by IUV what GPD may have: of an IUV it has one payment, so none of which a receipt is here."""
        ec_run = EcRun(self.id_pa, self.run_id, self.started_at)
        fetcher = Fetcher(self.settings.gpd, self.engine, self.intake, client, ec_run, pool, self.stop)
        asked = ""
        try:
            for request, _ in self._missing():
                if request.iuv != asked and not read(self.engine, store.runs.known_iuvs, self.id_pa, [request.iuv]):
                    fetcher.submit(request)
                asked = request.iuv
            fetcher.drain()
        except ApiError as error:
            self.fail(f"GPD: {error}")
        finally:
            fetcher.close()
            self.fetched += ec_run.fetched

    def _ask_biz_events(self, api: pagopa.ApiClient[config.BizEvents], key: str) -> None:
        """Request by IUR what GPD does not have, one after the other."""
        sharing = [ec.id for ec in self.settings.ec if self.settings.api_key(ec.id, "biz_events_key") == key]
        paused_until = read(self.engine, flows.biz_paused_until, [*sharing, self.id_pa])
        client = pagopa.BizEventsClient(api, self.id_pa, key, paused_until)
        unavailable = 0
        for request, row in self._missing():
            if self.stop.is_set():
                raise StoppedError("stopped by a signal; the next run continues")
            try:
                self._ask_one(client, request, row.iur)
                unavailable = 0
            except ApiPausedError as error:
                self.errors.append(f"BizEvents: {error}")
                if client.paused_until is not None:
                    write(self.engine, flows.set_biz_pause, self.id_pa, client.paused_until)
                return
            except ApiKeyError as error:
                self.fail(f"BizEvents: {error}")
                return
            except ApiUnavailableError as error:
                unavailable += 1
                if unavailable == _UNAVAILABLE_MAX:
                    self.fail(f"BizEvents: {error}")
                    return

    def _ask_one(self, client: pagopa.BizEventsClient, request: FetchRequest, iur: str) -> None:
        """Request one receipt; raise what concerns the others, too."""
        began, request_id, status, body = datetime.now(UTC), None, None, b""
        failure: StationError | None = None
        try:
            response = client.receipt(iur)
            if response is not None:
                request_id, status, body = response.request_id, response.status, response.body
                receipt = contract.read_provisional(body, self.id_pa)
                self._check(receipt, request.iuv, iur)
                origin = Origin(Source.BIZEVENTS, request_id=request_id, begun=began, http_status=status)
                outcome = retrying(lambda: self.intake.accept_provisional(body, receipt, origin))
                self.provisional += outcome.result is Result.STORED
                _log.info("receipt_fetched", id_pa=self.id_pa, iuv=request.iuv, result=outcome.result,
                          receipt_id=receipt.receipt_id, request_id=request_id, source=Source.BIZEVENTS)  # fmt: skip
                return
        except (ApiPausedError, ApiKeyError):
            raise
        except (ApiError, DocumentError, MismatchError) as error:
            failure = error
            if isinstance(error, ApiError):
                request_id, status = error.request_id, error.status
        reason = failure.code if failure else "not_yet"
        asked = Identifiers(journal.FETCH_PROVISIONAL, self.id_pa, None, None, iur, None, request.iuv)
        origin = Origin(Source.BIZEVENTS, request_id=request_id, begun=began, http_status=status)
        self.intake.note(asked, origin, outcome=journal.FAILED, fault_code=reason, raw=body)
        told = f"BizEvents: {failure or 'it has no receipt of this IUR'}"
        item = request.item
        if item is not None and item.attempts and item.last_at >= self.started_at:  # GPD was asked: it is one attempt
            told = f"GPD: {item.last_error}; {told}" if "BizEvents: " not in item.last_error else item.last_error
            request = replace(request, item=replace(item, attempts=item.attempts - 1))
        new = missed_item(self.settings.gpd, self.id_pa, request, reason, told, request_id)
        write(self.engine, store.runs.write_item, new)
        _log.info("receipt_not_there_yet", id_pa=self.id_pa, iuv=request.iuv, attempts=new.attempts, reason=reason,
                  error=told, request_id=request_id)  # fmt: skip
        if isinstance(failure, ApiUnavailableError):
            raise failure

    def _check(self, receipt: Receipt, iuv: str, iur: str) -> None:
        """Raise `MismatchError` if it is not the receipt that was requested."""
        for name, asked, got in (("IUR", iur, receipt.receipt_id), ("IUV", iuv, receipt.iuv)):
            if asked != got:
                raise MismatchError(f"asked for {name} {asked}, got a receipt with {log.safe(got)}")
        if self.id_pa not in (receipt.fiscal_code, *(transfer.fiscal_code_pa for transfer in receipt.transfers)):
            raise MismatchError(f"asked for EC {self.id_pa}, got a receipt without a part for it")
