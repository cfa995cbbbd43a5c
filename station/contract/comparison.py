"""One receipt, several documents: whether they contradict each other, and the receipt that they make together.

The same payment arrives as version 1 and version 2, from the Nodo and from the GPD API, which drops fields that it does
not know. All of them state the same, one more than another.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from station.contract.content import Statements, read_statements
from station.contract.parsing import parse, request_element
from station.contract.reading import read
from station.receipt import ODDITIES, Flag, Receipt, Transfer, oddities


class ReadDocument(NamedTuple):
    """One document of a receipt, as it is read today."""

    receipt: Receipt
    statements: Statements


class United(NamedTuple):
    """The receipt that several documents make together, with the hash of each; `fullest` is the index of the one that
    states most.

    Its columns are the union of the documents' columns. Version and hash are the fullest document's, broker and station
    the first one's.
    """

    receipt: Receipt
    hashes: tuple[bytes, ...]
    fullest: int


def read_copy(raw: bytes, charset: str | None) -> ReadDocument:
    """Return the receipt in a document, with its statements. Raises `DocumentError` or the refusal."""
    request = request_element(parse(raw, charset).root)
    return ReadDocument(read(request), read_statements(request))


def unite(copies: Sequence[ReadDocument]) -> United | None:
    """Return the receipt that documents of one `idPA` and `receiptId` make together, `None` if two contradict.

    They contradict where the schema knows a field and two of them state it with different values. Content that the
    schema does not know is only flagged where it differs: no rule says what it means.
    """
    known, unknown = Statements({}, {})
    differs = False
    for copy in copies:
        if any(known.get(path, forms) != forms for path, forms in copy.statements.known.items()):
            return None
        differs |= any(unknown.get(path, forms) != forms for path, forms in copy.statements.unknown.items())
        known.update(copy.statements.known)
        unknown.update(copy.statements.unknown)
    # The document that states most; the earliest of several that state as much.
    fullest = max(range(len(copies)), key=lambda index: tuple(map(len, copies[index].statements)))
    receipt = copies[fullest].receipt
    for copy in copies:
        receipt = _filled(receipt, copy.receipt)
    flags = oddities(receipt).union(*(copy.receipt.flags - ODDITIES for copy in copies))
    first = copies[0].receipt
    receipt = receipt._replace(
        id_broker_pa=first.id_broker_pa,
        id_station=first.id_station,
        flags=flags | {Flag.UNKNOWN_CONTENT_DIFFERS} if differs else flags,
    )
    return United(receipt, tuple(copy.receipt.content_hash for copy in copies), fullest)


def _filled(receipt: Receipt, other: Receipt) -> Receipt:
    """Return `receipt` with the fields that only `other` has. A fee of 0.00 and a `standIn` false count as none."""
    fields: dict[str, Any] = {
        name: theirs
        for name, ours, theirs in zip(Receipt._fields, receipt, other, strict=True)
        if not ours and theirs is not None
    }
    fields["metadata"] = _united_metadata(receipt.metadata, other.metadata)
    # The fields that every transfer has tell which of the other's is the same one: an idTransfer may occur twice.
    remaining = list(other.transfers)
    transfers = []
    for ours in receipt.transfers:
        theirs = next((one for one in remaining if _identity(one) == _identity(ours)), ours)
        if theirs in remaining:
            remaining.remove(theirs)
        transfers.append(_filled_transfer(ours, theirs))
    return receipt._replace(**fields | {"transfers": (*transfers, *remaining)})


def _identity(transfer: Transfer) -> tuple[object, ...]:
    return (transfer.id_transfer, transfer.amount, transfer.fiscal_code_pa, transfer.remittance_information)


def _filled_transfer(transfer: Transfer, other: Transfer) -> Transfer:
    return transfer._replace(
        company_name=transfer.company_name or other.company_name,
        iban=transfer.iban or other.iban,
        digital_stamp=transfer.digital_stamp or other.digital_stamp,
        metadata=_united_metadata(transfer.metadata, other.metadata),
    )


def _united_metadata(
    entries: Iterable[tuple[str, str]], others: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    entries = tuple(entries)
    keys = {key for key, _ in entries}
    return (*entries, *(entry for entry in others if entry[0] not in keys))
