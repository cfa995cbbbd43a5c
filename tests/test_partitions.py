"""The next step of scale: tables that are partitioned by EC serve the station as they are, since every key holds it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import psycopg
import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from databases import migrate
from refusals import Door
from trouble import sent_again

from station import contract, store
from station.config import Settings
from station.errors import MissingRightsError
from station.intake import Intake, Origin, Result
from station.receipt import Flag, Source
from station.store import limits, tables
from station.store.rights import grants
from station.store.row_security import rls_limits

# All that grows with the receipts; the constraints that refer to others come last.
PARTITIONED = (
    "receipt",
    "transfer",
    "receipt_flag",
    "receipt_route",
    "receipt_document",
    "refused",
    "refused_history",
    "journal",
    "outbox",
    "fdr_flow",
    "fdr_payment",
    "fdr_awaited",
)
NONE_TO_PARTITION = {
    "purge_progress", "reconcile_ec", "reconcile_run", "reconcile_item", "outgoing", "outgoing_check", "destination",
    "delivery", "delivery_count", "delivery_file", "fdr_ec", "fdr_run", "console_session", "console_user",
    "console_access",
}  # fmt: skip
ECS = [EC, OTHER_EC, *(f"{70000000000 + number}" for number in range(20))]


@pytest.fixture
def partitioned_url(postgres_server: str) -> Iterator[str]:
    """A migrated database whose large tables are each four partitions by the hash of `id_pa`."""
    url = postgres_server.replace("/postgres?", "/partitioned?")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE partitioned")
    migrate(url)
    with psycopg.connect(url) as connection:
        [view] = connection.execute("SELECT pg_get_viewdef('console_receipt')").fetchone()
        connection.execute("DROP VIEW console_receipt")
        references = connection.execute(
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint "
            "WHERE contype = 'f' AND conrelid::regclass::text = ANY(%s)", (list(PARTITIONED),)
        ).fetchall()  # fmt: skip
        for table, name, _definition in references:
            connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        for table in PARTITIONED:
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
            connection.execute(f"CREATE TABLE {table} (LIKE {table}_before INCLUDING ALL) PARTITION BY HASH (id_pa)")
            connection.execute(f"DROP TABLE {table}_before")
            for number in range(4):
                connection.execute(
                    f"CREATE TABLE {table}_{number} PARTITION OF {table} "
                    f"FOR VALUES WITH (MODULUS 4, REMAINDER {number})"
                )
        for table, name, definition in references:
            connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
        connection.execute(f"CREATE VIEW console_receipt AS {view}")
    yield url
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("DROP DATABASE partitioned WITH (FORCE)")


def test_every_table_is_considered():
    """A new table is one that grows with the receipts, and is partitioned here, or says that it does not."""
    assert {table.name for table in tables.metadata.sorted_tables} == {*PARTITIONED, *NONE_TO_PARTITION}


def test_keys_start_with_the_ec():
    """Whatever must be unique is so within an EC: the condition for partitions, and for tables spread over machines."""
    for table in tables.metadata.sorted_tables:
        if table.name in NONE_TO_PARTITION:
            continue
        assert "id_pa" in table.primary_key.columns, table.name
        for constraint in table.foreign_key_constraints:
            assert constraint.column_keys[0] == "id_pa", constraint.name
        for index in table.indexes:
            assert not index.unique, index.name


def test_intake_on_partitions(partitioned_url, connect):
    """Receipts, resends, second receipts, conflicts and refusals are told apart as ever, and found again."""
    engine = connect(partitioned_url, pool_size=16)
    intake = Intake(engine, Settings())

    def take(request):
        document = contract.parse(an_envelope(request))
        return intake.accept(document, contract.request_element(document.root), Origin(Source.PUSH, "127.0.0.1", "r-1"))

    requests = [a_request(idPA=ECS[number % len(ECS)], fiscalCode=ECS[number % len(ECS)]) for number in range(60)]
    sends = [request for request in requests for _ in range(3)]
    with ThreadPoolExecutor(16) as pool:
        results = [outcome.result for outcome in pool.map(sent_again(take), sends)]
    assert (results.count(Result.STORED), results.count(Result.DUPLICATE)) == (60, 120)
    second = take(requests[0].but(receiptId="0" * 32))
    assert (second.result, second.flags) == (Result.STORED, {Flag.SECOND_RECEIPT})
    assert take(requests[0].but(description="other")).result is Result.REFUSED
    with store.transaction(engine, readonly=True) as connection:
        assert len(store.list_receipts(connection, store.Filter(), limit=100)) == 61
        assert len(store.list_receipts(connection, store.Filter(flag="second_receipt"))) == 1
        for request in requests[:5]:
            wanted = store.Filter(iuv=request["creditorReferenceId"])
            (row,) = [row for row in store.list_receipts(connection, wanted) if row.receipt_id == request["receiptId"]]
            found = store.find(connection, row.id_pa, request["receiptId"])
            assert (found["resends"], len(found["transfers"])) == (2, 2)
    with psycopg.connect(partitioned_url) as connection:
        used = connection.execute("SELECT count(DISTINCT tableoid) FROM receipt").fetchone()
    assert used == (4,)


def test_row_security_on_partitions(partitioned_url, connect):
    """The policies of a partitioned table hold for its partitions: the console's role sees the ECs that it names."""
    door = Door(connect(partitioned_url))
    for ec in (EC, OTHER_EC):
        door.take(an_envelope(a_request(idPA=ec, fiscalCode=ec)))
    with psycopg.connect(partitioned_url, autocommit=True) as owner:
        owner.execute("CREATE ROLE partitions_console LOGIN")
        try:
            for statement in grants("partitions_console", console=True):
                owner.execute(statement)
            url = store.parse_url(partitioned_url).set(drivername="postgresql", username="partitions_console")
            console = connect(url.render_as_string(hide_password=False))
            store.check_schema(console, limited=True)
            wanted = (store.Filter(), store.Filter(person_id="PLLPNC80A01X000X"), store.Filter(amount_from=Decimal(1)))
            for ecs, expected in (((EC,), {EC}), (None, {EC, OTHER_EC}), ((), set())):
                with limits.limited(ecs), store.transaction(console, readonly=True) as connection:
                    for one in wanted:
                        assert {row.id_pa for row in store.list_receipts(connection, one)} == expected
            with store.transaction(console, readonly=True) as connection:
                assert rls_limits(connection)
            with limits.limited((EC,)):
                console_door = Door(console)
                assert console_door.take(an_envelope(a_request())).result is Result.STORED
                with pytest.raises(MissingRightsError):
                    console_door.take(an_envelope(a_request(idPA=OTHER_EC, fiscalCode=OTHER_EC)))
        finally:
            owner.execute("DROP OWNED BY partitions_console")
            owner.execute("DROP ROLE partitions_console")
