"""`station refused list|show|discard`."""

import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from station import store
from station.cli import Context, cli
from station.cli.options import (
    SHOWN_TIMES,
    TIMES,
    Moment,
    Notice,
    Number,
    Words,
    operator_name,
    operator_option,
    wide_option,
)
from station.cli.output import say, say_json, table
from station.clock import shown
from station.errors import DocumentError, ReceiptConflictError
from station.text import printable

if TYPE_CHECKING:
    from station.masking import Difference

_STATES = [*(state.value for state in store.RefusedState), "all"]
# The path of the element, its line, and the rule that it broke, as `InvalidReceiptError` words them.
_PLACE = re.compile(r"(?P<path>/[^ ]+)(?: \(line (?P<line>[0-9]+)\))?: (?P<rule>.*)", re.DOTALL)


def resolve(context: Context, given: Iterable[str]) -> tuple[str, ...]:
    """Return the ids of refused requests that begin with those given, or a usage error if not exactly one does."""
    engine = context.engine()
    resolved: list[str] = []
    for text in given:
        prefix = text.strip().lower()
        if not re.fullmatch("[0-9a-f]+", prefix):
            raise click.UsageError(
                f"'{printable(text)}' is not the id of a refused request (see `station refused list`)"
            )
        with store.transaction(engine, readonly=True) as connection:
            ids = store.refused_ids(connection, prefix)
        if len(ids) > 1:
            raise click.UsageError(f"several ids begin with {prefix}: {', '.join(ids)}")
        if not ids:
            raise click.ClickException(f"there is no refused request with the id {prefix}")
        resolved += ids
    return tuple(resolved)


def difference_line(difference: "Difference", other: str) -> str:
    """Return the line of one difference; `other` names the document that the stored receipt differs from."""
    stored, value = ("nothing" if text is None else text for text in (difference.stored, difference.other))
    return f"    {difference.name}: stored {stored}, {other} {value}"


@cli.group()
def refused() -> None:
    """List, show and discard refused requests."""


@refused.command("list", epilog=TIMES)
@click.option("--state", type=click.Choice(_STATES), default="open", show_default=True, help="Its state.")
@click.option("--id-pa", "--ec", "id_pa", type=Number(), help="The EC it was addressed to (idPA).")
@click.option("--fault-code", type=Words(), help="The fault code of the refusal, for example PAA_SINTASSI_EXTRAXSD.")
@click.option("--receipt-id", type=Words(), help="receiptId, the payment token.")
@click.option("--notice", "notice_number", type=Notice(), help="Notice number, 18 digits, with or without blanks.")
@click.option("--iuv", type=Number(), help="IUV (creditorReferenceId).")
@click.option("--since", "received_from", type=Moment(), help="Arrived on or after this day or time.")
@click.option(
    "--until", "received_to", type=Moment(end=True), help="Arrived by the end of this day, or before this time."
)
@click.option(
    "--limit", type=click.IntRange(1), help="Maximum number of rows. Default: 50 in the table, all with --json."
)
@wide_option
@click.option("--json", "json_lines", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def list_(context: Context, /, state: str, limit: int | None, wide: bool, json_lines: bool, **fields: Any) -> None:
    """List refused requests, latest arrival first.

    \b
    Example:
      station refused list
      station refused list --state all --notice 301000000000000017
      station refused list --fault-code PAA_SINTASSI_EXTRAXSD --json
    """
    condition = store.RefusedFilter(state=None if state == "all" else state, **fields)
    if json_lines:
        for row in _rows(context.engine(), condition, limit):
            say_json({name: value for name, value in row._mapping.items() if name != "raw_hash"})
        return
    limit = limit or 50
    rows = list(_rows(context.engine(), condition, limit + 1))
    columns = {
        "id": "refused_id",
        "arrived (Italy)": "received_at",
        "EC": "id_pa",
        "notice number": "notice_number",
        "receiptId": "receipt_id",
        "times": "times",
        "state": "state",
        "fault code": "fault_code",
        "reason": "reason",
    }
    titles = tuple(columns) if wide else ("id", "arrived (Italy)", "state" if state == "all" else "EC", "fault code")
    if rows:
        cells = ([getattr(row, columns[title]) for title in titles] for row in rows[:limit])
        dated = ([shown(cell) if isinstance(cell, datetime) else cell for cell in row] for row in cells)
        table(titles, dated, right=("times",))
    else:
        say("No refused request matches.", err=True)
    if len(rows) > limit:
        say(f"There are more than {limit}: see --limit.", err=True)


def _rows(engine: store.Engine, condition: store.RefusedFilter, limit: int | None) -> Any:
    after: store.Cursor | None = None
    while limit is None or limit > 0:
        size = min(limit or 500, 500)
        with store.transaction(engine, readonly=True) as connection:
            page = store.list_refused(connection, condition, after=after, newest_first=True, limit=size)
        yield from page
        if len(page) < size:
            return
        limit = None if limit is None else limit - size
        after = store.Cursor.of("received_at", page[-1], "raw_hash")


@refused.command(epilog=SHOWN_TIMES)
@click.argument("refused_id", metavar="ID")
@click.option("--xml", is_flag=True, help="Print only the exact bytes that were received.")
@click.option("--reveal", is_flag=True, help="Show personal data, instead of ***.")
@click.option("--json", "as_line", is_flag=True, help="One JSON object.")
@click.pass_obj
def show(context: Context, /, refused_id: str, xml: bool, reveal: bool, as_line: bool) -> None:
    """Show one refused request: the reason, its history, what a replay would do today, and the document.

    \b
    Example:
      station refused show 9ad2
      station refused show 9ad2f1c05b7e44aa --xml > request.xml
    """
    from station import contract, masking
    from station.replay import differences_from_stored

    (full_id,) = resolve(context, [refused_id])
    engine = context.engine()
    with store.transaction(engine, readonly=True) as connection:
        request = store.find_refused(connection, full_id)
    if request is None:  # purged between the two queries
        raise click.ClickException(f"there is no refused request with the id {full_id}")
    raw, charset = request.pop("raw"), request["charset"]
    if xml:
        sys.stdout.buffer.write(raw)
        return
    request.pop("raw_hash")
    request["bytes"] = len(raw)
    place = _PLACE.fullmatch(request["reason"]) if request["reason"].startswith("/") else None
    request["element"], request["line"], request["rule"] = place.group("path", "line", "rule") if place else (None,) * 3
    request["today"] = _today(context, engine, raw, charset)
    conflict = request["fault_code"] == ReceiptConflictError.fault_code
    differences = differences_from_stored(engine, raw, charset, reveal=reveal) if conflict else None
    request["differences"] = None if differences is None else [difference._asdict() for difference in differences]
    try:
        document = masking.pretty(
            contract.parse(raw, charset), reveal=reveal, at=request["element"], remark=f"HERE: {request['rule']}"
        )
    except DocumentError as error:
        document = [f"cannot be shown: {error}"]
    if as_line:
        say_json({**request, "document": "\n".join(document)})
        return
    history = request.pop("history")
    request.pop("differences")
    for name, value in request.items():
        if value is not None:
            say(f"{name:<15} {f'{shown(value)} (Italy)' if isinstance(value, datetime) else value}")
    for event in history:
        say(f"{'history':<15} {_event(event)}")
    if conflict:
        say("differs from the stored receipt in:" if differences else "cannot be compared with the stored one")
        for difference in differences or ():
            say(difference_line(difference, "this one"))
    say("")
    for line in document:
        say(line, length=None)


def _today(context: Context, engine: store.Engine, raw: bytes, charset: str | None) -> str:
    """Return in words what a replay would do now."""
    from station import contract
    from station.intake import Intake, Result

    try:
        document = contract.parse(raw, charset)
        outcome = Intake(engine, context.settings).preview(document, contract.request_element(document.root))
    except DocumentError as error:
        return f"no replay is possible: {error}"
    if outcome.refusal is not None:
        return f"a replay would be refused: {outcome.refusal.fault_code}: {outcome.refusal}"
    return "a replay would store it" if outcome.result is Result.STORED else "a replay would find it already stored"


def _event(event: dict[str, Any]) -> str:
    parts = [f"{shown(event['at'])} (Italy)", event["result"]]
    if event["source"]:
        parts.append(f"by {event['source']}")
    if event["operator"]:
        parts.append(f"by {event['operator']}")
    reasons = [text for text in (event["fault_code"], event["reason"]) if text]
    return "  ".join([*parts, ": ".join(reasons)]).rstrip()


@refused.command()
@click.argument("refused_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--reason", required=True, help="Why it is discarded; kept in its history.")
@operator_option
@click.pass_obj
def discard(context: Context, /, refused_ids: tuple[str, ...], reason: str, operator: str | None) -> None:
    """Mark refused requests as not to be replayed. Nothing is deleted; a replay by --id can still accept them.

    \b
    Example:
      station refused discard 9ad2 --reason "test of the PSP, confirmed by ticket 4711"
    """
    if not reason.strip():
        raise click.UsageError("--reason must not be blank")
    name = operator_name(operator)
    engine = context.engine()
    not_open = 0
    for full_id in resolve(context, refused_ids):
        with store.transaction(engine) as connection:
            request = store.find_refused(connection, full_id)
            done = request is not None and store.discard(
                connection,
                request["id_pa"],
                request["raw_hash"],
                reason=reason.strip(),
                operator=name,
                at=datetime.now(UTC),
            )
        if done:
            say(f"{full_id} discarded by {name}")
        else:
            not_open += 1
            say(f"{full_id} is {request['state'] if request else 'gone'} already: nothing was changed", err=True)
    raise click.exceptions.Exit(1 if not_open else 0)
