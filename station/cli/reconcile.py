"""`station reconcile`."""

import signal
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from station import log
from station import reconcile as use_case
from station.cli import Context, cli
from station.export import as_json
from station.reconcile import COUNTS, Missing, Order, Status, Summary, Tally

_MISSING_IN_JSON = 1000


class _Day(click.ParamType[date]):
    name = "yyyy-mm-dd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        try:
            return value if isinstance(value, date) else date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no day, want yyyy-mm-dd", param, ctx)


@cli.command()
@click.option("--from", "first", type=_Day(), help="Walk payments from this day on, instead of from the watermark.")
@click.option("--to", "last", type=_Day(), help="To this day, with --from. Default: today.")
@click.option("--ec", "id_pas", multiple=True, help="This EC only (idPA); may be repeated.")
@click.option("--iuv", "iuvs", multiple=True, help="Fetch this one receipt by hand; may be repeated.")
@click.option("--positions", is_flag=True, help="Also compare with GPD-Core's paid positions (a key of its own).")
@click.option("--dry-run", is_flag=True, help="Say what is missing; fetch and write nothing.")
@click.option("--status", "show_status", is_flag=True, help="Show the last runs and what is missing; exit 1 if late.")
@click.option("--limit", type=click.IntRange(0, 1_000_000), default=50, show_default=True,
              help="With --status: open items shown.")  # fmt: skip
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
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
    as_line: bool,
) -> None:
    """Fetch from the GPD receipts API what the push missed.

    Run it by cron, a systemd timer or a CronJob, daily or hourly. Exits 0 when everything was walked, 1 when something
    failed or was stopped, 2 for usage or configuration, 3 while another run is active.

    \b
    Example:
      station reconcile
      station reconcile --from 2026-01-01 --to 2026-03-31 --ec 77777777777
      station reconcile --iuv 01000000000000017 --ec 77777777777
      station reconcile --status
    """
    if last and not first:
        raise click.UsageError("--to needs --from")
    if first and first > (last or date.max):
        raise click.UsageError("--from lies behind --to")
    if iuvs and (first or positions or dry_run or len(id_pas) > 1):
        raise click.UsageError("--iuv goes with one --ec and nothing else")
    settings = context.settings
    engine = context.engine(pool_size=2 * settings.gpd.workers + 2)
    if show_status:
        found = use_case.status(settings, engine, id_pas, runs=20 if id_pas else 1, items=limit)
        if as_line:
            click.echo(as_json(_status_json(found)))
        else:
            _print_status(found)
        raise click.exceptions.Exit(1 if found.late else 0)
    stop = _stop_on_signals()
    missing: list[Missing] = []

    def miss(one: Missing) -> None:
        if not as_line:
            click.echo("\t".join(str(part) for part in asdict(one).values() if part))
        elif len(missing) < _MISSING_IN_JSON:
            missing.append(one)

    with ExitStack() as stack:
        show = stack.enter_context(_Bars(context)) if sys.stderr.isatty() else lambda _tally: None
        if iuvs:
            summary = use_case.fetch_by_hand(settings, engine, id_pas[0] if id_pas else None, iuvs, stop)
        else:
            order = Order(id_pas, first, last, positions=positions, dry_run=dry_run, show=show, missing=miss)
            summary = use_case.reconcile(settings, engine, order, stop)
    if as_line:
        click.echo(as_json(_summary_json(summary, missing)))
    elif sys.stdout.isatty():
        _print_summary(summary)
    got = summary.complete and (not iuvs or summary.total["fetched"] + summary.total["here"] == len(set(iuvs)))
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
    """A bar for each EC that is being walked, on a terminal; log lines of less than a warning give way to it."""

    def __init__(self, context: Context) -> None:
        self._settings = context.settings.log
        self._progress = Progress(
            TextColumn("EC {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("pages  {task.fields[found]}"),
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
                task = self._tasks[tally.id_pa] = self._progress.add_task(tally.id_pa, found="")
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
_WIDTH = 110  # a narrower terminal breaks lines, which can still be read; columns of two letters cannot


def _table(*titles: str) -> Table:
    table = Table(box=None)
    for title in titles:
        table.add_column(title, justify="right" if title in _NUMBERS else "left", overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console()
    console.width = max(console.width, _WIDTH) if console.is_terminal else 250
    console.print(table)


def _print_summary(summary: Summary) -> None:
    counts = ("listed", "missing") if summary.dry_run else COUNTS
    table = _table("EC", "outcome", *(_TITLES.get(name, name) for name in counts), "s")
    for tally in summary.tallies:
        numbers = (str(getattr(tally, name)) for name in counts)
        table.add_row(tally.id_pa, tally.outcome, *numbers, f"{tally.duration_s:.1f}")
    _print(table)
    for tally in summary.tallies:
        if tally.error:
            click.echo(f"EC {tally.id_pa}: {tally.error}")


def _status_json(found: Status) -> dict[str, Any]:
    return {
        "late": found.late,
        "ecs": [asdict(ec) for ec in found.ecs],
        "items": [asdict(item) for item in found.items],
        "items_total": found.items_total,
    }


def _print_status(found: Status) -> None:
    table = _table("EC", "walked completely (UTC)", "swept (UTC)", "open", "refused", "given up")
    for ec in found.ecs:
        walked = f"{_moment(ec.walked_at) or 'never'}{'  LATE' if ec.late else ''}{'  IN THE FUTURE' * ec.in_future}"
        table.add_row(
            ec.id_pa, walked, _moment(ec.swept_at), *map(str, (ec.open_items, ec.refused_items, ec.given_up_items))
        )
    _print(table)
    if runs := [run for ec in found.ecs for run in ec.runs]:
        table = _table("last runs (UTC)", "EC", "outcome", *(_TITLES.get(name, name) for name in COUNTS), "s")
        for run in runs:
            ended = run["finished_at"]
            seconds = f"{(ended - run['started_at']).total_seconds():.1f}" if ended else ""
            numbers = (str(run[name]) for name in COUNTS)
            table.add_row(_moment(run["started_at"]), run["id_pa"], run["outcome"], *numbers, seconds)
        click.echo("")
        _print(table)
    for run in runs:
        if run["error"]:
            click.echo(f"{_moment(run['started_at'])} EC {run['id_pa']}: {run['error']}")
    if found.items:
        table = _table("missing since", "EC", "IUV", "notice number", "euro", "tries", "next try (UTC)", "reason")
        for item in found.items:
            table.add_row(
                _moment(item.first_at)[:10],
                item.id_pa,
                item.iuv,
                item.notice_number or "",
                "" if item.amount is None else str(item.amount),
                str(item.attempts),
                _moment(item.next_attempt_at)[:16] if item.state == "open" else item.state,
                item.reason,
            )
        click.echo("")
        _print(table)
        click.echo("\nThe last error of each stands in the output of --json.")
    if found.items_total > len(found.items):
        click.echo(f"{found.items_total} receipts are missing, {len(found.items)} are shown (--limit shows more)")


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else ""
