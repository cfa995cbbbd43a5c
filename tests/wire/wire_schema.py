"""The published schema, as a client has it: from our `wsdl` folder, not from the station's code."""

from functools import cache
from pathlib import Path

from lxml import etree


@cache
def response_schema() -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(Path(__file__).parent.parent.parent / "wsdl" / "paForNode.xsd"))
