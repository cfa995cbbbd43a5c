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
    """Raises `SchemaBehindError` where the schema is behind the one this code needs.

    A later one will do: migrations only add, and at an upgrade the old version serves until the new one does.
    """
    found, wanted = revisions(engine)
    if found != wanted and not _is_later(found):
        raise SchemaBehindError(found, wanted)


def _is_later(revision: str | None) -> bool:
    """Whether a revision is none of those that this code knows."""
    known = {one.revision for one in ScriptDirectory.from_config(_config()).walk_revisions()}
    return revision is not None and revision not in known


def migrate(engine: Engine) -> None:
    """Brings the schema up to date, in one transaction; two at once wait for each other. Raises `StoreError`.

    A later schema than this code knows stays as it is.
    """
    config = _config()
    if _is_later(revisions(engine)[0]):
        return
    with transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            allow_long(connection)
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
