"""Alembic's entry: `station migrate` hands over its connection; the alembic command takes STATION_DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import Connection

from station.store.engine import connect, make_file, transaction
from station.store.tables import metadata


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    run(handed_over)
else:
    engine = connect(os.environ.get("STATION_DATABASE_URL", "sqlite:///station.sqlite3"))
    make_file(engine)
    with transaction(engine) as own:
        run(own)
