"""The published contract: bytes -> hardened parse -> valid tree -> `Receipt`. The only user of the XSD.

What comes in may be a SOAP 1.1 envelope, a bare request element, or the GPD API's document (the same request with its
root in no namespace). In here: `parsing` (bytes to a tree, the request in it, its identifiers), `schema` (validity),
`content` (a receipt's fields, values and hash), `reading` (the `Receipt`), `comparison` (several documents of one
receipt), `provisional` (BizEvents' JSON in their place). No SOAP answers here (see `soap`), no decision about what to
do with a receipt (see `intake`).
"""

from station.contract.comparison import ReadDocument, United, read_copy, unite
from station.contract.content import read_date_time
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
from station.contract.provisional import read_provisional
from station.contract.reading import read
from station.contract.schema import load_schema

__all__ = [
    "NS",
    "NS_SOAP",
    "NS_XSI",
    "RECEIPT_OPERATIONS",
    "Document",
    "Element",
    "ReadDocument",
    "United",
    "identify",
    "load_schema",
    "parse",
    "read",
    "read_copy",
    "read_date_time",
    "read_provisional",
    "request_element",
    "unite",
]
