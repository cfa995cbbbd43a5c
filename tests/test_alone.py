"""One statement that is a transaction of its own, by the driver's lower half: `store.group_commit.run_alone`."""

import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from sqlalchemy import text

from station import store
from station.errors import StoreError, StoreRejectedError
from station.receipt import Source
from station.store.group_commit import run_alone

SOON = 8.0

VALUES = [
    ("text", "perché ½ € 🧾 'x' \\x41 %(a)s", None),
    ("text", "", None),
    ("text", Source.PUSH, "push"),
    ("varchar(3)", "abc", None),
    ("json", '[["a", "1"]]', '[["a", "1"]]'),
    ("bytea", bytes(range(256)) * 300, "\\x" + bytes(range(256)).hex() * 300),
    ("bytea", b"", "\\x"),
    ("boolean", True, "true"),
    ("boolean", False, "false"),
    ("smallint", -32768, "-32768"),
    ("bigint", 2**63 - 1, str(2**63 - 1)),
    ("numeric(12, 2)", Decimal("9999999999.99"), "9999999999.99"),
    ("numeric(12, 2)", Decimal("1E+3"), "1000.00"),
    ("date", date(1, 1, 1), "0001-01-01"),
    ("timestamptz", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), "9999-12-31 23:59:59.999999+00"),
    ("timestamptz", datetime(2026, 3, 29, 2, 30, tzinfo=timezone(timedelta(hours=2))), "2026-03-29 00:30:00+00"),
]


@pytest.fixture(params=[True, False], ids=["prepared", "not prepared"])
def engine(request, postgres_url):
    engine = store.connect(postgres_url, pool_size=1, prepare=request.param)
    yield engine
    engine.dispose()


def alone(engine, statement, **parameters):
    return run_alone(engine, statement, parameters, key=("a",), until=time.monotonic() + SOON)


@pytest.mark.parametrize(("kind", "value", "expected"), VALUES)
def test_values_arrive_as_they_are(engine, kind, value, expected):
    same = "true" if kind == "json" else "(a = a)::text"  # which json knows nothing of
    with store.transaction(engine) as connection:
        connection.execute(text(f"CREATE TABLE arrived (a {kind}, n int)"))
    try:
        for number in (1, 2):
            insert = f"INSERT INTO arrived VALUES (%(a)s, %(n)s) RETURNING a::text || '|' || {same}"
            assert alone(engine, insert, a=value, n=number) == f"{value if expected is None else expected}|true"
        assert alone(engine, "INSERT INTO arrived VALUES (%(a)s, %(n)s) RETURNING n::text", a=None, n=3) == "3"
        assert alone(engine, "SELECT count(*)::text FROM arrived WHERE a IS NULL") == "1"
    finally:
        with store.transaction(engine) as connection:
            connection.execute(text("DROP TABLE arrived"))


def test_it_is_committed_and_the_connection_is_as_before(engine):
    """A transaction that comes after it on the same connection can still be given up."""
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE kept (n int)"))
    try:
        assert alone(engine, "INSERT INTO kept VALUES (%(n)s)", n=1) is None
        with pytest.raises(StoreError), store.transaction(engine) as connection:
            connection.execute(text("INSERT INTO kept VALUES (2), (1 / 0)"))
        assert alone(engine, "SELECT string_agg(n::text, ',') FROM kept") == "1"
        assert alone(engine, "SELECT n::text FROM kept WHERE n = %(n)s", n=7) is None
    finally:
        with store.transaction(engine) as connection:
            connection.execute(text("DROP TABLE kept"))


def test_a_statement_that_fails_leaves_nothing_behind(engine):
    """What the server or the driver turns away is the caller's `StoreError`; the next one goes through."""
    for statement, parameters in (
        ("SELECT 1 / %(n)s::int", {"n": 0}),  # it fails
        ("SELECT none_such()", {}),  # it cannot be prepared
        ("SELECT %(a)s::text", {"a": "a\0b"}),  # it is not sent
    ):
        for _ in range(2):
            with pytest.raises(StoreRejectedError):
                alone(engine, statement, **parameters)
        assert alone(engine, "SELECT %(a)s::text", a="x") == "x"


def test_the_commit_fails(engine):
    """The statement has returned its row by then, and still nothing is there."""
    with store.transaction(engine) as connection:
        connection.execute(text("CREATE TABLE kept (n int PRIMARY KEY, m int REFERENCES kept INITIALLY DEFERRED)"))
    try:
        with pytest.raises(StoreRejectedError):
            alone(engine, "INSERT INTO kept VALUES (1, %(m)s) RETURNING n::text", m=2)
        assert alone(engine, "SELECT count(*)::text FROM kept") == "0"
        assert alone(engine, "INSERT INTO kept VALUES (1, %(m)s) RETURNING n::text", m=1) == "1"
    finally:
        with store.transaction(engine) as connection:
            connection.execute(text("DROP TABLE kept"))


def test_the_server_forgot_the_statements(engine):
    """psycopg has it forget all where a transaction is given up after statements that psycopg prepared."""
    assert alone(engine, "SELECT %(a)s::text", a="x") == "x"
    for _ in range(10):
        with store.transaction(engine) as connection:
            connection.execute(text("SELECT 1 WHERE 1 = :n"), {"n": 1})
    with pytest.raises(StoreError), store.transaction(engine) as connection:
        connection.execute(text("SELECT 1 / 0"))
    assert alone(engine, "SELECT %(a)s::text", a="y") == "y"
    with store.transaction(engine) as connection:
        connection.execute(text("DEALLOCATE ALL"))
    assert alone(engine, "SELECT %(a)s::text", a="z") == "z"


def test_a_connection_that_is_new_knows_no_statements(engine):
    assert alone(engine, "SELECT %(a)s::text", a="x") == "x"
    engine.dispose()
    assert alone(engine, "SELECT %(a)s::text", a="y") == "y"


def test_the_server_ends_the_connection(engine):
    """It is not used again, and whoever tries again gets another one."""
    with pytest.raises(StoreError) as lost:
        alone(engine, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert lost.value.retry
    assert alone(engine, "SELECT %(a)s::text", a="x") == "x"


def test_the_answer_does_not_come_in_time(engine):
    """The connection is given up at the end of the time, and not when the server is done."""
    with pytest.raises(StoreError) as late:
        run_alone(engine, "SELECT pg_sleep(600)", {}, key=("a",), until=time.monotonic() + 0.3)
    assert "in time" in str(late.value.__cause__)  # and not the server's own limit
    assert alone(engine, "SELECT %(a)s::text", a="x") == "x"
