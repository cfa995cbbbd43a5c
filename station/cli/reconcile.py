"""`station reconcile`."""

import signal
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from typing import Any

import click

from station import log
from station import reconcile as use_case
from station.cli import Context, cli
from station.cli.options import Day, Number, quiet_option, wide_option
from station.cli.output import say, say_fields, say_json, table
from station.clock import shown
from station.reconcile import COUNTS, EcStatus, Missing, Order, Status, Summary, Tally
from station.text import counted, printable

_MISSING_IN_JSON = 1000


@cli.command()
@click.option(
    "--from", "first", type=Day(), help="Check payments from this day on, instead of where the last run ended."
)
@click.option("--to", "last", type=Day(), help="Check payments up to this day, with --from. Default: today.")
@click.option("--ec", "id_pas", type=Number(), multiple=True, help="Only this EC (idPA); may be repeated.")
@click.option("--iuv", "iuvs", type=Number(), multiple=True, help="Fetch only this receipt; may be repeated.")
@click.option("--positions", is_flag=True, help="Also compare with GPD-Core's paid positions (needs its own key).")
@click.option("--dry-run", is_flag=True, help="Show what is missing; fetch and change nothing.")
@click.option("--status", "show_status", is_flag=True, help="Show the last runs and what is missing; exit 1 if late.")
@click.option("--limit", type=click.IntRange(0, 1_000_000), default=50, show_default=True,
              help="With --status: number of open items to show.")  # fmt: skip
@wide_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@quiet_option
@click.pass_obj
def reconcile(
    context: Context,
    /,
    first: date | None,
    last: date | None,
    id_pas: tuple[str, ...],
    iuvs: tuple[str, ...],
    positions: bool,
    dry_run: bool,
    show_status: bool,
    limit: int,
    wide: bool,
    as_line: bool,
) -> None:
    """Fetch receipts that the push missed from the GPD receipts API.

    Run it by cron, a systemd timer or a CronJob, once a day; at most once an hour. Exits 0 when everything was checked,
    1 when something failed or was stopped, 2 for usage or configuration, 3 while another run is active.

    \b
    Example:
      station reconcile
      station reconcile --from 01/01/2026 --to 31/03/2026 --ec 77777777777
      station reconcile --iuv 01000000000000017 --ec 77777777777
      station reconcile --status
    """
    if last and not first:
        raise click.UsageError("--to needs --from")
    if first and first > (last or date.max):
        raise click.UsageError("--from is after --to")
    if iuvs and (first or positions or dry_run or len(id_pas) > 1):
        raise click.UsageError("--iuv can be combined only with one --ec")
    settings = context.settings
    engine = context.engine(pool_size=2 * settings.gpd.workers + 2)
    if show_status:
        found = use_case.status(settings, engine, id_pas, runs=20 if id_pas else 1, items=limit)
        if as_line:
            say_json(_status_json(found))
        elif found.late or not context.quiet:
            _print_status(found, wide)
        raise click.exceptions.Exit(1 if found.late else 0)
    stop = _stop_on_signals()
    missing: list[Missing] = []

    def miss(one: Missing) -> None:
        if not as_line:
            say_fields(part for part in asdict(one).values() if part)
        elif len(missing) < _MISSING_IN_JSON:
            missing.append(one)

    with ExitStack() as stack:
        show = stack.enter_context(_Bars(context)) if sys.stderr.isatty() and not context.quiet else lambda _tally: None
        if iuvs:
            summary = use_case.fetch_by_hand(settings, engine, id_pas[0] if id_pas else None, iuvs, stop)
        else:
            order = Order(id_pas, first, last, positions=positions, dry_run=dry_run, show=show, missing=miss)
            summary = use_case.reconcile(settings, engine, order, stop)
    got = summary.complete and (not iuvs or summary.total["fetched"] + summary.total["here"] == len(set(iuvs)))
    if as_line:
        say_json(_summary_json(summary, missing))
    elif not got if context.quiet else sys.stdout.isatty():
        _print_summary(summary, wide)
    raise click.exceptions.Exit(0 if got else 1)


def _stop_on_signals() -> threading.Event:
    """Set by the first SIGTERM or SIGINT; the second one is the last word."""
    stop = threading.Event()

    def hear(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hear)
    return stop


class _Bars:
    """A bar for each EC that is being checked, on a terminal; log lines of less than a warning give way to it."""

    def __init__(self, context: Context) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

        self._settings = context.settings.log
        self._progress = Progress(
            TextColumn("EC {task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pages  {task.fields[found]}", markup=False),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> "_Bars":
        self._progress.start()
        # Set up again, so that lines go through the bars' own standard error and above them.
        log.configure(self._settings.format, {"info": "warning"}.get(self._settings.level, self._settings.level))
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        log.configure(self._settings.format, self._settings.level)

    def __call__(self, tally: Tally) -> None:
        with self._lock:
            task = self._tasks.get(tally.id_pa)
            if tally.outcome != "running":
                if task is not None:
                    self._progress.remove_task(task)
                    del self._tasks[tally.id_pa]
                return
            if task is None:
                task = self._tasks[tally.id_pa] = self._progress.add_task(printable(tally.id_pa), found="")
            found = f"{tally.listed} listed, {tally.fetched} fetched" + (
                f", {tally.failed} failed" * bool(tally.failed)
            )
            self._progress.update(task, completed=tally.page, total=tally.pages or None, found=found)


# --- printing ---------------------------------------------------------------------------------------------------------

_TITLES = {"not_yet": "not yet"}


def _tally_json(tally: Tally, *, dry_run: bool) -> dict[str, Any]:
    shown: dict[str, Any] = tally.row()
    del shown["run_id"]
    shown["positions"] = tally.positions
    if dry_run:
        shown["missing"] = tally.missing
    shown["duration_s"] = round(tally.duration_s, 3)
    return shown


def _summary_json(summary: Summary, missing: list[Missing]) -> dict[str, Any]:
    total = summary.total
    shown: dict[str, Any] = {
        "run_id": summary.run_id,
        "complete": summary.complete,
        "dry_run": summary.dry_run,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
        "duration_s": round((summary.finished_at - summary.started_at).total_seconds(), 3),
        "total": total,
        "ecs": [_tally_json(tally, dry_run=summary.dry_run) for tally in summary.tallies],
    }
    if summary.dry_run:
        shown["missing"] = [asdict(one) for one in missing]
        shown["missing_cut"] = total["missing"] > len(missing)
    return shown


_NUMBERS = (*COUNTS, "not yet", "missing", "s", "tries", "euro", "open", "refused", "given up")
_FEW = ("listed", "here", "fetched", "failed")  # of the counts: as many as 80 characters hold


def _print_summary(summary: Summary, wide: bool) -> None:
    counts = ("listed", "missing") if summary.dry_run else COUNTS if wide else _FEW
    rows = (
        (tally.id_pa, tally.outcome, *(getattr(tally, name) for name in counts), f"{tally.duration_s:.1f}")
        for tally in summary.tallies
    )
    table(("EC", "outcome", *(_TITLES.get(name, name) for name in counts), "s"), rows, right=_NUMBERS)
    for tally in summary.tallies:
        if tally.error:
            say(f"EC {tally.id_pa}: {tally.error}")


def _status_json(found: Status) -> dict[str, Any]:
    return {
        "late": found.late,
        "ecs": [asdict(ec) for ec in found.ecs],
        "items": [asdict(item) for item in found.items],
        "items_total": found.items_total,
    }


def _alarm(ec: EcStatus) -> str:
    return "IN THE FUTURE" if ec.in_future else "LATE" if ec.late else ""


def _print_status(found: Status, wide: bool) -> None:
    table(
        ("EC", "last check (Italy)", "", "full check (Italy)", "open", "refused", "given up"),
        (
            (ec.id_pa, shown(ec.walked_at) or "never", _alarm(ec), shown(ec.swept_at), ec.open_items,
             ec.refused_items, ec.given_up_items)
            for ec in found.ecs
        ),
        right=_NUMBERS,
    )  # fmt: skip
    if runs := [run for ec in found.ecs for run in ec.runs]:
        say()
        counts = COUNTS if wide else _FEW
        table(
            ("last runs (Italy)", "EC", "outcome", *(_TITLES.get(name, name) for name in counts), "s"),
            (
                (shown(run["started_at"]), run["id_pa"], run["outcome"], *(run[name] for name in counts), _seconds(run))
                for run in runs
            ),
            right=_NUMBERS,
        )
    for run in runs:
        if run["error"]:
            say(f"{shown(run['started_at'])} EC {run['id_pa']}: {run['error']}")
    if found.items:
        columns = {
            "missing since": [shown(item.first_at)[:10] for item in found.items],
            "EC": [item.id_pa for item in found.items],
            "IUV": [item.iuv for item in found.items],
            "notice number": [item.notice_number for item in found.items],
            "euro": [item.amount for item in found.items],
            "tries": [item.attempts for item in found.items],
            "next try (Italy)": [shown(item.next_attempt_at) if item.state == "open" else "" for item in found.items],
            "state": [item.state for item in found.items],
            "reason": [item.reason for item in found.items],
        }
        titles = tuple(columns) if wide else ("missing since", "EC", "IUV", "tries", "state", "reason")
        say()
        table(titles, zip(*(columns[title] for title in titles), strict=True), right=_NUMBERS)
        say()
        say("--json also has the last error of each.")
    if found.items_total > len(found.items):
        say(f"{counted(found.items_total, 'receipt')} missing, {len(found.items):,} shown (--limit shows more)")


def _seconds(run: dict[str, Any]) -> str:
    ended = run["finished_at"]
    return f"{(ended - run['started_at']).total_seconds():.1f}" if ended else ""
