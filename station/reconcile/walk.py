"""One EC's walk: which days, their pages, and what is missing on them. What is fetched, and how, stands in `fetch`.

Each page is compared as it comes, with two queries, and nothing of it is kept: memory does not grow with the window.
A window that the API cannot list (its time for a page grows with all rows of the window, and one faulty debt position
makes a whole list an error) is narrowed, down to an hour; what still cannot be read is noted, and the walk goes on.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta

from station import log, pagopa, store
from station.errors import GpdAnswerError, GpdRequestError, GpdTimeoutError, GpdUnavailableError, UnreadError
from station.reconcile.fetch import Fetcher, Wanted
from station.reconcile.tally import Missing, Tally
from station.reconcile.windows import (
    Span,
    Window,
    cut,
    days_before,
    italian_day,
    midnight,
    padded,
    three_months_before,
    windows,
)
from station.store.runs import Item

_log = log.get(__name__)

# Positions whose payment is known; a reported one was paid before.
POSITION_STATUSES = ("PAID", "PARTIALLY_PAID", "REPORTED")

_WALKS_OF_A_WINDOW = 3
_BATCH = 100
_LEDGER_EVERY_S = 5.0
_UNREAD_TOLD = 5


@dataclass
class _Read:
    """What became of one window: what could not be read of it, by page, and whether any page was.

    `timed_out`: that was why. `shrank`: the list became shorter meanwhile. `slowest_s`: seconds of the slowest page.
    """

    unread: dict[str, str] = field(default_factory=dict)
    any: bool = False
    timed_out: bool = False
    shrank: bool = False
    slowest_s: float = 0.0


@dataclass
class Walk:
    """One EC's walk. Its methods raise what ended them early, and at the end `UnreadError` for what was unreadable.

    `show` is called when the tally has changed; `missing`: a dry run, which fetches and writes nothing.
    """

    fetcher: Fetcher
    show: Callable[[Tally], None]
    missing: Callable[[Missing], None] | None = None
    _ledger_at: float = field(default=0.0, init=False)
    _unread: list[tuple[Window, dict[str, str]]] = field(default_factory=list, init=False)
    # Of the window that is being read: what it has counted, and which IUVs it found missing. And which ones it found
    # before it was narrowed, with the end that it had then.
    _counted: Counter[str] = field(default_factory=Counter, init=False)
    _missed: set[str] = field(default_factory=set, init=False)
    _missed_before: set[str] = field(default_factory=set, init=False)
    _missed_until: datetime | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.settings, self.client, self.tally = self.fetcher.settings, self.fetcher.client, self.fetcher.tally
        self.id_pa = self.tally.id_pa
        widest = self.settings.window_days * 24
        self._span = Span(widest, widest, self.settings.timeout)

    # --- what is walked -----------------------------------------------------------------------------------------------

    def walk(self, *, positions: bool = False) -> None:
        """From the watermark to now, and once a day the wide sweep."""
        started = self.tally.started_at
        today = italian_day(started)
        walked_to, swept_at = self._progress_so_far()
        if walked_to is not None:
            start = days_before(italian_day(walked_to), self.settings.overlap_days)
        else:
            start = self.settings.start or three_months_before(today)
        first, last = padded(start, today, today)
        sweep_first, _ = padded(days_before(today, self.settings.sweep_days), today, today)
        sweep = self.settings.sweep_days > 0 and (swept_at is None or italian_day(swept_at) < today)
        self.tally.kind = "sweep" if sweep else "window"
        self._begin(min(first, sweep_first) if sweep else first, last)
        self._fetch_due()
        # The watermark's own window first: trouble in the wide one then costs the sweep only.
        self._walk_days(first, last)
        if not self._unread:
            self._settle(
                lambda connection, now: store.runs.set_watermark(connection, self.id_pa, started, walked_at=now)
            )
        if sweep:
            if sweep_first < first:
                self._walk_days(sweep_first, first, shared=True)
            if not self._unread:
                self._settle(lambda connection, now: store.runs.set_swept(connection, self.id_pa, now))
        self._remember_hours()
        if positions:
            self._walk_positions(min(first, sweep_first) if sweep else first, last)
        self._tell_unread()

    def walk_range(self, first: date, last: date, *, positions: bool = False) -> None:
        """Given days, which move no watermark."""
        self.tally.kind = "range"
        self._progress_so_far()
        first, last = padded(first, last, italian_day(self.tally.started_at))
        self._begin(first, last)
        self._walk_days(first, last)
        self._remember_hours()
        if positions:
            self._walk_positions(first, last)
        self._tell_unread()

    def fetch(self, iuvs: Sequence[str]) -> None:
        """Single receipts, whether they are due or here or not."""
        self.tally.kind = "iuv"
        for start in range(0, len(iuvs), _BATCH):
            batch = iuvs[start : start + _BATCH]
            _, items = self._known(list(batch), even_if_here=True)
            for iuv in batch:
                self.fetcher.hand_over(Wanted(iuv, items.get(iuv)))
        self.fetcher.drain()

    def end(self) -> None:
        """Lets what is on its way finish, however the walk ended."""
        self.fetcher.land()
        self.tally.requests = self.client.calls

    def _progress_so_far(self) -> tuple[datetime | None, datetime | None]:
        """To when the EC was walked and when it was swept; `None` where it never was, or nothing credible says so.

        A time in the future was written by a clock that was ahead. Taken as it is, nothing would be walked until then.
        """
        now = self.tally.started_at
        limit = now + store.CLOCK_TOLERANCE
        mark, last = self.fetcher.in_store(
            lambda connection: (
                store.runs.watermark(connection, self.id_pa),
                store.runs.last_whole_walk(connection, self.id_pa, now),
            ),
            readonly=True,
        )
        if mark is None:
            return None, None
        if mark.window_hours is not None:
            self._span.hours = min(mark.window_hours, self._span.widest)
        walked_to, swept_at = mark.watermark, mark.swept_at
        if swept_at is not None and swept_at > limit:
            self._complain(f"its last full check was dated {swept_at:%Y-%m-%d %H:%M} UTC, in the future")
            swept_at = None
        if walked_to > limit:
            walked = (
                f"it was last checked at {last:%Y-%m-%d %H:%M} UTC"
                if last
                else "no run recorded how far it was checked"
            )
            self._complain(f"its watermark was {walked_to:%Y-%m-%d %H:%M} UTC, in the future; {walked}")
            walked_to = last
        return walked_to, swept_at

    def _complain(self, what: str) -> None:
        self.tally.say(f"a clock was ahead: {what}")
        _log.error("clock_was_ahead", id_pa=self.id_pa, error=what)

    def _begin(self, first: date, last: date) -> None:
        self.tally.window_from, self.tally.window_to = first, last

        def write(connection: store.Connection, now: datetime) -> None:
            store.runs.close_arrived(connection, self.id_pa)
            if mended := store.runs.mend_items(connection, self.id_pa, now):
                _log.error("clock_was_ahead", id_pa=self.id_pa, error=f"{mended} open items, which are due now")
            store.runs.write_run(connection, self.tally.row())

        self._settle(write)
        self._ledger_at = time.monotonic()

    def _settle(self, write: Callable[[store.Connection, datetime], None]) -> None:
        """Writes to the database, now being the time, or nothing in a dry run."""
        if self.missing is None:
            self.fetcher.in_store(lambda connection: write(connection, datetime.now(UTC)))

    def _fetch_due(self) -> None:
        """Asks again for what earlier runs left open and is due, listed or not."""
        after = ""
        while self.missing is None:
            due = self._due_batch(after)
            for item in due:
                self.fetcher.hand_over(Wanted(item.iuv, item))
            self._progress()
            if len(due) < _BATCH:
                break
            after = due[-1].iuv
        self.fetcher.drain()

    def _due_batch(self, after: str) -> list[Item]:
        return self.fetcher.in_store(
            lambda connection: store.runs.due_items(
                connection, self.id_pa, self.tally.started_at, after=after, limit=_BATCH
            ),
            readonly=True,
        )

    # --- listing ------------------------------------------------------------------------------------------------------

    def _walk_days(self, first: date, last: date, *, shared: bool = False) -> None:
        """All windows of some days. `shared`: the last day was walked before, and counted."""
        counted: set[str] = set()
        start: datetime | None = midnight(first)
        end = midnight(last) + timedelta(days=1, seconds=-1)
        while start is not None:
            window = cut(start, end, self._span.hours)
            following = window.next_first
            if shared and following is None:
                window = replace(window, next_first=midnight(last))
            counted_early: set[str] = set()
            self._counted.clear()
            self._missed = set()
            if self._missed_until is not None and start > self._missed_until:
                self._missed_before.clear()
            read = self._walk_window(window, counted, counted_early)
            if not read.unread:
                self._span.read(window, read.slowest_s)
            elif self._span.can_narrow(window):
                self._span.narrow(window)
                _log.warning("window_narrowed", id_pa=self.id_pa, window=str(window), hours=self._span.hours,
                             reason=next(iter(read.unread.values())))  # fmt: skip
                for name, number in self._counted.items():
                    self.tally.count(name, -number)
                self._missed_before |= self._missed
                self._missed_until = max(window.last, self._missed_until or window.last)
                continue
            else:
                self._unread.append((window, read.unread))
                self._span.leave(partly=read.any and not read.timed_out)
                _log.error("window_unread", id_pa=self.id_pa, window=str(window), pages=list(read.unread),
                           error=next(iter(read.unread.values())))  # fmt: skip
            counted = counted_early
            start = following
        self.fetcher.drain()

    def _walk_window(self, window: Window, counted: set[str], counted_early: set[str]) -> _Read:
        """All pages of one window; again where the list became shorter meanwhile."""
        for _ in range(_WALKS_OF_A_WINDOW):
            read = self._read_pages(window, counted, counted_early)
            if not read.shrank:
                return read
            # Rows that left the list have pulled later ones to pages that were read before.
            _log.warning("list_shrank", id_pa=self.id_pa, window=str(window))
        read.unread["all pages"] = "the list became shorter each time it was read"
        return read

    def _read_pages(self, window: Window, counted: set[str], counted_early: set[str]) -> _Read:
        """The pages of one window, in the order of the IUVs, each compared as it comes.

        `counted`: IUVs that the window before has counted; into `counted_early` go those that the next will list too.
        """
        read = _Read()
        number, pages = 0, 1
        answers = False  # since the last failure
        seen: set[str] = set()  # rows that are inserted push others to the next page
        while number < pages:
            self.fetcher.check()
            try:
                page = self.client.page(window.first, window.last, number, retries=0 if self._span.in_trouble else 1)
            except (GpdUnavailableError, GpdAnswerError) as error:
                read.unread[f"page {number}"] = str(error)
                if not answers:
                    with suppress(GpdRequestError):  # an answer, too
                        self.client.probe()
                answers = False
                read.timed_out = isinstance(error, GpdTimeoutError)
                # Each page takes the time of the whole list. Other errors can be one page's: the others are tried.
                if read.timed_out or (len(read.unread) > 1 and self._span.can_narrow(window)):
                    return read
                pages = max(pages, 2)  # each page says how many there are
                number += 1
                continue
            if page is None or (read.any and page.pages < pages):
                read.shrank = read.any
                return read
            read.any = answers = True
            pages = page.pages
            read.slowest_s = max(read.slowest_s, page.took_s)
            if page.unreadable:
                self._count("failed", page.unreadable)
                _log.error("rows_unreadable", id_pa=self.id_pa, page=number, rows=page.unreadable)
            rows = {row.iuv: row for row in page.rows if row.iuv not in seen and row.iuv not in counted}
            self._compare(rows, window, counted_early)
            seen = {row.iuv for row in page.rows}
            number += 1
            self.tally.page, self.tally.pages = number, pages
            self._progress()
        return read

    def _tell_unread(self) -> None:
        """Raises `UnreadError` that says which days and pages could not be read."""
        told: list[tuple[Window, dict[str, str]]] = []
        for window, unread in self._unread:
            before = told[-1] if told else None
            if before and before[1].keys() == unread.keys() and before[0].first <= window.first <= before[0].last:
                told[-1] = (replace(before[0], last=window.last), before[1])
            else:
                told.append((window, unread))
        if told:
            parts = [
                f"{window} ({', '.join(unread)}: {next(iter(unread.values()))})"
                for window, unread in told[:_UNREAD_TOLD]
            ]
            if len(told) > _UNREAD_TOLD:
                parts.append(f"and {len(told) - _UNREAD_TOLD} more, see the log")
            raise UnreadError(f"not read: {'; '.join(parts)}. All the rest was read, and the next run tries again")

    def _remember_hours(self) -> None:
        hours = self._span.hours if self._span.hours < self._span.widest else None
        self._settle(lambda connection, _now: store.runs.set_window_hours(connection, self.id_pa, hours))

    def _count(self, name: str, number: int = 1) -> None:
        self.tally.count(name, number)
        self._counted[name] += number

    def _compare(self, rows: dict[str, pagopa.Row], window: Window, counted_early: set[str]) -> None:
        """Compares one page with the store, and hands over what is missing and due."""
        known, items = self._known(list(rows))
        here = 0
        for iuv, row in rows.items():
            again = window.again(row.paid_at)
            if iuv in self._missed:
                continue  # an inserted row pushed it to the next page
            if iuv in known and iuv not in self._missed_before:
                here += not again
                continue
            self._missed.add(iuv)
            if again:
                counted_early.add(iuv)
            if iuv in self._missed_before or self.fetcher.is_flying(iuv):
                continue
            self.tally.count("listed")
            item = items.get(iuv)
            if self.missing is not None:
                self.tally.count("missing")
                self.missing(Missing(self.id_pa, iuv, row.paid_at))
            elif item is not None and not self._due(item):
                self.tally.count("waiting")
            else:
                self.fetcher.hand_over(Wanted(iuv, item))
        self._count("listed", here)
        self._count("here", here)

    def _known(self, iuvs: list[str], *, even_if_here: bool = False) -> tuple[set[str], dict[str, Item]]:
        """Which of the IUVs are here, and the items of the others."""

        def ask(connection: store.Connection) -> tuple[set[str], dict[str, Item]]:
            known = set() if even_if_here else store.runs.known_iuvs(connection, self.id_pa, iuvs)
            others = [iuv for iuv in iuvs if iuv not in known]
            return known, store.runs.items(connection, self.id_pa, others)

        return self.fetcher.in_store(ask, readonly=True)

    def _due(self, item: Item) -> bool:
        return item.state == "open" and item.next_attempt_at <= self.tally.started_at

    def _progress(self) -> None:
        self.tally.requests = self.client.calls
        self.show(self.tally)
        if time.monotonic() - self._ledger_at > _LEDGER_EVERY_S:
            self._settle(lambda connection, _now: store.runs.write_run(connection, self.tally.row()))
            self._ledger_at = time.monotonic()

    # --- the second opinion -------------------------------------------------------------------------------------------

    def _walk_positions(self, first: date, last: date) -> None:
        """GPD-Core's paid positions: a payment whose receipt is nowhere is asked for, and stays as an open item."""
        failed = 0  # in a row
        for status in POSITION_STATUSES:
            for window in windows(first, last, self.settings.window_days):
                number, pages = 0, 1
                while number < pages:
                    self.fetcher.check()
                    try:
                        page = self.client.positions(status, window.first.date(), window.last.date(), number)
                    except (GpdUnavailableError, GpdAnswerError) as error:
                        failed += 1
                        if failed > 2:
                            raise
                        self._unread.append((window, {f"{status} positions, page {number}": str(error)}))
                        number += 1
                        continue
                    failed = 0
                    if page is None:
                        break
                    pages = page.pages
                    self._compare_positions({paid.iuv: paid for paid in page.paid})
                    number += 1
                    self._progress()
        self.fetcher.drain()

    def _compare_positions(self, paid: dict[str, pagopa.PaidPosition]) -> None:
        known, items = self._known(list(paid))
        self.tally.count("positions", len(paid))
        for iuv, position in paid.items():
            if iuv in known or self.fetcher.is_flying(iuv):
                continue
            item = items.get(iuv)
            if self.missing is not None:
                self.tally.count("missing")
                self.missing(Missing(self.id_pa, iuv, "", position.notice_number, position.amount))
            elif item is None or self._due(item):
                self.fetcher.hand_over(Wanted(iuv, item, position.notice_number, position.amount))
            elif item.notice_number is None:
                told = replace(item, notice_number=position.notice_number, amount=position.amount)
                self._tell(told)

    def _tell(self, item: Item) -> None:
        self._settle(lambda connection, _now: store.runs.write_item(connection, item))
