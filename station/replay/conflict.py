"""How a refused request differs from the receipt that is stored under its key."""

from station import contract, store
from station.errors import DocumentError, RefusalError
from station.masking import Difference, differences
from station.receipt import Source
from station.retry import read


def differences_from_stored(
    engine: store.Engine, raw: bytes, charset: str | None, *, reveal: bool = False
) -> list[Difference] | None:
    """Return the places where it differs from the document that it contradicts, personal data masked unless `reveal`.

    `None` if they cannot be compared: no receipt is stored under the key, its documents were purged, or one of them is
    unreadable.
    """
    try:
        copy = contract.read_copy(raw, charset)
        key = copy.receipt.id_pa, copy.receipt.receipt_id
        stored = None
        for document in read(engine, store.documents_of, *key):
            if document["source"] == Source.BIZEVENTS:
                continue
            if not document["size"]:
                return None
            one = read(engine, store.document_bytes, *key, document["number"])
            if document["fullest"]:
                stored = stored or one
            if contract.unite([contract.read_copy(*one), copy]) is None:
                stored = one
                break
    except (DocumentError, RefusalError):
        return None
    if stored is None:
        return None
    return differences(_request(*stored), _request(raw, charset), reveal=reveal)


def _request(raw: bytes, charset: str | None) -> contract.Element:
    return contract.request_element(contract.parse(raw, charset).root)
