"""What a reader gets: pages in the order of delivery, one receipt, its exact document. All read-only."""

import json
import time
from typing import NamedTuple

from station import config, pdf, store
from station.api.problem import ProblemError
from station.deliver import content
from station.errors import MissingExtraError
from station.receipt import Source
from station.store.outgoing import Numbered, last_number, numbers_of, outgoing_page
from station.store.queries import by_key
from station.store.waiting import run_in_thread
from station.text import as_json, plain

PAGE_MAX = 4 * 1024 * 1024  # bytes of items in one answer; a thousand ordinary receipts take half of it
_TIME_S = 10.0  # that the queries of a request may take
_PDF_S = 30.0  # that a PDF may take: 10 to 30 ms where the machine has time
_encode = json.JSONEncoder(default=plain).encode  # one for all items: json.dumps makes one for each


class FeedPage(NamedTuple):
    """Items as JSON, the number to go on behind, and whether there is more now."""

    items: list[str]
    next: int
    more: bool

    def body(self) -> bytes:
        """Return the page as JSON."""
        more = "true" if self.more else "false"
        return f'{{"items": [{", ".join(self.items)}], "next": {self.next}, "more": {more}}}'.encode()


def page(engine: store.Engine, reader: config.Feed, *, after: int, limit: int) -> FeedPage:
    """Return what is chosen for a reader behind `after`. Raise `ProblemError` for a number that was never given."""
    with store.transaction(engine, readonly=True, until=time.monotonic() + _TIME_S) as connection:
        found = outgoing_page(connection, content.choice(reader), after=after, limit=limit)
        last = last_number(connection) if found.next > 0 and not found.items and not found.more else None
    if last is not None and after > last:
        raise ProblemError(
            409,
            "after_too_high",
            f"after: {after} was never given, the last number is {last}. The database was probably restored from a "
            "backup, and numbers were given again: read again from a number before the backup.",
            last=last,
        )
    items: list[str] = []
    size = 0
    for one in found.items:
        items.append(_encode(content.item(one)))
        size += len(items[-1])
        if size > PAGE_MAX and one is not found.items[-1]:
            return FeedPage(items, one.number, True)
    return FeedPage(items, found.next, found.more)


def receipt(engine: store.Engine, reader: config.Feed, id_pa: str, receipt_id: str) -> bytes:
    """Return a receipt, its documents and its numbers, as JSON. Raise `ProblemError`."""
    with store.transaction(engine, readonly=True, until=time.monotonic() + _TIME_S) as connection:
        found = _find(connection, reader, id_pa, receipt_id)
        documents = store.documents_of(connection, id_pa, receipt_id)
        numbers = numbers_of(connection, id_pa, receipt_id)
    events = []
    for row in numbers:
        numbered = Numbered(row.number, row.revision, row.numbered_at, found)
        events.append(content.item(numbered, thin=True))
        del events[-1]["receipt"]
    return as_json({"receipt": found, "documents": documents, "numbers": events}).encode()


def document(
    engine: store.Engine, reader: config.Feed, id_pa: str, receipt_id: str, number: int | None
) -> tuple[bytes, str | None]:
    """Return the bytes of a document of a receipt, and the character set that came with it. Raise `ProblemError`.

    `number` as in `store.documents_of`; `None`: the fullest.
    """
    with store.transaction(engine, readonly=True, until=time.monotonic() + _TIME_S) as connection:
        _find(connection, reader, id_pa, receipt_id)
        documents = store.documents_of(connection, id_pa, receipt_id)
        wanted = [one for one in documents if (one["fullest"] if number is None else one["number"] == number)]
        if not wanted:
            raise ProblemError(404, "not_found", f"The receipt has no document {number}.")
        if wanted[0]["source"] == Source.BIZEVENTS:
            raise ProblemError(
                404, "no_document", "BizEvents told of this receipt, as JSON: there is no XML of it yet."
            )
        if not wanted[0]["size"]:
            detail = "The document was deleted when its retention period ended; the receipt's data may be there."
            raise ProblemError(410, "document_purged", detail)
        return store.document_bytes(connection, id_pa, receipt_id, wanted[0]["number"])


def printed_copy(
    engine: store.Engine, settings: config.Settings, reader: config.Feed, id_pa: str, receipt_id: str
) -> bytes:
    """Return the printed copy of a receipt as a PDF, made while others are served. Raise `ProblemError`."""
    with store.transaction(engine, readonly=True, until=time.monotonic() + _TIME_S) as connection:
        _find(connection, reader, id_pa, receipt_id)
        found = store.find(connection, id_pa, receipt_id)
    if found is None:  # it went in between
        raise _not_found()
    whole = found
    try:
        return run_in_thread(lambda: pdf.render(settings, whole), _PDF_S)
    except MissingExtraError as error:
        raise ProblemError(501, "pdf_not_installed", f"{error}.") from None
    except TimeoutError:
        raise ProblemError(503, "overloaded", "The PDF took too long: try again.", ("Retry-After", "5")) from None


def _find(connection: store.Connection, reader: config.Feed, id_pa: str, receipt_id: str) -> dict[str, object]:
    """Return a receipt of the reader's. Raise the same `ProblemError` for one of others and for none."""
    if "\0" not in id_pa + receipt_id and (not reader.ecs or id_pa in reader.ecs):
        for found in by_key(connection, [(id_pa, receipt_id)]):
            if content.choice(reader).has(found):
                return found
    raise _not_found()


def _not_found() -> ProblemError:
    return ProblemError(404, "not_found", "There is no such receipt, or it is not this reader's.")
