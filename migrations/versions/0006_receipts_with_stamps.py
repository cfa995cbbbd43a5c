"""receipts with digital stamps are found in order of arrival."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WHERE = sa.text("digital_stamp")


def upgrade() -> None:
    # The default is for servers of the version before, which go on while the new one starts; what they store with a
    # stamp `station replay --stored` marks.
    op.add_column("receipt", sa.Column("digital_stamp", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute(
        "UPDATE receipt SET digital_stamp = true WHERE EXISTS (SELECT 1 FROM transfer WHERE transfer.digital_stamp "
        "AND transfer.id_pa = receipt.id_pa AND transfer.receipt_id = receipt.receipt_id)"
    )
    place = ["received_at", "id_pa", "receipt_id"]
    op.create_index("ix_receipt_digital_stamp", "receipt", place, sqlite_where=WHERE, postgresql_where=WHERE)
    op.drop_index("ix_transfer_digital_stamp", table_name="transfer")


def downgrade() -> None:
    op.create_index(
        "ix_transfer_digital_stamp", "transfer", ["id_pa", "receipt_id"], sqlite_where=WHERE, postgresql_where=WHERE
    )
    op.drop_index("ix_receipt_digital_stamp", table_name="receipt")
    op.drop_column("receipt", "digital_stamp")
