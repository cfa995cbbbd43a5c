"""The schema's version: bring it up to date, and check that it is."""

from collections.abc import Sequence

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from station.errors import ConfigError, MissingRightsError, SchemaBehindError
from station.folder import folder
from station.store.engine import make_file, transaction

_MIGRATION_LOCK = 0x5741_7469  # any number that no other application locks in this database
_RAISED = "P0001"  # by a statement of ours, whose message says why


def revisions(engine: Engine) -> tuple[str | None, str | None]:
    """Return the database's revision and the one this code needs. Raises `StoreError` if it cannot be asked."""
    with transaction(engine, readonly=True) as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found, max(_known())


def _known() -> set[str]:
    """Return the revisions that this code knows, by the names of their files: alembic takes long to import."""
    return {file.name[:4] for file in (folder("migrations") / "versions").glob("[0-9][0-9][0-9][0-9]_*.py")}


def check_schema(engine: Engine, *, limited: bool = False) -> None:
    """Raise `SchemaBehindError` if the schema is behind the one this code needs.

    A later one will do: migrations only add, and at an upgrade the old version serves until the new one does. Raise
    `MissingRightsError` if row-level security hides rows from the role, which would find nothing of what is stored; of
    the console's role (`limited`) it shall.
    """
    found, wanted = revisions(engine)
    if found != wanted and not _is_later(found):
        raise SchemaBehindError(found, wanted)
    if engine.dialect.name == "postgresql" and not limited:
        from station.store.row_security import hidden_tables

        with transaction(engine, readonly=True) as connection:
            if hidden := hidden_tables(connection):
                role = connection.execute(text("SELECT current_user")).scalar()
                some = ", ".join(hidden[:3]) + (f" and {len(hidden) - 3} other tables" if hidden[3:] else "")
                denied = f"row-level security hides rows of {some} from it"
                raise MissingRightsError(role, denied, reason="row-level security")


def _is_later(revision: str | None) -> bool:
    """Tell whether a revision is none of those that this code knows."""
    return revision is not None and revision not in _known()


def migrate(engine: Engine, *, grant: Sequence[str] = ()) -> tuple[str | None, str | None]:
    """Bring the schema up to date and give the roles in `grant` the rights to run the station, in one transaction.

    Makes the file of an SQLite database. Two at once wait for each other. A later schema than this code knows stays as
    it is, and so do the rights on it. Returns the revisions before and after. Raises `StoreError`, and
    `ConfigError` where a role is not there.
    """
    from alembic import command
    from alembic.config import Config

    from station.store.rights import grants

    make_file(engine)
    before, wanted = revisions(engine)
    if _is_later(before):
        return before, before
    with transaction(engine, timeout=None) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = '60s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config = Config()
        config.set_main_option("script_location", str(folder("migrations")).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        if connection.dialect.name == "postgresql":
            for role in grant:
                if not connection.execute(text("SELECT to_regrole(quote_ident(:role))"), {"role": role}).scalar():
                    raise ConfigError(
                        f"there is no database role {role}: create it first (createuser --pwprompt {role})"
                    )
                for statement in grants(role):
                    try:
                        connection.exec_driver_sql(statement)
                    except DBAPIError as error:
                        if getattr(error.orig, "sqlstate", None) == _RAISED:
                            raise ConfigError(str(getattr(error.orig, "diag").message_primary)) from None  # noqa: B009
                        raise
    return before, wanted
