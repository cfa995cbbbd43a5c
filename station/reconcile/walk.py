"""One EC's walk: which days, their pages, and what is missing on them. What is fetched, and how, stands in `fetch`.

Each page is compared as it comes, with two queries, and nothing of it is kept: memory does not grow with the window.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime

from station import gpd, log, store
from station.errors import GpdAnswerError
from station.reconcile.fetch import Fetcher, Wanted
from station.reconcile.tally import Missing, Tally
from station.reconcile.windows import Window, days_before, italian_day, padded, three_months_before, windows
from station.store.runs import Item

_log = log.get(__name__)

# Positions whose payment is known; a reported one was paid before.
POSITION_STATUSES = ("PAID", "PARTIALLY_PAID", "REPORTED")

_WALKS_OF_A_WINDOW = 3
_BATCH = 100
_LEDGER_EVERY_S = 5.0


@dataclass
class Walk:
    """One EC's walk. Its methods raise what ended them early.

    `show` is called when the tally has changed; `missing`: a dry run, which fetches and writes nothing.
    """

    fetcher: Fetcher
    show: Callable[[Tally], None]
    missing: Callable[[Missing], None] | None = None
    _ledger_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.settings, self.client, self.tally = self.fetcher.settings, self.fetcher.client, self.fetcher.tally
        self.id_pa = self.tally.id_pa

    # --- what is walked -----------------------------------------------------------------------------------------------

    def walk(self, *, positions: bool = False) -> None:
        """From the watermark to now, and once a day the wide sweep."""
        started = self.tally.started_at
        today = italian_day(started)
        mark = self.fetcher.in_store(lambda connection: store.runs.watermark(connection, self.id_pa), readonly=True)
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
        self._settle(lambda connection, now: store.runs.set_watermark(connection, self.id_pa, started, walked_at=now))
        if sweep:
            if sweep_first < first:
                self._walk_days(sweep_first, first, shared=True)
            self._settle(lambda connection, now: store.runs.set_swept(connection, self.id_pa, now))
        if positions:
            self._walk_positions(min(first, sweep_first) if sweep else first, last)

    def walk_range(self, first: date, last: date, *, positions: bool = False) -> None:
        """Given days, which move no watermark."""
        self.tally.kind = "range"
        first, last = padded(first, last, italian_day(self.tally.started_at))
        self._begin(first, last)
        self._walk_days(first, last)
        if positions:
            self._walk_positions(first, last)

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

    def _begin(self, first: date, last: date) -> None:
        self.tally.window_from, self.tally.window_to = first, last

        def write(connection: store.Connection, _now: datetime) -> None:
            store.runs.close_arrived(connection, self.id_pa)
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
        for window in windows(first, last, self.settings.window_days):
            if shared and window.next_from is None:
                window = replace(window, next_from=window.last)
            counted_early: set[str] = set()
            for _ in range(_WALKS_OF_A_WINDOW):
                if self._walk_window(window, counted, counted_early):
                    break
                # Rows that left the list have pulled later ones to pages that were read before.
                _log.warning("list_shrank", id_pa=self.id_pa, window=f"{window.first}/{window.last}")
            else:
                raise GpdAnswerError(f"the list of {window.first} to {window.last} shrank each time it was read")
            counted = counted_early
        self.fetcher.drain()

    def _walk_window(self, window: Window, counted: set[str], counted_early: set[str]) -> bool:
        """All pages of one window, in the order of the IUVs; `False` where the list became shorter meanwhile.

        `counted`: IUVs that the window before has counted; into `counted_early` go those that the next will list too.
        """
        number, pages = 0, 1
        seen: set[str] = set()  # rows that are inserted push others to the next page
        while number < pages:
            self.fetcher.check()
            page = self.client.page(window.first, window.last, number)
            if page is None:
                return number == 0
            if number > 0 and page.pages < pages:
                return False
            pages = page.pages
            if page.unreadable:
                self.tally.count("failed", page.unreadable)
                _log.error("rows_unreadable", id_pa=self.id_pa, page=number, rows=page.unreadable)
            rows = {row.iuv: row for row in page.rows if row.iuv not in seen and row.iuv not in counted}
            self._compare(rows, window, counted_early)
            seen = {row.iuv for row in page.rows}
            number += 1
            self.tally.page, self.tally.pages = number, pages
            self._progress()
        return True

    def _compare(self, rows: dict[str, gpd.Row], window: Window, counted_early: set[str]) -> None:
        """Compares one page with the store, and hands over what is missing and due."""
        known, items = self._known(list(rows))
        here = 0
        for iuv, row in rows.items():
            again = window.again(row.paid_at)
            if iuv in known:
                here += not again
                continue
            if iuv in counted_early or self.fetcher.is_flying(iuv):
                continue  # an inserted row pushed it to the next page while it is fetched
            if again:
                counted_early.add(iuv)
            self.tally.count("listed")
            item = items.get(iuv)
            if self.missing is not None:
                self.tally.count("missing")
                self.missing(Missing(self.id_pa, iuv, row.paid_at))
            elif item is not None and not self._due(item):
                self.tally.count("waiting")
            else:
                self.fetcher.hand_over(Wanted(iuv, item))
        self.tally.count("listed", here)
        self.tally.count("here", here)

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
        for status in POSITION_STATUSES:
            for window in windows(first, last, self.settings.window_days):
                number, pages = 0, 1
                while number < pages:
                    self.fetcher.check()
                    page = self.client.positions(status, window.first, window.last, number)
                    if page is None:
                        break
                    pages = page.pages
                    self._compare_positions({paid.iuv: paid for paid in page.paid})
                    number += 1
                    self._progress()
        self.fetcher.drain()

    def _compare_positions(self, paid: dict[str, gpd.PaidPosition]) -> None:
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
