"""`station purge`."""

from dataclasses import replace
from typing import Any

import click

from station.cli import Context, cli
from station.cli.options import operator_name, operator_option, quiet_option
from station.cli.output import say, say_json
from station.clock import shown
from station.purge import Purged
from station.purge import purge as run
from station.store.purge import Part
from station.text import counted

_WORDS = {
    Part.RAW: "raw documents of receipts",
    Part.PERSONAL: "personal data of receipts",
    Part.REFUSED: "refused requests, accepted or discarded",
    Part.JOURNAL: "journal",
    Part.DELIVERY: "deliveries by webhook",
    Part.FLOWS: "flows (FdR)",
    Part.ACCESS: "look-ups of people in the console",
}
_MONTHS = click.IntRange(1, 1200)


@cli.command()
@click.option(
    "--raw-months", type=_MONTHS, help="Raw documents of receipts that arrived more than this many months ago."
)
@click.option("--personal-months", type=_MONTHS, help="Personal data and raw documents of receipts of that age.")
@click.option("--refused-months", type=_MONTHS, help="Refused requests settled more than this many months ago.")
@click.option(
    "--journal-months", type=click.IntRange(24, 1200), help="Entries of the event journal of that age (24 or more)."
)
@click.option("--delivery-months", type=_MONTHS, help="Deliveries settled more than this many months ago.")
@click.option("--flows-months", type=click.IntRange(3, 1200), help="Flows (FdR) published that long ago, 3 or more.")
@click.option("--access-months", type=click.IntRange(6, 1200), help="Look-ups in the console of that age, 6 or more.")
@click.option("--dry-run", is_flag=True, help="Count what would be purged; change nothing.")
@click.option("--batch", type=click.IntRange(1, 5000), default=500, show_default=True, help="Rows per transaction.")
@click.option("--trust-clock", is_flag=True, help="Purge even if the database suggests that the clock is ahead.")
@operator_option
@quiet_option
@click.option("--json", "json_lines", is_flag=True, help="One JSON object per line, one for each part.")
@click.pass_obj
def purge(
    context: Context,
    /,
    dry_run: bool,
    batch: int,
    trust_clock: bool,
    operator: str | None,
    json_lines: bool,
    **months: Any,
) -> None:
    """Remove data that is older than [retention] allows. Options take precedence over the file.

    Receipts stay as rows: only their raw documents or personal data are removed. It is safe to run beside the server,
    and to stop and run again. Exits 0 when it is done, 1 when it failed, 2 for usage or configuration.

    \b
    Example:
      station purge --dry-run
      station purge --raw-months 120 --refused-months 12
    """
    given = {name: value for name, value in months.items() if value is not None}
    retention = context.settings.retention.model_copy(update=given)
    done: dict[Part, Purged] = {}
    ended = False
    try:
        for purged in run(
            context.engine(),
            retention,
            dry_run=dry_run,
            batch=batch,
            operator=operator_name(operator),
            trust_clock=trust_clock,
        ):
            before = done[purged.part].count if purged.part in done else 0
            done[purged.part] = replace(purged, count=before + purged.count)
        ended = True
    finally:
        for purged in done.values() if not (context.quiet and ended) else ():
            _show(purged, dry_run, json_lines)
        if done and not ended and not json_lines:
            say("stopped before the end: run it again to continue")


def _show(purged: Purged, dry_run: bool, json_lines: bool) -> None:
    if json_lines:
        line = {"part": purged.part, "before": purged.before, "rows": purged.count, "kept_open": purged.kept_open}
        say_json(line | {"dry_run": dry_run})
        return
    verb = "would be purged" if dry_run else "purged"
    say(f"{_WORDS[purged.part]} from before {shown(purged.before)} (Italy): {purged.count} {verb}")
    if purged.kept_open:
        were = "was" if purged.kept_open == 1 else "were"
        say(f"  {counted(purged.kept_open, 'open request')} of that age {were} kept: see `station refused list`")
