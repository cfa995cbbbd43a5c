"""What operators decide about deliveries by webhook: send a range again, skip one. Batch by batch, beside the loop."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from station import log, store
from station.config import Folder, Webhook
from station.deliver.content import choice
from station.retry import read, write
from station.store import delivery_list, files

_log = log.get(__name__)

_BATCH = 500

Show = Callable[[int], None]  # told the number up to which the range is done


def send_again(
    engine: store.Engine, webhook: Webhook, *, first: int, last: int, dry_run: bool, operator: str, show: Show
) -> int:
    """Make due again what a webhook chooses of the numbers from `first` to `last`. Return how many.

    Each counts as never tried. Raise `StoreError`: run it again then.
    """
    run, at = (read, None) if dry_run else (write, datetime.now(UTC))
    after, total, more = first - 1, 0, True
    while more:
        count, after, more = run(
            engine, delivery_list.again, webhook.name, choice(webhook), after=after, last=last, at=at, limit=_BATCH
        )
        total += count
        show(after)
    if not dry_run:
        _log.info(
            "deliveries_sent_again", destination=webhook.name, first=first, last=last, count=total, operator=operator
        )
    return total


def send_failed_again(
    engine: store.Engine,
    webhook: Webhook,
    *,
    dry_run: bool,
    operator: str,
    id_pas: Sequence[str] | None = None,
    most: int | None = None,
) -> int:
    """Make due again all that was given up. Return how many. Raise `StoreError`: run it again then.

    `id_pas`: only receipts of these ECs. It stops once it has made `most` due.
    """
    if dry_run:
        return int(read(engine, delivery_list.figures, id_pas)[webhook.name].failed)
    total, at = 0, datetime.now(UTC)
    while most is None or total < most:
        count = write(engine, delivery_list.again_failed, webhook.name, at=at, limit=_BATCH, id_pas=id_pas)
        total += count
        if not count:
            break
    _log.info("deliveries_sent_again", destination=webhook.name, failed=True, count=total, operator=operator)
    return total


def skip(
    engine: store.Engine, webhook: Webhook, *, first: int, last: int, reason: str, operator: str, show: Show
) -> int:
    """Settle what is open, given up or waiting of the numbers from `first` to `last`: it is not sent. Return how many.

    `reason` is kept with each. Raise `StoreError`: run it again then; `ValueError` where numbers before `first` wait
    too: what waits can be skipped from its beginning only.
    """
    at, why = datetime.now(UTC), f"skipped by {operator}: {reason}"
    position = read(engine, delivery_list.figures)[webhook.name].position
    if last > position and first > position + 1:
        raise ValueError(f"numbers from {position + 1} on wait: begin there, or end at {position} at most")
    total, count = 0, 1
    while count:
        count = write(
            engine, delivery_list.skip_open, webhook.name, first=first, last=last, at=at, reason=why, limit=_BATCH
        )
        total += count
    more = last > position
    while more:
        count, reached, more = write(
            engine,
            delivery_list.skip_waiting,
            webhook.name,
            choice(webhook),
            last=last,
            at=at,
            reason=why,
            limit=_BATCH,
        )
        total += count
        show(reached)
    _log.info(
        "deliveries_skipped",
        destination=webhook.name,
        first=first,
        last=last,
        count=total,
        reason=reason,
        operator=operator,
    )
    return total


def skip_files(engine: store.Engine, folder: Folder, *, first: int, last: int, reason: str, operator: str) -> int:
    """Give up the files of a folder that are not done and whose numbers lie from `first` to `last`. Return how many."""
    at, why = datetime.now(UTC), f"skipped by {operator}: {reason}"
    opened = [file for file in read(engine, files.open_files, folder.name) if first <= file.number_from]
    count = sum(write(engine, files.skip, file, why, at=at) for file in opened if file.number_to <= last)
    _log.info(
        "files_skipped", destination=folder.name, first=first, last=last, count=count, reason=reason, operator=operator
    )
    return count
