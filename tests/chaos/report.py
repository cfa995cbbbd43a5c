"""Writes the figures of `make chaos` into docs/reliability.md: `python -m tests.chaos.report var/chaos.jsonl`.

Of a scenario that was run several times with the same seed the last run counts. All must have passed.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.report import ROOT, put

PAGE = ROOT / "docs" / "reliability.md"
DATABASES = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
Run = dict[str, Any]


def read(file: Path) -> list[Run]:
    """The last run of each scenario and seed."""
    runs = map(json.loads, file.read_text().splitlines())
    last = list({(run["scenario"], run["seed"]): run for run in runs}.values())
    if failed := [f"{run['scenario']} with seed {run['seed']}" for run in last if not run["passed"]]:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return last


def kept(runs: list[Run]) -> str:
    """One line for each scenario, its variants and databases together."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[_name(run)].append(run)
    out = [
        "| scenario | what happens | on | runs | troubles | receipts sent | sent again | lost | doubled | recovery |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, group in groups.items():
        what = group[0]["what"].partition(":")[0].replace("\n   ", "").rstrip(".")
        on = ", ".join(DATABASES[one] for one in sorted({run["database"] for run in group}))
        times = [run["recovery_worst_s"] for run in group if run["recovery_worst_s"] is not None]
        medians = sorted(run["recovery_median_s"] for run in group if run["recovery_median_s"] is not None)
        recovery = f"{medians[len(medians) // 2]:.1f}, {max(times):.1f}" if times else ""
        out.append(f"| `{name}` | {what} | {on} | {len(group)} | {_sums(group)} | {recovery} |")
    seeds = sorted({run["seed"] for run in runs})
    out.append(f"| all | | | {len(runs)} | {_sums(runs)} | |")
    return "\n".join(out) + f"\n\nSeeds: {', '.join(map(str, seeds))}."


def _name(run: Run) -> str:
    return str(run["scenario"].partition("[")[0].removeprefix("test_"))


def _sums(runs: list[Run]) -> str:
    copies, sends = (sum(run[name] for run in runs) for name in ("copies", "sends"))
    figures = [sum(run["troubles"] for run in runs), copies, sends - copies]
    figures += [sum(run[name] for run in runs) for name in ("lost", "doubled")]
    return " | ".join(f"{one:,}" for one in figures)


def lost(runs: list[Run]) -> str:
    """Where the database itself was lost: what was missing afterwards."""
    out = [
        "| scenario | receipts sent | missing | after `station reconcile` | after `station replay --file` |",
        "|---|---:|---:|---:|---:|",
    ]
    for run in runs:
        figures = (
            run.get("lost_by_restore", run["lost"]),
            run.get("lost_after_reconcile"),
            run.get("lost_after_replay"),
        )
        shown = " | ".join("" if one is None else f"{one:,}" for one in figures)
        out.append(f"| `{run['scenario'].removeprefix('test_')}` | {run['copies']:,} | {shown} |")
    return "\n".join(out)


def main() -> None:
    """Both tables into the page."""
    runs = read(Path(sys.argv[1]))
    put(PAGE, "kept", kept([run for run in runs if not run["store_lost"]]))
    put(PAGE, "lost", lost([run for run in runs if run["store_lost"]]))


if __name__ == "__main__":
    main()
