"""The published contract: bytes -> hardened parse -> valid tree -> `Receipt`. The only user of the XSD.

What comes in may be a SOAP 1.1 envelope, a bare request element, or the GPD API's document (the same request with its
root in no namespace). In here: `parsing` (bytes to a tree, the request in it, its identifiers), `schema` (what is
valid), `content` (what a receipt says, and the hash of it), `reading` (the `Receipt`), `values` (what texts mean). No
SOAP answers here (see `soap`), no decision about what to do with a receipt (see `intake`).
"""

from station.contract.parsing import (
    NS,
    NS_SOAP,
    NS_XSI,
    RECEIPT_OPERATIONS,
    Document,
    Element,
    identify,
    parse,
    request_element,
)
from station.contract.reading import read, same_content
from station.contract.schema import load_schema
from station.contract.values import read_date_time

__all__ = [
    "NS",
    "NS_SOAP",
    "NS_XSI",
    "RECEIPT_OPERATIONS",
    "Document",
    "Element",
    "identify",
    "load_schema",
    "parse",
    "read",
    "read_date_time",
    "request_element",
    "same_content",
]
