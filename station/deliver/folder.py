"""A folder: a file at a time of day or every so often, with all receipts since the one before.

A file is planned, written, and handed to the operator's command; each step is a row's state in the database, so that
the next deliverer goes on where one was killed. It is planned with its numbers before it is written: ranges follow one
another without gap or overlap, and a file that is written again has the same name and the same receipts.
"""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

from station import config, journal, log, store
from station.clock import ROME
from station.deliver import archive, command, schedule
from station.deliver.content import choice
from station.errors import StationError
from station.retry import read, write
from station.store import deliveries, files, outgoing

_log = log.get(__name__)

FILE_RECEIPTS_MAX = 50_000  # of each some 1.5 KB are held in memory: its names in the ZIP and in the manifest
_PAGE = 100  # receipts with their documents, which may have a megabyte each
_MODE = 0o640  # readable by the folder's group: another user's program fetches the file
_AMOUNT_MAX = 10**10  # the column's; a sum beyond it is in the manifest only
# The journal has a row for each file, of no receipt: the list of files tells which numbers are in it.
_NO_RECEIPT = dict.fromkeys(
    ("id_pa", "id_broker_pa", "id_station", "notice_number", "iuv", "receipt_id", "id_psp", "id_channel",
     "payment_method")
)  # fmt: skip


class FileUnfinishedError(StationError):
    """The station stops: the file is written by the next one."""

    code = "delivery_stopped"


def _never() -> bool:
    return False


def next_time(folder: config.Folder, now: datetime) -> datetime:
    """Return when the next file is due after `now`.

    `at` is a time of Italian clocks: one that the change to summer time leaves out is an hour later, and of the hour
    that comes twice the first counts. `every_minutes` are counted from midnight in Italy.
    """
    today = now.astimezone(ROME).date()
    for day in (today, today + timedelta(days=1)):
        if folder.at is not None:
            at = datetime.combine(day, folder.at, ROME).astimezone(UTC)
            if at > now:
                return at
    midnight, end = (
        datetime.combine(day, time_of_day(), ROME).astimezone(UTC) for day in (today, today + timedelta(days=1))
    )
    step = timedelta(minutes=folder.every_minutes or 1440)
    return min(midnight + ((now - midnight) // step + 1) * step, end)


def file_name(destination: str, planned_at: datetime, first: int, last: int) -> str:
    """Return the name of a file: Italian time, and its numbers. `b`: of the hour that comes twice, the second."""
    local = planned_at.astimezone(ROME)
    return f"{destination}_{local:%Y-%m-%d_%H%M%S}{'b' * local.fold}_{first}-{last}.zip"


def serve(
    settings: config.Settings,
    engine: store.Engine,
    folder: config.Folder,
    *,
    now: datetime,
    stopping: Callable[[], bool] = _never,
) -> bool:
    """Do all that is due for a folder: plan a file, write it, run its command. Return whether nothing is left open.

    The first file is due at the first time of the schedule after the folder's row in `destination` was made; one that
    was missed is written at once, and what others would have had that were missed behind it is in it. While a file
    cannot be written no other is planned. Failures of the disk and of the command are tried again by the schedule of
    retries, in order. Raise `StoreError`.
    """
    return _FolderTurn(settings, engine, folder, now, stopping).serve()


def plan_again(engine: store.Engine, folder: config.Folder, first: int, last: int, *, now: datetime) -> list[str]:
    """Plan extra files with the numbers `first` to `last`, which the deliverer writes. Return their names.

    The folder's own ranges go on as if there were none. Numbers beyond the last one that was given are left out.
    """
    names: list[str] = []
    first = max(first, 1)
    last = min(last, read(engine, outgoing.last_number))
    while first <= last:
        end = read(engine, outgoing.range_end, folder.ecs, after=first - 1, limit=FILE_RECEIPTS_MAX)
        to = min(end, last)
        name = file_name(folder.name, now, first, to).replace(".zip", "_again.zip")

        def once(connection: store.Connection, first: int = first, to: int = to, name: str = name) -> None:
            at = files.free_time(connection, folder.name, now)
            files.add(connection, folder.name, name, first=first, last=to, at=at)

        write(engine, once)
        names.append(name)
        first = to + 1
    return names


@dataclass(frozen=True, slots=True)
class _FolderTurn:
    """All that is due for a folder at `now`."""

    settings: config.Settings
    engine: store.Engine
    folder: config.Folder
    now: datetime
    stopping: Callable[[], bool]

    def serve(self) -> bool:
        while not self.stopping():
            planned = read(self.engine, files.next_file, self.folder.name, files.PLANNED)
            written = read(self.engine, files.next_file, self.folder.name, files.WRITTEN)
            if planned is not None and self._is_due(planned):
                self._write(planned)
            elif written is not None and self._is_due(written):
                self._run(written)
            elif planned is not None or not self._plan():
                return planned is None and written is None
        return False

    def _is_due(self, file: Any) -> bool:
        # What was never tried is due whatever its time: the clock may have been set back since.
        return file.attempts == 0 or schedule.is_past(file.next_attempt_at, self.now)

    def _plan(self) -> bool:
        """Plan a file if one is due. Return whether it did."""
        folder, now = self.folder, self.now
        due, found = next_time(folder, now), read(self.engine, files.destination_of, folder.name)
        if found is None:
            return False
        if found.next_attempt_at is None or found.next_attempt_at > now:
            # A time in the future is the next one of the schedule, unless that was changed, or the clock.
            if found.next_attempt_at != due:
                write(self.engine, deliveries.change, folder.name, {"next_attempt_at": due})
            return False

        def once(connection: store.Connection) -> bool:
            last = outgoing.last_number(connection)
            to = outgoing.range_end(connection, folder.ecs, after=found.position, limit=FILE_RECEIPTS_MAX)
            name = file_name(folder.name, now, found.position + 1, to)
            # What is more than one file holds follows at once in the next.
            next_at = due if to >= last else found.next_attempt_at
            at = files.free_time(connection, folder.name, now)
            return files.plan(connection, found, name, to=to, at=at, next_at=next_at)

        return write(self.engine, once)

    def _write(self, file: Any) -> None:
        """Write a planned file, and say in the database that it is written, or why it is not."""
        folder, now = self.folder, self.now
        path, began = Path(folder.path) / file.name, time.monotonic()
        first, last = file.number_from, file.number_to
        try:
            # It may have its name already: the deliverer that wrote it was killed before it could say so.
            counts = archive.read(path, folder, first=first, last=last) if path.is_file() else None
            if counts is None:
                with _whole_file(path) as sink:
                    pages = self._pages(first, last)
                    counts = archive.write(sink, pages, folder, first=first, last=last, planned_at=file.planned_at)
            _sync_folder(path.parent)
            with path.open("rb") as written:
                digest, size = file_digest(written, "sha256").hexdigest(), written.seek(0, os.SEEK_END)
        except FileUnfinishedError:
            return
        except OSError as error:
            reason = f"{error.filename or folder.path} cannot be written: {error.strerror or error}"
            self._ended(file, began, {}, ("unreachable", reason))
            return
        values = counts._asdict() | {"size": size, "sha256": digest}
        if counts.amount >= _AMOUNT_MAX:
            values["amount"] = None
        _log.info("file_written", destination=folder.name, file=file.name, receipts=counts.receipts, size=size)
        if folder.after:
            # One that its command moved is written again: it is that command's attempts that count then.
            kept = {"attempts": 0, "error": None} if file.sha256 is None else {}
            values |= {"state": files.WRITTEN, "next_attempt_at": now, "last_at": now} | kept
            write(self.engine, files.set_file, file, values, of_destination={"last_attempt_at": now})
        else:
            self._ended(file, began, values, None)

    def _pages(self, first: int, last: int) -> Iterator[list[archive.Line]]:
        """Yield the receipts with these numbers, each once and as it is now, a page at a time.

        A receipt of which the range has several revisions is there by the first of its numbers.
        """
        chosen, after = choice(self.folder), first - 1

        def page(connection: store.Connection) -> tuple[list[archive.Line], int, bool]:
            found = outgoing.outgoing_page(connection, chosen, after=after, limit=_PAGE, last=last, raw=True)
            keys = [(item.receipt["id_pa"], item.receipt["receipt_id"]) for item in found.items]
            numbers = outgoing.numbers_by_key(connection, keys)
            lines = []
            for item, key in zip(found.items, keys, strict=True):
                if item.number == min(number for number in numbers[key] if number >= first):
                    lines.append(archive.Line(item.number, item.number == numbers[key][0], item.receipt))
            return lines, found.next, found.more

        more = first <= last
        while more:
            if self.stopping():
                raise FileUnfinishedError
            lines, after, more = read(self.engine, page)
            yield lines

    def _run(self, file: Any) -> None:
        """Run the operator's command with a written file. After a crash it may have the same file again."""
        folder, began, failure = self.folder, time.monotonic(), None
        if folder.after:
            path = Path(folder.path) / file.name
            if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be read
                # The command moved it, and failed or was not noted as done: it cannot be sent unless it is there.
                values = {"state": files.PLANNED}
                write(self.engine, files.set_file, file, values, of_destination={"last_attempt_at": self.now})
                return
            arguments = (*folder.after, str(path.absolute()))
            reason, output = command.run(arguments, timeout=folder.after_timeout, stopping=self.stopping)
            if reason is None:
                _log.info("command_ended", destination=folder.name, file=file.name, output=output)
            elif self.stopping():
                return
            else:
                failure = "refused", f"{folder.after[0]}: {reason}{f': {output}' if output else ''}"
        self._ended(file, began, {}, failure)

    def _ended(self, file: Any, began: float, values: dict[str, Any], failure: tuple[str, str] | None) -> None:
        """Say in the database how a step ended that began at `began` of `time.monotonic`.

        `failure`: its word and for people why, `None` where the file is done. `values` are columns of the file.
        """
        now, attempts = self.now, file.attempts + 1
        if failure is None:
            result = "delivered"
            values |= {"state": files.DONE, "settled_at": now, "error": None}
            health: dict[str, Any] = {"failures": 0, "last_success_at": now}
        else:
            result, reason = failure[0], log.safe(failure[1])
            next_at = now + schedule.delay(attempts)
            _log.warning("file_failed", destination=file.destination, file=file.name, reason=reason, next_at=next_at)
            values |= {"attempts": attempts, "next_attempt_at": next_at, "error": reason}
            health = {"failures": attempts, "last_error": reason}
        entry = journal.delivery(
            _NO_RECEIPT, at=now, event_id=secrets.randbits(63), operation="folder", destination=file.destination,
            webhook_id=file.name, reason=None if failure is None else result, http_status=None,
            took_s=time.monotonic() - began, size=values.get("size", file.size) or 0,
        )  # fmt: skip

        def once(connection: store.Connection) -> None:
            changed = {"last_attempt_at": now} | health
            if files.set_file(connection, file, values | {"last_at": now}, of_destination=changed):
                deliveries.count(connection, file.destination, result)
                if self.settings.journal.enabled:
                    store.write_exchange(connection, entry)

        write(self.engine, once)


@contextmanager
def _whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that has its name when it is complete and on the disk; nothing is left of one that fails."""
    for left in path.parent.glob(f".{path.name}.*.part"):  # by a deliverer that was killed
        with suppress(FileNotFoundError):
            left.unlink()
    # Names of their own: where two deliverers write the same file, both are whole.
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as sink:
            with suppress(OSError):  # a share of Windows has other modes
                os.fchmod(sink.fileno(), _MODE)
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def _sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk, where its file system can. Raise `OSError`."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)
