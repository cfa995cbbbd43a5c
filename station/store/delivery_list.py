"""Deliveries as operators see them: figures for each destination, lists, send again, skip. Nothing here commits.

Each figure is read by an index, however many receipts there are.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Row, Select, and_, func, literal, literal_column, select, update

from station.store import tables
from station.store.limits import among
from station.store.outgoing import Choice, outgoing_page
from station.store.rows import insert

OPEN_COUNTED = 100_000
FILES_SHOWN = 1000  # of a folder, the latest: those that are not done are among them

_delivery, _destination, _file = tables.delivery.c, tables.destination.c, tables.delivery_file.c
_outgoing, _receipt = tables.outgoing.c, tables.receipt.c
# Word by word as the partial indexes have them: a condition with a parameter would not be known for the same.
_OPEN = _delivery.state == literal_column("'open'")
_FAILED = _delivery.state == literal_column("'failed'")


def _of_ecs(id_pas: Sequence[str] | None) -> list[Any]:
    """Return the condition for a delivery to be of a receipt of these ECs; none where these are all."""
    if id_pas is None:
        return []
    mine: Select[Any] = select(literal_column("1")).where(
        _outgoing.number == _delivery.number, *among(_outgoing.id_pa, id_pas)
    )
    return [mine.correlate(tables.delivery).exists()]


def figures(connection: Connection, id_pas: Sequence[str] | None = None) -> dict[str, Row[Any]]:
    """Return all columns of each destination that was served once, by name, and how far it is behind.

    `id_pas`: counting receipts of these ECs only; then `behind` counts those behind `position`, `OPEN_COUNTED` at most.
    `open` and `failed` (given up) count deliveries by webhook, `OPEN_COUNTED` at most; `open_at`: since when the open
    one with the lowest number is open; `behind_at`: when the first number behind `position` was given. Of a folder:
    `file_at`, when its latest file was planned, `file_done_at`, when the latest that is done was, and `file_open_at`,
    when the oldest that is not done was.
    """
    theirs = and_(_delivery.destination == _destination.name, *_of_ecs(id_pas))
    behind = (_outgoing.number > _destination.position, *among(_outgoing.id_pa, id_pas))

    def counted(*conditions: Any) -> Any:
        some: Select[Any] = (
            select(literal_column("1")).where(*conditions).correlate(tables.destination).limit(OPEN_COUNTED)
        )
        return select(func.count()).select_from(some.subquery()).scalar_subquery()

    def first(query: Select[Any]) -> Any:
        return query.correlate(tables.destination).limit(1).scalar_subquery()

    files = select(_file.planned_at).where(_file.destination == _destination.name).order_by(_file.planned_at.desc())
    query = select(
        tables.destination,
        counted(theirs, _OPEN).label("open"),
        counted(theirs, _FAILED).label("failed"),
        (literal(None, Integer) if id_pas is None else counted(*behind)).label("behind"),
        first(
            select(func.coalesce(_delivery.first_at, _delivery.next_attempt_at))
            .where(theirs, _OPEN)
            .order_by(_delivery.number)
        ).label("open_at"),
        first(select(_outgoing.numbered_at).where(*behind).order_by(_outgoing.number)).label("behind_at"),
        first(files).label("file_at"),
        first(files.where(_file.state == "done")).label("file_done_at"),
        first(
            select(_file.planned_at)
            .where(_file.destination == _destination.name, tables.NOT_SETTLED)
            .order_by(_file.planned_at)
        ).label("file_open_at"),
    ).order_by(_destination.name)
    return {row.name: row for row in connection.execute(query)}


def list_deliveries(
    connection: Connection,
    name: str,
    *,
    state: str | None = None,
    before: int | None = None,
    id_pas: Sequence[str] | None = None,
    limit: int = 50,
) -> Sequence[Row[Any]]:
    """Return what a webhook was sent or is to be sent, the highest number first: a page of those below `before`.

    `id_pas`: only receipts of these ECs. Each row has the columns of `delivery`, and the receipt's key, `revision` and
    `numbered_at`.
    """
    query = select(tables.delivery, _outgoing.id_pa, _outgoing.receipt_id, _outgoing.revision, _outgoing.numbered_at)
    query = query.select_from(tables.delivery.join(tables.outgoing, _outgoing.number == _delivery.number))
    query = query.where(_delivery.destination == name, *among(_outgoing.id_pa, id_pas))
    if state is not None:
        query = query.where({"open": _OPEN, "failed": _FAILED}.get(state, _delivery.state == state))
    if before is not None:
        query = query.where(_delivery.number < before)
    return connection.execute(query.order_by(_delivery.number.desc()).limit(limit)).all()


def find_delivery(
    connection: Connection, name: str, number: int, *, id_pas: Sequence[str] | None = None
) -> Row[Any] | None:
    """Return a delivery as `list_deliveries` does; `None` where there is none of these ECs."""
    rows = list_deliveries(connection, name, before=number + 1, id_pas=id_pas, limit=1)
    return rows[0] if rows and rows[0].number == number else None


def list_files(
    connection: Connection, name: str, *, before: datetime | None = None, limit: int = FILES_SHOWN
) -> Sequence[Row[Any]]:
    """Return the files of a folder, the latest first: a page of those that were planned before `before`."""
    query = select(tables.delivery_file).where(_file.destination == name).order_by(_file.planned_at.desc())
    if before is not None:
        query = query.where(_file.planned_at < before)
    return connection.execute(query.limit(limit)).all()


def deliveries_of(connection: Connection, numbers: Sequence[int]) -> Sequence[Row[Any]]:
    """Return the deliveries of these numbers to every webhook."""
    names = select(_destination.name).where(_destination.kind == "webhook")
    query = select(tables.delivery).where(_delivery.destination.in_(names), _delivery.number.in_(numbers))
    return connection.execute(query.order_by(_delivery.destination, _delivery.number)).all()


def file_of(connection: Connection, name: str, number: int) -> Row[Any] | None:
    """Return the first file of a folder whose numbers include this one."""
    query = select(tables.delivery_file).where(
        _file.destination == name, _file.number_from <= number, _file.number_to >= number
    )
    return connection.execute(query.order_by(_file.planned_at).limit(1)).one_or_none()


def numbers_between(connection: Connection, start: datetime, end: datetime) -> tuple[int, int] | None:
    """Return the lowest and the highest number of the receipts that arrived from `start` to before `end`.

    `None` if there are none. In between there may be numbers of receipts that arrived earlier or later.
    """
    of_receipt = (_receipt.id_pa == _outgoing.id_pa) & (_receipt.receipt_id == _outgoing.receipt_id)
    query = select(func.min(_outgoing.number), func.max(_outgoing.number))
    query = query.select_from(tables.receipt.join(tables.outgoing, of_receipt))
    row = connection.execute(query.where(_receipt.received_at >= start, _receipt.received_at < end)).one()
    return None if row[0] is None else (row[0], row[1])


# --- what operators change --------------------------------------------------------------------------------------------


def again_failed(
    connection: Connection, name: str, *, at: datetime, limit: int, id_pas: Sequence[str] | None = None
) -> int:
    """Open deliveries of a webhook that were given up, the lowest numbers first. Return how many.

    `id_pas`: only receipts of these ECs.
    """
    some = select(_delivery.number).where(_delivery.destination == name, _FAILED, *_of_ecs(id_pas))
    some = some.order_by(_delivery.number)
    reopen = update(tables.delivery).where(_delivery.destination == name, _FAILED)
    return connection.execute(reopen.where(_delivery.number.in_(some.limit(limit))).values(_opened(at))).rowcount


def again(
    connection: Connection, name: str, choice: Choice, *, after: int, last: int, at: datetime | None, limit: int
) -> tuple[int, int, bool]:
    """Open a page of the deliveries behind `after` up to `last` of what a webhook chooses, whatever became of them.

    Return how many, the number to go on behind, and whether there may be more. `at`: now; `None` changes nothing.
    """
    page = outgoing_page(connection, choice, after=after, limit=limit, last=last)
    if page.items and at is not None:
        rows = [{"destination": name, "number": one.number} | _opened(at) for one in page.items]
        _put(connection, rows)
    return len(page.items), page.next, page.more


def skip_open(
    connection: Connection, name: str, *, first: int, last: int, at: datetime, reason: str, limit: int
) -> int:
    """Settle deliveries of a webhook from `first` to `last` that are open or given up. Return how many."""
    unsettled = (_delivery.destination == name, _OPEN | _FAILED)
    some = select(_delivery.number).where(*unsettled, _delivery.number >= first, _delivery.number <= last).limit(limit)
    settle = update(tables.delivery).where(*unsettled, _delivery.number.in_(some))
    return connection.execute(settle.values(_skipped(at, reason))).rowcount


def skip_waiting(
    connection: Connection, name: str, choice: Choice, *, last: int, at: datetime, reason: str, limit: int
) -> tuple[int, int, bool]:
    """Settle a page of what waits behind a webhook's position, up to `last`, and move the position.

    Return how many, the new position, and whether there may be more.
    """
    # Locks the row, so that the deliverer does not claim the same numbers at the same time.
    mine = _destination.name == name
    connection.execute(update(tables.destination).where(mine).values(position=_destination.position))
    position = connection.execute(select(_destination.position).where(mine)).scalar_one()
    page = outgoing_page(connection, choice, after=position, limit=limit, last=last)
    if page.items:
        fresh = {"attempts": 0, "next_attempt_at": at, "first_at": None, "last_at": None, "status": None}
        rows = [{"destination": name, "number": one.number} | fresh | _skipped(at, reason) for one in page.items]
        _put(connection, rows)
    connection.execute(update(tables.destination).where(mine).values(position=page.next))
    return len(page.items), page.next, page.more


def _put(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of `delivery`, also over those that are there."""
    statement = insert(connection, tables.delivery)
    changed = {column: statement.excluded[column] for column in rows[0] if column not in ("destination", "number")}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["destination", "number"], set_=changed), list(rows)
    )


def _opened(at: datetime) -> dict[str, Any]:
    return {
        "state": "open", "attempts": 0, "next_attempt_at": at, "first_at": None, "last_at": None, "status": None,
        "error": None, "settled_at": None,
    }  # fmt: skip


def _skipped(at: datetime, reason: str) -> dict[str, Any]:
    return {"state": "skipped", "error": reason, "settled_at": at}
