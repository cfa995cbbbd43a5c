"""`station replay`."""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import click

from station import store
from station.cli import Context, cli
from station.cli.options import TIMES, Moment, Number, Words, operator_name, operator_option
from station.cli.output import say, say_json
from station.cli.refused import difference_line, resolve
from station.intake import Intake
from station.replay import Item, Limits, Reading, Replay, Reread, Selection, StoredItem, Verdict
from station.text import printable


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
    _check(
        mode,
        paths,
        refused_only={"--id": ids, "--fault-code": fault_code, "--replace": replace},
        stored_only={"--receipt-id": receipt_id},
        not_files={"--id-pa": id_pa, "--since": since},
    )
    if replace and not ids:
        raise click.UsageError("--replace needs --id: it is a decision about one request")
    show = _Output(json_lines, dry_run)
    engine = context.engine()
    if mode == "stored":
        show.run(
            Reread(engine, dry_run, reveal).run(Selection(id_pa, receipt_id, since)), list(Reading), (Reading.FAILED,)
        )
    name = operator_name(operator)
    replayed = Replay(Intake(engine, context.settings), name, dry_run, reveal, replace)
    if mode == "refused":
        wanted = store.RefusedFilter(
            refused_ids=resolve(context, ids),
            state=None if ids else store.RefusedState.OPEN,
            id_pa=id_pa,
            fault_code=fault_code,
            received_from=since,
        )
        items = replayed.refused(wanted)
    else:
        limits = Limits(document=context.settings.server.max_body)
        items = replayed.files(paths, limits, sys.stdin.buffer)
    show.run(items, list(Verdict), (Verdict.REFUSED, Verdict.FAILED))


def _check(
    mode: str | None,
    paths: tuple[str, ...],
    refused_only: Mapping[str, object],
    stored_only: Mapping[str, object],
    not_files: Mapping[str, object],
) -> None:
    if mode is None:
        raise click.UsageError("say what to replay: --refused, --file PATH... or --stored")
    if mode == "file" and not paths:
        raise click.UsageError("--file needs at least one PATH (- for standard input)")
    if mode != "file" and paths:
        raise click.UsageError("a PATH can be given only with --file")
    for fits, options, where in (
        (mode == "refused", refused_only, "--refused"),
        (mode == "stored", stored_only, "--stored"),
        (mode != "file", not_files, "--refused or --stored"),
    ):
        for option, value in options.items():
            if value and not fits:
                raise click.UsageError(f"{option} can be used only with {where}")


class _Output:
    """Prints items as they come, and the sums in the end, however it ends."""

    def __init__(self, json_lines: bool, dry_run: bool) -> None:
        self._json_lines = json_lines
        self._dry_run = dry_run

    def run(
        self, items: Iterable[Item | StoredItem], results: list[Verdict] | list[Reading], bad: tuple[str, ...]
    ) -> None:
        """Ends the command: with status 1 where there was a result that is `bad`."""
        sums: Counter[str] = Counter(dict.fromkeys(results, 0))
        ended = False
        try:
            for item in items:
                sums[item.reading if isinstance(item, StoredItem) else item.verdict] += 1
                self._show(item)
            ended = True
        finally:
            self._sums(sums, ended)
        raise click.exceptions.Exit(1 if any(sums[one] for one in bad) else 0)

    def _sums(self, sums: Mapping[str, int], ended: bool) -> None:
        if self._json_lines:
            say_json({"summary": sums, "dry_run": self._dry_run, "complete": ended})
            return
        text = ", ".join(f"{result} {count}" for result, count in sums.items())
        text += " (dry run: nothing was written)" if self._dry_run else ""
        say(text if ended else f"{text}; stopped before the end: run it again to continue")

    def _show(self, item: Item | StoredItem) -> None:
        if isinstance(item, StoredItem):
            if self._json_lines:
                say_json(_stored_json(item))
            elif item.reading is not Reading.UNCHANGED:
                self._stored_lines(item)
        elif self._json_lines:
            say_json(_item_json(item))
        else:
            self._item_lines(item)

    def _item_lines(self, item: Item) -> None:
        parts = [f"{item.verdict:<9}", printable(item.name)]
        if (known := item.identifiers) is not None:
            named = (("EC", known.id_pa), ("receiptId", known.receipt_id), ("IUV", known.iuv))
            parts += [f"{name} {value}" for name, value in named if value]
        parts += [f"[{', '.join(sorted(item.flags))}]"] if item.flags else []
        if item.refused_id and item.refused_id != item.name:
            parts.append(f"kept as {item.refused_id}")
        if item.reason:
            parts.append(f"{item.fault_code}: {item.reason}" if item.fault_code else item.reason)
        say("  ".join(parts))
        for difference in item.differences or ():
            say(difference_line(difference, "this one"))

    def _stored_lines(self, item: StoredItem) -> None:
        reason = f"  {item.reason}" if item.reason else ""
        say(f"{item.reading:<9}  EC {item.id_pa}  receiptId {item.receipt_id}{reason}")
        for difference in item.differences:
            say(difference_line(difference, "its document"))


def _item_json(item: Item) -> dict[str, Any]:
    known = item.identifiers
    return {
        "item": item.name,
        "result": item.verdict,
        "id_pa": known.id_pa if known else None,
        "receipt_id": known.receipt_id if known else None,
        "notice_number": known.notice_number if known else None,
        "iuv": known.iuv if known else None,
        "flags": sorted(item.flags),
        "fault_code": item.fault_code,
        "reason": item.reason,
        "refused_id": item.refused_id,
        "differences": None if item.differences is None else [one._asdict() for one in item.differences],
    }


def _stored_json(item: StoredItem) -> dict[str, Any]:
    return {
        "id_pa": item.id_pa,
        "receipt_id": item.receipt_id,
        "result": item.reading,
        "reason": item.reason,
        "differences": [one._asdict() for one in item.differences],
    }
