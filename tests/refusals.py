"""What the tests of refused requests share: documents are taken in as the push does, and rows are looked at."""

from dataclasses import dataclass
from typing import Any

from build import BROKER, EC, OTHER_EC, STATION
from sqlalchemy import select

from station import contract, store
from station.config import Settings
from station.intake import Intake, Origin, Outcome
from station.receipt import Source
from station.store import tables

OURS: dict[str, Any] = {"broker": [{"id": BROKER, "stations": [STATION]}], "ec": [{"id": EC}, {"id": OTHER_EC}]}
NOT_OURS: dict[str, Any] = {"ec": [{"id": "99999999999"}]}
TOML = f'[[broker]]\nid = "{BROKER}"\nstations = ["{STATION}"]\n[[ec]]\nid = "{EC}"\n[[ec]]\nid = "{OTHER_EC}"\n'


@dataclass
class Door:
    """Takes documents in, and shows what is in the database."""

    engine: store.Engine

    def take(self, raw: bytes, config: dict[str, Any] = OURS, source: Source = Source.PUSH) -> Outcome:
        intake = Intake(self.engine, Settings.model_validate(config))
        document = contract.parse(raw)
        origin = Origin(source, peer="127.0.0.1", request_id="r-1")
        return intake.accept(document, contract.request_element(document.root), origin)

    def refuse(self, raw: bytes, source: Source = Source.PUSH) -> str:
        """Takes it in while its EC is not ours; returns the id of the refused request."""
        refused_id = self.take(raw, NOT_OURS, source).refused_id
        assert refused_id is not None
        return refused_id

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with store.transaction(self.engine, readonly=True) as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]

    def receipt(self, request: Any) -> dict[str, Any] | None:
        with store.transaction(self.engine, readonly=True) as connection:
            return store.find(connection, request["idPA"], request["receiptId"])

    def refused(self, refused_id: str) -> dict[str, Any]:
        with store.transaction(self.engine, readonly=True) as connection:
            found = store.find_refused(connection, refused_id)
        assert found is not None
        return found

    def everything(self) -> dict[str, Any]:
        """All rows of all tables, to compare."""
        return {table.name: sorted(map(repr, self.rows(table))) for table in tables.metadata.sorted_tables}
