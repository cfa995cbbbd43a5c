"""Row-level security on PostgreSQL: policies that show the console's role the rows of the ECs that it names.

A migration does not turn it on: from then on a role without a policy sees no row, and pushes would be cut off. `station
grants ROLE --console` does, and gives every role that has rights its policy.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, text
from sqlalchemy.dialects import postgresql

from station.store import tables
from station.store.limits import ALL, SETTING
from station.store.rows import read_sql

# A transaction of the console names its ECs in a setting (see `limits`), and sees their rows only. Subqueries are
# computed once for a statement, not for each row. What is not set is NULL, or empty: no row.
_ALL = f"(SELECT current_setting('{SETTING}', true)) = '{ALL}'"
_ECS = f"(SELECT string_to_array(current_setting('{SETTING}', true), ','))::text[]"
_NAMED = f"id_pa = ANY ({_ECS})"
# Tables without an EC that tell about receipts: by the order of delivery, in which only rows of these ECs are seen. Of
# a file with receipts of several ECs each of them sees that it is there.
_BY_NUMBER: dict[Table, str] = {
    tables.delivery: "EXISTS (SELECT FROM outgoing AS o WHERE o.number = delivery.number)",
    tables.delivery_file: f"(number_to < number_from AND {_ECS} <> '{{}}') OR EXISTS (SELECT FROM outgoing AS o "
    f"WHERE o.id_pa = ANY ({_ECS}) AND o.number BETWEEN number_from AND number_to)",
}
_VERSION = 1  # one more where a policy changes
_FORMAT = postgresql.dialect().identifier_preparer.format_table  # type: ignore[no-untyped-call]
LIMITED = [table for table in tables.metadata.sorted_tables if "id_pa" in table.c or table in _BY_NUMBER]

# Whether a policy lets a role see all rows: TO itself or a role that it is a member of.
_SEES_ALL = """EXISTS (
    SELECT FROM pg_policy AS p, unnest(p.polroles) AS r (role)
    WHERE p.polrelid = {table} AND p.polpermissive AND p.polcmd = '*' AND pg_get_expr(p.polqual, p.polrelid) = 'true'
    AND CASE WHEN r.role = 0 THEN true ELSE {of_role} END)"""
_SHOW_ALL = """DO $station$
DECLARE
    its regclass;
    its_role text := {role};
BEGIN
    FOREACH its IN ARRAY ARRAY[{tables}]::regclass[] LOOP
        IF EXISTS (
            SELECT FROM pg_policy, pg_roles WHERE polrelid = its AND rolname = its_role
            AND pg_roles.oid = ANY (polroles) AND pg_get_expr(polqual, polrelid) <> 'true'
        ) THEN
            RAISE EXCEPTION USING MESSAGE = its_role || ' is a role of the console (station grants --console): '
                || 'the station needs another one';
        END IF;
        IF (SELECT relrowsecurity FROM pg_class WHERE oid = its) AND NOT {sees_all} THEN
            EXECUTE 'CREATE POLICY ' || quote_ident(('station_all_' || its_role)::name) || ' ON ' || its
                || ' TO ' || quote_ident(its_role) || ' USING (true) WITH CHECK (true)';
        END IF;
    END LOOP;
END
$station$;"""


def policies(role: str, *, console: bool) -> list[str]:
    """Return the statements that show `role` all rows where row-level security is on; with `console` those that turn it
    on and limit the role. To be run by the owner of the tables, once `role` has its rights."""
    names = [_quoted(_FORMAT(table)) for table in LIMITED]
    if not console:
        sees_all = _SEES_ALL.format(table="its", of_role="pg_has_role(its_role, r.role, 'USAGE')")
        return [_SHOW_ALL.format(role=_quoted(role), tables=", ".join(names), sees_all=sees_all)]
    statements = [read_sql("limit_rows")]
    for table, name in zip(LIMITED, names, strict=True):
        shown = f"{_ALL} OR {_BY_NUMBER.get(table, _NAMED)}"
        # A look-up that found nothing is of no EC.
        written = f"id_pa IS NULL OR {shown}" if table is tables.console_access else shown
        given = map(_quoted, (role, f"station_ecs_{_VERSION}_{role}", shown, written))
        statements.append(f"CALL pg_temp.station_limit({name}, {', '.join(given)});")
    return statements


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def hidden_tables(connection: Connection) -> list[str]:
    """Return the tables of which row-level security hides rows from the role, although it may read them.

    Not those that it has no rights on: a table that a migration added is no reason to turn pushes away. Empty on
    SQLite.
    """
    if connection.dialect.name != "postgresql":
        return []
    return sorted(row.name for row in _limits(connection) if row.limits and row.reads)


def rls_limits(connection: Connection) -> bool:
    """Return whether row-level security limits the role to the ECs that a transaction names, in each table.

    False for the owner of the tables, a superuser, a role that sees all rows, and on SQLite.
    """
    return connection.dialect.name == "postgresql" and all(row.limits for row in _limits(connection))


def _limits(connection: Connection) -> Sequence[Row[Any]]:
    sees_all = _SEES_ALL.format(table="c.oid", of_role="pg_has_role(r.role, 'USAGE')")
    query = text(
        f"SELECT t.name, row_security_active(c.oid) AND NOT {sees_all} AS limits, "  # noqa: S608  (of constants)
        "has_table_privilege(c.oid, 'SELECT') AS reads "
        "FROM unnest(CAST(:names AS text[])) AS t (name) JOIN pg_class AS c ON c.oid = to_regclass(t.name)"
    )
    return connection.execute(query, {"names": [table.name for table in LIMITED]}).all()
