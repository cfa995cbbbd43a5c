"""`station replay`."""

import sys
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import click

from station import store
from station.cli import Context, cli
from station.cli.options import TIMES, Moment, Number, Words, operator_name, operator_option
from station.cli.output import say, say_json
from station.cli.refused import difference_line, resolve
from station.intake import Intake
from station.replay import Reading, Replay, ReplayItem, Reread, StoredItem, UnpackLimits, Verdict
from station.text import printable

_FAILED = (Verdict.REFUSED, Verdict.FAILED, Reading.FAILED)


@cli.command(epilog=TIMES)
@click.option("--refused", "mode", flag_value="refused", help="Refused requests: all that are open, or:")
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="  this one (its first digits are enough); may be repeated."
)
@click.option("--fault-code", type=Words(), help="  those refused with this fault code.")
@click.option("--replace", is_flag=True, help="  after a conflict, replace the stored receipt with the one of --id.")
@click.option("--file", "mode", flag_value="file", help="Files, folders, archives; - for standard input.")
@click.option("--stored", "mode", flag_value="stored", help="Read stored receipts again and rebuild their columns.")
@click.option("--receipt-id", type=Words(), help="  the receipt with this receiptId.")
@click.option("--id-pa", "--ec", "id_pa", type=Number(), help="With --refused or --stored: only this EC (idPA).")
@click.option("--since", type=Moment(), help="With --refused or --stored: arrived on or after this day or time.")
@click.option("--dry-run", is_flag=True, help="Show what would happen and why; change nothing.")
@click.option("--reveal", is_flag=True, help="Show personal data where documents differ, instead of ***.")
@operator_option
@click.option("--json", "json_lines", is_flag=True, help="One JSON object per line, the last one with the totals.")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.pass_obj
def replay(
    context: Context,
    /,
    mode: str | None,
    ids: tuple[str, ...],
    fault_code: str | None,
    replace: bool,
    receipt_id: str | None,
    id_pa: str | None,
    since: datetime | None,
    dry_run: bool,
    reveal: bool,
    operator: str | None,
    json_lines: bool,
    paths: tuple[str, ...],
) -> None:
    """Process documents again as if they had just been pushed.

    It is safe to stop it and run it again. Exits 0 when nothing is refused any more, 1 when something is still refused
    or failed, 2 for usage or configuration.

    \b
    Example:
      station replay --refused --dry-run
      station replay --refused --fault-code PAA_ID_DOMINIO_ERRATO --since 7d
      station replay --refused --id 9ad2
      station replay --file receipts.zip folder/ receipt.xml
      station replay --stored --dry-run
    """
    if mode is None:
        raise click.UsageError("say what to replay: --refused, --file PATH... or --stored")
    if mode == "file" and not paths:
        raise click.UsageError("--file needs at least one PATH (- for standard input)")
    if mode != "file" and paths:
        raise click.UsageError("a PATH can be given only with --file")
    for option, value, modes in (
        ("--id", ids, ("refused",)),
        ("--fault-code", fault_code, ("refused",)),
        ("--replace", replace, ("refused",)),
        ("--receipt-id", receipt_id, ("stored",)),
        ("--id-pa", id_pa, ("refused", "stored")),
        ("--since", since, ("refused", "stored")),
    ):
        if value and mode not in modes:
            raise click.UsageError(f"{option} can be used only with {' or '.join(f'--{mode}' for mode in modes)}")
    if replace and not ids:
        raise click.UsageError("--replace needs --id: it is a decision about one request")

    engine = context.engine()
    items: Iterable[ReplayItem | StoredItem]
    if mode == "stored":
        items = Reread(engine, dry_run, reveal).run(id_pa=id_pa, receipt_id=receipt_id, received_from=since)
    else:
        name = operator_name(operator)
        replayed = Replay(Intake(engine, context.settings), name, dry_run, reveal, replace)
        if mode == "refused":
            condition = store.RefusedFilter(
                refused_ids=resolve(context, ids),
                state=None if ids else store.RefusedState.OPEN,
                id_pa=id_pa,
                fault_code=fault_code,
                received_from=since,
            )
            items = replayed.refused(condition)
        else:
            limits = UnpackLimits(document=context.settings.server.max_body)
            items = replayed.files(paths, limits, sys.stdin.buffer)

    totals: Counter[str] = Counter(dict.fromkeys(Reading if mode == "stored" else Verdict, 0))
    complete = False
    try:
        for item in items:
            totals[item.reading if isinstance(item, StoredItem) else item.verdict] += 1
            _print(item, json_lines)
        complete = True
    finally:  # the totals are printed even when it is interrupted
        if json_lines:
            say_json({"summary": totals, "dry_run": dry_run, "complete": complete})
        else:
            text = ", ".join(f"{result} {count}" for result, count in totals.items())
            text += " (dry run: nothing was written)" if dry_run else ""
            say(text if complete else f"{text}; stopped before the end: run it again to continue")
    raise click.exceptions.Exit(1 if any(totals[result] for result in _FAILED) else 0)


def _print(item: ReplayItem | StoredItem, json_lines: bool) -> None:
    if isinstance(item, StoredItem):
        if json_lines:
            say_json(_stored_json(item))
        elif item.reading is not Reading.UNCHANGED:
            reason = f"  {item.reason}" if item.reason else ""
            say(f"{item.reading:<9}  EC {item.id_pa}  receiptId {item.receipt_id}{reason}")
            for difference in item.differences:
                say(difference_line(difference, "its document"))
        return
    if json_lines:
        say_json(_item_json(item))
        return
    parts = [f"{item.verdict:<9}", printable(item.name)]
    if (identifiers := item.identifiers) is not None:
        named = (("EC", identifiers.id_pa), ("receiptId", identifiers.receipt_id), ("IUV", identifiers.iuv))
        parts += [f"{name} {value}" for name, value in named if value]
    if item.flags:
        parts.append(f"[{', '.join(sorted(item.flags))}]")
    if item.refused_id and item.refused_id != item.name:
        parts.append(f"kept as {item.refused_id}")
    if item.reason:
        parts.append(f"{item.fault_code}: {item.reason}" if item.fault_code else item.reason)
    say("  ".join(parts))
    for difference in item.differences or ():
        say(difference_line(difference, "this one"))


def _item_json(item: ReplayItem) -> dict[str, Any]:
    identifiers = item.identifiers
    return {
        "item": item.name,
        "result": item.verdict,
        **{name: getattr(identifiers, name, None) for name in ("id_pa", "receipt_id", "notice_number", "iuv")},
        "flags": sorted(item.flags),
        "fault_code": item.fault_code,
        "reason": item.reason,
        "refused_id": item.refused_id,
        "differences": None if item.differences is None else [difference._asdict() for difference in item.differences],
    }


def _stored_json(item: StoredItem) -> dict[str, Any]:
    return {
        "id_pa": item.id_pa,
        "receipt_id": item.receipt_id,
        "result": item.reading,
        "reason": item.reason,
        "differences": [difference._asdict() for difference in item.differences],
    }
