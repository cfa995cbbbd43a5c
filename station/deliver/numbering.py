"""Numbers for what is stored, and the places at which new destinations begin."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime

from station import config, log, store
from station.clock import ROME
from station.store import deliveries, outgoing

_log = log.get(__name__)

_BATCH = 2_000
_CHECK_EVERY_S = 3600.0


class Numbering:
    """The planner of one run: it alone gives numbers, since it holds the lock of the deliverer.

    `show` is called with progress.
    """

    def __init__(
        self,
        settings: config.Settings,
        engine: store.Engine,
        *,
        stop: threading.Event,
        now: Callable[[], datetime],
        show: Callable[[str, int, int | None], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._stop = stop
        self._now = now
        self._show = show
        self._check_at = float("-inf")
        self._restart_check = True
        self._registered = False

    def number(self) -> int:
        """Give numbers to what was stored, and at the start and every hour to what was stored without the outbox.

        Return how many of the outbox got one.
        """
        total = 0
        if time.monotonic() >= self._check_at:
            self._check(to_the_end=self._check_at == float("-inf"))
        with store.transaction(self._engine, readonly=True) as connection:
            waiting = outgoing.waiting(connection, limit=1)[0]
        while waiting and not self._stop.is_set():
            with store.transaction(self._engine) as connection:
                count = outgoing.number_outbox(connection, at=self._now(), limit=_BATCH)
            total += count
            waiting = count == _BATCH
        # Not before: the numbers of what is stored already decide where a destination begins.
        if not self._registered and not self._stop.is_set():
            self._register()
            self._registered = True
        return total

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
        """Add the destinations that are new, each at the number behind which it begins; a feed when its reader asks."""
        with store.transaction(self._engine, timeout=None) as connection:
            known = deliveries.destinations(connection)
            for one in self._settings.destination:
                before = known.get(one.name)
                if before is not None and before.kind != one.kind:
                    _log.error("destination_kind_changed", destination=one.name, kind=one.kind, before=before.kind)
                if before is not None or one.kind == "feed":
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
