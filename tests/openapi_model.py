"""The part of pagoPA's published OpenAPI files that the simulators speak, as plain data.

Kept of each operation: parameters, statuses with their content and headers, and each schema that is reached from them.
Descriptions, examples and tags are left out. The published files are no part of the project. Run with their folder,
this writes the table as JSON: so was data/openapi_components.json made, and so `make contract` compares it with a copy.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What the simulators answer: the published file and the paths in it, for GET.
SPOKEN = {
    "gpd_payments.json": [
        "/payments/{organizationfiscalcode}/receipts",
        "/payments/{organizationfiscalcode}/receipts/{iuv}",
    ],
    "gpd.json": ["/organizations/{organizationfiscalcode}/debtpositions"],
    "fdr_organization.json": [
        "/organizations/{organizationId}/fdrs",
        "/organizations/{organizationId}/fdrs/{fdr}/revisions/{revision}/psps/{pspId}",
        "/organizations/{organizationId}/fdrs/{fdr}/revisions/{revision}/psps/{pspId}/payments",
    ],
    "biz_events.json": ["/organizations/{organizationfiscalcode}/receipts/{iur}"],
}
_PROSE = {"description", "example", "summary", "title"}


def openapi_model(folder: Path) -> dict[str, Any]:
    """Return the table of the published files in `folder`."""
    return {file: _document(json.loads((folder / file).read_text(encoding="utf-8")), SPOKEN[file]) for file in SPOKEN}


def dump(model: dict[str, Any]) -> str:
    """Return the model as text with sorted keys: a change shows where it is."""
    return json.dumps(model, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _document(document: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    schemas: dict[str, Any] = {}

    def plain(node: Any) -> Any:
        """Drop the prose of a node and collect the schemas that it names."""
        if isinstance(node, list):
            return [plain(one) for one in node]
        if not isinstance(node, dict):
            return node
        if name := node.get("$ref", "").rpartition("/")[2]:
            if name not in schemas:
                schemas[name] = None  # a schema may name itself
                schemas[name] = plain(document["components"]["schemas"][name])
            return name
        # Names of fields are no prose, whatever they are.
        return {
            key: {field: plain(one) for field, one in value.items()} if key == "properties" else plain(value)
            for key, value in node.items()
            if key not in _PROSE
        }

    def operation(item: dict[str, Any]) -> dict[str, Any]:
        given = {one.pop("name"): one for one in plain(item.get("parameters", []) + item["get"].get("parameters", []))}
        answers = {}
        for status, response in item["get"]["responses"].items():
            content = {kind: plain(one).get("schema") for kind, one in response.get("content", {}).items()}
            answers[status] = {"content": content, "headers": sorted(response.get("headers", ()))}
        return {"parameters": given, "responses": answers}

    return {
        "server": urlsplit(document["servers"][0]["url"]).path.rstrip("/"),
        "version": document["info"]["version"],
        "paths": {path: operation(document["paths"][path]) for path in paths},
        "schemas": schemas,
    }


def check_shape(schemas: dict[str, Any], schema: Any, value: Any) -> None:
    """Assert that a value of an answer has the published fields and types."""
    schema = schemas[schema] if isinstance(schema, str) else schema
    types: dict[str, Any] = {"object": dict, "array": list, "integer": int, "string": str, "boolean": bool}
    assert type(value) is types.get(schema["type"], float), (schema, value)  # a number is a float
    assert value in schema.get("enum", [value])
    if isinstance(value, list):
        for each in value:
            check_shape(schemas, schema["items"], each)
    elif "properties" in schema:  # a row of receipts is published as an object, without its fields
        assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys()
        for name, each in value.items():
            check_shape(schemas, schema["properties"][name], each)


if __name__ == "__main__":
    sys.stdout.write(dump(openapi_model(Path(sys.argv[1]))))
