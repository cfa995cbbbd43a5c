"""`station fdr`: the walk over the flows, its status, and the acknowledgement of a gap."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import click

from station import reconcile as use_case
from station.cli import Context, cli
from station.cli.options import (
    SHOWN_TIMES,
    Number,
    operator_name,
    operator_option,
    quiet_option,
    stop_on_signals,
    wide_option,
)
from station.cli.output import say, say_fields, say_json, table
from station.cli.progress import Bars
from station.clock import shown
from station.pagopa.fdr import ListedFlow
from station.reconcile import FDR_COUNTS, MATCH_COUNTS, FdrEcRun, FdrOrder, FdrStatus, FdrSummary
from station.text import counted

_NEW_IN_JSON = 1000
_ec_option = click.option("--ec", "id_pas", type=Number(), multiple=True, help="Only this EC (idPA); may be repeated.")


@cli.group(invoke_without_command=True, epilog=SHOWN_TIMES)
@_ec_option
@click.option("--dry-run", is_flag=True, help="Show which flows are new; read and change nothing.")
@click.option("--status", "show_status", is_flag=True,
              help="Show the last runs, gaps and flows that cannot be read; exit 1 if late or with a gap.")  # fmt: skip
@click.option("--limit", type=click.IntRange(0, 1_000_000), default=50, show_default=True,
              help="With --status: number of flows to show that cannot be read.")  # fmt: skip
@wide_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@quiet_option
@click.pass_context
def fdr(
    ctx: click.Context,
    /,
    id_pas: tuple[str, ...],
    dry_run: bool,
    show_status: bool,
    limit: int,
    wide: bool,
    as_line: bool,
) -> None:
    """Compare what pagoPA says was credited (FdR) with the receipts that are stored.

    Run it by cron, a systemd timer or a CronJob, once a day: the API lists a month at most, so at least once a week.
    Exits 0 when everything was walked, 1 when something failed, was stopped, or a gap waits for `acknowledge`, 2 for
    usage or configuration, 3 while another run is active.

    \b
    Example:
      station fdr
      station fdr --status
      station fdr acknowledge --ec 77777777777
    """
    if ctx.invoked_subcommand is not None:
        return
    context: Context = ctx.obj
    settings = context.settings
    engine = context.engine(pool_size=settings.fdr.workers + 2)
    if show_status:
        status = use_case.fdr_status(settings, engine, id_pas or None, runs=20 if id_pas else 1, limit=limit)
        if as_line:
            say_json({"late": status.late, **asdict(status)})
        elif status.late or not context.quiet:
            _print_status(status, wide)
        raise click.exceptions.Exit(1 if status.late else 0)
    stop = stop_on_signals()
    new: list[dict[str, Any]] = []

    def show_new(id_pa: str, flow: ListedFlow) -> None:
        found = {"id_pa": id_pa, **asdict(flow.key), "published": flow.published, "flow_date": flow.flow_date}
        if not as_line:
            say_fields((*list(found.values())[:4], flow.published.isoformat() if flow.published else ""))
        elif len(new) < _NEW_IN_JSON:
            new.append(found)

    with ExitStack() as stack:
        bars = stack.enter_context(Bars(context, "flows"))

        def show(ec_run: FdrEcRun) -> None:
            failed = f", {ec_run.failed} failed" if ec_run.failed else ""
            counts = f"{counted(ec_run.payments, 'payment')}{failed}"
            bars.show(ec_run.id_pa, ec_run.outcome == "running", ec_run.done, ec_run.due, counts)

        summary = use_case.walk_flows(settings, engine, FdrOrder(id_pas, dry_run, show, show_new), stop)
    if as_line:
        say_json(_summary_json(summary, new))
    elif not summary.complete if context.quiet else sys.stdout.isatty():
        _print_summary(summary, wide)
    raise click.exceptions.Exit(0 if summary.complete else 1)


@fdr.command()
@_ec_option
@operator_option
@click.pass_obj
def acknowledge(context: Context, /, id_pas: tuple[str, ...], operator: str | None) -> None:
    """Note that you know of a gap: a time whose flows were never listed, and cannot be any more.

    Its flows stay unknown to the station; ask pagoPA or the PSPs for them. Until then each run says so and exits 1.

    \b
    Example:
      station fdr acknowledge --ec 77777777777
    """
    gaps = use_case.acknowledge(context.settings, context.engine(), id_pas, operator_name(operator))
    for id_pa, start, end in gaps:
        say(f"EC {id_pa}: the gap from {shown(start)} to {shown(end)} is acknowledged")
    if not gaps:
        say("there is no gap to acknowledge")


# --- printing ---------------------------------------------------------------------------------------------------------

_FEW = ("listed", "new", "revised", "failed")  # the counts that fit 80 characters
_NUMBERS = (*FDR_COUNTS, *MATCH_COUNTS, "s", "unread", "revision", "tries")


def _summary_json(summary: FdrSummary, new: list[dict[str, Any]]) -> dict[str, Any]:
    ecs = []
    for ec_run in summary.ec_runs:
        row = {name: value for name, value in ec_run.row().items() if name != "run_id"}
        row |= {name: getattr(ec_run, name) for name in MATCH_COUNTS}
        ecs.append({**row, "gap": ec_run.gap, "duration_s": round(ec_run.duration_s, 3)})
    line: dict[str, Any] = {
        "run_id": summary.run_id,
        "complete": summary.complete,
        "dry_run": summary.dry_run,
        "started_at": summary.started_at,
        "finished_at": summary.finished_at,
        "duration_s": round((summary.finished_at - summary.started_at).total_seconds(), 3),
        "total": summary.total,
        "ecs": ecs,
    }
    if summary.dry_run:
        line |= {"new": new, "new_cut": summary.total["new"] > len(new)}
    return line


def _print_summary(summary: FdrSummary, wide: bool) -> None:
    few = (*_FEW, "missing", "fetched")
    counts = ("listed", "new") if summary.dry_run else (*FDR_COUNTS, *MATCH_COUNTS) if wide else few
    rows = (
        (ec_run.id_pa, ec_run.outcome, *(getattr(ec_run, name) for name in counts), f"{ec_run.duration_s:.1f}")
        for ec_run in summary.ec_runs
    )
    table(("EC", "outcome", *counts, "s"), rows, right=_NUMBERS)
    for ec_run in summary.ec_runs:
        if ec_run.error:
            say(f"EC {ec_run.id_pa}: {ec_run.error}")


def _print_status(status: FdrStatus, wide: bool) -> None:
    table(
        ("EC", "last walk (Italy)", "", "unread"),
        (
            (ec.id_pa, shown(ec.walked_at) or "never", " ".join(_words(ec.late, ec.gap_from is not None)), ec.unread)
            for ec in status.ecs
        ),
        right=_NUMBERS,
    )
    say()
    sums = ("credited", "with_receipt", "missing", "not_expected", "not_yet", "uncredited")
    few = sums if wide else ("credited", "with_receipt", "missing", "uncredited")
    table(
        ("EC, euro", *(name.replace("_", " ") for name in few)),
        ((ec.id_pa, *(f"{getattr(ec.balance, name):,.2f}" for name in few)) for ec in status.ecs),
        right=[name.replace("_", " ") for name in sums],
    )
    for ec in status.ecs:
        if ec.gap_from is not None:
            say(
                f"EC {ec.id_pa}: flows published from {shown(ec.gap_from)} to {shown(ec.gap_to)} were never listed, "
                f"until `station fdr acknowledge --ec {ec.id_pa}`"
            )
    runs = [run for ec in status.ecs for run in ec.runs]
    if runs:
        say()
        counts = FDR_COUNTS if wide else _FEW
        table(
            ("last runs (Italy)", "EC", "outcome", *counts),
            ((shown(run["started_at"]), run["id_pa"], run["outcome"], *(run[name] for name in counts)) for run in runs),
            right=_NUMBERS,
        )
    for run in runs:
        if run["error"]:
            say(f"{shown(run['started_at'])} EC {run['id_pa']}: {run['error']}")
    if status.flows:
        say()
        table(
            ("unread since (Italy)", "EC", "flow", "PSP", "revision", "tries"),
            (
                (shown(flow["listed_at"]), *(flow[name] for name in ("id_pa", "fdr", "psp_id", "revision", "attempts")))
                for flow in status.flows
            ),
            right=_NUMBERS,
        )  # fmt: skip
        say()
        say("--json also has the last error of each.")


def _words(late: bool, gap: bool) -> list[str]:
    return [word for word, true in (("LATE", late), ("GAP", gap)) if true]
