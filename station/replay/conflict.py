"""How a refused request differs from the receipt that is stored under its key."""

from station import contract, store
from station.errors import DocumentError, RefusalError
from station.masking import Difference, differences
from station.retry import read


def differences_from_stored(
    engine: store.Engine, raw: bytes, charset: str | None, *, reveal: bool = False
) -> list[Difference] | None:
    """Return the places where they differ, personal data masked unless `reveal`.

    `None` if they cannot be compared: no receipt is stored under the key, its document was purged, or one of them is
    unreadable.
    """
    try:
        receipt = contract.read(_request(raw, charset))
    except (DocumentError, RefusalError):
        return None
    stored = read(engine, store.find, receipt.id_pa, receipt.receipt_id)
    if stored is None or not stored["raw"]:
        return None
    # Parsed again: reading removes elements unknown to the schema.
    return differences(_request(stored["raw"], stored["charset"]), _request(raw, charset), reveal=reveal)


def _request(raw: bytes, charset: str | None) -> contract.Element:
    return contract.request_element(contract.parse(raw, charset).root)
