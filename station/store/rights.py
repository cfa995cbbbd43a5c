"""The least rights of a database role on PostgreSQL, table by table."""

from sqlalchemy import Connection, Table, text
from sqlalchemy.dialects import postgresql

from station.store import conditions, tables
from station.store.row_security import hidden_tables, policies

# Beyond reading and adding rows. A receipt, a refused request and a journal entry are never deleted by the server, by
# `reconcile` or by `replay`, and the journal and the history are never changed.
_CHANGES: dict[Table, tuple[str, ...]] = {
    tables.receipt: ("UPDATE",),  # resends are counted; a replay rebuilds what follows from the document
    tables.transfer: ("UPDATE", "DELETE"),  # rebuilt by a replay
    tables.receipt_flag: ("UPDATE", "DELETE"),  # likewise
    tables.receipt_route: ("UPDATE",),
    tables.receipt_document: ("UPDATE", "DELETE"),  # its hash; DELETE where an operator replaces a receipt
    tables.refused: ("UPDATE",),  # its state
    tables.refused_history: (),
    tables.journal: (),
    tables.purge_progress: (),
    tables.reconcile_ec: ("UPDATE",),
    tables.reconcile_run: ("UPDATE", "DELETE"),  # old runs go
    tables.reconcile_item: ("UPDATE", "DELETE"),  # items that are done go
    tables.outbox: ("DELETE",),  # once it has a number
    tables.outgoing: (),
    tables.outgoing_check: ("UPDATE",),
    tables.destination: ("UPDATE",),
    tables.delivery: ("UPDATE",),
    tables.delivery_count: ("UPDATE",),
    tables.delivery_file: ("UPDATE",),
    tables.fdr_ec: ("UPDATE",),
    tables.fdr_run: ("UPDATE", "DELETE"),  # old runs go
    tables.fdr_flow: ("UPDATE",),  # listed first, then fetched; marked when a later revision is here
    tables.fdr_payment: ("UPDATE",),  # matched with its receipt
    tables.fdr_awaited: ("DELETE",),  # a transfer that was credited goes
    tables.console_session: ("UPDATE", "DELETE"),  # ended ones go
    tables.console_user: ("UPDATE", "DELETE"),
    tables.console_access: (),
}
# And for `station purge`.
_PURGES: dict[Table, tuple[str, ...]] = {
    tables.fdr_flow: ("DELETE",),  # with their payments
    tables.refused: ("DELETE",),
    tables.refused_history: ("DELETE",),
    tables.journal: ("DELETE",),
    tables.purge_progress: ("UPDATE", "DELETE"),
    tables.delivery: ("DELETE",),
    tables.console_access: ("DELETE",),
}


# For the console: what a replay, a discard, "send again", pause, resume and an acknowledged gap need; its own tables.
_CONSOLE: dict[Table, tuple[str, ...]] = {
    table: ("INSERT", *_CHANGES[table])
    for table in (
        tables.receipt, tables.transfer, tables.receipt_flag, tables.receipt_route, tables.receipt_document,
        tables.outbox, tables.journal, tables.refused, tables.refused_history, tables.delivery, tables.delivery_file,
        tables.console_session, tables.console_user, tables.console_access,
    )
} | {tables.destination: ("UPDATE",), tables.fdr_ec: ("UPDATE",)}  # fmt: skip


def grants(role: str, *, purge: bool = False, console: bool = False) -> list[str]:
    """Return the statements that give `role` the rights to run the station.

    With `purge` those to purge, too; with `console` those of the console instead, which row-level security limits to
    the ECs that each transaction names. To be run by the owner of the tables, after each migration. They revoke one
    right only: old versions of PostgreSQL let every role create tables.
    """
    preparer = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
    name = preparer.quote(role)
    statements = [
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC;",
        f"GRANT USAGE ON SCHEMA public TO {name};",
        f"GRANT SELECT ON alembic_version TO {name};",
        f"GRANT SELECT ON {conditions.console_receipt.name} TO {name};",
    ]
    for table in tables.metadata.sorted_tables:
        rights = _needed(table, console=console)
        rights += [right for right in _PURGES.get(table, ()) if purge and right not in rights]
        statements.append(f"GRANT {', '.join(rights)} ON {preparer.format_table(table)} TO {name};")
    return statements + policies(role, console=console)


def _needed(table: Table, *, console: bool = False) -> list[str]:
    return ["SELECT", *_CONSOLE.get(table, ())] if console else ["SELECT", "INSERT", *_CHANGES[table]]


def missing_rights(connection: Connection, *, console: bool = False) -> list[str]:
    """Return the rights that the role needs and lacks, such as "DELETE on transfer". The schema must fit.

    Of the station's role: also the tables of which row-level security hides rows from it.
    """
    if connection.dialect.name != "postgresql":
        return []
    query = text("SELECT has_table_privilege(:table, :right)")
    needed = [
        (right, table.name) for table in tables.metadata.sorted_tables for right in _needed(table, console=console)
    ]
    needed.append(("SELECT", conditions.console_receipt.name))
    missing = [
        f"{right} on {table}"
        for right, table in needed
        if not connection.execute(query, {"table": table, "right": right}).scalar()
    ]
    if not console and (hidden := hidden_tables(connection)):
        missing.append(f"a policy of row-level security on {', '.join(hidden)}")
    return missing


def excessive_rights(connection: Connection) -> tuple[str, list[str]]:
    """Return the connection's role, and its rights that no running station needs. Empty on SQLite."""
    if connection.dialect.name != "postgresql":
        return "", []
    query = text(
        "SELECT current_user, "
        "(SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('receipt')) AS owns, "
        "has_table_privilege(to_regclass('receipt'), 'DELETE, TRUNCATE') AS deletes, "
        "has_schema_privilege(current_schema(), 'CREATE') AS creates"
    )
    role = connection.execute(query).one()
    words = {"owns": "alter and drop the tables", "deletes": "delete receipts", "creates": "create tables"}
    return role.current_user, [word for name, word in words.items() if role._mapping[name]]
