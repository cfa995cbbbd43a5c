"""`station reconcile`."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import date
from typing import Any

import click

from station import reconcile as use_case
from station.cli import Context, cli
from station.cli.options import SHOWN_TIMES, Day, Number, quiet_option, stop_on_signals, wide_option
from station.cli.output import say, say_fields, say_json, table
from station.cli.progress import Bars
from station.clock import shown
from station.reconcile import COUNTS, EcRun, Missing, Order, Status, Summary
from station.store.runs import ReconcileItem
from station.text import counted

_MISSING_IN_JSON = 1000


@cli.command(epilog=SHOWN_TIMES)
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
        status = use_case.status(settings, engine, id_pas or None, runs=20 if id_pas else 1, items=limit)
        if as_line:
            say_json({"late": status.late, **asdict(status)})
        elif status.late or not context.quiet:
            _print_status(status, wide)
        raise click.exceptions.Exit(1 if status.late else 0)
    stop = stop_on_signals()
    missing: list[Missing] = []

    def show_missing(receipt: Missing) -> None:
        if not as_line:
            say_fields(value for value in asdict(receipt).values() if value)
        elif len(missing) < _MISSING_IN_JSON:
            missing.append(receipt)

    with ExitStack() as stack:
        bars = stack.enter_context(Bars(context, "pages"))

        def show(ec_run: EcRun) -> None:
            failed = f", {ec_run.failed} failed" if ec_run.failed else ""
            counts = f"{ec_run.listed} listed, {ec_run.fetched} fetched{failed}"
            bars.show(ec_run.id_pa, ec_run.outcome == "running", ec_run.page, ec_run.pages, counts)

        order = Order(id_pas, first, last, positions, dry_run, iuvs, show, show_missing)
        summary = use_case.reconcile(settings, engine, order, stop)
    total = summary.total
    ok = summary.complete and (not iuvs or total["fetched"] + total["here"] == len(set(iuvs)))
    if as_line:
        say_json(_summary_json(summary, missing))
    elif not ok if context.quiet else sys.stdout.isatty():
        _print_summary(summary, wide)
    raise click.exceptions.Exit(0 if ok else 1)


# --- printing ---------------------------------------------------------------------------------------------------------

_FEW = ("listed", "here", "fetched", "failed")  # the counts that fit 80 characters
_NUMBERS = (*COUNTS, "not yet", "missing", "s", "tries", "euro", "open", "refused", "given up")


def _summary_json(summary: Summary, missing: list[Missing]) -> dict[str, Any]:
    total = summary.total
    ecs = []
    for ec_run in summary.ec_runs:
        row = {name: value for name, value in ec_run.row().items() if name != "run_id"}
        row["positions"] = ec_run.positions
        if summary.dry_run:
            row["missing"] = ec_run.missing
        ecs.append({**row, "duration_s": round(ec_run.duration_s, 3)})
    line: dict[str, Any] = {
        "run_id": summary.run_id,
        "complete": summary.complete,
        "dry_run": summary.dry_run,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
        "duration_s": round((summary.finished_at - summary.started_at).total_seconds(), 3),
        "total": total,
        "ecs": ecs,
    }
    if summary.dry_run:
        line["missing"] = [asdict(receipt) for receipt in missing]
        line["missing_cut"] = total["missing"] > len(missing)
    return line


def _print_summary(summary: Summary, wide: bool) -> None:
    counts = ("listed", "missing") if summary.dry_run else COUNTS if wide else _FEW
    rows = (
        (ec_run.id_pa, ec_run.outcome, *(getattr(ec_run, name) for name in counts), f"{ec_run.duration_s:.1f}")
        for ec_run in summary.ec_runs
    )
    table(("EC", "outcome", *map(_title, counts), "s"), rows, right=_NUMBERS)
    for ec_run in summary.ec_runs:
        if ec_run.error:
            say(f"EC {ec_run.id_pa}: {ec_run.error}")


def _title(count: str) -> str:
    return count.replace("_", " ")


def _print_status(status: Status, wide: bool) -> None:
    table(
        ("EC", "last check (Italy)", "", "full check (Italy)", "open", "refused", "given up"),
        (
            (ec.id_pa, shown(ec.walked_at) or "never", "IN THE FUTURE" if ec.in_future else "LATE" if ec.late else "",
             shown(ec.swept_at), ec.open_items, ec.refused_items, ec.given_up_items)
            for ec in status.ecs
        ),
        right=_NUMBERS,
    )  # fmt: skip
    if runs := [run for ec in status.ecs for run in ec.runs]:
        say()
        counts = COUNTS if wide else _FEW
        table(
            ("last runs (Italy)", "EC", "outcome", *map(_title, counts), "s"),
            (
                (shown(run["started_at"]), run["id_pa"], run["outcome"], *(run[name] for name in counts), _seconds(run))
                for run in runs
            ),
            right=_NUMBERS,
        )
    for run in runs:
        if run["error"]:
            say(f"{shown(run['started_at'])} EC {run['id_pa']}: {run['error']}")
    if status.items:
        columns: dict[str, Callable[[ReconcileItem], object]] = {
            "missing since": lambda item: shown(item.first_at)[:10],
            "EC": lambda item: item.id_pa,
            "IUV": lambda item: item.iuv,
            "notice number": lambda item: item.notice_number,
            "euro": lambda item: item.amount,
            "tries": lambda item: item.attempts,
            "next try (Italy)": lambda item: shown(item.next_attempt_at) if item.state == "open" else "",
            "state": lambda item: item.state,
            "reason": lambda item: item.reason,
        }
        titles = tuple(columns) if wide else ("missing since", "EC", "IUV", "tries", "state", "reason")
        say()
        table(titles, ([columns[title](item) for title in titles] for item in status.items), right=_NUMBERS)
        say()
        say("--json also has the last error of each.")
    if status.items_total > len(status.items):
        say(f"{counted(status.items_total, 'receipt')} missing, {len(status.items):,} shown (--limit shows more)")


def _seconds(run: dict[str, Any]) -> str:
    ended = run["finished_at"]
    return f"{(ended - run['started_at']).total_seconds():.1f}" if ended else ""
