"""All ECs of one run: the lock, the threads, the ledger's last word, and the summary."""

import re
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from station import config, log, pagopa, store
from station.errors import AnotherRunError, ClockError, ConfigError, GpdKeyError, StationError, StoppedError, StoreError
from station.intake import Intake
from station.reconcile.fetch import Fetcher
from station.reconcile.tally import COUNTS, Missing, Tally
from station.reconcile.walk import Walk
from station.reconcile.windows import italian_day
from station.retry import retrying

_log = log.get(__name__)


def _nothing(*_: Any) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do: all ECs or some, from the watermark on or given days, with the second opinion or without.

    `show` is called, by several threads, whenever a tally has changed; `missing` for each receipt a dry run misses.
    """

    id_pas: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None
    positions: bool = False
    dry_run: bool = False
    show: Callable[[Tally], None] = _nothing
    missing: Callable[[Missing], None] = _nothing


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a run."""

    run_id: str
    started_at: datetime
    finished_at: datetime
    dry_run: bool
    tallies: Sequence[Tally]

    @property
    def total(self) -> dict[str, int]:
        """The counts of all ECs together."""
        names = (*COUNTS, "missing", "positions", "requests")
        return {name: sum(getattr(tally, name) for tally in self.tallies) for name in names}

    @property
    def complete(self) -> bool:
        """Whether every EC was walked completely and nothing failed."""
        return all(tally.outcome == "done" and tally.failed == 0 for tally in self.tallies)


def selected(settings: config.Settings, id_pas: Sequence[str]) -> list[str]:
    """The ECs to walk: those named, or all that are configured for it. Raises `ConfigError`."""
    if not settings.ec:
        if not id_pas:
            raise ConfigError("no [[ec]] is configured: name the ECs in the configuration, or one with --ec")
        for id_pa in id_pas:
            if not re.fullmatch(r"[0-9]{11}", id_pa):
                raise ConfigError(f"{id_pa} is not an EC: that is a fiscal code of 11 digits")
        return list(dict.fromkeys(id_pas))
    for id_pa in id_pas:
        if id_pa not in settings.ecs:
            raise ConfigError(f"EC {id_pa} is not configured: add an [[ec]] with this id")
    chosen = [ec.id for ec in settings.ec if (ec.id in id_pas if id_pas else ec.reconcile)]
    if not chosen:
        raise ConfigError("every [[ec]] has reconcile = false: there is nothing to check")
    return chosen


def _with_keys(settings: config.Settings, id_pas: Sequence[str], *, positions: bool) -> None:
    """Raises `ConfigError` where no EC at all has the keys that are needed."""
    if not any(settings.gpd_key(id_pa) for id_pa in id_pas):
        raise ConfigError(
            "no key for the GPD receipts API: set gpd.key (STATION_GPD_KEY, or STATION_GPD_KEY_FILE with a file that "
            "holds it), or gpd_key of a [[broker]] or an [[ec]]"
        )
    if positions and not any(settings.gpd_key(id_pa, "gpd_positions_key") for id_pa in id_pas):
        raise ConfigError(
            "--positions needs a key for GPD-Core's positions, a separate subscription from that for receipts: set "
            "gpd.positions_key (STATION_GPD_POSITIONS_KEY, or STATION_GPD_POSITIONS_KEY_FILE), or gpd_positions_key "
            "of a [[broker]] or an [[ec]]"
        )


def reconcile(
    settings: config.Settings, engine: store.Engine, order: Order, stop: threading.Event | None = None
) -> Summary:
    """Walks the ECs and takes in what is missing. Setting `stop` ends it after the receipts in hand.

    Raises `ConfigError`, `StoreError`, `ClockError`, and `AnotherRunError` where another run has the lock; a dry run,
    which writes nothing, needs no lock. What happens to an EC or a receipt is in the summary.
    """
    id_pas = selected(settings, order.id_pas)
    _with_keys(settings, id_pas, positions=order.positions)
    run = _Run(settings, engine, order, stop or threading.Event())
    retrying(lambda: _check_clock(engine))
    if order.dry_run:
        return run.walk(id_pas)
    with store.runs.only_run(engine) as free:
        if not free:
            raise AnotherRunError
        with store.transaction(engine) as connection:
            aborted = store.runs.abort_runs(connection)
            ahead = store.runs.mend_runs(connection, run.started_at)
            store.runs.forget_runs(connection, run.started_at - timedelta(days=settings.gpd.keep_runs_days))
        if aborted:
            _log.warning("earlier_run_aborted", ecs=aborted)
        if ahead:
            _log.error("clock_was_ahead", error=f"{ahead} rows of the ledger of runs")
        return run.walk(id_pas)


def _check_clock(engine: store.Engine) -> None:
    """Raises `ClockError` where this machine's clock is not the database's: it would be written into watermarks."""
    with store.transaction(engine, readonly=True) as connection:
        now, theirs = datetime.now(UTC), store.clock(connection)
    if theirs is not None and abs(now - theirs) > store.CLOCK_TOLERANCE:
        raise ClockError(
            f"nothing was done: this machine's clock says {now:%Y-%m-%d %H:%M} UTC, and the database's "
            f"{theirs:%Y-%m-%d %H:%M}: correct the one that is wrong"
        )


def fetch_by_hand(
    settings: config.Settings,
    engine: store.Engine,
    id_pa: str | None,
    iuvs: Sequence[str],
    stop: threading.Event | None = None,
) -> Summary:
    """Fetches single receipts of one EC by hand, whatever is stored or waiting. Needs no lock: it walks nothing.

    `id_pa` may be left out where only one EC is configured. Raises `ConfigError` and `StoreError`.
    """
    chosen = selected(settings, (id_pa,) if id_pa else ())
    if len(chosen) > 1:
        raise ConfigError("several ECs are configured: name the receipt's EC with --ec")
    for iuv in iuvs:
        if not pagopa.usable_iuv(iuv):
            raise ConfigError("an IUV has 1 to 35 characters without blanks")
    _with_keys(settings, chosen, positions=False)
    run = _Run(settings, engine, Order(id_pas=tuple(chosen)), stop or threading.Event())
    return run.walk(chosen, iuvs=list(dict.fromkeys(iuvs)))


class _Run:
    """One run's threads: at most `workers` ECs at once, and as many receipts of all of them."""

    def __init__(self, settings: config.Settings, engine: store.Engine, order: Order, stop: threading.Event) -> None:
        self.run_id = str(uuid.uuid4())
        self.started_at = datetime.now(UTC)
        self._settings = settings
        self._engine = engine
        self._intake = Intake(engine, settings)
        self._order = order
        self._stop = stop

    def walk(self, id_pas: Sequence[str], iuvs: Sequence[str] = ()) -> Summary:
        gpd_settings = self._settings.gpd
        tallies = [Tally(id_pa, self.run_id, self.started_at) for id_pa in id_pas]
        _log.info("reconcile_started", run_id=self.run_id, ecs=len(id_pas), dry_run=self._order.dry_run)
        with (
            pagopa.Client(gpd_settings, self._stop) as client,
            ThreadPoolExecutor(gpd_settings.workers, "fetch") as receipts,
            ThreadPoolExecutor(gpd_settings.workers, "walk") as ecs,
        ):
            # The main thread waits here, where it hears signals.
            wait([ecs.submit(self._one, tally, client, receipts, iuvs) for tally in tallies])
        summary = Summary(self.run_id, self.started_at, datetime.now(UTC), self._order.dry_run, tallies)
        outcomes = [tally.outcome for tally in tallies]
        _log.info(
            "reconcile_finished",
            run_id=self.run_id,
            duration_s=round((summary.finished_at - self.started_at).total_seconds(), 1),
            **{outcome: outcomes.count(outcome) for outcome in ("done", "failed", "stopped")},
            **{f"receipts_{name}": number for name, number in summary.total.items()},
        )
        return summary

    def _one(self, tally: Tally, client: pagopa.Client, receipts: ThreadPoolExecutor, iuvs: Sequence[str]) -> None:
        """One EC, in a thread: whatever goes wrong is its own."""
        tally.started_at = datetime.now(UTC)
        try:
            self._walk(tally, client, receipts, iuvs)
            tally.outcome = "done"
        except StoppedError as error:
            tally.outcome = "stopped"
            tally.say(str(error))
        except StationError as error:
            tally.outcome = "failed"
            tally.say(str(error))
        except Exception as error:
            _log.error("unexpected_error", id_pa=tally.id_pa, exc_info=error)
            tally.outcome = "failed"
            tally.say(f"unexpected {type(error).__name__}: see the log")
        tally.finished_at = datetime.now(UTC)
        self._order.show(tally)
        say = _log.error if tally.outcome == "failed" else _log.info
        say(f"ec_{'walked' if tally.outcome == 'done' else tally.outcome}", id_pa=tally.id_pa, run_id=self.run_id,
            kind=tally.kind, error=tally.error, requests=tally.requests, duration_s=round(tally.duration_s, 1),
            window=f"{tally.window_from}/{tally.window_to}" if tally.window_from else None,
            **{name: getattr(tally, name) for name in (*COUNTS, "missing", "positions")})  # fmt: skip
        if not self._order.dry_run:
            try:
                retrying(lambda: self._write(tally))
            except StoreError as error:
                _log.error("ledger_not_written", id_pa=tally.id_pa, reason=str(error))
                tally.outcome = "failed"
                tally.say(f"the ledger could not be written: {error}")

    def _write(self, tally: Tally) -> None:
        with store.transaction(self._engine) as connection:
            store.runs.write_run(connection, tally.row())

    def _walk(self, tally: Tally, client: pagopa.Client, receipts: ThreadPoolExecutor, iuvs: Sequence[str]) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped by a signal before this EC's turn; the next run continues")
        key = self._settings.gpd_key(tally.id_pa)
        positions_key = self._settings.gpd_key(tally.id_pa, "gpd_positions_key")
        if key is None:
            raise GpdKeyError(
                "no key for the GPD receipts API is configured for this EC (gpd_key, or reconcile = false)"
            )
        order = self._order
        fetcher = Fetcher(
            settings=self._settings.gpd,
            engine=self._engine,
            intake=self._intake,
            client=pagopa.EcClient(client, tally.id_pa, key, positions_key),
            tally=tally,
            pool=receipts,
            stop=self._stop,
        )
        walk = Walk(fetcher, order.show, order.missing if order.dry_run else None)
        try:
            if iuvs:
                walk.fetch(iuvs)
            elif order.first is not None:
                walk.walk_range(order.first, order.last or italian_day(self.started_at), positions=order.positions)
            else:
                walk.walk(positions=order.positions)
        finally:
            walk.end()
