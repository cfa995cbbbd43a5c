"""The console's role: row-level security shows it the ECs that a transaction names, also where a query forgets them."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import forked
import httpx
import psycopg
import pytest
from build import EC, OTHER_EC, a_request, an_envelope
from databases import DATABASE
from process import environment, free_port, wait_for_answer
from refusals import Door
from sqlalchemy import JSON, Boolean, Date, DateTime, Integer, LargeBinary, Numeric, SmallInteger, insert, select
from sqlalchemy.types import TypeDecorator

from station import store
from station.errors import ConfigError, MissingRightsError
from station.intake import Result
from station.production import findings
from station.receipt import Source
from station.store import (
    accesses,
    credited,
    deliveries,
    delivery_list,
    files,
    gauges,
    limits,
    row_security,
    runs,
    tables,
)
from station.store import flows as stored_flows
from station.store import statistics as counted
from station.store.journal import ExchangeFilter, list_exchanges
from station.store.rights import grants, missing_rights
from station.store.rows import read_sql

APP, CONSOLE, OTHER = "limited_app", "limited_console", "limited_other"
NOW = datetime.now(UTC)
# Tables that tell of no receipt, no person and no EC.
OF_NO_EC = {"destination", "delivery_count", "console_session", "console_user"}


@pytest.fixture(scope="module")
def limited(postgres_server):
    """A migrated database to copy: row-level security is on in it, and the roles have their rights."""
    url = postgres_server.replace("/postgres?", "/limited_template?")
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE limited_template TEMPLATE {DATABASE}")
        for role in (APP, CONSOLE, OTHER):
            server.execute(f"CREATE ROLE {role} LOGIN")
        with psycopg.connect(url, autocommit=True) as owner:
            grant(owner, APP)
            grant(owner, CONSOLE, console=True)
        yield "limited_template"
        server.execute("DROP DATABASE limited_template")
        server.execute(f"DROP ROLE {APP}, {CONSOLE}, {OTHER}")


@pytest.fixture
def owner_url(limited, postgres_server):
    """A copy of that database."""
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(f"CREATE DATABASE limited TEMPLATE {limited}")
        yield postgres_server.replace("/postgres?", "/limited?")
        server.execute("DROP DATABASE limited WITH (FORCE)")


def grant(owner, role, **options):
    for statement in grants(role, **options):
        owner.execute(statement)


def url_of(owner_url, role):
    return store.parse_url(owner_url).set(drivername="postgresql", username=role).render_as_string(False)


@pytest.fixture
def as_role(owner_url, connect):
    """Engines of the database, by role; without one the owner's."""
    return lambda role=None: connect(owner_url if role is None else url_of(owner_url, role))


def a_row(table, ec, number):
    """Something for each column, of one EC."""
    row = {}
    for column in table.columns:
        kind = column.type.impl if isinstance(column.type, TypeDecorator) else column.type
        values = {
            LargeBinary: b"%d" % number, DateTime: NOW, Date: NOW.date(), Numeric: Decimal(number), Boolean: False,
            Integer: number, SmallInteger: number, JSON: None,
        }  # fmt: skip
        row[column.name] = next((value for of, value in values.items() if isinstance(kind, of)), str(number))
    ecs = {"id_pa": ec, "receipt_id_pa": ec}
    return row | {name: value for name, value in ecs.items() if name in row}


@pytest.fixture
def full(owner_url, as_role):
    """A row of each of two ECs in each table; what is numbered has the EC's number, 1 or 2."""
    with store.transaction(as_role()) as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")  # no foreign keys
        for table in tables.metadata.sorted_tables:
            for number, ec in enumerate((EC, OTHER_EC), start=1):
                connection.execute(insert(table).values(a_row(table, ec, number)))


def seen(engine, table):
    with store.transaction(engine, readonly=True) as connection:
        return [tuple(row) for row in connection.execute(select(table))]


def test_every_table(full, as_role):
    """A table that a migration adds has a policy, or is one of those that need none."""
    names = {table.name for table in tables.metadata.sorted_tables}
    assert {table.name for table in row_security.LIMITED} | OF_NO_EC == names
    everything = {table.name: seen(as_role(), table) for table in tables.metadata.sorted_tables}
    app, console = as_role(APP), as_role(CONSOLE)
    for table in tables.metadata.sorted_tables:
        both = everything[table.name]
        assert len(both) == 2
        assert seen(app, table) == both
        if table.name in OF_NO_EC:
            continue
        assert seen(console, table) == [], table
        for ecs, expected in (
            ((EC,), both[:1]),
            ((OTHER_EC,), both[1:]),
            ((), []),
            (("*",), []),
            ((EC, OTHER_EC), both),
        ):
            with limits.limited(ecs):
                assert seen(console, table) == expected, (table, ecs)
        with limits.limited(None):
            assert seen(console, table) == both, table


def test_nothing_is_written(full, as_role):
    """No row of another EC is added, changed or deleted, whatever rights the console's role has on the table."""
    console = as_role(CONSOLE)
    for table in row_security.LIMITED:
        with limits.limited((EC,)):
            with pytest.raises(MissingRightsError), store.transaction(console) as connection:
                connection.execute(insert(table).values(a_row(table, OTHER_EC, 9)))
            for change in ("UPDATE {} SET {} = {}", "DELETE FROM {}"):
                name = next(iter(table.primary_key.columns)).name
                try:
                    with store.transaction(console) as connection:
                        changed = connection.exec_driver_sql(change.format(table.name, name, name)).rowcount
                except MissingRightsError:
                    continue
                assert changed <= 1, table
    kept = [row for table in row_security.LIMITED for row in seen(as_role(), table) if OTHER_EC in row]
    assert len(kept) == len([table for table in row_security.LIMITED if "id_pa" in table.c])


def test_lookups_of_nobody(as_role, owner_url):
    """A look-up that found nothing is written by each user, and read by those of all ECs."""
    console = as_role(CONSOLE)
    blank = dict.fromkeys(("address", "id_pa", "receipt_id", "subject", "found"))
    with limits.limited((EC,)):
        with store.transaction(console) as connection:
            rows = [{"id_pa": EC}, {}]
            accesses.write_accesses(
                connection, [blank | row | {"at": NOW, "username": "anna", "action": "search"} for row in rows]
            )
        with store.transaction(console, readonly=True) as connection:
            assert [row.id_pa for row in accesses.list_accesses(connection, accesses.AccessFilter())] == [EC]
    with limits.limited(None), store.transaction(console, readonly=True) as connection:
        assert len(accesses.list_accesses(connection, accesses.AccessFilter())) == 2


def test_without_the_scope(as_role):
    """Every list of the console finds what its transaction may see, with the scope left out of the query."""
    own = Door(as_role())
    requests = [a_request(), a_request(idPA=OTHER_EC, fiscalCode=OTHER_EC)]
    for request in requests:
        own.take(an_envelope(request))
        own.refuse(an_envelope(request.but(receiptId=f"x{request['receiptId'][1:]}")))
    both = [request["receiptId"] for request in requests]
    amount = Decimal(requests[0]["paymentAmount"])
    filters = {
        "all": store.Filter(), "person": store.Filter(person_id="pllpnc80a01x000x"),
        "payer": store.Filter(payer_id="SMPTZI80A41X000X"), "name": store.Filter(name="pallino"),
        "amount": store.Filter(amount_from=amount, amount_to=amount), "amounts": store.Filter(amount_from=Decimal(1)),
        "push": store.Filter(source="push"), "days": store.Filter(received_from=NOW - timedelta(days=1)),
        "amount of a payer": store.Filter(amount_from=Decimal(1), payer_id="SMPTZI80A41X000X"),
    }  # fmt: skip
    start, end = NOW - timedelta(days=1), NOW + timedelta(days=1)
    console = as_role(CONSOLE)
    for ecs, expected in (((EC,), {EC}), ((OTHER_EC,), {OTHER_EC}), (None, {EC, OTHER_EC}), ((), set())):
        with limits.limited(ecs), store.transaction(console, readonly=True) as connection:
            for name, wanted in filters.items():
                found = store.list_receipts(connection, wanted)
                assert {row.id_pa for row in found} == expected, name
                assert len(found) == len(expected), name
            found = [store.find(connection, request["idPA"], request["receiptId"]) for request in requests]
            assert {one["id_pa"] for one in found if one} == expected
            assert {row.id_pa for row in store.list_refused(connection, store.RefusedFilter())} == expected
            exchanges = list_exchanges(connection, ExchangeFilter(receipt_id=both[0]))
            assert {row.id_pa for row in exchanges} == expected & {EC}
            assert {row.id_pa for row in list_exchanges(connection, ExchangeFilter())} == expected
            assert {hour.id_pa for hour in counted.by_hour(connection, start, end, None)} == expected
            assert set(counted.seen_ecs(connection)) == expected
            assert sum(gauges.open_by_fault(connection).values()) == len(expected)
            assert credited.missing_payments(connection, None, limit=9) == []
            assert runs.list_items(connection, None, limit=9) == []
            assert stored_flows.unread_flows(connection, None, limit=9) == []


def test_a_replay(as_role):
    """A replay, a discard and a delivery that is sent again work for the user's EC, and not for another one."""
    console = Door(as_role(CONSOLE))
    mine, other = a_request(), a_request(idPA=OTHER_EC, fiscalCode=OTHER_EC)
    with limits.limited((EC,)):
        refused_id = console.refuse(an_envelope(mine))
        assert console.take(an_envelope(mine), source=Source.REPLAY).result is Result.STORED
        assert console.take(an_envelope(mine)).result is Result.DUPLICATE
        assert console.take(an_envelope(mine.but(newThing="x"))).result is Result.DUPLICATE
        second = mine.but(receiptId="0" * 32)
        assert console.take(an_envelope(second)).result is Result.STORED
        assert console.refused(refused_id)["history"]
        for take in (console.take, console.refuse):
            with pytest.raises(MissingRightsError):
                take(an_envelope(other))
    owner = Door(as_role())
    assert {row["id_pa"] for table in (tables.receipt, tables.refused) for row in owner.rows(table)} == {EC}
    assert len(owner.rows(tables.outbox)) == 3
    with store.transaction(owner.engine) as connection:
        deliveries.register(connection, "erp", "webhook", position=0, at=NOW)
        for number, ec in enumerate((EC, OTHER_EC), start=1):
            row = {"number": number, "id_pa": ec, "receipt_id": "x", "revision": 1, "numbered_at": NOW}
            connection.execute(insert(tables.outgoing).values(row))
            row = {"destination": "erp", "number": number, "state": "failed", "attempts": 9, "next_attempt_at": NOW}
            connection.execute(insert(tables.delivery).values(row))
    with limits.limited((EC,)), store.transaction(console.engine) as connection:
        assert [row.number for row in delivery_list.list_deliveries(connection, "erp")] == [1]
        assert delivery_list.again_failed(connection, "erp", at=NOW, limit=9) == 1
        assert deliveries.pause(connection, "erp", "test")
        assert deliveries.resume(connection, "erp")
        assert files.open_files(connection, "erp") == []
    assert {row["number"]: row["state"] for row in owner.rows(tables.delivery)} == {1: "open", 2: "failed"}


def test_the_server_goes_on(owner_url, as_role):
    """The station's role is planned as the owner is: a policy that shows all rows leaves nothing in the plan."""
    statement = re.sub(r"%\([^)]+\)s", "NULL", read_sql("save_receipt"))
    plans = []
    for role in (None, APP):
        with psycopg.connect(owner_url if role is None else url_of(owner_url, role)) as connection:
            plans.append(list(connection.execute(f"EXPLAIN (COSTS OFF) {statement}")))
    assert plans[0] == plans[1]
    app = Door(as_role(APP))
    for ec in (EC, OTHER_EC):
        request = a_request(idPA=ec, fiscalCode=ec)
        assert app.take(an_envelope(request)).result is Result.STORED
        assert app.take(an_envelope(request)).result is Result.DUPLICATE
    store.check_schema(app.engine)


def test_limits(owner_url, as_role, tmp_path):
    """Whether a role is limited can be asked; the console's finding says so where it is not."""
    for role, limited in ((None, False), (APP, False), (CONSOLE, True)):
        with store.transaction(as_role(role), readonly=True) as connection:
            assert row_security.rls_limits(connection) is limited
            assert missing_rights(connection, console=role == CONSOLE) == []
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute("ALTER TABLE refused DISABLE ROW LEVEL SECURITY")
        owner.execute(f"REVOKE UPDATE ON refused FROM {CONSOLE}")
        with store.transaction(as_role(CONSOLE), readonly=True) as connection:
            assert not row_security.rls_limits(connection)
        checked = {"STATION_CONSOLE_DATABASE_URL": url_of(owner_url, CONSOLE)}
        done = forked.run(["check"], environment(owner_url, **checked), tmp_path)
        assert done.returncode == 1
        lacks = f"the role lacks UPDATE on refused: the owner of the tables grants it with `station grants {CONSOLE}"
        assert lacks in done.stdout
        grant(owner, CONSOLE, console=True)
        assert forked.run(["check"], environment(owner_url, **checked), tmp_path).returncode == 0
        owner.execute(f"CREATE POLICY mine ON journal TO {CONSOLE} USING (true)")
    with store.transaction(as_role(CONSOLE), readonly=True) as connection:
        assert not row_security.rls_limits(connection)


@pytest.mark.parametrize(("role", "ecs", "told"), [(CONSOLE, EC, False), (APP, EC, True), (APP, "*", False)])
def test_finding(owner_url, tmp_path, role, ecs, told):
    """`station check --production` tells of a console whose role is not limited, where users have ECs of their own."""
    config = f'[console]\ndatabase_url = "{url_of(owner_url, role)}"\n[[grant]]\nuser = "anna"\nrole = "reader"\n'
    (tmp_path / "station.toml").write_text(f'{config}ecs = ["{ecs}"]\n')
    settings = store_settings(tmp_path / "station.toml", owner_url)
    engine = store.connect(owner_url)
    codes = [finding.name for finding in findings(settings, engine)]
    engine.dispose()
    assert ("row_level_security_off" in codes) is told


def store_settings(file, url):
    from station.config import load

    return load(file, environ={"STATION_DATABASE_URL": url})


def test_a_role_without_policy(owner_url, as_role, tmp_path):
    """A role that row-level security hides everything from is told so at its start, with the command that helps."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        for statement in grants(OTHER)[:-1]:
            owner.execute(statement)
        with pytest.raises(MissingRightsError, match=f"row-level security.*station migrate --grant {OTHER}"):
            store.check_schema(as_role(OTHER))
        done = forked.run(["check"], environment(url_of(owner_url, OTHER)), tmp_path)
        assert done.returncode == 1
        assert f"station migrate --grant {OTHER}" in done.stdout + done.stderr
        done = forked.run(["serve"], environment(url_of(owner_url, OTHER)), tmp_path)
        assert done.returncode != 0
        assert f"station migrate --grant {OTHER}" in done.stdout + done.stderr
        grant(owner, OTHER)
        store.check_schema(as_role(OTHER))
        # The console's role is none for the station; its own start is another.
        with pytest.raises(MissingRightsError):
            store.check_schema(as_role(CONSOLE))
        store.check_schema(as_role(CONSOLE), limited=True)


def test_turned_on_later(owner_url, as_role):
    """Roles that had their rights before row-level security was turned on see all rows afterwards."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        for table in row_security.LIMITED:
            owner.execute(f"ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY")
            owner.execute(f"DROP POLICY station_all_{APP} ON {table.name}")
        owner.execute(f"GRANT SELECT ON receipt TO {OTHER}")
        store.check_schema(as_role(APP))
        grant(owner, CONSOLE, console=True)
        store.check_schema(as_role(APP))
        with store.transaction(as_role(OTHER), readonly=True) as connection:
            assert row_security.hidden_tables(connection) == []


def test_forgotten_grants(owner_url, as_role):
    """A new table without rights for the station's role, and with row-level security: pushes go on, and it is told."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(f"REVOKE ALL ON console_access FROM {APP}")
        owner.execute(f"DROP POLICY station_all_{APP} ON console_access")
        grant(owner, CONSOLE, console=True)
    app = Door(as_role(APP))
    store.check_schema(app.engine)
    assert app.take(an_envelope(a_request(idPA=EC, fiscalCode=EC))).result is Result.STORED
    with store.transaction(app.engine, readonly=True) as connection:
        assert missing_rights(connection) == ["SELECT on console_access", "INSERT on console_access"]


def test_the_console_starts(owner_url, tmp_path):
    """With its own role, once that has all its rights; else it says which command helps, and names its database."""
    port = free_port()
    file, log_file = tmp_path / "console.toml", tmp_path / "console.log"
    text = f'[console]\nlisten = "127.0.0.1:{port}"\nworkers = 1\n[[grant]]\nuser = "anna"\necs = ["*"]\n'
    file.write_text(text)
    environ = environment(url_of(owner_url, APP), STATION_CONSOLE_DATABASE_URL=url_of(owner_url, CONSOLE))
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(f"REVOKE SELECT ON console_session FROM {CONSOLE}")
        done = forked.run(["-c", str(file), "console"], environ, tmp_path)
        assert done.returncode == 1
        for told in (f"station grants {CONSOLE} --console", "SELECT on console_session", "(console.database_url)"):
            assert told in done.stderr
        grant(owner, CONSOLE, console=True)
    process = forked.start(["-c", str(file), "console"], environ, tmp_path, log_file, log_file)
    try:
        wait_for_answer(port, process, log_file)
        assert httpx.get(f"http://127.0.0.1:{port}/ready").text == "ready\n"
    finally:
        process.terminate()
        process.wait(30)


def test_again(owner_url):
    """Granted again, nothing waits for the locks of a push that is under way, nor makes one wait."""
    with psycopg.connect(owner_url) as push, psycopg.connect(owner_url, autocommit=True) as owner:
        for table in row_security.LIMITED:
            push.execute(f"LOCK TABLE {table.name} IN ROW EXCLUSIVE MODE")
        owner.execute("SET lock_timeout = 1")
        before = owner.execute("SELECT oid FROM pg_policy ORDER BY oid").fetchall()
        grant(owner, CONSOLE, console=True)
        grant(owner, APP)
        assert owner.execute("SELECT oid FROM pg_policy ORDER BY oid").fetchall() == before


def test_refusals(owner_url, as_role):
    """Rights of PUBLIC would be cut off, and the console's role would see everything as the station's."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        with pytest.raises(psycopg.errors.RaiseException, match=f"{CONSOLE} is a role of the console"):
            grant(owner, CONSOLE)
        grant(owner, OTHER, console=True)
        owner.execute("GRANT SELECT ON receipt TO PUBLIC")
        with pytest.raises(psycopg.errors.RaiseException, match="PUBLIC has rights on receipt"):
            grant(owner, CONSOLE, console=True)
        owner.execute("REVOKE SELECT ON receipt FROM PUBLIC")
        # A slip of the operator's: pushes would be cut off.
        with pytest.raises(psycopg.errors.RaiseException, match=f"{APP} has the rights of the station"):
            grant(owner, APP, console=True)
        store.check_schema(as_role(APP))
        engine = as_role()
        with pytest.raises(ConfigError, match=f"{CONSOLE} is a role of the console"):
            store.migrate(engine, grant=[CONSOLE])
        # From the station's role to the console's, on purpose: what showed all rows is gone.
        owner.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {APP}")
        grant(owner, APP, console=True)
        left = owner.execute("SELECT count(*) FROM pg_policy WHERE polname LIKE 'station_all_%'").fetchone()
        assert left == (0,)


def test_odd_names(owner_url):
    """A role's name is a name in policies, too, however long."""
    with psycopg.connect(owner_url, autocommit=True) as owner:
        for name in ("x'; DROP TABLE receipt; --", 'y"y' * 20):
            quoted = psycopg.sql.Identifier(name)
            owner.execute(psycopg.sql.SQL("CREATE ROLE {}").format(quoted))
            try:
                for console in (True, True):
                    grant(owner, name, console=console)
                owner.execute(psycopg.sql.SQL("DROP OWNED BY {}").format(quoted))
                grant(owner, name)
            finally:
                owner.execute(psycopg.sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(quoted))
        assert owner.execute("SELECT to_regclass('receipt')").fetchone() == ("receipt",)


def test_command(owner_url, tmp_path):
    """What the command prints is what an owner runs; the two kinds of role are not one."""
    done = forked.run(["grants", CONSOLE, "--console"], environment(owner_url), tmp_path)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(owner_url, autocommit=True) as owner:
        owner.execute(done.stdout)
    assert forked.run(["grants", CONSOLE, "--console", "--purge"], environment(owner_url), tmp_path).returncode == 2
