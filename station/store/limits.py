"""The second lock on PostgreSQL: row-level security shows a transaction the rows of the ECs that it names."""

from collections.abc import Sequence

from sqlalchemy import Connection, text


def limit_to(connection: Connection, ecs: Sequence[str] | None) -> None:
    """Show this transaction the rows of these ECs, or of all (`None`). On SQLite there is no such lock.

    It limits a role whose policies ask for the setting (`station grants --console`); another role sees everything.
    """
    if connection.dialect.name == "postgresql":
        shown = "*" if ecs is None else ",".join(ecs)
        connection.execute(text("SELECT set_config('station.ecs', :ecs, true)"), {"ecs": shown})
