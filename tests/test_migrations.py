"""Migrations build the schema that the code expects, and go back."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from build import ABSENT, a_request, an_envelope
from databases import migrate
from refusals import Door
from sqlalchemy import create_engine, inspect, text

from station import store
from station.errors import MissingDatabaseError, SchemaBehindError
from station.intake import Result
from station.store import tables

ROOT = Path(__file__).parent.parent


@pytest.fixture
def empty_url(request, tmp_path, postgres_server):
    """URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite3'}"
        return
    admin = create_engine(store.parse_url(postgres_server), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text("CREATE DATABASE migrations"))
    yield store.parse_url(postgres_server).set(database="migrations").render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text("DROP DATABASE migrations WITH (FORCE)"))
    admin.dispose()


both = pytest.mark.parametrize("empty_url", ["sqlite", "postgresql"], indirect=True)


def alembic(url, *commands):
    """The alembic command, several times in one process: most of its time goes to imports."""
    program = "import sys, alembic.config as alembic; [alembic.main(one.split()) for one in sys.argv[1:]]"
    subprocess.run(
        [sys.executable, "-c", program, *commands],
        cwd=ROOT, check=True, capture_output=True, env={**os.environ, "STATION_DATABASE_URL": url},
    )  # fmt: skip


@both
def test_up_down_up(empty_url):
    """Up, down and up again, and the schema is the one that the tables describe."""
    alembic(empty_url, "upgrade head", "check", "downgrade base")
    engine = create_engine(store.parse_url(empty_url))
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
    alembic(empty_url, "upgrade head", "check")


def test_alembic_as_a_process(tmp_path, connect):
    """A developer's `alembic` in this folder finds its settings and the database of the environment."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT, check=True, capture_output=True,
        env={**os.environ, "STATION_DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}"},
    )  # fmt: skip
    engine = connect(f"sqlite:///{tmp_path / 'empty.sqlite3'}")
    store.check_schema(engine)


# SQLAlchemy says of SQLite that it does not read indexes of expressions.
expressions = pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")


@both
@expressions
def test_every_constraint_has_a_name(empty_url):
    """A constraint without a name cannot be changed by a later migration."""
    migrate(empty_url)
    engine = create_engine(store.parse_url(empty_url))
    inspector = inspect(engine)
    for table in set(inspector.get_table_names()) - {"alembic_version"}:
        named = [inspector.get_pk_constraint(table), *inspector.get_foreign_keys(table)]
        named += inspector.get_unique_constraints(table)
        assert all(constraint["name"] for constraint in named), table
    engine.dispose()


@both
def test_behind(empty_url, connect):
    """A schema that is behind is told, with the command that helps; migrating mends it, twice does no harm."""
    engine = connect(empty_url)
    with pytest.raises((SchemaBehindError, MissingDatabaseError), match="station migrate"):
        store.check_schema(engine)
    store.migrate(engine)
    store.migrate(engine)
    store.check_schema(engine)


@both
def test_migrate_at_once(empty_url):
    """Several at once, as replicas that start together do, wait for each other."""
    engines = [store.connect(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store.migrate, engines))
    store.check_schema(engines[0])
    for engine in engines:
        engine.dispose()


@both
@expressions
def test_keys_start_with_id_pa(empty_url):
    """Every key of a table of receipts starts with id_pa, so that the tables can be distributed by it."""
    migrate(empty_url)
    engine = create_engine(store.parse_url(empty_url))
    inspector = inspect(engine)
    receipts = ("receipt", "transfer", "receipt_flag", "receipt_route", "receipt_document", "refused")
    for table in (*receipts, "fdr_ec", "fdr_run", "fdr_flow", "fdr_payment", "fdr_awaited"):
        keys = [inspector.get_pk_constraint(table)["constrained_columns"]]
        keys += [constraint["column_names"] for constraint in inspector.get_unique_constraints(table)]
        assert all(key[0] == "id_pa" for key in keys), table
    engine.dispose()


@both
def test_receipts_of_the_schema_before(empty_url, connect):
    """A receipt that was stored before there was a table for documents becomes one of several documents."""
    migrate(empty_url)
    engine = connect(empty_url)
    door = Door(engine)
    request = a_request()
    poorer, fuller = an_envelope(request.but(paymentNote=ABSENT)), an_envelope(request)
    door.take(poorer)
    alembic(empty_url, "downgrade 0009", "upgrade head")
    assert door.take(fuller).result is Result.DUPLICATE
    assert (door.receipt(request)["raw"], door.receipt(request)["payment_note"]) == (fuller, request["paymentNote"])
    assert {row["number"]: row["raw"] for row in door.rows(tables.receipt_document)} == {1: poorer, 2: fuller}


def test_later_schema(database_url):
    """A schema of a later version is served and left alone: at an upgrade the old version serves until the new one."""
    from sqlalchemy import text

    engine = store.connect(database_url)
    _, ours = store.revisions(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        store.check_schema(engine)
        store.migrate(engine)
        assert store.revisions(engine) == ("9999", ours)
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :ours"), {"ours": ours})
        engine.dispose()
