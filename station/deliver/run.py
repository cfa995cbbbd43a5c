"""`station deliver`: one process that numbers what was stored and serves the destinations, for as long as it runs."""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

from station import config, log, store
from station.deliver import address, folder
from station.deliver.dispatch import Dispatch
from station.deliver.numbering import Numbering
from station.deliver.sender import WebhookSender
from station.deliver.webhook import source_of, utc_now
from station.errors import AnotherRunError, StoreError
from station.store import deliveries, outgoing
from station.store.run_lock import only_run

_log = log.get(__name__)

_POLL_S = 0.25
_GATHER_S = 0.2  # results of so long are written in one transaction: each commit waits for the disk, as pushes do
_BUSY_RATE = 200  # receipts a second that come in: above it their transactions need the machine, and these wait
_BUSY_POLL_S = 1.0
_STOP_S = 3.0  # what is on its way may take so long when it is stopped; it is sent again otherwise
_LOCK_POLL_S = 2.0
_PAUSE_MAX_S = 10.0
_FOLDER_POLL_S = 1.0

Show = Callable[[str, int, int | None], None]


def _show_nothing(_title: str, _done: int, _total: int | None) -> None:
    """Show no progress."""


class Deliverer:
    """One run. Setting `stop` ends it within seconds.

    `now` and `resolve` stand in for the clock and the DNS in tests; `show` is called with progress.
    """

    def __init__(
        self,
        settings: config.Settings,
        engine: store.Engine,
        *,
        stop: threading.Event,
        once: bool = False,
        show: Show | None = None,
        now: Callable[[], datetime] = utc_now,
        resolve: address.Resolve = address.resolve,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._stop = stop
        self._once = once
        self._on_sqlite = engine.dialect.name == "sqlite"
        self._woken = threading.Event()
        self._complete = True
        self._end: int | None = None  # with `once`: the last number to deliver
        show = show or _show_nothing
        self._numbering = Numbering(settings, engine, stop=stop, now=now, show=show)
        how: dict[str, Any] = {"now": now, "resolve": resolve, "notify": self._woken.set}
        how |= {"source": source_of(settings), "journal": settings.journal.enabled}
        webhooks = [one for one in settings.destination if isinstance(one, config.Webhook)]
        self._dispatch = Dispatch(engine, [WebhookSender(one, **how) for one in webhooks], now=now, show=show)
        self._folders = [
            _FolderThread(settings, engine, one, now=now, stop=stop, once=once)
            for one in settings.destination
            if isinstance(one, config.Folder)
        ]

    def run(self) -> bool:
        """Deliver until `stop` is set, or with `once` until nothing is due.

        Return whether nothing failed and nothing is open. With `once` raise `StoreError`, and `AnotherRunError` where
        another instance runs; otherwise it waits, for the database and to take over.
        """
        pause, waits = _POLL_S, False
        try:
            while not self._stop.is_set():
                try:
                    with only_run(self._engine, "deliver") as held:
                        if held is not None:
                            _log.info("deliver_started", destinations=len(self._settings.destination))
                            waits = False
                            if self._serve(held):
                                break
                            _log.warning("deliver_lock_lost")
                        elif self._once:
                            raise AnotherRunError("deliver")
                        elif not waits:
                            waits = True
                            _log.info("deliver_waits", reason="another instance runs")
                    self._stop.wait(_LOCK_POLL_S)
                    pause = _POLL_S
                except Exception as error:
                    if self._once:
                        raise
                    if isinstance(error, StoreError):
                        _log.warning("database_waited_for", reason=str(error))
                    else:  # a defect; what it stopped is tried again
                        _log.error("unexpected_error", exc_info=error)
                    self._stop.wait(pause)
                    pause = min(pause * 2, _PAUSE_MAX_S)
        finally:
            for folder_ in self._folders:
                folder_.finish(_STOP_S)
            try:
                self._dispatch.finish(_STOP_S)
            except StoreError as error:
                _log.warning("results_not_written", reason=str(error))
            _log.info("deliver_stopped")
        return self._complete and not self._stop.is_set()

    # --- while the lock is held ---

    def _serve(self, held: Callable[[], bool]) -> bool:
        """Serve until the end. Return False where the lock was lost: another instance may serve."""
        began_at = time.monotonic()
        try:
            while not self._stop.is_set():
                if not held():
                    return False
                since, began_at = time.monotonic() - began_at, time.monotonic()
                numbered = self._numbering.number()
                busy = numbered > _BUSY_RATE * max(since, _POLL_S)
                self._dispatch.write_results()
                with store.transaction(self._engine, readonly=True) as connection:
                    rows = self._of_their_kind(deliveries.destinations(connection))
                    last = outgoing.last_number(connection)
                if self._once:
                    last = self._end = last if self._end is None else self._end
                at_rest = self._dispatch.serve(rows, last, busy=busy)
                for folder_ in self._folders:
                    at_rest = (folder_.name not in rows or folder_.serve(rows[folder_.name])) and at_rest
                if self._once and at_rest:
                    self._complete = not self._dispatch.has_open(last) and not any(one.failed for one in self._folders)
                    return True
                # SQLite has one writer: while receipts come in, it is left to them for nine tenths of the time.
                pause = 9 * (time.monotonic() - began_at) if numbered and self._on_sqlite and not self._once else 0.0
                if busy or pause > _POLL_S:
                    self._stop.wait(_BUSY_POLL_S if busy else min(pause, _BUSY_POLL_S))
                elif self._woken.wait(_POLL_S):
                    until = time.monotonic() + _GATHER_S
                    while time.monotonic() < until and not self._dispatch.is_at_rest and not self._stop.is_set():
                        time.sleep(0.01)
                    self._woken.clear()
            return True
        finally:
            self._dispatch.clear()

    def _of_their_kind(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Return the rows of the destinations that are still of the kind they were: what is open of another stays."""
        configured = self._settings.destinations
        return {name: row for name, row in rows.items() if name in configured and configured[name].kind == row.kind}


class _FolderThread:
    """The thread of one folder, which writes its files when they are due; with `once` it looks once."""

    def __init__(
        self,
        settings: config.Settings,
        engine: store.Engine,
        destination: config.Folder,
        *,
        now: Callable[[], datetime],
        stop: threading.Event,
        once: bool,
    ) -> None:
        self.name = destination.name
        self.failed = False
        self._serve = partial(folder.serve, settings, engine, destination, stopping=stop.is_set)
        self._now = now
        self._once = once
        self._thread: threading.Thread | None = None
        self._began = float("-inf")

    def serve(self, row: Any) -> bool:
        """Let the thread look for what is due, every second. Return whether it has done so and is not at work."""
        if row.state == "paused" or (self._thread is not None and self._thread.is_alive()):
            return bool(row.state == "paused")
        if self._thread is not None and (self._once or time.monotonic() < self._began + _FOLDER_POLL_S):
            return True
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._work, name=f"folder {self.name}", daemon=True)
        self._thread.start()
        return False

    def finish(self, seconds: float) -> None:
        """Wait for the thread, so long; a file that is not complete by then is written by the next deliverer."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self) -> None:
        try:
            self.failed = not self._serve(now=self._now())
        except StoreError as error:
            self.failed = True
            _log.warning("database_waited_for", destination=self.name, reason=str(error))
        except Exception as error:
            self.failed = True
            _log.error("unexpected_error", destination=self.name, exc_info=error)
