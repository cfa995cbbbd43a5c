"""The walk over one EC's flows: list what was published since the watermark, then read and store each flow.

The server lists at most the last month. Its list is in the order of flow dates and names, so flows that are published
meanwhile shift the pages, and it is read from its first page again where it became shorter. What is listed is written
down before the first flow is read: a run that ends early goes on where it was.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from station import config, log, pagopa, store
from station.clock import months_before, shown
from station.errors import (
    ApiAddressError,
    ApiAnswerError,
    ApiError,
    ApiKeyError,
    ApiUnavailableError,
    StoppedError,
    UnreadError,
)
from station.pagopa.fdr import EURO_MAX, PAYMENTS_MAX, Flow, FlowKey, FlowPayment, ListedFlow
from station.reconcile.fdr_ec_run import FdrEcRun
from station.retry import read, write
from station.store import flows
from station.text import counted

_log = log.get(__name__)

_DAY_S = 86_400.0
_READINGS_MAX = 3  # of a list that becomes shorter while it is read
_UNAVAILABLE_MAX = 3  # flows in a row for which the API is not available: it is down, and the next run goes on
_ERRORS_SHOWN = 3
_PAGES_MIN = 100  # so many pages a flow may have in any case, and one more for each hundred of its payments
_BATCH = 100
_LEDGER_INTERVAL_S = 5.0
# The server's "one month" is not told to the day; an hour for clocks that differ.
_MONTH = timedelta(days=30)
_MARGIN = timedelta(hours=1)


def horizon(now: datetime) -> datetime:
    """Return the earliest time of publication that the server lists."""
    return max(months_before(now, 1), now - _MONTH) + _MARGIN


@dataclass
class FdrWalk:
    """One EC's walk; it raises what ended it early. `show` is called when the counts have changed.

    `missing` makes it a dry run, which calls it for each flow that is not here, and reads and writes nothing else.
    """

    settings: config.Fdr
    engine: store.Engine
    client: pagopa.FdrClient
    ec_run: FdrEcRun
    stopped: Callable[[], bool]
    show: Callable[[FdrEcRun], None]
    missing: Callable[[str, ListedFlow], None] | None = None
    _ledger_at: float = field(default=0.0, init=False)
    _errors: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.id_pa = self.ec_run.id_pa

    def walk(self) -> None:
        """List the flows, then read those that are not here. Raise `StationError`."""
        now = self.ec_run.started_at
        self._write(flows.write_run, self.ec_run.row())
        since, published_after = self._bounds(now)
        unreadable = self._list(since, published_after)
        if not unreadable:
            self._write(flows.set_watermark, self.id_pa, now)
        if self.missing is None:
            self._read_due(datetime.now(UTC))
        if unreadable:
            raise UnreadError(
                f"{counted(len(unreadable), 'row')} of the list cannot be used, so it is listed again from the same "
                f"time: {'; '.join(unreadable[:_ERRORS_SHOWN])}"
            )
        self._write(flows.set_walked, self.id_pa, datetime.now(UTC))

    def _bounds(self, now: datetime) -> tuple[datetime, datetime | None]:
        """Return from when on flows are listed, and the watermark. Report a gap and a clock that was ahead."""
        if self.missing is None and write(self.engine, flows.correct_times, self.id_pa, now):
            self.ec_run.add_error("a clock was ahead: it was last walked in the future, so it is walked a month back")
            _log.error("clock_was_ahead", id_pa=self.id_pa)
        progress = read(self.engine, flows.progress, self.id_pa)
        first = horizon(now)
        watermark = progress.watermark if progress is not None else None
        if watermark is not None and watermark < first:
            self._write(flows.note_gap, self.id_pa, watermark, first)
            _log.error("fdr_gap", id_pa=self.id_pa, gap_from=watermark.isoformat(), gap_to=first.isoformat())
        if gaps := read(self.engine, flows.open_gaps, [self.id_pa]):
            self.ec_run.gap = True
            self.ec_run.add_error(
                f"flows published from {shown(gaps[0].gap_from)} to {shown(gaps[0].gap_to)} (Italy) were never listed, "
                "and the server lists a month at most: ask pagoPA or the PSPs for them, then run "
                f"`station fdr acknowledge --ec {self.id_pa}`"
            )
        # An EC of which no flow was ever listed: a connection closed by chance looks like "nothing found", and would
        # otherwise leave out the first month.
        if watermark is None or not read(self.engine, flows.any_listed, self.id_pa):
            return first, None
        return max(watermark - timedelta(days=self.settings.overlap_days), first), watermark

    # --- the list -----------------------------------------------------------------------------------------------------

    def _list(self, since: datetime, watermark: datetime | None) -> list[str]:
        """Write down all flows published since a time. Return in words the rows of the list that cannot be used."""
        for _ in range(_READINGS_MAX):
            listed, unreadable, shrunk = self._read_list(since)
            if not shrunk:
                break
        else:
            raise UnreadError(f"the list of flows became shorter while it was read, {_READINGS_MAX} times in a row")
        dated_after = horizon(self.ec_run.started_at) + _MARGIN
        if not listed and read(self.engine, flows.is_expected, self.id_pa, since, dated_after):
            raise UnreadError(
                "the API lists no flow, though some are here that it must list: check fdr.url, and try again"
            )
        self.ec_run.listed = len(listed)
        for start in range(0, len(listed), _BATCH):
            self._write_listed(listed[start : start + _BATCH])
        return unreadable

    def _read_list(self, since: datetime) -> tuple[list[ListedFlow], list[str], bool]:
        """Return the flows, the rows that cannot be used, and whether the list became shorter meanwhile."""
        listed: dict[FlowKey, ListedFlow] = {}
        unreadable: list[str] = []
        number, pages = 0, 1
        while number < pages:
            self._check()
            number += 1
            page = self.client.flows(since, number)
            if page is None:
                return list(listed.values()), unreadable, number > 1
            if page.pages < pages and number > 1:
                return [], [], True
            pages = page.pages
            listed |= {flow.key: flow for flow in page.flows}
            unreadable += page.unreadable
            self._progress()
        return list(listed.values()), unreadable, False

    def _write_listed(self, listed: Sequence[ListedFlow]) -> None:
        keys = {(flow.key.fdr, flow.key.psp_id, flow.key.revision): flow for flow in listed}
        known = read(self.engine, flows.known_flows, self.id_pa, list(keys))
        new = [flow for key, flow in keys.items() if key not in known]
        if self.missing is not None:
            for flow in new:
                self.ec_run.new += 1
                self.missing(self.id_pa, flow)
            return
        rows = [
            {
                "id_pa": self.id_pa,
                **asdict(flow.key),
                "published": flow.published,
                "flow_date": flow.flow_date,
                "listed_at": self.ec_run.started_at,
            }
            for flow in new
        ]
        self._write(flows.list_new, rows)

    # --- flows --------------------------------------------------------------------------------------------------------

    def _read_due(self, now: datetime) -> None:
        """Read the flows that are due: what was listed just now, by an earlier run, or could not be read before."""
        self.ec_run.due = read(self.engine, flows.count_due, self.id_pa, now)
        unavailable = 0  # flows in a row
        latest: dict[tuple[str, str], int] = {}  # revisions that were read: earlier ones are not any more
        after: tuple[int, str, str, int] | None = flows.FIRST_PLACE
        while after is not None:
            due = read(self.engine, flows.due_flows, self.id_pa, now, after=after, limit=_BATCH)
            for row in due:
                if row.revision < latest.get((row.fdr, row.psp_id), 0):
                    continue
                self._check()
                try:
                    self._read_flow(FlowKey(row.fdr, row.psp_id, row.revision))
                    latest[row.fdr, row.psp_id] = row.revision
                    unavailable = 0
                except ApiError as error:
                    self._fail(row, error)
                    down = isinstance(error, ApiUnavailableError | ApiKeyError | ApiAddressError)
                    unavailable = unavailable + 1 if down else 0
                    if unavailable >= _UNAVAILABLE_MAX:
                        raise
                self.ec_run.done += 1
                self._progress()
            after = (due[-1].attempts, due[-1].fdr, due[-1].psp_id, due[-1].revision) if len(due) == _BATCH else None
        if self.ec_run.failed:
            self.ec_run.add_error(f"{counted(self.ec_run.failed, 'flow')} could not be read: {'; '.join(self._errors)}")

    def _read_flow(self, key: FlowKey) -> None:
        """Read one flow with its payments, and store it in one transaction. Raise `ApiError`."""
        flow = self.client.flow(key)
        payments = self._read_payments(flow)
        total = sum((payment.amount for payment in payments), Decimal())
        if total >= EURO_MAX:
            raise ApiAnswerError("its payments sum up to more than ten billion euro")
        row = {name: getattr(flow, name) for name in Flow.__slots__ if name != "key"}
        row["fetched_at"] = datetime.now(UTC)
        rows = [asdict(payment) for payment in payments]
        earlier = write(self.engine, flows.store_flow, {"id_pa": self.id_pa, **asdict(key)}, row, rows)
        if earlier is None:
            return
        self.ec_run.revised += earlier
        self.ec_run.new += not earlier
        self.ec_run.payments += len(payments)
        if any(declared not in (None, total) for declared in (flow.sum_payments, flow.computed_sum_payments)):
            _log.warning("flow_sum_differs", id_pa=self.id_pa, flow=str(key), payments=str(total),
                         declared=str(flow.sum_payments), computed=str(flow.computed_sum_payments))  # fmt: skip

    def _read_payments(self, flow: Flow) -> list[FlowPayment]:
        """Return a flow's payments: as many as FdR counted, or the pages shifted while they were read."""
        expected = flow.computed_tot_payments if flow.computed_tot_payments is not None else flow.tot_payments
        if expected is not None and expected > PAYMENTS_MAX:
            raise ApiAnswerError(f"it has {counted(expected, 'payment')}: more than {PAYMENTS_MAX:,} cannot be read")
        payments: dict[int, FlowPayment] = {}
        number, pages = 0, 1
        while number < pages:
            self._check()
            number += 1
            page = self.client.payments(flow.key, number)
            pages = page.pages
            if expected is not None and pages > _PAGES_MIN + expected // _PAGES_MIN:
                raise ApiAnswerError(f"it has {counted(expected, 'payment')}, in {pages:,} pages")
            before = len(payments)
            payments |= {payment.position: payment for payment in page.payments}
            # A page brings new payments, so a list that never ends does not go beyond its payments.
            if len(payments) == before and (number < pages or page.payments):
                raise ApiAnswerError(f"page {number} of {pages} of its payments has none that are new")
            if len(payments) > (PAYMENTS_MAX if expected is None else expected):
                break
        if len(payments) != expected and (expected is not None or len(payments) > PAYMENTS_MAX):
            raise ApiAnswerError(f"it has {counted(expected or 0, 'payment')}, and {len(payments):,} are listed")
        return list(payments.values())

    def _fail(self, row: Any, error: ApiError) -> None:
        self.ec_run.failed += 1
        key = FlowKey(row.fdr, row.psp_id, row.revision)
        if len(self._errors) < _ERRORS_SHOWN:
            self._errors.append(f"{key}: {error}")
        _log.error("flow_unread", id_pa=self.id_pa, flow=str(key), error=error.code, reason=str(error))
        now = datetime.now(UTC)
        pause = min(self.settings.again_after * 2 ** min(row.attempts, 20), _DAY_S)
        given_up = now - row.listed_at > timedelta(days=self.settings.give_up_days)
        self._write(
            flows.fail_flow,
            {"id_pa": self.id_pa, **asdict(key)},
            str(error),
            attempts=row.attempts + 1,
            next_attempt_at=flows.NEVER if given_up else now + timedelta(seconds=pause),
        )

    # --- ledger -------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self.stopped():
            raise StoppedError("stopped by a signal; the next run continues")

    def _write(self, work: Callable[..., object], *args: object, **named: object) -> None:
        """Run `work` in a transaction; not in a dry run."""
        if self.missing is None:
            write(self.engine, work, *args, **named)

    def _progress(self) -> None:
        self.ec_run.requests = self.client.calls
        self.show(self.ec_run)
        if time.monotonic() - self._ledger_at > _LEDGER_INTERVAL_S:
            self._write(flows.write_run, self.ec_run.row())
            self._ledger_at = time.monotonic()
