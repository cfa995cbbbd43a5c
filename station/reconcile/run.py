"""All ECs of one run: the lock, the threads, the ledger's last row, and the summary."""

import re
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from station import config, log, pagopa, store
from station.errors import AnotherRunError, ApiKeyError, ClockError, ConfigError, StationError, StoppedError, StoreError
from station.intake import Intake
from station.reconcile.ec_run import COUNTS, EcRun
from station.reconcile.fetch import Fetcher
from station.reconcile.walk import Missing, Walk
from station.reconcile.windows import italian_day
from station.retry import read, write
from station.store.run_lock import only_run
from station.text import printable

_log = log.get(__name__)


def _ignore(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is to do: all ECs or some, from the watermark on or given days, with the second opinion or without.

    With `iuvs` it fetches only these receipts of one EC, whether they are here or due or not; the EC may be left out
    where only one is configured. `show` is called, by several threads, when an EC's counts have changed; `missing` for
    each receipt that a dry run finds missing.
    """

    id_pas: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None
    positions: bool = False
    dry_run: bool = False
    iuvs: tuple[str, ...] = ()
    show: Callable[[EcRun], None] = _ignore
    missing: Callable[[Missing], None] = _ignore


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run."""

    run_id: str
    started_at: datetime
    finished_at: datetime
    dry_run: bool
    ec_runs: Sequence[EcRun]

    @property
    def total(self) -> dict[str, int]:
        """The counts of all ECs together."""
        names = (*COUNTS, "missing", "positions", "requests")
        return {name: sum(getattr(ec_run, name) for ec_run in self.ec_runs) for name in names}

    @property
    def complete(self) -> bool:
        """Whether every EC was walked completely and nothing failed."""
        return all(ec_run.outcome == "done" and ec_run.failed == 0 for ec_run in self.ec_runs)


def selected(settings: config.Settings, id_pas: Sequence[str]) -> list[str]:
    """Return the ECs to walk: those named, or all that are configured for it. Raise `ConfigError`."""
    if not settings.ec:
        if not id_pas:
            raise ConfigError("no [[ec]] is configured: name the ECs in the configuration, or one with --ec")
        for id_pa in id_pas:
            if not re.fullmatch(r"[0-9]{11}", id_pa):
                raise ConfigError(f"{printable(id_pa, 60)} is not an EC: that is a fiscal code of 11 digits")
        return list(dict.fromkeys(id_pas))
    for id_pa in id_pas:
        if id_pa not in settings.ecs:
            raise ConfigError(f"EC {printable(id_pa, 60)} is not configured: add an [[ec]] with this id")
    chosen = [ec.id for ec in settings.ec if (ec.id in id_pas if id_pas else ec.reconcile)]
    if not chosen:
        raise ConfigError("every [[ec]] has reconcile = false: there is nothing to check")
    return chosen


def _check_keys(settings: config.Settings, id_pas: Sequence[str], *, positions: bool) -> None:
    """Raise `ConfigError` if none of the ECs has a key that is needed."""
    if not any(settings.api_key(id_pa, "gpd_key") for id_pa in id_pas):
        raise ConfigError(
            "no key for the GPD receipts API: set gpd.key (STATION_GPD_KEY, or STATION_GPD_KEY_FILE with a file that "
            "holds it), or gpd_key of a [[broker]] or an [[ec]]"
        )
    if positions and not any(settings.api_key(id_pa, "gpd_positions_key") for id_pa in id_pas):
        raise ConfigError(
            "--positions needs a key for GPD-Core's positions, a separate subscription from that for receipts: set "
            "gpd.positions_key (STATION_GPD_POSITIONS_KEY, or STATION_GPD_POSITIONS_KEY_FILE), or gpd_positions_key "
            "of a [[broker]] or an [[ec]]"
        )


def reconcile(
    settings: config.Settings, engine: store.Engine, order: Order, stop: threading.Event | None = None
) -> Summary:
    """Walk the ECs and take in missing receipts. Setting `stop` ends it after the receipts in flight.

    Raise `ConfigError`, `StoreError`, `ClockError`, and `AnotherRunError` if another run holds the lock. A dry run and
    the fetch of single receipts need no lock: they move no watermark. Errors of single ECs and receipts are in the
    summary.
    """
    id_pas = selected(settings, order.id_pas)
    if order.iuvs and len(id_pas) > 1:
        raise ConfigError("several ECs are configured: name the receipt's EC with --ec")
    if not all(map(pagopa.usable_iuv, order.iuvs)):
        raise ConfigError("an IUV has 1 to 35 characters without blanks")
    _check_keys(settings, id_pas, positions=order.positions)
    run = _Run(settings, engine, order, stop or threading.Event())
    if order.iuvs:
        return run.walk(id_pas)
    # Wrong times would be written into watermarks.
    if problem := read(engine, store.clock_problem, datetime.now(UTC)):
        raise ClockError(f"nothing was done: {problem}: correct the one that is wrong")
    if order.dry_run:
        return run.walk(id_pas)
    with only_run(engine, "reconcile") as held:
        if not held:
            raise AnotherRunError("reconcile")
        with store.transaction(engine) as connection:
            aborted = store.runs.abort_runs(connection)
            ahead = store.runs.correct_runs(connection, run.started_at)
            store.runs.forget_runs(connection, run.started_at - timedelta(days=settings.gpd.keep_runs_days))
        if aborted:
            _log.warning("earlier_run_aborted", ecs=aborted)
        if ahead:
            _log.error("clock_was_ahead", error=f"{ahead} rows of the ledger of runs")
        return run.walk(id_pas)


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

    def walk(self, id_pas: Sequence[str]) -> Summary:
        workers = self._settings.gpd.workers
        ec_runs = [EcRun(id_pa, self.run_id, self.started_at) for id_pa in id_pas]
        _log.info("reconcile_started", run_id=self.run_id, ecs=len(id_pas), dry_run=self._order.dry_run)
        with (
            pagopa.ApiClient(self._settings.gpd, self._stop, connections=2 * workers) as client,
            ThreadPoolExecutor(workers, "fetch") as receipts,
            ThreadPoolExecutor(workers, "walk") as ecs,
        ):
            # The main thread waits here, where it hears signals.
            wait([ecs.submit(self._run_ec, ec_run, client, receipts) for ec_run in ec_runs])
        summary = Summary(self.run_id, self.started_at, datetime.now(UTC), self._order.dry_run, ec_runs)
        outcomes = [ec_run.outcome for ec_run in ec_runs]
        _log.info(
            "reconcile_finished",
            run_id=self.run_id,
            duration_s=round((summary.finished_at - self.started_at).total_seconds(), 1),
            **{outcome: outcomes.count(outcome) for outcome in ("done", "failed", "stopped")},
            **{f"receipts_{name}": number for name, number in summary.total.items()},
        )
        return summary

    def _run_ec(self, ec_run: EcRun, client: pagopa.ApiClient[config.Gpd], receipts: ThreadPoolExecutor) -> None:
        """Walk one EC, in a thread. Its errors do not reach the other ECs."""
        ec_run.started_at = datetime.now(UTC)
        try:
            self._walk_ec(ec_run, client, receipts)
            ec_run.outcome = "done"
        except StationError as error:
            ec_run.outcome = "stopped" if isinstance(error, StoppedError) else "failed"
            ec_run.add_error(str(error))
        except Exception as error:
            _log.error("unexpected_error", id_pa=ec_run.id_pa, exc_info=error)
            ec_run.outcome = "failed"
            ec_run.add_error(f"unexpected {type(error).__name__}: see the log")
        ec_run.finished_at = datetime.now(UTC)
        self._order.show(ec_run)
        log_line = _log.error if ec_run.outcome == "failed" else _log.info
        event = "ec_walked" if ec_run.outcome == "done" else f"ec_{ec_run.outcome}"
        log_line(event, id_pa=ec_run.id_pa, run_id=self.run_id, kind=ec_run.kind, error=ec_run.error,
                 requests=ec_run.requests, duration_s=round(ec_run.duration_s, 1),
                 window=f"{ec_run.window_from}/{ec_run.window_to}" if ec_run.window_from else None,
                 **{name: getattr(ec_run, name) for name in (*COUNTS, "missing", "positions")})  # fmt: skip
        if not self._order.dry_run:
            try:
                write(self._engine, store.runs.write_run, ec_run.row())
            except StoreError as error:
                _log.error("ledger_not_written", id_pa=ec_run.id_pa, reason=str(error))
                ec_run.outcome = "failed"
                ec_run.add_error(f"the ledger could not be written: {error}")

    def _walk_ec(self, ec_run: EcRun, client: pagopa.ApiClient[config.Gpd], receipts: ThreadPoolExecutor) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped by a signal before this EC's turn; the next run continues")
        key = self._settings.api_key(ec_run.id_pa, "gpd_key")
        if key is None:
            raise ApiKeyError(
                "no key for the GPD receipts API is configured for this EC (gpd_key, or reconcile = false)"
            )
        order = self._order
        positions_key = self._settings.api_key(ec_run.id_pa, "gpd_positions_key")
        ec_client = pagopa.EcClient(client, ec_run.id_pa, key, positions_key)
        fetcher = Fetcher(self._settings.gpd, self._engine, self._intake, ec_client, ec_run, receipts, self._stop)
        walk = Walk(fetcher, order.show, order.missing if order.dry_run else None)
        try:
            if order.iuvs:
                walk.fetch(list(dict.fromkeys(order.iuvs)))
            elif order.first is not None:
                walk.walk_range(order.first, order.last or italian_day(self.started_at), positions=order.positions)
            else:
                walk.walk(positions=order.positions)
        finally:
            walk.close()
