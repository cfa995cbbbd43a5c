"""indexes for the list filters.

What each one is for and what it costs stands in `station.store.tables`. Built without CONCURRENTLY, since migrations
run in one transaction: on a large table writing waits while this runs, and the Nodo sends again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
NARROW = [
    ("ix_receipt_flag_flag", "receipt_flag", ["flag", "id_pa", "receipt_id"]),
    ("ix_receipt_route_id_station", "receipt_route", ["id_station", "id_pa", "receipt_id"]),
]
IN_ORDER = [
    ("ix_receipt_flag_flag", "receipt_flag", ["flag", "received_at", "id_pa", "receipt_id"]),
    ("ix_receipt_route_id_station", "receipt_route", ["id_station", "received_at", "id_pa", "receipt_id"]),
    ("ix_receipt_route_id_broker_pa", "receipt_route", ["id_broker_pa", "received_at", "id_pa", "receipt_id"]),
]
INDEXES = [
    ("ix_receipt_id_pa_received_at", "receipt", ["id_pa", "received_at"], None),
    ("ix_receipt_id_psp_received_at", "receipt", ["id_psp", "received_at"], None),
    ("ix_receipt_id_broker_pa", "receipt", ["id_broker_pa", "id_station", "received_at"], None),
    ("ix_receipt_debtor_id", "receipt", ["debtor_id", "received_at"], None),
    ("ix_receipt_payer_id", "receipt", ["payer_id", "received_at"], "payer_id <> debtor_id"),
    ("ix_receipt_payment_date_time", "receipt", ["payment_date_time"], None),
    ("ix_receipt_amount", "receipt", ["amount"], None),
    ("ix_receipt_source", "receipt", ["source", "received_at"], "source <> 'push'"),
    ("ix_transfer_digital_stamp", "transfer", ["id_pa", "receipt_id"], "digital_stamp"),
]


def upgrade() -> None:
    for name, table, columns, condition in INDEXES:
        where = sa.text(condition) if condition else None
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
    for name, table, _columns in NARROW:
        op.drop_index(name, table_name=table)
    for table in ("receipt_flag", "receipt_route"):
        op.add_column(table, sa.Column("received_at", TIME, nullable=True))
        of_receipt = "SELECT r.received_at FROM receipt r WHERE r.id_pa = {0}.id_pa AND r.receipt_id = {0}.receipt_id"
        op.execute(f"UPDATE {table} SET received_at = ({of_receipt.format(table)})")  # noqa: S608  # our own names
        with op.batch_alter_table(table) as batch:
            batch.alter_column("received_at", existing_type=TIME, nullable=False)
    for name, table, columns in IN_ORDER:
        op.create_index(name, table, columns)


def downgrade() -> None:
    for name, table, _columns in reversed(IN_ORDER):
        op.drop_index(name, table_name=table)
    for table in ("receipt_flag", "receipt_route"):
        with op.batch_alter_table(table) as batch:
            batch.drop_column("received_at")
    for name, table, columns in NARROW:
        op.create_index(name, table, columns)
    for name, table, _columns, _condition in reversed(INDEXES):
        op.drop_index(name, table_name=table)
