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


def downgrade() -> None:
    for name, table, _columns, _condition in reversed(INDEXES):
        op.drop_index(name, table_name=table)
