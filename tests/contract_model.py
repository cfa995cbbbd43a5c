"""The components of a WSDL 1.1 contract and of the schemas it imports, as plain data.

Two contracts are the same when their models are equal. Prefixes, comments, documentation, layout, file names and
defaults written out or left out make no difference; names, types, order, occurrence, facets and bindings do. Anything
the model has no place for (an attribute, a wildcard, a header) is an error, so that nothing is compared by leaving it
out. Not here: the comparison itself and what ours is compared with, which are in test_wsdl.py.

Run with the path of a WSDL, it writes the model as JSON: so was data/contract_components.json made, and so
`make contract` compares it with a copy of the published files.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lxml import etree

XS = "http://www.w3.org/2001/XMLSchema"
WSDL = "http://schemas.xmlsoap.org/wsdl/"
SOAP = "http://schemas.xmlsoap.org/wsdl/soap/"

FACETS = (
    "length",
    "minLength",
    "maxLength",
    "pattern",
    "enumeration",
    "whiteSpace",
    "maxInclusive",
    "maxExclusive",
    "minInclusive",
    "minExclusive",
    "totalDigits",
    "fractionDigits",
)

Model = dict[str, Any]


class UnmodelledError(Exception):
    """The contract holds something the model has no place for."""

    def __init__(self, node: etree._Element, what: str) -> None:
        super().__init__(f"{node.base}:{node.sourceline}: {etree.QName(node).localname}: {what}")


def contract_model(wsdl: Path) -> Model:
    """The model of the WSDL at that path and of every schema that is reached from it."""
    root = _parse(wsdl)
    _check(root, {"targetNamespace"}, _named(WSDL, "types", "message", "portType", "binding", "service"))
    inline = []
    for types in root.iterfind(f"{{{WSDL}}}types"):
        _check(types, set(), _named(XS, "schema"))
        inline.extend((wsdl, schema) for schema in _children(types))
    target = root.get("targetNamespace")
    return {
        "wsdl": {
            "target_namespace": target,
            "messages": _table(root, "message", target, _message),
            "port_types": _table(root, "portType", target, _port_type),
            "bindings": _table(root, "binding", target, _binding),
            "services": _table(root, "service", target, _service),
        },
        "schemas": _schemas(inline),
    }


def dump(model: Model) -> str:
    """The model as the text that is kept in a file: sorted keys, so that a change shows where it is."""
    return json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# Schemas


def _schemas(documents: list[tuple[Path, etree._Element]]) -> Model:
    """Models by target namespace ("" for none), following each import's schemaLocation from the file it stands in."""
    models: Model = {}
    read: set[Path] = set()
    while documents:
        path, schema = documents.pop()
        target = schema.get("targetNamespace", "")
        if target in models:
            raise UnmodelledError(schema, f"a second schema for namespace {target!r}")
        models[target] = _schema(schema)
        for node in schema.iterfind(f"{{{XS}}}import"):
            if "schemaLocation" not in node.attrib:
                raise UnmodelledError(node, "no schemaLocation")
            imported = (path.parent / node.attrib["schemaLocation"]).resolve()
            if imported in read:
                continue
            read.add(imported)
            root = _parse(imported)
            if root.get("targetNamespace", "") != node.get("namespace", ""):
                raise UnmodelledError(node, "the imported schema has another target namespace")
            documents.append((imported, root))
    return models


def _schema(schema: etree._Element) -> Model:
    _check(
        schema,
        {"targetNamespace", "elementFormDefault", "attributeFormDefault", "version"},
        _named(XS, "import", "element", "complexType", "simpleType"),
    )
    for node in schema.iterfind(f"{{{XS}}}import"):
        _check(node, {"namespace", "schemaLocation"}, set())
    target = schema.get("targetNamespace")
    return {
        "target_namespace": target,
        "version": schema.get("version"),
        "element_form_default": schema.get("elementFormDefault", "unqualified"),
        "attribute_form_default": schema.get("attributeFormDefault", "unqualified"),
        "imports": sorted(node.get("namespace", "") for node in schema.iterfind(f"{{{XS}}}import")),
        "elements": _table(schema, "element", target, _global_element),
        "complex_types": _table(schema, "complexType", target, _complex_type),
        "simple_types": _table(schema, "simpleType", target, _simple_type),
    }


def _global_element(node: etree._Element) -> str | None:
    _check(node, {"name", "type"}, set())
    return _qname(node, "type")


def _complex_type(node: etree._Element) -> Model:
    """Its base, where it extends one, and the particle it adds (None: nothing)."""
    _check(node, {"name"}, _named(XS, "sequence", "choice", "complexContent"))
    content = node.find(f"{{{XS}}}complexContent")
    if content is None:
        return {"extension_base": None, "content": _content(node)}
    _check(content, set(), _named(XS, "extension"))
    (extension,) = _children(content)
    _check(extension, {"base"}, _named(XS, "sequence", "choice"))
    return {"extension_base": _qname(extension, "base"), "content": _content(extension)}


def _content(node: etree._Element) -> Model | None:
    particles = [_particle(child) for child in _children(node)]
    if len(particles) > 1:
        raise UnmodelledError(node, "more than one particle")
    return particles[0] if particles else None


def _particle(node: etree._Element) -> Model:
    particle: Model = {
        "kind": etree.QName(node).localname,
        "min_occurs": node.get("minOccurs", "1"),
        "max_occurs": node.get("maxOccurs", "1"),
    }
    if particle["kind"] == "element":
        _check(node, {"name", "type", "minOccurs", "maxOccurs", "form", "nillable"}, set())
        schema = next(node.iterancestors(f"{{{XS}}}schema"))
        return particle | {
            "name": node.attrib["name"],
            "type": _qname(node, "type"),
            "form": node.get("form", schema.get("elementFormDefault", "unqualified")),
            "nillable": node.get("nillable", "false") in {"true", "1"},
        }
    _check(node, {"minOccurs", "maxOccurs"}, _named(XS, "element", "sequence", "choice"))
    return particle | {"particles": [_particle(child) for child in _children(node)]}


def _simple_type(node: etree._Element) -> Model:
    """Its base and its facets as pairs, in the order they are written in."""
    _check(node, {"name"}, _named(XS, "restriction"))
    (restriction,) = _children(node)
    _check(restriction, {"base"}, _named(XS, *FACETS))
    facets = []
    for facet in _children(restriction):
        _check(facet, {"value"}, set())
        facets.append([etree.QName(facet).localname, facet.attrib["value"]])
    return {"base": _qname(restriction, "base"), "facets": facets}


# WSDL


def _message(node: etree._Element) -> list[Model]:
    _check(node, {"name"}, _named(WSDL, "part"))
    parts = []
    for part in _children(node):
        _check(part, {"name", "element"}, set())
        parts.append({"name": part.attrib["name"], "element": _qname(part, "element")})
    return parts


def _port_type(node: etree._Element) -> Model:
    _check(node, {"name"}, _named(WSDL, "operation"))
    return _table(node, "operation", None, _operation)


def _operation(node: etree._Element) -> Model:
    _check(node, {"name"}, _named(WSDL, "input", "output"))
    # A list: whether the input or the output comes first tells request-response from solicit-response.
    messages = []
    for child in _children(node):
        _check(child, {"message"}, set())
        messages.append({"direction": etree.QName(child).localname, "message": _qname(child, "message")})
    return {"messages": messages}


def _binding(node: etree._Element) -> Model:
    _check(node, {"name", "type"}, {f"{{{SOAP}}}binding", f"{{{WSDL}}}operation"})
    (soap,) = node.iterfind(f"{{{SOAP}}}binding")
    _check(soap, {"style", "transport"}, set())
    return {
        "type": _qname(node, "type"),
        "style": soap.get("style", "document"),
        "transport": soap.attrib["transport"],
        "operations": _table(node, "operation", None, _bound_operation),
    }


def _bound_operation(node: etree._Element) -> Model:
    _check(node, {"name"}, {f"{{{SOAP}}}operation", f"{{{WSDL}}}input", f"{{{WSDL}}}output"})
    (soap,) = node.iterfind(f"{{{SOAP}}}operation")
    _check(soap, {"soapAction", "style"}, set())
    (binding,) = node.getparent().iterfind(f"{{{SOAP}}}binding")
    return {
        "soap_action": soap.get("soapAction"),
        "style": soap.get("style", binding.get("style", "document")),
        "input_use": _body_use(node, "input"),
        "output_use": _body_use(node, "output"),
    }


def _body_use(operation: etree._Element, direction: str) -> str | None:
    (message,) = operation.iterfind(f"{{{WSDL}}}{direction}")
    _check(message, set(), {f"{{{SOAP}}}body"})
    (body,) = _children(message)
    _check(body, {"use"}, set())
    return body.get("use")


def _service(node: etree._Element) -> Model:
    _check(node, {"name"}, _named(WSDL, "port"))
    return _table(node, "port", None, _port)


def _port(node: etree._Element) -> Model:
    _check(node, {"name", "binding"}, {f"{{{SOAP}}}address"})
    (address,) = _children(node)
    _check(address, {"location"}, set())
    return {"binding": _qname(node, "binding"), "address": address.attrib["location"]}


# XML


def _parse(path: Path) -> etree._Element:
    parser = etree.XMLParser(remove_comments=True, remove_pis=True, resolve_entities=False, no_network=True)
    return etree.parse(str(path), parser).getroot()


def _children(node: etree._Element) -> Iterator[etree._Element]:
    """The child elements that mean something: documentation says nothing about the wire."""
    return (child for child in node if child.tag not in {f"{{{XS}}}annotation", f"{{{WSDL}}}documentation"})


def _check(node: etree._Element, attributes: set[str], children: set[str]) -> None:
    for unknown in set(node.attrib) - attributes:
        raise UnmodelledError(node, f"attribute {unknown}")
    for child in _children(node):
        if child.tag not in children:
            raise UnmodelledError(node, f"child {child.tag}")


def _named(namespace: str, *names: str) -> set[str]:
    return {f"{{{namespace}}}{name}" for name in names}


def _table(node: etree._Element, name: str, target: str | None, model: Callable[[etree._Element], Any]) -> Model:
    """The children of that name, modelled, by their own name (in Clark notation where they are global components)."""
    table: Model = {}
    for child in node.iterfind(f"{{{etree.QName(node).namespace}}}{name}"):
        key = str(etree.QName(target, child.attrib["name"]))
        if key in table:
            raise UnmodelledError(child, f"a second {key}")
        table[key] = model(child)
    return table


def _qname(node: etree._Element, attribute: str) -> str | None:
    """The attribute's QName in Clark notation; None where the attribute is missing."""
    value = node.get(attribute)
    if value is None:
        return None
    prefix, _, local = value.strip().rpartition(":")
    if prefix and prefix not in node.nsmap:
        raise UnmodelledError(node, f"prefix {prefix} is not bound")
    return str(etree.QName(node.nsmap.get(prefix or None), local))


if __name__ == "__main__":
    sys.stdout.write(dump(contract_model(Path(sys.argv[1]))))
