"""The part of pagoPA's published OpenAPI files that the GPD simulator speaks, as plain data.

Kept of each operation: parameters, statuses with their content and headers, and each schema that is reached from them.
Descriptions, examples and tags are left out. The published files are no part of the project. Run with their folder,
this writes the table as JSON: so was data/openapi_components.json made, and so `make contract` compares it with a copy.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# What the simulator answers: the published file and the paths in it, for GET.
SPOKEN = {
    "gpd_payments.json": [
        "/payments/{organizationfiscalcode}/receipts",
        "/payments/{organizationfiscalcode}/receipts/{iuv}",
    ],
    "gpd.json": ["/organizations/{organizationfiscalcode}/debtpositions"],
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
        given = {one.pop("name"): one for one in plain(item["parameters"] + item["get"]["parameters"])}
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


if __name__ == "__main__":
    sys.stdout.write(dump(openapi_model(Path(sys.argv[1]))))
