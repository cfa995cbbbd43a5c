"""`station deliveries status|list|show`."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from station import store
from station.cli import Context, cli
from station.cli.options import SHOWN_TIMES, EcId, Words, quiet_option, wide_option
from station.cli.output import say, say_json, table
from station.clock import shown
from station.store import deliveries as stored
from station.store import delivery_list
from station.text import counted, printable

_STATES = ("open", "failed", "delivered", "skipped")
_NUMBERS = ("number", "waiting", "open", "failed", "position", "failures", "tries", "HTTP", "from", "to", "receipts",
            "euro", "bytes")  # fmt: skip


@cli.group()
def deliveries() -> None:
    """Show how receipts are delivered to the EC's own systems; send again, pause, skip."""


def kind_of(context: Context, engine: store.Engine, name: str) -> str:
    """Return the kind of a destination that is configured or was served once, or a usage error."""
    with store.transaction(engine, readonly=True) as connection:
        row = stored.destinations(connection).get(name)
    configured = context.settings.destinations.get(name)
    if row is None and configured is None:
        raise click.UsageError(f"there is no destination '{printable(name)}' (see `station deliveries status`)")
    return configured.kind if configured else str(row.kind)  # type: ignore[union-attr]  # one of them is there


def found_receipt(engine: store.Engine, receipt_id: str, id_pa: str | None) -> tuple[str, str]:
    """Return the key of a receipt, or an error that names those that match."""
    with store.transaction(engine, readonly=True) as connection:
        fitting = store.list_receipts(connection, store.Filter(receipt_id=receipt_id, id_pa=id_pa), limit=20)
    if not fitting:
        raise click.ClickException("no such receipt is stored (was it refused? See `station refused list --state all`)")
    if len(fitting) > 1:
        choices = [printable(f"  --ec {row.id_pa}") for row in fitting]
        raise click.UsageError("\n".join(["several ECs have a copy of this receipt; say which:", *choices]))
    return fitting[0].id_pa, fitting[0].receipt_id


@deliveries.command(epilog=SHOWN_TIMES)
@wide_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@quiet_option
@click.pass_obj
def status(context: Context, /, wide: bool, as_line: bool) -> None:
    """Show each destination: how far it is, what waits, what failed. Exits 1 if something is late, given up or paused.

    `waiting` are the numbers behind its position, whether or not it chooses these receipts; `open` was not delivered
    yet, `failed` was given up.

    \b
    Example:
      station deliveries status
      station deliveries status --json
    """
    from station.deliver import status as use_case

    found = use_case.status(context.settings, context.engine())
    problems = list(found.problems)
    if as_line:
        say_json({"problems": problems, **asdict(found)})
    elif context.quiet and not problems:
        pass
    elif not found.destinations:
        say("No [[destination]] is configured: receipts are delivered nowhere.")
    else:
        columns: dict[str, Callable[[use_case.DestinationStatus], object]] = {
            "destination": lambda one: one.name,
            "kind": lambda one: one.kind,
            "state": lambda one: one.state,
            "position": lambda one: one.position,
            "waiting": lambda one: one.waiting,
            "open": lambda one: one.open,
            "failed": lambda one: one.failed,
            "oldest since (Italy)": lambda one: shown(one.oldest_at),
            "last success (Italy)": lambda one: shown(one.last_success_at),
            "next try (Italy)": lambda one: shown(one.next_attempt_at),
            "failures": lambda one: one.failures,
            "last error": lambda one: one.last_error,
        }
        few = ("destination", "kind", "state", "waiting", "open", "failed", "last success (Italy)")
        titles = tuple(columns) if wide else few
        rows = ([columns[title](one) for title in titles] for one in found.destinations)
        table(titles, rows, right=_NUMBERS)
        say()
        say(f"last number {found.last_number}, {counted(found.outbox, 'receipt')} in the outbox")
        for problem in problems:
            say(problem)
    raise click.exceptions.Exit(1 if problems else 0)


@deliveries.command("list", epilog=SHOWN_TIMES)
@click.argument("name", metavar="DESTINATION", type=Words())
@click.option("--state", type=click.Choice(_STATES), help="Only deliveries in this state.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Maximum number of rows.")
@click.option("--before", type=click.IntRange(1, 2**63 - 1), help="Show the next page: numbers lower than this one.")
@wide_option
@click.option("--json", "json_lines", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(
    context: Context, /, name: str, state: str | None, limit: int, before: int | None, wide: bool, json_lines: bool
) -> None:
    """List what a webhook was sent or is to be sent, or the files of a folder, the latest first.

    \b
    Example:
      station deliveries list accounting
      station deliveries list accounting --state failed --wide
    """
    engine = context.engine()
    kind = kind_of(context, engine, name)
    if kind == "feed":
        raise click.UsageError(
            f"{printable(name)} is a feed: no list is kept of what its reader asked for (see `status`)"
        )
    if kind == "folder" and (state or before):
        raise click.UsageError(f"{printable(name)} is a folder: its files have no --state and no --before")
    with store.transaction(engine, readonly=True) as connection:
        if kind == "folder":
            rows = delivery_list.list_files(connection, name, limit=limit + 1)
        else:
            rows = delivery_list.list_deliveries(connection, name, state=state, before=before, limit=limit + 1)
    more, rows = len(rows) > limit, rows[:limit]
    if json_lines:
        for row in rows:
            say_json(row._asdict())
    elif rows:
        columns = _FILE_COLUMNS if kind == "folder" else _COLUMNS
        titles = [title for title, (_, always) in columns.items() if wide or always]
        table(titles, ([columns[title][0](row) for title in titles] for row in rows), right=_NUMBERS)
    else:
        say("No file." if kind == "folder" else "No delivery matches.", err=True)
    if more:
        say(f"There are more than {limit}: see --limit." if kind == "folder" else f"more: --before {rows[-1].number}",
            err=True)  # fmt: skip


# Each title: the cell, and whether it is shown without --wide.
_COLUMNS: dict[str, tuple[Callable[[Any], object], bool]] = {
    "number": (lambda row: row.number, True),
    "EC": (lambda row: row.id_pa, True),
    "receiptId": (lambda row: row.receipt_id, True),
    "revision": (lambda row: row.revision, False),
    "numbered (Italy)": (lambda row: shown(row.numbered_at), False),
    "state": (lambda row: row.state, True),
    "tries": (lambda row: row.attempts, True),
    "HTTP": (lambda row: row.status, True),
    "last try (Italy)": (lambda row: shown(row.last_at), False),
    "next try (Italy)": (lambda row: shown(row.next_attempt_at) if row.state == "open" else "", False),
    "error": (lambda row: row.error, False),
}
_FILE_COLUMNS: dict[str, tuple[Callable[[Any], object], bool]] = {
    "planned (Italy)": (lambda row: shown(row.planned_at), True),
    "from": (lambda row: row.number_from, True),
    "to": (lambda row: row.number_to, True),
    "receipts": (lambda row: row.receipts, True),
    "euro": (lambda row: row.amount, True),
    "state": (lambda row: row.state, True),
    "tries": (lambda row: row.attempts, True),
    "bytes": (lambda row: row.size, False),
    "file": (lambda row: row.name, False),
    "next try (Italy)": (lambda row: "" if row.settled_at else shown(row.next_attempt_at), False),
    "error": (lambda row: row.error, False),
}


@deliveries.command(epilog=SHOWN_TIMES)
@click.argument("receipt_id", metavar="RECEIPT", type=Words())
@click.option("--ec", "id_pa", type=EcId(), help="The EC of the copy (idPA), where several have one.")
@wide_option
@click.option("--json", "as_line", is_flag=True, help="One JSON object on standard output.")
@click.pass_obj
def show(context: Context, /, receipt_id: str, id_pa: str | None, wide: bool, as_line: bool) -> None:
    """Show where one receipt went: its numbers, and what became of each at every destination.

    `waiting`: the destination has not come to it yet; `not chosen`: its configuration leaves this receipt out;
    `unknown`: it lies before the destination's start, or the retention has removed the delivery.

    \b
    Example:
      station deliveries show 0123456789abcdef0123456789abcdef
    """
    from station.deliver.trace import trace

    engine = context.engine()
    key = found_receipt(engine, receipt_id, id_pa)
    traces = trace(context.settings, engine, *key)
    if as_line:
        say_json({"id_pa": key[0], "receipt_id": key[1], "deliveries": [one._asdict() for one in traces]})
        return
    if not traces:
        say("It has no number yet, or there is no destination (see `station deliveries status`).", err=True)
        return
    few = ("number", "revision", "destination", "kind", "state", "tries", "HTTP", "last try (Italy)")
    titles = (*few, "next try (Italy)", "file", "error") if wide else few
    cells = (
        [one.number, one.revision, one.destination, one.kind, one.state, one.attempts, one.status, shown(one.at),
         shown(one.next_attempt_at), one.file, one.error]
        for one in traces
    )  # fmt: skip
    table(titles, (row if wide else row[: len(titles)] for row in cells), right=_NUMBERS)
    for one in traces if not wide else ():
        if one.error:
            say(f"{one.destination}: {one.error}")
