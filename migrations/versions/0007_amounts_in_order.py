"""receipts of an amount are found in order of arrival."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_receipt_amount", table_name="receipt")
    op.create_index("ix_receipt_amount", "receipt", ["amount", "received_at"])


def downgrade() -> None:
    op.drop_index("ix_receipt_amount", table_name="receipt")
    op.create_index("ix_receipt_amount", "receipt", ["amount"])
