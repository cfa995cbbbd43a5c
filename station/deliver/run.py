"""`station deliver`: one process that numbers what was stored and serves the destinations, for as long as it runs."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

from station import config, log, store
from station.clock import ROME
from station.deliver import address, folder
from station.deliver.schedule import Task
from station.deliver.sender import WebhookSender
from station.deliver.webhook import source_of, utc_now
from station.errors import AnotherRunError, StoreError
from station.store import deliveries, outgoing
from station.store.run_lock import only_run

_log = log.get(__name__)

_POLL_S = 0.25
_GATHER_S = 0.05  # results of so long are written in one transaction
_REREAD_S = 1.0  # how often open deliveries are read of a destination that has few: retries, and what operators ask for
_CHECK_EVERY_S = 3600.0
_BATCH = 2_000
_PAGE = 256  # of deliveries, for one destination
_READY_MIN = 128  # more are read when fewer wait to be sent
_PROBES = 16  # for a destination that is away
_STOP_S = 3.0  # what is on its way may take so long when it is stopped; it is sent again otherwise
_LOCK_POLL_S = 2.0
_PAUSE_MAX_S = 10.0

Show = Callable[[str, int, int | None], None]


def _show_nothing(_title: str, _done: int, _total: int | None) -> None:
    """Show no progress."""


@dataclass
class _Webhook:
    """A webhook and what the deliverer knows of it."""

    sender: WebhookSender
    position: int = 0
    began_at: int | None = None  # its position when this run began, for progress
    seen: tuple[Any, ...] = ()  # the state that was read or written last: another one is an operator's
    reread_at: float = float("-inf")
    may_have_more: bool = True  # open deliveries beyond those that were read


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
        self._show = show or _show_nothing
        self._now = now
        self._woken = threading.Event()
        self._check_at = float("-inf")
        self._restart_check = True
        self._complete = True
        self._end: int | None = None  # with `once`: the last number to deliver
        self._webhooks = {
            one.name: _Webhook(
                WebhookSender(one, source=source_of(settings), journal=settings.journal.enabled, now=now, resolve=resolve,
                       notify=self._woken.set)
            )
            for one in settings.destination
            if isinstance(one, config.Webhook)
        }  # fmt: skip
        self._folders = [_FolderThread(settings, engine, one, now, stop) for one in settings.destination
                         if isinstance(one, config.Folder)]  # fmt: skip

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
                except StoreError as error:
                    if self._once:
                        raise
                    _log.warning("database_waited_for", reason=str(error))
                    self._stop.wait(pause)
                    pause = min(pause * 2, _PAUSE_MAX_S)
        finally:
            self._finish()
        return self._complete and not self._stop.is_set()

    # --- while the lock is held ---

    def _serve(self, held: Callable[[], bool]) -> bool:
        """Serve until the end. Return False where the lock was lost: another instance may serve."""
        try:
            while not self._stop.is_set():
                if not held():
                    return False
                self._number()
                self._write_results()
                with store.transaction(self._engine, readonly=True) as connection:
                    rows = deliveries.destinations(connection)
                    last = outgoing.last_number(connection)
                if self._end is None and self._once:
                    self._end = last
                # Each of them is served, whatever another one has to do.
                at_rest = [self._serve_webhook(rows[name], last) for name in self._webhooks if name in rows]
                at_rest += [one.serve(rows[one.name]) for one in self._folders if one.name in rows]
                if self._once and all(at_rest):
                    self._complete = self._nothing_open()
                    return True
                if self._woken.wait(_POLL_S):
                    self._stop.wait(_GATHER_S)
                    self._woken.clear()
            return True
        finally:
            for webhook in self._webhooks.values():
                webhook.sender.clear()

    def _number(self) -> None:
        """Give numbers to what was stored, and at the start and every hour to what was stored without the outbox."""
        first = self._check_at == float("-inf")
        if time.monotonic() >= self._check_at:
            self._check(to_the_end=first)
        with store.transaction(self._engine, readonly=True) as connection:
            waiting = outgoing.waiting(connection, limit=1)[0]
        while waiting and not self._stop.is_set():
            with store.transaction(self._engine) as connection:
                count = outgoing.number_outbox(connection, at=self._now(), limit=_BATCH)
            waiting = count == _BATCH
        # Not before: the numbers of what is stored already decide where a destination begins.
        if first and not self._stop.is_set():
            self._register()

    def _check(self, *, to_the_end: bool) -> None:
        """Look through the receipts for those without a number: all, or some in each round."""
        looked = given = 0
        while not self._stop.is_set():
            with store.transaction(self._engine) as connection:
                some, new = outgoing.number_unnumbered(
                    connection, at=self._now(), limit=_BATCH, restart=self._restart_check
                )
            self._restart_check = False
            looked, given = looked + some, given + new
            if looked > _BATCH:
                self._show("receipts checked for a number", looked, None)
            if some == 0:
                self._restart_check = True
                self._check_at = time.monotonic() + _CHECK_EVERY_S
            if some == 0 or not to_the_end:
                break
        if given:
            _log.info("receipts_numbered", receipts=given)

    def _register(self) -> None:
        """Add the destinations that are new, each at the number behind which it begins."""
        with store.transaction(self._engine, timeout=None) as connection:
            known = deliveries.destinations(connection)
            for one in self._settings.destination:
                if one.name in known:
                    continue
                match one.start:
                    case date():
                        begin = datetime(one.start.year, one.start.month, one.start.day, tzinfo=ROME).astimezone(UTC)
                        position = outgoing.number_before(connection, begin)
                    case "beginning":
                        position = 0
                    case _:
                        position = outgoing.last_number(connection)
                deliveries.register(connection, one.name, one.kind, position=position, at=self._now())
                _log.info("destination_registered", destination=one.name, kind=one.kind, position=position)

    def _write_results(self) -> None:
        """Write the results of all webhooks in one transaction."""
        results = {name: webhook.sender.results() for name, webhook in self._webhooks.items()}
        attempts = [one for some, _ in results.values() for one in some]
        if not attempts:
            return
        health = {name: values for name, (some, values) in results.items() if some}
        with store.transaction(self._engine) as connection:
            deliveries.write_results(connection, attempts, health)
        for name, values in health.items():
            webhook = self._webhooks[name]
            webhook.sender.written(results[name][0])
            webhook.seen = (values.get("state", "active"), values["failures"], values["next_attempt_at"])

    def _serve_webhook(self, row: Any, last: int) -> bool:
        """Give a webhook what it may send next. Return whether nothing is to be sent now or on its way."""
        webhook = self._webhooks[row.name]
        sender = webhook.sender
        state = (row.state, row.failures, row.next_attempt_at)
        if state != webhook.seen and not sender.has_results:
            sender.load(row)
            webhook.seen, webhook.may_have_more = state, True
        webhook.position = row.position
        if webhook.began_at is None:
            webhook.began_at = row.position
        more = sender.limit > 0 and self._refill(webhook, last if self._end is None else self._end)
        sender.wake()
        if (total := last - webhook.began_at) > _BATCH:
            self._show(f"{row.name}: numbers", webhook.position - webhook.began_at, total)
        return not more and not sender.has_results and sender.is_at_rest

    def _refill(self, webhook: _Webhook, last: int) -> bool:
        """Read open deliveries of a webhook that are due, then claim more. Return whether there may be more now."""
        sender = webhook.sender
        page = _PAGE
        due_again = time.monotonic() >= webhook.reread_at
        if sender.health.failures:
            page = _PROBES
            webhook.may_have_more = True  # when it is reached again
            if not sender.ready or due_again:
                # An operator may have skipped what was read before; and probes were taken out of the order.
                sender.clear()
                self._read_due(webhook, page, away=True, after=sender.last if sender.health.refuses_all else 0)
            if sender.ready:
                return True
        elif sender.ready >= _READY_MIN:
            return True
        elif webhook.may_have_more or due_again:
            webhook.may_have_more = self._read_due(webhook, page)
            if webhook.may_have_more:
                return True
        if webhook.position < last:
            return self._claim(webhook, page, last)
        if sender.health.refuses_all and sender.last:
            sender.last = 0  # from the first one again
            return True
        return False

    def _read_due(self, webhook: _Webhook, page: int, *, away: bool = False, after: int = 0) -> bool:
        """Read open deliveries whose time has come. Return whether there may be more.

        To probe a destination that is `away`, those that were never refused come first: another one may be refused for
        what it is.
        """
        sender = webhook.sender
        name, raw = sender.destination.name, sender.destination.document
        known = sender.known
        limit = len(known) + page
        with store.transaction(self._engine, readonly=True) as connection:
            rows = deliveries.due(connection, name, now=self._now(), after=after, limit=limit, untried_first=away)
            new = [row for row in rows if row.number not in known]
            numbers = [row.number for row in new]
            found = {one.number: one for one in outgoing.by_number(connection, numbers, raw=raw)} if new else {}
        webhook.reread_at = time.monotonic() + _REREAD_S
        if missing := set(numbers) - found.keys():
            with store.transaction(self._engine) as connection:
                deliveries.settle_missing(connection, name, missing, at=self._now())
        sender.put(
            Task(found[row.number], row.attempts, row.next_attempt_at, row.first_at)
            for row in new
            if row.number in found
        )
        return len(rows) == limit

    def _claim(self, webhook: _Webhook, page: int, last: int) -> bool:
        """Take the next numbers for a webhook. Return whether there are more."""
        sender, at = webhook.sender, self._now()
        name, raw = sender.destination.name, sender.destination.document
        with store.transaction(self._engine, readonly=True) as connection:
            taken = outgoing.outgoing_page(
                connection, sender.choice, after=webhook.position, limit=page, last=last, raw=raw
            )
        with store.transaction(self._engine) as connection:
            numbers = [one.number for one in taken.items]
            if not deliveries.claim(connection, name, numbers, position=webhook.position, to=taken.next, at=at):
                return True  # another deliverer was quicker: the position is read again
        webhook.position = taken.next
        sender.put(Task(one, next_attempt_at=at) for one in taken.items)
        return taken.more

    def _nothing_open(self) -> bool:
        """Return whether all that was there at the beginning is settled, and nothing failed in this run."""
        with store.transaction(self._engine, readonly=True) as connection:
            rows = deliveries.destinations(connection)
            is_open = [
                rows[name].position < (self._end or 0) or deliveries.has_open(connection, name)
                for name in self._webhooks
            ]
        return not (
            any(is_open)
            or any(folder.failed for folder in self._folders)
            or any(webhook.sender.given_up for webhook in self._webhooks.values())
        )

    def _finish(self) -> None:
        """Let what is on its way end, for seconds; write what came of it."""
        for webhook in self._webhooks.values():
            webhook.sender.stop()
        until = time.monotonic() + _STOP_S
        while time.monotonic() < until and not all(one.sender.is_at_rest for one in self._webhooks.values()):
            time.sleep(0.02)
        try:
            self._write_results()
        except StoreError as error:
            _log.warning("results_not_written", reason=str(error))
        _log.info("deliver_stopped")


class _FolderThread:
    """The thread of one folder, which writes its files when they are due."""

    def __init__(
        self,
        settings: config.Settings,
        engine: store.Engine,
        destination: config.Folder,
        now: Callable[[], datetime],
        stop: threading.Event,
    ) -> None:
        self.name = destination.name
        self.failed = False
        self._serve = partial(folder.serve, settings, engine, destination, stopping=stop.is_set)
        self._now = now
        self._thread: threading.Thread | None = None
        self._began = float("-inf")

    def serve(self, row: Any) -> bool:
        """Let the thread look for what is due, every second. Return whether it has done so."""
        if self._thread is not None and self._thread.is_alive():
            return False
        at_rest = self._thread is not None or row.state == "paused"
        if row.state != "paused" and time.monotonic() >= self._began + _REREAD_S:
            self._began = time.monotonic()
            self._thread = threading.Thread(target=self._work, name=f"folder {self.name}", daemon=True)
            self._thread.start()
        return at_rest

    def _work(self) -> None:
        try:
            self.failed = not self._serve(now=self._now())
        except StoreError as error:
            self.failed = True
            _log.warning("database_waited_for", destination=self.name, reason=str(error))
        except Exception as error:
            self.failed = True
            _log.error("unexpected_error", destination=self.name, exc_info=error)
