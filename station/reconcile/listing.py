"""Reading the API's lists: each listed receipt once, from windows that are narrowed where the API cannot list them.

The API's time for a page grows with all rows of the window (twice the rows take some four times as long), and one
faulty debt position makes a whole list an error. So a window that fails or is slow is halved, down to an hour. What
then still cannot be read is noted in `unread`, and the rest is read.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

from station import log, pagopa
from station.errors import ApiAnswerError, ApiRequestError, ApiTimeoutError, ApiUnavailableError, UnreadError
from station.reconcile.ec_run import EcRun
from station.reconcile.windows import Window, cut, midnight

_log = log.get(__name__)

_READINGS_MAX = 3  # of a window whose list becomes shorter while it is read
_UNREADABLE_WINDOWS_MAX = 100
_UNREAD_SHOWN = 5
# Shares of the timeout.
_SLOW, _QUICK = 1 / 4, 1 / 16


@dataclass
class Span:
    """How many hours one call may cover: as many as the API lists in good time, and at most `widest`.

    `timeout`: seconds until a call counts as failed.
    """

    widest: int
    hours: int
    timeout: float
    in_trouble: bool = False  # the last window could not be read
    _given_up: int = 0  # windows in a row that could be neither read nor narrowed

    def can_narrow(self, window: Window) -> bool:
        """Return whether a window that failed may be narrowed."""
        return window.hours > 1 and self._given_up < _UNREADABLE_WINDOWS_MAX

    def narrow(self, window: Window) -> None:
        """Halve the span after a window that could not be read."""
        self.in_trouble = True
        self.hours = max(1, min(self.hours, window.hours) // 2)

    def read(self, window: Window, slowest_s: float) -> None:
        """Adjust the span after a window that was read, by the seconds that its slowest page took."""
        self._given_up = 0
        if slowest_s > self.timeout * _SLOW:
            self.narrow(window)
        elif slowest_s < self.timeout * _QUICK:
            self.hours = min(2 * self.hours, self.widest)
        self.in_trouble = False

    def give_up(self, *, partly: bool) -> None:
        """Note a window that was given up; `partly`: other pages of it were read.

        Then the page itself fails and not one of its receipts, and narrower windows would fail as well. After many
        such windows the span grows again: days that cannot be read are not walked by the hour.
        """
        self.in_trouble = True
        self._given_up = _UNREADABLE_WINDOWS_MAX if partly else self._given_up + 1
        if self._given_up >= _UNREADABLE_WINDOWS_MAX:
            self.hours = min(2 * self.hours, self.widest)


@dataclass
class _Reading:
    """One reading of a window: the errors by page, whether any page was read, and the slowest page's seconds."""

    errors: dict[str, str] = field(default_factory=dict)
    any_page: bool = False
    timed_out: bool = False
    shrank: bool = False
    unreadable_rows: int = 0
    slowest_s: float = 0.0


@dataclass
class Listing:
    """The lists of one EC in one run. `check` raises what ends the run early.

    `unread`: windows that could not be read, with their errors by page.
    """

    client: pagopa.EcClient
    ec_run: EcRun
    span: Span
    check: Callable[[], None]
    unread: list[tuple[Window, dict[str, str]]] = field(default_factory=list)
    # IUVs that were listed, with their payment times, as far as they may be listed once more: on the next page, since
    # inserted rows push others on; in the next window, which overlaps; or by a narrower window.
    _listed: dict[str, str] = field(default_factory=dict)

    def rows(self, first: date, last: date) -> Iterator[list[pagopa.Row]]:
        """Yield the receipts paid from `first` to `last`, page by page, each once. Memory holds those of one window."""
        end = midnight(last) + timedelta(days=1, seconds=-1)
        start: datetime | None = midnight(first)
        while start is not None:
            window = cut(start, end, self.span.hours)
            reading = yield from self._window(window)
            if not reading.errors:
                self.span.read(window, reading.slowest_s)
            elif self.span.can_narrow(window):
                self.span.narrow(window)
                _log.warning("window_narrowed", id_pa=self.ec_run.id_pa, window=str(window), hours=self.span.hours,
                             reason=next(iter(reading.errors.values())))  # fmt: skip
                continue
            else:
                self.unread.append((window, reading.errors))
                self.span.give_up(partly=reading.any_page and not reading.timed_out)
                _log.error("window_unread", id_pa=self.ec_run.id_pa, window=str(window), pages=list(reading.errors),
                           error=next(iter(reading.errors.values())))  # fmt: skip
            self.ec_run.count("failed", reading.unreadable_rows)
            self._listed = {iuv: paid_at for iuv, paid_at in self._listed.items() if window.again(paid_at)}
            start = window.next_first

    def _window(self, window: Window) -> Generator[list[pagopa.Row], None, _Reading]:
        """Yield the pages of one window; read it again if the list became shorter meanwhile."""
        for _ in range(_READINGS_MAX):
            reading = yield from self._pages(window)
            if not reading.shrank:
                return reading
            # Rows that left the list have pulled later ones to pages that were read before.
            _log.warning("list_shrank", id_pa=self.ec_run.id_pa, window=str(window))
        reading.errors["all pages"] = "the list became shorter each time it was read"
        return reading

    def _pages(self, window: Window) -> Generator[list[pagopa.Row], None, _Reading]:
        """Yield the pages of one window, in the order of the IUVs."""
        reading = _Reading()
        number, pages = 0, 1
        answering = False  # since the last failure
        while number < pages:
            self.check()
            try:
                page = self.client.page(window.first, window.last, number, retries=0 if self.span.in_trouble else 1)
            except (ApiUnavailableError, ApiAnswerError) as error:
                reading.errors[f"page {number}"] = str(error)
                if not answering:
                    with suppress(ApiRequestError):  # a rejected request is an answer, too
                        self.client.probe()
                answering = False
                reading.timed_out = isinstance(error, ApiTimeoutError)
                # Each page takes the time of the whole list, so the others would time out as well. Another error can
                # be this page's alone.
                if reading.timed_out or (len(reading.errors) > 1 and self.span.can_narrow(window)):
                    return reading
                pages = max(pages, 2)  # a page that can be read says how many there are
                number += 1
                continue
            if page is None or (reading.any_page and page.pages < pages):
                reading.shrank = reading.any_page
                return reading
            reading.any_page = answering = True
            pages = page.pages
            reading.slowest_s = max(reading.slowest_s, page.took_s)
            if page.unreadable:
                reading.unreadable_rows += page.unreadable
                _log.error("rows_unreadable", id_pa=self.ec_run.id_pa, page=number, rows=page.unreadable)
            number += 1
            self.ec_run.page, self.ec_run.pages = number, pages
            new = {row.iuv: row for row in page.rows if row.iuv not in self._listed}
            self._listed.update({row.iuv: row.paid_at for row in new.values()})
            yield list(new.values())
        return reading

    def raise_unread(self) -> None:
        """Raise `UnreadError` with the days and pages that could not be read, if there are any."""
        merged: list[tuple[Window, dict[str, str]]] = []
        for window, errors in self.unread:
            before = merged[-1] if merged else None
            if before and before[1].keys() == errors.keys() and before[0].first <= window.first <= before[0].last:
                merged[-1] = (replace(before[0], last=window.last), before[1])
            else:
                merged.append((window, errors))
        parts = [f"{window} ({', '.join(errors)}: {next(iter(errors.values()))})" for window, errors in merged]
        if len(parts) > _UNREAD_SHOWN:
            parts[_UNREAD_SHOWN:] = [f"and {len(parts) - _UNREAD_SHOWN} more, see the log"]
        if parts:
            raise UnreadError(f"not read: {'; '.join(parts)}. All the rest was read, and the next run tries again")
