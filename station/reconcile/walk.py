"""One EC: list, compare, fetch, take in. What it counts is its `Tally`.

Pages are compared as they come and a bounded number of receipts is on its way at any time: memory does not grow with
the window. Every `_fetch` ends in a stored receipt, an open item, or the end of the walk.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from station import contract, gpd, log, store
from station.config import Gpd
from station.errors import (
    DocumentError,
    GpdAnswerError,
    GpdError,
    GpdKeyError,
    GpdUnavailableError,
    MismatchError,
    StoppedError,
    StoreError,
    StoreRejectedError,
)
from station.intake import Intake, Origin, Outcome, Result
from station.receipt import Source
from station.reconcile.windows import Window, days_before, italian_day, padded, three_months_before, windows
from station.store.runs import Item

_log = log.get(__name__)

# Positions whose payment is known; a reported one was paid before.
POSITION_STATUSES = ("PAID", "PARTIALLY_PAID", "REPORTED")

_WALKS_OF_A_WINDOW = 3
_FAILURES_UNTIL_PROBE = 5
_DUE_BATCH = 100
_PAUSE_MOST_S = 23 * 3600.0  # a daily job must find the item due
_LEDGER_EVERY_S = 5.0

COUNTS = ("listed", "here", "fetched", "not_yet", "waiting", "failed")


@dataclass
class Tally:
    """What happened to one EC in one run.

    `listed`: receipts the API listed; `here`: those the station had; `fetched`: stored by this run; `not_yet`: asked
    for and not there yet; `waiting`: not there, and not due for another try; `failed`: asked for in vain, or kept as
    refused. Receipts that an earlier run left open and that are due are asked for whether they are listed or not.
    `missing` is counted by a dry run only, `positions` by a second opinion only. `page` of `pages` is for the eye.
    """

    id_pa: str
    run_id: str
    started_at: datetime
    kind: str = "window"
    outcome: str = "running"
    window_from: date | None = None
    window_to: date | None = None
    finished_at: datetime | None = None
    listed: int = 0
    here: int = 0
    fetched: int = 0
    not_yet: int = 0
    waiting: int = 0
    failed: int = 0
    missing: int = 0
    positions: int = 0
    requests: int = 0
    error: str | None = None
    page: int = 0
    pages: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            setattr(self, name, getattr(self, name) + number)

    @property
    def duration_s(self) -> float:
        return ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()

    def row(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        names = ("id_pa", "run_id", "kind", "outcome", "window_from", "window_to", "started_at", "finished_at",
                 *COUNTS, "requests", "error")  # fmt: skip
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A receipt to ask for: its open item where there is one, and what GPD-Core says of its payment."""

    iuv: str
    item: Item | None = None
    notice_number: str | None = None
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """What a dry run says of a receipt that is not here."""

    id_pa: str
    iuv: str
    paid_at: str
    notice_number: str | None = None
    amount: Decimal | None = None


@dataclass
class Walk:
    """One EC's walk. `pool` fetches receipts for all ECs; `show` is called when the tally has changed."""

    settings: Gpd
    engine: store.Engine
    intake: Intake
    client: gpd.EcClient
    tally: Tally
    pool: Executor
    stop: threading.Event
    show: Callable[[Tally], None]
    missing: Callable[[Missing], None] | None = None  # set: a dry run, which fetches and writes nothing
    _failure: Exception | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _over: bool = field(default=False, init=False)
    _flying: dict[Future[None], str] = field(default_factory=dict, init=False)
    _ledger_at: float = field(default=0.0, init=False)

    # --- what is walked -----------------------------------------------------------------------------------------------

    def walk(self, *, positions: bool = False) -> None:
        """From the watermark to now, and once a day the wide sweep. Raises what ended it early."""
        started = self.tally.started_at
        today = italian_day(started)
        with store.transaction(self.engine, readonly=True) as connection:
            mark = store.runs.watermark(connection, self.tally.id_pa)
        if mark is not None:
            start = days_before(italian_day(mark.watermark), self.settings.overlap_days)
        else:
            start = self.settings.start or three_months_before(today)
        first, last = padded(start, today, today)
        sweep_first, _ = padded(days_before(today, self.settings.sweep_days), today, today)
        sweep = self.settings.sweep_days > 0 and (
            mark is None or mark.swept_at is None or italian_day(mark.swept_at) < today
        )
        self.tally.kind = "sweep" if sweep else "window"
        self._begin(min(first, sweep_first) if sweep else first, last)
        self._fetch_due()
        # The watermark's own window first: trouble in the wide one then costs the sweep only.
        self._walk_days(first, last)
        self._settle(lambda connection, now: store.runs.set_watermark(
            connection, self.tally.id_pa, started, walked_at=now))  # fmt: skip
        if sweep:
            if sweep_first < first:
                self._walk_days(sweep_first, first, shared=True)
            self._settle(lambda connection, now: store.runs.set_swept(connection, self.tally.id_pa, now))
        if positions:
            self._walk_positions(min(first, sweep_first) if sweep else first, last)

    def walk_range(self, first: date, last: date, *, positions: bool = False) -> None:
        """Given days, which move no watermark. Raises what ended it early."""
        self.tally.kind = "range"
        first, last = padded(first, last, italian_day(self.tally.started_at))
        self._begin(first, last)
        self._walk_days(first, last)
        if positions:
            self._walk_positions(first, last)

    def fetch(self, iuvs: Sequence[str]) -> None:
        """Single receipts, whether they are due or here or not."""
        self.tally.kind = "iuv"
        for start in range(0, len(iuvs), _DUE_BATCH):
            batch = iuvs[start : start + _DUE_BATCH]
            with store.transaction(self.engine, readonly=True) as connection:
                items = store.runs.items(connection, self.tally.id_pa, batch)
            for iuv in batch:
                self._hand_over(_Wanted(iuv, items.get(iuv)))
        self.drain()

    def _begin(self, first: date, last: date) -> None:
        self.tally.window_from, self.tally.window_to = first, last
        if self.missing is not None:
            return
        with store.transaction(self.engine) as connection:
            store.runs.close_arrived(connection, self.tally.id_pa)
            store.runs.write_run(connection, self.tally.row())
        self._ledger_at = time.monotonic()

    def _settle(self, write: Callable[[store.Connection, datetime], None]) -> None:
        """Writes what a complete walk means, or nothing in a dry run."""
        if self.missing is None:
            with store.transaction(self.engine) as connection:
                write(connection, datetime.now(UTC))

    def _fetch_due(self) -> None:
        """Asks again for what earlier runs left open and is due, listed or not."""
        if self.missing is not None:
            return
        after = ""
        while True:
            with store.transaction(self.engine, readonly=True) as connection:
                due = store.runs.due_items(
                    connection, self.tally.id_pa, self.tally.started_at, after=after, limit=_DUE_BATCH
                )
            for item in due:
                self._hand_over(_Wanted(item.iuv, item))
            if len(due) < _DUE_BATCH:
                break
            after = due[-1].iuv
        self.drain()

    # --- listing ------------------------------------------------------------------------------------------------------

    def _walk_days(self, first: date, last: date, *, shared: bool = False) -> None:
        """All windows of some days. `shared`: the last day was walked before, and counted."""
        counted: set[str] = set()
        for window in windows(first, last, self.settings.window_days):
            if shared and window.next_from is None:
                window = replace(window, next_from=window.last)
            counted_early: set[str] = set()
            for _ in range(_WALKS_OF_A_WINDOW):
                if self._walk_window(window, counted, counted_early):
                    break
                # Rows that left the list have pulled later ones to pages that were read before.
                _log.warning("list_shrank", id_pa=self.tally.id_pa, window=f"{window.first}/{window.last}")
            else:
                raise GpdAnswerError(f"the list of {window.first} to {window.last} shrank each time it was read")
            counted = counted_early
        self.drain()

    def _walk_window(self, window: Window, counted: set[str], counted_early: set[str]) -> bool:
        """All pages of one window, in the order of the IUVs; `False` where the list became shorter meanwhile.

        `counted`: IUVs that the window before has counted; into `counted_early` go those that the next will list too.
        """
        number, pages = 0, 1
        seen: set[str] = set()  # rows that are inserted push others to the next page
        while number < pages:
            self._check()
            page = self.client.page(window.first, window.last, number)
            if page is None:
                return number == 0
            if number > 0 and page.pages < pages:
                return False
            pages = page.pages
            if page.unreadable:
                self.tally.count("failed", page.unreadable)
                _log.error("rows_unreadable", id_pa=self.tally.id_pa, page=number, rows=page.unreadable)
            self._compare({row.iuv: row for row in page.rows if row.iuv not in seen and row.iuv not in counted},
                          window, counted_early)  # fmt: skip
            seen = {row.iuv for row in page.rows}
            number += 1
            self.tally.page, self.tally.pages = number, pages
            self._progress()
        return True

    def _compare(self, rows: dict[str, gpd.Row], window: Window, counted_early: set[str]) -> None:
        """Compares one page with the store, and hands over what is missing and due."""
        known, items = self._known(list(rows))
        for iuv, row in rows.items():
            again = window.again(row.paid_at)
            if iuv in known:
                if not again:
                    self.tally.count("listed")
                    self.tally.count("here")
                continue
            if iuv in self._flying.values() or iuv in counted_early:
                continue  # an inserted row pushed it to the next page while it is fetched
            if again:
                counted_early.add(iuv)
            self.tally.count("listed")
            if self.missing is not None:
                self.tally.count("missing")
                self.missing(Missing(self.tally.id_pa, iuv, row.paid_at))
            elif (item := items.get(iuv)) is not None and not self._due(item):
                self.tally.count("waiting")
            else:
                self._hand_over(_Wanted(iuv, item))

    def _known(self, iuvs: list[str]) -> tuple[set[str], dict[str, Item]]:
        """Which of the IUVs are here, and the open items among the others: two queries for a page."""
        with store.transaction(self.engine, readonly=True) as connection:
            known = store.runs.known_iuvs(connection, self.tally.id_pa, iuvs)
            others = [iuv for iuv in iuvs if iuv not in known]
            return known, store.runs.items(connection, self.tally.id_pa, others)

    def _due(self, item: Item) -> bool:
        started = self.tally.started_at
        return item.state == "open" and item.next_attempt_at <= started and item.last_at < started

    def _walk_positions(self, first: date, last: date) -> None:
        """GPD-Core's paid positions: a payment whose receipt is nowhere is asked for, and stays as an open item."""
        for status in POSITION_STATUSES:
            for window in windows(first, last, self.settings.window_days):
                number, pages = 0, 1
                while number < pages:
                    self._check()
                    page = self.client.positions(status, window.first, window.last, number)
                    if page is None:
                        break
                    pages = page.pages
                    self._compare_positions({paid.iuv: paid for paid in page.paid})
                    number += 1
                    self._progress()
        self.drain()

    def _compare_positions(self, paid: dict[str, gpd.PaidPosition]) -> None:
        known, items = self._known(list(paid))
        self.tally.count("positions", len(paid))
        for iuv, position in paid.items():
            if iuv in known or iuv in self._flying.values():
                continue
            item = items.get(iuv)
            if self.missing is not None:
                self.tally.count("missing")
                self.missing(Missing(self.tally.id_pa, iuv, "", position.notice_number, position.amount))
            elif item is None or self._due(item):
                self._hand_over(_Wanted(iuv, item, position.notice_number, position.amount))
            elif item.notice_number is None:
                told = replace(item, notice_number=position.notice_number, amount=position.amount)
                with store.transaction(self.engine) as connection:
                    store.runs.write_item(connection, told)

    # --- fetching -----------------------------------------------------------------------------------------------------

    def _hand_over(self, wanted: _Wanted) -> None:
        """To the pool, as soon as few enough of this EC's receipts are on their way."""
        self._check()
        while len(self._flying) >= 2 * self.settings.workers:
            self._landed(wait(self._flying, return_when=FIRST_COMPLETED).done)
            self._check()
        self._flying[self.pool.submit(self._fetch, wanted)] = wanted.iuv

    def drain(self) -> None:
        """Waits for what is on its way. Raises what ended the walk early."""
        self._landed(wait(self._flying).done)
        self._check()

    def land(self) -> None:
        """At the end, however it came: what is on its way may finish, what is not yet does not start."""
        self._over = True
        wait(self._flying)
        self._flying.clear()
        self.tally.requests = self.client.calls

    def _landed(self, done: Iterable[Future[None]]) -> None:
        for future in done:
            del self._flying[future]
            future.result()
        self._progress()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self.stop.is_set():
            raise StoppedError("stopped by a signal; the next run goes on")

    def _progress(self) -> None:
        self.tally.requests = self.client.calls
        self.show(self.tally)
        if self.missing is None and self._ledger_at and time.monotonic() - self._ledger_at > _LEDGER_EVERY_S:
            self._settle(lambda connection, _: store.runs.write_run(connection, self.tally.row()))
            self._ledger_at = time.monotonic()

    def _fetch(self, wanted: _Wanted) -> None:
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
            _log.error("walk_broke", id_pa=self.tally.id_pa, iuv=wanted.iuv, exc_info=error)
            self._failure = error

    def _fetch_one(self, wanted: _Wanted) -> None:
        request_id = None
        try:
            answer = self.client.receipt(wanted.iuv)
            self._failures = 0
            request_id = answer.request_id
            if answer.status != 200:
                self._missed(wanted, "not_yet", f"{answer.status}{gpd.words(answer)}", request_id)
                return
            outcome = self._take_in(wanted, answer)
        except (GpdKeyError, StoppedError):
            raise
        except GpdError as error:
            self._missed(wanted, error.code, str(error), error.request_id)
            if isinstance(error, GpdUnavailableError):
                self._probe()
            return
        except (DocumentError, MismatchError) as error:
            self._missed(wanted, error.code, str(error), request_id)
            return
        except StoreRejectedError as error:
            # The document was kept as refused, if that was possible: one that hits a defect must not stop the others.
            self._missed(wanted, error.code, f"{error} ({error.reason})", request_id)
            return
        except StoreError:
            raise
        except Exception as error:
            _log.error("unexpected_error", id_pa=self.tally.id_pa, iuv=wanted.iuv, exc_info=error)
            self._missed(wanted, "unexpected_error", f"unexpected {type(error).__name__}", request_id)
            return
        if outcome.refusal is not None:
            why = f"{outcome.refusal.fault_code}: {outcome.refusal}; kept as refused {outcome.refused_id}"
            self._missed(wanted, "refused", why, request_id)
            return
        self.tally.count("fetched" if outcome.result is Result.STORED else "here")
        _log.info("receipt_fetched", id_pa=self.tally.id_pa, iuv=wanted.iuv, result=outcome.result,
                  receipt_id=outcome.identifiers.receipt_id, request_id=request_id)  # fmt: skip
        if wanted.item is not None:
            with store.transaction(self.engine) as connection:
                store.runs.close_item(connection, self.tally.id_pa, wanted.iuv)

    def _take_in(self, wanted: _Wanted, answer: gpd.Answer) -> Outcome:
        """Through the same door as the push, unless it is not the receipt that was asked for."""
        document = contract.parse(answer.body, answer.charset)
        request = contract.request_element(document.root)
        if request.tag not in contract.RECEIPT_OPERATIONS:
            raise DocumentError("the API gave a document that is no receipt")
        says = contract.identify(request)
        # A document without EC or IUV breaks the schema and is kept as refused; one of another EC is nobody's to keep.
        if says.id_pa not in (None, self.tally.id_pa):
            raise MismatchError(f"asked for EC {self.tally.id_pa}, got a receipt of {log.safe(says.id_pa or '')}")
        if says.iuv not in (None, wanted.iuv):
            raise MismatchError(f"asked for IUV {wanted.iuv}, got the receipt of {log.safe(says.iuv or '')}")
        return self.intake.accept(document, request, Origin(Source.RECONCILE, request_id=answer.request_id))

    def _missed(self, wanted: _Wanted, reason: str, error: str, request_id: str | None) -> None:
        """It is not here after all: counted, and an open item for the next try, later each time."""
        now = datetime.now(UTC)
        item = wanted.item
        attempts = item.attempts + 1 if item else 1
        first_at = item.first_at if item else now
        pause = min(self.settings.again_after * 2 ** min(attempts - 1, 30), _PAUSE_MOST_S)
        given_up = now - first_at >= timedelta(days=self.settings.give_up_days)
        new = Item(
            id_pa=self.tally.id_pa,
            iuv=wanted.iuv,
            state="given_up" if given_up else "open",
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
        with store.transaction(self.engine) as connection:
            store.runs.write_item(connection, new)
        self.tally.count("not_yet" if reason == "not_yet" else "failed")
        say = _log.info if reason == "not_yet" else _log.warning
        say("receipt_not_there_yet" if reason == "not_yet" else "receipt_fetch_failed", id_pa=self.tally.id_pa,
            iuv=wanted.iuv, reason=reason, error=error, attempts=attempts, request_id=request_id)  # fmt: skip
        if given_up and item and item.state == "open":
            _log.warning("receipt_given_up", id_pa=self.tally.id_pa, iuv=wanted.iuv, attempts=attempts)

    def _probe(self) -> None:
        """After some receipts in a row without an answer: does the API answer at all? Raises `GpdError` where not.

        Some receipts that always end in an error must not end the walk, and an outage must not be waited for once for
        each of ten thousand receipts.
        """
        self._failures += 1
        if self._failures >= _FAILURES_UNTIL_PROBE:
            self._failures = 0
            today = italian_day(datetime.now(UTC))
            try:
                self.client.page(today, today, 0)
            except GpdError as error:
                self._failure = error
