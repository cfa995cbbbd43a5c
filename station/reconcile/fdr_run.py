"""All ECs of one run of `station fdr`: the lock, the threads, the ledger's last row, the summary, and the status."""

import re
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from station import config, log, pagopa, store
from station.errors import AnotherRunError, ApiKeyError, ClockError, ConfigError, StationError, StoppedError, StoreError
from station.intake import Intake
from station.pagopa.fdr import ListedFlow
from station.reconcile.fdr_ec_run import FDR_COUNTS, MATCH_COUNTS, FdrEcRun
from station.reconcile.fdr_fetch import MissingFetch
from station.reconcile.fdr_walk import FdrWalk
from station.retry import read, write
from station.store import flows
from station.store.run_lock import only_run
from station.text import printable

_log = log.get(__name__)

# Named as the environment variables are, for the message below.
_NO_KEY = (
    "no key for the FdR API: set fdr.key (STATION_FDR_KEY, or STATION_FDR_KEY_FILE with a file that holds it), or "
    "fdr_key of a [[broker]] or an [[ec]]"
)


def _ignore(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class FdrOrder:
    """What a run is to do: all ECs or some, or only show which flows are new.

    `show` is called, by several threads, when an EC's counts have changed; `missing` for each flow that a dry run
    finds.
    """

    id_pas: tuple[str, ...] = ()
    dry_run: bool = False
    show: Callable[[FdrEcRun], None] = _ignore
    missing: Callable[[str, ListedFlow], None] = _ignore


@dataclass(frozen=True, slots=True)
class FdrSummary:
    """The result of a run."""

    run_id: str
    started_at: datetime
    finished_at: datetime
    dry_run: bool
    ec_runs: Sequence[FdrEcRun]

    @property
    def total(self) -> dict[str, int]:
        """The counts of all ECs together."""
        return {
            name: sum(getattr(ec_run, name) for ec_run in self.ec_runs)
            for name in (*FDR_COUNTS, *MATCH_COUNTS, "requests")
        }

    @property
    def complete(self) -> bool:
        """Whether every EC was walked completely, without a flow that failed or a gap to acknowledge."""
        return all(ec_run.outcome == "done" and not ec_run.failed and not ec_run.gap for ec_run in self.ec_runs)


def walked_ecs(settings: config.Settings, id_pas: Sequence[str]) -> list[str]:
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
    chosen = [ec.id for ec in settings.ec if (ec.id in id_pas if id_pas else ec.fdr)]
    if not chosen:
        raise ConfigError("every [[ec]] has fdr = false: there is nothing to walk")
    return chosen


def walk_flows(
    settings: config.Settings, engine: store.Engine, order: FdrOrder, stop: threading.Event | None = None
) -> FdrSummary:
    """Walk the ECs' flows and match their payments. Setting `stop` ends it after the calls in flight.

    Raise `ConfigError`, `StoreError`, `ClockError`, and `AnotherRunError` if another run holds the lock; a dry run
    needs no lock. Errors of single ECs and flows are in the summary.
    """
    id_pas = walked_ecs(settings, order.id_pas)
    if not any(settings.api_key(id_pa, "fdr_key") for id_pa in id_pas):
        raise ConfigError(_NO_KEY)
    # A wrong time would be written into watermarks.
    if problem := read(engine, store.clock_problem, datetime.now(UTC)):
        raise ClockError(f"nothing was done: {problem}: correct the one that is wrong")
    run = _FdrRun(settings, engine, order, stop or threading.Event())
    if order.dry_run:
        return run.walk(id_pas)
    with only_run(engine, "fdr") as held:
        if not held:
            raise AnotherRunError("fdr")
        with store.transaction(engine) as connection:
            aborted = flows.abort_runs(connection)
            flows.forget_runs(connection, run.started_at - timedelta(days=settings.fdr.keep_runs_days))
        if aborted:
            _log.warning("earlier_run_aborted", ecs=aborted)
        return run.walk(id_pas)


class _FdrRun:
    """One run's threads: at most `workers` ECs at once."""

    def __init__(self, settings: config.Settings, engine: store.Engine, order: FdrOrder, stop: threading.Event) -> None:
        self.run_id = str(uuid.uuid4())
        self.started_at = datetime.now(UTC)
        self._settings = settings
        self._engine = engine
        self._intake = Intake(engine, settings)
        self._order = order
        self._stop = stop

    def walk(self, id_pas: Sequence[str]) -> FdrSummary:
        workers = self._settings.fdr.workers
        ec_runs = [FdrEcRun(id_pa, self.run_id, self.started_at) for id_pa in id_pas]
        _log.info("fdr_started", run_id=self.run_id, ecs=len(id_pas), dry_run=self._order.dry_run)
        with (
            pagopa.ApiClient(self._settings.fdr, self._stop, connections=workers) as client,
            ThreadPoolExecutor(workers, "fdr") as ecs,
        ):
            # The main thread waits here, where it hears signals.
            wait([ecs.submit(self._run_ec, ec_run, client) for ec_run in ec_runs])
        # All are walked first: BizEvents is called so rarely that the others would wait for hours.
        if not self._order.dry_run:
            gpd, biz_events = self._settings.gpd, self._settings.biz_events
            with (
                pagopa.ApiClient(gpd, self._stop, connections=2 * gpd.workers) as gpd_client,
                pagopa.ApiClient(biz_events, self._stop, connections=workers) as biz_client,
                ThreadPoolExecutor(gpd.workers, "fetch") as receipts,
                ThreadPoolExecutor(workers, "fdr") as ecs,
            ):
                wait([ecs.submit(self._fetch, ec_run, gpd_client, biz_client, receipts) for ec_run in ec_runs])
        summary = FdrSummary(self.run_id, self.started_at, datetime.now(UTC), self._order.dry_run, ec_runs)
        outcomes = [ec_run.outcome for ec_run in ec_runs]
        _log.info(
            "fdr_finished",
            run_id=self.run_id,
            duration_s=round((summary.finished_at - self.started_at).total_seconds(), 1),
            **{outcome: outcomes.count(outcome) for outcome in ("done", "failed", "stopped")},
            **{f"flows_{name}": number for name, number in summary.total.items()},
        )
        return summary

    def _run_ec(self, ec_run: FdrEcRun, client: pagopa.ApiClient[config.Fdr]) -> None:
        """Walk one EC, in a thread. Its errors do not reach the other ECs."""
        ec_run.started_at = datetime.now(UTC)
        try:
            self._walk_ec(ec_run, client)
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
        log_line(event, id_pa=ec_run.id_pa, run_id=self.run_id, kind="fdr", error=ec_run.error,
                 requests=ec_run.requests, duration_s=round(ec_run.duration_s, 1),
                 **{name: getattr(ec_run, name) for name in FDR_COUNTS})  # fmt: skip
        if not self._order.dry_run:
            try:
                write(self._engine, flows.write_run, ec_run.row())
            except StoreError as error:
                _log.error("ledger_not_written", id_pa=ec_run.id_pa, reason=str(error))
                ec_run.outcome = "failed"
                ec_run.add_error(f"the ledger could not be written: {error}")

    def _fetch(
        self,
        ec_run: FdrEcRun,
        gpd: pagopa.ApiClient[config.Gpd],
        biz_events: pagopa.ApiClient[config.BizEvents],
        receipts: ThreadPoolExecutor,
    ) -> None:
        """Match one EC's payments with its receipts and fetch what is missing, in a thread, however the walk ended."""
        fetch = MissingFetch(self._settings, self._engine, self._intake, ec_run.id_pa, self.run_id, self._stop)
        try:
            fetch.run(gpd, biz_events, receipts)
        except StoppedError as error:
            fetch.errors.append(str(error))
            ec_run.outcome = "stopped" if ec_run.outcome == "done" else ec_run.outcome
        except StationError as error:
            fetch.fail(str(error))
        except Exception as error:
            _log.error("unexpected_error", id_pa=ec_run.id_pa, exc_info=error)
            fetch.fail(f"unexpected {type(error).__name__}: see the log")
        errors = fetch.errors
        ec_run.fetched, ec_run.provisional, ec_run.missing = fetch.fetched, fetch.provisional, fetch.missing
        ec_run.finished_at = datetime.now(UTC)
        for told in errors:
            ec_run.add_error(told)
        if fetch.failed and ec_run.outcome == "done":
            ec_run.outcome = "failed"
        _log.info("missing_fetched", id_pa=ec_run.id_pa, run_id=self.run_id, error="; ".join(errors) or None,
                  **{name: getattr(ec_run, name) for name in MATCH_COUNTS})  # fmt: skip
        if errors:
            try:
                write(self._engine, flows.write_run, ec_run.row())
            except StoreError as error:
                _log.error("ledger_not_written", id_pa=ec_run.id_pa, reason=str(error))

    def _walk_ec(self, ec_run: FdrEcRun, client: pagopa.ApiClient[config.Fdr]) -> None:
        if self._stop.is_set():
            raise StoppedError("stopped by a signal before this EC's turn; the next run continues")
        key = self._settings.api_key(ec_run.id_pa, "fdr_key")
        if key is None:
            raise ApiKeyError("no key for the FdR API is configured for this EC (fdr_key, or fdr = false)")
        order = self._order
        ec_client = pagopa.FdrClient(client, ec_run.id_pa, key)
        missing = order.missing if order.dry_run else None
        walk = FdrWalk(
            self._settings.fdr, self._engine, ec_client, ec_run, self._stop.is_set, order.show, missing
        )  # fmt: skip
        try:
            walk.walk()
        finally:
            ec_run.requests = ec_client.calls


def acknowledge(
    settings: config.Settings, engine: store.Engine, id_pas: Sequence[str], operator: str
) -> list[tuple[str, datetime, datetime]]:
    """Acknowledge the gaps of these ECs, or of all. Return each: EC, from, to. Raise `ConfigError`, `StoreError`."""
    for id_pa in id_pas:
        if settings.ec and id_pa not in settings.ecs:
            raise ConfigError(f"EC {printable(id_pa, 60)} is not configured: add an [[ec]] with this id")
    now = datetime.now(UTC)
    with store.transaction(engine) as connection:
        gaps = [(row.id_pa, row.gap_from, row.gap_to) for row in flows.open_gaps(connection, id_pas or None)]
        for id_pa, start, end in gaps:
            flows.acknowledge_gap(connection, id_pa, now, operator)
            _log.info("fdr_gap_acknowledged", id_pa=id_pa, gap_from=start.isoformat(), gap_to=end.isoformat(),
                      operator=operator)  # fmt: skip
    return gaps
