"""`make deploy-check`: the dashboard, read and written again by Grafana's own model of one, is the same dashboard.

What the model does not know, a misspelt name for instance, does not come back.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(ours: Any, theirs: Any, place: str) -> Iterator[str]:
    """Return the places in `ours` that are missing or different in `theirs`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name, value in ours.items():
            yield from lost(value, theirs.get(name), f"{place}.{name}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")
    elif ours != theirs:
        yield place


plugins.register_default_plugins()
dashboard = json.loads((Path(__file__).parent / "station.json").read_text())
found = list(lost(dashboard, json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder)), "dashboard"))
if found:
    raise SystemExit("\n".join(["Grafana does not know:", *found]))
