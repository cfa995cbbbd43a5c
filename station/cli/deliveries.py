"""`station deliveries again|skip|pause|resume|test`, beside those that show."""

import base64
import hashlib
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import click

from station import clock, log, store
from station.cli import Context
from station.cli.delivery_list import deliveries, found_receipt, kind_of
from station.cli.options import EcId, Words, operator_name, operator_option, options
from station.cli.output import say, say_json
from station.config import Feed, Folder, Settings, Webhook
from station.deliver.check import folder_problem
from station.store import deliveries as stored
from station.store import delivery_list, outgoing
from station.text import counted, printable

_RANGE = "a number of `station deliveries list`, or a day of arrival (28/11/2026)"


class _Place(click.ParamType[int | date]):
    """A number in the order of delivery, or a day of arrival."""

    name = "number or day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | date:
        if isinstance(value, int | date):
            return value
        text = str(value).strip()
        if text.isascii() and text.isdecimal() and len(text) <= 18:
            return int(text)
        try:
            return clock.day(text)
        except ValueError:
            self.fail(f"{printable(value, 60)!r} is neither a number nor a day (write 28/11/2026)", param, ctx)


_chosen_options = options(
    click.option("--from", "first", type=_Place(), help=f"From here on: {_RANGE}."),
    click.option("--to", "last", type=_Place(), help=f"Up to here, inclusive: {_RANGE}. Default: the last one."),
    click.option("--receipt", "receipt_id", type=Words(), help="This receipt only (receiptId)."),
    click.option("--ec", "id_pa", type=EcId(), help="With --receipt: the EC of the copy, where several have one."),
)


def _ranges(
    engine: store.Engine, first: int | date | None, last: int | date | None, receipt_id: str | None, id_pa: str | None
) -> list[tuple[int, int]]:
    """Return the ranges of numbers that the options ask for; empty where nothing arrived then."""
    if receipt_id is not None:
        key = found_receipt(engine, receipt_id, id_pa)
        with store.transaction(engine, readonly=True) as connection:
            return [(row.number, row.number) for row in outgoing.numbers_of(connection, *key)]
    with store.queries.reading(engine) as connection:
        if isinstance(first, int) and not isinstance(last, date):
            highest = outgoing.last_number(connection)
            first, last = max(first, 1), highest if last is None else min(last, highest)
            return [(first, last)] if first <= last else []
        if isinstance(first, date) and not isinstance(last, int):
            start = clock.moment(first.isoformat())
            end = datetime.now(UTC) if last is None else clock.moment(last.isoformat(), end=True)
            found = delivery_list.numbers_between(connection, start, end)
            return [found] if found else []
    raise click.UsageError("--from and --to: give two numbers or two days")


def _check_choice(first: int | date | None, last: int | date | None, *others: object) -> None:
    if sum(bool(one) for one in (first is not None, *others)) != 1 or (last is not None and first is None):
        raise click.UsageError(
            "say which: " + ("--failed, " if len(others) > 1 else "") + "--from and --to, or --receipt"
        )


def _served(context: Context, engine: store.Engine, name: str) -> tuple[Any, Any]:
    """Return the settings and the row of a destination that was served, or an error."""
    configured = context.settings.destinations.get(name)
    if configured is None:
        raise click.UsageError(f"{printable(name)} is not configured any more: nothing is sent to it")
    with store.transaction(engine, readonly=True) as connection:
        row = stored.destinations(connection).get(name)
    if row is None:
        raise click.ClickException(
            f"{printable(name)} was never served: start `station deliver`, or restart it if it runs with an older "
            "configuration"
        )
    return configured, row


@contextmanager
def _bar(context: Context, words: str, ranges: list[tuple[int, int]]) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Give a function that is told the number up to which a range is done."""
    if context.quiet or not sys.stderr.isatty() or not ranges:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    first, last = ranges[0][0], ranges[-1][1]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(words, total=max(1, last - first + 1))
        yield lambda number: progress.update(task, completed=number - first + 1)


@deliveries.command(epilog="A day is one of arrival, in Italy. Receivers know a receipt that comes again by its id.")
@click.argument("name", metavar="DESTINATION", type=Words())
@click.option("--failed", is_flag=True, help="All that was given up.")
@_chosen_options
@click.option("--dry-run", is_flag=True, help="Count; change nothing.")
@operator_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@click.pass_obj
def again(
    context: Context,
    /,
    name: str,
    failed: bool,
    first: int | date | None,
    last: int | date | None,
    receipt_id: str | None,
    id_pa: str | None,
    dry_run: bool,
    operator: str | None,
    as_line: bool,
) -> None:
    """Deliver again to one destination, also to a new one what arrived before it.

    A webhook gets what it chooses of the range by the running `station deliver`, the lowest number first. A folder gets
    one more file with the range. A reader of a feed asks again by itself, from any number.

    \b
    Example:
      station deliveries again accounting --failed
      station deliveries again accounting --from 01/11/2026 --to 30/11/2026 --dry-run
      station deliveries again accounting --from 120000 --to 130000
      station deliveries again accounting --receipt 0123456789abcdef0123456789abcdef
    """
    from station.deliver import decisions

    _check_choice(first, last, failed, receipt_id is not None)
    engine = context.engine()
    kind = kind_of(context, engine, name)
    if kind == "feed":
        raise click.UsageError(f"{printable(name)} is a feed: its reader asks for ?after=N, with any earlier number")
    if kind == "folder" and failed:
        raise click.UsageError(
            f"{printable(name)} is a folder: a file that fails is tried until it is done, or skipped"
        )
    configured, row = _served(context, engine, name)
    by = operator_name(operator)
    ranges = [] if failed else _ranges(engine, first, last, receipt_id, id_pa)
    behind = 0
    if kind == "folder":
        _again_folder(engine, configured, ranges, dry_run=dry_run, operator=by, as_line=as_line)
        return
    if failed:
        count = decisions.send_failed_again(engine, configured, dry_run=dry_run, operator=by)
    else:
        # What lies behind its position comes in its turn.
        behind = sum(max(0, end - max(start - 1, row.position)) for start, end in ranges)
        ranges = [(start, min(end, row.position)) for start, end in ranges if start <= row.position]
        count = 0
        with _bar(context, "receipts", ranges) as show:
            for start, end in ranges:
                count += decisions.send_again(
                    engine, configured, first=start, last=end, dry_run=dry_run, operator=by, show=show
                )
    if as_line:
        say_json({"destination": name, "count": count, "waiting": behind, "dry_run": dry_run})
        return
    say(f"{counted(count, 'delivery', 'deliveries')} to {name} " + ("would be sent again" if dry_run else "sent again"))
    if behind:
        say(f"{counted(behind, 'number')} of the range wait in their order: they need no command")


def _again_folder(
    engine: store.Engine, folder: Folder, ranges: list[tuple[int, int]], *, dry_run: bool, operator: str, as_line: bool
) -> None:
    from station.deliver.folder import plan_again

    names = []
    for first, last in ranges if not dry_run else ():
        names += plan_again(engine, folder, first, last, now=datetime.now(UTC))
    if not dry_run:
        log.get(__name__).info("files_planned_again", destination=folder.name, files=names, operator=operator)
    if as_line:
        say_json({"destination": folder.name, "files": names, "ranges": ranges, "dry_run": dry_run})
        return
    for first, last in ranges:
        say(
            f"numbers {first} to {last}: what {folder.name} chooses of them "
            + ("would be in another file" if dry_run else "is written by `station deliver`")
        )
    for name in names:
        say(name)
    if not ranges:
        say("No receipt has such a number.", err=True)


@deliveries.command()
@click.argument("name", metavar="DESTINATION", type=Words())
@_chosen_options
@click.option("--reason", required=True, help="Why it is not delivered; kept with each.")
@operator_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@click.pass_obj
def skip(
    context: Context,
    /,
    name: str,
    first: int | date | None,
    last: int | date | None,
    receipt_id: str | None,
    id_pa: str | None,
    reason: str,
    operator: str | None,
    as_line: bool,
) -> None:
    """Do not deliver to a webhook what is open, given up or waiting of a range, or of one receipt.

    Nothing is deleted: `again` still sends it. Of what waits behind the destination's position a range can be skipped
    from its beginning only. Of a folder the files in the range that are not done are given up.

    \b
    Example:
      station deliveries skip accounting --receipt 0123456789abcdef0123456789abcdef --reason "booked by hand"
      station deliveries skip accounting --from 1 --to 90000 --reason "of the old system, ticket 4711"
    """
    from station.deliver import decisions

    _check_choice(first, last, receipt_id is not None)
    if not reason.strip():
        raise click.UsageError("--reason must not be blank")
    engine = context.engine()
    if (kind := kind_of(context, engine, name)) == "feed":
        raise click.UsageError(f"{printable(name)} is a feed: its reader decides what it asks for")
    configured, _row = _served(context, engine, name)
    ranges = _ranges(engine, first, last, receipt_id, id_pa)
    by = operator_name(operator)
    count = 0
    try:
        with _bar(context, "receipts", ranges) as show:
            for start, end in ranges:
                if kind == "folder":
                    count += decisions.skip_files(
                        engine, configured, first=start, last=end, reason=reason.strip(), operator=by
                    )
                    continue
                count += decisions.skip(
                    engine, configured, first=start, last=end, reason=reason.strip(), operator=by, show=show
                )
    except ValueError as error:
        raise click.UsageError(f"{printable(name)}: {error}") from None
    if as_line:
        say_json({"destination": name, "count": count})
    else:
        words = ("file", "files") if kind == "folder" else ("delivery", "deliveries")
        say(f"{counted(count, *words)} to {name} skipped by {by}")


@deliveries.command()
@click.argument("name", metavar="DESTINATION", type=Words())
@click.option("--reason", help="Why; shown by `status`.")
@operator_option
@click.pass_obj
def pause(context: Context, /, name: str, reason: str | None, operator: str | None) -> None:
    """Send a destination nothing more until `resume`. What arrives meanwhile waits, and nothing is lost.

    \b
    Example:
      station deliveries pause accounting --reason "moved to a new server tonight"
    """
    engine = context.engine()
    if kind_of(context, engine, name) == "feed":
        raise click.UsageError(f"{printable(name)} is a feed: its reader decides when it asks")
    by = operator_name(operator)
    why = f"by {by}: {reason.strip()}" if reason and reason.strip() else f"by {by}"
    with store.transaction(engine) as connection:
        done = stored.pause(connection, name, why)
    _say_changed(name, done, "paused", by)


@deliveries.command()
@click.argument("name", metavar="DESTINATION", type=Words())
@operator_option
@click.pass_obj
def resume(context: Context, /, name: str, operator: str | None) -> None:
    """Serve a paused destination again, or one that is away at once instead of at its next attempt.

    \b
    Example:
      station deliveries resume accounting
    """
    engine = context.engine()
    kind_of(context, engine, name)
    by = operator_name(operator)
    with store.transaction(engine) as connection:
        done = stored.resume(connection, name)
    _say_changed(name, done, "resumed", by)


def _say_changed(name: str, done: bool, verb: str, operator: str) -> None:
    if not done:
        raise click.ClickException(f"{printable(name)} was never served: nothing was changed")
    log.get(__name__).info(f"destination_{verb}", destination=name, operator=operator)
    say(f"{name} {verb} by {operator}")


@deliveries.command()
@click.argument("name", metavar="DESTINATION", type=Words())
@click.pass_obj
def test(context: Context, /, name: str) -> None:
    """Try a destination now, from this machine. Exits 1 if it failed.

    A webhook is sent one event `station.test`, signed as all others. In a folder a file is written and removed again,
    and the command of `after` is looked for. Of a feed it says how to ask. `station deliver` need not run for it.

    \b
    Example:
      station deliveries test accounting
    """
    configured = context.settings.destinations.get(name)
    if configured is None:
        raise click.UsageError(f"there is no [[destination]] named '{printable(name)}' in the configuration")
    match configured:
        case Webhook():
            _test_webhook(context.settings, configured)
        case Folder():
            _test_folder(configured)
        case Feed():
            say(f"Served by `station api`. Ask with one of the keys whose hash is configured ({len(configured.keys)}):")
            at = context.settings.api.listen if context.settings.api.listen[:5] != "unix:" else "HOST:PORT"
            scheme = "https" if context.settings.api.certificate else "http"
            say(f"curl -H 'Authorization: Bearer KEY' '{scheme}://{at}/api/v1/receipts?after=0&limit=10'")


def _test_webhook(settings: Settings, configured: Webhook) -> None:
    from station.deliver.webhook import send_test

    answer = send_test(settings, configured)
    took = f"after {answer.took_s:.2f} s"
    if not answer.delivered:
        raise click.ClickException(printable(f"{configured.shown_url}: {answer.error} ({took})"))
    say(f"{configured.shown_url}: HTTP {answer.status} {took}")


def _test_folder(configured: Folder) -> None:
    if problem := folder_problem(configured):
        raise click.ClickException(printable(problem))
    say(f"{configured.path}: a file was written and removed")
    if configured.after:
        say(f"after: {shutil.which(configured.after[0])} is there; it is run with the path of each file")


@deliveries.command()
def secret() -> None:
    """Make a secret for a webhook: for `secret` of the [[destination]], and for its receiver.

    \b
    Example:
      station deliveries secret
    """
    say("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode())


@deliveries.command()
def key() -> None:
    """Make a bearer key for the reader of a feed, and its hash for `keys` of the [[destination]].

    The key is shown once: the station keeps its hash only.

    \b
    Example:
      station deliveries key
    """
    made = secrets.token_urlsafe(32)
    say(f"key, for the reader:    {made}")
    say(f"hash, for the station:  sha256:{hashlib.sha256(made.encode()).hexdigest()}")
