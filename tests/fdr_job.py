"""`station fdr` as a process against the simulator, for the tests of the walk and its chaos."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import forked
from fdr_simulator import FdrSimulator
from process import environment
from sqlalchemy import text

from station import store
from station.store.run_lock import only_run

EC, OTHER_EC, THIRD_EC = "77777777777", "88888888888", "66666666666"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class FdrJob:
    """The command with a configuration, and what is in its database."""

    fdr: FdrSimulator
    url: str
    folder: Path
    ecs: tuple[str, ...] = (EC,)
    settings: dict[str, Any] = field(default_factory=dict)
    more: str = ""

    def prepare(self, arguments: tuple[str, ...]) -> list[str]:
        settings = {"url": self.fdr.fdr_url, "key": "fdr-key", "rate": 10_000, "retries": 1, "retry_pause": 0.02}
        lines = [
            f"{name} = {json.dumps(value)}" for name, value in (settings | self.settings).items() if value is not None
        ]
        file = self.folder / "fdr.toml"
        file.write_text("\n".join(["[fdr]", *lines, *(f'[[ec]]\nid = "{ec}"' for ec in self.ecs), self.more]))
        return ["--config", str(file), "fdr", *arguments]

    def start(self, *arguments: str, **env: str) -> forked.Forked:
        return forked.station(self.prepare(arguments), environment(self.url, **env), self.folder)

    def run(self, *arguments: str, expect: int = 0, **env: str) -> Ran:
        process = self.start(*arguments, **env)
        out, err = process.communicate(timeout=120)
        assert process.returncode == expect, f"{out}\n{err}"
        assert "Traceback" not in err
        return Ran(process.returncode, out, err)

    def json(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        return self.run(*arguments, "--json", expect=expect).json

    def rows(self, query: str, **values: Any) -> list[Any]:
        engine = store.connect(self.url)
        with engine.begin() as connection:
            result = connection.execute(text(query), values)
            found = list(result) if result.returns_rows else []
        engine.dispose()
        return found

    def table(self, table: Any) -> list[Any]:
        """The rows of a table, in the order of its key."""
        engine = store.connect(self.url)
        with engine.begin() as connection:
            found = list(connection.execute(table.select().order_by(*table.primary_key.columns)))
        engine.dispose()
        return found

    def stored(self) -> dict[str, int]:
        """The number of stored payments of each flow."""
        found = self.rows("SELECT fdr, count(*) AS number FROM fdr_payment GROUP BY fdr")
        return {row.fdr: row.number for row in found}

    def free(self) -> bool:
        """Whether no run has the lock."""
        engine = store.connect(self.url)
        with only_run(engine, "fdr") as held:
            engine.dispose()
            return held is not None

    def age(self, **time: float) -> None:
        """As if all that the database says had happened so much earlier."""
        engine = store.connect(self.url)
        with engine.begin() as connection:
            for table, columns in (
                (store.tables.fdr_ec, ("watermark", "walked_at")),
                (store.tables.fdr_flow, ("listed_at", "next_attempt_at")),
            ):
                for row in list(connection.execute(table.select())):
                    key = [column == row._mapping[column.name] for column in table.primary_key.columns]
                    values = {name: at - timedelta(**time) for name in columns if (at := row._mapping[name])}
                    connection.execute(table.update().where(*key).values(values))
        engine.dispose()


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat(timespec="seconds").replace("+00:00", "Z")


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.005)


def kill_during_a_walk(job: FdrJob, times: int) -> None:
    """Kill runs in the middle, then let one end: every flow once, with all its payments."""
    job.fdr.load(generate={"org": EC, "flows": 10 * (times + 2), "payments": 5}, settings={"latency": 0.005})
    for _ in range(times):
        before = len(job.stored())
        process = job.start()
        until(lambda goal=before + 5: len(job.stored()) >= goal, "flows are stored")
        process.kill()
        process.communicate()
        until(job.free, "the lock is free")
    job.run()
    flows, payments = job.table(store.tables.fdr_flow), job.stored()
    assert len(flows) == len(payments) == 10 * (times + 2)
    assert set(payments.values()) == {5}
    assert all(row.fetched_at and not row.superseded for row in flows)
    outcomes = [row.outcome for row in job.rows("SELECT outcome FROM fdr_run ORDER BY started_at")]
    assert outcomes == ["aborted"] * times + ["done"]
