"""One EC's walk: which days are listed, which listed receipts are missing, and how far the watermark moves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from station import log, pagopa, store
from station.clock import months_before
from station.errors import ApiAnswerError, ApiUnavailableError
from station.reconcile.ec_run import EcRun
from station.reconcile.fetch import Fetcher, FetchRequest
from station.reconcile.listing import Listing, Span
from station.reconcile.windows import italian_day, midnight, padded, windows
from station.retry import read, write
from station.store.runs import ReconcileItem

_log = log.get(__name__)

# Positions whose payment is known; a reported one was paid before.
POSITION_STATUSES = ("PAID", "PARTIALLY_PAID", "REPORTED")

_FIRST_WALK_MONTHS = 3  # the range that the API lists without bounds
_BATCH = 100
_LEDGER_INTERVAL_S = 5.0
_POSITION_FAILURES_MAX = 2  # in a row


@dataclass(frozen=True, slots=True)
class Missing:
    """A receipt that a dry run found missing."""

    id_pa: str
    iuv: str
    paid_at: str
    notice_number: str | None = None
    amount: Decimal | None = None


@dataclass
class Walk:
    """One EC's walk. Its methods raise what ended them early, and at the end `UnreadError` for unreadable lists.

    `show` is called when the counts have changed. `missing` makes it a dry run, which fetches and writes nothing.
    """

    fetcher: Fetcher
    show: Callable[[EcRun], None]
    missing: Callable[[Missing], None] | None = None
    _ledger_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.settings, self.client, self.ec_run = self.fetcher.settings, self.fetcher.client, self.fetcher.ec_run
        self.engine, self.id_pa = self.fetcher.engine, self.ec_run.id_pa
        widest = self.settings.window_days * 24
        span = Span(widest, widest, self.settings.timeout)
        self._listing = Listing(self.client, self.ec_run, span, self.fetcher.check)

    # --- kinds of walks -----------------------------------------------------------------------------------------------

    def walk(self, *, positions: bool = False) -> None:
        """Walk from the watermark to now, and once a day the wide sweep."""
        started = self.ec_run.started_at
        today = italian_day(started)
        walked_to, swept_at = self._progress_so_far()
        if walked_to is not None:
            start = italian_day(walked_to) - timedelta(days=self.settings.overlap_days)
        else:
            start = self.settings.start or months_before(today, _FIRST_WALK_MONTHS)
        first, last = padded(start, today, today)
        sweep_first, _ = padded(today - timedelta(days=self.settings.sweep_days), today, today)
        sweep = self.settings.sweep_days > 0 and (swept_at is None or italian_day(swept_at) < today)
        earliest = min(first, sweep_first) if sweep else first
        self._begin("sweep" if sweep else "window", earliest, last)
        self._fetch_due()
        # The watermark's own window first: trouble in the wide one then costs the sweep only.
        self._walk_days(first, last)
        if not self._listing.unread:
            self._write(store.runs.set_watermark, self.id_pa, started, walked_at=datetime.now(UTC))
        if sweep:
            if sweep_first < first:
                self._walk_days(sweep_first, first, until=midnight(first))
            if not self._listing.unread:
                self._write(store.runs.set_swept, self.id_pa, datetime.now(UTC))
        self._finish(earliest, last, positions=positions)

    def walk_range(self, first: date, last: date, *, positions: bool = False) -> None:
        """Walk given days, which moves no watermark."""
        self._progress_so_far()
        first, last = padded(first, last, italian_day(self.ec_run.started_at))
        self._begin("range", first, last)
        self._walk_days(first, last)
        self._finish(first, last, positions=positions)

    def fetch(self, iuvs: Sequence[str]) -> None:
        """Fetch single receipts, whether they are due or here or not."""
        self.ec_run.kind = "iuv"
        for start in range(0, len(iuvs), _BATCH):
            batch = iuvs[start : start + _BATCH]
            items = read(self.engine, store.runs.items, self.id_pa, batch)
            for iuv in batch:
                self.fetcher.submit(FetchRequest(iuv, items.get(iuv)))
        self.fetcher.drain()

    def close(self) -> None:
        """Let the receipts in flight finish, however the walk ended."""
        self.fetcher.close()
        self.ec_run.requests = self.client.calls

    # --- watermark and ledger -----------------------------------------------------------------------------------------

    def _progress_so_far(self) -> tuple[datetime | None, datetime | None]:
        """Return to when the EC was walked and when it was swept; `None` if never, or if nothing credible says so.

        A time in the future was written by a clock that was ahead. Believed, it would keep the EC from being walked
        until then.
        """
        now = self.ec_run.started_at
        limit = now + store.CLOCK_TOLERANCE
        mark = read(self.engine, store.runs.watermark, self.id_pa)
        last = read(self.engine, store.runs.last_whole_walk, self.id_pa, now)
        if mark is None:
            return None, None
        span = self._listing.span
        span.hours = min(mark.window_hours or span.widest, span.widest)
        walked_to, swept_at = mark.watermark, mark.swept_at
        if swept_at is not None and swept_at > limit:
            self._report_clock(f"its last full check was dated {swept_at:%Y-%m-%d %H:%M} UTC, in the future")
            swept_at = None
        if walked_to > limit:
            known = "no run recorded how far it was checked"
            if last is not None:
                known = f"it was last checked at {last:%Y-%m-%d %H:%M} UTC"
            self._report_clock(f"its watermark was {walked_to:%Y-%m-%d %H:%M} UTC, in the future; {known}")
            walked_to = last
        return walked_to, swept_at

    def _report_clock(self, error: str) -> None:
        self.ec_run.add_error(f"a clock was ahead: {error}")
        _log.error("clock_was_ahead", id_pa=self.id_pa, error=error)

    def _begin(self, kind: str, first: date, last: date) -> None:
        self.ec_run.kind, self.ec_run.window_from, self.ec_run.window_to = kind, first, last

        def begin(connection: store.Connection, now: datetime) -> None:
            store.runs.close_arrived(connection, self.id_pa)
            if corrected := store.runs.correct_items(connection, self.id_pa, now):
                _log.error("clock_was_ahead", id_pa=self.id_pa, error=f"{corrected} open items, which are due now")
            store.runs.write_run(connection, self.ec_run.row())

        self._write(begin, datetime.now(UTC))
        self._ledger_at = time.monotonic()

    def _finish(self, first: date, last: date, *, positions: bool) -> None:
        span = self._listing.span
        hours = span.hours if span.hours < span.widest else None
        self._write(store.runs.set_window_hours, self.id_pa, hours)
        if positions:
            self._walk_positions(first, last)
        self._listing.raise_unread()

    def _write(self, work: Callable[..., object], *args: object, **named: object) -> None:
        """Run `work` in a transaction; not in a dry run."""
        if self.missing is None:
            write(self.engine, work, *args, **named)

    def _progress(self) -> None:
        self.ec_run.requests = self.client.calls
        self.show(self.ec_run)
        if time.monotonic() - self._ledger_at > _LEDGER_INTERVAL_S:
            self._write(store.runs.write_run, self.ec_run.row())
            self._ledger_at = time.monotonic()

    # --- receipts -----------------------------------------------------------------------------------------------------

    def _fetch_due(self) -> None:
        """Request items again that earlier runs left open and that are due, whether they are listed or not."""
        after: str | None = "" if self.missing is None else None
        while after is not None:
            due = read(self.engine, store.runs.due_items, self.id_pa, self.ec_run.started_at, after=after, limit=_BATCH)
            for item in due:
                self.fetcher.submit(FetchRequest(item.iuv, item))
            self._progress()
            after = due[-1].iuv if len(due) == _BATCH else None
        self.fetcher.drain()

    def _walk_days(self, first: date, last: date, *, until: datetime | None = None) -> None:
        """Walk the lists of some days. Receipts paid from `until` on were listed before, and do not count again."""
        for rows in self._listing.rows(first, last):
            new = [row for row in rows if until is None or row.paid_at < until.isoformat()]
            known, items = self._known([row.iuv for row in new])
            self.ec_run.count("listed", len(new))
            self.ec_run.count("here", len(known))
            for row in new:
                item = items.get(row.iuv)
                if row.iuv in known:
                    continue
                if self.missing is not None:
                    self.ec_run.count("missing")
                    self.missing(Missing(self.id_pa, row.iuv, row.paid_at))
                elif item is not None and not self._due(item):
                    self.ec_run.count("waiting")
                else:
                    self.fetcher.submit(FetchRequest(row.iuv, item))
            self._progress()
        self.fetcher.drain()

    def _walk_positions(self, first: date, last: date) -> None:
        """Compare with GPD-Core's paid positions: a payment without a receipt is requested and stays an open item."""
        failures = 0  # in a row
        for status in POSITION_STATUSES:
            for window in windows(first, last, self.settings.window_days):
                number, pages = 0, 1
                while number < pages:
                    self.fetcher.check()
                    try:
                        page = self.client.positions(status, window.first.date(), window.last.date(), number)
                    except (ApiUnavailableError, ApiAnswerError) as error:
                        failures += 1
                        if failures > _POSITION_FAILURES_MAX:
                            raise
                        self._listing.unread.append((window, {f"{status} positions, page {number}": str(error)}))
                        number += 1
                        continue
                    failures = 0
                    if page is None:
                        break
                    pages = page.pages
                    self._compare_positions({paid.iuv: paid for paid in page.paid})
                    number += 1
                    self._progress()
        self.fetcher.drain()

    def _compare_positions(self, paid: dict[str, pagopa.PaidPosition]) -> None:
        known, items = self._known(list(paid))
        self.ec_run.count("positions", len(paid))
        for iuv, position in paid.items():
            if iuv in known or self.fetcher.in_flight(iuv):
                continue
            item = items.get(iuv)
            if self.missing is not None:
                self.ec_run.count("missing")
                self.missing(Missing(self.id_pa, iuv, "", position.notice_number, position.amount))
            elif item is None or self._due(item):
                self.fetcher.submit(FetchRequest(iuv, item, position.notice_number, position.amount))
            elif item.notice_number is None:
                fuller = replace(item, notice_number=position.notice_number, amount=position.amount)
                write(self.engine, store.runs.write_item, fuller)

    def _known(self, iuvs: list[str]) -> tuple[set[str], dict[str, ReconcileItem]]:
        """Return which of the IUVs are here, and the items of the others."""

        def ask(connection: store.Connection) -> tuple[set[str], dict[str, ReconcileItem]]:
            known = store.runs.known_iuvs(connection, self.id_pa, iuvs)
            return known, store.runs.items(connection, self.id_pa, [iuv for iuv in iuvs if iuv not in known])

        return read(self.engine, ask)

    def _due(self, item: ReconcileItem) -> bool:
        return item.state == "open" and item.next_attempt_at <= self.ec_run.started_at
