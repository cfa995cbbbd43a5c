"""Metrics, in the form that Prometheus reads. The only user of prometheus_client.

Events are counted in files that all worker processes of a server share; the worker that is asked adds them up. The
state of the database (open refused requests, last push, last reconciliation) is read from the database, since commands
change it too. `deploy/` relies on names and labels. Every label is bounded: an EC that is not configured is `other`,
and values that senders choose freely are no labels.

Counting must cost a push no more than some microseconds, and must never make it fail.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from station import __version__, log, store
from station.config import Settings
from station.errors import RefusalError, StoreError
from station.http import certificate
from station.receipt import Flag
from station.store import credited, flows
from station.store.deliveries import counts
from station.store.delivery_list import OPEN_COUNTED, figures
from station.store.outgoing import last_number
from station.store.outgoing import waiting as outbox

_log = log.get(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# The service level asks for 98 % of the answers within 2 s; the Nodo waits 15 s.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0)
_PUSHES = ("paSendRTV2", "paSendRT")
_OTHER = "other"
_RESULTS = ("delivered", "refused", "unreachable")  # of attempts to deliver: counters start at 0
_QUERY_TIMEOUT_S = 3.0  # Prometheus waits 10 s by default
_GAUGES_MAX_AGE_S = 15.0  # scrapes within this time share one query of the database


class Metrics:
    """The counters of one worker process, and the text with those of all of them."""

    def __init__(self, settings: Settings, engine: store.Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._gauges = _Gauges(settings, engine)
        self._failure_logged = False
        self._own = own = CollectorRegistry()
        own.register(self._gauges)
        self._requests = Counter(
            "station_requests", "SOAP requests by result.", ("operation", "ec", "result"), registry=own
        )
        self._seconds = Histogram(
            "station_push_seconds",
            "Time from a complete request to its answer, for the operations that carry receipts.",
            ("operation",),
            buckets=_SECONDS,
            registry=own,
        )
        self._faults = Counter("station_faults", "Answers with outcome KO.", ("fault_code",), registry=own)
        self._flags = Counter("station_flags", "Oddities of the receipts that were stored.", ("flag",), registry=own)
        self._store_errors = Counter(
            "station_store_errors", "Receipts that could not be stored when they arrived.", ("reason",), registry=own
        )
        self._answers = Counter("station_http_answers", "Answers by HTTP status.", ("status",), registry=own)
        self._turned_away = Counter(
            "station_turned_away", "Requests answered 503: too many waited or held too much memory.", registry=own
        )
        self._pending = Gauge(
            "station_requests_pending", "Requests in progress or waiting.",
            multiprocess_mode="livesum", registry=own,
        )  # fmt: skip
        self._in_use = Gauge(
            "station_database_connections_in_use", "Database connections in use.",
            multiprocess_mode="livesum", registry=own,
        )  # fmt: skip
        self._most = Gauge(
            "station_database_connections_max", "Database connections that the pools allow.",
            multiprocess_mode="livesum", registry=own,
        )  # fmt: skip
        self._batches = Histogram(
            "station_batch_size", "Receipts and refusals committed in one transaction (group commit).",
            buckets=(1, 2, 4, 8, 16), registry=own,
        )  # fmt: skip
        store.on_batch(engine, self._batch)
        # For every push: prometheus_client takes longer to look a label up than to count.
        self._requests_by = cache(self._requests.labels)
        self._seconds_by = cache(self._seconds.labels)
        self._answers_by = cache(self._answers.labels)
        # Counters start at 0: one that appears with its first event shows no increase, and raises no alarm.
        for operation in _PUSHES:
            self._seconds.labels(operation)
        refusals: list[type[RefusalError]] = [RefusalError, *RefusalError.__subclasses__()]
        for refusal in refusals:
            self._faults.labels(refusal.fault_code)
        for flag in Flag:
            self._flags.labels(flag)
        self._store_errors.labels("unconfirmed")
        for status in (200, 500, 503):
            self._answers.labels(status)

    def answered(self, log_context: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count one answer. `log_context` holds the fields of its log line. Never raises: the answer is sent anyway."""
        operation, result = log_context.get("operation"), log_context.get("result")
        try:
            self._answers_by(status).inc()
            if operation is None or result is None:
                return
            id_pa = log_context.get("id_pa")
            self._requests_by(operation, id_pa if id_pa in self._settings.ecs else _OTHER, result).inc()
            if operation in _PUSHES:
                self._seconds_by(operation).observe(seconds)
            if fault_code := log_context.get("fault_code"):
                self._faults.labels(fault_code).inc()
            if result == "stored":
                for flag in log_context.get("flags", ()):
                    self._flags.labels(flag).inc()
            elif result == "store_error":
                self._store_errors.labels(_kind(log_context.get("reason", ""))).inc()
        except (OSError, ValueError) as error:
            self._not_counted(error)

    def _batch(self, size: int) -> None:
        try:
            self._batches.observe(size)
        except (OSError, ValueError) as error:
            self._not_counted(error)

    def _not_counted(self, error: Exception) -> None:
        """Say once that the files cannot grow."""
        if not self._failure_logged:
            self._failure_logged = True
            _log.error("metrics_not_counted", reason=type(error).__name__)

    def turned_away(self, number: int) -> None:
        """Count requests that were answered 503 before the application saw them (load shedding)."""
        self._turned_away.inc(number)
        self._answers.labels(503).inc(number)

    def sample(self, pending: int) -> None:
        """Set the gauges of this worker; called once a second."""
        self._pending.set(pending)
        in_use, most = store.pool_use(self._engine)
        self._in_use.set(in_use)
        self._most.set(most)

    def text(self) -> str:
        """Return all metrics of all worker processes."""
        shared = CollectorRegistry()
        try:
            multiprocess.MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        except ValueError:  # not under `station serve`, which names the folder of the shared files
            return generate_latest(self._own).decode()
        shared.register(self._gauges)
        return generate_latest(shared).decode()


def forget(pid: int) -> None:
    """Remove the gauges of a worker process that has ended. Its counters stay."""
    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _kind(reason: str) -> str:
    """Return the class of a store error without the code that follows it."""
    first = reason.partition(" ")[0]
    return first if first.endswith("Error") else reason


class _Gauges(Collector):
    """The gauges that are read when Prometheus asks: from the database, and from the certificates' files.

    The lock is held while the database is asked, so that scrapes share one query. It is made after gevent's patch, and
    lets other greenlets run.
    """

    def __init__(self, settings: Settings, engine: store.Engine) -> None:
        self._settings = settings
        self._engine = engine
        self._lock = threading.Lock()
        self._read_at = -_GAUGES_MAX_AGE_S
        self._families: list[Metric] = []

    def label(self, id_pa: str | None) -> str:
        """Return the EC as a label."""
        return id_pa if id_pa in self._settings.ecs else _OTHER

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges, at most `_GAUGES_MAX_AGE_S` old."""
        with self._lock:
            if time.monotonic() - self._read_at >= _GAUGES_MAX_AGE_S:
                version = _gauge("station_build_info", "The station's version.", ("version",), {(__version__,): 1})
                self._families = [version, *self._certificates(), *self._database()]
                self._read_at = time.monotonic()
            yield from self._families

    def _certificates(self) -> Iterator[Metric]:
        ends: dict[tuple[str, ...], float] = {}
        for name in ("certificate", "client_ca"):
            file: Path | None = getattr(self._settings.tls, name)
            if file is not None and (end := certificate.first_end(file)):
                ends[(name,)] = end.timestamp()
        yield _gauge(
            "station_certificate_end_timestamp_seconds",
            "When the first certificate in a file of [tls] expires.",
            ("file",),
            ends,
        )

    def _database(self) -> Iterator[Metric]:
        try:
            until = time.monotonic() + _QUERY_TIMEOUT_S
            with store.transaction(self._engine, readonly=True, until=until) as connection:
                families = list(self._query(connection))
        except StoreError as error:
            _log.warning("metrics_incomplete", reason=error.reason)
            families = []
        yield _gauge("station_database_up", "Whether the database responded.", (), {(): 1 if families else 0})
        yield from families

    def _query(self, connection: store.Connection) -> Iterator[Metric]:
        ecs = self._settings.ecs
        now = datetime.now(UTC)
        yield _gauge(
            "station_refused_open",
            f"Refused requests that are still open (counted up to {store.OPEN_COUNTED}).",
            ("fault_code",),
            {(code,): number for code, number in store.open_by_fault(connection).items()},
        )
        yield _gauge(
            "station_last_push_timestamp_seconds",
            "When the last new receipt arrived by push; 0: never.",
            ("ec",),
            {
                (id_pa or _OTHER,): _stamp(at)
                for id_pa, at in store.last_pushes(connection, list(ecs) or None, now).items()
            },
        )
        # A time in the future comes from a wrong clock, and would hide a late reconciliation until then.
        walked = {
            id_pa: row.walked_at
            for id_pa, row in store.runs.watermarks(connection).items()
            if id_pa in ecs and row.walked_at <= now + store.CLOCK_TOLERANCE
        }
        yield _gauge(
            "station_reconcile_walked_timestamp_seconds",
            "When the last complete check by station reconcile ended; 0: never.",
            ("ec",),
            {(id_pa,): _stamp(walked.get(id_pa)) for id_pa, ec in ecs.items() if ec.reconcile},
        )
        items: dict[tuple[str, ...], float] = {}
        for row in store.runs.count_items(connection, None):
            key = (self.label(row.id_pa), row.state)
            items[key] = items.get(key, 0) + row.number
        yield _gauge(
            "station_reconcile_items",
            "Receipts that are known to exist but are not stored.",
            ("ec", "state"),
            items,
        )
        yield from self._fdr(connection, now)
        fetched: dict[tuple[str, ...], float] = {}
        for id_pa, number in store.fetched_between(connection, now - timedelta(days=1), now).items():
            fetched[(self.label(id_pa),)] = fetched.get((self.label(id_pa),), 0) + number
        yield _gauge(
            "station_reconcile_fetched_last_day",
            "Receipts of the last 24 hours that only reconcile found.",
            ("ec",),
            dict.fromkeys(((id_pa,) for id_pa in ecs), 0) | fetched,
        )
        if self._settings.destination:
            yield from self._deliveries(connection, now)

    def _deliveries(self, connection: store.Connection, now: datetime) -> Iterator[Metric]:
        """Yield how far the destinations are. A destination that is not configured any more has no metrics."""
        configured = self._settings.destinations
        rows = {name: row for name, row in figures(connection).items() if name in configured}

        def each(name: str, text: str, value: Callable[[Any], float], *kinds: str) -> GaugeMetricFamily:
            told: dict[tuple[str, ...], float] = {
                (one,): value(row) for one, row in rows.items() if not kinds or configured[one].kind in kinds
            }
            return _gauge(name, text, ("destination",), told)

        yield _gauge(
            "station_destination_served",
            "Whether a configured destination was ever served, or its reader ever asked.",
            ("destination",),
            {(name,): name in rows for name in configured},
        )
        yield each("station_destination_paused", "Whether a destination is paused.", lambda row: row.state == "paused")
        yield each(
            "station_destination_success_timestamp_seconds",
            "When something was last delivered, a file completed or the feed read; 0: never.",
            lambda row: _stamp(row.last_success_at),
        )
        yield each(
            "station_deliveries_open",
            f"Deliveries by webhook that are to be sent (counted up to {OPEN_COUNTED}).",
            lambda row: row.open,
            "webhook",
        )
        yield each(
            "station_deliveries_failed",
            f"Deliveries by webhook that were given up (counted up to {OPEN_COUNTED}).",
            lambda row: row.failed,
            "webhook",
        )
        yield each(
            "station_delivery_oldest_open_seconds",
            "For how long a webhook has had something to be sent, or a folder a file to be completed; 0: none.",
            lambda row: _age(
                row.file_open_at
                if row.kind == "folder"
                else min((at for at in (row.open_at, row.behind_at) if at), default=None),
                now,
            ),
            "webhook",
            "folder",
        )
        last = last_number(connection)
        yield each(
            "station_destination_behind_numbers",
            "Numbers behind its position, whether or not it chooses them.",
            lambda row: max(0, last - row.position),
        )
        yield each(
            "station_feed_lag_seconds",
            "How long ago the first number was given that the reader has not asked behind; 0: none.",
            lambda row: _age(row.behind_at, now),
            "feed",
        )
        yield each(
            "station_folder_file_timestamp_seconds",
            "When a folder's last completed file was planned; without one, since when it is served.",
            lambda row: _stamp(row.file_done_at or row.first_at),
            "folder",
        )
        attempts = CounterMetricFamily(
            "station_delivery_attempts",
            "Attempts since the destination exists.",
            labels=("destination", "result"),
        )
        counted = counts(connection)
        for name in configured:
            known = dict.fromkeys(_RESULTS, 0) if configured[name].kind != "feed" else {}
            for result, number in (known | {of: n for (one, of), n in counted.items() if one == name}).items():
                attempts.add_metric((name, result), number)
        yield attempts
        waiting, oldest = outbox(connection)
        yield _gauge("station_outbox_rows", "Stored receipts without a number yet.", (), {(): waiting})
        yield _gauge(
            "station_outbox_oldest_seconds",
            "For how long the oldest of them waits; 0: none.",
            (),
            {(): _age(oldest, now)},
        )

    def _fdr(self, connection: store.Connection, now: datetime) -> Iterator[Metric]:
        """Yield the state of the walk over flows, of the ECs that are to be walked and have a key."""
        walked = [ec.id for ec in self._settings.ec if ec.fdr and self._settings.api_key(ec.id, "fdr_key")]
        progress = flows.all_progress(connection) if walked else {}
        ends = {
            id_pa: row.walked_at
            for id_pa, row in progress.items()
            if row.walked_at is not None and row.walked_at <= now + store.CLOCK_TOLERANCE
        }
        yield _gauge(
            "station_fdr_walked_timestamp_seconds",
            "When the last complete walk by station fdr ended; 0: never.",
            ("ec",),
            {(id_pa,): _stamp(ends.get(id_pa)) for id_pa in walked},
        )
        gaps = {row.id_pa for row in flows.open_gaps(connection, walked)} if walked else set()
        yield _gauge(
            "station_fdr_gap",
            "Whether flows were never listed, and the gap waits for station fdr acknowledge.",
            ("ec",),
            {(id_pa,): id_pa in gaps for id_pa in walked},
        )
        unread = flows.count_unread(connection) if walked else {}
        yield _gauge(
            "station_fdr_flows_unread",
            "Flows that are listed and could not be read so far.",
            ("ec",),
            {(id_pa,): unread.get(id_pa, 0) for id_pa in walked},
        )
        missing = {one.id_pa: one for one in credited.missing_totals(connection)} if walked else {}
        totals = {id_pa: missing.get(id_pa, credited.MissingTotal(id_pa, 0, Decimal(0), None)) for id_pa in walked}
        yield _gauge(
            "station_fdr_missing",
            "Payments that were credited and have no receipt.",
            ("ec",),
            {(id_pa,): one.number for id_pa, one in totals.items()},
        )
        yield _gauge(
            "station_fdr_missing_euro",
            "What was credited without a receipt, in euro.",
            ("ec",),
            {(id_pa,): float(one.amount) for id_pa, one in totals.items()},
        )
        yield _gauge(
            "station_fdr_missing_oldest_timestamp_seconds",
            "When the oldest payment was made that was credited and has no receipt; absent: there is none.",
            ("ec",),
            {(id_pa,): _stamp(one.oldest) for id_pa, one in totals.items() if one.number},
        )


def _stamp(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0


def _age(moment: datetime | None, now: datetime) -> float:
    return max(0.0, (now - moment).total_seconds()) if moment else 0


def _gauge(name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
