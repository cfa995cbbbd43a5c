"""The schema's version: bring it up to date, and tell whether it is."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from station.errors import SchemaBehindError
from station.folder import folder
from station.store.engine import allow_long, transaction

_MIGRATION_LOCK = 0x5741_7469  # any number that nobody else locks in this database


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder("migrations")).replace("%", "%%"))
    return config


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """The revision the database is at and the one this code needs. Raises `StoreError` where it cannot be asked."""
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    with transaction(engine, readonly=True) as connection:
        return MigrationContext.configure(connection).get_current_revision(), wanted


def check_schema(engine: Engine) -> None:
    """Raises `SchemaBehindError` unless the schema is the one this code needs."""
    found, wanted = revisions(engine)
    if found != wanted:
        raise SchemaBehindError(found, wanted)


def migrate(engine: Engine) -> None:
    """Brings the schema up to date, in one transaction; two at once wait for each other. Raises `StoreError`."""
    config = _config()
    with transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            allow_long(connection)
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
