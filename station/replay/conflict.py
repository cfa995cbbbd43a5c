"""How a refused request differs from the receipt that is stored under its key."""

from station import contract, store
from station.errors import DocumentError, RefusalError
from station.masking import Difference, differences
from station.retry import retrying


def differences_from_stored(
    engine: store.Engine, raw: bytes, charset: str | None, *, reveal: bool = False
) -> list[Difference] | None:
    """The places where they differ, personal data masked unless `reveal`.

    `None` where that cannot be told: no receipt is stored under the key, its document was purged, or one of them
    cannot be read.
    """
    try:
        receipt = contract.read(_request(raw, charset))
    except (DocumentError, RefusalError):
        return None

    def find() -> tuple[bytes, str | None] | None:
        with store.transaction(engine, readonly=True) as connection:
            found = store.find(connection, receipt.id_pa, receipt.receipt_id)
        return (found["raw"], found["charset"]) if found else None

    stored = retrying(find)
    if stored is None or not stored[0]:
        return None
    # Parsed again: reading takes elements out of the tree that the schema does not know.
    return differences(_request(*stored), _request(raw, charset), reveal=reveal)


def _request(raw: bytes, charset: str | None) -> contract.Element:
    return contract.request_element(contract.parse(raw, charset).root)
